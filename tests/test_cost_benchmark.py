"""Counting VGG-19 is fast and makes no weights; `pytest -s tests/test_cost_benchmark.py` says how fast.

Beside it, torchsummary on the same network, which needs its weights and runs it on two images.
"""

import time

import pytest
import torch
import torchsummary
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import d2l_utils as d2l

IMAGE = (3, 224, 224)
PARAMETERS = 143_667_240


class Allocations(TorchDispatchMode):
    """Adds up the bytes of all storages that come into being, those on the meta device aside."""

    def __init__(self):
        super().__init__()
        self.storages = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.device.type != "meta":
                storage = tensor.untyped_storage()
                self.storages[storage._cdata] = storage  # held, so that its address stays taken
        return result

    @property
    def bytes(self):
        return sum(storage.nbytes() for storage in self.storages.values())


def vgg19(device=None):
    """VGG-19: without a device its layers are lazy and have no weights yet."""
    net = d2l.VGG(arch=d2l.VGG_ARCHS["E"], num_classes=1000)
    if device is None:
        return net
    with torch.device("meta"), torch.no_grad():
        net.to("meta")(torch.empty(1, *IMAGE))
    net.to_empty(device=device)
    for p in net.parameters():
        torch.nn.init.zeros_(p)
    return net


def best_seconds(function, times):
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
