"""What a network costs, layer by layer: parameters, multiply-accumulates, activations, memory.

Everything is counted on torch's meta device, which knows shapes and holds no numbers: VGG-19 takes
milliseconds and no memory. The network itself is left as it was, lazy layers included.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrize

__all__ = ["LayerCost", "SavedTensor", "layer_costs", "materialize", "on_meta", "saved_tensors"]


@dataclass(frozen=True)
class LayerCost:
    """The cost of one weight layer in a forward pass.

    Attributes:
        name: the layer's name in `net.named_modules()`.
        kind: "conv" or "fc".
        output_shape: the shape of its (last) output, batch first.
        params: weights and biases.
        macs: multiply-accumulates, without the additions of the bias; FLOPs are twice as many.
        activations: numbers in its output.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    params: int
    macs: int
    activations: int


@dataclass(frozen=True)
class SavedTensor:
    """A tensor that autograd keeps for the backward pass.

    Attributes:
        name: the layer that keeps it (if several do, the first).
        kind: the layer's class, such as "ReLU".
        shape: its shape.
        dtype: its element type.
        bytes: its size in memory.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    bytes: int


def layer_costs(net: nn.Module, input_shape: Sequence[int]) -> list[LayerCost]:
    """Return one row a weight layer, in the order in which they first run.

    A layer that runs twice has one row: its parameters count once, its work twice. Weights that
    layers share count for the first of them.

    Args:
        net: any network of convolutional and linear layers. Layers that only scale or normalise,
            as batch normalisation does, are no weight layers and get no row.
        input_shape: `(n, channels, h, w)`, or `(channels, h, w)` for one image.

    Raises:
        ValueError: if the shape is not one of these, the image too small, or the net holds weights
            that this cannot count or copy.

    >>> net = nn.Sequential(nn.LazyConv2d(64, 3, padding=1), nn.ReLU(), nn.Flatten(),
    ...                     nn.LazyLinear(10))
    >>> for row in layer_costs(net, (3, 32, 32)):
    ...     print(row.name, row.kind, row.output_shape, row.params, row.macs)
    0 conv (1, 64, 32, 32) 1792 1769472
    3 fc (1, 10) 655370 655360
    """
    work: dict[str, tuple[int, int, tuple[int, ...]]] = {}
    meta, X = on_meta(net).float(), _meta_input(input_shape)  # no count depends on the precision
    layers = {name: m for name, m in meta.named_modules() if _is_weight_layer(name, m)}

    def count(name, layer, output):
        macs, activations, _ = work.get(name, (0, 0, ()))
        macs += output.numel() * _macs_an_output(layer)
        work[name] = (macs, activations + output.numel(), tuple(output.shape))

    for name, layer in layers.items():
        layer.register_forward_hook(lambda m, _, out, name=name: count(name, m, out))
    with torch.no_grad():
        _run(meta.eval(), X)
    rows, counted = [], set()
    for name, (macs, activations, shape) in work.items():
        own = set(layers[name].parameters()) - counted
        counted |= own
        kind = "fc" if isinstance(layers[name], nn.Linear) else "conv"
        params = sum(p.numel() for p in own)
        rows.append(LayerCost(name, kind, shape, params, macs, activations))
    return rows


def saved_tensors(
    net: nn.Module, input_shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> list[SavedTensor]:
    """Return what autograd keeps between forward and backward pass of a training step.

    Memory that several layers share is counted once, for the layer that asked for it first;
    weights are left out, since they are there anyway. The input is in, if a layer keeps it.

    Args:
        net: the network, counted in training mode.
        input_shape: `(n, channels, h, w)`, or `(channels, h, w)` for one image.
        dtype: element type of weights and activations.

    Raises:
        ValueError: as `layer_costs`.

    >>> net = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(1))
    >>> [(t.kind, t.shape, t.bytes) for t in saved_tensors(net, (2, 3, 8, 8))][:2]
    [('Linear', (48, 8), 1536), ('ReLU', (2, 3, 8, 4), 768)]
    """
    meta = on_meta(net).to(dtype).train()
    X = _meta_input(input_shape).to(dtype)
    with torch.no_grad():
        _run(meta, X)  # lazy layers get their weights, so that they can be told apart below
    weights = {id(p) for p in meta.parameters()} | {id(b) for b in meta.buffers()}
    kept: dict[int, tuple[torch.UntypedStorage, SavedTensor]] = {}

    with _current_layer(meta) as current:

        def pack(tensor):
            storage = tensor.untyped_storage()
            is_weight = id(tensor) in weights or id(tensor._base) in weights
            if not is_weight and storage._cdata not in kept:
                name, kind = current[-1]
                size = storage.nbytes()
                row = SavedTensor(name, kind, tuple(tensor.shape), tensor.dtype, size)
                kept[storage._cdata] = (storage, row)  # held, so that the address stays taken
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            _run(meta, X)
    return [row for _, row in kept.values()]


def on_meta(net: nn.Module) -> nn.Module:
    """Return a copy of the network on the meta device, made without copying any weight.

    Lazy layers stay lazy, and layers that share weights go on sharing them.

    Raises:
        ValueError: if the network cannot be copied so.

    >>> on_meta(nn.Linear(4096, 4096)).weight.device
    device(type='meta')
    """
    memo = {}
    for tensor in (*net.parameters(), *net.buffers()):
        memo[id(tensor)] = _meta_twin(tensor)
    try:
        return copy.deepcopy(net, memo)
    except RuntimeError as error:
        raise ValueError(
            "the network cannot be copied, for it holds tensors computed from its weights, as "
            "torch.nn.utils.prune leaves them; prune.remove makes them weights again"
        ) from error


def materialize(net: nn.Module, input_shape: Sequence[int]) -> nn.Module:
    """Return a copy of the network on the meta device, its lazy layers' shapes known.

    It can be printed, walked through and counted, and holds no numbers. It is in evaluation mode.

    Args:
        net: the network, left as it was.
        input_shape: `(n, channels, h, w)`, or `(channels, h, w)` for one image.

    Raises:
        ValueError: as `layer_costs`.

    >>> materialize(nn.Sequential(nn.LazyConv2d(64, 3)), (1, 224, 224))[0].weight.shape
    torch.Size([64, 1, 3, 3])
    """
    meta = on_meta(net).eval()
    with torch.no_grad():
        _run(meta, _meta_input(input_shape))
    return meta


def _meta_twin(tensor):
    if nn.parameter.is_lazy(tensor):
        return type(tensor)(device="meta", dtype=tensor.dtype)
    try:
        twin = torch.empty_like(tensor, device="meta")
    except NotImplementedError as error:
        raise ValueError(
            f"the network holds weights of the type {type(tensor).__name__}, which are not counted "
            "here; plain tensors are: give the network as it was before it was quantised"
        ) from error
    is_parameter = isinstance(tensor, nn.Parameter)
    return nn.Parameter(twin, tensor.requires_grad) if is_parameter else twin


def _meta_input(input_shape):
    shape = tuple(input_shape) if isinstance(input_shape, Sequence) else ()
    if len(shape) not in (3, 4) or not all(isinstance(n, int) and n >= 1 for n in shape):
        raise ValueError(
            f"input_shape is {input_shape!r}; it must be (channels, h, w) or (n, channels, h, w), "
            "whole numbers from 1"
        )
    return torch.empty(shape if len(shape) == 4 else (1, *shape), device="meta")


def _run(net, X):
    try:
        return net(X)
    except RuntimeError as error:
        raise ValueError(
            f"the network cannot take an input of {tuple(X.shape)}: {error}"
        ) from error


# Their weights scale numbers and are no multiply-accumulates, whatever their shape.
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def _is_weight_layer(name: str, module: nn.Module) -> bool:
    if isinstance(module, nn.Linear | nn.Conv2d):
        return True
    if isinstance(module, parametrize.ParametrizationList):
        return False  # it holds the weight of the layer that it belongs to
    own = list(module.parameters(recurse=False))
    if isinstance(module, _NORMS):
        return False
    if any(nn.parameter.is_lazy(p) or p.dim() > 1 for p in own):
        raise ValueError(
            f"layer {name!r} is a {type(module).__name__}, which is not counted here; "
            "Conv2d and Linear are"
        )
    return False


def _macs_an_output(layer) -> int:
    """Return the multiply-accumulates that one number of the layer's output takes."""
    if isinstance(layer, nn.Linear):
        return layer.in_features
    return layer.in_channels // layer.groups * math.prod(layer.kernel_size)


@contextmanager
def _current_layer(net) -> Iterator[list[tuple[str, str]]]:
    """Yield a stack whose last item is the name and class of the leaf layer that runs now."""
    stack = [("", type(net).__name__)]
    handles = []
    for name, layer in net.named_modules():
        if any(layer.children()):
            continue
        item = (name, type(layer).__name__)
        handles.append(layer.register_forward_pre_hook(lambda *_, item=item: stack.append(item)))
        handles.append(layer.register_forward_hook(lambda *_: stack.pop() and None))
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()
