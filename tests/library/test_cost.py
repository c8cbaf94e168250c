"""Counts, held against formulas, against real runs, and against numbers found by hand."""

from collections import Counter
from dataclasses import FrozenInstanceError
from math import prod

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

import d2l_utils as d2l
from d2l_lab import compress
from d2l_utils.meta import on_meta

NARROW = d2l.VGG_NARROW


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


def forward(net, X):
    with torch.no_grad():
        return net(X)


def state(net):
    """Returns all that counting must not change."""
    tensors = [*net.named_parameters(), *net.named_buffers()]
    return (
        repr(net),
        [(name, id(t), type(t), t.device, t.dtype, t._version) for name, t in tensors],
        [
            (m.training, type(m), len(m._forward_hooks), len(m._forward_pre_hooks))
            for m in net.modules()
        ],
        torch.get_rng_state().tolist(),
    )


# --- Conv2d and Linear ------------------------------------------------------------------------


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


def rows_of_a_real_run(net, input_shape):
    """Returns what `layer_costs` must, by the formulas of convolutions and linear layers."""
    rows = []

    def note(name, layer, output):
        kind = "conv" if isinstance(layer, nn.Conv2d) else "fc"
        params = sum(p.numel() for p in layer.parameters())
        macs = output.numel() * prod(layer.weight.shape[1:])
        shape = tuple(output.shape)
        rows.append(d2l.LayerCost(name, kind, shape, params, macs, output.numel()))

    for name, layer in net.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(lambda m, _, out, name=name: note(name, m, out))
    forward(net.eval(), torch.zeros(input_shape))
    return rows


@settings(max_examples=25, deadline=None, derandomize=True)
@given(networks())
def test_rows_are_the_layers_of_a_real_run(case):
    model, input_shape = case
    before = state(model)
    rows = d2l.layer_costs(model, input_shape)
    assert state(model) == before
    assert rows == rows_of_a_real_run(model, input_shape)
    assert d2l.layer_costs(model, input_shape) == rows  # now that its weights exist


@pytest.mark.parametrize(
    ("model", "conv", "fc"),
    [
        (
            lambda: d2l.VGG(d2l.VGG_ARCHS["A"]),
            (9_220_480, 7_485_456_384),
            (119_586_826, 119_578_624),
        ),
        (d2l.AlexNet, (3_747_200, 962_858_112), (43_040_778, 43_032_576)),
    ],
    ids=["VGG-11", "AlexNet"],
)
def test_numbers_of_the_exercise(model, conv, fc):
    sums = {"conv": [0, 0], "fc": [0, 0]}
    for _, kind, *numbers in summary(model(), (3, 224, 224)):
        sums[kind] = [a + b for a, b in zip(sums[kind], numbers, strict=True)]
    assert sums == {"conv": [*conv], "fc": [*fc]}


def test_rows_by_hand():
    net = nn.Sequential(nn.Conv2d(6, 4, (3, 5), stride=2, groups=2, bias=False))
    (row,) = d2l.layer_costs(net, (5, 6, 9, 11))
    # Each output sums 6 / 2 channels of 3 x 5 pixels; there are 5 images of 4 x 4 x 4 outputs.
    assert row == d2l.LayerCost("0", "conv", (5, 4, 4, 4), 4 * 3 * 15, 320 * 45, 320)
    (row,) = d2l.layer_costs(nn.Linear(5, 7), (2, 3, 4, 5))
    assert row == d2l.LayerCost("", "fc", (2, 3, 4, 7), 42, 24 * 35, 24 * 7)


def test_what_was_counted_stays():
    for count in (d2l.layer_costs, d2l.saved_tensors):
        with pytest.raises(FrozenInstanceError):
            count(nn.Linear(5, 7), (2, 3, 4, 5))[0].name = "other"


def test_a_layer_used_twice_counts_its_work_twice_and_its_weights_once():
    layer = nn.Conv2d(2, 2, 3, padding=1)
    (row,) = d2l.layer_costs(nn.Sequential(layer, nn.ReLU(), layer), (1, 2, 4, 4))
    assert row == d2l.LayerCost("0", "conv", (1, 2, 4, 4), 38, 2 * 32 * 18, 2 * 32)


def test_shared_weights_count_for_the_first_layer():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    assert summary(net, (1, 1, 4)) == [("0", "fc", 20, 16), ("1", "fc", 4, 16)]


def test_rows_come_in_the_order_of_the_run_and_only_of_what_runs():
    layers = {name: nn.Linear(4, 4) for name in ("last", "unused", "first")}
    net = Net(lambda net, X: net.last(net.first(X)), **layers)
    assert [row.name for row in d2l.layer_costs(net, (1, 1, 4))] == ["first", "last"]


def test_layers_that_only_normalise_or_scale_get_no_row():
    norms = nn.LazyBatchNorm2d(), nn.GroupNorm(1, 2), nn.LayerNorm((4, 4)), nn.PReLU(2)
    scales = [
        Net(lambda net, X: X * net.scale, scale=weight(*shape))
        for shape in [(2, 1, 1), (2, 4, 4), (1,)]
    ]
    assert d2l.layer_costs(nn.Sequential(*norms, *scales), (2, 4, 4)) == []


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
    ("layer", "row"),
    [
        (nn.ConvTranspose2d(1, 2, 3), ("1", "conv", 20, 8 * 8 * 18)),
        (nn.Sequential(nn.Flatten(1, 2), nn.LSTM(8, 5)), ("1.1", "matmul", 300, 8 * 260)),
    ],
)
def test_other_layers_are_counted_by_torch(layer, row):
    assert summary(nn.Sequential(nn.Identity(), layer), (1, 8, 8)) == [row]


def test_attention_is_counted_on_every_device():
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    # In and out of attention 4 x 8 x 8 weights, six times; scores and their use 6 x 6 x 8 each.
    assert summary(nn.Sequential(nn.Flatten(1, 2), layer), (1, 6, 8)) == [
        ("1.self_attn", "matmul", 4 * 72, 6 * 256 + 2 * 288),
        ("1.linear1", "fc", 8 * 16 + 16, 6 * 128),
        ("1.linear2", "fc", 16 * 8 + 8, 6 * 128),
    ]
    attend = F.scaled_dot_product_attention
    on_meta, on_cpu = (
        Net(lambda net, X: attend(X, X, X)),
        Net(lambda net, X: attend(X, X, X) if X.mean() <= 0 else X),
    )
    assert summary(on_meta, (2, 6, 8)) == [("", "matmul", 0, 2 * 2 * 288)]
    assert summary(on_cpu, (2, 6, 8)) == summary(on_meta, (2, 6, 8))


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


def test_weights_that_the_first_pass_makes_are_known_in_it():
    def forward(net, X):
        if not hasattr(net, "w"):
            net.w = nn.Parameter(torch.ones(8, device=X.device))
        return (X * net.w).sum(-1)

    with pytest.raises(ValueError, match="a Net, .* sum, which is not counted"):
        d2l.layer_costs(Net(forward), (1, 8, 8))


def test_inference_mode_counts_the_same():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4))
    fast = Net(torch.inference_mode()(lambda self, X: self.net(X)), net=net)
    plain, whole = (d2l.layer_costs(n, (1, 8, 8)) for n in (net, fast))
    plain, whole = ([(r.kind, r.params, r.macs) for r in rows] for rows in (plain, whole))
    assert whole == plain


def test_a_subclass_has_all_of_its_work_in_its_row():
    class LowRank(nn.Linear):
        def __init__(self):
            super().__init__(8, 8)
            self.A, self.B = weight(2, 8), weight(8, 2)

        def forward(self, X):
            return super().forward(X) + X @ self.A.T @ self.B.T

    assert summary(LowRank(), (1, 1, 8)) == [("", "fc", 72 + 32, 64 + 32)]


# --- what networks do with numbers, and where they keep their weights --------------------------


def check(net, X):
    assert not torch.isnan(X).any()
    return net.conv(X)


@pytest.mark.parametrize(
    "forward",
    [
        check,
        lambda net, X: net.conv(X) if X.mean() <= 0 else X,
        lambda net, X: net.conv(X + torch.zeros(1, 1, 8, 8)),
        lambda net, X: net.conv(X) if not X.is_meta else None + X,
    ],
)
def test_a_forward_that_looks_at_numbers_is_run_on_the_cpu(forward):
    net = Net(forward, conv=nn.LazyConv2d(4, 3))
    before = state(net)
    assert summary(net, (1, 8, 8)) == [("conv", "conv", 40, 1296)]
    assert [(r.name, r.bytes) for r in d2l.saved_tensors(net, (1, 8, 8))] == [("conv", 256)]
    assert d2l.materialize(net, (1, 8, 8)).conv.weight.device.type == "meta"
    assert state(net) == before


def test_what_a_forward_on_the_cpu_changes_is_a_copys():
    net = Net(lambda net, X: net.norm(X) if X.mean() <= 0 else X, norm=nn.BatchNorm2d(1))
    before = state(net)
    assert d2l.saved_tensors(net, (2, 1, 8, 8)) and state(net) == before


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


def test_kept_activations_are_no_matter():
    def keep(net, X):
        net.input, net.kept = X, net.conv(X)
        return net.kept

    net = Net(keep, conv=nn.Conv2d(1, 4, 3))
    kept = net(torch.zeros(1, 1, 8, 8))
    assert summary(net, (1, 8, 8)) == [("conv", "conv", 40, 1296)]
    assert [row.bytes for row in d2l.saved_tensors(net, (1, 8, 8))] == [256]
    assert net.kept is kept


@pytest.mark.parametrize(
    ("change", "params"),
    [
        (utils.weight_norm, 216 + 8 + 8),
        (utils.parametrizations.weight_norm, 216 + 8 + 8),
        (lambda conv: prune.l1_unstructured(conv, "weight", amount=0.5), 216 + 8),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weights_computed_from_others(change, params):
    net = nn.Sequential(change(nn.Conv2d(3, 8, 3)))
    assert summary(net, (3, 8, 8)) == [("0", "conv", params, 7776)]
    assert d2l.saved_tensors(net, (3, 8, 8))


# --- the network is left as it was ------------------------------------------------------------


def test_training_mode_precision_statistics_and_generator_stay():
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 1)).double()
    before = state(net)
    assert summary(net, (1, 4, 4)) == [("3", "fc", 17, 16)]
    d2l.saved_tensors(net, (3, 1, 4, 4))
    assert state(net) == before


def test_no_memory_is_taken():
    class Allocations(TorchDispatchMode):
        """Notes the memory of all tensors that come into being outside the meta device."""

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            output = func(*args, **(kwargs or {}))
            made.extend(t.nbytes for t in tree_leaves(output) if t.device.type != "meta")
            return output

    made = []
    with Allocations():
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2), nn.BatchNorm1d(2), nn.LazyLinear(3))
    assert sum(made) > 0
    made.clear()
    with Allocations():
        d2l.layer_costs(net, (1, 4, 4))
    assert made == []


def test_on_meta_keeps_what_a_parameter_is():
    net = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(2), nn.BatchNorm2d(2))
    net[0].weight = net[0].bias.requires_grad_(False)
    twin = on_meta(net)
    for there, here in zip(twin.parameters(), net.parameters(), strict=True):
        assert there.device.type == "meta"
        assert (type(there), there.requires_grad) == (type(here), here.requires_grad)
    assert twin[0].weight is twin[0].bias
    assert [b.device.type for b in twin.buffers()] == ["meta"] * 3


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
        net(X).sum().backward()
    return Counter(storage.nbytes() for storage in pieces.values())


def average_pooling():
    return nn.Sequential(nn.LazyConv2d(3, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten())


def reused():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.Sigmoid(), layer, nn.ReLU(inplace=True))


# In bfloat16 a CPU keeps the statistics of batch norm in it, other devices keep them in float32;
# and a CPU has no response norm.
@pytest.mark.parametrize(
    ("make", "input_shape", "dtype"),
    [
        (lambda: d2l.VGG(NARROW, head=(64,), batch_norm=True), (3, 3, 40, 40), torch.float32),
        (lambda: d2l.VGG([[[3, "LRN"], 8]], head=(8,)), (2, 1, 8, 8), torch.float32),
        (lambda: d2l.VGG(NARROW, head=(64, 32)), (2, 1, 32, 32), torch.bfloat16),
        (lambda: d2l.VGG(NARROW, head="gap"), (2, 1, 64, 64), torch.bfloat16),
        (average_pooling, (2, 1, 8, 8), torch.bfloat16),
        (reused, (2, 1, 3, 4), torch.float32),
    ],
)
def test_saved_tensors_are_those_of_a_real_run(make, input_shape, dtype):
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
    net[0].requires_grad_(False)
    assert d2l.saved_tensors(net, (5, 1, 6, 6)) == rows[3:]  # nothing is needed before the head


def test_saved_tensors_of_functional_operations_are_their_modules():
    net = nn.Sequential(nn.Conv2d(1, 1, 1), Net(lambda _, X: X.exp().sin()))
    rows = d2l.saved_tensors(net, (1, 2, 2))
    # The image, for the weight's gradient; the exponential, which is its own derivative.
    assert [(r.name, r.kind, r.bytes) for r in rows] == [("0", "Conv2d", 16), ("1", "Net", 16)]
    net[1].run = lambda _, X: X[..., :1].sin()  # a part of a tensor keeps the whole of it
    assert [r.bytes for r in d2l.saved_tensors(net, (1, 2, 2))] == [16, 16]


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (3, 32), (3, 0, 32), ((1, 8, 8), (1, 8, 8), (2,)), 224])
def test_shapes_that_are_none(shape):
    with pytest.raises(ValueError, match="input_shape is "):
        d2l.layer_costs(nn.LazyLinear(1), shape)


def test_networks_of_several_inputs():
    with pytest.raises(ValueError, match="several inputs, input1, input2"):
        d2l.layer_costs(nn.Bilinear(8, 8, 1), ((1, 8, 8), (1, 8, 8)))


@pytest.mark.parametrize(
    "net", [nn.Conv2d(1, 1, 3), nn.Sequential(nn.Flatten(), nn.Linear(5, 1)), d2l.VGG(NARROW)]
)
def test_inputs_that_the_network_cannot_take(net):
    with pytest.raises(ValueError, match=r"cannot take an input of \(1, 3, 8, 8\)|8 x 8"):
        d2l.layer_costs(net, (3, 8, 8))


def test_quantised_weights_are_refused():
    model = d2l.VGG(((1, 4),), head=(8,)).eval()
    forward(model, torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="Int8Tensor"):
        d2l.saved_tensors(compress.int8(model), (1, 8, 8))
