"""Two processes on the CPU, started by torchrun, train as one process does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small import Line, Random, comparable, stop_at
from torch import nn

import d2l_utils as d2l
from d2l_utils.distributed import processes, share

HERE = Path(__file__).parent


class Drops(Line):
    """Notes which images it sees; its dropout draws as many numbers as there are images."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 2))
        self.seen = set()

    def training_step(self, batch):
        self.seen |= set(batch[0][:, 0, 0, 0].tolist())
        return super().training_step(batch)


def train(epochs, model=Line, checkpoint=None, stop=None):
    """Trains on batches of 8, 8 and 1, so that one process goes without an image at times."""
    torch.manual_seed(processes()[0])  # the processes' networks start differently
    model = model()
    trainer = d2l.Trainer(epochs, gradient_clip_val=0.5, seed=0, checkpoint=checkpoint)
    if stop is not None:
        stop_at(model, stop, KeyboardInterrupt())
    trainer.fit(model, Random(n=17, seed=None))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    history = comparable(trainer.history)
    return {"weights": weights, "history": history, "first_losses": trainer.first_losses} | {
        "seen": getattr(model, "seen", None)
    }


def main(folder):
    """What each of the processes does."""
    runs = {"whole": train(3), "dropout": train(1, Drops)}
    checkpoint = folder / "run.pt"
    train(3, checkpoint=checkpoint, stop=4)
    runs["resumed"] = train(3, checkpoint=checkpoint)
    torch.save(runs, folder / f"process{processes()[0]}.pt")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    paths = os.pathsep.join([str(HERE.parents[1]), str(HERE), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, __file__, folder],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Stopped in epoch 2") == 1  # process 0 speaks for all
    assert {path.name for path in folder.iterdir()} == {"process0.pt", "process1.pt", "run.pt"}
    return [torch.load(folder / f"process{i}.pt") for i in (0, 1)]


@pytest.mark.parametrize("name", ["whole", "resumed"])
def test_two_processes_train_as_one_does(runs, name):
    alone = train(3)
    for run in (processes_runs[name] for processes_runs in runs):
        for key, weight in alone["weights"].items():
            torch.testing.assert_close(run["weights"][key], weight, rtol=1e-5, atol=1e-6)
        assert run["first_losses"] == pytest.approx(alone["first_losses"], rel=1e-5)
        for row, alone_row in zip(run["history"], alone["history"], strict=True):
            assert row == pytest.approx(alone_row, rel=1e-5)


def test_all_processes_end_with_the_same(runs):
    for name in ("whole", "resumed", "dropout"):
        first, second = (process[name] for process in runs)
        assert first["history"] == second["history"]
        assert all(torch.equal(first["weights"][k], w) for k, w in second["weights"].items())


def test_each_image_is_seen_though_dropout_draws_differently(runs):
    first, second = (process["dropout"]["seen"] for process in runs)
    assert len(first | second) == 17
    assert len(first) == 9 and len(second) <= 9


def test_a_process_without_an_image_takes_one_that_does_not_count(monkeypatch):
    batch = [torch.arange(3.0), torch.arange(3)]
    parts = []
    for rank in range(4):
        monkeypatch.setattr("d2l_utils.distributed.processes", lambda rank=rank: (rank, 4))
        (X, y), part = share(batch)
        parts.append((X.tolist(), y.tolist(), part))
    assert parts == [([i], [i], 1 / 3) for i in range(3)] + [([0], [0], 0)]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
