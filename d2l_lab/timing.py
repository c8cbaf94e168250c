"""How long the networks take on this machine, and on a GPU in how much memory: one JSON file each.

Other libraries are not compared here but in `bench`.

Let the machine rest meanwhile: six minutes on two cores. How many threads there are is up to torch,
and so to OMP_NUM_THREADS.
"""

import argparse
import datetime
import gc
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from d2l_lab.clock import Batches, about, file_name, in_turn, keep, noise, seconds
from d2l_lab.heads import head_times
from d2l_utils.device import cpu, fast_precision, keep_memory, try_all_gpus
from d2l_utils.models import VGG, VGG_ARCHS, VGG_NARROW, AlexNet
from d2l_utils.trainer import Trainer

LR = 1e-6  # takes the time of any other, and however often a step is repeated the weights stay

NETWORKS = {
    "VGG-11": lambda: VGG(VGG_ARCHS["A"], LR),
    "narrow VGG-11": lambda: VGG(VGG_NARROW, LR),
    "AlexNet": lambda: AlexNet(LR),
}

# Exercise 4's three blocks at 28 x 28; the second passes the section's accuracy in one epoch.
SMALL_NETWORKS = {
    "low resolution": lambda: VGG(((2, 32), (2, 64), (2, 128)), LR, head="gap", batch_norm=True),
    "fast": lambda: VGG(((1, 16), (2, 32), (2, 64)), LR, head="gap", batch_norm=True),
}


@dataclass(frozen=True)
class Plan:
    """What is measured; the defaults are what is recorded."""

    side: int = 224  # height and width of the images
    batches: tuple[int, ...] = (1, 16)  # for all networks; on a GPU, those that fit
    train_batch: int = 128  # of the section's recipe; on a CPU, VGG-11 is left out there
    # The image sides at which heads are measured, and the ranks of truncated SVD there.
    ranks: tuple[tuple[int, tuple[tuple[int, int], ...]], ...] = (
        (32, ((64, 256), (32, 32), (8, 8))),
        (224, ((1024, 256),)),
    )
    keep: tuple[float, ...] = (0.04, 0.01)  # the shares of weights that pruning keeps
    head_batches: tuple[int, ...] = (1, 64)
    rounds: int = 3
    seconds: float = 0.1  # the least time that a measurement of a round goes on for


QUICK = Plan(96, (1,), 2, ranks=((32, ((8, 8),)),), head_batches=(1, 2), rounds=1, seconds=0)


def run(options: argparse.Namespace) -> int:
    """Measure the devices of this machine and write a record of each."""
    if options.keep_memory and not keep_memory():
        raise ValueError("this system's C library cannot be told to keep memory")
    for device in [cpu()] if options.keep_memory else dict.fromkeys([cpu(), *try_all_gpus()[:1]]):
        record = measure(device, QUICK if options.quick else Plan())
        record["memory_kept"] = options.keep_memory
        kept = "-memory-kept" if options.keep_memory else ""
        keep(record, file_name(record["hardware"], device) + kept, options)
    return 0


def measure(device: torch.device, plan: Plan) -> dict:
    """Return the record of a device; what is not measured on a device of its kind is empty."""
    record = about(device, plan) | {
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
    rows = []
    for name, make in NETWORKS.items():
        for batch in (*plan.batches, plan.train_batch):
            with suppress(torch.OutOfMemoryError):
                peak = _peak(_trainer(make, plan.side, device, "float32"), noise(batch, plan.side))
                rows.append({"network": name, "batch": batch, "peak_bytes": peak})
            gc.collect()
    return rows


def _peak(trainer, batch) -> int:
    images = trainer.prepare_batch(batch)
    torch.cuda.reset_peak_memory_stats(trainer.device)
    for _ in range(2):  # in the second, the gradients of the first are there from the start
        trainer.step(images)
    return torch.cuda.max_memory_allocated(trainer.device)


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


def _trainer(make, side, device, precision) -> Trainer:
    """Return a trainer that is ready for its first step."""
    trainer = Trainer(1, num_gpus=int(device.type == "cuda"), precision=precision, seed=0)
    model = make()
    model.board.display = False
    trainer.start(model, Batches(noise(1, side)))
    return trainer


def _steps(name, trainer, side, batches) -> list:
    rows = []
    for batch in batches:
        row = {"network": name, "side": side, "precision": trainer.precision, "batch": batch}
        with suppress(torch.OutOfMemoryError):
            step = partial(trainer.step, trainer.prepare_batch(noise(batch, side)))
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
            gradient = partial(
                torch.autograd.grad, Y, wanted, torch.ones_like(Y), retain_graph=True
            )
            times = (seconds(run, plan.seconds) for run in (partial(layer, X), gradient))
            yield name, type(layer).__name__, *times
        X = Y.detach().requires_grad_()  # the images themselves need no gradient
