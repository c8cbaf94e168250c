"""Wrong grids are refused whole; runs are recorded, resumed and replayed to the same numbers."""

import dataclasses
import functools
import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import d2l_utils as d2l
from d2l_lab import __main__ as experiment
from d2l_lab.__main__ import main
from d2l_lab.grid import Config, load_grid
from d2l_lab.records import load_records
from d2l_lab.run import Run, replay
from d2l_utils import data as data_module
from d2l_utils import fashion_mnist_files

TOP = """question = "Does it run?"
seeds = [0]
"""
DEFAULTS = """[defaults]
arch = [[1, 4]]
head = [8]
resolution = 4
epochs = 2
batch_size = 64
lr = 0.1
train_size = 256
holdout = 256
"""
VARIANT = "[variants.a]\n"
RECIPE = """momentum = 0.9
schedule = "one_cycle"
augment = ["flip", "crop"]
label_smoothing = 0.1
batch_norm = true
"""


@pytest.fixture(autouse=True)
def read_once(monkeypatch):
    """Unpacking the data set takes longer than these runs."""
    monkeypatch.setattr(data_module, "load", LOAD)


LOAD = functools.cache(fashion_mnist_files.load)


@pytest.fixture(autouse=True)
def kept(monkeypatch):
    """Counts how often memory is to be kept; the process of the tests goes on as it is."""
    calls = []
    monkeypatch.setattr(experiment, "keep_memory", lambda: calls.append(0))
    return calls


@pytest.fixture
def write(tmp_path):
    """Writes a grid and gives its path."""

    def write(variants=VARIANT, top=TOP, defaults=DEFAULTS, name="tiny"):
        path = tmp_path / f"{name}.toml"
        path.write_text(top + defaults + variants, encoding="utf-8")
        return path

    return write


def run_of(path, variant="a", seed=0):
    return Run(load_grid(path), variant, seed, *experiment.default_folders(path))


def record_of(path, variant="a", seed=0):
    return json.loads(run_of(path, variant, seed).record.read_text())


def files_below(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# --- wrong grids ------------------------------------------------------------------------------

# What is wrong has the mark of the line that the message must name.
MARK = "  # here"
IMPOSSIBLE_NETWORKS = {
    "no block": ("arch = []", "arch is \\[\\]; it must be a list of blocks"),
    "no pair": ("arch = [1, 4]", "a block is 1; it must be a pair"),
    "no convolution": ("arch = [[0, 4]]", "num_convs is 0; it must be at least 1"),
    "half a channel": ("arch = [[1, 4.5]]", "out_channels is 4.5; it must be a whole number"),
    "even kernel": ("arch = [[[2], 4]]", "2 is no part of a VGG block"),
    "too many channels": (f"arch = [[1, {10**30}]]", ".*Overflow"),
    "no such head": ('head = "gpa"', "head is 'gpa'; it must be a list of widths, or \"gap\""),
    "no width": ("head = [8, 0]", "a width of head is 0; it must be at least 1"),
    "too small": ("resolution = 1", "images of 1 x 1 are too small for this VGG"),
}
WRONG_VALUES = {
    "unknown": ("learning_rate = 0.1", "unknown key 'learning_rate'; known are arch, head, "),
    "text for a number": ('lr = "0.1"', "lr is '0.1'; it must be a number"),
    "number for a text": ("schedule = 1", "schedule is 1; it must be a text"),
    "fraction for a whole number": ("epochs = 1.5", "epochs is 1.5; it must be a whole number"),
    "bool for a whole number": ("epochs = true", "epochs is True; it must be a whole number"),
    "bool for a number": ("lr = true", "lr is True; it must be a number"),
    "number for a bool": ("batch_norm = 1", "batch_norm is 1; it must be true or false"),
    "number for a list": ("arch = 1", "arch is 1; it must be a list"),
    "text for a list": ('augment = "flip"', "augment is 'flip'; it must be a list"),
    "number for a head": ("head = 1", "head is 1; it must be a list or a text"),
    "list for a table": ("transform = [1]", "transform is \\[1\\]; it must be a table"),
    "not a number": ("lr = nan", "lr is nan; it must be finite and above 0"),
    "not finite": ("lr = inf", "lr is inf; it must be finite and above 0"),
    "zero": ("lr = 0", "lr is 0; it must be finite and above 0"),
    "no temperature": ("temperature = 0.0", "temperature is 0.0; it must be finite and above 0"),
    "negative": ("weight_decay = -1e-4", "weight_decay is -0.0001; it must be finite and at leas"),
    "no batch": ("batch_size = 0", "batch_size is 0; it must be finite and at least 1"),
    "no pixel": ("resolution = 0", "resolution is 0; it must be finite and at least 1"),
    "negative epochs": ("epochs = -1", "epochs is -1; it must be finite and at least 0"),
    "above": ("momentum = 1.5", "momentum is 1.5; it must be from 0 to 1"),
    "nan in a range": ("label_smoothing = nan", "label_smoothing is nan; it must be from 0 to 1"),
    "more images than there are": ("train_size = 60001", "train_size is 60001; it must be from 0"),
    "all held out": ("holdout = 60000", "holdout is 60000; it must be from 0 to 59999"),
    "no such schedule": ('schedule = "cosine"', "schedule is 'cosine'; it must be one of"),
    "no such augmentation": ('augment = ["mixup"]', "augment is \\['mixup'\\]; it takes any of"),
    "no list of augmentations": ("augment = [[1]]", "augment is \\[\\[1\\]\\]; it takes any of"),
}
WRONG_CONFIGS = {
    "together more images than there are": (
        f"train_size = 50001{MARK}\nholdout = 10000",
        "train_size 50,001 and holdout 10,000 are together more than the 60,000",
    ),
    "nothing to evaluate": (f"epochs = 0{MARK}", "epochs is 0, but there is no start"),
    "unknown start": (f'start = "c"{MARK}', "start is 'c', which is no variant of this grid"),
    "unknown teacher": (f'teacher = "c"{MARK}', "teacher is 'c', which is no variant of this grid"),
    "itself": (f'start = "a"{MARK}', "start is 'a', which itself needs 'a' to be trained first"),
    "a circle of two": (
        f'start = "b"{MARK}\n[variants.b]\nstart = "a"',
        "start is 'b', which itself needs 'a'",
    ),
    "a circle of three": (
        f'start = "b"{MARK}\n[variants.b]\nteacher = "c"\n[variants.c]\nstart = "a"',
        "start is 'b', which itself needs 'a'",
    ),
    "a transformed start": (
        f'start = "b"{MARK}\n[variants.b]\nstart = "c"\ntransform = {{svd = [2]}}\n[variants.c]',
        "start is 'b', which is transformed; only plain networks will do",
    ),
    "a start without this seed": (
        f'seeds = [0, 7]\nstart = "b"{MARK}\n[variants.b]',
        "start is 'b', which has no seed 7 as 'a' has",
    ),
    "a start that has seen what is held out": (
        f'start = "b"{MARK}\n[variants.b]\nholdout = 255',
        "start is 'b', which is trained on images that are held out here",
    ),
    "a start of another architecture": (
        f'arch = [[2, 4]]{MARK}\nstart = "b"\n[variants.b]',
        "arch is \\[\\[2, 4\\]\\], but \\[\\[1, 4\\]\\] in 'b', from which it starts",
    ),
    "a start with another head": (
        f'start = "b"\nhead = "gap"{MARK}\n[variants.b]',
        "head is gap, but \\[8\\] in 'b'",
    ),
    "a start at another resolution": (
        f'start = "b"\nresolution = 8{MARK}\n[variants.b]',
        "resolution is 8, but 4 in 'b'",
    ),
    "a teacher of other images": (
        f'resolution = 8\nteacher = "b"{MARK}\n[variants.b]',
        "teacher 'b' cannot take images of 8: ",
    ),
    "unknown transform": (
        f'start = "b"\ntransform = {{pca = 3}}{MARK}\n[variants.b]',
        "transform is {'pca': 3}; it must be one of",
    ),
    "two transforms": (
        f'start = "b"\ntransform = {{svd = [2], prune = 0.5}}{MARK}\n[variants.b]',
        "it must be one of",
    ),
    "nothing to transform": (
        f"transform = {{svd = [2]}}{MARK}",
        "there is a transform, but no start to transform",
    ),
    "a rank above the layer's": (
        f'start = "b"\ntransform = {{svd = [9]}}{MARK}\n[variants.b]',
        "this transform is impossible: rank 9 is not possible for a layer of 16 inputs and 8",
    ),
    "a rank too many": (
        f'start = "b"\ntransform = {{svd = [2, 2]}}{MARK}\n[variants.b]',
        "impossible: ranks is \\[2, 2\\]; it must be a list of 1 rank,",
    ),
    "no list of ranks": (
        f'start = "b"\ntransform = {{svd = 2}}{MARK}\n[variants.b]',
        "impossible: ranks is 2; it must be a list of 1 rank,",
    ),
    "nothing to split": (
        f'start = "b"\nhead = "gap"\ntransform = {{svd = [2]}}{MARK}\n[variants.b]\nhead = "gap"',
        "impossible: the model has no hidden fully connected layer",
    ),
    "nothing kept": (
        f'start = "b"\ntransform = {{prune = 0}}{MARK}\n[variants.b]',
        "impossible: keep is 0; it must be above 0",
    ),
    "a share as a text": (
        f'start = "b"\ntransform = {{prune = "4 %"}}{MARK}\n[variants.b]',
        "impossible: keep is '4 %'; it must be a number",
    ),
    "no int8": (
        f'start = "b"\nepochs = 0\ntransform = {{int8 = false}}{MARK}\n[variants.b]',
        "int8 is False; it must be true",
    ),
    "training int8": (
        f'start = "b"\ntransform = {{int8 = true}}{MARK}\n[variants.b]',
        "int8 is for inference only, so epochs must be 0, not 2",
    ),
}
WRONG_GRIDS = {
    "unknown key at the top": ({"top": f'{TOP}colour = "red"{MARK}\n'}, "unknown key 'colour'"),
    "no question": ({"top": f"question = 1{MARK}\nseeds = [0]\n"}, "question is 1; it must be a t"),
    "no seeds": ({"top": f'question = ""{MARK}\n'}, "there are no seeds; it must be a list"),
    "empty seeds": ({"top": f"seeds = []{MARK}\n"}, "seeds is \\[\\]; it must be a list"),
    "one seed": ({"top": f"seeds = 3{MARK}\n"}, "seeds is 3; it must be a list"),
    "negative seed": ({"top": f"seeds = [0, -1]{MARK}\n"}, "seeds is \\[0, -1\\]; it must be"),
    "bool for a seed": ({"top": f"seeds = [true]{MARK}\n"}, "seeds is \\[True\\]; it must be"),
    "seed twice": ({"top": f"seeds = [1, 1]{MARK}\n"}, "it must be a list of different"),
    "seed too large": ({"top": f"seeds = [{2**63}]{MARK}\n"}, "seeds is .*; it must be"),
    "seeds as a default": (
        {"defaults": f"{DEFAULTS}seeds = [1]{MARK}\n"},
        "unknown key 'seeds'; known are",
    ),
    "a variant's seeds": (
        {"variants": f"{VARIANT}seeds = []{MARK}\n"},
        "seeds is \\[\\]; it must be a list",
    ),
    "no variants": ({"top": f"{MARK}\n{TOP}", "variants": ""}, "there is no table \\[variants"),
    "variants are no table": (
        {"top": f"{TOP}variants = 3{MARK}\n", "variants": ""},
        "variants is 3; it must be a table",
    ),
    "variants are a list": (
        {"variants": f"[[variants]]{MARK}\n"},
        "variants is .*; it must be a table",
    ),
    "a variant is no table": (
        {"variants": f"[variants]\na = 3{MARK}\n"},
        "a is 3; it must be a table",
    ),
    "defaults are no table": (
        {"top": f"{TOP}defaults = 3{MARK}\n", "defaults": ""},
        "defaults is 3; it must be a table",
    ),
    "no architecture": (
        {"defaults": "[defaults]\nlr = 0.1\n", "variants": f"[variants.a]{MARK}\nlr = 0.2\n"},
        "a has no arch",
    ),
    "a name with a slash": (
        {"variants": f'[variants."a/b"]{MARK}\n'},
        "'a/b' names a file; it must be of letters, digits",
    ),
    "a name with a blank": ({"variants": f'[variants."a b"]{MARK}\n'}, "'a b' names a file"),
    "a hidden name": ({"variants": f'[variants.".a"]{MARK}\n'}, "'.a' names a file"),
    "an empty name": ({"variants": f'[variants.""]{MARK}\n'}, "'' names a file"),
    "names alike": (
        {"variants": f"[variants.a]\n[variants.A]{MARK}\n"},
        "A and a would be one file where capitals do not count",
    ),
    "no TOML": ({"variants": f"[variants.a]\nlr = {MARK}\n"}, "Invalid value"),
    "a key twice": ({"variants": f"[variants.a]\nlr = 1\nlr = 2{MARK}\n"}, "Cannot overwrite"),
    "a table twice": (
        {"variants": f"[variants.a]\n[variants.a]{MARK}\n"},
        "Cannot declare .* twice",
    ),
    "nested without end": (
        {"variants": f"[variants.a]\narch = {'[' * 1500}{']' * 1500}{MARK}\n[variants.b]\n"},
        "recursion depth",
    ),
    "digits without end": (
        {"variants": f"[variants.a]\nlr = {'1' * 5000}{MARK}\n[variants.b]\n"},
        "4300 digits",
    ),
    "no end": (
        {"variants": f"[variants.a]\narch = [ {MARK}"},
        r"Invalid value \(at end of document\)",
    ),
    "after a list of several lines": (
        {
            "variants": "[variants.a]\narch = [\n    [1, 4],\n    [1, 8],\n]\n"
            f"# lr = 1\n\nlr = -1{MARK}\n"
        },
        "lr is -1",
    ),
    "in a list of several lines": (
        {"variants": f"[variants.a]\nlr = 1\narch = [{MARK}\n    [1, 4],\n    [0, 8],\n]\n"},
        "num_convs is 0",
    ),
    "a dotted key": ({"variants": f"[variants]\nb.lr = 1\na.lr = -1{MARK}\n"}, "lr is -1"),
    "a quoted key": ({"variants": f'[variants."a"]\n"lr" = -1{MARK}\n'}, "lr is -1"),
    "a name with a dot, unquoted": (
        {"variants": f"[variants.lr0.5]{MARK}\nlr = 1\n"},
        "unknown key '5'",
    ),
    "blanks in a header": ({"variants": f"[ variants . a ]\nlr = -1{MARK}\n"}, "lr is -1"),
    "the same key elsewhere": (
        {"variants": f"[variants.a]\nlr = 1\n[variants.b]\nlr = -1{MARK}\n"},
        "lr is -1",
    ),
    "a default alone too small": (
        {"defaults": DEFAULTS.replace("= 4\n", "= 1\n"), "variants": f"[variants.a]{MARK}\n"},
        "images of 1 x 1 are too small",
    ),
}


def in_variant(cases, prefix=""):
    return {
        key: ({"variants": f"[variants.a]\n{entry}{MARK}\n"}, prefix + message)
        for key, (entry, message) in cases.items()
    }


def in_defaults(cases):
    # The defaults' other entries would be there twice.
    return {
        f"{key}, as a default": (
            {
                "defaults": f"[defaults]\n{entry}{MARK}\n",
                "variants": "[variants.a]\narch=[[1,4]]\n",
            },
            message,
        )
        for key, (entry, message) in cases.items()
        if not entry.startswith("arch")
    }


CASES = (
    in_variant(WRONG_VALUES)
    | in_defaults(WRONG_VALUES)
    | in_variant(IMPOSSIBLE_NETWORKS, "this network is impossible: ")
    | {
        key: ({"variants": f"[variants.a]\n{text}\n"}, message)
        for key, (text, message) in WRONG_CONFIGS.items()
    }
    | WRONG_GRIDS
)


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_entry_is_refused_with_its_line(write, case):
    parts, message = CASES[case]
    path = write(**parts)
    lines = path.read_text().split("\n")
    (line,) = [n for n, text in enumerate(lines, 1) if text.endswith(MARK)]
    with pytest.raises(ValueError, match=message) as refusal:
        load_grid(path)
    assert str(refusal.value).startswith(f"{path}:{line}: ")


def test_a_wrong_grid_is_refused_before_anything_is_trained(write, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Run, "execute", lambda *_: pytest.fail("something is trained"))
    good = write()
    wrong = write("[variants.a]\nlr = -1\n", name="wrong")
    assert main([str(good), str(wrong)]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"{wrong}:13: lr is -1; it must be finite and above 0\n")
    assert files_below(tmp_path) == ["tiny.toml", "wrong.toml"]


def test_what_is_no_file_and_no_text_is_refused(tmp_path, capsys):
    assert main([str(tmp_path / "nothing.toml")]) == 2
    assert "nothing.toml" in capsys.readouterr().err
    (tmp_path / "latin.toml").write_bytes(b'question = "\xe9"\n')
    assert main([str(tmp_path / "latin.toml")]) == 2
    assert "latin.toml:1: this is no UTF-8 text" in capsys.readouterr().err


def test_defaults_and_seeds_of_a_grid(write):
    grid = load_grid(write('[variants.a]\nlr = 1\n[variants."b.1"]\nseeds = [3]\nhead = "gap"\n'))
    assert (grid.name, grid.question) == ("tiny", "Does it run?")
    assert grid.seeds == {"a": [0], "b.1": [3]}
    plain = {"arch": [[1, 4]], "resolution": 4, "epochs": 2, "batch_size": 64}
    plain |= {"train_size": 256, "holdout": 256}
    assert grid.variants["a"] == Config(**plain, head=[8], lr=1)
    assert grid.variants["b.1"] == Config(**plain, head="gap", lr=0.1)


def test_the_defaults_are_the_sections_recipe():
    c = Config(arch=[[1, 16]])
    assert (c.head, c.batch_norm, c.resolution, c.epochs) == ([4096, 4096], False, 224, 10)
    assert (c.batch_size, c.lr, c.momentum, c.weight_decay) == (128, 0.01, 0, 0)
    assert (c.schedule, c.label_smoothing, c.augment) == ("constant", 0, [])
    assert (c.train_size, c.holdout, c.start, c.transform, c.teacher) == (0, 0, "", {}, "")


# --- a run and its record ----------------------------------------------------------------------


def test_a_record_holds_all_that_a_claim_needs(write, tmp_path, capsys):
    path = write("[variants.a]\nhead = [8, 6]\n")
    assert main([str(path), "--precision", "float32"]) == 0
    record = record_of(path)
    assert record["experiment"] == "tiny" and record["variant"] == "a" and record["seed"] == 0
    assert Config(**record["config"]) == load_grid(path).variants["a"]
    assert record["validated_on"] == "held-out training images"
    params = (1 * 9 * 4 + 4) + (16 * 8 + 8) + (8 * 6 + 6) + (6 * 10 + 10)
    macs = 16 * 9 * 4 + 16 * 8 + 8 * 6 + 6 * 10
    assert record["network"] == {"params": params, "macs": macs}
    history = record["history"]
    assert [row["epoch"] for row in history] == [1, 2]
    keys = {"epoch", "train_loss", "val_loss", "val_acc", "seconds", "images_per_second"}
    assert all(row.keys() == keys for row in history)
    assert all(math.isfinite(value) for row in history for value in row.values())
    assert record["final"] == {key: history[-1][key] for key in ("val_loss", "val_acc")}
    assert len(record["first_losses"]) == 256 / 64
    assert record["precision"] == "float32"
    assert record["hardware"].keys() == {"device", "processor", "cores", "threads", "load_average"}
    assert record["hardware"]["threads"] == torch.get_num_threads()
    assert record["versions"]["torch"] == torch.__version__
    assert record["wall_seconds"] > sum(row["seconds"] for row in history)
    assert record["resumed"] is False
    assert time.strptime(record["finished"], "%Y-%m-%d")
    assert files_below(tmp_path) == ["results/tiny/a-seed0.json", "tiny.toml"]
    out = capsys.readouterr().out.splitlines()
    accuracy = f"{record['final']['val_acc']:.4f}"
    assert out[0] == "[1/1] tiny/a seed 0"
    assert out[1].startswith(f"  accuracy {accuracy} (held-out training images), ")
    assert out[2:] == ["1 of 1 runs are recorded"]


def test_a_run_learns_and_is_validated_on_the_test_set(write):
    variant = "[variants.a]\nholdout = 0\ntrain_size = 2048\nepochs = 3\nhead = 'gap'\nlr = 0.2\n"
    path = write(variant + RECIPE + "resolution = 8\n")
    assert main([str(path)]) == 0
    record = record_of(path)
    assert record["validated_on"] == "test set"
    assert record["final"]["val_acc"] > 0.3  # one in ten is chance
    # A network small enough to be shipped keeps its weights.
    assert run_of(path).weights.exists() and not run_of(path).checkpoint.exists()
    model, (_, data) = run_of(path).trained_model(), run_of(path).prepare()
    score = d2l.Trainer(1, precision=record["precision"]).evaluate(model, data)
    assert score == pytest.approx(record["final"], rel=1e-6)


def test_a_second_call_does_nothing(write, capsys, monkeypatch, kept):
    path = write()
    assert main([str(path)]) == 0
    assert len(kept) == 1
    before = run_of(path).record.stat().st_mtime_ns, run_of(path).record.read_bytes()
    monkeypatch.setattr(Run, "execute", lambda *_: pytest.fail("something is trained"))
    capsys.readouterr()
    assert main([str(path)]) == 0
    assert capsys.readouterr().out == "1 of 1 runs are recorded\n"
    assert len(kept) == 1
    assert before == (run_of(path).record.stat().st_mtime_ns, run_of(path).record.read_bytes())


def test_list_says_what_is_missing_and_trains_nothing(write, tmp_path, capsys, kept):
    path = write("[variants.a]\n[variants.b]\nseeds = [0, 1]\n")
    assert main([str(path), "--list"]) == 1
    missing = ["a seed 0", "b seed 0", "b seed 1"]
    expected = ["0 of 3 runs are recorded", *(f"  missing: tiny/{run}" for run in missing)]
    assert capsys.readouterr().out.splitlines() == expected
    assert files_below(tmp_path) == ["tiny.toml"] and not kept
    assert main([str(path), "--variant", "a"]) == 0
    capsys.readouterr()
    assert main([str(path), "--list"]) == 1
    accuracy = record_of(path)["final"]["val_acc"]
    expected = ["1 of 3 runs are recorded", f"  {accuracy:.4f}   tiny/a seed 0", *expected[2:]]
    assert capsys.readouterr().out.splitlines() == expected


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precision_is_recorded_and_a_replay_gives_the_same_losses(write, precision):
    path = write(f"[variants.a]\n{RECIPE}seeds = [5]\nepochs = 1\n")
    assert main([str(path), "--precision", precision]) == 0
    record = record_of(path, seed=5)
    assert record["precision"] == precision
    assert replay(run_of(path, seed=5), precision) == record["first_losses"]
    assert replay(run_of(path, seed=5), precision, steps=2) == record["first_losses"][:2]


def test_the_recipe_is_what_the_configuration_says(write):
    path = write(f"[variants.a]\n{RECIPE}weight_decay = 5e-4\n")
    run = run_of(path)
    model, data = run.prepare()
    assert (data.batch_size, data.resize, data.augment) == (64, (4, 4), ["flip", "crop"])
    assert (len(data.train), len(data.val)) == (256, 256)
    trainer = d2l.Trainer(2, precision="float32", seed=0)
    trainer.start(model, data)
    (group,) = trainer.optim.param_groups
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, True, 5e-4)
    rates = []
    for epoch in range(2):
        trainer.epoch = epoch
        for batch in trainer.train_dataloader:
            rates.append(group["lr"])
            X, y = trainer.prepare_batch(batch)
            trainer.step(batch)
    assert max(rates) == pytest.approx(0.1, rel=0.1)  # the peak lies between two of eight steps
    assert rates[0] == pytest.approx(0.1 / 25) and rates[-1] < 1e-5
    model.eval()  # no dropout: the same logits each time
    smoothed, plain = model.training_step([X, y]), model.loss(model(X), y)
    uniform = -torch.log_softmax(model(X), dim=1).mean()
    torch.testing.assert_close(smoothed, 0.9 * plain + 0.1 * uniform)


def test_failing_runs_are_named_and_the_others_are_done(write, capsys):
    path = write("[variants.bad]\nlr = 1e30\n[variants.good]\n")
    assert main([str(path)]) == 1
    out, err = capsys.readouterr()
    assert "  failed: the loss is " in err and "epoch 1, step " in err
    assert "  missing: tiny/bad seed 0" in out and "missing: tiny/good" not in out
    assert record_of(path, "good")["final"]
    assert not run_of(path, "bad").record.exists()


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), OSError("disk is full")])
def test_other_failures_leave_the_others_to_be_done_too(write, capsys, monkeypatch, error):
    path = write("[variants.bad]\n[variants.good]\n")
    write_json = experiment.write_json

    def fail_once(file, content):
        if "bad" in file.name:
            raise error
        write_json(file, content)

    monkeypatch.setattr(experiment, "write_json", fail_once)
    assert main([str(path)]) == 1
    assert f"  failed: {error}\n" in capsys.readouterr().err
    assert run_of(path, "good").record.exists()


def test_data_that_are_not_there_are_missed_once(write, capsys, monkeypatch):
    def missing(root):
        raise FileNotFoundError("Fashion-MNIST was not found")

    monkeypatch.setattr(data_module, "load", missing)
    path = write("[variants.a]\n[variants.b]\n")
    assert main([str(path)]) == 2
    assert capsys.readouterr() == ("", "Fashion-MNIST was not found\n")
    assert main([str(path), "--list"]) == 1  # it needs none


# --- stopped and gone on with -------------------------------------------------------------------


def same(record, other):
    """Compares what does not depend on time."""

    def timeless(record):
        rows = [{k: v for k, v in r.items() if "second" not in k} for r in record["history"]]
        left_out = ("wall_seconds", "resumed", "hardware", "finished")
        return {k: v for k, v in record.items() if k not in left_out} | {"history": rows}

    assert timeless(record) == timeless(other)


STOPS = ["data", "first epoch", "second epoch", "validation", "checkpoint", "weights", "record"]


@pytest.mark.parametrize("stop", STOPS)
def test_an_interrupted_run_goes_on_to_the_same_record(write, tmp_path, capsys, monkeypatch, stop):
    variant = f'[variants.a]\n{RECIPE}epochs = 3\n[variants.b]\nstart = "a"\n{RECIPE}'
    path = write(variant)
    command = [str(path), "--variant", "a", "--precision", "float32"]
    assert main([*command, "--results", str(tmp_path / "whole")]) == 0
    whole = json.loads((tmp_path / "whole/tiny/a-seed0.json").read_text())
    weights = torch.load(run_of(path).weights)
    run_of(path).weights.unlink()

    with monkeypatch.context() as patch:
        interrupt(patch, stop)
        capsys.readouterr()
        assert main(command) == 130
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "stopped; the same command goes on after the last whole epoch"
    assert "Traceback" not in err
    run = run_of(path)
    epochs_kept = {"data": 0, "first epoch": 0, "weights": 3, "record": 3}.get(stop, 1)
    assert not run.record.exists()
    assert run.checkpoint.exists() is (epochs_kept > 0)
    if epochs_kept:
        assert torch.load(run.checkpoint)["epoch"] == epochs_kept
    assert not [name for name in files_below(tmp_path) if name.endswith(".part")]

    torch.rand(3)  # what is drawn in between does not matter
    assert main(command) == 0
    record = record_of(path)
    same(record, whole)
    assert record["resumed"] is (epochs_kept > 0)
    # What was trained before the stop took its time as well.
    assert record["wall_seconds"] > sum(row["seconds"] for row in record["history"])
    again = torch.load(run.weights)
    assert all(torch.equal(again[key], weights[key]) for key in weights)
    assert not run.checkpoint.exists()
    assert not [name for name in files_below(tmp_path / "checkpoints") if "weights" not in name]


def interrupt(patch, stop):
    """Lets Ctrl-C be pressed at some point of a run of four batches an epoch."""
    if stop == "data":
        return patch.setattr(experiment, "FashionMNIST", at_call(1, data_module.FashionMNIST))
    if stop in ("first epoch", "second epoch"):
        number = {"first epoch": 3, "second epoch": 6}[stop]
        return patch.setattr(d2l.Trainer, "step", at_call(number, d2l.Trainer.step))
    if stop == "validation":
        return patch.setattr(d2l.Trainer, "_validate", at_call(2, d2l.Trainer._validate))
    if stop == "checkpoint":
        return patch.setattr(os, "replace", at_call(3, os.replace))  # settings, epoch 1, epoch 2
    if stop == "weights":
        return patch.setattr(Run, "_keep_weights", at_call(1, Run._keep_weights))
    return patch.setattr(os, "replace", at_call(6, os.replace))  # ..., epoch 3, weights, record


def at_call(number, function):
    calls = []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return function(*arguments, **options)

    return interrupted


LONG = "[variants.a]\nepochs = 100000\n"


def start(*arguments, **options):
    command = [sys.executable, "-m", "d2l_lab", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes, **options)


def wait_for(file, process, seconds=120):
    end = time.monotonic() + seconds
    while not file.exists():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.05)


def test_ctrl_c_stops_a_process_cleanly(write, tmp_path):
    path = write(LONG)
    with start(path) as process:
        wait_for(run_of(path).checkpoint, process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out.splitlines()[0] == "[1/1] tiny/a seed 0"
    assert out.splitlines()[-1] == "stopped; the same command goes on after the last whole epoch"
    assert "Traceback" not in err
    names = ["checkpoints/tiny/a-seed0.pt", "checkpoints/tiny/a-seed0.settings.json", "tiny.toml"]
    assert files_below(tmp_path) == names


KILL_AT = """
import os, signal, sys
from d2l_lab import __main__ as experiment
replace = os.replace
def kill(part, path):
    if str(path).endswith(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(part, path)
os.replace = kill
experiment.main(sys.argv[2:])
"""


@pytest.mark.parametrize("file", ["results/tiny/a-seed0.json", "a-seed0.weights.pt"])
def test_a_killed_process_leaves_nothing_half_written(write, tmp_path, file):
    path = write('[variants.a]\nhead = "gap"\n')
    command = [sys.executable, "-c", KILL_AT, file, str(path)]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    run = run_of(path)
    assert not run.record.exists() and run.checkpoint.exists()
    assert run.weights.exists() is ("results" in file)
    assert main([str(path)]) == 0  # on from the checkpoint, which holds all epochs
    assert [row["epoch"] for row in record_of(path)["history"]] == [1, 2]
    assert run.trained_model()
    assert len(load_records(tmp_path / "results/tiny")) == 1


def test_two_processes_share_a_grid(write, tmp_path):
    path = write("[variants.a]\n", top='question = ""\nseeds = [0, 1]\n')
    processes = [start(path, "--seed", seed) for seed in (0, 1)]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert out.splitlines()[-1] == "1 of 1 runs are recorded"
    assert main([str(path), "--list"]) == 0
    assert [r["seed"] for r in load_records(tmp_path / "results/tiny")] == [0, 1]


def test_what_another_process_has_done_meanwhile_is_not_done_again(write, monkeypatch, capsys):
    path = write("[variants.a]\n[variants.b]\n")
    execute, done = Run.execute, []

    def both(run, precision):
        done.append(run.variant)
        if run.variant == "a":
            execute(run.sibling("b"), precision)
        return execute(run, precision)

    monkeypatch.setattr(Run, "execute", both)
    assert main([str(path)]) == 0
    assert done == ["a"]


@pytest.mark.parametrize("change", ["label_smoothing = 0.2", "lr = 0.2", "temperature = 2.0"])
def test_a_checkpoint_of_other_settings_is_refused(write, capsys, monkeypatch, change):
    path = write("[variants.a]\n")
    with monkeypatch.context() as patch:
        interrupt(patch, "second epoch")
        assert main([str(path)]) == 130
    kept = run_of(path).checkpoint.read_bytes()
    write(f"[variants.a]\n{change}\n" if "lr" not in change else "[variants.a]\nlr = 0.2\n")
    capsys.readouterr()
    assert main([str(path)]) == 1
    key, value = change.split(" = ")
    err = capsys.readouterr().err
    assert f"was made with other settings: {key} " in err and f"now {value}; delete it" in err
    assert run_of(path).checkpoint.read_bytes() == kept
    run_of(path).checkpoint.unlink()
    assert main([str(path)]) == 0


def test_a_checkpoint_from_before_a_setting_was_there_is_gone_on_from(write, monkeypatch):
    path = write()
    with monkeypatch.context() as patch:
        interrupt(patch, "second epoch")
        assert main([str(path)]) == 130
    settings = json.loads(run_of(path)._settings.read_text())
    del settings["temperature"]
    run_of(path)._settings.write_text(json.dumps(settings))
    assert main([str(path)]) == 0
    assert record_of(path)["resumed"]


def test_damaged_settings_of_a_checkpoint_are_named(write, monkeypatch, capsys):
    path = write()
    with monkeypatch.context() as patch:
        interrupt(patch, "second epoch")
        assert main([str(path)]) == 130
    run_of(path)._settings.write_text("{")
    assert main([str(path)]) == 1
    assert "a-seed0.settings.json is damaged; delete it and " in capsys.readouterr().err


def test_records_and_checkpoints_may_share_a_folder(write, tmp_path, monkeypatch, capsys):
    path = write("[variants.a]\nepochs = 2\n")
    both = ["--results", str(tmp_path / "runs"), "--checkpoints", str(tmp_path / "runs")]
    with monkeypatch.context() as patch:
        interrupt(patch, "second epoch")
        assert main([str(path), *both]) == 130
    assert (tmp_path / "runs/tiny/a-seed0.settings.json").exists()
    with pytest.raises(FileNotFoundError, match="there are no records in "):
        load_records(tmp_path / "runs/tiny")
    assert main([str(path), *both]) == 0
    assert main([str(path), *both, "--list"]) == 0


# --- records that no longer belong to their grid -------------------------------------------------


def test_a_record_of_other_settings_is_named_and_left_alone(write, capsys):
    path = write()
    assert main([str(path)]) == 0
    before = run_of(path).record.read_bytes()
    write("[variants.a]\nlr = 0.3\nhead = [9]\n")
    capsys.readouterr()
    assert main([str(path)]) == 1
    wrong = "was made with other settings: head [8], now [9], lr 0.1, now 0.3; delete it to train"
    assert wrong in capsys.readouterr().out
    assert run_of(path).record.read_bytes() == before
    run_of(path).record.unlink()
    assert main([str(path)]) == 0


GOOD = json.dumps(dataclasses.asdict(Config(arch=[[1, 4]])))
DEEP = f'{{"config": {{"arch": {"[" * 1500}{"]" * 1500}}}}}'
DAMAGES = ["", "{}", "[]", '{"config": {"colour": 1}}', "<<<<<<< HEAD", DEEP]
DAMAGES += [f'{{"config": {GOOD}}}', f'{{"config": {GOOD}, "final": {{"val_acc": null}}}}']


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_named(write, capsys, damage):
    path = write()
    run = run_of(path)
    run.record.parent.mkdir(parents=True)
    run.record.write_text(damage)
    assert main([str(path)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "0 of 1 runs are recorded",
        f"  wrong: {run.record} is damaged; delete it to train again",
    ]


def test_a_folder_in_the_place_of_a_record_is_named(write, capsys):
    path = write()
    run_of(path).record.mkdir(parents=True)
    assert main([str(path), "--list"]) == 1
    assert f"  wrong: {run_of(path).record} cannot be read: " in capsys.readouterr().out


def test_a_record_from_before_a_setting_was_there_still_counts(write):
    path = write()
    assert main([str(path)]) == 0
    record = record_of(path)
    del record["config"]["temperature"]
    run_of(path).record.write_text(json.dumps(record))
    assert main([str(path), "--list"]) == 0


def test_json_is_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "new" / "a.json"
    experiment.write_json(file, {"a": 1})
    for wrong in ({"a": math.nan}, {"a": object()}):
        with pytest.raises((TypeError, ValueError)):
            experiment.write_json(file, wrong)
    assert json.loads(file.read_text()) == {"a": 1}
    assert files_below(tmp_path) == ["new/a.json"]


def test_records_are_loaded_in_the_order_of_their_names(write, tmp_path):
    with pytest.raises(FileNotFoundError, match="there are no records in .*tiny"):
        load_records(tmp_path / "results" / "tiny")
    path = write("[variants.b]\nepochs = 1\n[variants.a]\nepochs = 1\n")
    assert main([str(path)]) == 0
    (tmp_path / "results/tiny/a-seed0.json.77.part").write_text("{")
    assert [r["variant"] for r in load_records(tmp_path / "results" / "tiny")] == ["a", "b"]


# --- variants that build on others -------------------------------------------------------------

FAMILY = """[variants.tuned]
start = "base"
epochs = 1
lr = 0.01

[variants.as-it-is]
start = "base"
epochs = 0

[variants.svd-full]
start = "base"
transform = {svd = [8]}
epochs = 0

[variants.svd-2-tuned]
start = "base"
transform = {svd = [2]}
epochs = 1

[variants.pruned]
start = "base"
transform = {prune = 0.1}
epochs = 0

[variants.pruned-tuned]
start = "base"
transform = {prune = 0.1}
epochs = 1

[variants.int8]
start = "base"
transform = {int8 = true}
epochs = 0

[variants.distilled]
head = "gap"
teacher = "base"
epochs = 1

[variants.base]
"""


def test_what_others_build_on_is_trained_first(write, tmp_path, capsys):
    path = write(FAMILY)
    assert main([str(path), "--precision", "float32"]) == 0
    started = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line[0] == "["]
    assert started[0] == "tiny/base" and len(started) == 9
    records = {r["variant"]: r for r in load_records(tmp_path / "results" / "tiny")}
    base = records["base"]
    assert records["as-it-is"]["final"] == base["final"]
    assert records["svd-full"]["final"] == pytest.approx(base["final"], abs=1e-4)
    assert records["int8"]["final"] == pytest.approx(base["final"], rel=0.05)
    for variant in ("as-it-is", "svd-full", "pruned", "int8"):
        assert records[variant]["history"] == records[variant]["first_losses"] == []
    assert records["pruned"]["final"]["val_loss"] > base["final"]["val_loss"]
    assert records["pruned-tuned"]["final"]["val_loss"] < records["pruned"]["final"]["val_loss"]
    # 16 inputs and 8 outputs at rank 2, without the weights that they take the place of
    network, split = base["network"], records["svd-2-tuned"]["network"]
    assert split["params"] - network["params"] == split["macs"] - network["macs"]
    assert split["params"] - network["params"] == 2 * (16 + 8) - 16 * 8
    for variant in ("tuned", "pruned", "int8"):
        assert records[variant]["network"] == network
    # A trained network starts where its start ended: below a new one's loss.
    assert records["tuned"]["first_losses"][0] < base["first_losses"][0]
    for variant, record in records.items():
        if record["first_losses"]:
            assert replay(run_of(path, variant), "float32") == record["first_losses"]
    assert files_below(tmp_path / "checkpoints") == [
        "tiny/base-seed0.weights.pt",
        "tiny/distilled-seed0.weights.pt",
    ]


@pytest.mark.parametrize("key", ["start", "teacher"])
def test_a_source_comes_before_what_needs_it(write, tmp_path, key):
    path = write(f'[variants.a]\n{key} = "b"\n[variants.b]\n')
    runs = experiment.runs_of(load_grid(path), tmp_path, tmp_path)
    assert [run.variant for run in runs] == ["b", "a"]


@pytest.mark.parametrize("start", ["", "small"])
def test_a_student_learns_its_teachers_logits_and_the_teacher_learns_nothing(write, start):
    path = write(
        '[variants.base]\n[variants.small]\nhead = "gap"\n'
        f'[variants.a]\nhead = "gap"\nteacher = "base"\nstart = "{start}"\n'
        "temperature = 3\nsoft_share = 0.7\n"
    )
    assert main([str(path), "--variant", "base", "--variant", "small"]) == 0
    model, data = run_of(path).prepare()
    trainer = d2l.Trainer(1, precision="float32", seed=0)
    trainer.start(model, data)
    (teacher,) = model._teacher
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    batch = next(iter(trainer.train_dataloader))
    X, y = batch
    with torch.no_grad():
        p = torch.softmax(teacher(X) / 3, dim=1)
        q = torch.softmax(model(X) / 3, dim=1)
        soft = (p * (p / q).log()).sum(dim=1).mean()
        wanted = 0.7 * 9 * soft + 0.3 * model.loss(model(X), y)
    assert float(trainer.step(batch)) == pytest.approx(float(wanted), rel=1e-5)
    assert not teacher.training and model.training
    assert all(torch.equal(teacher.state_dict()[key], before[key]) for key in before)
    assert all(p.grad is None for p in teacher.parameters())
    assert len(list(model.parameters())) == 4  # one convolution, one classifier: the student's own


def test_missing_weights_are_named_with_what_to_do(write, capsys):
    path = write('[variants.base]\n[variants.a]\nstart = "base"\n')
    only = [str(path), "--variant", "a"]
    assert main(only) == 1
    err = capsys.readouterr().err
    weights = run_of(path, "base").weights
    assert f"the weights of base with seed 0 are not on this machine ({weights}); train that" in err
    assert main([str(path), "--variant", "base"]) == 0
    kept = weights.read_bytes()
    weights.unlink()
    assert main(only) == 1
    assert f"; delete {run_of(path, 'base').record} and train that run" in capsys.readouterr().err
    for damaged in (kept[: len(kept) // 2], b"", b"weights"):
        weights.write_bytes(damaged)
        assert main(only) == 1
        assert "is damaged, or of another network than base; del" in capsys.readouterr().err
    for other in ({"net.0.0.weight": torch.zeros(2)}, [torch.zeros(2)]):
        torch.save(other, weights)
        assert main(only) == 1
        assert "is damaged, or of another network than base; del" in capsys.readouterr().err
    weights.write_bytes(kept)
    assert main(only) == 0


def test_a_bit_of_the_weights_that_flips_is_noticed(write):
    run = run_of(write('[variants.a]\nhead = "gap"\n'))
    model = run.prepare()[0]
    model.eval()(torch.zeros(1, 1, 4, 4))
    run._keep_weights(model)
    whole, good = run.weights.read_bytes(), model.state_dict()
    noticed = 0
    for place in range(0, len(whole), 7):
        run.weights.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            weights = run.trained_model().state_dict()
            assert all(torch.equal(weights[key], good[key]) for key in good)  # in the padding
        except ValueError as error:
            assert "is damaged, or of another network than a; delete" in str(error)
            noticed += 1
    assert noticed > 10


def test_weights_of_other_settings_are_not_gone_on_from(write, capsys):
    path = write('[variants.base]\n[variants.a]\nstart = "base"\n')
    assert main([str(path), "--variant", "base"]) == 0
    write('[variants.base]\nlr = 0.3\n[variants.a]\nstart = "base"\n')
    assert main([str(path), "--variant", "a"]) == 1
    assert "was made with other settings: lr 0.1, now 0.3; delete it" in capsys.readouterr().err
    assert not run_of(path).record.exists()


# --- the command ---------------------------------------------------------------------------------


def test_filters_choose_variants_and_seeds(write, capsys):
    path = write("[variants.a]\n[variants.b]\nseeds = [1, 2]\n[variants.c]\n")

    def chosen(*options):
        capsys.readouterr()
        assert main([str(path), "--list", *options]) == 1
        return [line.split("tiny/")[1] for line in capsys.readouterr().out.splitlines()[1:]]

    assert chosen() == ["a seed 0", "c seed 0", "b seed 1", "b seed 2"]
    assert chosen("--variant", "b", "--variant", "c") == ["c seed 0", "b seed 1", "b seed 2"]
    assert chosen("--seed", "0", "--seed", "2") == ["a seed 0", "c seed 0", "b seed 2"]
    assert chosen("--variant", "b", "--seed", "2") == ["b seed 2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--variant", "a", "--variant", "d"],
            "there is no variant d in these grids; there are a, b",
        ),
        (["--seed", "3"], "there is no seed 3 in these grids; there are 0, 1"),
        (
            ["--variant", "a", "--seed", "1"],
            "no run of these grids has such a variant and such a s",
        ),
    ],
)
def test_filters_that_choose_nothing_are_refused(write, capsys, options, message):
    path = write("[variants.a]\n[variants.b]\nseeds = [1]\n")
    assert main([str(path), *options]) == 2
    assert message in capsys.readouterr().err


def test_two_grids_of_one_name_are_refused(write, tmp_path, capsys):
    path = write()
    for options in ([str(path), str(path)], [str(path), str(tmp_path / "other" / "tiny.toml")]):
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / "tiny.toml").write_text(path.read_text())
        assert main([*options, "--results", str(tmp_path / "results")]) == 2
        assert "two of these grids have one name" in capsys.readouterr().err


def test_the_books_grids_write_to_the_book_from_any_folder(write, tmp_path, monkeypatch):
    grid = tmp_path / "clone" / "book" / "experiments" / "tiny.toml"
    grid.parent.mkdir(parents=True)
    write('[variants.a]\nhead = "gap"\nepochs = 1\n').rename(grid)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for folder, path in ((elsewhere, grid), (grid.parent, "tiny.toml"), (grid.parents[2], grid)):
        monkeypatch.chdir(folder)
        assert main([str(path)]) == 0
    names = ["checkpoints/tiny/a-seed0.weights.pt", "book/results/tiny/a-seed0.json"]
    assert set(files_below(grid.parents[2])) == {*names, "book/experiments/tiny.toml"}
    assert files_below(elsewhere) == []


def test_folders_can_be_named(write, tmp_path, monkeypatch):
    path = write('[variants.a]\nhead = "gap"\nepochs = 1\n')
    monkeypatch.chdir(tmp_path)
    assert main([str(path), "--results", "r", "--checkpoints", "c"]) == 0
    names = ["c/tiny/a-seed0.weights.pt", "r/tiny/a-seed0.json", "tiny.toml"]
    assert files_below(tmp_path) == names


@pytest.mark.parametrize("options", [["--precision", "float16"], ["--seed", "x"], []])
def test_what_cannot_be_an_option_is_refused(options, capsys):
    with pytest.raises(SystemExit) as refusal:
        main(["grid.toml", *options] if options else [])
    assert refusal.value.code == 2
    assert "usage: python -m d2l_lab" in capsys.readouterr().err


def test_help_reads_well():
    command = [sys.executable, "-m", "d2l_lab", "--help"]
    environment = os.environ | {"COLUMNS": "80", "NO_COLOR": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines)
    text = " ".join(done.stdout.split())
    assert text.startswith("usage: python -m d2l_lab [-h]")
    assert "Ctrl-C; the same command goes on" in text
    helps = {
        "GRID.toml": "what to train",
        "--variant NAME": "only this variant",
        "--seed N": "only this seed",
        "--precision {float32,bfloat16}": "instead of what the device is fast in",
        "--list": "train nothing",
        "--results FOLDER": "of the records",
        "--checkpoints FOLDER": "of checkpoints and weights",
    }
    for option, words in helps.items():
        assert f"{option} {words}" in text


def test_each_setting_is_described():
    described = Config.__doc__.split("Attributes:")[1]
    names = [line.split(":")[0].strip() for line in described.splitlines() if ": " in line]
    for f in dataclasses.fields(Config):
        assert f.name in names
