"""Ways to make a head of fully connected layers smaller. They know nothing of training.

Each function takes a model with a sequential `net`, such as `VGG` or `AlexNet`, and returns a new
one; the given model is left untouched. The head is what follows `nn.Flatten` in `net`. Each raises
ValueError if there is no head, or its weights do not exist yet.
"""

import copy
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain

import torch
from torch import nn
from torch.nn.utils import parametrize

from d2l_utils.meta import on_meta


def global_average_pooling(model: nn.Module) -> nn.Module:
    """Return the model with its head replaced by global average pooling and one linear layer.

    The features stay as trained; the linear layer is new, drawn by torch's default rule, and has
    to be trained.

    >>> from d2l_utils.models import VGG
    >>> small = VGG(((1, 8),), head=(64,))
    >>> _ = small(torch.zeros(1, 1, 8, 8))
    >>> [*global_average_pooling(small).net[1:]]  # doctest: +NORMALIZE_WHITESPACE
    [AdaptiveAvgPool2d(output_size=1),
     Flatten(start_dim=1, end_dim=-1),
     Linear(in_features=8, out_features=10, bias=True)]
    """
    features, head = _split(model)
    convs = (m for m in nn.Sequential(*features).modules() if isinstance(m, nn.Conv2d))
    channels = _map_shape(features, (next(convs).in_channels, 224, 224))[0]
    old = _linears(head)[-1]
    place = {"device": old.weight.device, "dtype": old.weight.dtype}
    classifier = nn.Linear(channels, old.out_features, **place)
    return _with_net(model, [*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), classifier])


# What of a head does the same to a map of vectors as to one vector.
_POINTWISE = (nn.Linear, nn.Dropout, nn.Identity, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU)
_POINTWISE += (nn.Sigmoid, nn.Tanh)


def fc_as_conv(model: nn.Module, input_shape: Sequence[int]) -> nn.Module:
    """Return the model with its fully connected layers written as convolutions.

    On images of `input_shape` the logits are the same. On larger ones the head slides over the
    image, one step for each pixel that the last pooling gives, and the logits are averaged. The
    shape is `(channels, h, w)`. The head may hold linear layers, dropout and activations that
    change each number by itself.

    Source: Simonyan and Zisserman, 2014, section 3.2; Long et al., 2014, arXiv 1411.4038.

    >>> from d2l_utils.models import VGG
    >>> small = VGG(((1, 8),), head=(64,))
    >>> X = torch.rand(2, 1, 8, 8)
    >>> bool(torch.allclose(small.eval()(X), fc_as_conv(small, (1, 8, 8))(X), atol=1e-5))
    True
    """
    features, head = _split(model)
    if unknown := [layer for layer in head[1:] if not isinstance(layer, _POINTWISE)]:
        allowed = ", ".join(kind.__name__ for kind in _POINTWISE)
        raise ValueError(
            f"{unknown[0]} may give other logits in a convolutional head; allowed are {allowed}"
        )
    channels, height, width = _map_shape(features, input_shape)
    layers, kernel_size = [], (height, width)
    for layer in head[1:]:
        if isinstance(layer, nn.Linear):
            weight = layer.weight.detach().reshape(layer.out_features, channels, *kernel_size)
            layers.append(_filled(nn.Conv2d, weight, layer.bias, kernel_size))
            channels, kernel_size = layer.out_features, (1, 1)
        else:
            layers.append(layer)
    return _with_net(model, [*features, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()])


@torch.no_grad()
def _map_shape(features, input_shape) -> torch.Size:
    """Return the shape of the map that the features give for one image."""
    X = torch.empty(1, *input_shape, device="meta")
    return on_meta(nn.Sequential(*features)).float().eval()(X).shape[1:]


def truncated_svd(model: nn.Module, ranks: Sequence[int]) -> nn.Module:
    """Return the model with its hidden fully connected layers split in two by truncated SVD.

    A layer of n inputs and m outputs at rank r becomes one of n inputs and r outputs, without
    bias, and one of r inputs and m outputs: r (n + m) weights instead of n m. At full rank,
    min(n, m), the logits stay the same. There is one rank for each fully connected layer but the
    last.

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
    if not hidden or len(ranks) != len(hidden):
        raise ValueError(f"ranks is {ranks}; it must be one per hidden layer, here {len(hidden)}")
    split = {id(m): _split_linear(m, rank) for m, rank in zip(hidden, ranks, strict=True)}
    return _with_net(model, [*features, *(split.get(id(layer), layer) for layer in head)])


def _split_linear(layer: nn.Linear, rank: int) -> nn.Sequential:
    full = min(layer.in_features, layer.out_features)
    if not 1 <= rank <= full:
        raise ValueError(f"the rank of {layer} is {rank}; it must be from 1 to {full}")
    U, S, Vh = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
    return nn.Sequential(
        _filled(nn.Linear, S[:rank, None] * Vh[:rank], None),
        _filled(nn.Linear, U[:, :rank], layer.bias),
    )


def _filled(kind, weight, bias, *arguments):
    """Return a layer with these weights, or copies of them; its numbers of channels are theirs."""
    outputs, inputs = weight.shape[:2]
    layer = kind(inputs, outputs, *arguments, bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.clone(memory_format=torch.contiguous_format))
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer


class _Mask(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight):
        return weight * self.mask


def _without_mask(layer):
    """Return a pruned layer as a plain one, whose zeros are weights like others."""
    # Not by remove_parametrizations: on a copy it breaks the layer that the copy was made of.
    if not isinstance(layer, nn.Linear) or isinstance(layer.weight, nn.Parameter):
        return layer
    return _filled(nn.Linear, layer.weight.detach(), layer.bias)


def magnitude_pruning(model: nn.Module, keep: float) -> nn.Module:
    """Return the model with the smallest weights of its fully connected layers held at zero.

    Each layer keeps this share of its own weights, the largest, by a mask that also holds in
    further training; where the share gives a fraction of a weight, one more is kept. The masked
    weights are stored and multiplied as before: `parametrize.remove_parametrizations` writes the
    zeros into the weights, a sparse format would be the next step.

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
    share = Fraction(str(keep))  # as it is written: the float 0.07 is a little more
    pruned = _with_net(model, [*features, *map(_without_mask, head)])
    for layer in _linears(_split(pruned)[1]):
        magnitudes = layer.weight.detach().abs().flatten()
        kept = magnitudes.topk(math.ceil(share * magnitudes.numel())).indices
        mask = torch.zeros_like(magnitudes, dtype=torch.bool).index_fill_(0, kept, True)
        parametrize.register_parametrization(layer, "weight", _Mask(mask.view_as(layer.weight)))
    return pruned


def int8(model: nn.Module) -> nn.Module:
    """Return the model with its linear layers' weights in int8, for inference only.

    The quantisation is dynamic: each row of weights has one scale, found now, and each row of
    inputs one that is found as it comes. It needs torchao from 0.18 on. Where the environment's
    ONEDNN_MAX_CPU_ISA takes VNNI from a processor that has it, sums overflow: see
    https://github.com/pytorch/pytorch/pull/136942.

    >>> from d2l_utils.models import VGG
    >>> small = VGG(((1, 8),), head=(64,))
    >>> _ = small(torch.zeros(1, 1, 8, 8))
    >>> int8(small).net[2].weight.qdata.dtype
    torch.int8
    """
    with quiet():
        from torchao import quantization as torchao
    features, head = _split(model)
    quantised = _with_net(model, [*features, *map(_without_mask, head)]).eval()
    torchao.quantize_(quantised, torchao.Int8DynamicActivationInt8WeightConfig())
    for layer in quantised.modules():
        layer.__dict__.pop("extra_repr", None)  # torchao's cannot be pickled
    return quantised


@contextmanager
def quiet() -> Iterator[None]:
    """Keep to themselves what quantisers, exporters and new formats say of themselves."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def _split(model) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return the layers before `nn.Flatten`, and the head from it on."""
    name = type(model).__name__
    net = getattr(model, "net", None)
    layers = list(net) if isinstance(net, nn.Sequential) else []
    places = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Flatten)]
    if not places or not _linears(_flat(layers[places[0] :])):
        needs = "its net must be an nn.Sequential with nn.Flatten, and nn.Linear after it"
        raise ValueError(f"this {name} has no head; {needs}")
    if any(nn.parameter.is_lazy(p) for p in model.parameters()):
        raise ValueError(f"this {name} has no weights yet; run it on one batch first")
    return layers[: places[0]], _flat(layers[places[0] :])


def _flat(layers) -> list[nn.Module]:
    """Return the layers, those inside an `nn.Sequential` one after the other."""
    nested = (_flat(layer) if isinstance(layer, nn.Sequential) else [layer] for layer in layers)
    return [*chain.from_iterable(nested)]


def _linears(layers) -> list[nn.Linear]:
    return [layer for layer in layers if isinstance(layer, nn.Linear)]


def _with_net(model, layers):
    """Return a copy of the model with these layers as its net, none of them shared."""
    shell = copy.copy(model)
    shell._modules = {**model._modules, "net": nn.Sequential(*layers)}
    shell.net.training = model.net.training
    if "net" in getattr(model, "hparams", {}):  # the old one, which came as an argument
        shell.hparams = {**model.hparams, "net": shell.net}
    return copy.deepcopy(shell)
