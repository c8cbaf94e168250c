"""What a network costs, layer by layer: parameters, multiply-accumulates, activations, memory.

Everything is counted on torch's meta device, which knows shapes and holds no numbers: VGG-19 takes
a fraction of a second and no memory. The network itself is left as it was, lazy layers included.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from d2l_utils.meta import with_copy
from d2l_utils.work import Work, all_weights, current_module, memory, tensors

__all__ = ["LayerCost", "SavedTensor", "layer_costs", "saved_tensors"]


@dataclass(frozen=True)
class LayerCost:
    """The cost of one weight layer in a forward pass.

    Attributes:
        name: the layer's name in `net.named_modules()`.
        kind: "conv" for convolutions, "fc" for `nn.Linear`, "matmul" for any other matrix product.
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

    `name` is that of the first layer that keeps it, `kind` the layer's class, such as "ReLU".
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    bytes: int


def layer_costs(net: nn.Module, input_shape: Sequence[int]) -> list[LayerCost]:
    """Return one row per weight layer, in the order in which they first run.

    A layer that runs twice has one row: its parameters count once, its work twice. Weights that
    layers share count for the first of them. Convolutions and matrix products outside of `Conv2d`
    and `Linear`, such as attention or `F.linear` with another layer's weight, have rows under the
    name of the module whose `forward` calls them. Layers that only scale, normalise or look up
    have none. Work is counted by `torch.utils.flop_counter`.

    Args:
        net: the network; its `forward` takes one input. One that looks at numbers, as in
            `if x.mean() > 0`, is run on the CPU instead, with zeros for an image.
        input_shape: `(n, channels, h, w)`, or `(channels, h, w)` for one image.

    Raises:
        ValueError: if the shape is not one of these, the image is too small, or the network takes
            several inputs, or does work with its weights that is not counted.

    >>> net = nn.Sequential(nn.LazyConv2d(64, 3, padding=1), nn.ReLU(), nn.Flatten(),
    ...                     nn.LazyLinear(10))
    >>> for row in layer_costs(net, (3, 32, 32)):
    ...     print(row.name, row.kind, row.output_shape, row.params, row.macs)
    0 conv (1, 64, 32, 32) 1792 1769472
    3 fc (1, 10) 655370 655360
    """
    return with_copy(net, input_shape, _count_layers)


def saved_tensors(
    net: nn.Module, input_shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> list[SavedTensor]:
    """Return what autograd keeps between forward and backward pass of a training step.

    Memory that several layers share is counted once, for the layer that asked for it first;
    weights are left out, since they are there anyway. The input is in, if a layer keeps it.

    Args:
        net: as for `layer_costs`, but counted in training mode.
        input_shape: as for `layer_costs`, which raises the same errors.
        dtype: element type of weights and activations.

    >>> net = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(1))
    >>> [(t.kind, t.shape, t.bytes) for t in saved_tensors(net, (2, 3, 8, 8))][:2]
    [('Linear', (48, 8), 1536), ('ReLU', (2, 3, 8, 4), 768)]
    """

    def count(twin, X):
        twin, X = twin.to(dtype).train(), X.to(dtype)
        with torch.no_grad():
            twin(X)  # lazy layers get their weights, so that they can be told apart below
        there = [tensor for module in twin.modules() for tensor in tensors(vars(module))]
        not_counted = {memory(tensor) for tensor in there} - {memory(X)}
        rows: dict[int, SavedTensor] = {}
        held = []  # so that no address comes twice
        with current_module(twin) as current:

            def pack(tensor):
                storage, (name, module) = tensor.untyped_storage(), current[-1]
                held.append(storage)
                if memory(tensor) not in not_counted and memory(tensor) not in rows:
                    about = type(module).__name__, tuple(tensor.shape), tensor.dtype
                    rows[memory(tensor)] = SavedTensor(name, *about, storage.nbytes())
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                twin(X)
        return list(rows.values())

    return with_copy(net, input_shape, count)


def _count_layers(net, X):
    net = net.float().eval()  # no count depends on the precision
    with torch.no_grad(), current_module(net) as current:
        if any(nn.parameter.is_lazy(p) for p in net.parameters()):
            net(X)  # gives them their weights
        work = Work(net, X, current)
        if len(all_weights(net)) > len(work.weights):  # the pass itself made some
            work = Work(net, X, current)
    rows, counted = [], set()
    for (name, kind), row in work.rows.items():
        new, counted = row.weights - counted, counted | row.weights
        params = sum(weight.numel() for weight in new)
        rows.append(LayerCost(name, kind, row.output_shape, params, row.macs, row.activations))
    return rows
