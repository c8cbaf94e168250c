"""Counts, held against torch's own counter, against real runs, and against hand-made figures."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812 (the field's name for it)
from torch.nn import utils
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import d2l_utils as d2l
from d2l_lab import compress
from d2l_utils.meta import on_meta

NARROW = d2l.VGG_NARROW


def forward(net, X):
    with torch.no_grad():
        return net(X)


def state(net):
    """Returns all of a network that counting must not change."""
    tensors = [*net.named_parameters(), *net.named_buffers()]
    return (
        repr(net),
        [
            (name, id(tensor), type(tensor), tensor.device, tensor._version)
            for name, tensor in tensors
        ],
        [(module.training, module.__class__) for module in net.modules()],
        [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in net.modules()
        ],
    )


# --- random networks --------------------------------------------------------------------------


@st.composite
def networks(draw):
    """Draws a VGG-like network without weights yet, and the shape of its input."""
    blocks = draw(st.integers(1, 4))
    kernel_sizes = st.lists(st.sampled_from([1, 3, 5]), min_size=1, max_size=3)
    convs = st.one_of(st.integers(1, 3), kernel_sizes)
    arch = draw(st.lists(st.tuples(convs, st.integers(1, 9)), min_size=blocks, max_size=blocks))
    head = draw(st.one_of(st.just("gap"), st.lists(st.integers(1, 20), max_size=2)))
    model = d2l.VGG(
        arch, num_classes=draw(st.integers(1, 12)), head=head, batch_norm=draw(st.booleans())
    )
    side = st.integers(2**blocks, 2**blocks + 15)
    input_shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 4), side, side))
    return model.train(draw(st.booleans())), input_shape


@settings(max_examples=60, deadline=None, derandomize=True)
@given(networks())
def test_counts_are_those_of_torch(case):
    model, input_shape = case
    before = state(model)
    rows = d2l.layer_costs(model, input_shape)
    assert state(model) == before

    X = torch.zeros(input_shape)
    forward(model.eval(), X)  # now the weights exist
    with FlopCounterMode(display=False) as counter:
        forward(model, X)
    assert 2 * sum(row.macs for row in rows) == counter.get_total_flops()

    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    of_norms = sum(p.numel() for m in norms for p in m.parameters())
    assert sum(row.params for row in rows) + of_norms == sum(p.numel() for p in model.parameters())

    before = state(model)
    assert d2l.layer_costs(model, input_shape) == rows
    assert state(model) == before


@pytest.mark.parametrize("size", [32, 33, 47])
def test_rows_are_the_layers_of_a_real_run(size):
    model = d2l.VGG(NARROW, head=(8,))
    rows = d2l.layer_costs(model, (2, 3, size, size))
    seen = []
    forward(model, torch.zeros(2, 3, size, size))
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            kind = "conv" if isinstance(layer, nn.Conv2d) else "fc"
            layer.register_forward_hook(
                lambda m, _, out, name=name, kind=kind: seen.append(
                    (name, kind, tuple(out.shape), sum(p.numel() for p in m.parameters()))
                    + (out.numel(),)
                )
            )
    forward(model, torch.zeros(2, 3, size, size))
    assert [(r.name, r.kind, r.output_shape, r.params, r.activations) for r in rows] == seen


# --- figures that others printed --------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "conv_params", "fc_params", "conv_macs", "fc_macs"),
    [
        (lambda: d2l.VGG(d2l.VGG_ARCHS["A"]), 9_220_480, 119_586_826, 7_485_456_384, 119_578_624),
        (d2l.AlexNet, 3_747_200, 43_040_778, 962_858_112, 43_032_576),
    ],
    ids=["VGG-11", "AlexNet"],
)
def test_figures_of_the_exercise(model, conv_params, fc_params, conv_macs, fc_macs):
    rows = d2l.layer_costs(model(), (3, 224, 224))
    conv, fc = ([row for row in rows if row.kind == kind] for kind in ("conv", "fc"))
    assert len(conv) + len(fc) == len(rows)
    assert (sum(r.params for r in conv), sum(r.params for r in fc)) == (conv_params, fc_params)
    assert (sum(r.macs for r in conv), sum(r.macs for r in fc)) == (conv_macs, fc_macs)


def test_one_row_by_hand():
    net = nn.Sequential(nn.Conv2d(6, 4, (3, 5), stride=2, groups=2, bias=False))
    (row,) = d2l.layer_costs(net, (5, 6, 9, 11))
    # Each output sums 6 / 2 channels of 3 x 5 pixels; there are 5 images of 4 x 4 x 4 outputs.
    assert row == d2l.LayerCost("0", "conv", (5, 4, 4, 4), 4 * 3 * 15, 320 * 45, 320)


def test_an_image_is_a_batch_of_one():
    net = nn.Sequential(nn.LazyConv2d(2, 3))
    assert d2l.layer_costs(net, (1, 5, 5)) == d2l.layer_costs(net, [1, 1, 5, 5])


def test_linear_layers_may_have_more_dimensions():
    (row,) = d2l.layer_costs(nn.Linear(5, 7), (2, 3, 4, 5))
    assert row == d2l.LayerCost("", "fc", (2, 3, 4, 7), 42, 24 * 35, 24 * 7)


# --- layers used twice, shared, unused, without weights ---------------------------------------


def test_a_layer_used_twice_counts_its_work_twice_and_its_weights_once():
    layer = nn.Conv2d(2, 2, 3, padding=1)
    net = nn.Sequential(layer, nn.ReLU(), layer)
    (row,) = d2l.layer_costs(net, (1, 2, 4, 4))
    with FlopCounterMode(display=False) as counter:
        forward(net, torch.zeros(1, 2, 4, 4))
    assert (row.name, row.params, row.activations) == ("0", 38, 2 * 32)
    assert 2 * row.macs == counter.get_total_flops()


def test_shared_weights_count_for_the_first_layer():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    net = nn.Sequential(first, second)
    rows = d2l.layer_costs(net, (1, 1, 4))
    assert [row.params for row in rows] == [20, 4]
    assert [row.macs for row in rows] == [16, 16]
    assert sum(row.params for row in rows) == sum(p.numel() for p in net.parameters())
    twin = on_meta(net)
    assert twin[0].weight is twin[1].weight


def test_rows_come_in_the_order_of_the_run_and_only_of_what_runs():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.unused, self.first = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, X):
            return self.last(self.first(X))

    assert [row.name for row in d2l.layer_costs(Backwards(), (1, 1, 4))] == ["first", "last"]


def test_layers_that_only_normalise_or_scale_get_no_row():
    net = nn.Sequential(
        nn.LazyBatchNorm2d(), nn.GroupNorm(1, 2), nn.LayerNorm((4, 4)), nn.PReLU(2), nn.Flatten()
    )
    assert d2l.layer_costs(net, (2, 4, 4)) == []


class Net(nn.Module):
    """A network of layers and a forward function."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, X):
        return self.run(self, X)


def weight(*shape):
    return nn.Parameter(torch.ones(shape))


def summary(net, shape):
    return [(r.name, r.kind, r.params, r.macs) for r in d2l.layer_costs(net, shape)]


def test_scales_of_any_shape_get_no_row():
    for shape in [(4, 1, 1), (4, 8, 8), (1,)]:
        net = Net(
            lambda net, X: net.conv(X) * net.scale, conv=nn.Conv2d(1, 4, 1), scale=weight(*shape)
        )
        assert summary(net, (1, 8, 8)) == [("conv", "conv", 8, 256)]


# --- work outside of Conv2d and Linear --------------------------------------------------------


def test_a_tied_weight_works_twice_and_counts_once():
    net = Net(
        lambda net, X: F.linear(net.enc(X.flatten(1)), net.enc.weight.T), enc=nn.Linear(784, 32)
    )
    rows = summary(net, (1, 28, 28))
    assert rows == [("enc", "fc", 25_120, 25_088), ("", "matmul", 0, 25_088)]


def test_functional_work_has_a_row_of_its_own():
    net = Net(lambda net, X: F.conv2d(X, net.kernel), kernel=weight(4, 2, 3, 3))
    (row,) = d2l.layer_costs(net, (2, 2, 8, 8))
    assert row == d2l.LayerCost("", "conv", (2, 4, 6, 6), 72, 288 * 18, 288)
    assert summary(Net(lambda net, X: X @ net.w, w=weight(8)), (1, 3, 8)) == [("", "matmul", 8, 24)]


@pytest.mark.parametrize(
    ("layer", "rows"),
    [
        (nn.ConvTranspose2d(1, 2, 3), [("1", "conv", 20, 8 * 8 * 18)]),
        (nn.Sequential(nn.Flatten(2), nn.LazyConv1d(2, 3)), [("1.1", "conv", 8, 62 * 6)]),
        (nn.Sequential(nn.Flatten(1, 2), nn.LSTM(8, 5)), [("1.1", "matmul", 300, 8 * 260)]),
    ],
)
def test_other_layers_are_counted_by_torch(layer, rows):
    assert summary(nn.Sequential(nn.Identity(), layer), (1, 8, 8)) == rows


def test_attention_is_counted_on_every_device():
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    parts = {"layer": layer, "flat": nn.Flatten(1, 2)}
    rows = summary(Net(lambda net, X: net.layer(net.flat(X)), **parts), (1, 6, 8))
    # In and out of attention 4 x 8 x 8 weights, six times; scores and their use 6 x 6 x 8 each.
    assert rows == [
        ("layer.self_attn", "matmul", 4 * 72, 6 * 256 + 2 * 288),
        ("layer.linear1", "fc", 8 * 16 + 16, 6 * 128),
        ("layer.linear2", "fc", 16 * 8 + 8, 6 * 128),
    ]
    scores = lambda net, X: F.scaled_dot_product_attention(X, X, X)  # noqa: E731
    (row,) = summary(Net(scores), (2, 6, 8))
    assert row == ("", "matmul", 0, 2 * 2 * 288)
    assert summary(Net(lambda net, X: scores(net, X) if X.mean() <= 0 else X), (2, 6, 8)) == [row]


@pytest.mark.parametrize(
    ("forward", "operation"),
    [
        (lambda net, X: (X[..., None, :] * net.w).sum(-1), "sum"),
        (lambda net, X: F.bilinear(X, X, net.w[:, None, None].expand(-1, 8, 8)), "_trilinear"),
    ],
)
def test_work_that_is_hidden_is_refused(forward, operation):
    net = nn.Sequential(nn.Identity(), Net(forward, w=weight(8)))
    with pytest.raises(ValueError, match=f"layer '1', a Net, .* {operation}, which is not counted"):
        d2l.layer_costs(net, (1, 8, 8))


def test_torch_and_the_formula_must_agree():
    layer = nn.Linear(8, 4)
    layer.in_features = 9
    with pytest.raises(ValueError, match="'0', a Linear, takes 288 .* torch counts 256"):
        d2l.layer_costs(nn.Sequential(layer), (1, 8, 8))


def test_a_subclass_has_all_of_its_work_in_its_row():
    class LowRank(nn.Linear):
        def __init__(self):
            super().__init__(8, 8)
            self.A, self.B = weight(2, 8), weight(8, 2)

        def forward(self, X):
            return super().forward(X) + X @ self.A.T @ self.B.T

    assert summary(LowRank(), (1, 1, 8)) == [("", "fc", 72 + 32, 64 + 32)]


# --- what networks do that cannot be done without numbers, or with them -----------------------


def check(net, X):
    assert not torch.isnan(X).any()
    return net.conv(X)


@pytest.mark.parametrize(
    "forward",
    [
        check,
        lambda net, X: net.conv(X) if X.mean() <= 0 else X,
        lambda net, X: net.conv(X + torch.zeros(1, 1, 8, 8)),
    ],
)
@pytest.mark.parametrize("conv", [nn.Conv2d(1, 4, 3), nn.LazyConv2d(4, 3)])
def test_a_forward_that_looks_at_numbers_is_run_on_the_cpu(forward, conv):
    net = Net(forward, conv=conv)
    before, generator = state(net), torch.get_rng_state()
    assert summary(net, (1, 8, 8)) == [("conv", "conv", 40, 1296)]
    assert [(r.name, r.bytes) for r in d2l.saved_tensors(net, (1, 8, 8))] == [("conv", 256)]
    assert d2l.materialize(net, (1, 8, 8)).conv.weight.device.type == "meta"
    assert state(net) == before and torch.equal(torch.get_rng_state(), generator)


def test_weights_that_are_plain_tensors():
    class Softmax(d2l.Classifier):
        def __init__(self):
            super().__init__()
            self.W = torch.zeros(784, 10, requires_grad=True)
            self.b = torch.zeros(10, requires_grad=True)

        def parameters(self):
            return [self.W, self.b]

        def forward(self, X):
            return X.reshape(-1, 784) @ self.W + self.b

    assert summary(Softmax(), (1, 28, 28)) == [("", "matmul", 7850, 7840)]
    (row,) = d2l.saved_tensors(Softmax(), (1, 28, 28))
    assert (row.kind, row.bytes) == ("Softmax", 3136)


def test_a_kept_activation_is_no_matter():
    def keep(net, X):
        net.kept = net.conv(X)
        return net.kept

    net = Net(keep, conv=nn.Conv2d(1, 4, 3))
    kept = net(torch.zeros(1, 1, 8, 8))
    assert summary(net, (1, 8, 8)) == [("conv", "conv", 40, 1296)]
    assert net.kept is kept


@pytest.mark.parametrize("parametrised", [utils.weight_norm, utils.parametrizations.weight_norm])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weights_computed_from_others(parametrised):
    net = nn.Sequential(parametrised(nn.Conv2d(3, 8, 3)))
    assert summary(net, (3, 8, 8)) == [("0", "conv", 216 + 8 + 8, 7776)]
    assert [row.name for row in d2l.saved_tensors(net, (3, 8, 8))]


def test_pruned_weights_count_as_weights():
    net = nn.Sequential(nn.Conv2d(1, 4, 3))
    prune.l1_unstructured(net[0], "weight", amount=0.5)
    assert summary(net, (1, 8, 8)) == [("0", "conv", 40, 1296)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_no_count_depends_on_the_precision(dtype):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    rows = d2l.layer_costs(net, (1, 4, 4))
    assert d2l.layer_costs(net.to(dtype), (1, 4, 4)) == rows
    assert {p.dtype for p in net.parameters()} == {dtype}


# --- the network is left as it was ------------------------------------------------------------


def test_no_weight_is_copied(monkeypatch):
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2), nn.BatchNorm1d(2))
    monkeypatch.setattr(torch.Tensor, "__deepcopy__", lambda *_: pytest.fail("it was copied"))
    monkeypatch.setattr(nn.Parameter, "__deepcopy__", lambda *_: pytest.fail("it was copied"))
    (row,) = d2l.layer_costs(net, (1, 4, 4))
    assert row.macs == 32


def test_counting_makes_no_numbers():
    class Allocations(TorchDispatchMode):
        """Notes the memory of all tensors that come into being outside the meta device."""

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            output = func(*args, **(kwargs or {}))
            made.extend(t.nbytes for t in tree_leaves(output) if t.device.type != "meta")
            return output

    made, net = [], d2l.VGG(d2l.VGG_ARCHS["E"], num_classes=1000)
    with Allocations():
        rows = d2l.layer_costs(net, (3, 224, 224))
    assert (sum(row.params for row in rows), made) == (143_667_240, [])
    with Allocations():
        nn.Linear(2, 3)
    assert sum(made) > 0


def test_on_meta_keeps_what_a_parameter_is():
    net = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(2), nn.BatchNorm2d(2))
    net[0].weight.requires_grad_(False)
    twin = on_meta(net)
    for (name, there), here in zip(twin.named_parameters(), net.parameters(), strict=True):
        assert there.device.type == "meta", name
        assert type(there) is type(here), name
        assert there.requires_grad == here.requires_grad, name
    assert [b.device.type for b in twin.buffers()] == ["meta"] * 3
    assert not any(isinstance(b, nn.Parameter) for b in twin.buffers())


def test_counting_in_training_mode_leaves_statistics_and_generator_alone():
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 1)).train()
    before, generator = state(net), torch.get_rng_state()
    d2l.layer_costs(net, (1, 4, 4))
    d2l.saved_tensors(net, (3, 1, 4, 4))
    assert state(net) == before
    assert torch.equal(torch.get_rng_state(), generator)


# --- memory that autograd keeps ---------------------------------------------------------------


def really_saved(net, X):
    """Returns what a run on the CPU saves: the size of each piece of memory, weights left out."""
    weights = {t.untyped_storage().data_ptr() for t in (*net.parameters(), *net.buffers())}
    pieces = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            pieces[storage.data_ptr()] = storage  # held, so that the address stays taken
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = net(X)
    sizes = Counter(storage.nbytes() for storage in pieces.values())
    output.sum().backward()
    return sizes


class Residual(nn.Module):
    """A block whose own forward keeps memory, by functional operations."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, X):
        return F.silu(torch.exp(self.conv(X)) * X).flatten(1)


def reused():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.Sigmoid(), layer, nn.ReLU(inplace=True))


NETWORKS = {
    "VGG": (lambda: d2l.VGG(NARROW, head=(64, 32)), (2, 1, 32, 32)),
    "VGG with batch norm": (
        lambda: d2l.VGG(NARROW, head=(64,), batch_norm=True),
        (3, 3, 40, 40),
    ),
    "VGG with gap": (lambda: d2l.VGG(NARROW, head="gap"), (2, 1, 64, 64)),
    "VGG with response norm": (lambda: d2l.VGG([[[3, "LRN"], 8]], head=(8,)), (2, 1, 8, 8)),
    "AlexNet": (d2l.AlexNet, (2, 1, 67, 67)),
    "average pooling": (
        lambda: nn.Sequential(nn.LazyConv2d(3, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten()),
        (2, 1, 8, 8),
    ),
    "a layer used twice": (reused, (2, 1, 3, 4)),
    "functional operations": (Residual, (2, 1, 8, 8)),
}


# In bfloat16 a CPU keeps the statistics of batch norm in it, other devices keep them in float32;
# and a CPU has no response norm.
CASES = [(name, torch.float32) for name in NETWORKS] + [
    (name, torch.bfloat16) for name in NETWORKS if "norm" not in name
]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_saved_tensors_are_those_of_a_real_run(name, dtype):
    make, input_shape = NETWORKS[name]
    net = make()
    rows = d2l.saved_tensors(net, input_shape, dtype)
    forward(net, torch.zeros(input_shape))
    assert d2l.saved_tensors(net, input_shape, dtype) == rows  # lazy or not
    net = net.to(dtype).train()
    assert Counter(r.bytes for r in rows) == really_saved(net, torch.rand(input_shape, dtype=dtype))


def test_saved_tensors_tell_the_layer_that_keeps_them():
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 1)
    )
    rows = d2l.saved_tensors(net, (5, 1, 6, 6))
    assert [(row.name, row.kind, row.shape, row.bytes) for row in rows] == [
        ("0", "Conv2d", (5, 1, 6, 6), 5 * 36 * 4),  # the input, to find the weights' gradient
        ("1", "ReLU", (5, 2, 4, 4), 5 * 32 * 4),  # its output, which the pooling needs as well
        ("2", "MaxPool2d", (5, 2, 2, 2), 5 * 8 * 8),  # where the maxima were, as int64
        ("4", "Linear", (5, 8), 5 * 8 * 4),
    ]
    assert [row.dtype for row in rows] == [torch.float32] * 2 + [torch.int64, torch.float32]


def test_saved_tensors_of_functional_operations_are_their_modules():
    net = nn.Sequential(nn.Conv2d(1, 1, 1), Net(lambda _, X: X.exp().sin()))
    rows = d2l.saved_tensors(net, (1, 2, 2))
    # The image, for the weight's gradient; the exponential, which is its own derivative.
    assert [(row.name, row.kind, row.bytes) for row in rows] == [
        ("0", "Conv2d", 16),
        ("1", "Net", 16),
    ]


def test_frozen_layers_keep_no_input():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(32, 1))
    kept = d2l.saved_tensors(net, (1, 1, 6, 6))
    net[0].requires_grad_(False)
    assert d2l.saved_tensors(net, (1, 1, 6, 6)) == kept[1:]


# --- bad input --------------------------------------------------------------------------------

COUNTERS = [d2l.layer_costs, d2l.saved_tensors]


@pytest.mark.parametrize("count", COUNTERS)
@pytest.mark.parametrize(
    "shape", [(), (3, 32), (1, 1, 1, 1, 1), (3, 0, 32), ((1, 8, 8), (1, 8, 8)), "abc", 224]
)
def test_shapes_that_are_none(count, shape):
    with pytest.raises(ValueError, match=r"input_shape is .*\(n, channels, h, w\)"):
        count(nn.LazyLinear(1), shape)


@pytest.mark.parametrize("count", COUNTERS)
@pytest.mark.parametrize("shape", [(1, 8, 8), ((1, 8, 8), (1, 8, 8))])
def test_networks_of_several_inputs(count, shape):
    with pytest.raises(ValueError, match="several inputs, input1, input2"):
        count(nn.Bilinear(8, 8, 1), shape)


@pytest.mark.parametrize("count", COUNTERS)
def test_inputs_that_the_network_cannot_take(count):
    message = r"the network cannot take an input of \(1, 3, 8, 8\): .*"
    with pytest.raises(ValueError, match=message):
        count(nn.Conv2d(1, 1, 3), (3, 8, 8))
    with pytest.raises(ValueError, match=message):
        count(nn.Sequential(nn.Flatten(), nn.Linear(5, 1)), (3, 8, 8))
    with pytest.raises(ValueError, match="16 x 16"):
        count(d2l.VGG(NARROW), (1, 16, 16))


@pytest.mark.parametrize("count", COUNTERS)
def test_quantised_weights_are_refused(count):
    model = d2l.VGG(((1, 4),), head=(8,)).eval()
    forward(model, torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="Int8Tensor"):
        count(compress.int8(model), (1, 8, 8))
