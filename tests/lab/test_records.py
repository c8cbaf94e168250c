"""The records of training in book/results: whole, of the grids in book/experiments, unchanged."""

import copy
import functools
import json
import math
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from tiny_grid import run_of, train
from torch.utils.flop_counter import FlopCounterMode

import d2l_utils as d2l
from d2l_lab import compress
from d2l_lab.__main__ import main
from d2l_lab.grid import Config, load_grid
from d2l_lab.records import MANIFEST, differences, mcnemar, note, write_json
from d2l_lab.weights import load_card, load_model

BOOK = Path(__file__).parents[2] / "book"
RESULTS = BOOK / "results"
GRIDS = sorted((BOOK / "experiments").glob("*.toml"))
FILES = sorted(RESULTS.glob("*/*-seed*.json"))
PREDICTIONS = sorted(RESULTS.glob("*/*.predictions.npy"))
WEIGHTS = sorted(RESULTS.glob("*/*.safetensors"))
STEPS = 10


def name(path):
    return f"{path.parent.name}/{path.stem}"


@functools.cache
def grid_of(folder):
    return load_grid(BOOK / "experiments" / f"{folder}.toml")


# --- each is whole ------------------------------------------------------------------------------


def check_record(record, file, grid):
    """Assert all that a record must be, wherever it lies."""
    variant, seed = record["variant"], record["seed"]
    assert record["experiment"] == grid.name == file.parent.name
    assert file.name == f"{variant}-seed{seed}.json"
    assert variant in grid.variants and seed in grid.seeds[variant], "its grid has no such run"
    config = grid.variants[variant]
    assert msgspec.convert(record["config"], Config) == config, "its grid has other settings"
    on_test_set = record["validated_on"] == "test set"
    assert on_test_set or record["validated_on"] == "held-out training images"
    assert on_test_set is (config.holdout == 0)
    assert record["network"] == network(msgspec.json.encode(config))
    history = record["history"]
    assert [row["epoch"] for row in history] == list(range(1, config.epochs + 1))
    numbers = ("train_loss", "val_loss", "val_acc", "seconds", "images_per_second")
    for row in history:
        assert row.keys() == {"epoch", *numbers}
        assert all(math.isfinite(row[key]) and row[key] >= 0 for key in numbers)
        assert row["seconds"] > 0
    images = config.train_size or 60_000 - config.holdout
    for row in history:
        assert row["images_per_second"] * row["seconds"] == pytest.approx(images)
    for row in (*history, record["final"]):
        right = row["val_acc"] * (config.holdout or 10_000)
        assert right == pytest.approx(round(right), abs=1e-3), "no share of the images"
        assert 0 <= row["val_acc"] <= 1 and math.isfinite(row["val_loss"])
    if history:
        assert record["final"] == {key: history[-1][key] for key in ("val_loss", "val_acc")}
    batches = -(-images // config.batch_size)
    assert len(record["first_losses"]) == (min(STEPS, batches) if config.epochs else 0)
    assert all(math.isfinite(loss) for loss in record["first_losses"])
    assert record["precision"] in ("float32", "bfloat16")
    hardware = record["hardware"]
    assert hardware["device"] and hardware["processor"] and hardware["threads"] >= 1
    assert record["versions"]["python"] and record["versions"]["torch"]
    # Older records know the time of a resumed run's last part alone, or not whether it was resumed.
    trained = 0 if record.get("resumed", True) else sum(row["seconds"] for row in history)
    assert record["wall_seconds"] > trained
    assert time.strptime(record["finished"], "%Y-%m-%d")


@functools.cache
def network(config):
    """Count parameters and multiply-accumulates again, these as torch counts them."""
    config = msgspec.json.decode(config, type=Config)
    shape = (1, config.resolution, config.resolution)
    net = d2l.VGG(config.arch, head=config.head, batch_norm=config.batch_norm)
    net = d2l.materialize(net, shape)
    if "svd" in config.transform:
        net = compress.truncated_svd(net, config.transform["svd"])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.empty(1, *shape, device="meta"))
    macs = counter.get_total_flops() // 2
    return {"params": sum(p.numel() for p in net.parameters()), "macs": macs}


@pytest.mark.parametrize("file", FILES, ids=name)
def test_a_record_is_whole_and_belongs_to_its_grid(file):
    text = file.read_text(encoding="utf-8")
    assert str(BOOK.parent) not in text, "it names a folder of the machine that it comes from"
    check_record(json.loads(text), file, grid_of(file.parent.name))


@pytest.mark.parametrize("file", PREDICTIONS, ids=name)
def test_predictions_are_one_class_per_image(file):
    classes = np.load(file)
    record = json.loads(file.with_suffix("").with_suffix(".json").read_text(encoding="utf-8"))
    assert classes.dtype == np.uint8 and classes.max() <= 9
    assert len(classes) == (record["config"]["holdout"] or 10_000)
    if not record["config"]["holdout"]:
        labels = d2l.FashionMNIST().val.targets.numpy()
        assert (classes == labels).mean() == pytest.approx(record["final"]["val_acc"], abs=2e-4)


def test_nothing_else_lies_among_the_records():
    for folder in {file.parent for file in FILES}:
        there = {p for p in folder.iterdir() if p.suffix not in (".part", ".lock")}
        assert there <= {*FILES, *WEIGHTS, *PREDICTIONS}


@pytest.mark.parametrize("file", WEIGHTS, ids=name)
def test_shipped_weights_are_those_of_a_record(file):
    assert file.stat().st_size <= 2_000_000
    card = load_card(file)
    record = file.with_name(f"{card['variant']}-seed{card['seed']}.json")
    assert card.items() <= json.loads(record.read_text(encoding="utf-8")).items()
    params = sum(p.numel() for p in load_model(file).parameters())
    assert params == card["network"]["params"]


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_a_grid_of_the_book_is_right_and_asks_a_question(path):
    assert load_grid(path).question.endswith("?")


# --- that check can fail --------------------------------------------------------------------------

TINY = """seeds = [0, 1]
defaults = {arch = [[1, 4]], head = [8], resolution = 4, epochs = 2, train_size = 640}
variants = {a = {holdout = 256, batch_size = 64}, b = {holdout = 256}}
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Gives a record that is right, its file and its grid."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.toml"
    path.write_text(TINY, encoding="utf-8")
    run = run_of(path)
    return run.execute("float32"), run.record, run.grid


def test_a_right_record_passes(tiny):
    check_record(*tiny)


WRONG = {
    "another experiment": ("experiment", lambda r: r | {"experiment": "other"}),
    "another seed": ("seed", lambda r: r | {"seed": 1}),
    "another variant": ("variant", lambda r: r | {"variant": "b"}),
    "another setting": ("config", lambda r: r | {"config": r["config"] | {"lr": 0.02}}),
    "on the test set": ("holdout", lambda r: r | {"validated_on": "test set"}),
    "on nothing": ("validated_on", lambda r: r | {"validated_on": "all images"}),
    "another network": ("network", lambda r: r | {"network": r["network"] | {"params": 1}}),
    "more work": ("network", lambda r: r | {"network": r["network"] | {"macs": 1}}),
    "too short": ("history", lambda r: r | {"history": r["history"][:-1]}),
    "too long": ("history", lambda r: r | {"history": r["history"] + r["history"][-1:]}),
    "not finite": ("isfinite", lambda r: with_row(r, train_loss=math.nan)),
    "half an image in an early epoch": ("right", lambda r: with_row(r, val_acc=100.5 / 256)),
    "in no time": ("seconds", lambda r: with_row(r, seconds=0)),
    "in less than it trained": ("trained", lambda r: r | {"wall_seconds": 1e-9}),
    "another speed": ("images_per_second", lambda r: with_row(r, images_per_second=1.0)),
    "another end": ("final", lambda r: r | {"final": r["final"] | {"val_loss": 1.0}}),
    "half an image": ("right", lambda r: with_final(r, val_acc=(100 + 0.5) / 256)),
    "more than all": ("val_acc", lambda r: with_final(r, val_acc=257 / 256)),
    "nine steps": ("first_losses", lambda r: r | {"first_losses": r["first_losses"][:9]}),
    "an unknown precision": ("precision", lambda r: r | {"precision": "float16"}),
    "no processor": ("processor", lambda r: r | {"hardware": r["hardware"] | {"processor": ""}}),
    "no version": ("torch", lambda r: r | {"versions": {"python": "3.11", "torch": ""}}),
    "no date": ("finished", lambda r: r | {"finished": "yesterday"}),
}


def with_row(record, **changes):
    record = copy.deepcopy(record)
    record["history"][0] |= changes
    return record


def with_final(record, **changes):
    record = copy.deepcopy(record)
    record["history"][-1] |= changes
    return record | {"final": record["final"] | changes}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_record_is_found(tiny, wrong):
    record, file, grid = tiny
    about, change = WRONG[wrong]
    with pytest.raises((AssertionError, ValueError)) as found:
        check_record(change(record), file, grid)
    assert any(about in str(entry.statement) for entry in found.traceback)


@pytest.mark.parametrize("key", ["experiment", "network", "final", "first_losses", "hardware"])
def test_a_record_that_lacks_something_is_found(tiny, key):
    record, file, grid = tiny
    with pytest.raises(KeyError, match=key):
        check_record({k: v for k, v in record.items() if k != key}, file, grid)


# --- the manifest ---------------------------------------------------------------------------------


def test_all_in_the_books_results_is_as_it_was_recorded():
    assert differences(RESULTS) == []


def test_a_changed_file_is_found(write, tmp_path, capsys):
    path, results = write(), tmp_path / "results"
    results.mkdir()
    (results / MANIFEST).touch()
    assert train(path) == 0
    assert differences(results) == []
    run_of(path).record.unlink()
    file = run_of(path).predictions
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    changed, gone = f"changed: tiny/{file.name}", "gone: tiny/a-seed0.json"
    capsys.readouterr()
    assert main(["digests", str(results)]) == 1
    assert capsys.readouterr().out == f"{changed}\n{gone}\n"
    # Only what is new or gone can be mended; a change must be undone, or the run done again.
    assert main(["digests", "--mend", str(results)]) == 1
    assert differences(results) == [changed]
    file.write_bytes(content)
    assert main(["digests", str(results)]) == 0


def test_the_manifest_is_one_that_sha256sum_reads(tmp_path):
    (tmp_path / MANIFEST).touch()
    for number in range(2):
        write_json(tmp_path / "grid" / f"{number}.json", number)
        file = tmp_path / "grid" / f"{number}.json"
        note({file: file.read_bytes()})
    lines = (tmp_path / MANIFEST).read_text(encoding="utf-8").splitlines()
    assert lines[1].endswith("  grid/1.json") and len(lines) == 2
    write_json(tmp_path / "grid" / "new.json", 2)
    assert differences(tmp_path) == ["new: grid/new.json"]
    differences(tmp_path, mend=True)
    assert differences(tmp_path) == []


# --- what readers ask of them ---------------------------------------------------------------------


def test_json_is_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "new" / "a.json"
    write_json(file, {"a": 1})
    for wrong in ({"a": math.nan}, {"a": object()}):
        with pytest.raises((TypeError, ValueError)):
            write_json(file, wrong)
    assert json.loads(file.read_text(encoding="utf-8")) == {"a": 1}
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    ("only_first", "only_second", "probability"),
    # Twice the tail of the binomial distribution, by hand: 2 * (1 + 12 + 66) / 2**12, and so on;
    # the last is near the normal distribution's, with Edwards' correction.
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (2, 10, 158 / 4096),
        (0, 6, 2 / 64),
        (700, 800, math.erfc(99 / 3000**0.5)),
    ],
)
def test_mcnemars_test_is_exact(only_first, only_second, probability):
    labels = np.arange(2000) % 10
    first, second = labels.copy(), labels.copy()
    second[:only_first] += 1
    first[only_first : only_first + only_second] += 1
    first[-100:] = second[-100:] = 11  # both wrong: no matter
    counts = mcnemar(first, second, labels)
    assert counts[:2] == (only_first, only_second)
    assert counts[2] == pytest.approx(probability, rel=5e-3)
