"""Smaller heads: equal where they must be, of the size of a formula, the given left untouched."""

import copy
import logging
import math
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import d2l_utils as d2l
from d2l_lab import compress

SHAPES = {"vgg": (1, 16, 16), "alexnet": (1, 99, 99)}
WIDTHS = (48, 40)
FEATURES = {"vgg": 8 * 4 * 4, "alexnet": 256 * 2 * 2}


def build(name="vgg", training=False):
    torch.manual_seed(0)
    if name == "vgg":
        model = d2l.VGG(((1, 4), (2, 8)), head=WIDTHS, batch_norm=True)
    else:  # narrow: the SVD of a 4096 x 4096 matrix takes a minute
        model = d2l.AlexNet()
        places = [i for i, layer in enumerate(model.net) if isinstance(layer, nn.LazyLinear)]
        for place, width in zip(places, WIDTHS, strict=False):
            model.net[place] = nn.LazyLinear(width)
    with torch.no_grad():
        model(torch.rand(8, *SHAPES[name]))  # in training mode: batch norm's means are not zero
    return model.train(training)


class Mlp(d2l.Classifier):
    def __init__(self, *head, features=()):
        super().__init__()
        self.net = nn.Sequential(*features, nn.Flatten(), *head)


def images(name="vgg", n=4):
    return torch.rand(n, *SHAPES[name], generator=torch.Generator().manual_seed(1))


def linears(model):
    return [m for m in model.modules() if isinstance(m, nn.Linear)]


def sizes(model, name="vgg"):
    macs = sum(row.macs for row in d2l.layer_costs(model, SHAPES[name]))
    return sum(p.numel() for p in model.parameters()), macs


EQUAL = {
    "svd": lambda m, name: compress.truncated_svd(m, [min(WIDTHS[0], FEATURES[name]), 40]),
    "conv": lambda m, name: compress.fc_as_conv(m, SHAPES[name]),
    "prune": lambda m, name: compress.magnitude_pruning(m, keep=1),
}
ALL = EQUAL | {
    "gap": lambda m, name: compress.global_average_pooling(m),
    "svd-3-4": lambda m, name: compress.truncated_svd(m, (3, 4)),
    "prune-0.1": lambda m, name: compress.magnitude_pruning(m, keep=0.1),
    "int8": lambda m, name: compress.int8(m),
}


# --- equal where they must be -----------------------------------------------------------------


@pytest.mark.parametrize(("name", "biased"), [("vgg", True), ("vgg", False), ("alexnet", True)])
@pytest.mark.parametrize("way", EQUAL)
@torch.no_grad()
def test_logits_are_the_originals_where_nothing_is_lost(way, name, biased):
    model, X = build(name), images(name)
    for layer in linears(model) if not biased else ():
        layer.bias = None
    logits = model(X)
    assert float(logits.std()) > 0.05  # else all would be close
    torch.testing.assert_close(EQUAL[way](model, name)(X), logits, atol=1e-4, rtol=0)


@torch.no_grad()
def test_int8_is_close_and_a_quarter_of_the_bytes(int8_adds_up):
    model, X = build(), images()
    small = compress.int8(model)
    logits, rounded = model(X), small(X)
    assert 0 < float((rounded - logits).abs().max()) < 0.05 * float(logits.abs().max())
    for old, new in zip(linears(model), linears(small), strict=True):
        assert 4 * new.weight.qdata.nbytes == old.weight.nbytes
        # A weight is off by at most half a step; a row has one step.
        step = old.weight.abs().amax(dim=1, keepdim=True) / 127
        assert bool(((new.weight.dequantize() - old.weight).abs() <= 0.51 * step).all())
    assert torch.equal(pickle.loads(pickle.dumps(small))(X), rounded)


@pytest.mark.parametrize("way", ALL)
@pytest.mark.parametrize("training", [True, False])
def test_the_given_network_is_untouched_and_its_mode_is_kept(way, training):
    model = build("vgg", training)
    modules, before = list(model.modules()), copy.deepcopy(model.state_dict())
    small = ALL[way](model, "vgg")
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))
    assert all(m.training is training for m in modules)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert type(small) is type(model)
    assert not storages(model) & storages(small)
    mode = training and way != "int8"  # which is for inference
    assert all(m.training is mode for m in small.modules() if isinstance(m, nn.Dropout))
    assert small.training is small.net.training is mode


def storages(model):
    plain = [getattr(t, "qdata", t) for t in model.state_dict().values()]
    return {t.untyped_storage().data_ptr() for t in plain}


def test_what_quantisers_say_of_themselves_is_kept_quiet_and_nothing_else(caplog):
    with compress.quiet():
        with compress.quiet():
            pass
        logging.warning("said inside")
        warnings.warn("an error in these tests", stacklevel=1)
    logging.warning("said after")
    assert caplog.messages == ["said after"]


# --- the sizes that formulas give -------------------------------------------------------------

HIDDEN = 128 * 48 + 48 * 40


@pytest.mark.parametrize(
    ("way", "name", "weights", "biases"),
    [
        ("conv", "vgg", 0, 0),
        ("prune-0.1", "vgg", 0, 0),  # a mask saves neither memory nor work
        ("svd-3-4", "vgg", HIDDEN - 3 * (128 + 48) - 4 * (48 + 40), 0),
        ("gap", "vgg", HIDDEN + 40 * 10 - 8 * 10, 48 + 40),
        ("gap", "alexnet", 1024 * 48 + 48 * 40 + 40 * 10 - 256 * 10, 48 + 40),
    ],
)
def test_a_head_saves_what_its_formula_says(way, name, weights, biases):
    model = build(name)
    small = ALL[way](model, name)
    (params, macs), (fewer, less) = sizes(model, name), sizes(small, name)
    assert (params - fewer, macs - less) == (weights + biases, weights)
    assert small(images(name)).shape == (4, 10)


# Of 128 x 48, 48 x 40 and 40 x 10 weights.
KEPT = {0.04: (246, 77, 16), 0.5: (3072, 960, 200), 1: (6144, 1920, 400), 1e-9: (1, 1, 1)}


@pytest.mark.parametrize("keep", KEPT)
@torch.no_grad()
def test_pruning_keeps_the_largest_of_each_layer(keep):
    model = build()
    small = compress.magnitude_pruning(model, keep)
    for old, new, number in zip(linears(model), linears(small), KEPT[keep], strict=True):
        largest = old.weight.abs().flatten().sort(descending=True).values[:number]
        kept = new.weight != 0
        assert torch.equal(new.weight[kept], old.weight[kept])
        assert torch.equal(new.weight[kept].abs().sort(descending=True).values, largest)


@pytest.mark.parametrize(("keep", "number"), [(0.07, 7), (0.55, 55), (0.071, 8)])
def test_a_share_is_the_number_that_is_written(keep, number):
    """The float 0.07 is a little more than 7 in 100; of 100 weights it would keep 8."""
    small = compress.magnitude_pruning(Mlp(nn.Linear(10, 10)), keep)
    assert int(linears(small)[0].weight.count_nonzero()) == number


@torch.no_grad()
def test_svd_leaves_the_singular_values_that_it_drops_as_its_error():
    """By Eckart and Young no other matrix of this rank is nearer."""
    model = build()
    split = linears(compress.truncated_svd(model, [5, 7]))
    for i, (old, rank) in enumerate(zip(linears(model), (5, 7), strict=False)):
        error = torch.linalg.norm(old.weight - split[2 * i + 1].weight @ split[2 * i].weight)
        dropped = torch.linalg.svdvals(old.weight)[rank:]
        assert float(error) == pytest.approx(float(torch.linalg.norm(dropped)), rel=1e-4)
        assert split[2 * i].out_features == rank


# --- what each is for -------------------------------------------------------------------------


@torch.no_grad()
def test_a_convolutional_head_averages_over_the_positions_of_a_larger_image():
    model = build()
    conv = compress.fc_as_conv(model, (1, 16, 16))
    X = torch.rand(3, 1, 24, 28)  # maps of 6 x 7, in which a 4 x 4 window has 3 x 4 places
    flatten = next(i for i, m in enumerate(model.net) if isinstance(m, nn.Flatten))
    maps = model.net[:flatten](X)
    crops = [maps[:, :, i : i + 4, j : j + 4] for i in range(3) for j in range(4)]
    by_hand = torch.stack([model.net[flatten:](crop) for crop in crops]).mean(0)
    torch.testing.assert_close(conv(X), by_hand, atol=1e-5, rtol=0)


def test_the_mask_holds_through_training():
    small = compress.magnitude_pruning(build(training=True), keep=0.1)
    before = [m.weight.detach().clone() for m in linears(small)]
    optim = torch.optim.SGD(small.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    for _ in range(3):
        optim.zero_grad()
        nn.functional.cross_entropy(small(images()), torch.arange(4)).backward()
        optim.step()
    for old, layer in zip(before, linears(small), strict=True):
        assert not torch.equal(layer.weight, old)
        parametrize.remove_parametrizations(layer, "weight")
        assert not bool(layer.weight[old == 0].any())


@torch.no_grad()
def test_pruning_what_is_pruned_or_split():
    model = build()
    pruned = compress.magnitude_pruning(model, 0.5)
    again, once = compress.magnitude_pruning(pruned, 0.1), compress.magnitude_pruning(model, 0.1)
    for a, b in zip(linears(again), linears(once), strict=True):
        assert torch.equal(a.weight, b.weight)
        parametrize.remove_parametrizations(a, "weight")
    for layer in linears(pruned):  # torch's copies of a parametrised layer are not apart; these are
        assert int((layer.weight != 0).sum()) == math.ceil(0.5 * layer.weight.numel())
    for old, new in zip(linears(once), linears(compress.int8(once)), strict=True):
        assert not bool(new.weight.dequantize()[old.weight == 0].any())
    split = linears(compress.magnitude_pruning(compress.truncated_svd(model, [3, 4]), 0.1))
    assert len(split) == 5
    assert all(0.1 <= float((m.weight != 0).float().mean()) < 0.15 for m in split)


class Concatenation(nn.Module):
    """Two convolutions side by side, the channels of one after those of the other."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, X):
        return torch.cat([self.left(X), self.right(X)], dim=1)


def test_pooling_takes_the_channels_that_the_features_give():
    model = Mlp(nn.Linear(8 * 16 * 16, 10), features=[Concatenation()])
    assert compress.global_average_pooling(model)(images()).shape == (4, 10)


# --- copies ------------------------------------------------------------------------------------


class Given(d2l.Classifier):
    def __init__(self, net, lr=0.1):
        super().__init__()
        self.save_hyperparameters()


def test_a_network_that_came_as_an_argument_is_not_dragged_along():
    model = Given(d2l.VGG(((1, 4),), head=(1000,)).net)
    model(torch.zeros(1, 1, 16, 16))
    small = compress.global_average_pooling(model)
    assert small.hparams == {"net": small.net, "lr": 0.1}
    assert len(pickle.dumps(small)) < 20_000  # the old head has 266,000 weights
    assert model.hparams["net"] is model.net


# --- refusals ----------------------------------------------------------------------------------


class NoNet(d2l.Classifier): ...


@pytest.mark.parametrize(
    ("refused", "culprit"),
    [
        (lambda: compress.global_average_pooling(NoNet()), "NoNet has no head"),
        (lambda: compress.int8(compress.fc_as_conv(build(), SHAPES["vgg"])), "VGG has no head"),
        (lambda: compress.magnitude_pruning(d2l.VGG(((1, 4),)), 0.5), "VGG has no weights"),
        (lambda: compress.truncated_svd(build(), [0, 4]), "rank .* is 0"),
        (lambda: compress.truncated_svd(build(), [4, 41]), "rank .* is 41"),
        (lambda: compress.truncated_svd(build(), [4]), r"ranks is \[4\]"),
        (lambda: compress.magnitude_pruning(build(), 0), "keep is 0"),
        (lambda: compress.magnitude_pruning(build(), 1.01), "keep is 1.01"),
        (lambda: compress.magnitude_pruning(build(), math.nan), "keep is nan"),
        (lambda: compress.fc_as_conv(Mlp(nn.Linear(9, 8), nn.Softmax(-1)), (1, 3, 3)), "Softmax"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(refused, culprit):
    with pytest.raises(ValueError, match=culprit):
        refused()
