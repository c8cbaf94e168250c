"""How long the networks take on this machine, and on a GPU in how much memory: one JSON file each.

    python -m d2l_lab time                              # the CPU and, if there is one, the GPU
    python -m d2l_lab time --keep-memory                # the CPU, with `d2l.keep_memory()`
    python -m d2l_lab time --part engines               # int8 as people deploy it: `engines`
    python -m d2l_lab time --quick --results rehearsal  # one minute, small images

Let the machine rest meanwhile: six minutes on two cores. A record is `<results>/<device>.json`, or
`<device>-memory-kept.json` where memory was kept, written whole or not at all. All that is to be
compared is measured in turn, round by round, and a record keeps one time a round, so that time `i`
of one row was taken next to time `i` of another.
"""

import argparse
import datetime
import gc
import os
import re
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import parametrize

from d2l_lab import compress
from d2l_lab.machine import hardware, versions
from d2l_lab.records import note, write_json
from d2l_utils.data import DataModule
from d2l_utils.device import cpu, fast_precision, keep_memory, try_all_gpus
from d2l_utils.models import VGG, VGG_ARCHS, VGG_NARROW, AlexNet
from d2l_utils.trainer import Trainer

LR = 1e-6  # takes the time of any other, and however often a step is repeated the weights stay

NETWORKS = {
    "VGG-11": lambda: VGG(VGG_ARCHS["A"], LR),
    "narrow VGG-11": lambda: VGG(VGG_NARROW, LR),
    "AlexNet": lambda: AlexNet(LR),
}

# Exercise 4 ends with the first; the second passes the section's accuracy in one epoch.
SMALL_NETWORKS = {
    "low resolution": lambda: VGG(((2, 32), (2, 64), (2, 128)), LR, head="gap", batch_norm=True),
    "fast": lambda: VGG(((1, 16), (2, 32), (2, 64)), LR, head="gap", batch_norm=True),
}


@dataclass(frozen=True)
class Plan:
    """What is measured; the defaults are what is recorded.

    Attributes:
        side: height and width of the images.
        batches: batch sizes at which all networks are measured; on a GPU, those that fit.
        train_batch: the batch size of the section's recipe. On a CPU, VGG-11 is left out there.
        ranks: the image sides at which heads are measured, and the ranks of truncated SVD there.
        keep: the shares of weights that pruning keeps.
        head_batches: batch sizes for heads.
        rounds: times that everything is measured.
        seconds: the least time that a measurement of a round goes on for.
    """

    side: int = 224
    batches: tuple[int, ...] = (1, 16)
    train_batch: int = 128
    ranks: tuple[tuple[int, tuple[tuple[int, int], ...]], ...] = (
        (32, ((64, 256), (32, 32), (8, 8))),
        (224, ((1024, 256),)),
    )
    keep: tuple[float, ...] = (0.04, 0.01)
    head_batches: tuple[int, ...] = (1, 64)
    rounds: int = 3
    seconds: float = 0.1


QUICK = Plan(96, (1,), 2, ranks=((32, ((8, 8),)),), head_batches=(1, 2), rounds=1, seconds=0)


def measure(device: torch.device, plan: Plan) -> dict:
    """Return the record of a device; what is not measured on a device of its kind is empty."""
    record = {
        "hardware": hardware(device),  # with the load before this run adds its own
        "versions": versions(),
        "plan": asdict(plan),
        "tf32": {
            "convolutions": torch.backends.cudnn.allow_tf32,
            "products": torch.backends.cuda.matmul.allow_tf32,
        },
        "finished": datetime.date.today().isoformat(),
    }
    left_out = (layer_times, head_times) if device.type == "cuda" else (peak_memory,)
    for part in (peak_memory, rates, network_times, layer_times, head_times):
        print(f"{record['hardware']['device']}: {part.__name__}", flush=True)
        record[part.__name__] = [] if part in left_out else part(device, plan)
        gc.collect()  # a model and its trainer know each other, so they go only now
    return record


# --- the parts of a record -------------------------------------------------------------------


def peak_memory(device: torch.device, plan: Plan) -> list[dict]:
    """Return the most bytes of tensors that two training steps hold at once, on a GPU."""

    def peak(make, batch):
        trainer = _trainer(make, plan.side, device, "float32")
        images = trainer.prepare_batch(_Images(batch, plan.side).batch)
        torch.cuda.reset_peak_memory_stats(device)
        for _ in range(2):  # in the second, the gradients of the first are there from the start
            trainer.step(images)
        return torch.cuda.max_memory_allocated(device)

    rows = []
    for name, make in NETWORKS.items():
        for batch in (*plan.batches, plan.train_batch):
            with suppress(torch.OutOfMemoryError):
                rows.append({"network": name, "batch": batch, "peak_bytes": peak(make, batch)})
            gc.collect()
    return rows


def rates(device: torch.device, plan: Plan) -> list[dict]:
    """Return what the device can do at best: a large matrix product, and a copy into new memory.

    A CPU copies more slowly into memory that is new: the system hands it out, cleared, page by
    page. Large outputs of layers are new at each step.
    """
    side = 4096 if device.type == "cuda" else 2048
    a, b = torch.randn(2, side, side, device=device)
    x = torch.ones(2**26, device=device)
    rows = [
        ({"rate": "float32 product", "macs": side**3}, lambda: a @ b),
        ({"rate": "copy into new memory", "bytes": 2 * x.nbytes}, x.clone),
    ]
    return in_turn(rows, plan)


def network_times(device: torch.device, plan: Plan) -> list[dict]:
    """Return the times of a training step."""
    rows = []
    for precision in dict.fromkeys(["float32", fast_precision(device)]):
        for name, make in NETWORKS.items():
            batches = plan.batches
            if precision == "float32" and (device.type == "cuda" or name != "VGG-11"):
                batches += (plan.train_batch,)
            rows += _steps(name, _trainer(make, plan.side, device, precision), plan.side, batches)
        for name, make in SMALL_NETWORKS.items():
            rows += _steps(name, _trainer(make, 28, device, precision), 28, [plan.train_batch])
    return in_turn(rows, plan)


def _steps(name, trainer, side, batches) -> list:
    rows = []
    for batch in batches:
        row = {"network": name, "side": side, "precision": trainer.precision, "batch": batch}
        with suppress(torch.OutOfMemoryError):
            step = partial(trainer.step, trainer.prepare_batch(_Images(batch, side).batch))
            step()
            rows.append((row | {"pass": "step"}, step))
    return rows


def layer_times(device: torch.device, plan: Plan) -> list[dict]:
    """Return the times of each layer alone, forward and backward, as in a float32 training step.

    VGG-11 is left out: a batch of the recipe's size takes too long.
    """
    rows = {}
    networks = {n: make().to(device) for n, make in NETWORKS.items() if n != "VGG-11"}
    for _ in range(plan.rounds):
        for network, model in networks.items():
            X = torch.randn(plan.train_batch, 1, plan.side, plan.side, device=device)
            for layer, kind, forward, backward in _layers(model.train(), X, plan):
                row = {"network": network, "batch": plan.train_batch, "layer": layer, "kind": kind}
                row = rows.setdefault((network, layer), row | {"forward": [], "backward": []})
                row["forward"].append(forward)
                row["backward"].append(backward)
    return list(rows.values())


def _layers(model, X, plan):
    """Yield (name, kind, forward, backward), holding the tensors of one layer at a time."""
    for name, layer in model.named_modules():
        if any(layer.children()):
            continue
        Y = layer(X)
        if not isinstance(layer, nn.Flatten):  # which only looks at its input in another way
            wanted = [t for t in (X, *layer.parameters()) if t.requires_grad]
            forward = partial(layer, X)
            backward = partial(
                torch.autograd.grad, Y, wanted, torch.ones_like(Y), retain_graph=True
            )
            yield name, type(layer).__name__, _seconds(forward, plan), _seconds(backward, plan)
        X = Y.detach().requires_grad_()  # the images themselves need no gradient


def head_times(device: torch.device, plan: Plan) -> list[dict]:
    """Return the times of what follows the narrow VGG-11's blocks, as it is and made smaller.

    Heads are named as in book/experiments/fully_connected_cost.toml; "conv" is the head as
    convolutions, "none" a head without hidden layer or pooling, "-sparse" one in CSR form, "blocks"
    what stands before each. A head that this machine cannot run has no times, and says why.
    """
    rows, left_out = [], []
    for side, ranks in plan.ranks:
        for name, make in _heads(side, ranks, plan.keep).items():
            make, shape = cache(make), (128, side // 32, side // 32)
            for batch in plan.head_batches:
                row = {"side": side, "head": name, "batch": batch}
                X = torch.randn(batch, *((1, side, side) if name == "blocks" else shape))
                try:
                    run = torch.no_grad()(partial(make().to(device).eval(), X.to(device)))
                    run()
                    rows.append((row, run))
                except (ImportError, RuntimeError) as error:
                    reason = f"{type(error).__name__}: {error}".splitlines()[0]
                    left_out.append(row | {"seconds": [], "left_out": reason[:80]})
    return in_turn(rows, plan) + left_out


def _heads(side: int, ranks, keep) -> dict[str, Callable[[], nn.Module]]:
    """Return functions that make the heads of exercise 1.3, by name."""
    split = len(VGG_NARROW)

    def narrow(head=(4096, 4096)):
        model = VGG(VGG_NARROW, head=head)
        model.eval()(torch.zeros(1, 1, side, side))
        return model

    def svd(ranks):
        with torch.device("meta"):  # the time depends on shapes alone, and an SVD takes long
            head = compress.truncated_svd(narrow(), ranks).net[split:]
        head.to_empty(device="cpu")
        for p in head.parameters():
            nn.init.normal_(p, std=0.01)
        return head

    def pruned(share, sparse=False):
        head = compress.magnitude_pruning(whole, share).net[split:]
        for layer in head:
            if isinstance(layer, nn.Linear):
                parametrize.remove_parametrizations(layer, "weight")
                if sparse:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # that the format is in beta state
                        weight = layer.weight.detach().to_sparse_csr()
                    layer.weight = nn.Parameter(weight, requires_grad=False)
        return head

    whole = narrow()
    heads = {
        "blocks": lambda: whole.net[:split],
        "fc4096": lambda: whole.net[split:],
        "fc1024": lambda: narrow((1024, 1024)).net[split:],
        "fc256": lambda: narrow((256, 256)).net[split:],
        "none": lambda: narrow(()).net[split:],
        "gap": lambda: compress.global_average_pooling(whole).net[split:],
        "conv": lambda: compress.fc_as_conv(whole, (1, side, side)).net[split:],
        "int8": lambda: compress.int8(whole).net[split:],
    }
    for pair in ranks:
        heads[f"svd-{pair[0]}-{pair[1]}"] = partial(svd, pair)
    for share in keep:
        heads[f"pruned-{100 * share:g}"] = partial(pruned, share)
        heads[f"pruned-{100 * share:g}-sparse"] = partial(pruned, share, sparse=True)
    return heads


# --- clock and batches -----------------------------------------------------------------------


def in_turn(rows: list, plan: Plan) -> list[dict]:
    """Measure rows `(description, run)` in turn, and return each with its times as `seconds`.

    Those that a GPU's memory does not suffice for, beside what the others keep there, are left out.
    """
    for row, _ in rows:
        row["seconds"] = []
    for _ in range(plan.rounds):
        measured = []
        for row, run in rows:
            with suppress(torch.OutOfMemoryError):
                row["seconds"].append(_seconds(run, plan))
                measured.append((row, run))
        rows = measured
    return [row for row, _ in rows]


def _seconds(run: Callable, plan: Plan) -> float:
    """Return the time of a call, after one or more that only warm up."""
    from torch.utils.benchmark import Timer  # slow to import, and looks for a CUDA compiler

    timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=plan.seconds).median


class _Images(DataModule):
    """One batch of noise, whose labels are right once in ten."""

    def __init__(self, batch_size, side):
        super().__init__()
        self.batch = torch.randn(batch_size, 1, side, side), torch.arange(batch_size) % 10

    def get_dataloader(self, train):
        return [self.batch] if train else None


def _trainer(make, side, device, precision) -> Trainer:
    """Return a trainer that is ready for its first step."""
    on_gpu = device.type == "cuda"
    trainer = Trainer(max_epochs=1, num_gpus=int(on_gpu), precision=precision, seed=0)
    model = make()
    model.board.display = False
    trainer.start(model, _Images(1, side))
    return trainer


# --- the command -----------------------------------------------------------------------------


def run(options: argparse.Namespace) -> int:
    """Measure the devices of this machine and write a record of each."""
    torch.set_num_threads(options.threads)
    wanted = "cpu" if options.keep_memory else options.device
    devices = [d for d in dict.fromkeys([cpu(), *try_all_gpus()[:1]]) if wanted in (None, d.type)]
    if not devices:
        raise ValueError(f"there is no device {options.device!r} here")
    if options.keep_memory and not keep_memory():
        raise ValueError("this system's C library cannot be told to keep memory")
    for device in devices:
        load = hardware(device)["load_average"]
        if load is not None and load > 0.5:
            print(f"the machine is busy (load {load}): its times will be long", file=sys.stderr)
        record = measure(device, QUICK if options.quick else Plan())
        record["memory_kept"] = options.keep_memory
        kept = "-memory-kept" if options.keep_memory else ""
        path = options.results / f"{file_name(record['hardware'], device)}{kept}.json"
        write_json(path, record)
        note({path: path.read_bytes()})
        print(path)
    return 0


def file_name(machine: dict, device: torch.device) -> str:
    """Return the name of a machine's records."""
    name = machine["device"]
    if device.type == "cpu":  # processors of one name differ in their instructions
        name += f" {machine['processor']} {machine['cores']} cores {fast_precision(device)}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `python -m d2l_lab time`."""
    what = "networks, their layers and heads (the default), or a head in int8 by engine"
    parser.add_argument("--part", choices=("networks", "engines"), default="networks", help=what)
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--device", choices=("cpu", "cuda"), help="only this one")
    keep = "only the CPU, and with memory that is kept from step to step"
    one.add_argument("--keep-memory", action="store_true", help=keep)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads")
    parser.add_argument("--quick", action="store_true", help="small images, once: a rehearsal")
    parser.add_argument("--results", type=Path, default=Path("book/results/speed"))
