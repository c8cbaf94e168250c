"""Plants errors in what was recorded and counts how many the checks notice: `make mutants`.

In a copy of book/results a number, an epoch, a bit, a shape or a line of the manifest is changed,
always the same ones. The manifest must tell. Beside it is counted what the contents alone would
give away, if the error had been there when the digest was noted; the rest of a record's numbers
nothing but another run of the training could tell.
"""

import json
import random
import re
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import safetensors.torch
import test_records

from d2l_lab.grid import load_grid
from d2l_lab.records import MANIFEST, differences


def a_number(content, rng):
    numbers = re.finditer(rb'^ *(?:"\w+": )?(-?\d[\d.e-]*)', content, re.MULTILINE)
    digits = [i for found in numbers for i in range(*found.span(1)) if content[i] in b"012345678"]
    place = rng.choice(digits)
    return content[:place] + bytes([content[place] + 1]) + content[place + 1 :]


def an_epoch(content, rng):
    record = json.loads(content)
    del record["history"][rng.randrange(len(record["history"]))]
    return json.dumps(record, indent=1).encode()


def a_bit(content, rng):
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def a_shape(content, rng):
    """Drops the last number of a tensor; the file stays whole, its card included."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    weights = safetensors.torch.load(content)
    name = rng.choice([name for name, tensor in weights.items() if tensor.dim()])
    weights[name] = weights[name].flatten()[:-1].clone()
    return safetensors.torch.save(weights, header["__metadata__"])


def a_line(content, rng):
    lines = content.splitlines(keepends=True)
    del lines[rng.randrange(len(lines))]
    return b"".join(lines)


PLANTS = [  # what is changed, in which files, how often
    (a_number, "*/*-seed*.json", 12),
    (an_epoch, "low_resolution*/*-seed*.json", 4),
    (a_number, "speed/*.json", 4),
    (a_bit, "*/*.npy", 4),
    (a_bit, "*/*.safetensors", 4),
    (a_shape, "*/*.safetensors", 2),
    (a_bit, MANIFEST, 4),
    (a_line, MANIFEST, 2),
]


def contents(file):
    """Asks of a file what the tests of records ask, but for the manifest."""
    if file.suffix == ".npy":
        test_records.PREDICTIONS = [file]
        test_records.test_predictions_are_one_class_per_image()
    elif file.suffix == ".safetensors":
        test_records.test_shipped_weights_are_those_of_a_record(file)
    elif "-seed" in file.name:
        grid = load_grid(test_records.BOOK / f"experiments/{file.parent.name}.toml")
        test_records.check_record(test_records.read(file), file, grid)


def notices(check, what):
    try:
        return bool(check(what))
    except Exception:  # whatever it stumbles over, it does not pass
        return True


def main():
    rng, alive = random.Random(0), 0
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(test_records.RESULTS, Path(folder) / "results")
        for change, where, count in PLANTS:
            seen = Counter()
            for file in rng.choices(sorted(copy.glob(where)), k=count):
                right = file.read_bytes()
                assert not notices(differences, copy) and not notices(contents, file)
                file.write_bytes(change(right, rng))
                seen["caught"] += notices(differences, copy)
                seen["alone"] += notices(contents, file)
                file.write_bytes(right)
            caught, alone = seen["caught"], seen["alone"]
            alive += count - caught
            what = f"{change.__name__.replace('_', ' ')} in {where}"
            print(f"{what}: {count} planted, {caught} caught, {alone} by the contents alone")
    print(f"recorded data: {sum(n for *_, n in PLANTS)} planted, {alive} alive")


if __name__ == "__main__":
    main()
