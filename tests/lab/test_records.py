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
from d2l_lab.records import MANIFEST, differences, mcnemar, note, permutation_test, write_json
from d2l_lab.weights import load_card, load_model

BOOK = Path(__file__).parents[2] / "book"
RESULTS = BOOK / "results"
GRIDS = sorted((BOOK / "experiments").glob("*.toml"))
FILES = sorted(RESULTS.glob("*/*-seed*.json"))
PREDICTIONS = sorted(RESULTS.glob("*/*.predictions.npy"))
WEIGHTS = sorted(RESULTS.glob("*/*.safetensors"))
STEPS = 10


def read(file):
    return json.loads(file.read_text(encoding="utf-8"))


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
    svd = config.transform.get("svd")
    of_network = (config.arch, config.head, config.batch_norm, config.resolution, svd)
    assert record["network"] == network(msgspec.json.encode(of_network))
    history = record["history"]
    assert [row["epoch"] for row in history] == list(range(1, config.epochs + 1))
    numbers = ("train_loss", "val_loss", "val_acc", "seconds", "images_per_second")
    images = config.train_size or 60_000 - config.holdout
    for row in history:
        assert row.keys() == {"epoch", *numbers}
        assert all(math.isfinite(row[key]) and row[key] >= 0 for key in numbers)
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
def network(of_network):
    """Count parameters and multiply-accumulates again, these as torch counts them."""
    arch, head, batch_norm, side, svd = msgspec.json.decode(of_network)
    shape = (1, side, side)
    net = d2l.materialize(d2l.VGG(arch, head=head, batch_norm=batch_norm), shape)
    if svd:
        net = compress.truncated_svd(net, svd)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.empty(1, *shape, device="meta"))
    macs = counter.get_total_flops() // 2
    return {"params": sum(p.numel() for p in net.parameters()), "macs": macs}


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_the_records_of_a_grid_are_whole_and_belong_to_it(path):
    grid = load_grid(path)
    for file in sorted(RESULTS.glob(f"{grid.name}/*-seed*.json")):
        assert str(BOOK.parent) not in file.read_text(encoding="utf-8"), f"{file} names a folder"
        check_record(read(file), file, grid)


def test_predictions_are_one_class_per_image():
    labels = d2l.FashionMNIST().val.targets.numpy()
    for file in PREDICTIONS:
        classes, record = np.load(file), read(file.with_suffix("").with_suffix(".json"))
        assert classes.dtype == np.uint8 and classes.max() <= 9, file
        assert len(classes) == (record["config"]["holdout"] or 10_000), file
        if not record["config"]["holdout"]:
            right = (classes == labels).mean()
            assert right == pytest.approx(record["final"]["val_acc"], abs=2e-4), file


def test_nothing_else_lies_among_the_records():
    folders = {file.parent for file in FILES}
    assert {folder.name for folder in folders} <= {path.stem for path in GRIDS}
    for folder in folders:
        there = {p for p in folder.iterdir() if p.suffix not in (".part", ".lock")}
        assert there <= {*FILES, *WEIGHTS, *PREDICTIONS}


@pytest.mark.parametrize("file", WEIGHTS, ids=lambda file: file.stem)
def test_shipped_weights_are_those_of_a_record(file):
    assert file.stat().st_size <= 2_000_000
    card = load_card(file)
    record = file.with_name(f"{card['variant']}-seed{card['seed']}.json")
    assert card.items() <= read(record).items()
    params = sum(p.numel() for p in load_model(file).parameters())
    assert params == card["network"]["params"]


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
    record = run.execute("float32")
    check_record(record, run.record, run.grid)
    return record, run.record, run.grid


WRONG = {  # what is changed, to what, and the assertion that must notice
    "experiment": ("other", "experiment"),
    "seed": (1, "seed"),
    "variant": ("b", "variant"),
    "config.lr": (0.02, "config"),
    "validated_on": ("test set", "holdout"),
    "network.params": (1, "network"),
    "network.macs": (1, "network"),
    "history.1.epoch": (3, "history"),
    "history.0.train_loss": (math.nan, "isfinite"),
    "history.0.val_acc": (100.5 / 256, "right"),
    "history.0.images_per_second": (1.0, "images_per_second"),
    "final.val_loss": (1.0, "final"),
    "final.val_acc": (257 / 256, "val_acc"),
    "wall_seconds": (1e-9, "trained"),
    "first_losses": ([0.5] * 9, "first_losses"),
    "precision": ("float16", "precision"),
    "hardware.processor": ("", "processor"),
    "versions.torch": ("", "torch"),
    "finished": ("yesterday", "finished"),
}


@pytest.mark.parametrize("place", WRONG)
def test_a_wrong_record_is_found(tiny, place):
    record, file, grid = tiny
    value, about = WRONG[place]
    inner = record = copy.deepcopy(record)
    *keys, last = [int(key) if key.isdigit() else key for key in place.split(".")]
    for key in keys:
        inner = inner[key]
    inner[last] = value
    with pytest.raises((AssertionError, ValueError)) as found:
        check_record(record, file, grid)
    assert any(about in str(entry.statement) for entry in found.traceback)


# --- the manifest ---------------------------------------------------------------------------------


def test_all_in_the_books_results_is_as_it_was_recorded():
    assert differences(RESULTS) == []


def test_a_changed_file_is_found(write, tmp_path, capsys):
    path, results = write(), tmp_path / "results"
    results.mkdir()
    (results / MANIFEST).touch()
    assert train(path) == 0
    assert differences(results) == []
    lines = (results / MANIFEST).read_text(encoding="utf-8").splitlines()
    assert lines[0].endswith("  tiny/a-seed0.json") and len(lines) == 2  # as sha256sum reads it
    run_of(path).record.unlink()
    file = run_of(path).predictions
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    changed, gone = f"changed: tiny/{file.name}", "gone: tiny/a-seed0.json"
    capsys.readouterr()
    assert main(["digests", str(results)]) == 1
    assert capsys.readouterr().out == f"{changed}\n{gone}\n"
    assert differences(results) == [changed, gone]  # asking mends nothing
    # Only what is new or gone can be mended; a change must be undone, or the run done again.
    assert main(["digests", "--mend", str(results)]) == 1
    assert differences(results) == [changed]
    file.write_bytes(content)
    write_json(results / "tiny" / "new.json", 2)
    assert differences(results) == ["new: tiny/new.json"]
    assert main(["digests", "--mend", str(results)]) == main(["digests", str(results)]) == 0
    file = results / "tiny" / "noted.json"
    write_json(file, 3)
    note({file: file.read_bytes()})
    assert differences(results) == []


# --- what readers ask of them ---------------------------------------------------------------------


def test_json_is_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "new" / "a.json"
    write_json(file, {"a": 1})
    with pytest.raises(ValueError):
        write_json(file, {"a": math.nan})
    assert read(file) == {"a": 1}
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    ("only_first", "only_second", "probability"),
    # Twice the tail of the binomial distribution, by hand: 2 * (1 + 12 + 66) / 2**12, and so on;
    # the last is near the normal distribution's, with Edwards' correction.
    [(0, 0, 1), (5, 5, 1), (2, 10, 158 / 4096), (700, 800, math.erfc(99 / 3000**0.5))],
)
def test_mcnemars_test_is_exact(only_first, only_second, probability):
    labels = np.arange(2000) % 10
    first, second = labels.copy(), labels.copy()
    second[:only_first] += 1
    first[only_first : only_first + only_second] += 1
    first[-100:], second[-100:] = 11, 12  # both wrong: no matter
    counts = mcnemar(first, second, labels)
    assert counts[:2] == (only_first, only_second)
    assert counts[2] == pytest.approx(probability, rel=5e-3)


@pytest.mark.parametrize(
    ("first", "second", "probability"),
    # By hand: of two and two dealt in six ways the outermost two, of two and one dealt in three.
    # The last have equal means, whichever way their sums are rounded.
    [
        ([0.91, 0.92], [0.93, 0.94], 2 / 6),
        ([0.91, 0.92], [0.93], 2 / 3),
        ([0.91, 0.94], [0.92, 0.93], 1),
        ([0.1, 0.7], [0.3, 0.5], 1),
    ],
)
def test_a_permutation_test_counts_all_ways(first, second, probability):
    assert permutation_test(first, second) == pytest.approx(probability)
    assert permutation_test(second, first) == pytest.approx(probability)
