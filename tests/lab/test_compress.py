"""Smaller heads: equal where they must be, of the size of a formula, the given left untouched."""

import copy
import math
import pickle
import sys

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

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


@names
@torch.no_grad()
def test_int8_is_close_and_a_quarter_of_the_bytes(name):
    model, X = build(name), images(name)
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
    convs = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]
    same = [m.weight for m in small.modules() if isinstance(m, nn.Conv2d)]
    assert all(torch.equal(a, b) for a, b in zip(convs, same, strict=True))


# --- the given network is left as it is -------------------------------------------------------


@names
@ways
@pytest.mark.parametrize("training", [True, False])
def test_the_given_network_is_untouched(name, way, training):
    model = build(name, training)
    modules, parameters = list(model.modules()), list(model.parameters())
    before = copy.deepcopy(model.state_dict())
    small = ALL[way](model, name)
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(model.state_dict()[key], before[key]) for key in before)
    assert not set(modules) & set(small.modules())
    assert not storages(model) & storages(small)
    assert type(small) is type(model)
    assert all(m.training is training for m in model.modules())


def storages(model):
    tensors = list(model.state_dict().values())
    plain = [getattr(t, "qdata", t) for t in tensors]
    return {t.untyped_storage().data_ptr() for t in plain}


@names
@pytest.mark.parametrize("way", [way for way in ALL if way != "int8"])
@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_kept(name, way, training):
    small = ALL[way](build(name, training), name)
    assert small.training is small.net.training is training
    dropouts = [m for m in small.modules() if isinstance(m, nn.Dropout)]
    assert all(m.training is training for m in dropouts)
    assert len(dropouts) == (0 if way == "gap" else 2)


def test_int8_is_for_inference():
    assert not any(m.training for m in compress.int8(build("vgg", training=True)).modules())


# --- the sizes that formulas give -------------------------------------------------------------


def head_params(name):
    sizes = [FEATURES[name], *WIDTHS, 10]
    return sum(n * m + m for n, m in zip(sizes, sizes[1:], strict=False))


@names
@pytest.mark.parametrize("ranks", [(1, 1), (3, 4), (48, 40)])
def test_svd_has_r_times_n_plus_m_weights(name, ranks):
    model = build(name)
    small = compress.truncated_svd(model, ranks)
    n = FEATURES[name]
    weights = ranks[0] * (n + 48) + ranks[1] * (48 + 40) + 40 * 10
    assert count(small) - (count(model) - head_params(name)) == weights + 48 + 40 + 10
    assert macs(model, name) - macs(small, name) == n * 48 + 48 * 40 + 40 * 10 - weights


@names
def test_global_average_pooling_has_channels_times_classes_weights(name):
    model = build(name)
    small = compress.global_average_pooling(model)
    channels = 256 if name == "alexnet" else 8
    assert count(small) - (count(model) - head_params(name)) == channels * 10 + 10
    head_macs = FEATURES[name] * 48 + 48 * 40 + 40 * 10
    assert macs(model, name) - macs(small, name) == head_macs - channels * 10
    assert small(images(name)).shape == (4, 10)


@names
def test_a_convolutional_head_saves_nothing(name):
    model = build(name)
    conv = compress.fc_as_conv(model, SHAPES[name])
    assert not linears(conv)
    assert (count(conv), macs(conv, name)) == (count(model), macs(model, name))


KEPT = {  # of 128 x 48 (AlexNet: 1024 x 48), 48 x 40 and 40 x 10 weights
    0.04: (246, 77, 16),
    0.1: (615, 192, 40),
    0.5: (3072, 960, 200),
    1: (6144, 1920, 400),
    1e-9: (1, 1, 1),
}
KEPT_OF_ALEXNET = {0.04: 1967, 0.1: 4916, 0.5: 24576, 1: 49152, 1e-9: 1}  # in its first layer


@names
@pytest.mark.parametrize("keep", KEPT)
@torch.no_grad()
def test_pruning_keeps_the_largest_of_each_layer(name, keep):
    model = build(name)
    small = compress.magnitude_pruning(model, keep)
    first, *others = KEPT[keep]
    counts = [KEPT_OF_ALEXNET[keep] if name == "alexnet" else first, *others]
    for old, new, number in zip(linears(model), linears(small), counts, strict=True):
        kept = new.weight != 0
        assert int(kept.sum()) == number
        assert torch.equal(new.weight[kept], old.weight[kept])
        if not bool(kept.all()):
            assert float(old.weight[kept].abs().min()) >= float(old.weight[~kept].abs().max())
    assert count(small) == count(model)  # a mask saves no memory
    costs = [d2l.layer_costs(net, SHAPES[name]) for net in (model, small)]
    assert costs[0] == costs[1]  # nor a single multiply-accumulate


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
    with pytest.raises(RuntimeError):
        model(X)


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_the_mask_holds_through_training(momentum):
    small = compress.magnitude_pruning(build("vgg", training=True), keep=0.1)
    before = [m.weight.detach().clone() for m in linears(small)]
    optim = torch.optim.SGD(small.parameters(), lr=0.1, momentum=momentum, weight_decay=1e-2)
    for _ in range(3):
        optim.zero_grad()
        nn.functional.cross_entropy(small(images("vgg")), torch.arange(4)).backward()
        optim.step()
    for old, layer in zip(before, linears(small), strict=True):
        assert not bool(layer.weight[old == 0].any())
        assert not torch.equal(layer.weight, old)
        parametrize.remove_parametrizations(layer, "weight")
        assert not bool(layer.weight[old == 0].any())


@pytest.mark.parametrize("way", [way for way in ALL if way != "int8"])
def test_results_can_be_trained(way):
    small = ALL[way](build("vgg", training=True), "vgg")
    before = copy.deepcopy(small.state_dict())
    nn.functional.cross_entropy(small(images("vgg")), torch.arange(4)).backward()
    torch.optim.SGD(small.parameters(), lr=0.1).step()
    after = small.state_dict()
    weights = [key for key in before if key.endswith(("weight", "original"))]
    assert all(not torch.equal(before[key], after[key]) for key in weights)


@torch.no_grad()
def test_one_way_after_the_other():
    model, X = build("vgg"), images("vgg")
    pruned = compress.magnitude_pruning(model, 0.5)
    split = compress.truncated_svd(pruned, [48, 40])
    torch.testing.assert_close(split(X), pruned(X), atol=1e-4, rtol=0)
    for small in (pruned, split):
        conv = compress.fc_as_conv(small, SHAPES["vgg"])
        torch.testing.assert_close(conv(X), small(X), atol=1e-4, rtol=0)
        logits = small(X)
        rounded = compress.int8(small)(X)
        assert 0 < float((rounded - logits).abs().max()) < 0.05 * float(logits.abs().max())
    again = compress.truncated_svd(split, [48, 48, 40, 40])
    torch.testing.assert_close(again(X), split(X), atol=1e-4, rtol=0)


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


@pytest.mark.parametrize("way", [compress.int8, lambda m: compress.magnitude_pruning(m, 0.9)])
def test_what_torch_has_pruned_keeps_its_zeros(way):
    model = build("vgg")
    for layer in linears(model):
        prune.l1_unstructured(layer, "weight", amount=0.5)
    for old, new in zip(linears(model), linears(way(model)), strict=True):
        weight = new.weight.dequantize() if way is compress.int8 else new.weight
        assert not bool(weight[old.weight == 0].any())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@torch.no_grad()
def test_svd_in_the_precision_of_the_model(dtype):
    model, X = build("vgg").to(dtype), images("vgg").to(dtype)
    small = compress.truncated_svd(model, [48, 40])
    assert {p.dtype for p in small.parameters()} == {dtype}
    atol = 1e-10 if dtype == torch.float64 else 0.05
    torch.testing.assert_close(small(X), model(X), atol=atol, rtol=0)


@pytest.mark.parametrize("way", [way for way in ALL if way != "gap"])
@torch.no_grad()
def test_a_nested_head_is_as_good_as_a_flat_one(way):
    model, nested = build("vgg"), build("vgg")
    first, *rest, last = nested.net[3:]
    nested.net = nn.Sequential(
        *nested.net[:3], nn.Sequential(first, nn.Sequential(*rest, nn.Sequential(last)))
    )
    X = images("vgg")
    assert torch.equal(ALL[way](nested, "vgg").eval()(X), ALL[way](model, "vgg").eval()(X))


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


@ways
@torch.no_grad()
def test_results_can_be_copied(way):
    small, X = ALL[way](build("vgg"), "vgg").eval(), images("vgg")
    twin = copy.deepcopy(small)
    assert torch.equal(twin(X), small(X))
    assert not storages(twin) & storages(small)


@pytest.mark.parametrize("way", [way for way in ALL if "prune" not in way])
@torch.no_grad()
def test_results_can_be_pickled(way):
    small, X = ALL[way](build("vgg"), "vgg").eval(), images("vgg")
    assert torch.equal(pickle.loads(pickle.dumps(small))(X), small(X))


@torch.no_grad()
def test_a_pruned_network_is_kept_as_its_state_dict():
    """Torch pickles no parametrised module, and says so."""
    small, X = compress.magnitude_pruning(build("vgg"), 0.1), images("vgg")
    with pytest.raises(RuntimeError, match="only supported through state_dict"):
        pickle.dumps(small)
    twin = compress.magnitude_pruning(build("vgg"), 0.7)
    twin.load_state_dict(small.state_dict())
    assert torch.equal(twin(X), small(X))


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


@ways
def test_a_trained_model_drags_no_data_along(way, capsys):
    model = build("vgg")
    model.board.display = False
    trainer = d2l.Trainer(1, precision="float32", seed=0)
    trainer.fit(model, Heavy())
    small = ALL[way](model, "vgg")
    assert model.trainer is trainer and small.trainer is None
    if "prune" not in way:
        weights = sum(t.nbytes for t in small.state_dict().values())
        assert len(pickle.dumps(small)) < weights + 100_000  # the data are 16 million bytes


@torch.no_grad()
def test_svd_at_full_rank_of_a_trained_model_that_goes_on_training(capsys):
    """A result can be given to a trainer as any model."""
    model = build("vgg")
    model.board.display = False
    with torch.enable_grad():
        d2l.Trainer(1, precision="float32", seed=0).fit(model, Heavy())
        small = compress.truncated_svd(model, [48, 40])
        torch.testing.assert_close(small(images("vgg")), model(images("vgg")), atol=1e-4, rtol=0)
        trainer = d2l.Trainer(1, precision="float32", seed=0)
        trainer.fit(small, Heavy())
    assert math.isfinite(trainer.history[-1]["val_loss"])


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


HEADLESS = {"no net": NoNet, "net is one layer": OneLayer, "convolutional": fully_convolutional}


@ways
@pytest.mark.parametrize("model", HEADLESS)
def test_a_network_without_a_head_is_refused(way, model):
    model = HEADLESS[model]()
    with pytest.raises(ValueError, match=f"this {type(model).__name__} has no head"):
        ALL[way](model, "vgg")


@ways
def test_a_network_without_weights_is_refused(way):
    with pytest.raises(ValueError, match="VGG has no weights yet; run it on one batch first"):
        ALL[way](d2l.VGG(((1, 4), (1, 8)), head=WIDTHS), "vgg")


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ([0, 4], r"Linear\(.*in_features=128.*\) is 0; it must be from 1 to 48"),
        ([49, 4], "is 49; it must be from 1 to 48"),
        ([4, 41], "is 41; it must be from 1 to 40"),
        ([4], r"ranks is \[4\]; it must be one per hidden layer, here 2"),
        ([4, 4, 4], "here 2"),
    ],
)
def test_impossible_ranks_are_refused(ranks, message):
    with pytest.raises(ValueError, match=message):
        compress.truncated_svd(build("vgg"), ranks)


def test_svd_of_a_network_without_hidden_layers_is_refused():
    model = d2l.VGG(((1, 4),), head="gap")
    model.eval()(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="ranks .*, here 0"):
        compress.truncated_svd(model, [])


@pytest.mark.parametrize("keep", [0, -0.1, 1.01, math.nan])
def test_impossible_shares_are_refused(keep):
    with pytest.raises(ValueError, match=f"keep is {keep}"):
        compress.magnitude_pruning(build("vgg"), keep)


@pytest.mark.parametrize("shape", [(1, 24, 24), (3, 16, 16), (1, 2, 2)])
def test_a_shape_that_the_head_does_not_fit_is_refused(shape):
    with pytest.raises(RuntimeError):
        compress.fc_as_conv(build("vgg"), shape)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(8), nn.Softmax(dim=-1)])
def test_a_head_whose_logits_would_be_others_is_refused(layer):
    model = Mlp(nn.Linear(256, 8), layer, nn.Linear(8, 2)).eval()
    message = f"{type(layer).__name__}.* may give other logits in a convolutional head; allowed are"
    with pytest.raises(ValueError, match=message):
        compress.fc_as_conv(model, (1, 16, 16))


def test_int8_says_what_it_needs(monkeypatch):
    monkeypatch.delitem(sys.modules, "torchao", raising=False)
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(ImportError, match="int8 needs torchao; pip install torchao"):
        compress.int8(build("vgg"))
