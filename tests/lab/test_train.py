"""Runs are recorded once, by whoever does them; what is stopped or killed goes on."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import msgspec
import pytest
import torch
from tiny_grid import RECIPE, files_below, record_of, run_of, train

import d2l_utils as d2l
from d2l_lab import run as run_module
from d2l_lab.grid import Config, load_grid
from d2l_lab.records import load_predictions
from d2l_lab.run import Run, replay
from d2l_utils import data as data_module

# --- a run and its record ----------------------------------------------------------------------


def test_a_record_holds_all_that_a_claim_needs(write, tmp_path, capsys):
    path = write("[variants.a]\nhead = [8, 6]\n")
    assert train(path, "--precision", "float32") == 0
    record = record_of(path)
    assert record["experiment"] == "tiny" and record["variant"] == "a" and record["seed"] == 0
    assert msgspec.convert(record["config"], Config) == load_grid(path).variants["a"]
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
    assert record["hardware"]["threads"] == torch.get_num_threads()
    assert record["versions"]["torch"] == torch.__version__
    assert record["wall_seconds"] > sum(row["seconds"] for row in history)
    assert record["resumed"] is False
    assert time.strptime(record["finished"], "%Y-%m-%d")
    names = ["results/tiny/a-seed0.json", "results/tiny/a-seed0.predictions.npy", "tiny.toml"]
    assert files_below(tmp_path) == names
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "[1/1] tiny/a seed 0"
    assert f"accuracy {record['final']['val_acc']:.4f} (held-out training images)" in out[1]
    assert out[2:] == ["1 of 1 runs are recorded"]


def test_a_run_learns_and_is_validated_on_the_test_set(write, tmp_path):
    variant = "[variants.a]\nholdout = 0\ntrain_size = 2048\nepochs = 3\nhead = 'gap'\nlr = 0.2\n"
    path = write(variant + RECIPE + "resolution = 8\n")
    assert train(path) == 0
    record = record_of(path)
    assert record["validated_on"] == "test set"
    assert record["final"]["val_acc"] > 0.3  # one in ten is chance
    # A network small enough to be shipped keeps its weights.
    assert run_of(path).weights.exists() and not run_of(path).checkpoint.exists()
    model, (_, data) = run_of(path).trained_model(), run_of(path).prepare()
    score = d2l.Trainer(1, precision=record["precision"]).evaluate(model, data)
    assert score == pytest.approx(record["final"], rel=1e-6)
    classes = load_predictions(tmp_path / "results/tiny", "a", 0)
    labels = torch.cat([y for _, y in data.val_dataloader()]).numpy()
    assert (classes == labels).mean() == pytest.approx(record["final"]["val_acc"])


def test_a_second_call_does_nothing(write, capsys, monkeypatch, kept):
    path = write()
    assert train(path) == 0
    before = run_of(path).record.stat().st_mtime_ns
    monkeypatch.setattr(Run, "execute", lambda *_: pytest.fail("something is trained"))
    capsys.readouterr()
    assert train(path) == 0
    assert capsys.readouterr().out == "1 of 1 runs are recorded\n"
    assert len(kept) == 1
    assert before == run_of(path).record.stat().st_mtime_ns


def test_list_says_what_is_missing_and_trains_nothing(write, tmp_path, capsys, kept):
    path = write("[variants.a]\n[variants.b]\nseeds = [0, 1]\n")
    assert train(path, "--list") == 1
    missing = ["a seed 0", "b seed 0", "b seed 1"]
    expected = ["0 of 3 runs are recorded", *(f"  missing: tiny/{run}" for run in missing)]
    assert capsys.readouterr().out.splitlines() == expected
    assert files_below(tmp_path) == ["tiny.toml"] and not kept
    assert train(path, "--variant", "a") == 0
    capsys.readouterr()
    assert train(path, "--list") == 1
    accuracy = record_of(path)["final"]["val_acc"]
    expected = ["1 of 3 runs are recorded", f"  {accuracy:.4f}   tiny/a seed 0", *expected[2:]]
    assert capsys.readouterr().out.splitlines() == expected


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precision_is_recorded_and_a_replay_gives_the_same_losses(write, precision):
    path = write(f"[variants.a]\n{RECIPE}seeds = [5]\nepochs = 1\n")
    assert train(path, "--precision", precision) == 0
    record = record_of(path, seed=5)
    assert record["precision"] == precision
    assert replay(run_of(path, seed=5), precision) == record["first_losses"]
    assert replay(run_of(path, seed=5), precision, steps=2) == record["first_losses"][:2]


def test_a_run_in_bfloat16_is_left_to_machines_that_are_fast_in_it(write, monkeypatch, capsys):
    monkeypatch.setattr(run_module, "fast_precision", lambda device: "float32")
    path = write('[variants.a]\nprecision = "bfloat16"\n[variants.b]\n')
    assert train(path) == 1
    out, err = capsys.readouterr()
    assert "asks for bfloat16" in err and "missing: tiny/a seed 0" in out
    assert record_of(path, "b")["precision"] == "float32"
    assert train(path, "--precision", "float32") == 0
    assert record_of(path, "a")["precision"] == "float32"


def test_the_recipe_is_what_the_configuration_says(write):
    run = run_of(write(f"[variants.a]\n{RECIPE}weight_decay = 5e-4\n"))
    model, data = run.prepare()
    assert (data.batch_size, data.resize, list(data.augment)) == (64, (4, 4), ["flip", "crop"])
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


def test_starts_are_scaled_and_not_drawn_anew(write):
    path = write('[variants.a]\n[variants.k]\ninit = "kaiming"\n[variants.g]\nfc_gain = 0.25\n')
    firsts = {}
    for variant in "akg":
        model, data = run_of(path, variant).prepare()
        d2l.Trainer(1, precision="float32", seed=0).start(model, data)
        firsts[variant] = [p for p in model.parameters() if p.dim() > 1]
    conv, fc, _ = firsts["a"]
    ratio = ((9 + 36) / 9) ** 0.5  # 3x3 kernels, one channel in and four out
    torch.testing.assert_close(firsts["k"][0], conv * ratio)
    torch.testing.assert_close(firsts["k"][1], fc * (24 / 16) ** 0.5)
    assert torch.equal(firsts["g"][0], conv)
    torch.testing.assert_close(firsts["g"][1], fc * 0.25 / (16 / 24) ** 0.5)


def test_failing_runs_are_named_and_the_others_are_done(write, capsys):
    path = write("[variants.bad]\nlr = 1e30\n[variants.good]\n")
    assert train(path) == 1
    out, err = capsys.readouterr()
    assert "  failed: the loss is " in err and "epoch 1, step " in err
    assert "  missing: tiny/bad seed 0" in out and "missing: tiny/good" not in out
    assert record_of(path, "good")["final"]
    assert not run_of(path, "bad").record.exists()


def test_other_failures_leave_the_others_to_be_done_too(write, capsys, monkeypatch):
    path = write("[variants.bad]\n[variants.good]\n")
    write_json = run_module.write_json

    def fail_once(file, content):
        if "bad" in file.name:
            raise MemoryError
        write_json(file, content)

    monkeypatch.setattr(run_module, "write_json", fail_once)
    assert train(path) == 1
    assert "  failed: MemoryError\n" in capsys.readouterr().err
    assert run_of(path, "good").record.exists()
    monkeypatch.undo()
    assert train(path) == 0
    assert record_of(path, "bad")["resumed"]


def test_data_that_are_not_there_are_missed_once(write, capsys, monkeypatch):
    def missing(root):
        raise FileNotFoundError("Fashion-MNIST was not found")

    monkeypatch.setattr(data_module, "load", missing)
    path = write("[variants.a]\n[variants.b]\n")
    assert train(path) == 2
    assert capsys.readouterr() == ("", "Fashion-MNIST was not found\n")
    assert train(path, "--list") == 1  # it needs none


def test_a_folder_that_takes_no_record_is_noticed_before_training(write, capsys, monkeypatch):
    monkeypatch.setattr(Run, "execute", lambda *_: pytest.fail("something is trained"))
    path = write()
    assert train(path, "--results", "/proc/results") == 1  # not even the superuser can write there
    assert "/proc/results" in capsys.readouterr().err


# --- stopped and gone on with -------------------------------------------------------------------


def timeless(record):
    """Leaves out what depends on time."""
    rows = [{k: v for k, v in r.items() if "second" not in k} for r in record["history"]]
    left_out = ("wall_seconds", "resumed", "hardware", "finished")
    return {k: v for k, v in record.items() if k not in left_out} | {"history": rows}


STOPS = {  # what was kept of three epochs
    "first epoch": 0,
    "checkpoint": 1,
    "weights": 3,
    "record": 3,
}


@pytest.mark.parametrize("stop", STOPS)
def test_an_interrupted_run_goes_on_to_the_same_record(write, tmp_path, capsys, monkeypatch, stop):
    path = write(f'[variants.a]\n{RECIPE}epochs = 3\n[variants.b]\nstart = "a"\n{RECIPE}')
    options = ["--variant", "a", "--precision", "float32"]
    assert train(path, *options, "--results", tmp_path / "whole") == 0
    whole = json.loads((tmp_path / "whole/tiny/a-seed0.json").read_text(encoding="utf-8"))
    weights = torch.load(run_of(path).weights)
    run_of(path).weights.unlink()

    with monkeypatch.context() as patch:
        interrupt(patch, stop)
        capsys.readouterr()
        assert train(path, *options) == 130
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "stopped; the same command goes on after the last whole epoch"
    assert "Traceback" not in err
    run = run_of(path)
    assert not run.record.exists()
    assert run.checkpoint.exists() is (STOPS[stop] > 0)
    assert not [name for name in files_below(tmp_path) if name.endswith((".part", ".lock"))]

    torch.rand(3)  # what is drawn in between does not matter
    assert train(path, *options) == 0
    record = record_of(path)
    assert timeless(record) == timeless(whole)
    assert record["resumed"] is (STOPS[stop] > 0)
    # What was trained before the stop took its time as well.
    assert record["wall_seconds"] > sum(row["seconds"] for row in record["history"])
    again = torch.load(run.weights)
    assert all(torch.equal(again[key], weights[key]) for key in weights)
    assert files_below(tmp_path / "checkpoints") == ["tiny/a-seed0.weights.pt"]


def interrupt(patch, stop):
    """Lets Ctrl-C be pressed at some point of a run of four batches an epoch."""
    if stop == "first epoch":
        return patch.setattr(d2l.Trainer, "step", at_call(3, d2l.Trainer.step))
    if stop == "checkpoint":
        return patch.setattr(os, "replace", at_call(2, os.replace))  # epoch 1, epoch 2
    if stop == "weights":
        return patch.setattr(Run, "_keep_weights", at_call(1, Run._keep_weights))
    return patch.setattr(run_module, "write_json", at_call(1, run_module.write_json))


def at_call(number, function):
    calls = []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return function(*arguments, **options)

    return interrupted


LONG = "[variants.a]\nepochs = 100000\n"


def start(*arguments):
    arguments = [sys.executable, "-m", "d2l_lab", "train", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(arguments, **pipes)


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
    assert files_below(tmp_path) == ["checkpoints/tiny/a-seed0.pt", "tiny.toml"]


# Kills itself before or after a file whose name ends so takes its place.
KILL_AT = """
import os, signal, sys
from d2l_lab.__main__ import main
replace, (when, end) = os.replace, sys.argv[1:3]
def kill(part, path):
    if when == "after":
        replace(part, path)
    if str(path).endswith(end):
        os.kill(os.getpid(), signal.SIGKILL)
    if when == "before":
        replace(part, path)
os.replace = kill
main(["train", *sys.argv[3:]])
"""


def killed(path, when, end):
    arguments = [sys.executable, "-c", KILL_AT, when, end, str(path)]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("end", ["seed0.json", "weights.pt"])
def test_what_a_killed_process_leaves_is_gone_on_from_and_tidied(write, tmp_path, end):
    path = write('[variants.a]\nhead = "gap"\n')
    killed(path, "before", end)
    run = run_of(path)
    assert not run.record.exists() and run.checkpoint.exists()
    assert train(path) == 0  # on from what stands in the checkpoint's place
    assert [row["epoch"] for row in record_of(path)["history"]] == [1, 2]
    assert run.trained_model()
    names = ["results/tiny/a-seed0.json", "results/tiny/a-seed0.predictions.npy", "tiny.toml"]
    assert files_below(tmp_path) == ["checkpoints/tiny/a-seed0.weights.pt", *names]


def test_a_record_that_was_deleted_to_train_again_is_trained_again(write):
    path = write()
    killed(path, "after", "seed0.json")
    assert record_of(path)["resumed"] is False
    run_of(path).record.unlink()
    assert train(path) == 0
    assert record_of(path)["resumed"] is False


def test_a_record_takes_its_place_on_another_file_system_too(write, monkeypatch):
    path, replace = write(), os.replace

    def other_device(source, target):
        if str(source).endswith(".pt"):
            raise OSError(18, "Invalid cross-device link")
        replace(source, target)

    monkeypatch.setattr(os, "replace", other_device)
    assert train(path) == 0
    assert record_of(path) and not run_of(path).checkpoint.exists()


def test_two_processes_do_each_run_once(write, tmp_path):
    path = write("[variants.a]\n[variants.b]\nstart = 'a'\n", top='question = ""\nseeds = [0, 1]\n')
    processes = [start(path) for _ in range(2)]
    begun = []
    for process in processes:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        assert out.splitlines()[-1] == "4 of 4 runs are recorded"
        begun += [line.split("] ")[1] for line in out.splitlines() if line.startswith("[")]
    assert sorted(begun) == ["tiny/a seed 0", "tiny/a seed 1", "tiny/b seed 0", "tiny/b seed 1"]
    assert not [name for name in files_below(tmp_path) if name.endswith(".lock")]


def test_a_checkpoint_of_other_settings_is_refused(write, capsys, monkeypatch):
    path = write("[variants.a]\n")
    with monkeypatch.context() as patch:
        interrupt(patch, "checkpoint")
        assert train(path) == 130
    kept = run_of(path).checkpoint.read_bytes()
    write("[variants.a]\ntemperature = 2.0\n")
    assert train(path) == 1
    assert str(run_of(path).checkpoint) in capsys.readouterr().err
    assert run_of(path).checkpoint.read_bytes() == kept
    run_of(path).checkpoint.unlink()
    assert train(path) == 0


# --- records that no longer belong to their grid -------------------------------------------------


def test_a_record_of_other_settings_is_named_and_left_alone(write, capsys):
    path = write()
    assert train(path) == 0
    before = run_of(path).record.read_bytes()
    write("[variants.a]\nlr = 0.3\nhead = [9]\n")
    capsys.readouterr()
    assert train(path) == 1
    assert "head [8], now [9], lr 0.1, now 0.3" in capsys.readouterr().out
    assert run_of(path).record.read_bytes() == before


DAMAGES = ["", "[]", '{"config": {"arch": [[1, 4]]}, "final": {"val_acc": null}}']


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_named(write, capsys, damage):
    path = write()
    run = run_of(path)
    run.record.parent.mkdir(parents=True)
    run.record.write_text(damage, encoding="utf-8")
    assert train(path) == 1
    assert f"  wrong: {run.record} is damaged" in capsys.readouterr().out


def test_a_record_from_before_a_setting_was_there_still_counts(write):
    path = write()
    assert train(path) == 0
    record = record_of(path)
    del record["config"]["temperature"]
    run_of(path).record.write_text(json.dumps(record), encoding="utf-8")
    assert train(path, "--list") == 0


# --- the command ---------------------------------------------------------------------------------


def test_filters_choose_variants_and_seeds(write, capsys):
    path = write("[variants.a]\n[variants.b]\nseeds = [1, 2]\n[variants.c]\n")

    def chosen(*options):
        capsys.readouterr()
        assert train(path, "--list", *options) == 1
        return [line.split("tiny/")[1] for line in capsys.readouterr().out.splitlines()[1:]]

    assert chosen() == ["a seed 0", "c seed 0", "b seed 1", "b seed 2"]
    assert chosen("--variant", "b", "--variant", "c") == ["c seed 0", "b seed 1", "b seed 2"]
    assert chosen("--seed", "0", "--seed", "2") == ["a seed 0", "c seed 0", "b seed 2"]
    assert chosen("--variant", "b", "--seed", "2") == ["b seed 2"]


def test_filters_that_choose_nothing_are_refused(write, capsys):
    path = write("[variants.a]\n[variants.b]\nseeds = [1]\n")
    assert train(path, "--variant", "a", "--variant", "d") == 2
    assert "no variant d" in capsys.readouterr().err
    assert train(path, "--variant", "a", "--seed", "1") == 2
    assert "no seed 1" in capsys.readouterr().err


def test_two_grids_of_one_name_are_refused(write, tmp_path, capsys):
    path, twin = write(), tmp_path / "other" / "tiny.toml"
    twin.parent.mkdir()
    twin.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    for other in (path, twin):
        assert train(path, other, "--results", tmp_path / "results") == 2
        assert "two of these grids have one name" in capsys.readouterr().err


def test_the_books_grids_write_to_the_book_from_any_folder(write, tmp_path, monkeypatch):
    grid = tmp_path / "clone" / "book" / "experiments" / "tiny.toml"
    grid.parent.mkdir(parents=True)
    write('[variants.a]\nhead = "gap"\nepochs = 1\n').rename(grid)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for folder, path in ((elsewhere, grid), (grid.parent, "tiny.toml"), (grid.parents[2], grid)):
        monkeypatch.chdir(folder)
        assert train(path) == 0
    assert files_below(grid.parents[2]) == [
        "book/experiments/tiny.toml",
        "book/results/tiny/a-seed0.json",
        "book/results/tiny/a-seed0.predictions.npy",
        "checkpoints/tiny/a-seed0.weights.pt",
    ]
    assert files_below(elsewhere) == []


def test_a_list_that_is_cut_short_by_head_ends_quietly(write):
    variants = "".join(f"[variants.a{i}]\nepochs = 1\n" for i in range(3))
    path = write(variants, top=f'question = ""\nseeds = {list(range(3000))}\n')
    shell = f"{sys.executable} -m d2l_lab train {path} --list | head -n 1"
    done = subprocess.run(shell, shell=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0 of 9000 runs are recorded\n", "")
