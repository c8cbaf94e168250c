"""Records of runs: one JSON file each, the predictions beside it, and a manifest of digests."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import combinations
from math import comb, fsum
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from d2l_utils.files import atomic_write

MANIFEST = "SHA256SUMS"
"""The file in a folder of results that holds the digest of each file below it.

`sha256sum --check SHA256SUMS` reads it too. Where there is one, the laboratory's commands keep it.
"""


def load_predictions(folder: str | os.PathLike, variant: str, seed: int) -> np.ndarray:
    """Return the class that a run took each validation image for, in the data set's order."""
    return np.load(Path(folder) / f"{variant}-seed{seed}.predictions.npy")


def mcnemar(first, second, labels) -> tuple[int, int, float]:
    """Compare two runs image by image: McNemar's test in its exact form.

    Of the predicted classes of both and the right ones come: how many images the first alone has
    right, how many the second alone, and the two-sided probability of a split at least as uneven
    if both were equally good.

    Source: McNemar, 1947, Psychometrika 12, 153-157.

    >>> mcnemar([1, 2, 3, 4], [1, 0, 0, 0], [1, 2, 3, 5])
    (2, 0, 0.5)
    """
    first, second, labels = (np.asarray(a) for a in (first, second, labels))
    n10 = int(((first == labels) & (second != labels)).sum())
    n01 = int(((first != labels) & (second == labels)).sum())
    n, fewer = n10 + n01, min(n10, n01)
    tail = sum(comb(n, k) for k in range(fewer + 1))
    return n10, n01, min(1.0, 2 * tail / 2**n)  # integers: no term is too small


def permutation_test(first, second) -> float:
    """Compare the means of two samples of accuracies: the permutation test, in its exact form.

    Returns the share of all ways to deal both anew in which the means differ at least as much.

    Source: Fisher, 1935, The Design of Experiments, section 21.

    >>> permutation_test([0.91, 0.92, 0.93], [0.94, 0.95, 0.96])
    0.1
    """
    both, n = [*first, *second], len(first)
    mean = fsum(both) / len(both)
    # Both means lie about the mean of all, so one of them tells how far apart they are.
    away = [abs(fsum(part) / n - mean) for part in combinations(both, n)]
    return sum(a >= away[0] - 1e-12 for a in away) / len(away)  # the first is as they came


def write_json(path: Path, content) -> None:
    """Write a JSON file whole or not at all."""
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


@contextmanager
def locked(path: Path, timeout: float = -1) -> Iterator[None]:
    """Hold the lock of this name; it is free again when this process ends, however it ends.

    If another holds it for this many seconds, filelock.Timeout is raised; -1 waits for ever.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path, timeout=timeout):
        try:
            yield
        finally:
            with suppress(OSError):  # Windows keeps an open file; filelock removes it there
                path.unlink()


def tidy(folder: Path, locks: Path) -> None:
    """Remove what killed processes have left of runs and manifests in a folder.

    Whoever writes a file holds the lock of its run or manifest, in the folder `locks`, and the
    system frees that when the process ends. So what lies under a lock that is free is left over.
    """
    for left in (*folder.glob("*.part"), *folder.glob("*.lock")):
        if owner := re.match(rf".*-seed\d+(?=\.)|{MANIFEST}(?=\.)", left.name):
            with suppress(OSError, Timeout), locked(locks / f"{owner[0]}.lock", timeout=0):
                left.unlink(missing_ok=True)


# --- the manifest -------------------------------------------------------------------------------


def note(files: dict[Path, bytes]) -> None:
    """Note the digests of what files in `<results>/<grid>` hold, if the results have a manifest.

    Noted before it is in place, a record is never without its digest, whenever this is killed.
    """
    for file, content in files.items():
        results = file.resolve().parents[1]
        if (results / MANIFEST).exists():
            with locked(results / f"{MANIFEST}.lock"):
                name = file.resolve().relative_to(results).as_posix()
                _write(results, _noted(results) | {name: _digest(content)})


def differences(results: Path, *, mend: bool = False) -> list[str]:
    """Return how the files below a folder of results differ from its manifest, one line each.

    `mend` notes new files, and forgets those that are gone; a changed file stays a difference.
    """
    files = (f for f in results.glob("*/*") if f.suffix in (".json", ".npy", ".safetensors"))
    there = {f.relative_to(results).as_posix(): _digest(f.read_bytes()) for f in files}
    noted = _noted(results)
    changed = {name for name in there.keys() & noted.keys() if there[name] != noted[name]}
    if mend:
        _write(results, there | {name: noted[name] for name in changed})
    new, gone = there.keys() - noted.keys(), noted.keys() - there.keys()
    kinds = {"changed": changed, "new": new, "gone": gone}
    return [f"{kind}: {name}" for kind, names in kinds.items() for name in sorted(names)]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _noted(results: Path) -> dict[str, str]:
    lines = (results / MANIFEST).read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split(maxsplit=1) for line in lines)}


def _write(results: Path, digests: dict[str, str]):
    lines = [f"{digest}  {name}\n" for name, digest in sorted(digests.items())]
    with atomic_write(results / MANIFEST) as part:
        part.write_text("".join(lines), encoding="utf-8")
