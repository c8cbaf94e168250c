"""Several processes that train one model, each with its share of every batch.

`torchrun --nproc-per-node 2 train.py` starts them. Otherwise there is one process, and nothing
here does anything.
"""

import atexit
import os
from collections.abc import Iterable
from functools import cache

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from d2l_utils.device import gpu, num_gpus

__all__ = ["agree", "own_gpus", "processes", "share", "total", "training_step"]


@cache
def processes() -> tuple[int, int]:
    """Return the number of this process, from 0, and how many there are.

    >>> processes()
    (0, 1)
    """
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        return 0, 1
    dist.init_process_group()  # they meet; NCCL on CUDA, gloo on the CPU
    atexit.register(dist.destroy_process_group)
    return dist.get_rank(), dist.get_world_size()


def own_gpus(wanted: int) -> list[torch.device]:
    """Return the first `wanted` GPUs; each of several processes takes one of its own."""
    gpus = [gpu(i) for i in range(num_gpus())]
    if processes()[1] > 1 and wanted and gpus:
        mine = gpus[int(os.environ["LOCAL_RANK"]) % len(gpus)]
        torch.accelerator.set_device_index(mine.index)
        return [mine]
    return gpus[:wanted]


def share(batch) -> tuple[list, float]:
    """Return this process's samples of a batch, and which part of the batch they are.

    >>> share([torch.zeros(8, 1), torch.zeros(8)])[1]
    1.0
    """
    rank, size = processes()
    if size == 1:
        return batch, 1.0
    if len(batch[-1]) <= rank:  # the others wait for this process: it takes a sample, of no weight
        return [a[:1] for a in batch], 0.0
    mine = [a[rank::size] for a in batch]
    return mine, len(mine[-1]) / len(batch[-1])


class _TrainingStep(nn.Module):
    """A training step as a forward pass, which is what torch's data parallelism can follow."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        return self.model.training_step(batch)


def training_step(trainer, batch, part: float) -> tuple:
    """Return a loss whose gradient, averaged over all processes, is the batch's; and its value.

    For a loss that is a mean over samples. Batch normalisation sees the process's share alone.
    """
    size = processes()[1]
    if size == 1:
        loss = trainer.model.training_step(batch)
        return loss, loss
    parallel = vars(trainer).get("_parallel")
    if parallel is None or parallel.module.model is not trainer.model:
        trainer._parallel = parallel = DistributedDataParallel(_TrainingStep(trainer.model))
    loss = parallel(batch)
    value = loss.detach() * part
    dist.all_reduce(value)
    return loss * (part * size), value


def total(numbers: list[float]) -> list[float]:
    """Return the sums over all processes."""
    if processes()[1] == 1:
        return numbers
    sums = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(sums)
    return sums.tolist()


def agree(sources: Iterable[torch.Generator]) -> None:
    """Give random generators the states of process 0's, so that all draw the same order."""
    if processes()[1] > 1:
        for source in sources:
            state = source.get_state()
            dist.broadcast(state, 0)
            source.set_state(state)
