"""Copies of networks on the meta device, where tensors have shapes and hold no numbers."""

import copy
import inspect
import operator
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from d2l_utils.work import tensors

__all__ = ["materialize", "on_meta", "with_copy"]


def materialize(net: nn.Module, input_shape: Sequence[int]) -> nn.Module:
    """Return a copy of the network on the meta device, its lazy layers' shapes known.

    It can be printed, walked through and counted, and holds no numbers. It is in evaluation mode.
    `net` and `input_shape` are as for `layer_costs`, which raises the same errors.

    >>> materialize(nn.Sequential(nn.LazyConv2d(64, 3)), (1, 224, 224))[0].weight.shape
    torch.Size([64, 1, 3, 3])
    """

    def run(twin, X):
        with torch.no_grad():
            twin.eval()(X)
        return twin

    return on_meta(with_copy(net, input_shape, run))


def on_meta(net: nn.Module) -> nn.Module:
    """Return a copy of the network on the meta device, made without copying any weight.

    Lazy layers stay lazy, and layers that share weights go on sharing them.

    Raises:
        ValueError: if it holds weights that are no plain tensors.
    """
    return _copy_to("meta", net)


def _copy_to(device, net):
    # A deep copy takes what is in its memo from there, and so copies none of these tensors.
    memo = {id(t): _twin(t, device) for module in net.modules() for t in tensors(vars(module))}
    # Nor a module's dozen empty dicts, for hooks, which would take longest of all.
    held = [value for module in net.modules() for value in vars(module).values()]
    empty = [value for value in held if type(value) in (dict, OrderedDict) and not value]
    return copy.deepcopy(net, memo | {id(value): type(value)() for value in empty})


def _twin(tensor, device):
    if nn.parameter.is_lazy(tensor):
        return type(tensor)(device=device, dtype=tensor.dtype)
    try:
        like = torch.empty_like(tensor, device="meta")
    except NotImplementedError as error:
        raise ValueError(
            f"the network holds weights of the type {type(tensor).__name__}, which are not counted "
            "here; plain tensors are: give the network as it was before it was quantised"
        ) from error
    twin = like if device == "meta" else tensor.detach().to(device, copy=True)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(twin, tensor.requires_grad)
    return twin.requires_grad_(tensor.requires_grad and tensor.is_leaf)


def with_copy(net, input_shape, count):
    """Return `count(copy, X)`, of a copy and an input on the meta device.

    If the network's `forward` needs numbers, they lie on the CPU instead, and X holds zeros.

    Raises:
        ValueError: if the network does not take this input, or takes several.
    """
    takes = inspect.signature(net.forward).parameters.values()
    needed = [p.name for p in takes if p.default is p.empty and p.kind < p.VAR_POSITIONAL]
    if len(needed) > 1:
        raise ValueError(
            f"the network takes several inputs, {', '.join(needed)}; it must take one to be counted"
        )
    shape = _batch_shape(input_shape)
    try:
        return count(on_meta(net), torch.empty(shape, device="meta"))
    except ValueError:
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and "meta" not in str(error).lower():
            raise ValueError(f"the network cannot take an input of {shape}: {error}") from error
    try:
        # Torch's counter passes over the fused attention that a CPU has.
        with torch.random.fork_rng(devices=[]), sdpa_kernel(SDPBackend.MATH):
            return count(_copy_to("cpu", net), torch.zeros(shape))
    except RuntimeError as error:
        raise ValueError(f"the network cannot take an input of {shape}: {error}") from error


def _batch_shape(input_shape):
    shape = tuple(input_shape) if isinstance(input_shape, Sequence) else ()
    if len(shape) == 3:
        shape = (1, *shape)
    if len(shape) != 4 or any(isinstance(n, Sequence) or operator.index(n) < 1 for n in shape):
        raise ValueError(
            f"input_shape is {input_shape!r}; it must be (channels, h, w) or (n, channels, h, w), "
            "integers from 1: the shape of the one input that is counted"
        )
    return shape
