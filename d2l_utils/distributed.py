"""Several processes that train one model, each with its share of every batch.

`torchrun --nproc-per-node 2 train.py` starts them; one process alone does nothing here.
"""

import atexit
from functools import cache, partial

import torch
from torch import distributed as dist

from d2l_utils.device import gpu, num_gpus

__all__ = ["add_up", "agree", "own_gpus", "processes", "share"]


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
        gpus = [gpus[dist.get_node_local_rank() % len(gpus)]]
        torch.accelerator.set_device_index(gpus[0].index)
    return gpus[:wanted]


def share(batch) -> tuple[list, int]:
    """Return this process's samples of a batch, and how many of them count."""
    rank, size = processes()
    if size == 1:
        return batch, len(batch[-1])
    if len(batch[-1]) <= rank:  # none is left; one that does not count keeps it in step
        return [a[:1] for a in batch], 0
    mine = [a[rank::size] for a in batch]
    return mine, len(mine[-1])


@torch.no_grad()
def add_up(tensors, collective=None) -> None:
    """Replace tensors by their sums over all processes, or by what another collective gives."""
    if processes()[1] > 1:
        for tensor in tensors:
            whole = tensor.contiguous()  # which channels_last weights and gradients are not
            (collective or dist.all_reduce)(whole)
            tensor.copy_(whole)


def agree(model, sources) -> None:
    """Give a model's tensors and random generators the values of process 0's."""
    if processes()[1] == 1:
        return
    if not list(model.parameters()):
        raise TypeError(f"{type(model).__name__} has no parameters() for processes to share")
    states = {source: source.get_state() for source in sources}
    tensors = [*model.parameters(), *model.buffers(), *states.values()]
    add_up(tensors, partial(dist.broadcast, src=0))
    for source, state in states.items():
        source.set_state(state)
