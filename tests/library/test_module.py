"""Hyperparameters, `Module`, `Classifier`, and initialisation that reaches lazy layers."""

import copy
import functools
import math
import pickle
from types import SimpleNamespace

import pytest
import torch
from small import equal, weights
from torch import nn
from torch.nn import functional as F  # noqa: N812

import d2l_utils as d2l


class Net(d2l.Classifier):
    def __init__(self, lr=0.1):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))


class NoNet(d2l.Classifier): ...


def of(*layers, trainer=None):
    """Returns a model of these layers."""
    model = NoNet()
    model.net, model.trainer = nn.Sequential(*layers), trainer
    return model


class Recorder:
    """Stands in for a trainer and notes what a model reports."""

    def __init__(self, num_train_batches=10, train_batch_idx=5):
        self.num_train_batches, self.train_batch_idx = num_train_batches, train_batch_idx
        self.reports = []

    def report(self, key, value, train):
        self.reports.append((key, float(value), train))
        return not train


# --- hyperparameters --------------------------------------------------------------------------


def test_arguments_are_saved_but_for_the_ignored_and_the_private():
    class Point(d2l.HyperParameters):
        def __init__(self, x, yx=2, *rest, _secret=3, **more):
            self.save_hyperparameters(ignore="yx")  # or a list of names

    point = Point(1, 5, 6, z=7)
    assert point.hparams == {"x": 1, "rest": (6,), "more": {"z": 7}}
    assert (point.x, point.rest, point.more) == (1, (6,), {"z": 7})
    assert not hasattr(point, "yx") and not hasattr(point, "_secret") and not hasattr(point, "self")


def test_only_the_constructors_arguments_are_saved():
    import math  # as in a notebook cell that is one function

    class Inner(d2l.HyperParameters):
        def __init__(self, x, *, y=2):
            z = math.pi
            self.save_hyperparameters()
            self.later = lambda: (x, z)

    inner = Inner(1)
    assert inner.hparams == {"x": 1, "y": 2}
    assert not hasattr(inner, "z") and not hasattr(inner, "math")


# --- Module -----------------------------------------------------------------------------------


def test_forward_is_net_and_steps_pass_all_inputs_but_the_last():
    class Sum(d2l.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Identity()

        def forward(self, a, b):
            return self.net(a) + b

        def loss(self, y_hat, y):
            return (y_hat - y).abs().mean()

    model, one = Sum(), torch.ones(4)
    model.trainer = recorder = Recorder()
    assert float(model.training_step((one, 2 * one, 5 * one))) == 2
    model.validation_step((one, 2 * one, 4 * one))
    assert recorder.reports == [("loss", 2, True), ("loss", 1, False)]
    assert d2l.Module.forward(model, one) is one


def test_configure_optimizers_is_plain_sgd():
    model = Net(lr=0.25)
    model(torch.zeros(1, 1, 8, 8))
    optimiser = model.configure_optimizers()
    assert type(optimiser) is torch.optim.SGD
    (group,) = optimiser.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.25, 0, 0)
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()]


@pytest.mark.parametrize(
    ("batches", "per_epoch", "points"),
    [(10, 5, 10), (10, 2.5, 5), (10, 0.5, 1), (10, 0.1, 0), (1, 2, 2)],
)
def test_a_train_curve_gets_the_points_per_epoch_that_were_asked_for(batches, per_epoch, points):
    model = d2l.Module(plot_train_per_epoch=per_epoch)
    model.trainer = Recorder(num_train_batches=batches)
    for batch in range(2 * batches):
        model.trainer.train_batch_idx = batch
        model.plot("loss", float(batch), train=True)
    drawn = model.board.data["train_loss"]
    assert len(drawn) == points
    assert per_epoch != 5 or drawn[0] == (0.05, 0.5)


def test_a_trainer_of_ones_own_has_the_points_of_validation_that_were_asked_for():
    model = d2l.Module(plot_valid_per_epoch=2)
    model.trainer = SimpleNamespace(epoch=3, num_val_batches=8)
    for batch in range(8):
        model.plot("loss", float(batch), train=False)
    assert model.board.data["val_loss"] == [(4, 1.5), (4, 5.5)]


def test_plot_without_a_trainer():
    with pytest.raises(TypeError, match="plot needs a trainer"):
        d2l.Module().plot("loss", torch.tensor(0.0), train=True)


@pytest.mark.parametrize("eater", [nn.MaxPool2d, nn.AvgPool2d, functools.partial(nn.LazyConv2d, 1)])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_images_too_small_for_the_network(eater, device):
    with torch.device(device):
        model = of(nn.Identity(), eater(3))
    with pytest.raises(ValueError, match="images of 2 x 2 are too small for this NoNet"):
        model(torch.zeros(1, 1, 2, 2, device=device))


@pytest.mark.parametrize("shape", [(2, 1, 10, 10), (1, 8, 8)], ids=["larger", "no batch"])
def test_images_that_the_head_is_not_made_for(shape):
    model = Net()
    model(torch.zeros(2, 1, 8, 8))
    with pytest.raises(
        ValueError, match=r"X has the shape .* head of this Net is for \(n, 1, 8, 8\)"
    ):
        model(torch.zeros(shape))


def test_other_errors_pass_through():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        of(nn.Linear(3, 1))(torch.zeros(1, 2))


def test_a_copy_of_a_model_leaves_its_trainer_behind():
    model = Net()
    model.trainer = Recorder()
    model(torch.zeros(1, 1, 8, 8))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.trainer is None
        assert equal(twin, model)
    assert isinstance(model.trainer, Recorder)


# --- Classifier -------------------------------------------------------------------------------


def test_accuracy_is_the_share_of_right_predictions():
    logits = torch.tensor([[2.0, 1, 0], [0, 2, 1], [0, 2, 1], [1, 0, 2]])
    labels = torch.tensor([0, 1, 2, 2])
    assert float(NoNet().accuracy(logits, labels)) == 0.75
    assert NoNet().accuracy(logits, labels, averaged=False).tolist() == [1, 1, 0, 1]
    # With further dimensions, as sequences have them: (batch, step, classes) against (batch, step).
    assert float(NoNet().accuracy(logits.view(2, 2, 3), labels.view(2, 2))) == 0.75


def test_loss_is_cross_entropy():
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    by_hand = -logits.log_softmax(1)[range(6), labels]
    model = NoNet()
    torch.testing.assert_close(model.loss(logits, labels, averaged=False), by_hand)
    torch.testing.assert_close(model.loss(logits.view(2, 3, 3), labels.view(2, 3)), by_hand.mean())
    assert model.loss(logits.bfloat16(), labels).dtype == torch.float32


@pytest.mark.parametrize("label", [-100, -1, 3])  # torch would pass over -100 without a word
def test_a_label_that_is_no_class_is_named(label):
    with pytest.raises(IndexError, match=f"Target {label} is out of bounds"):
        NoNet().loss(torch.zeros(2, 3), torch.tensor([0, label]))


@pytest.mark.parametrize("labels", [F.one_hot(torch.arange(3)), torch.arange(2)])
def test_labels_are_class_indices_one_per_row(labels):
    for use in (NoNet().loss, NoNet().accuracy):
        with pytest.raises(ValueError, match="labels must be class indices"):
            use(torch.zeros(3, 3), labels)


def test_validation_reports_loss_and_accuracy():
    model = of(nn.Identity(), trainer=Recorder())
    logits = torch.tensor([[2.0, 0], [2, 0]])
    model.validation_step((logits, torch.tensor([0, 1])))
    loss = float(F.cross_entropy(logits, torch.tensor([0, 1])))
    assert model.trainer.reports == [("loss", pytest.approx(loss), False), ("acc", 0.5, False)]


def test_layer_summary_changes_nothing_in_the_model(capsys):
    norm = nn.BatchNorm2d(1)
    model = of(norm, nn.Dropout(0.5), nn.Flatten(), nn.Linear(4, 1))
    graphs = []
    norm.register_forward_hook(lambda *_: graphs.append((torch.is_grad_enabled(), norm.training)))
    model.layer_summary((1, 1, 2, 2))
    assert model.training and norm.training
    assert set(graphs) == {(False, False)}
    capsys.readouterr()
    with pytest.raises(ValueError, match="9, 9"):
        model.layer_summary((1, 1, 9, 9))
    assert model.training and capsys.readouterr().out == ""


@pytest.mark.parametrize("place", [torch.bfloat16, "meta"])
def test_layer_summary_runs_in_the_precision_and_on_the_device_of_the_model(place, capsys):
    model = of(nn.Linear(2, 3)).to(place)
    model.layer_summary((1, 2))
    assert capsys.readouterr().out == "Linear output shape:\t torch.Size([1, 3])\n"


# --- initialisation ---------------------------------------------------------------------------


def lazy():
    return nn.Sequential(
        nn.LazyConv2d(64, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(128)
    )


def is_xavier(net):
    """Tells whether the weights are uniform on [-a, a]; their deviation is then a / sqrt(3)."""
    layers = [layer for layer in net if hasattr(layer, "weight")]
    found = []
    for weight in [layer.weight.detach() for layer in layers]:
        bound = math.sqrt(6 / sum(nn.init._calculate_fan_in_and_fan_out(weight)))
        found.append(0.98 * bound < float(weight.abs().max()) <= bound)
        found.append(float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.03))
    return all(found)


X = torch.zeros(1, 32, 8, 8)
INIT = {
    "before": lambda net: net.apply(d2l.init_cnn),
    "twice": lambda net: net.apply(d2l.init_cnn).apply(d2l.init_cnn),
    "copied": lambda net: copy.deepcopy(net.apply(d2l.init_cnn)),
    "pickled": lambda net: pickle.loads(pickle.dumps(net.apply(d2l.init_cnn))),
    "after": lambda net: net(X) is not None and net.apply(d2l.init_cnn),
}


@pytest.mark.parametrize("init", INIT.values(), ids=INIT)
def test_init_cnn_draws_by_xavier_whenever_it_is_called(init):
    torch.manual_seed(0)
    net = init(lazy())
    net(X)
    assert is_xavier(net)
    assert [type(layer) for layer in net] == [nn.Conv2d, nn.ReLU, nn.Flatten, nn.Linear]
    assert "Xavier" not in repr(net)


def test_a_lazy_net_stays_lazy_and_keeps_weights_that_are_loaded():
    net, trained = lazy().apply(d2l.init_cnn), lazy()
    assert repr(net) == repr(lazy())
    assert isinstance(net[0], nn.LazyConv2d) and isinstance(net[3], nn.LazyLinear)
    trained(X)
    net.load_state_dict(trained.state_dict())
    net(X)
    assert equal(net, trained)


def test_init_cnn_leaves_other_layers_and_biases_alone():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.Embedding(4, 4))
    before = weights(net)
    net.apply(d2l.init_cnn)
    assert [key for key, w in weights(net).items() if not torch.equal(w, before[key])] == [
        "1.weight"
    ]


def test_apply_init_gives_weights_and_initialises():
    torch.manual_seed(0)
    model = of(*lazy())
    model.apply_init([X])
    assert not is_xavier(model.net)  # but torch's
    model.apply_init([X], d2l.init_cnn)
    assert is_xavier(model.net)
