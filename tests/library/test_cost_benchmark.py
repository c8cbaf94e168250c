"""What it takes to count VGG-19, beside torchsummary on the same network.

`pytest -s tests/test_cost_benchmark.py` prints the figures.
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
    """Adds up the memory of all tensors that come into being, those on the meta device aside."""

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


def lazy_vgg19():
    return d2l.VGG(arch=d2l.VGG_ARCHS["E"], num_classes=1000)


@pytest.fixture(scope="module")
def vgg19():
    """VGG-19 with weights, which torchsummary needs: zeros, since that is fast."""
    with torch.device("meta"), torch.no_grad():
        net = lazy_vgg19()
        net(torch.empty(1, *IMAGE))
    net.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    return net


def count(net):
    return sum(row.params for row in d2l.layer_costs(net, IMAGE))


def best_seconds(times, function, *arguments, **options):
    def seconds():
        start = time.perf_counter()
        function(*arguments, **options)
        return time.perf_counter() - start

    return min(seconds() for _ in range(times))


def test_time(vgg19, capsys):
    lazy = best_seconds(20, count, lazy_vgg19())
    real = best_seconds(20, count, vgg19)
    summary = best_seconds(2, torchsummary.summary, vgg19, IMAGE, device="cpu")
    assert f"{PARAMETERS:,}" in capsys.readouterr().out  # it did the same work
    with capsys.disabled():
        print(
            f"\nVGG-19 at 224: counted in {lazy * 1e3:.0f} ms while it is lazy, in "
            f"{real * 1e3:.0f} ms with weights; torchsummary {summary * 1e3:.0f} ms, "
            f"{summary / real:.0f} times as long"
        )
    assert lazy < 0.1
    assert real < 0.1
    assert summary > 5 * real


def test_memory(vgg19, capsys):
    with Allocations() as lazy:
        assert count(lazy_vgg19()) == PARAMETERS
    with Allocations() as real:
        assert count(vgg19) == PARAMETERS
    with Allocations() as summary:
        torchsummary.summary(vgg19, IMAGE, device="cpu")
    capsys.readouterr()
    with capsys.disabled():
        print(f"\nTensors made for it: {lazy.bytes} bytes; by torchsummary {summary.bytes:,}")
    assert lazy.bytes == real.bytes == 0
    assert summary.bytes > 100e6  # two images' activations


def test_allocations_sees_weights_and_activations():
    net = lazy_vgg19().net[:2]  # two blocks
    with Allocations() as made, torch.no_grad():
        net(torch.zeros(1, 3, 8, 8))
    weights = sum(p.numel() for p in net.parameters())
    convolutions = 2 * 64 * 8 * 8 + 2 * 128 * 4 * 4
    assert made.bytes > 4 * (weights + convolutions)
