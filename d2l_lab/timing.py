"""How long the networks take on this machine, and on a GPU in how much memory: one JSON file each.

    python -m d2l_lab time                              # the CPU and, if there is one, the GPU
    python -m d2l_lab time --keep-memory                # the CPU, with `d2l.keep_memory()`
    python -m d2l_lab time --quick --results rehearsal  # one minute, small images
    python -m d2l_lab time --part network_times         # one part; the others stay empty

Let the machine rest meanwhile: six minutes on two cores. A record is `<results>/<device>.json`, or
`<device>-memory-kept.json` where memory was kept, written whole or not at all. All that is to be
compared is measured in turn, round by round, and a record keeps one time a round, so that time `i`
of one row was taken next to time `i` of another.
It needs torch and numpy only; the int8 head is left out where torchao is not installed.
"""

import argparse
import datetime
import gc
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
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
from d2l_utils.models import VGG, VGG_ARCHS, AlexNet
from d2l_utils.trainer import Trainer

__all__ = ["Plan", "head_times", "layer_times", "measure", "network_times", "peak_memory", "rates"]

NARROW = ((1, 16), (1, 32), (2, 64), (2, 128), (2, 128))
LR = 1e-6  # takes the time of any other, and however often a step is repeated the weights stay

NETWORKS = {
    "VGG-11": lambda: VGG(VGG_ARCHS["A"], LR),
    "narrow VGG-11": lambda: VGG(NARROW, LR),
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
        layers_batch: the batch size for VGG-11's layers; the others' are taken at `train_batch`.
        ranks: the image sides at which heads are measured, and the ranks of truncated SVD there.
        keep: the shares of weights that pruning keeps.
        head_batches: batch sizes for heads.
        rounds: times that everything is measured.
        seconds: the least time that a measurement of a round goes on for.
    """

    side: int = 224
    batches: tuple[int, ...] = (1, 16)
    train_batch: int = 128
    layers_batch: int = 16
    ranks: tuple[tuple[int, tuple[tuple[int, int], ...]], ...] = (
        (32, ((64, 256), (32, 32), (8, 8))),
        (224, ((1024, 256),)),
    )
    keep: tuple[float, ...] = (0.04, 0.01)
    head_batches: tuple[int, ...] = (1, 64)
    rounds: int = 3
    seconds: float = 0.1


QUICK = Plan(
    side=96,
    batches=(1,),
    train_batch=2,
    layers_batch=2,
    ranks=((32, ((8, 8),)),),
    head_batches=(1, 2),
    rounds=1,
    seconds=0,
)


def measure(device: torch.device, plan: Plan, parts: Sequence[str] | None = None) -> dict:
    """Return the record of a device, of all parts or of these, in minutes; the others are empty."""
    before = hardware(device)  # with the load before this run adds its own
    record = {
        "hardware": before,
        "versions": versions(),
        "plan": asdict(plan),
        "tf32": {
            "convolutions": torch.backends.cudnn.allow_tf32,
            "products": torch.backends.cuda.matmul.allow_tf32,
        },
        "finished": datetime.date.today().isoformat(),
    }
    for name, part in PARTS.items():
        record[name] = []
        if parts is None or name in parts:
            print(f"{before['device']}: {name}", flush=True)
            record[name] = part(device, plan)
        gc.collect()  # a model and its trainer know each other, so they go only now
    return record


# --- the parts of a record -------------------------------------------------------------------


def peak_memory(device: torch.device, plan: Plan) -> list[dict]:
    """Return the most bytes of tensors that two training steps hold at once; on a GPU only."""
    rows = []
    for name, make in NETWORKS.items() if device.type == "cuda" else ():
        for batch in (*plan.batches, plan.train_batch):
            with suppress(torch.OutOfMemoryError):
                peak = _peak(make, batch, plan.side, device)
                rows.append({"network": name, "batch": batch, "peak_bytes": peak})
            gc.collect()
    return rows


def _peak(make, batch, side, device) -> int:
    trainer = _trainer(make, side, device, "float32")
    images = _batch(trainer, batch, side)
    torch.cuda.reset_peak_memory_stats(device)
    for _ in range(2):  # in the second, the gradients of the first are there from the start
        trainer.step(images)
    return torch.cuda.max_memory_allocated(device)


def rates(device: torch.device, plan: Plan) -> list[dict]:
    """Return what the device can do at best: large matrix products, and copies in memory.

    A CPU copies more slowly into memory that is new: the system hands it out, cleared, page by
    page. Large outputs of layers are new at each step.
    """
    side = 4096 if device.type == "cuda" else 2048
    a, b = torch.randn(2, side, side, device=device)
    half_a, half_b = a.bfloat16(), b.bfloat16()
    x = torch.ones(2**26, device=device)
    y = torch.ones_like(x)
    rows = [
        ({"rate": "float32 product", "macs": side**3}, lambda: a @ b),
        ({"rate": "copy", "bytes": 2 * x.nbytes}, lambda: y.copy_(x)),
        ({"rate": "copy into new memory", "bytes": 2 * x.nbytes}, x.clone),
    ]
    if fast_precision(device) == "bfloat16":  # without instructions for it, it takes a minute
        rows.append(({"rate": "bfloat16 product", "macs": side**3}, lambda: half_a @ half_b))
    return _in_turn(rows, plan)


def network_times(device: torch.device, plan: Plan) -> list[dict]:
    """Return the times of a forward pass, of a training step, and of the step's SGD alone."""
    rows = []
    for precision in dict.fromkeys(["float32", fast_precision(device)]):
        for name, make in NETWORKS.items():
            trainer = _trainer(make, plan.side, device, precision)
            batches = plan.batches
            if precision == "float32" and (device.type == "cuda" or name != "VGG-11"):
                batches += (plan.train_batch,)
            for batch in batches:
                row = {"network": name, "side": plan.side, "precision": precision, "batch": batch}
                rows += _passes(row, trainer)
        for name, make in SMALL_NETWORKS.items():
            row = {"network": name, "side": 28, "precision": precision, "batch": plan.train_batch}
            rows += _passes(row, _trainer(make, 28, device, precision))
    return _in_turn(rows, plan)


def _passes(row, trainer):
    def forward():
        trainer.model.eval()
        bfloat16 = row["precision"] == "bfloat16"
        with torch.no_grad(), torch.autocast(trainer.device.type, torch.bfloat16, bfloat16):
            trainer.model(images[0])

    def step():
        trainer.model.train()
        trainer.step(images)

    try:
        images = _batch(trainer, row["batch"], row["side"])
        step()  # gives the weights the gradients that SGD alone needs
    except torch.OutOfMemoryError:
        return []
    passes = {"forward": forward, "step": step, "SGD": trainer.optim.step}
    return [(row | {"pass": name}, run) for name, run in passes.items()]


def layer_times(device: torch.device, plan: Plan) -> list[dict]:
    """Return the times of each layer alone, forward and backward, as in a float32 training step."""
    rows = {}
    networks = {name: make().to(device) for name, make in NETWORKS.items()}
    for _ in range(plan.rounds):
        for name, model in list(networks.items()):
            batch = plan.layers_batch if name == "VGG-11" else plan.train_batch
            try:
                X = torch.randn(batch, 1, plan.side, plan.side, device=device)
                for layer, kind, forward, backward in _layers(model.train(), X, plan):
                    row = {"network": name, "batch": batch, "layer": layer, "kind": kind}
                    row = rows.setdefault((name, layer), row | {"forward": [], "backward": []})
                    row["forward"].append(forward)
                    row["backward"].append(backward)
            except torch.OutOfMemoryError:
                del networks[name]
    return [row for row in rows.values() if row["network"] in networks]


def _layers(model, X, plan):
    """Yield (name, kind, forward, backward), holding the tensors of one layer at a time."""
    for name, layer in model.named_modules():
        if any(layer.children()):
            continue
        Y = layer(X)
        if not isinstance(layer, nn.Flatten):  # which only looks at its input in another way
            wanted = [t for t in (X, *layer.parameters()) if t.requires_grad]
            gradient = torch.ones_like(Y)
            forward = partial(layer, X)
            backward = partial(torch.autograd.grad, Y, wanted, gradient, retain_graph=True)
            kind = type(layer).__name__
            yield name, kind, _seconds(forward, plan), _seconds(backward, plan)
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
            shape = (1, side, side) if name == "blocks" else (NARROW[-1][1], side // 32, side // 32)
            made = cache(lambda make=make: make().to(device).eval())
            for batch in plan.head_batches:
                row = {"side": side, "head": name, "batch": batch}
                try:
                    if name == "int8" and device.type == "cuda":
                        raise RuntimeError("torchao multiplies by ten columns on the CPU")
                    run = partial(_forward, made(), torch.randn(batch, *shape, device=device))
                    run()
                except (ImportError, RuntimeError) as error:
                    reason = f"{type(error).__name__}: {error}".splitlines()[0]
                    left_out.append(row | {"seconds": [], "left_out": reason[:80]})
                else:
                    rows.append((row, run))
    return _in_turn(rows, plan) + left_out


@torch.no_grad()
def _forward(net, X):
    return net(X)


def _heads(side: int, ranks, keep) -> dict[str, Callable[[], nn.Module]]:
    """Return functions that make the heads of exercise 1.3, by name."""
    split = len(NARROW)

    def narrow(head=(4096, 4096)):
        model = VGG(NARROW, head=head)
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
                    weight = _sparse(layer.weight.detach())
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


def _sparse(weight):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says at each use that the format is in beta state
        return weight.to_sparse_csr()


PARTS = {f.__name__: f for f in (peak_memory, rates, network_times, layer_times, head_times)}


# --- clock and batches -----------------------------------------------------------------------


def _in_turn(rows, plan: Plan) -> list[dict]:
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
    trainer.start(make(), _Images(1, side))
    return trainer


def _batch(trainer, batch_size, side):
    return trainer.prepare_batch(_Images(batch_size, side).batch)


# --- the command -----------------------------------------------------------------------------


def run(options: argparse.Namespace) -> int:
    """Measure the devices of this machine and write a record of each."""
    torch.set_num_threads(options.threads)
    wanted = "cpu" if options.keep_memory else options.device
    devices = dict.fromkeys([cpu(), *try_all_gpus()[:1]])
    devices = [d for d in devices if wanted in (None, d.type)]
    if not devices:
        raise ValueError(f"there is no device {options.device!r} here")
    if options.keep_memory and not keep_memory():
        raise ValueError("this system's C library cannot be told to keep memory")
    for device in devices:
        load = hardware(device)["load_average"]
        if load is not None and load > 0.5:
            print(f"the machine is busy (load {load}): its times will be long", file=sys.stderr)
        record = measure(device, QUICK if options.quick else Plan(), options.part)
        record["memory_kept"] = options.keep_memory
        kept = "-memory-kept" if options.keep_memory else ""
        path = options.results / f"{_file_name(record['hardware'], device)}{kept}.json"
        write_json(path, record)
        note(path)
        print(path)
    return 0


def _file_name(machine: dict, device: torch.device) -> str:
    name = machine["device"]
    if device.type == "cpu":  # processors of one name differ in their instructions
        name += f" {machine['processor']} {machine['cores']} cores {fast_precision(device)}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `python -m d2l_lab time`."""
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--device", choices=("cpu", "cuda"), help="only this one")
    keep = "only the CPU, and with memory that is kept from step to step"
    one.add_argument("--keep-memory", action="store_true", help=keep)
    part = "only this one, the others stay empty (repeatable)"
    parser.add_argument("--part", action="append", choices=PARTS, help=part)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads")
    parser.add_argument("--quick", action="store_true", help="small images, once: a rehearsal")
    parser.add_argument("--results", type=Path, default=Path("book/results/speed"))
