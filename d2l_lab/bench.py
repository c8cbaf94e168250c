"""How fast the library is beside what readers would use instead.

    make bench                          # the same, with d2l installed beside it
    python -m d2l_lab bench             # some twenty minutes; let the machine rest meanwhile
    python -m d2l_lab bench --quick     # a rehearsal on little data, whose ratios mean nothing

Both sides are measured in one run, in turn, round by round, and a row is the ratio of the two,
never a bare time. The other side is d2l 1.0.3 as published, a loop written by hand, torchsummary,
torchinfo or a limit. It needs d2l and scipy, which `make bench` puts into a folder of their own.
"""

import argparse
import dataclasses
import statistics
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from d2l_lab import measures
from d2l_lab.machine import hardware, versions
from d2l_lab.records import note, write_json
from d2l_utils.cost import layer_costs
from d2l_utils.device import cpu, fast_precision
from d2l_utils.models import VGG, VGG_ARCHS

SECTION_STEPS = 10 * 469  # ten epochs in batches of 128


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
    with measures.where_d2l_finds_its_data(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that d2l has more workers than there are cores
        for row in rows(plan):
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


def rows(plan: Plan) -> list[Row]:
    """Return all comparisons; the current folder is one where d2l finds Fashion-MNIST."""
    passes = []
    for side, bar in plan.sides:
        images = plan.images if side <= 28 else min(plan.images, 12_000)
        name = f"a pass over {images:,} training images at {side}×{side}"
        pair = (
            partial(measures.our_pass, side, images),
            partial(measures.their_best_pass, side, images),
        )
        passes.append(Row(name, "d2l.FashionMNIST with its best workers", bar, *pair))
    fast = fast_precision(cpu()) == "bfloat16"
    steps = [
        Row(
            f"a training step of the narrow VGG-11 at {side}×{side}",
            "the same network under d2l.Trainer",
            2 if fast else 1.1,
            partial(measures.our_step, side, plan.batch_size),
            partial(measures.their_step, side, plan.batch_size),
        )
        for side in (56, 224)
    ]
    net = VGG(VGG_ARCHS["E"], num_classes=1000).eval()
    with torch.no_grad():
        net(torch.zeros(1, 3, 224, 224))
    count = partial(measures.mean_seconds, lambda: layer_costs(net, (3, 224, 224)), 20)
    packages, quarter = (measures.OURS, measures.D2L), plan.images // 4
    once, twice = "twice an epoch, and a tenth", "twice a quarter of them, and a tenth"
    return [
        *passes,
        Row(
            "an epoch of LeNet", "a loop written by hand", 1 / 1.03, *measures.epoch_and_loop(plan)
        ),
        Row(
            f"{plan.epochs} epochs of LeNet with curves in a notebook",
            "d2l.Trainer with its board",
            3,
            *(partial(measures.notebook, package, plan) for package in packages),
        ),
        *steps,
        Row(
            "peak memory of an epoch of LeNet",
            "d2l.Trainer with its workers",
            2,
            *(partial(measures.peak_memory, package) for package in packages),
        ),
        Row(
            "counting VGG-19 at 224×224",
            "torchsummary",
            50,
            count,
            partial(measures.torchsummary, net),
        ),
        Row("counting VGG-19 at 224×224", "torchinfo", 10, count, partial(measures.torchinfo, net)),
        Row(
            "import, torch's own left out",
            "d2l",
            10,
            *(partial(measures.import_time, name) for name in ("d2l_utils", "d2l.torch")),
        ),
        Row(
            f"time to an accuracy of {measures.SECTION_ACCURACY}",
            "the section's recipe, a step by their number",
            1000,
            partial(measures.fastest, plan),
            lambda: SECTION_STEPS * measures.their_step(224, plan.batch_size),
        ),
        Row(
            "two epochs of LeNet",
            once,
            1,
            partial(measures.training, quarter, 2),
            lambda: 2.2 * measures.training(quarter, 1),
        ),
        Row(
            "an epoch of LeNet on half of the images",
            twice,
            1,
            partial(measures.training, 2 * quarter, 1),
            lambda: 2.2 * measures.training(quarter, 1),
        ),
        Row("building the book", "10 seconds", 1, measures.build_time, lambda: 10.0),
        Row("the heaviest page and its files", "1.5 MB", 1, measures.heaviest_page, lambda: 1.5e6),
    ]


# --- the command -----------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `python -m d2l_lab bench`."""
    parser.add_argument("--quick", action="store_true", help="on little data, once: a rehearsal")
    file = "the record (default: book/results/speed/beside-d2l.json)"
    parser.add_argument("--record", type=Path, metavar="FILE", help=file)


def run(options: argparse.Namespace) -> int:
    """Print the table, and write it unless this is a rehearsal; 1 if a row falls short."""
    default = (
        None if options.quick else measures.BOOK / "book" / "results" / "speed" / "beside-d2l.json"
    )
    path = options.record or default
    record = measure(QUICK if options.quick else Plan())
    if path:
        write_json(path, record)
        note({path: path.read_bytes()})
    return int(any(statistics.median(row["ratios"]) < row["bar"] for row in record["rows"]))
