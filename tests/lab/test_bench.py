"""The comparison with what readers would use instead: how it is counted, not how it comes out."""

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
import torch
from torchvision.datasets import FashionMNIST

from d2l_lab import bench, clock, measures
from d2l_lab.__main__ import main
from d2l_lab.records import MANIFEST, differences

ROOT = Path(__file__).parents[2]


def test_a_row_is_theirs_over_ours_and_the_command_says_which_falls_short(
    monkeypatch, tmp_path, capsys
):
    took = itertools.cycle((8.0, 6.0, 10.0))
    row = bench.Row("a pass", "d2l", 3.5, ours=lambda: 2.0, theirs=lambda: next(took))
    rows = [row, dataclasses.replace(row, bar=4.5)]
    monkeypatch.setattr(bench, "rows", lambda plan: rows)
    monkeypatch.setattr(bench, "QUICK", dataclasses.replace(bench.QUICK, rounds=3))
    assert main(["bench", "--quick", "--results", str(tmp_path)]) == 1
    first, second, file = capsys.readouterr().out.splitlines()
    assert first.endswith("4 (3 to 5) passes 3.5") and second.endswith("falls short of 4.5")
    record = json.loads(Path(file).read_text("utf-8"))
    assert [*tmp_path.iterdir()] == [tmp_path / "beside-d2l.json"] == [Path(file)]
    assert [row["ratios"] for row in record["rows"]] == [[4, 3, 5]] * 2
    assert record["hardware"]["threads"] and record["plan"]["rounds"] == 3
    rows.pop()
    results = tmp_path / "book" / "results"
    results.mkdir(parents=True)
    (results / MANIFEST).touch()
    monkeypatch.setattr(clock, "REPOSITORY", tmp_path)
    assert main(["bench", "--quick"]) == 0
    assert [*results.iterdir()] == [results / MANIFEST]  # a rehearsal is no record
    monkeypatch.setattr(bench, "Plan", lambda: bench.QUICK)
    assert main(["bench"]) == 0
    file = results / "speed" / "beside-d2l.json"
    assert file.exists() and differences(results) == []

    rows.append(dataclasses.replace(row, bar=2, theirs=lambda: 8.0, ours=lambda: 4.0))
    rows[1] = dataclasses.replace(rows[1], what="a step")
    assert main(["bench"]) == 0
    rows[1] = dataclasses.replace(rows[1], ours=lambda: 2.0)
    assert main(["bench", "--only", "step"]) == 0
    one, other = json.loads(file.read_text("utf-8"))["rows"]
    assert (len(one["ratios"]), other["ratios"]) == (3, [4, 4, 4]) and "later" not in one
    assert other["later"]["plan"]["rounds"] == 3 and differences(results) == []


def test_the_books_record_has_the_rows_and_aims_of_today(monkeypatch):
    monkeypatch.setattr(measures, "epoch_and_loop", lambda plan: [lambda: 1.0] * 2)
    monkeypatch.setattr(measures, "training", lambda images, epochs: 1e-3 * images * epochs)
    monkeypatch.setattr(measures, "their_step", lambda side, batch_size: 1e-2)
    monkeypatch.setattr(bench, "VGG", lambda *_, **__: torch.nn.Identity())
    monkeypatch.setattr(bench, "fast_precision", lambda device: "bfloat16")
    rows = [*bench.rows(bench.Plan())]
    record = json.loads((ROOT / "book/results/speed/beside-d2l.json").read_text("utf-8"))
    recorded = [(row["what"], row["against"], row["bar"]) for row in record["rows"]]
    assert recorded == [(row.what, row.against, row.bar) for row in rows]
    section, two_epochs, twice_the_images = rows[-5:-2]
    assert section.theirs() == pytest.approx(46.9)  # of ten epochs at a hundredth of a second
    for row in (two_epochs, twice_the_images):
        assert row.theirs() / row.ours() == pytest.approx(1.1)
    monkeypatch.setattr(bench, "fast_precision", lambda device: "float32")
    assert {row.bar for row in bench.rows(bench.Plan()) if "a training step" in row.what} == {1.1}


def test_d2l_finds_the_data_set_as_torchvision_keeps_it():
    with measures.where_d2l_finds_its_data():
        assert len(FashionMNIST("../data")) == 60_000


@pytest.mark.slow
def test_what_is_timed_at_all_runs(monkeypatch):
    """On little data; what it takes is no matter."""
    monkeypatch.setattr(measures, "keep_memory", lambda: None)  # which lasts
    plan = dataclasses.replace(bench.QUICK, images=256)
    assert all(side() > 0 for side in measures.epoch_and_loop(plan))
    assert measures.training(256, 1) > 0 and measures.our_pass(28, 256) > 0
    assert measures.fastest(plan) > 0
    assert measures.our_step(32, 2) > 0 and measures.import_time("d2l_utils") > 0


def test_a_page_weighs_what_it_names_and_nothing_else(tmp_path):
    page = tmp_path / "page.html"
    names = ("a.js?v=1", "a.js", "b.css", "https://elsewhere/c.js", "gone.png")
    page.write_text("".join(f'<x src="{name}">' for name in names), encoding="utf-8")
    (tmp_path / "a.js").write_bytes(b"x" * 1000)
    (tmp_path / "b.css").write_bytes(b"x" * 200)
    (tmp_path / "not-named.js").write_bytes(b"x" * 9000)
    assert measures._weight(page) == page.stat().st_size + 1200


@pytest.mark.slow
def test_the_training_in_a_process_of_its_own_runs_as_a_script(monkeypatch):
    monkeypatch.setattr(measures, "_TRAIN", measures._TRAIN.replace("{images}", "256"))
    assert measures.peak_memory(measures.OURS) > 1e8
