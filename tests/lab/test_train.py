"""Runs are recorded once, by whoever does them; what is stopped or killed goes on."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from test_records import check_record
from tiny_grid import RECIPE, files_below, record_of, run_of, train

import d2l_utils as d2l
from d2l_lab import run as run_module
from d2l_lab.records import load_predictions
from d2l_lab.replay import replay
from d2l_lab.run import Run
from d2l_utils import data as data_module

STOPPED = "stopped; the same command goes on after the last whole epoch"


@pytest.fixture
def nothing_is_trained(monkeypatch):
    monkeypatch.setattr(Run, "execute", lambda *_: pytest.fail("something is trained"))


# --- a run and its record ----------------------------------------------------------------------


def test_a_record_holds_all_that_a_claim_needs(write, tmp_path, capsys):
    path = write("[variants.a]\nhead = [8, 6]\n")
    assert train(path, "--precision", "float32") == 0
    record = record_of(path)
    check_record(record, run_of(path).record, run_of(path).grid)
    assert record["validated_on"] == "held-out training images"
    assert record["precision"] == "float32" and record["resumed"] is False
    assert record["hardware"]["threads"] == torch.get_num_threads()
    names = ["results/tiny/a-seed0.json", "results/tiny/a-seed0.predictions.npy", "tiny.toml"]
    assert files_below(tmp_path) == names
    first, done, end = capsys.readouterr().out.splitlines()
    assert (first, end) == ("[1/1] tiny/a seed 0", "1 of 1 runs are recorded")
    assert f"accuracy {record['final']['val_acc']:.4f} (held-out training images)" in done


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


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precision_is_recorded_and_a_replay_gives_the_same_losses(write, precision):
    path = write(f"[variants.a]\n{RECIPE}seeds = [5]\nepochs = 1\n")
    assert train(path, "--precision", precision) == 0
    record = record_of(path, seed=5)
    assert record["precision"] == precision
    assert replay(run_of(path, seed=5), precision) == record["first_losses"]


def test_a_run_in_bfloat16_is_left_to_machines_that_are_fast_in_it(write, monkeypatch, capsys):
    monkeypatch.setattr(run_module, "fast_precision", lambda device: "float32")
    path = write('[variants.a]\nprecision = "bfloat16"\n[variants.b]\n')
    assert train(path) == 1
    out, err = capsys.readouterr()
    assert "asks for bfloat16" in err and "missing: tiny/a seed 0" in out
    assert record_of(path, "b")["precision"] == "float32"
    assert train(path, "--precision", "float32") == 0
    assert record_of(path)["precision"] == "float32"


def test_the_recipe_is_what_the_configuration_says(write):
    run = run_of(write(f"[variants.a]\n{RECIPE}weight_decay = 5e-4\n"))
    model, data = run.prepare()
    assert (data.batch_size, data.resize, list(data.augment)) == (64, (4, 4), ["flip", "crop"])
    assert (len(data.train), len(data.val)) == (256, 256)
    trainer = d2l.Trainer(2, precision="float32", seed=0)
    trainer.start(model, data)
    (group,) = trainer.optim.param_groups
    rates, settings = [], set()
    for epoch in range(2):
        trainer.epoch = epoch
        for batch in trainer.train_dataloader:
            rates.append(group["lr"])
            settings.add((group["momentum"], group["nesterov"], group["weight_decay"]))
            X, y = trainer.prepare_batch(batch)
            trainer.step(batch)
    assert settings == {(0.9, True, 5e-4)}
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


def test_failing_runs_are_named_and_the_others_are_done(write, capsys, monkeypatch):
    path = write("[variants.wild]\nlr = 1e30\n[variants.bad]\n[variants.good]\n")
    write_json = run_module.write_json

    def fail(file, content):
        if "bad" in file.name:
            raise MemoryError
        write_json(file, content)

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "write_json", fail)
        assert train(path) == 1
    out, err = capsys.readouterr()
    assert "  failed: the loss is " in err and "  failed: MemoryError\n" in err
    assert [line.split()[1] for line in out.splitlines()[-2:]] == ["tiny/wild", "tiny/bad"]
    assert run_of(path, "good").record.exists() and not run_of(path, "wild").record.exists()
    assert train(path, "--variant", "bad") == 0
    assert record_of(path, "bad")["resumed"]


def test_what_no_run_can_do_without_is_missed_before_training(
    write, capsys, monkeypatch, nothing_is_trained
):
    path = write("[variants.a]\n[variants.b]\n")
    # Not even the superuser can write there.
    assert train(path, "--variant", "a", "--results", "/proc/results") == 1
    assert "/proc/results" in capsys.readouterr().err

    def missing(root):
        raise FileNotFoundError("Fashion-MNIST was not found")

    monkeypatch.setattr(data_module, "load", missing)
    assert train(path) == 2
    assert capsys.readouterr() == ("", "Fashion-MNIST was not found\n")  # once, not for each run


# --- stopped and gone on with -------------------------------------------------------------------


def timeless(record):
    """Leaves out what depends on time."""
    rows = [{k: v for k, v in r.items() if "second" not in k} for r in record["history"]]
    left_out = ("wall_seconds", "resumed", "hardware", "finished")
    return {k: v for k, v in record.items() if k not in left_out} | {"history": rows}


def interrupted_at(number, function, before=True):
    """Lets Ctrl-C be pressed at a call of a function, before or after what it does."""
    calls = []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == number and before:
            raise KeyboardInterrupt
        result = function(*arguments, **options)
        if len(calls) == number:
            raise KeyboardInterrupt
        return result

    return interrupted


STOPS = {  # of three epochs of four batches: where, at which call, and how many epochs were kept
    "first epoch": (d2l.Trainer, "step", 3, 0),
    "checkpoint": (os, "replace", 2, 1),
    "weights": (Run, "_keep_weights", 1, 3),
    "record": (run_module, "write_json", 1, 3),
}


@pytest.mark.parametrize("stop", STOPS)
def test_an_interrupted_run_goes_on_to_the_same_record(write, tmp_path, capsys, monkeypatch, stop):
    where, name, number, epochs_kept = STOPS[stop]
    path = write(f'[variants.a]\n{RECIPE}epochs = 3\n[variants.b]\nstart = "a"\n{RECIPE}')
    options = ["--variant", "a", "--precision", "float32"]
    assert train(path, *options, "--results", tmp_path / "whole") == 0
    whole = json.loads((tmp_path / "whole/tiny/a-seed0.json").read_text(encoding="utf-8"))
    run = run_of(path)
    weights = torch.load(run.weights)
    run.weights.unlink()

    with monkeypatch.context() as patch:
        patch.setattr(where, name, interrupted_at(number, getattr(where, name)))
        assert train(path, *options) == 130
    assert capsys.readouterr().out.splitlines()[-1] == STOPPED
    assert not run.record.exists() and run.checkpoint.exists() is (epochs_kept > 0)
    assert not [name for name in files_below(tmp_path) if name.endswith((".part", ".lock"))]

    torch.rand(3)  # what is drawn in between does not matter
    assert train(path, *options) == 0
    record = record_of(path)
    assert timeless(record) == timeless(whole)
    assert record["resumed"] is (epochs_kept > 0)
    # What was trained before the stop took its time as well.
    assert record["wall_seconds"] > sum(row["seconds"] for row in record["history"])
    again = torch.load(run.weights)
    assert all(torch.equal(again[key], weights[key]) for key in weights)
    assert files_below(tmp_path / "checkpoints") == ["tiny/a-seed0.weights.pt"]


def start(*arguments):
    arguments = [sys.executable, "-m", "d2l_lab", "train", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    return subprocess.Popen(arguments, **pipes)


def test_a_process_stops_cleanly_at_ctrl_c(write, tmp_path):
    path, previous = write("[variants.a]\nepochs = 100000\n"), signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job behind `&` would ignore
    try:
        process = start(path)
    finally:
        signal.signal(signal.SIGINT, previous)
    run, end = run_of(path), time.monotonic() + 120
    while not run.checkpoint.exists():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    lines = out.splitlines()
    assert (lines[0], lines[-1]) == ("[1/1] tiny/a seed 0", STOPPED) and "Traceback" not in err
    assert files_below(tmp_path) == ["checkpoints/tiny/a-seed0.pt", "tiny.toml"]


# Kills itself before the trained weights take their place: a lock and half a file are left.
KILLED = """
import os, signal, sys
from d2l_lab.__main__ import main
replace = os.replace
def kill(part, path):
    if str(path).endswith("weights.pt"):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(part, path)
os.replace = kill
main(["train", sys.argv[1]])
"""


def test_what_a_killed_process_leaves_is_gone_on_from_and_tidied(write, tmp_path):
    path = write('[variants.a]\nhead = "gap"\n')
    done = subprocess.run(
        [sys.executable, "-c", KILLED, path], capture_output=True, encoding="utf-8"
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert any(name.endswith(".part") for name in files_below(tmp_path))
    assert train(path) == 0
    assert [row["epoch"] for row in record_of(path)["history"]] == [1, 2]
    assert record_of(path)["resumed"] and run_of(path).trained_model()
    names = ["results/tiny/a-seed0.json", "results/tiny/a-seed0.predictions.npy", "tiny.toml"]
    assert files_below(tmp_path) == ["checkpoints/tiny/a-seed0.weights.pt", *names]


def test_a_record_takes_its_place_at_once_and_deleted_it_is_trained_again(write, monkeypatch):
    path = write()
    run = run_of(path)
    with monkeypatch.context() as patch:  # stopped when the record was written, not yet in place
        patch.setattr(run_module, "write_json", interrupted_at(1, run_module.write_json, False))
        assert train(path) == 130
    assert run.checkpoint.exists() and not run.record.exists()
    with monkeypatch.context() as patch:  # and when it was in place
        patch.setattr(os, "replace", interrupted_at(1, os.replace, False))
        assert train(path) == 130
    assert record_of(path)["resumed"] is False and not run.checkpoint.exists()
    run.record.unlink()
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


@pytest.mark.slow
def test_two_processes_do_each_run_once(write, tmp_path):
    path = write("[variants.a]\n[variants.b]\nstart = 'a'\n", top='question = ""\nseeds = [0, 1]\n')
    processes, begun = [start(path) for _ in range(2)], []
    for process in processes:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        assert out.splitlines()[-1] == "4 of 4 runs are recorded"
        begun += [line.split("] ")[1] for line in out.splitlines() if line.startswith("[")]
    assert sorted(begun) == ["tiny/a seed 0", "tiny/a seed 1", "tiny/b seed 0", "tiny/b seed 1"]
    assert not [name for name in files_below(tmp_path) if name.endswith(".lock")]


# --- what no longer belongs to its grid ---------------------------------------------------------


def test_a_checkpoint_of_other_settings_is_refused(write, capsys, monkeypatch):
    path = write()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted_at(2, os.replace))
        assert train(path) == 130
    kept = run_of(path).checkpoint.read_bytes()
    write("[variants.a]\ntemperature = 2.0\n")
    assert train(path) == 1
    assert str(run_of(path).checkpoint) in capsys.readouterr().err
    assert run_of(path).checkpoint.read_bytes() == kept


def test_a_record_of_other_settings_is_named_and_left_alone(write, capsys):
    path = write()
    assert train(path) == 0
    file, record = run_of(path).record, record_of(path)
    del record["config"]["temperature"]  # from before that setting was there: it still counts
    file.write_text(json.dumps(record), encoding="utf-8")
    assert train(path) == 0
    before = file.read_bytes()
    write("[variants.a]\nlr = 0.3\nhead = [9]\n")
    capsys.readouterr()
    assert train(path) == 1
    assert "head [8], now [9], lr 0.1, now 0.3" in capsys.readouterr().out
    assert file.read_bytes() == before


DAMAGES = ["", "[]", '{"config": {"arch": [[1, 4]]}, "final": {"val_acc": null}}']


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_named(write, capsys, damage):
    path = write()
    file = run_of(path).record
    file.parent.mkdir(parents=True)
    file.write_text(damage, encoding="utf-8")
    assert train(path) == 1
    assert f"  wrong: {file} is damaged" in capsys.readouterr().out
