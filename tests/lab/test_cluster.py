"""A grid on a Ray cluster: every run is done once, also when a worker is lost in the midst."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_grid import files_below, record_of, run_of, train

from d2l_lab import cluster
from d2l_lab.run import Run

SLOWLY = "[variants.{}]\nepochs = {}\ntrain_size = 2048\n"


def workers_at(run: Run) -> list[int]:
    """Return the processes that hold the lock of a run open."""
    lock = str(run.record.with_suffix(".lock"))
    found = []
    for fd in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(fd) == lock:
                found.append(int(fd.parts[2]))
        except OSError:  # it has ended meanwhile
            continue
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="workers are found by /proc")
@pytest.mark.timeout(600)
def test_a_lost_workers_run_is_gone_on_with_by_another(write, tmp_path):
    pytest.importorskip("ray")
    path = write(
        SLOWLY.format("a", 40) + SLOWLY.format("b", 40) + '[variants.c]\nstart = "a"\nepochs = 1\n'
    )
    command = [sys.executable, "-m", "d2l_lab", "train", path, "--ray", "--cores", "1"]
    command += ["--precision", "float32"]
    environment = os.environ | {"RAY_OVERRIDE_RESOURCES": '{"CPU": 2}'}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        end = time.monotonic() + 300
        while not run_of(path).checkpoint.exists():
            assert process.poll() is None and time.monotonic() < end, process.communicate()
            time.sleep(0.1)
        (worker,) = workers_at(run_of(path))
        os.kill(worker, signal.SIGKILL)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, (out, err)
    lines = [line for line in out.splitlines() if "(raylet)" not in line]  # that one was lost
    assert lines[0].startswith("0 done, ") and lines[-2:] == [
        "3 done, 0 running, 0 waiting",
        "3 of 3 runs are recorded",
    ]
    assert "0 done, 2 running, 1 waiting" in lines
    assert record_of(path, "a")["resumed"] and not record_of(path, "b")["resumed"]
    assert len(record_of(path, "a")["history"]) == 40
    ends = ("json", "predictions.npy")
    names = sorted(f"results/tiny/{v}-seed0.{end}" for v in "abc" for end in ends)
    assert files_below(tmp_path) == ["checkpoints/tiny/a-seed0.weights.pt", *names, "tiny.toml"]


def test_what_a_run_leaves_travels_whole_and_overwrites_nothing(write):
    path = write('[variants.a]\nhead = "gap"\n')
    assert train(path) == 0
    run = run_of(path)
    files = cluster._files(run)
    assert list(files) == [run.predictions, run.weights, run.record]
    run.weights.unlink()
    run.record.write_bytes(b"another")
    cluster._write(run, files)
    assert run.weights.read_bytes() == files[run.weights]
    assert run.record.read_bytes() == b"another"
