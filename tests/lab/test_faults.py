"""What goes wrong loses nothing, leaves nothing half written, and is told with its true reason.

The table in book/reproducing.ipynb says what happens at each fault; the rest of it is checked in
test_train.py and tests/library (test_checkpoint.py, test_data.py).
"""

import json
import os
import random
import shutil

import numpy as np
import pytest
from nursery import Nursery
from test_train import timeless
from tiny_grid import files_below, run_of

from d2l_lab.records import MANIFEST, differences
from d2l_utils.checkpoint import read_saved

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")

# One that keeps its weights, and one that goes on from them.
GRID = '[variants.a]\n[variants.b]\nstart = "a"\n'
ENDS = ("json", "predictions.npy")
# Two epochs, predictions, a record, its two digests and its place, for each of two; weights.
RENAMES = 2 * (2 + 1 + 1 + 2 + 1) + 1
ALL = [f"results/tiny/{variant}-seed0.json" for variant in "ab"]
FINISHED = [
    "checkpoints/tiny/a-seed0.weights.pt",
    "results/SHA256SUMS",
    *(f"results/tiny/{variant}-seed0.{end}" for variant in "ab" for end in ENDS),
    "tiny.toml",
]


@pytest.fixture(scope="module")
def nursery():
    with Nursery() as nursery:
        yield nursery


@pytest.fixture
def grid(write, tmp_path):
    """Writes the grid, with a manifest beside its results, and gives its path."""
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / MANIFEST).touch()
    return write(GRID)


def train(path, **faults):
    return {"arguments": ["train", str(path), "--precision", "float32"], **faults}


def check_all_is_whole(path):
    """Assert that no file is half written, whatever has just been killed; return the records."""
    folder, records = path.parent, {}
    for name in files_below(folder):
        file = folder / name
        if name.endswith((".part", ".lock", ".toml", MANIFEST)):
            continue
        if file.suffix == ".npy":
            assert np.load(file).shape == (256,), name
        elif file.suffix == ".json":
            records[name] = file.read_bytes()
            assert json.loads(records[name])["final"], name
        elif file.read_bytes()[:1] == b"{":  # a record that stands in its checkpoint's place
            assert json.loads(file.read_bytes())["final"], name
        else:
            assert read_saved(file), name
    # What is to come may be noted already; of what is there, predictions alone may wait for theirs.
    unfinished = [name.replace(".json", ".predictions.npy") for name in ALL if name not in records]
    allowed = [f"new: {name.removeprefix('results/')}" for name in unfinished]
    found = differences(folder / "results")
    assert not [line for line in found if line not in allowed and not line.startswith("gone")]
    return records


def check_all_is_done(path, whole, kept):
    """Assert that the grid ended as it does undisturbed, and kept the records that it had."""
    folder = path.parent
    assert files_below(folder) == FINISHED
    assert differences(folder / "results") == []
    assert {name: (folder / name).read_bytes() for name in kept} == kept
    for name in FINISHED[2:-1]:
        one, other = folder / name, whole / name
        if name.endswith("json"):
            one, other = (timeless(json.loads(file.read_bytes())) for file in (one, other))
            assert one == other
        else:
            assert one.read_bytes() == other.read_bytes(), name


@pytest.fixture(scope="module")
def whole(nursery, tmp_path_factory):
    """Trains the grid undisturbed; gives its folder and the seconds that it took."""
    from tiny_grid import DEFAULTS, TOP

    folder = tmp_path_factory.mktemp("whole")
    path = folder / "tiny.toml"
    path.write_text(TOP + DEFAULTS + GRID, encoding="utf-8")
    (folder / "results").mkdir()
    (folder / "results" / MANIFEST).touch()
    (end,) = nursery.run(train(path))
    assert end["status"] == 0 and files_below(folder) == FINISHED, end["said"]
    return folder, end["seconds"]


def kill_and_go_on(nursery, path, whole, **fault):
    """Kill a run, look at what it left, and let another finish it; return whether it was killed."""
    (end,) = nursery.run(train(path, **fault))
    assert end["status"] in (0, -9), end["said"]
    kept = check_all_is_whole(path)
    begun = run_of(path).checkpoint.exists()
    (after,) = nursery.run(train(path))
    assert after["status"] == 0, after["said"]
    check_all_is_done(path, whole, kept)
    record = json.loads(run_of(path).record.read_bytes())
    if begun and "[1/2] tiny/a" in after["said"]:
        assert record["resumed"] or record["wall_seconds"] < end["seconds"], "epochs were lost"
    return end["status"] == -9


def anew(path):
    """Leave nothing but the grid and an empty manifest."""
    for folder in ("checkpoints", "results"):
        shutil.rmtree(path.parent / folder, ignore_errors=True)
    (path.parent / "results").mkdir()
    (path.parent / "results" / MANIFEST).touch()


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_killed_at_any_rename_goes_on_to_the_same_record(nursery, grid, whole, when):
    number = 1
    while kill_and_go_on(nursery, grid, whole[0], kill_at=(number, when)):
        anew(grid)
        number += 1
    assert number - 1 == RENAMES


@pytest.mark.slow
def test_a_run_killed_at_any_moment_goes_on_to_the_same_record(nursery, grid, whole):
    moments, killed = random.Random(0), 0
    for _ in range(20):
        moment = moments.random() * whole[1]
        killed += kill_and_go_on(nursery, grid, whole[0], kill_after=moment)
        anew(grid)
    assert killed >= 10, "this machine was too quick"


@pytest.mark.slow
def test_what_is_killed_again_and_again_is_done_in_the_end(nursery, grid, whole):
    kept = {}
    for when in ("before", "after") * 3:  # each time a rename further, or two
        (end,) = nursery.run(train(grid, kill_at=(2, when)))
        assert end["status"] == -9
        kept = kept | check_all_is_whole(grid)
    (end,) = nursery.run(train(grid))
    assert end["status"] == 0, end["said"]
    check_all_is_done(grid, whole[0], kept)


@pytest.mark.slow
def test_what_a_killed_process_leaves_beside_other_runs_is_tidied(nursery, grid, whole):
    """Also of a run that is not in the grid any more, and once all is recorded."""
    (end,) = nursery.run(train(grid))
    results, folder = grid.parent / "results", grid.parent / "checkpoints" / "tiny"
    left = [
        results / "SHA256SUMS.123.part",
        results / "SHA256SUMS.lock",
        results / "tiny" / "a-seed0.predictions.npy.123.part",
        results / "tiny" / "a-seed0.lock",
        folder / "gone.v1.5-seed3.weights.pt.123.part",
        folder / "gone.v1.5-seed3.pt.123.part",
    ]
    own = [results / "tiny" / "notes.part", folder / "mine.lock"]
    for file in (*left, *own):
        file.write_bytes(b"half")
    assert nursery.run(train(grid))[0]["status"] == 0
    assert not [file for file in left if file.exists()]
    assert all(file.exists() for file in own)
    for file in own:
        file.unlink()
    check_all_is_done(grid, whole[0], {})


@pytest.mark.slow
def test_what_another_process_is_writing_is_left_alone(nursery, grid):
    """The one tidies while the other, with its lock held, has a part and waits to rename it."""
    run, parts = run_of(grid), []
    slow = train(grid, kill_at=(1, "after"), pause=0)
    (end,) = nursery.run(slow)
    assert end["status"] == -9 and run.checkpoint.exists()
    part = run.checkpoint.with_name(run.checkpoint.name + ".123.part")
    part.write_bytes(b"half")
    with run.reserved():
        part.write_bytes(b"half")
        run.tidy()
        parts = files_below(grid.parent)
    assert "checkpoints/tiny/a-seed0.pt.123.part" in parts and "results/tiny/a-seed0.lock" in parts
    run.tidy()
    assert not part.exists()


@pytest.mark.slow
def test_one_runner_takes_over_from_another_that_is_killed(nursery, grid, whole):
    lock = run_of(grid).record.with_suffix(".lock")
    first, second = nursery.run(
        train(grid, kill_at=(1, "after"), pause=2), train(grid, wait_for=lock)
    )
    assert (first["status"], second["status"]) == (-9, 0), second["said"]
    check_all_is_done(grid, whole[0], {})
    assert json.loads(run_of(grid).record.read_bytes())["resumed"]


# --- no room, no memory, no permission ----------------------------------------------------------


def rarely(name, values, always):
    """Gives a test these values, all but one of them in slow tests alone."""
    marks = {value: () if value == always else pytest.mark.slow for value in values}
    return pytest.mark.parametrize(name, [pytest.param(v, marks=marks[v]) for v in values])


@rarely("renames", range(RENAMES - 1), always=5)  # the last of them needs no room
def test_a_full_disk_is_named_and_nothing_is_lost(nursery, grid, whole, renames):
    (end,) = nursery.run(train(grid, full_after=renames))
    assert end["status"] == 1
    assert "failed: [Errno 27] File too large; its disk has " in end["said"]
    assert "MiB left" in end["said"] and str(grid.parent) in end["said"]
    kept = check_all_is_whole(grid)
    assert not [name for name in files_below(grid.parent) if name.endswith((".part", ".lock"))]
    (end,) = nursery.run(train(grid))
    assert end["status"] == 0, end["said"]
    check_all_is_done(grid, whole[0], kept)


@pytest.mark.parametrize("folder", ["results/tiny", "checkpoints/tiny"])
def test_a_read_only_folder_is_named_before_anything_is_trained(nursery, grid, folder):
    folder = grid.parent / folder
    folder.mkdir(parents=True)
    folder.chmod(0o555)
    before = files_below(grid.parent)
    (end,) = nursery.run(train(grid, unprivileged=True))
    folder.chmod(0o755)
    assert end["status"] == 1
    assert "ermission" in end["said"] and str(folder) in end["said"]
    assert "accuracy" not in end["said"] and files_below(grid.parent) == before


def test_a_data_folder_without_permission_is_named(nursery, grid, tmp_path):
    data = tmp_path / "data" / "FashionMNIST" / "raw"
    data.mkdir(parents=True)
    data.chmod(0)
    (end,) = nursery.run(
        train(grid, unprivileged=True, environment={"D2L_DATA": str(tmp_path / "data")})
    )
    data.chmod(0o755)
    assert end["status"] == 2
    assert "ermission" in end["said"] and str(data) in end["said"]
    assert files_below(tmp_path) == ["results/SHA256SUMS", "tiny.toml"]


def test_a_run_that_is_out_of_memory_is_named_and_the_others_are_done(nursery, write):
    path = write("[variants.big]\nresolution = 2048\nholdout = 0\n[variants.small]\n")
    (end,) = nursery.run(train(path, memory=500_000_000))
    assert end["status"] == 1
    assert "memory" in end["said"] and "missing: tiny/big seed 0" in end["said"]
    assert run_of(path, "small").record.exists()
    assert files_below(path.parent / "checkpoints") == []


@rarely("share", [0.0, 0.3, 0.9, 0.999], always=0.9)
def test_a_truncated_checkpoint_is_named_and_left_alone(nursery, grid, whole, share):
    nursery.run(train(grid, kill_at=(1, "after")))
    checkpoint = run_of(grid).checkpoint
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(share * len(content))])
    (end,) = nursery.run(train(grid))
    assert end["status"] == 1
    assert f"{checkpoint} is damaged" in end["said"] and "missing: tiny/a seed 0" in end["said"]
    assert checkpoint.stat().st_size == int(share * len(content))
    checkpoint.unlink()
    assert nursery.run(train(grid))[0]["status"] == 0
    check_all_is_done(grid, whole[0], {})
