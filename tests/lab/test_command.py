"""The command `train`: what it chooses, lists, refuses, and where it writes."""

import subprocess
import sys

import pytest
from tiny_grid import files_below, record_of, run_of, train

from d2l_lab import __main__ as command
from d2l_lab.run import Run


def test_a_second_call_does_nothing(write, capsys, monkeypatch, kept):
    path, calls = write(), len(kept)
    assert train(path) == 0
    before = run_of(path).record.stat().st_mtime_ns
    monkeypatch.setattr(Run, "execute", lambda *_: pytest.fail("something is trained"))
    capsys.readouterr()
    assert train(path) == 0
    assert capsys.readouterr().out == "1 of 1 runs are recorded\n"
    assert len(kept) == calls + 1
    assert before == run_of(path).record.stat().st_mtime_ns
    left = run_of(path).record.with_name("a-seed0.json.123.part")  # by a process that was killed
    left.touch()
    assert train(path, "--list") == 0 and left.exists()
    assert train(path) == 0 and not left.exists()


def test_list_says_what_is_missing_and_trains_nothing(write, tmp_path, capsys):
    path = write("[variants.a]\n[variants.b]\nseeds = [0, 1]\n")
    assert train(path, "--list") == 1
    expected = ["  missing: tiny/a seed 0", "  missing: tiny/b seed 0", "  missing: tiny/b seed 1"]
    assert capsys.readouterr().out.splitlines() == ["0 of 3 runs are recorded", *expected]
    assert files_below(tmp_path) == ["tiny.toml"]
    assert train(path, "--variant", "a") == 0
    capsys.readouterr()
    assert train(path, "--list") == 1
    expected[0] = f"  {record_of(path)['final']['val_acc']:.4f}   tiny/a seed 0"
    assert capsys.readouterr().out.splitlines() == ["1 of 3 runs are recorded", *expected]


def test_what_is_missing_goes_to_a_cluster_if_one_is_asked_for(write, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(command, "train_on_ray", lambda *arguments: calls.append(arguments))
    path = write()
    assert train(path, "--ray", "auto", "--cores", "3", "--precision", "float32") == 1
    (((run,), *options),) = calls
    assert run.variant == "a" and options == ["auto", 3, "float32"]
    assert train(path) == train(path, "--ray") == 0 and len(calls) == 1
    capsys.readouterr()
    with pytest.raises(SystemExit):
        command.main(["--help"])
    assert command.__doc__.splitlines()[0] in " ".join(capsys.readouterr().out.split())


def test_filters_choose_variants_and_seeds(write, capsys):
    path = write("[variants.a]\n[variants.b]\nseeds = [1, 2]\n[variants.c]\n")
    for options, chosen in {
        "": "a0 c0 b1 b2",
        "--variant b --variant c": "c0 b1 b2",
        "--seed 0 --seed 2": "a0 c0 b2",
        "--variant b --seed 2": "b2",
    }.items():
        assert train(path, "--list", *options.split()) == 1
        lines = capsys.readouterr().out.splitlines()[1:]
        runs = [line.split("tiny/")[1].replace(" seed ", "") for line in lines]
        assert runs == chosen.split()
    for options, culprit in (("--variant d", "variant d"), ("--variant a --seed 1", "seed 1")):
        assert train(path, *options.split()) == 2
        assert f"no {culprit}" in capsys.readouterr().err


def test_two_grids_of_one_name_are_refused(write, tmp_path, capsys):
    path, twin = write(), tmp_path / "other" / "tiny.toml"
    twin.parent.mkdir()
    twin.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    for other in (path, twin):
        assert train(path, other, "--results", tmp_path / "results") == 2
        assert "one name" in capsys.readouterr().err


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
    done = subprocess.run(shell, shell=True, capture_output=True, encoding="utf-8")
    assert (done.stdout, done.stderr) == ("0 of 9000 runs are recorded\n", "")
