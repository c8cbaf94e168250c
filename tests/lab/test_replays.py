"""The first ten steps of recorded runs come out again: one per grid, and all where it is asked for.

The replays run in processes of their own, since what instructions oneDNN uses is settled by the
first product of a process.
"""

import dataclasses
import json
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
from d2l_lab.replay import deviation, limits, replayed, why_not
from d2l_lab.run import replay

BOOK = Path(__file__).parents[2] / "book"


def recorded_runs():
    """Return the records that hold losses, cheapest first, by grid."""
    found = {}
    for file in sorted((BOOK / "results").glob("*/*-seed*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        if record["first_losses"]:
            work = record["network"]["macs"] * record["config"]["batch_size"]
            found.setdefault(file.parent.name, []).append((work, file, record))
    return {grid: [run[1:] for run in sorted(runs, key=str)] for grid, runs in found.items()}


RECORDED = recorded_runs()


def replays(files):
    """Replay records in a process of their own; return the lines that it prints."""
    command = [sys.executable, "-m", "d2l_lab", "replay", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True)
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


@pytest.mark.parametrize("grid", RECORDED)
def test_the_cheapest_run_of_a_grid_comes_out_again(grid):
    (line,) = replays(possible(reasons_against(grid))[:1])
    assert line.startswith("right: "), line


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
    assert any(
        r["precision"] == "float32"
        and r["hardware"]["device"] == "cpu"
        and not r["config"]["start"]
        for r in records
    )


# --- the check of a replay can fail --------------------------------------------------------------


@pytest.fixture
def recorded(write):
    """Gives a record that is right, and its run."""
    path = write("[variants.a]\nbatch_size = 16\nepochs = 1\n")
    assert train(path, "--precision", "float32") == 0
    return record_of(path), run_of(path)


CHANGES = {
    "arch": [(1, 5)],
    "batch_norm": True,
    "label_smoothing": 0.1,
    "augment": ["flip"],
    "fc_gain": 0.3,
    "lr": 0.11,
    "momentum": 0.5,
}


def test_a_replay_of_other_settings_is_found(recorded):
    record, run = recorded
    assert replayed(record, run) is None
    for change in CHANGES.items():
        config = msgspec.structs.replace(run.config, **dict([change]))
        grid = msgspec.structs.replace(run.grid, variants={"a": config})
        assert replayed(record, dataclasses.replace(run, grid=grid)) is not None, change


def test_a_replay_of_another_seed_is_found_and_all_is_named(recorded):
    record, run = recorded
    reason = replayed(record, dataclasses.replace(run, seed=1))
    processor = record["hardware"]["processor"]
    assert "step 1 of tiny/a seed 1 is off by " in reason and "the limit is 0.004" in reason
    assert reason.count(processor) == 2 and reason.count("threads ") == 2


def test_where_rounding_grows_most_another_seed_still_leads_further_away():
    """Five blocks with batch normalisation: 0.22 by another seed, 0.14 without smoothing."""
    record = next(r for _, r in RECORDED["low_resolution_same_recipe"] if r["variant"] == "same32")
    run = replay_module.run_of(record, BOOK / "experiments")
    losses = replay(dataclasses.replace(run, seed=1), "float32", 2)
    away = deviation(losses, record["first_losses"][:2])
    assert max(away) > max(limits(record))


def test_amx_is_left_alone_before_the_first_product(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    for limit, uses in (("", True), ("AVX10_1_512_AMX", True), ("AVX512_CORE_BF16", False)):
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
        assert machine.hardware(torch.device("cpu"))["amx"] is uses
        assert machine.hardware(torch.device("cpu"))["onednn_max_cpu_isa"] == limit
        machine.avoid_amx()
        assert machine.hardware(torch.device("cpu"))["amx"] is False
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    machine.avoid_amx()
    assert "ONEDNN_MAX_CPU_ISA" not in os.environ


def test_the_command_says_what_it_cannot_replay(write, monkeypatch, capsys, tmp_path):
    path = write(f"[variants.a]\n{RECIPE}epochs = 1\n")
    folder = tmp_path / "book" / "experiments"
    folder.mkdir(parents=True)
    path = path.rename(folder / "tiny.toml")
    assert train(path) == 0
    monkeypatch.setattr(replay_module, "why_not", lambda *_: None)
    capsys.readouterr()
    assert main(["replay", str(run_of(path).record)]) == 0
    assert capsys.readouterr().out == "right: tiny/a seed 0\n"
    record = record_of(path) | {"hardware": record_of(path)["hardware"] | {"device": "a card"}}
    run_of(path).record.write_text(json.dumps(record), encoding="utf-8")
    assert main(["replay", str(run_of(path).record)]) == 0
    assert "skipped: tiny/a seed 0: it was recorded on a card" in capsys.readouterr().out
