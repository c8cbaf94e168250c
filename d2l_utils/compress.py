"""What exercise 1.3 does to a head of fully connected layers. It knows nothing of training.

Each function takes a model with a sequential `net`, such as `VGG` or `AlexNet`, and returns a new
one; the given model is left untouched. The head is what follows `nn.Flatten` in `net`.
"""

import copy
import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils import parametrize

from d2l_utils.cost import layer_costs, on_meta

__all__ = ["fc_as_conv", "global_average_pooling", "int8", "magnitude_pruning", "truncated_svd"]


def global_average_pooling(model: nn.Module) -> nn.Module:
    """Return the model with its head replaced by global average pooling and one linear layer.

    The features stay as trained; the linear layer is new, drawn by torch's default rule, and has
    to be trained.

    Raises:
        ValueError: if the model has no head, or its weights do not exist yet.

    >>> from d2l_utils.models import VGG
    >>> small = VGG(((1, 8),), head=(64,))
    >>> _ = small(torch.zeros(1, 1, 8, 8))
    >>> print(global_average_pooling(small).net[1:])
    Sequential(
      (0): AdaptiveAvgPool2d(output_size=1)
      (1): Flatten(start_dim=1, end_dim=-1)
      (2): Linear(in_features=8, out_features=10, bias=True)
    )
    """
    features, head = _split(model)
    channels = [m for m in nn.Sequential(*features).modules() if isinstance(m, nn.Conv2d)]
    classifier = nn.Linear(channels[-1].out_channels, _linears(head)[-1].out_features)
    return _with_net(model, [*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), classifier])


def fc_as_conv(model: nn.Module, input_shape: Sequence[int]) -> nn.Module:
    """Return the model with its fully connected layers written as convolutions.

    On images of `input_shape` the logits are the same. On larger ones the head slides over the
    image, one step for each pixel that the last pooling gives, and the logits are averaged.

    Args:
        model: the model.
        input_shape: `(channels, h, w)` of the images that the model was made for.

    Raises:
        ValueError: if the model has no head, its weights do not exist yet, or its head does not
            fit images of this shape.

    Source: Simonyan and Zisserman, 2014, section 3.2; Long et al., 2015, arXiv 1411.4038.

    >>> from d2l_utils.models import VGG
    >>> small = VGG(((1, 8),), head=(64,))
    >>> X = torch.rand(2, 1, 8, 8)
    >>> bool(torch.allclose(small.eval()(X), fc_as_conv(small, (1, 8, 8))(X), atol=1e-5))
    True
    """
    features, head = _split(model)
    layer_costs(model, input_shape)  # a shape that the model cannot take is refused here
    meta = on_meta(nn.Sequential(*features))
    channels, height, width = meta(torch.empty(1, *input_shape, device="meta")).shape[1:]
    layers, kernel_size = [], (height, width)
    for layer in head[1:]:
        if isinstance(layer, nn.Linear):
            conv = nn.Conv2d(channels, layer.out_features, kernel_size, device="meta")
            conv.weight = nn.Parameter(layer.weight.detach().reshape(conv.weight.shape).clone())
            conv.bias = nn.Parameter(layer.bias.detach().clone())
            layers.append(conv)
            channels, kernel_size = layer.out_features, (1, 1)
        else:
            layers.append(layer)
    return _with_net(model, [*features, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()])


def truncated_svd(model: nn.Module, ranks: Sequence[int]) -> nn.Module:
    """Return the model with its hidden fully connected layers split in two by truncated SVD.

    A layer of n inputs and m outputs at rank r becomes one of n inputs and r outputs, without
    bias, and one of r inputs and m outputs: r (n + m) weights instead of n m. At full rank,
    min(n, m), the logits stay the same.

    Args:
        model: the model.
        ranks: one rank for each fully connected layer but the last.

    Raises:
        ValueError: if the model has no hidden fully connected layer, there are more or fewer ranks
            than such layers, or a rank is below 1 or above the layer's.

    Source: Girshick, 2015, arXiv 1504.08083, section 3.1.

    >>> from d2l_utils.models import VGG
    >>> small = VGG(((1, 8),), head=(64,))
    >>> _ = small(torch.zeros(1, 1, 8, 8))
    >>> print(truncated_svd(small, [5]).net[2])
    Sequential(
      (0): Linear(in_features=128, out_features=5, bias=False)
      (1): Linear(in_features=5, out_features=64, bias=True)
    )
    """
    features, head = _split(model)
    hidden = _linears(head)[:-1]
    if not hidden:
        raise ValueError("the model has no hidden fully connected layer that could be split")
    if len(ranks) != len(hidden):
        raise ValueError(f"ranks is {ranks!r}; it must have {len(hidden)}, one a hidden layer")
    split = {id(m): _split_linear(m, rank) for m, rank in zip(hidden, ranks, strict=True)}
    return _with_net(model, [*features, *(split.get(id(layer), layer) for layer in head)])


def _split_linear(layer: nn.Linear, rank: int) -> nn.Sequential:
    full = min(layer.in_features, layer.out_features)
    if not 1 <= rank <= full:
        raise ValueError(
            f"rank {rank} is not possible for a layer of {layer.in_features} inputs and "
            f"{layer.out_features} outputs; it must be from 1 to {full}"
        )
    U, S, Vh = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
    first = nn.Linear(layer.in_features, rank, bias=False, device="meta")
    second = nn.Linear(rank, layer.out_features, device="meta")
    first.weight = nn.Parameter((S[:rank, None] * Vh[:rank]).contiguous())
    second.weight = nn.Parameter(U[:, :rank].contiguous())
    second.bias = nn.Parameter(layer.bias.detach().clone())
    return nn.Sequential(first, second)


class _Mask(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight):
        return weight * self.mask


def magnitude_pruning(model: nn.Module, keep: float) -> nn.Module:
    """Return the model with the smallest weights of its fully connected layers held at zero.

    Each layer keeps its own largest weights, by a mask that also holds in further training. The
    masked weights are stored and multiplied as before: `parametrize.remove_parametrizations`
    writes the zeros into the weights, a sparse format would be the next step.

    Args:
        model: the model.
        keep: the share of weights that each layer keeps, above 0 and up to 1.

    Raises:
        ValueError: if the model has no head, or `keep` is outside its range.

    Source: Han et al., 2015, arXiv 1506.02626.

    >>> from d2l_utils.models import VGG
    >>> small = VGG(((1, 8),), head=(64,))
    >>> _ = small(torch.zeros(1, 1, 8, 8))
    >>> int(magnitude_pruning(small, keep=0.25).net[2].weight.count_nonzero())
    2048
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep is {keep}; it must be above 0 and at most 1")
    features, head = _split(model)
    pruned = _with_net(model, [*features, *head])
    for layer in _linears(_split(pruned)[1]):
        magnitudes = layer.weight.detach().abs().flatten()
        kept = magnitudes.topk(math.ceil(keep * magnitudes.numel())).indices
        mask = torch.zeros_like(magnitudes, dtype=torch.bool).index_fill_(0, kept, True)
        parametrize.register_parametrization(layer, "weight", _Mask(mask.view_as(layer.weight)))
    return pruned


def int8(model: nn.Module) -> nn.Module:
    """Return the model with its linear layers' weights in int8, for inference only.

    The quantisation is dynamic: each row of weights has one scale, found now, and each row of
    inputs one that is found as it comes. It needs torchao.

    Raises:
        ValueError: if the model has no head.

    >>> from d2l_utils.models import VGG
    >>> small = VGG(((1, 8),), head=(64,))
    >>> _ = small(torch.zeros(1, 1, 8, 8))
    >>> int8(small).net[2].weight.qdata.dtype
    torch.int8
    """
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    features, head = _split(model)
    quantised = _with_net(model, [*features, *head]).eval()
    quantize_(quantised, Int8DynamicActivationInt8WeightConfig())
    return quantised


def _split(model) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return the layers before `nn.Flatten`, and the head from it on."""
    name = type(model).__name__
    layers = list(getattr(model, "net", ()))
    places = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Flatten)]
    if not places or not _linears(layers[places[0] :]):
        raise ValueError(f"this {name} has no head: no nn.Flatten with nn.Linear after it in net")
    if any(nn.parameter.is_lazy(p) for p in model.parameters()):
        raise ValueError(f"this {name} has no weights yet; run it on one batch first")
    return layers[: places[0]], layers[places[0] :]


def _linears(layers) -> list[nn.Linear]:
    return [layer for layer in layers if isinstance(layer, nn.Linear)]


def _with_net(model, layers):
    """Return a copy of the model with these layers as its net, none of them shared."""
    shell = copy.copy(model)
    shell._modules = {**model._modules, "net": nn.Sequential(*layers)}
    return copy.deepcopy(shell)
