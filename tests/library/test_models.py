"""The networks: their layers, shapes and first weights, and what they refuse.

That they are those of the sections stands in `test_d2l_sections.py`.
"""

import pytest
import torch
from torch import nn

import d2l_utils as d2l
from d2l_utils.meta import on_meta

NARROW = d2l.VGG_NARROW


def shape(model, input_shape):
    return tuple(on_meta(model).eval()(torch.empty(input_shape, device="meta")).shape)


# --- layers and shapes ------------------------------------------------------------------------


@pytest.mark.parametrize("convs", [2, (3, 3, 1), (5, "LRN")])
def test_a_block_halves_the_image(convs):
    assert shape(d2l.vgg_block(convs, 7), (2, 3, 9, 8)) == (2, 7, 4, 4)


def test_a_block_with_batch_norm_has_no_biases():
    block = d2l.vgg_block(2, 8, batch_norm=True)
    kinds = [type(layer).__name__ for layer in block]
    assert kinds == ["LazyConv2d", "LazyBatchNorm2d", "ReLU"] * 2 + ["MaxPool2d"]
    assert block[0].bias is None


def test_response_norm_is_the_formula_of_the_alexnet_paper():
    X = torch.rand(1, 9, 2, 2, dtype=torch.double) * 50
    norm = d2l.vgg_block((3, "LRN"), 4)[2]
    by_hand = torch.empty_like(X)
    for i in range(9):  # section 3.3: n = 5, k = 2, alpha = 1e-4, beta = 0.75
        neighbours = X[:, max(0, i - 2) : i + 3]
        by_hand[:, i] = X[:, i] / (2 + 1e-4 * (neighbours**2).sum(1)) ** 0.75
    torch.testing.assert_close(norm(X), by_hand)


@pytest.mark.parametrize(
    ("letter", "weight_layers", "millions"),
    # Simonyan and Zisserman, 2014, Tables 1 and 2; parameters in millions, for 1000 classes.
    [("A", 11, 133), ("A-LRN", 11, 133), ("B", 13, 133), ("C", 16, 134), ("D", 16, 138)]
    + [("E", 19, 144)],
)
def test_table_1_of_the_paper(letter, weight_layers, millions):
    arch = d2l.VGG_ARCHS[letter]
    assert [channels for _, channels in arch] == [64, 128, 256, 512, 512]
    rows = d2l.layer_costs(d2l.VGG(arch, num_classes=1000), (3, 224, 224))
    assert len(rows) == weight_layers
    # The paper says 133 million of B, which has 133.05; and of C 134, which has 133.64.
    assert abs(sum(row.params for row in rows) / 1e6 - millions) <= 0.5


def test_the_letters_are_those_of_the_paper():
    assert list(d2l.VGG_ARCHS) == ["A", "A-LRN", "B", "C", "D", "E"]
    third = d2l.vgg_block(*d2l.VGG_ARCHS["C"][2])
    assert [m.kernel_size for m in third if isinstance(m, nn.Conv2d)] == [(3, 3), (3, 3), (1, 1)]
    first = [type(layer).__name__ for layer in d2l.vgg_block(*d2l.VGG_ARCHS["A-LRN"][0])]
    assert first == ["LazyConv2d", "ReLU", "LocalResponseNorm", "MaxPool2d"]


@pytest.mark.parametrize(
    ("head", "kinds"),
    [
        ("gap", ["AdaptiveAvgPool2d", "Flatten", "LazyLinear"]),
        ((), ["Flatten", "LazyLinear"]),
        ([8], ["Flatten", "LazyLinear", "ReLU", "Dropout", "LazyLinear"]),
    ],
)
def test_heads(head, kinds):
    model = d2l.VGG(((1, 4),), head=head)
    assert [type(layer).__name__.removeprefix("_Xavier") for layer in model.net[1:]] == kinds
    assert shape(model, (2, 1, 6, 6)) == (2, 10)


@pytest.mark.parametrize("make", [lambda: d2l.VGG(((1, 32), (2, 64)), head=(256,)), d2l.AlexNet])
def test_weights_are_xavier_once_they_exist(make):
    """How that lives through a copy stands in `test_module.py`."""
    model = make()
    model(torch.zeros(1, 3, 65, 65))
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fans = nn.init._calculate_fan_in_and_fan_out(layer.weight)
            assert 0.95 < float(layer.weight.detach().abs().max()) / (6 / sum(fans)) ** 0.5 <= 1


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "culprit"),
    [
        ((0, 64), "num_convs is 0"),
        ((["LRN"], 64), "num_convs is .*LRN"),
        (((3, 2), 64), "num_convs holds 2"),
        (((3, -1), 64), "num_convs holds -1"),
        (((3, "BN"), 64), "num_convs holds 'BN'"),
        ((1, 0), "out_channels is 0"),
    ],
)
def test_impossible_blocks(block, culprit):
    with pytest.raises(ValueError, match=culprit):
        d2l.VGG([(1, 8), block])


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ({"arch": ()}, r"arch is \(\)"),
        ({"arch": "A"}, "arch is 'A'"),
        ({"head": "GAP"}, "head is 'GAP'"),
        ({"head": (0,)}, "width of head is 0"),
        ({"num_classes": 0}, "num_classes is 0"),
    ],
)
def test_impossible_networks(arguments, culprit):
    with pytest.raises(ValueError, match=culprit):
        d2l.VGG(**{"arch": NARROW, **arguments})


def test_a_residual_blocks_shortcut_is_one_by_one():
    block = d2l.Residual(6, use_1x1conv=True, strides=2)
    X = torch.randn(1, 4, 8, 8)
    assert block(X).shape == (1, 6, 4, 4)
    assert block.shortcut[0].weight.shape == (6, 4, 1, 1)
    assert not d2l.Residual(4).shortcut
