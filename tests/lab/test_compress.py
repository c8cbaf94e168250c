"""Smaller heads: equal where they must be, of the size of a formula, the given left untouched."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import d2l_utils as d2l
from d2l_lab import compress

SHAPES = {"vgg": (1, 16, 16), "vgg_bn": (1, 16, 16), "alexnet": (1, 99, 99)}
WIDTHS = (48, 40)
FEATURES = {"vgg": 8 * 4 * 4, "vgg_bn": 8 * 4 * 4, "alexnet": 256 * 2 * 2}


def narrow_alexnet():
    """AlexNet, but for the width of its head: the SVD of a 4096 x 4096 matrix takes a minute."""
    model = d2l.AlexNet()
    places = [i for i, layer in enumerate(model.net) if isinstance(layer, nn.LazyLinear)]
    for place, width in zip(places, WIDTHS, strict=False):
        model.net[place] = nn.LazyLinear(width)
    return model


def build(name, training=False):
    torch.manual_seed(0)
    if name == "alexnet":
        model = narrow_alexnet()
    else:
        model = d2l.VGG(((1, 4), (2, 8)), head=WIDTHS, batch_norm=name == "vgg_bn")
    with torch.no_grad():
        model(torch.rand(8, *SHAPES[name]))  # in training mode: batch norm's means are not zero
    return model.train(training)


def images(name, n=4):
    return torch.rand(n, *SHAPES[name], generator=torch.Generator().manual_seed(1))


def linears(model):
    return [m for m in model.modules() if isinstance(m, nn.Linear)]


def count(model):
    return sum(p.numel() for p in model.parameters())


def macs(model, name):
    return sum(row.macs for row in d2l.layer_costs(model, SHAPES[name]))


EQUAL = {
    "svd": lambda m, name: compress.truncated_svd(m, [min(WIDTHS[0], FEATURES[name]), 40]),
    "conv": lambda m, name: compress.fc_as_conv(m, SHAPES[name]),
    "prune": lambda m, name: compress.magnitude_pruning(m, keep=1),
}
OTHERS = {
    "gap": lambda m, name: compress.global_average_pooling(m),
    "svd-3-4": lambda m, name: compress.truncated_svd(m, [3, 4]),
    "prune-0.1": lambda m, name: compress.magnitude_pruning(m, keep=0.1),
    "int8": lambda m, name: compress.int8(m),
}
ALL = EQUAL | OTHERS
names = pytest.mark.parametrize("name", SHAPES)
ways = pytest.mark.parametrize("way", ALL)


# --- equal where they must be -----------------------------------------------------------------


@names
@pytest.mark.parametrize("way", EQUAL)
@torch.no_grad()
def test_logits_are_the_originals_where_nothing_is_lost(name, way):
    model, X = build(name), images(name)
    logits = model(X)
    assert float(logits.std()) > 0.1  # else all would be close
    torch.testing.assert_close(EQUAL[way](model, name)(X), logits, atol=1e-4, rtol=0)


@torch.no_grad()
def test_int8_is_close_and_a_quarter_of_the_bytes():
    model, X = build("vgg"), images("vgg")
    small = compress.int8(model)
    logits, rounded = model(X), small(X)
    assert 0 < float((rounded - logits).abs().max()) < 0.05 * float(logits.abs().max())
    for old, new in zip(linears(model), linears(small), strict=True):
        assert new.weight.qdata.dtype == torch.int8
        assert 4 * new.weight.qdata.nbytes == old.weight.nbytes
        # A weight is off by at most half a step; a row has one step.
        step = old.weight.abs().amax(dim=1, keepdim=True) / 127
        assert bool(((new.weight.dequantize() - old.weight).abs() <= 0.51 * step).all())
        assert torch.equal(new.bias, old.bias)
    assert torch.equal(pickle.loads(pickle.dumps(small))(X), rounded)


# --- the given network is left as it is -------------------------------------------------------


@ways
@pytest.mark.parametrize("training", [True, False])
def test_the_given_network_is_untouched_and_its_mode_is_kept(way, training):
    model = build("vgg_bn", training)
    modules, before = list(model.modules()), copy.deepcopy(model.state_dict())
    small = ALL[way](model, "vgg_bn")
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))
    assert all(m.training is training for m in modules)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert not set(modules) & set(small.modules())
    assert not storages(model) & storages(small)
    assert type(small) is type(model)
    mode = training and way != "int8"  # which is for inference
    assert all(m.training is mode for m in small.modules() if isinstance(m, nn.Dropout))
    assert small.training is small.net.training is mode


def storages(model):
    tensors = list(model.state_dict().values())
    plain = [getattr(t, "qdata", t) for t in tensors]
    return {t.untyped_storage().data_ptr() for t in plain}


# --- the sizes that formulas give -------------------------------------------------------------


def test_svd_has_r_times_n_plus_m_weights():
    model = build("vgg")
    small = compress.truncated_svd(model, (3, 4))
    saved = 128 * 48 + 48 * 40 - 3 * (128 + 48) - 4 * (48 + 40)
    assert count(model) - count(small) == macs(model, "vgg") - macs(small, "vgg") == saved


@names
def test_global_average_pooling_has_channels_times_classes_weights(name):
    model = build(name)
    small = compress.global_average_pooling(model)
    channels = 256 if name == "alexnet" else 8
    saved = FEATURES[name] * 48 + 48 * 40 + 40 * 10 - channels * 10
    assert macs(model, name) - macs(small, name) == saved
    assert count(model) - count(small) == saved + 48 + 40  # and the biases
    assert small(images(name)).shape == (4, 10)


def test_a_convolutional_head_saves_nothing():
    model = build("vgg")
    conv = compress.fc_as_conv(model, SHAPES["vgg"])
    assert not linears(conv)
    assert (count(conv), macs(conv, "vgg")) == (count(model), macs(model, "vgg"))


# Of 128 x 48, 48 x 40 and 40 x 10 weights.
KEPT = {0.04: (246, 77, 16), 0.5: (3072, 960, 200), 1: (6144, 1920, 400), 1e-9: (1, 1, 1)}


@pytest.mark.parametrize("keep", KEPT)
@torch.no_grad()
def test_pruning_keeps_the_largest_of_each_layer(keep):
    model = build("vgg")
    small = compress.magnitude_pruning(model, keep)
    for old, new, number in zip(linears(model), linears(small), KEPT[keep], strict=True):
        kept = new.weight != 0
        assert int(kept.sum()) == number
        assert torch.equal(new.weight[kept], old.weight[kept])
        if not bool(kept.all()):
            assert float(old.weight[kept].abs().min()) >= float(old.weight[~kept].abs().max())
    # A mask saves neither memory nor a single multiply-accumulate.
    assert (count(small), macs(small, "vgg")) == (count(model), macs(model, "vgg"))


@pytest.mark.parametrize(("keep", "number"), [(0.07, 7), (0.55, 55), (0.071, 8)])
def test_a_share_is_the_number_that_is_written(keep, number):
    """The float 0.07 is a little more than 7 in 100; of 100 weights it would keep 8."""
    small = compress.magnitude_pruning(Mlp(nn.Linear(10, 10)), keep)
    assert int(linears(small)[0].weight.count_nonzero()) == number


@torch.no_grad()
def test_svd_leaves_the_singular_values_that_it_drops_as_its_error():
    """By Eckart and Young no other matrix of this rank is nearer."""
    model = build("vgg")
    small = compress.truncated_svd(model, [5, 7])
    pairs = [m for m in small.net if isinstance(m, nn.Sequential) and isinstance(m[0], nn.Linear)]
    for old, (first, second), rank in zip(linears(model), pairs, (5, 7), strict=False):
        error = torch.linalg.norm(old.weight - second.weight @ first.weight)
        dropped = torch.linalg.svdvals(old.weight)[rank:]
        assert float(error) == pytest.approx(float(torch.linalg.norm(dropped)), rel=1e-4)
        assert first.bias is None and torch.equal(second.bias, old.bias)
    assert len(pairs) == 2


# --- what each is for -------------------------------------------------------------------------


@torch.no_grad()
def test_a_convolutional_head_averages_over_the_positions_of_a_larger_image():
    model = build("vgg")
    conv = compress.fc_as_conv(model, (1, 16, 16))
    X = torch.rand(3, 1, 24, 28)  # maps of 6 x 7, in which a 4 x 4 window has 3 x 4 places
    flatten = next(i for i, m in enumerate(model.net) if isinstance(m, nn.Flatten))
    maps = model.net[:flatten](X)
    crops = [maps[:, :, i : i + 4, j : j + 4] for i in range(3) for j in range(4)]
    by_hand = torch.stack([model.net[flatten:](crop) for crop in crops]).mean(0)
    torch.testing.assert_close(conv(X), by_hand, atol=1e-5, rtol=0)


def test_the_mask_holds_through_training():
    small = compress.magnitude_pruning(build("vgg", training=True), keep=0.1)
    before = [m.weight.detach().clone() for m in linears(small)]
    optim = torch.optim.SGD(small.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    for _ in range(3):
        optim.zero_grad()
        nn.functional.cross_entropy(small(images("vgg")), torch.arange(4)).backward()
        optim.step()
    for old, layer in zip(before, linears(small), strict=True):
        assert not bool(layer.weight[old == 0].any())
        assert not torch.equal(layer.weight, old)
        parametrize.remove_parametrizations(layer, "weight")
        assert not bool(layer.weight[old == 0].any())


@torch.no_grad()
def test_pruning_what_is_pruned_or_split():
    model = build("vgg")
    pruned = compress.magnitude_pruning(model, 0.5)
    again, once = compress.magnitude_pruning(pruned, 0.1), compress.magnitude_pruning(model, 0.1)
    for a, b in zip(linears(again), linears(once), strict=True):
        assert torch.equal(a.weight, b.weight)
        parametrize.remove_parametrizations(a, "weight")
    for layer in linears(pruned):  # torch's copies of a parametrised layer are not apart; these are
        assert int((layer.weight != 0).sum()) == math.ceil(0.5 * layer.weight.numel())
    for old, new in zip(linears(once), linears(compress.int8(once)), strict=True):
        assert not bool(new.weight.dequantize()[old.weight == 0].any())
    split = compress.magnitude_pruning(compress.truncated_svd(model, [3, 4]), 0.1)
    shares = [float((m.weight != 0).float().mean()) for m in linears(split)]
    assert len(shares) == 5 and all(0.1 <= share < 0.15 for share in shares)


class Concatenation(nn.Module):
    """Two convolutions side by side, the channels of one after those of the other."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, X):
        return torch.cat([self.left(X), self.right(X)], dim=1)


def test_pooling_takes_the_channels_that_the_features_give():
    model = Mlp(nn.Linear(8 * 16 * 16, 10))
    model.net.insert(0, Concatenation())
    small = compress.global_average_pooling(model)
    assert linears(small)[0].in_features == 8
    assert small(images("vgg")).shape == (4, 10)


@torch.no_grad()
def test_layers_without_bias():
    model, X = build("vgg"), images("vgg")
    for layer in linears(model):
        layer.bias = None
    for way in EQUAL.values():
        torch.testing.assert_close(way(model, "vgg")(X), model(X), atol=1e-4, rtol=0)


# --- copies ------------------------------------------------------------------------------------


class Given(d2l.Classifier):
    """A network that came as an argument."""

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


class Heavy(d2l.DataModule):
    """A data set that is much larger than the network."""

    def __init__(self):
        super().__init__()
        self.batch_size = 8
        self.ballast = torch.zeros(4_000_000)
        self.tensors = torch.rand(16, *SHAPES["vgg"]), torch.arange(16) % 10

    def get_dataloader(self, train):
        return self.get_tensorloader(self.tensors, train)


def test_a_trained_model_drags_no_data_along_and_can_be_trained_on(capsys):
    model = build("vgg", training=True)
    model.board.display = False
    trainer = d2l.Trainer(1, precision="float32", seed=0)
    trainer.fit(model, Heavy())
    small = compress.truncated_svd(model, [48, 40])
    assert model.trainer is trainer and small.trainer is None
    assert len(pickle.dumps(small)) < 200_000  # the data are 16 million bytes
    before = small.eval()(images("vgg"))
    torch.testing.assert_close(before, model.eval()(images("vgg")), atol=1e-4, rtol=0)
    d2l.Trainer(1, precision="float32", seed=0).fit(small, Heavy())
    assert not torch.equal(small.eval()(images("vgg")), before)


# --- refusals ----------------------------------------------------------------------------------


class NoNet(d2l.Classifier): ...


class OneLayer(d2l.Classifier):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 2)


class Mlp(d2l.Classifier):
    def __init__(self, *head):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), *head)


def fully_convolutional():
    return compress.fc_as_conv(build("vgg"), SHAPES["vgg"])


@pytest.mark.parametrize("make", [NoNet, OneLayer, fully_convolutional])
def test_a_network_without_a_head_is_refused(make):
    model = make()
    with pytest.raises(ValueError, match=f"this {type(model).__name__} has no head"):
        compress.global_average_pooling(model)


def test_a_network_without_weights_is_refused():
    with pytest.raises(ValueError, match="VGG has no weights"):
        compress.magnitude_pruning(d2l.VGG(((1, 4), (1, 8)), head=WIDTHS), 0.5)


@pytest.mark.parametrize(
    ("ranks", "message"),
    [([0, 4], "rank .* is 0"), ([4, 41], "rank .* is 41"), ([4], r"ranks is \[4\]")],
)
def test_impossible_ranks_are_refused(ranks, message):
    with pytest.raises(ValueError, match=message):
        compress.truncated_svd(build("vgg"), ranks)


@pytest.mark.parametrize("keep", [0, 1.01, math.nan])
def test_impossible_shares_are_refused(keep):
    with pytest.raises(ValueError, match=f"keep is {keep}"):
        compress.magnitude_pruning(build("vgg"), keep)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(8), nn.Softmax(dim=-1)])
def test_a_head_whose_logits_would_be_others_is_refused(layer):
    model = Mlp(nn.Linear(256, 8), layer, nn.Linear(8, 2)).eval()
    with pytest.raises(ValueError, match=type(layer).__name__):
        compress.fc_as_conv(model, (1, 16, 16))
