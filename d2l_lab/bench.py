"""How fast the library is beside what readers would use instead.

    make bench                          # the same, with d2l installed beside it
    python -m d2l_lab bench             # some twenty minutes; let the machine rest meanwhile
    python -m d2l_lab bench --quick     # a rehearsal on little data, whose ratios mean nothing

Both sides are measured in one run, in turn, round by round, and a row is the ratio of the two,
never a bare time. The other side is d2l 1.0.3 as published, a loop written by hand, torchsummary or
torchinfo. It needs d2l and scipy, which `make bench` puts into a folder of their own.
"""

import argparse
import contextlib
import dataclasses
import io
import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn

from d2l_lab.machine import hardware, versions
from d2l_lab.records import note, write_json
from d2l_utils.cost import layer_costs
from d2l_utils.data import DataModule, FashionMNIST
from d2l_utils.device import cpu, fast_precision
from d2l_utils.fashion_mnist_files import FILES, find_folder, read_file
from d2l_utils.models import VGG, VGG_ARCHS, VGG_NARROW
from d2l_utils.module import Classifier
from d2l_utils.trainer import Trainer

__all__ = ["Plan", "Row", "add_arguments", "measure", "rows", "run"]

SECTION_ACCURACY = 0.8958  # what the section's published run ends with at 224 x 224
SECTION_STEPS = 10 * 469  # ten epochs in batches of 128
WORKERS = (0, 1, 2, 4)  # d2l's own default is 4


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much is measured; the defaults are what is recorded.

    Attributes:
        rounds: times that each pair is measured.
        images: training images in a pass; fewer at large sides, where d2l takes minutes.
        epochs: of the training in a notebook.
        batch_size: of a training step.
        sides: heights and widths for passes, each with the ratio that is aimed at.
    """

    rounds: int = 5
    images: int = 60_000
    epochs: int = 10
    batch_size: int = 128
    sides: tuple[tuple[int, float], ...] = ((28, 40), (56, 8), (96, 8), (224, 5))


QUICK = Plan(rounds=1, images=512, epochs=1, batch_size=4, sides=((28, 40), (56, 8)))


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison; both functions return what they took, in seconds or bytes.

    Attributes:
        what: what is done.
        against: who does it on the other side.
        bar: the ratio, theirs over ours, that is aimed at.
        ours: measures this package once.
        theirs: measures the other side once.
    """

    what: str
    against: str
    bar: float
    ours: Callable[[], float]
    theirs: Callable[[], float]


def measure(plan: Plan) -> dict:
    """Return the record of this machine: one entry per row with the ratio of each round."""
    machine = hardware(cpu())  # with the load before this run adds its own
    table = []
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(plan, _as_torchvision_keeps_it(Path(folder))):
            ratios = [row.theirs() / row.ours() for _ in range(plan.rounds)]
            entry = {"what": row.what, "against": row.against, "bar": row.bar, "ratios": ratios}
            table.append(entry)
            print(_line(entry), flush=True)
    return {
        "hardware": machine,
        "versions": versions(),
        "plan": dataclasses.asdict(plan),
        "rows": table,
    }


def _line(entry: dict) -> str:
    ratios = entry["ratios"]
    middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
    verdict = "passes" if middle >= entry["bar"] else "falls short of"
    name = f"{entry['what']}, against {entry['against']}"
    return f"{name}: {middle:.3g} ({low:.3g} to {high:.3g}) {verdict} {entry['bar']:g}"


def rows(plan: Plan, root: Path) -> list[Row]:
    """Return all comparisons; `root` is where d2l finds Fashion-MNIST."""
    passes = []
    for side, bar in plan.sides:
        images = plan.images if side <= 28 else min(plan.images, 12_000)
        name = f"a pass over {images:,} training images at {side}×{side}"
        pair = partial(_our_pass, side, images), partial(_their_best_pass, root, side, images)
        passes.append(Row(name, "d2l.FashionMNIST, its best number of workers", bar, *pair))
    fast = fast_precision(cpu()) == "bfloat16"
    steps = [
        Row(
            f"a training step of the narrow VGG-11 at {side}×{side}",
            "the same network under d2l.Trainer",
            2 if fast else 1.1,
            partial(_our_step, side, plan.batch_size),
            partial(_their_step, side, plan.batch_size),
        )
        for side in (56, 224)
    ]
    net = VGG(VGG_ARCHS["E"], num_classes=1000).eval()
    with torch.no_grad():
        net(torch.zeros(1, 3, 224, 224))
    count = partial(_mean_seconds, lambda: layer_costs(net, (3, 224, 224)), 20)
    return [
        *passes,
        Row("an epoch of LeNet", "a loop written by hand", 1 / 1.03, *_epoch_and_loop(plan)),
        Row(
            f"{plan.epochs} epochs of LeNet with curves in a notebook",
            "d2l.Trainer with its board",
            3,
            partial(_notebook, "import d2l_utils as d2l", root, plan),
            partial(_notebook, "from d2l import torch as d2l", root, plan),
        ),
        *steps,
        Row(
            "peak memory of an epoch of LeNet",
            "d2l.Trainer with its workers",
            2,
            partial(_peak_memory, "import d2l_utils as d2l", root),
            partial(_peak_memory, "from d2l import torch as d2l", root),
        ),
        Row("counting VGG-19 at 224×224", "torchsummary", 50, count, partial(_torchsummary, net)),
        Row("counting VGG-19 at 224×224", "torchinfo", 10, count, partial(_torchinfo, net)),
        Row(
            "import, torch's own left out",
            "d2l",
            10,
            partial(_import, "d2l_utils"),
            partial(_import, "d2l.torch"),
        ),
        Row(
            f"time to an accuracy of {SECTION_ACCURACY}",
            "the section's recipe under d2l.Trainer, its steps times their number",
            1000,
            partial(_fastest, plan),
            lambda: SECTION_STEPS * _their_step(224, plan.batch_size),
        ),
    ]


# --- what is measured ------------------------------------------------------------------------


def _seconds(run: Callable) -> float:
    """Return the seconds of one call of something long."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _mean_seconds(run: Callable, times: int) -> float:
    """Return the seconds of a call of something short, as the mean of some, after a warm-up."""
    from torch.utils.benchmark import Timer  # slow to import, and looks for a CUDA compiler

    timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
    return timer.timeit(times).mean


def _drain(batches) -> None:
    for _ in batches:
        pass


def _our_pass(side, images) -> float:
    data = FashionMNIST(128, (side, side), train_size=images)
    return _seconds(lambda: _drain(data.train_dataloader()))


def _their_best_pass(root, side, images) -> float:
    return _their_pass(root, side, images, _best_workers(root, side, min(images, 6_000)))


def _their_pass(root, side, images, workers) -> float:
    from d2l import torch as book

    with _inside(root):
        data = book.FashionMNIST(128, (side, side))
    data.num_workers = workers
    data.train = torch.utils.data.Subset(data.train, range(images))
    return _seconds(lambda: _drain(data.train_dataloader()))


@cache
def _best_workers(root, side, images) -> int:
    return min(WORKERS, key=lambda workers: _their_pass(root, side, images, workers))


def _lenet() -> nn.Sequential:
    return nn.Sequential(
        *(nn.LazyConv2d(6, 5, padding=2), nn.Sigmoid(), nn.AvgPool2d(2)),
        *(nn.LazyConv2d(16, 5), nn.Sigmoid(), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.LazyLinear(120), nn.Sigmoid(), nn.LazyLinear(84), nn.Sigmoid(), nn.LazyLinear(10)),
    )


def _model(net, lr, base=Classifier):
    """Return a classifier of either package, with the network in it."""
    model = base()
    model.net, model.lr = net, lr
    return model


def _epoch_and_loop(plan) -> tuple[Callable, Callable]:
    """Return an epoch under our trainer and one of a bare loop, on the same batches."""
    data = FashionMNIST(128, train_size=plan.images, seed=0)
    batches = list(data.train_dataloader())

    class Batches(DataModule):
        def get_dataloader(self, train):
            return batches if train else None

    trainer = Trainer(1, seed=0)
    trainer.start(_model(_lenet(), 0.1), Batches())
    net = _lenet()
    net(batches[0][0])
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)

    def loop():
        for X, y in batches:
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(X), y).backward()
            optimiser.step()

    return partial(_seconds, trainer.fit_epoch), partial(_seconds, loop)


def _our_step(side, batch_size) -> float:
    trainer = Trainer(1, precision="auto", seed=0)
    trainer.start(VGG(VGG_NARROW, 0.01), _OneBatch(batch_size, side))
    batch = trainer.data.batch
    return _mean_seconds(lambda: trainer.step(batch), 2)


def _their_step(side, batch_size) -> float:
    from d2l import torch as book

    model = _model(VGG(VGG_NARROW).net, 0.01, book.Classifier)
    model.board.display = False  # what drawing costs is a row of its own
    model.apply_init([torch.zeros(1, 1, side, side)])
    trainer = book.Trainer(max_epochs=1)
    trainer.fit(model, _OneBatch(batch_size, side))
    return _mean_seconds(trainer.fit_epoch, 2)


class _OneBatch(DataModule):
    """One batch of noise, for either trainer."""

    def __init__(self, batch_size, side):
        super().__init__()
        self.batch = [torch.randn(batch_size, 1, side, side), torch.arange(batch_size) % 10]

    def get_dataloader(self, train):
        return [self.batch] if train else None


def _fastest(plan) -> float:
    """Return the seconds of the whole epoch in which exercise 4's fastest network learns enough."""
    torch.manual_seed(0)
    model = _Fastest(((1, 16), (2, 32), (2, 64)), 0.4, head="gap", batch_norm=True)
    data = FashionMNIST(128, train_size=plan.images)
    trainer = Trainer(1, precision="auto", seed=0)
    seconds = _seconds(lambda: trainer.fit(model, data))
    reached = trainer.history[-1]["val_acc"]
    if reached < SECTION_ACCURACY and plan.images == 60_000:
        raise ArithmeticError(f"the fastest network ended at {reached}")
    return seconds


class _Fastest(VGG):
    def configure_optimizers(self):
        optimiser = torch.optim.SGD(
            self.parameters(), self.lr, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
        )
        steps = self.trainer.num_train_batches
        return optimiser, torch.optim.lr_scheduler.OneCycleLR(
            optimiser, self.lr, total_steps=steps, cycle_momentum=False
        )


def _torchsummary(net) -> float:
    import torchsummary

    with contextlib.redirect_stdout(io.StringIO()):
        return _seconds(lambda: torchsummary.summary(net, (3, 224, 224), device="cpu"))


def _torchinfo(net) -> float:
    import torchinfo

    return _seconds(lambda: torchinfo.summary(net, (1, 3, 224, 224), verbose=0, device="cpu"))


# --- in processes of their own ---------------------------------------------------------------

_TRAIN = """
    {package}
    import time
    data = d2l.FashionMNIST(batch_size=128)
    {fewer}
    class LeNet(d2l.Classifier):
        def __init__(self):
            super().__init__()
            self.lr = 0.1
            from d2l_lab.bench import _lenet
            self.net = _lenet()
    model = LeNet()
    model.apply_init([next(iter(data.val_dataloader()))[0]])
    start = time.perf_counter()
    d2l.Trainer(max_epochs={epochs}).fit(model, data)
    print("seconds", time.perf_counter() - start)
"""


def _code(package, images, epochs) -> str:
    fewer = f"import torch; data.train = torch.utils.data.Subset(data.train, range({images}))"
    fewer = "" if images == 60_000 else fewer
    return textwrap.dedent(_TRAIN).format(package=package, fewer=fewer, epochs=epochs)


def _notebook(package, root, plan) -> float:
    """Return the seconds of a training in a notebook, as JupyterLab would run it."""
    import nbformat
    from nbclient import NotebookClient

    cell = nbformat.v4.new_code_cell(_code(package, plan.images, plan.epochs))
    notebook = nbformat.v4.new_notebook(cells=[cell])
    client = NotebookClient(notebook, timeout=None, kernel_name="python3")
    client.execute(cwd=str(_run_folder(root)))
    printed = "".join(out.text for out in cell.outputs if out.get("name") == "stdout")
    return float(printed.rpartition("seconds")[2])


def _peak_memory(package, root) -> float:
    """Return the most bytes that a training and its workers hold at once (Linux: shared once)."""
    import psutil

    command = [sys.executable, "-c", _code(package, 60_000, 1)]
    process = subprocess.Popen(command, cwd=_run_folder(root), stdout=subprocess.DEVNULL)
    watched, peak = psutil.Process(process.pid), 0
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            family = [watched, *watched.children(recursive=True)]
            peak = max(peak, sum(member.memory_full_info().pss for member in family))
        time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"training with `{package}` ended with status {process.returncode}")
    return peak


def _import(module) -> float:
    code = f"import torch, time; t = time.time(); import {module}; print(time.time() - t)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(run.stdout.split()[-1])


# --- the data set where d2l looks for it -----------------------------------------------------


def _as_torchvision_keeps_it(folder: Path) -> Path:
    """Put the four files below `folder` as d2l expects them, so that it downloads nothing."""
    raw = folder / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in FILES:
        (raw / name).write_bytes(read_file(find_folder(), name))
    _run_folder(folder).mkdir()
    return folder


def _run_folder(root: Path) -> Path:
    return root / "run"  # d2l reads ../data


@contextlib.contextmanager
def _inside(root: Path):
    before = os.getcwd()
    os.chdir(_run_folder(root))
    try:
        yield
    finally:
        os.chdir(before)


# --- the command -----------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `python -m d2l_lab bench`."""
    parser.add_argument("--quick", action="store_true", help="on little data, once: a rehearsal")
    file = "the record (default: book/results/speed/beside-d2l.json)"
    parser.add_argument("--record", type=Path, metavar="FILE", help=file)


def run(options: argparse.Namespace) -> int:
    """Print the table, and write it unless this is a rehearsal; 1 if a row falls short."""
    record = measure(QUICK if options.quick else Plan())
    default = None if options.quick else Path("book/results/speed/beside-d2l.json")
    if path := options.record or default:
        write_json(path, record)
        note(path)
    return int(any(statistics.median(row["ratios"]) < row["bar"] for row in record["rows"]))
