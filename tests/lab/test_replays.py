"""The first ten steps of recorded runs come out again: one per grid, and all where it is asked for.

The replays run in processes of their own, since what instructions oneDNN uses is settled by the
first product of a process.
"""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch
from tiny_grid import RECIPE, record_of, run_of, train

from d2l_lab import machine
from d2l_lab import replay as replay_module
from d2l_lab.__main__ import main
from d2l_lab.replay import deviation, replay, replayed, why_not

BOOK = Path(__file__).parents[2] / "book"


def recorded_runs():
    """Return the records that hold losses, cheapest first, by grid."""
    found = {}
    for file in sorted((BOOK / "results").glob("*/*-seed*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        if record["first_losses"]:
            work = record["network"]["macs"] * record["config"]["batch_size"]
            found.setdefault(file.parent.name, []).append((work, file, record))
    return {grid: [run[1:] for run in sorted(runs, key=by_work)] for grid, runs in found.items()}


def by_work(run):
    work, file, _ = run
    return work, file


RECORDED = recorded_runs()


def replays(files):
    """Replay records in a process of their own; return the lines that it prints."""
    command = [sys.executable, "-m", "d2l_lab", "replay", *map(str, files)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode in (0, 1), done.stderr
    return done.stdout.splitlines()


def reasons_against(grid):
    """Return why each record of a grid cannot be replayed here, None if it can; cheapest first."""
    there = {file: replay_module.run_of(r, BOOK / "experiments") for file, r in RECORDED[grid]}
    return {file: why_not(r, there[file]) for file, r in RECORDED[grid]}


def possible(reasons):
    """Return the records that can be replayed here; skip if none can."""
    files = [file for file, reason in reasons.items() if reason is None]
    return files or pytest.skip("; ".join(sorted(set(reasons.values()))))


def variant_of(file):
    return file.name.rpartition("-seed")[0]


@pytest.fixture(scope="module")
def cheapest():
    """Replays the cheapest run of each grid, all in one process, since its start takes a while."""
    reasons = {grid: reasons_against(grid) for grid in RECORDED}
    files = {grid: possible(r)[0] for grid, r in reasons.items() if None in r.values()}
    return dict(zip(files, replays(files.values()), strict=True))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("grid", RECORDED)
def test_the_cheapest_run_of_a_grid_comes_out_again(cheapest, grid):
    if grid not in cheapest:
        possible(reasons_against(grid))  # skips, with the reason
    assert cheapest[grid].startswith(f"right: {grid}/"), cheapest[grid]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("grid", RECORDED)
def test_one_run_of_each_configuration_comes_out_again(grid, subtests):
    reasons = reasons_against(grid)
    by_variant = {variant_of(file): file for file in reversed(possible(reasons))}
    left_out = {variant_of(f): why for f, why in reasons.items() if variant_of(f) not in by_variant}
    for variant, why in left_out.items():  # listed at the end, as all that is skipped
        with subtests.test(variant):
            pytest.skip(f"{grid}/{variant}: {why}")
    wrong = [line for line in replays(by_variant.values()) if line.startswith("wrong: ")]
    assert not wrong, "\n".join(wrong)


def test_some_grid_can_be_replayed_on_any_machine():
    """Float32 on a CPU, from no other run's weights."""
    records = [record for runs in RECORDED.values() for _, record in runs]
    plain = [r for r in records if r["precision"] == "float32" and not r["config"]["start"]]
    assert any(r["hardware"]["device"] == "cpu" for r in plain)


# --- the check of a replay can fail --------------------------------------------------------------

CHANGES = {
    "arch": [(1, 5)],
    "batch_norm": True,
    "label_smoothing": 0.1,
    "augment": ["flip"],
    "fc_gain": 0.3,
    "lr": 0.11,
    "momentum": 0.5,
}


def test_a_replay_of_another_run_is_found_and_all_is_named(write, monkeypatch):
    path = write("[variants.a]\nbatch_size = 16\nepochs = 1\n")
    assert train(path, "--precision", "float32") == 0
    record, run = record_of(path), run_of(path)
    assert replayed(record, run) is None
    for key, value in CHANGES.items():
        config = msgspec.structs.replace(run.config, **{key: value})
        grid = msgspec.structs.replace(run.grid, variants={"a": config})
        assert replayed(record, dataclasses.replace(run, grid=grid)) is not None, key
    reason = replayed(record, dataclasses.replace(run, seed=1))
    assert "step 1 of tiny/a seed 1 is off by " in reason and "the limit is 0.004" in reason
    assert reason.count(record["hardware"]["processor"]) == 2 and reason.count("threads ") == 2
    monkeypatch.setattr(replay_module, "replay", lambda *_, **__: [math.nan] * 10)
    assert replayed(record, run) is not None


def test_where_rounding_grows_most_another_seed_still_leads_further_away():
    """Five blocks with batch normalisation: 0.22 by another seed, 0.14 without smoothing."""
    record = next(r for _, r in RECORDED["low_resolution_same_recipe"] if r["variant"] == "same32")
    run = replay_module.run_of(record, BOOK / "experiments")
    losses = replay(dataclasses.replace(run, seed=1), "float32", 2)
    away = deviation(losses, record["first_losses"][:2])
    assert max(away) > replay_module.limit(record, 3)


def test_the_first_two_steps_are_held_tightly_and_the_others_by_what_rounding_does():
    for norm, later in ((False, 0.02), (True, 0.12)):
        record = {"config": {"batch_norm": norm}}
        limits = [replay_module.limit(record, step) for step in (1, 2, 3, 10)]
        assert limits == [0.004, 0.004, later, later]


def test_amx_is_left_alone_before_the_first_product(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    for limit, uses in (("", True), ("AVX10_1_512_AMX", True), ("AVX512_CORE_BF16", False)):
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
        assert machine.hardware(torch.device("cpu"))["amx"] is uses
        machine.avoid_amx()
        assert machine.hardware(torch.device("cpu"))["amx"] is False
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    machine.avoid_amx()
    assert "ONEDNN_MAX_CPU_ISA" not in os.environ


def test_the_command_says_what_comes_out_and_what_it_cannot_replay(
    write, monkeypatch, capsys, tmp_path
):
    folder = tmp_path / "book" / "experiments"
    folder.mkdir(parents=True)
    path = write(f"[variants.a]\n{RECIPE}epochs = 1\n").rename(folder / "tiny.toml")
    assert train(path) == 0
    file, record = run_of(path).record, record_of(path)
    elsewhere = record["hardware"] | {"device": "a card"}
    losses = [2 * loss for loss in record["first_losses"]]
    with monkeypatch.context() as patch:
        patch.setattr(replay_module, "fast_precision", lambda device: "bfloat16")
        for change, status, said in (
            ({}, 0, "right: tiny/a seed 0\n"),
            ({"first_losses": losses}, 1, "wrong: step 1 of tiny/a seed 0"),
            ({"hardware": elsewhere}, 0, "skipped: tiny/a seed 0: it was recorded on a card"),
        ):
            file.write_text(json.dumps(record | change), encoding="utf-8")
            capsys.readouterr()
            assert main(["replay", str(file)]) == status
            assert capsys.readouterr().out.startswith(said)
    monkeypatch.setattr(replay_module, "fast_precision", lambda device: "float32")
    emulated = record | {"precision": "bfloat16"}
    assert "emulates bfloat16" in why_not(emulated, run_of(path))


@pytest.mark.parametrize(("then", "taken"), [(1, 1), (2, 2), (8, 2)])
def test_a_replay_takes_no_more_threads_than_the_run_had(monkeypatch, then, taken):
    hardware = {"device": "cpu", "threads": then}
    record = {"first_losses": [2.0, 1.0], "precision": "float32", "hardware": hardware}
    threads = []

    def replay(*_, **__):
        threads.append(torch.get_num_threads())
        return record["first_losses"]

    monkeypatch.setattr(replay_module, "replay", replay)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert replayed(record | {"config": {"batch_norm": False}}, None) is None
        assert (threads, torch.get_num_threads()) == ([taken], 2)
    finally:
        torch.set_num_threads(before)
