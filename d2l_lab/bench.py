"""How fast the library is beside what readers would use instead: the rows; `measures` does them.

Both sides are measured in one run, in turn, round by round, and a row is the ratio of the two,
never a bare time. The other side is d2l 1.0.3 as published, a loop written by hand, torchsummary,
torchinfo or a limit. It needs d2l and scipy, which `make bench` puts into a folder of their own,
and half an hour in which the machine rests. The ratios of a rehearsal mean nothing.
"""

import argparse
import dataclasses
import json
import statistics
import warnings
from collections.abc import Callable, Iterator
from functools import partial

import torch

from d2l_lab import clock, measures
from d2l_lab.clock import about, keep, seconds
from d2l_utils.cost import layer_costs
from d2l_utils.device import cpu, fast_precision
from d2l_utils.models import VGG, VGG_ARCHS


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much is measured; the defaults are what is recorded."""

    rounds: int = 5
    images: int = 60_000  # of a pass; fewer at large sides, where d2l takes minutes
    epochs: int = 10  # of the training in a notebook
    batch_size: int = 128  # of a training step
    # Heights and widths for passes, each with the ratio that is aimed at.
    sides: tuple[tuple[int, float], ...] = ((28, 40), (56, 8), (96, 8), (224, 5))


QUICK = Plan(rounds=1, images=512, epochs=1, batch_size=4, sides=((28, 40), (56, 8)))


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison: what is done, who does it on the other side, the ratio that is aimed at.

    Each function measures one side once, in seconds or bytes; the ratio is theirs over ours.
    """

    what: str
    against: str
    bar: float
    ours: Callable[[], float]
    theirs: Callable[[], float]


def run(options: argparse.Namespace) -> int:
    """Print the table, and write it unless this is a rehearsal; 1 if a row falls short."""
    record = measure(QUICK if options.quick else Plan(), options.only)
    keep(_with_others(record) if options.only else record, "beside-d2l", options)
    return int(any(statistics.median(row["ratios"]) < row["bar"] for row in record["rows"]))


def _with_others(record) -> dict:
    """Return the book's record with these rows in it; they say that they are later."""
    origin = {key: value for key, value in record.items() if key != "rows"}
    later = {(row["what"], row["against"]): row | {"later": origin} for row in record["rows"]}
    path = clock.REPOSITORY / "book" / "results" / "speed" / "beside-d2l.json"
    book = json.loads(path.read_text("utf-8"))
    return book | {"rows": [later.get((row["what"], row["against"]), row) for row in book["rows"]]}


def measure(plan: Plan, only: str = "") -> dict:
    """Return the record of this machine: for each row named so the ratio of each round."""
    record = about(cpu(), plan) | {"rows": []}
    with measures.where_d2l_finds_its_data(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that d2l has more workers than there are cores
        for row in rows(plan):
            if only not in row.what:
                continue
            ratios = [row.theirs() / row.ours() for _ in range(plan.rounds)]
            entry = {"what": row.what, "against": row.against, "bar": row.bar, "ratios": ratios}
            record["rows"].append(entry)
            print(_line(**entry), flush=True)
    return record


def _line(what, against, bar, ratios) -> str:
    middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
    verdict = "passes" if middle >= bar else "falls short of"
    return f"{what}, against {against}: {middle:.3g} ({low:.3g} to {high:.3g}) {verdict} {bar:g}"


def rows(plan: Plan) -> Iterator[Row]:
    """Yield all comparisons; the current folder is one where d2l finds Fashion-MNIST."""
    packages = (measures.OURS, measures.D2L)
    for side, bar in plan.sides:
        images = plan.images if side <= 28 else min(plan.images, 12_000)
        name = f"a pass over {images:,} training images at {side}×{side}"
        both = [partial(f, side, images) for f in (measures.our_pass, measures.their_best_pass)]
        yield Row(name, "d2l.FashionMNIST with its best workers", bar, *both)

    both = measures.epoch_and_loop(plan)
    yield Row("an epoch of LeNet", "a loop written by hand", 1 / 1.03, *both)

    name = f"{plan.epochs} epochs of LeNet with curves in a notebook"
    both = [partial(measures.notebook, package, plan) for package in packages]
    yield Row(name, "d2l.Trainer with its board", 3, *both)

    bar = 2 if fast_precision(cpu()) == "bfloat16" else 1.1
    for side in (56, 224):
        name = f"a training step of the narrow VGG-11 at {side}×{side}"
        steps = (measures.our_step, measures.their_step)
        both = [partial(step, side, plan.batch_size) for step in steps]
        yield Row(name, "the same network under d2l.Trainer", bar, *both)

    both = [partial(measures.peak_memory, package) for package in packages]
    yield Row("peak memory of an epoch of LeNet", "d2l.Trainer with its workers", 2, *both)

    net = VGG(VGG_ARCHS["E"], num_classes=1000).eval()
    with torch.no_grad():
        net(torch.zeros(1, 3, 224, 224))
    count = partial(seconds, partial(layer_costs, net, (3, 224, 224)), 0.5)
    for other, bar in ((measures.torchsummary, 50), (measures.torchinfo, 10)):
        yield Row("counting VGG-19 at 224×224", other.__name__, bar, count, partial(other, net))

    both = [partial(measures.import_time, name) for name in ("d2l_utils", "d2l.torch")]
    yield Row("import, torch's own left out", "d2l", 10, *both)

    name = f"time to an accuracy of {measures.SECTION_ACCURACY}"
    ours, theirs = partial(measures.fastest, plan), partial(_section, plan.batch_size)
    yield Row(name, "the section's recipe, a step by their number", 1000, ours, theirs)

    quarter = plan.images // 4
    grown, more = partial(_grown, quarter), partial(measures.training, quarter, 2)
    yield Row("two epochs of LeNet", "twice an epoch, and a tenth", 1, more, grown)
    name = "an epoch of LeNet on half of the images"
    more = partial(measures.training, 2 * quarter, 1)
    yield Row(name, "twice a quarter of them, and a tenth", 1, more, grown)

    yield Row("building the book", "10 seconds", 1, measures.build_time, lambda: 10.0)
    yield Row("the heaviest page and its files", "1.5 MB", 1, measures.heaviest_page, lambda: 1.5e6)


def _section(batch_size) -> float:
    """Return the seconds of ten epochs in batches of 128, by those of a step."""
    return 10 * 469 * measures.their_step(224, batch_size)


def _grown(images) -> float:
    """Return the seconds of twice an epoch, and a tenth of that."""
    return 2.2 * measures.training(images, 1)
