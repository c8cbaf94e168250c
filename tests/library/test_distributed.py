"""Two processes on the CPU, as torchrun starts them, train as one process does."""

import io
import os
import signal
from contextlib import redirect_stdout

import pytest
import torch
from small import Line, Random, comparable, stop_at, weights
from torch import nn
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import d2l_utils as d2l
from d2l_utils.distributed import processes, share

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that start as a copy"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


class Drops(Line):
    """Notes which images it sees; its dropout draws as many numbers as there are images."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 2))
        self.seen = set()

    def training_step(self, batch):
        self.seen |= set(batch[0][:, 0, 0, 0].tolist())
        return super().training_step(batch)


def train(epochs, model=Line, checkpoint=None, stop=None, clip=0):
    """Trains on batches of 8, 8 and 1, so that one process goes without an image at times."""
    torch.manual_seed(processes()[0])  # the processes' networks start differently
    model = model()
    trainer = d2l.Trainer(epochs, gradient_clip_val=clip, seed=0, checkpoint=checkpoint)
    if stop is not None:
        stop_at(model, stop, KeyboardInterrupt())
    trainer.fit(model, Random(n=17, seed=None))
    history = comparable(trainer.history)
    return {"weights": weights(model), "history": history, "first_losses": trainer.first_losses} | {
        "seen": getattr(model, "seen", None), "display": model.board.display
    }  # fmt: skip


def main(folder):
    """What each of the processes does."""
    processes.cache_clear()
    checkpoint = folder / "run.pt"
    with redirect_stdout(io.StringIO()) as printed:
        runs = {"whole": train(3), "clipped": train(3, clip=0.5), "dropout": train(1, Drops)}
        train(3, checkpoint=checkpoint, stop=4)
        runs["resumed"] = train(3, checkpoint=checkpoint)
    runs["printed"] = printed.getvalue()
    torch.save(runs, folder / f"process{processes()[0]}.pt")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What torchrun does, but with copies of this process: each import of torch takes seconds."""
    train(1)  # imports what torch imports at a first training
    folder = tmp_path_factory.mktemp("runs")
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    where = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": "test"}
    config = LaunchConfig(1, 1, 2, **where, start_method="fork", max_restarts=0)
    elastic_launch(config, main)(folder)
    for number, handler in handlers.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)
    assert {path.name for path in folder.iterdir()} == {"process0.pt", "process1.pt", "run.pt"}
    return [torch.load(folder / f"process{i}.pt") for i in (0, 1)]


@pytest.mark.parametrize("name", ["whole", "clipped", "resumed"])
def test_two_processes_train_as_one_does(runs, name):
    alone = train(3, clip=0.5 if name == "clipped" else 0)
    for run in (processes_runs[name] for processes_runs in runs):
        for key, weight in alone["weights"].items():
            torch.testing.assert_close(run["weights"][key], weight, rtol=1e-5, atol=1e-6)
        assert run["first_losses"] == pytest.approx(alone["first_losses"], rel=1e-5)
        for row, alone_row in zip(run["history"], alone["history"], strict=True):
            assert row == pytest.approx(alone_row, rel=1e-5)


def test_all_processes_end_with_the_same_and_one_speaks_for_all(runs):
    for name in ("whole", "resumed", "dropout"):
        first, second = (process[name] for process in runs)
        assert first["history"] == second["history"]
        assert all(torch.equal(first["weights"][k], w) for k, w in second["weights"].items())
        assert (first["display"], second["display"]) == (True, False)
    assert ["Stopped in epoch 2" in process["printed"] for process in runs] == [True, False]


def test_each_image_is_seen_though_dropout_draws_differently(runs):
    first, second = (process["dropout"]["seen"] for process in runs)
    assert len(first | second) == 17
    assert len(first) == 9 and len(second) <= 9


def test_a_process_without_an_image_takes_one_that_does_not_count(monkeypatch):
    batch = [torch.arange(3.0), torch.arange(3)]
    parts = []
    for rank in range(5):
        monkeypatch.setattr("d2l_utils.distributed.processes", lambda rank=rank: (rank, 5))
        (X, y), count = share(batch)
        parts.append((X.tolist(), y.tolist(), count))
    assert parts == [([i], [i], 1) for i in range(3)] + 2 * [([0], [0], 0)]


def test_each_process_takes_a_gpu_of_its_own(monkeypatch):
    """The second of two on the second of two machines, each with three GPUs."""
    chosen = []
    monkeypatch.setattr("d2l_utils.distributed.processes", lambda: (3, 4))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.accelerator, "set_device_index", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert d2l.Trainer(1, num_gpus=1).gpus == [torch.device("cuda", 1)] and chosen == [1]
    assert not d2l.Trainer(1).gpus and chosen == [1]
