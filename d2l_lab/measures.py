"""What `bench` measures: each function measures one side of a comparison once.

They give seconds or bytes. d2l is imported where it is needed: nothing else here needs it.
"""

import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn

from d2l_lab.clock import REPOSITORY, Batches, noise, seconds
from d2l_lab.grid import load_grid
from d2l_lab.recipe import RecipeVGG
from d2l_utils.data import FashionMNIST
from d2l_utils.device import keep_memory
from d2l_utils.earlier_chapters import LeNet
from d2l_utils.fashion_mnist_files import FILES, find_folder, read_file
from d2l_utils.models import VGG, VGG_NARROW
from d2l_utils.trainer import Trainer

SECTION_ACCURACY = 0.8958  # what the section's published run ends with at 224 x 224
WORKERS = (0, 1, 2, 4)  # d2l's own default is 4
OURS, D2L = "import d2l_utils as d2l", "from d2l import torch as d2l"


def _seconds(run: Callable) -> float:
    """Return the seconds of one call of something long."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _pass(data) -> float:
    return _seconds(lambda: deque(data.train_dataloader(), maxlen=0))


def our_pass(side, images) -> float:
    """Return the seconds of a pass over our batches."""
    return _pass(FashionMNIST(128, (side, side), train_size=images))


def their_best_pass(side, images) -> float:
    """Return the seconds of a pass over d2l's, with the workers that are quickest here."""
    return _their_pass(side, images, _best_workers(side, min(images, 6_000)))


def _their_pass(side, images, workers) -> float:
    from d2l import torch as book

    data = book.FashionMNIST(128, (side, side))
    data.num_workers = workers
    data.train = torch.utils.data.Subset(data.train, range(images))
    return _pass(data)


@cache
def _best_workers(side, images) -> int:
    return min(WORKERS, key=lambda workers: _their_pass(side, images, workers))


def epoch_and_loop(plan) -> tuple[Callable, Callable]:
    """Return an epoch under our trainer and one of a bare loop, on the same batches."""
    batches = list(FashionMNIST(128, train_size=plan.images, seed=0).train_dataloader())
    trainer = Trainer(1, seed=0)
    trainer.start(LeNet(), Batches(*batches))
    net = LeNet().net
    net(batches[0][0])
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)

    def loop():
        for X, y in batches:
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(X), y).backward()
            optimiser.step()

    return partial(_seconds, trainer.fit_epoch), partial(_seconds, loop)


def training(images, epochs) -> float:
    """Return the seconds of a training of LeNet without validation and curves."""
    model, data = LeNet(), FashionMNIST(128, train_size=images)
    model.board.display, data.val_dataloader = False, lambda: None
    return _seconds(lambda: Trainer(epochs, seed=0).fit(model, data))


def our_step(side, batch_size) -> float:
    """Return the seconds of a training step under our trainer, as a program that trains has it.

    Such a program calls `keep_memory`. Here d2l's steps, in the same process, gain from it as well.
    """
    keep_memory()
    trainer, batch = Trainer(1, precision="auto", seed=0), noise(batch_size, side)
    trainer.start(VGG(VGG_NARROW, 0.01), Batches(batch))
    return seconds(partial(trainer.step, batch), 0.5)


def their_step(side, batch_size) -> float:
    """Return the seconds of a training step under d2l's trainer."""
    from d2l import torch as book

    model = book.Classifier()
    model.net, model.lr = VGG(VGG_NARROW).net, 0.01
    model.board.display = False  # what drawing costs is a row of its own
    model.apply_init([torch.zeros(1, 1, side, side)])
    trainer = book.Trainer(max_epochs=1)
    trainer.fit(model, Batches(noise(batch_size, side)))
    return seconds(trainer.fit_epoch, 0.5)


def fastest(plan) -> float:
    """Return the seconds of the whole epoch in which exercise 4's fastest network learns enough."""
    grid = load_grid(REPOSITORY / "book" / "experiments" / "low_resolution.toml")
    model = RecipeVGG(grid.variants["fastest"])
    data = FashionMNIST(model.config.batch_size, train_size=plan.images)
    trainer = Trainer(1, precision="auto", seed=0)
    took = _seconds(lambda: trainer.fit(model, data))
    reached = trainer.history[-1]["val_acc"]
    if reached < SECTION_ACCURACY and plan.images == 60_000:
        raise ArithmeticError(f"the fastest network ended at {reached}")
    return took


def torchsummary(net) -> float:
    """Return the seconds of a summary by torchsummary."""
    import torchsummary as other

    with contextlib.redirect_stdout(io.StringIO()):
        return _seconds(lambda: other.summary(net, (3, 224, 224), device="cpu"))


def torchinfo(net) -> float:
    """Return the seconds of a summary by torchinfo."""
    import torchinfo as other

    return _seconds(lambda: other.summary(net, (1, 3, 224, 224), verbose=0, device="cpu"))


# --- in processes of their own ---------------------------------------------------------------

_TRAIN = """
    import time, torch
    start = time.perf_counter()  # what a package imports late is paid for, and so is the rest
    {package}
    if "get_ipython" in globals():
        get_ipython().kernel._allow_stdin = True  # a reader looks on, so curves grow
    data = d2l.FashionMNIST(batch_size=128)
    if {images} < len(data.train):
        data.train = torch.utils.data.Subset(data.train, range({images}))
    model = d2l.LeNet(lr=0.1)
    model.apply_init([next(iter(data.val_dataloader()))[0]])
    d2l.Trainer(max_epochs={epochs}).fit(model, data)
    print("seconds", time.perf_counter() - start)
"""


def _code(package, images, epochs) -> str:
    return textwrap.dedent(_TRAIN).format(package=package, images=images, epochs=epochs)


def notebook(package, plan) -> float:
    """Return the seconds of a training in a notebook that somebody looks at."""
    import nbformat
    from nbclient import NotebookClient

    cell = nbformat.v4.new_code_cell(_code(package, plan.images, plan.epochs))
    notebook = nbformat.v4.new_notebook(cells=[cell])
    NotebookClient(notebook, timeout=None, kernel_name="python3").execute(cwd=os.getcwd())
    printed = "".join(out.text for out in cell.outputs if out.get("name") == "stdout")
    return float(printed.rpartition("seconds")[2])


def peak_memory(package) -> float:
    """Return the most bytes that a training and its workers hold at once (Linux: shared once)."""
    import psutil

    command = [sys.executable, "-c", _code(package, 60_000, 1)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    watched, peak = psutil.Process(process.pid), 0
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            family = [watched, *watched.children(recursive=True)]
            peak = max(peak, sum(member.memory_full_info().pss for member in family))
        time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"training with `{package}` ended with status {process.returncode}")
    return peak


def import_time(module) -> float:
    """Return the seconds that a module takes to import beside torch."""
    code = f"import torch, time; t = time.time(); import {module}; print(time.time() - t)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return float(run.stdout.split()[-1])


# --- the book ----------------------------------------------------------------------------------


def build_time() -> float:
    """Return the seconds of building the book anew."""
    return _seconds(lambda: _build(Path("book")))


def _build(folder: Path) -> Path:
    """Build the book anew, as `make book` does, and return the folder of its pages."""
    command = [Path(sys.executable).with_name("jupyter-book"), "build", ".", "--all", "-q"]
    command += ["--path-output", folder.resolve()]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    return folder / "_build" / "html"


@cache
def heaviest_page() -> float:
    """Return the bytes of the heaviest page, with what it names."""
    pages = _build(Path("pages")).rglob("*.html")
    return max(_weight(page) for page in pages if "_static" not in page.parts)


def _weight(page: Path) -> int:
    """Return the bytes of a page and of the local scripts, styles and pictures that it names."""
    named = re.findall(r'(?:src|href)="([^":?#]+\.(?:js|css|png|svg))\b', page.read_text("utf-8"))
    files = {page, *((page.parent / name).resolve() for name in named)}
    return sum(file.stat().st_size for file in files if file.is_file())


# --- the data set where d2l looks for it -----------------------------------------------------


@contextlib.contextmanager
def where_d2l_finds_its_data() -> Iterator[None]:
    """Work in a folder beside one with the four files as torchvision keeps them; d2l reads it."""
    with tempfile.TemporaryDirectory() as folder:
        raw, run = Path(folder, "data", "FashionMNIST", "raw"), Path(folder, "run")
        raw.mkdir(parents=True)
        run.mkdir()
        for name in FILES:
            (raw / name).write_bytes(read_file(find_folder(), name))
        with contextlib.chdir(run):
            yield
