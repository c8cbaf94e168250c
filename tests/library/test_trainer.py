"""The training loop: equal to a plain one, resumable to the bit, honest about what goes wrong."""

import copy
import functools
import math
import os

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

import d2l_utils as d2l
from d2l_utils import data as data_module
from d2l_utils import fashion_mnist_files
from d2l_utils.checkpoint import read_checkpoint
from d2l_utils.data import ImageSet
from d2l_utils.trainer import PRECISIONS

HISTORY = ["epoch", "train_loss", "val_loss", "val_acc", "seconds", "images_per_second"]


class Random(d2l.DataModule):
    """Random images of two classes: bright ones and dark ones."""

    def __init__(self, n=20, n_val=11, batch_size=8, seed=None):
        self.save_hyperparameters()
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)
        source = torch.Generator().manual_seed(0)
        self.y = torch.randint(2, (n + n_val,), generator=source)
        noise = torch.rand(n + n_val, 1, 8, 8, generator=source)
        self.X = noise + 0.2 * self.y[:, None, None, None]

    def get_dataloader(self, train):
        indices = slice(0, self.n) if train else slice(self.n, None)
        return self.get_tensorloader((self.X, self.y), train, indices)


class Net(d2l.Classifier):
    """A small network with all that has a state of its own: dropout, batch norm, momentum."""

    def __init__(self, lr=0.05, momentum=0.9, schedule=False, dropout=0.5):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            nn.LazyConv2d(4, 3),
            nn.LazyBatchNorm2d(),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.LazyLinear(2),
        )
        self.net.apply(d2l.init_cnn)

    def configure_optimizers(self):
        optimiser = torch.optim.SGD(
            self.parameters(), self.lr, self.momentum, weight_decay=1e-3, nesterov=self.momentum > 0
        )
        if not self.schedule:
            return optimiser
        steps = self.trainer.max_epochs * self.trainer.num_train_batches
        return optimiser, torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, steps)


read_files = functools.cache(fashion_mnist_files.load)


@pytest.fixture(autouse=True)
def read_files_once(monkeypatch):
    monkeypatch.setattr(data_module, "load", read_files)


class Line(d2l.Classifier):
    def __init__(self, lr=0.1):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def comparable(history):
    """Leaves out what a clock measured."""
    timed = ("seconds", "images_per_second")
    return [{k: v for k, v in row.items() if k not in timed} for row in history]


def stop_at(model, batch, error):
    """Makes the model raise `error` in the given step, counted from 0."""
    train = model.training_step

    def training_step(data):
        if model.trainer.train_batch_idx == batch:
            raise error
        return train(data)

    model.training_step = training_step
    return model


# --- equal to a plain loop --------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_are_those_of_a_plain_loop(precision, schedule):
    epochs, seed = 3, 7
    data = Random(seed=1)
    model = Net(schedule=schedule)
    model.apply_init([data.X])
    net = copy.deepcopy(model.net)

    trainer = d2l.Trainer(epochs, precision=precision, seed=seed)
    trainer.fit(model, data)

    # The same in plain torch.
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(1)
    train, val = (
        torch.utils.data.DataLoader(dataset, 8, shuffle=shuffle, generator=generator)
        for dataset, shuffle in [
            (torch.utils.data.TensorDataset(data.X[:20], data.y[:20]), True),
            (torch.utils.data.TensorDataset(data.X[20:], data.y[20:]), False),
        ]
    )
    low = precision == "bfloat16"
    layout = torch.channels_last if low else torch.contiguous_format
    net = net.to(memory_format=layout)
    optimiser = torch.optim.SGD(net.parameters(), 0.05, 0.9, weight_decay=1e-3, nesterov=True)
    if schedule:
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=epochs * 3)

    def logits_of(X):
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            return net(X.contiguous(memory_format=layout)).float()

    losses, accuracies = [], []
    for _ in range(epochs):
        net.train()
        total = 0.0
        for X, y in train:
            loss = F.cross_entropy(logits_of(X), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if schedule:
                scheduler.step()
            total += loss.item() * len(y)
        losses.append(total / 20)
        net.eval()
        with torch.no_grad():
            right = sum(int((logits_of(X).argmax(1) == y).sum()) for X, y in val)
        accuracies.append(right / 11)
    assert equal(weights(model.net), weights(net))
    assert [row["train_loss"] for row in trainer.history] == pytest.approx(losses, abs=1e-12)
    assert [row["val_acc"] for row in trainer.history] == pytest.approx(accuracies, abs=1e-7)


def test_it_learns_what_can_be_learned():
    model, data = Net(), Random(n=200, n_val=100)
    trainer = d2l.Trainer(max_epochs=10, seed=0)
    trainer.fit(model, data)
    assert trainer.history[-1]["val_acc"] > 0.9
    assert trainer.history[-1]["train_loss"] < trainer.history[0]["train_loss"]


def test_the_gradient_is_clipped_to_the_norm_asked_for():
    def steps(clip):
        torch.manual_seed(0)
        model = Line(lr=1.0)
        before = weights(model)
        data = Random(n=8, batch_size=8)
        d2l.Trainer(1, gradient_clip_val=clip, precision="float32").fit(model, data)
        return torch.cat([(weights(model)[k] - before[k]).flatten() for k in before])

    free, clipped, loose = steps(0), steps(0.01), steps(1000)
    assert float(free.norm()) > 0.1
    assert float(clipped.norm()) == pytest.approx(0.01, rel=1e-3)  # at learning rate 1
    torch.testing.assert_close(clipped / clipped.norm(), free / free.norm())
    torch.testing.assert_close(loose, free)


def test_clip_gradients_as_the_book_calls_it():
    model = Line()
    model.net(torch.ones(1, 64)).sum().backward()
    d2l.Trainer(1).clip_gradients(0.5, model)
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    assert float(norm) == pytest.approx(0.5, rel=1e-4)


# --- history ----------------------------------------------------------------------------------


def test_history_is_plain_data():
    trainer = d2l.Trainer(max_epochs=2)
    trainer.fit(Net(), Random())
    assert [list(row) for row in trainer.history] == [HISTORY] * 2
    assert [row["epoch"] for row in trainer.history] == [1, 2]
    assert all(type(v) is (int if k == "epoch" else float) for k, v in trainer.history[0].items())
    row = trainer.history[0]
    assert row["images_per_second"] == pytest.approx(20 / row["seconds"])


def test_means_are_weighted_by_samples_down_to_the_last_16_images():
    # At lr 0 nothing changes, so an epoch's mean can be computed at one go. Of 10,000 images in
    # batches of 128 the last has 16: in a mean of batch means they would weigh 8 times as much.
    data = d2l.FashionMNIST(batch_size=128, train_size=300)
    right_at_the_end = data.val.targets[-16:].mode().values
    model = d2l.Classifier()
    model.net, model.lr = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), 0.0
    with torch.no_grad():
        model.net[1].bias[right_at_the_end] += 1
    trainer = d2l.Trainer(1, precision="float32")
    trainer.fit(model, data)
    (row,) = trainer.history

    def mean(images, values):
        X, y = images.data[:, None].float() / 255, images.targets
        with torch.no_grad():
            return float(values(model(X), y).double().mean())

    def losses(Y_hat, y):
        return F.cross_entropy(Y_hat, y, reduction="none")

    def right(Y_hat, y):
        return Y_hat.argmax(1) == y

    assert trainer.num_val_batches == 79
    assert row["val_acc"] == pytest.approx(mean(data.val, right), abs=1e-9)
    assert row["val_loss"] == pytest.approx(mean(data.val, losses), abs=1e-5)
    assert row["train_loss"] == pytest.approx(mean(data.train, losses), abs=1e-5)
    with torch.no_grad():
        of_batches = [model.accuracy(model(X), y) for X, y in data.val_dataloader()]
    assert abs(float(torch.stack(of_batches).mean()) - row["val_acc"]) > 1e-4


def test_a_model_may_report_more():
    class Reports(Line):
        def training_step(self, batch):
            self.plot("acc", self.accuracy(self(batch[0]), batch[1]), train=True)
            return super().training_step(batch)

        def validation_step(self, batch):
            self.plot("count", float(len(batch[1])), train=False)

    trainer = d2l.Trainer(1)
    trainer.fit(Reports(), Random(n=8, n_val=12, batch_size=8))
    row = trainer.history[0]
    assert set(row) == {"epoch", "train_acc", "train_loss", "val_count"} | set(HISTORY[-2:])
    assert row["val_count"] == (8 * 8 + 4 * 4) / 12


def test_without_validation_data():
    class NoValidation(Random):
        def val_dataloader(self):
            return None

    trainer = d2l.Trainer(1)
    trainer.fit(Net(), NoValidation())
    assert trainer.num_val_batches == 0
    assert list(trainer.history[0]) == [k for k in HISTORY if not k.startswith("val_")]


def test_evaluate():
    data = Random()
    trainer = d2l.Trainer(1, seed=0)
    model = Net()
    trainer.fit(model, data)
    before = weights(model)
    result = d2l.Trainer(1).evaluate(model, data)
    assert result == {key: trainer.history[0][key] for key in ("val_loss", "val_acc")}
    assert equal(weights(model), before) and not model.training
    assert len(model.board.points("val_acc")) == 1 and model.board.xlim == [0, 1]  # as trained


def test_evaluate_needs_a_batch():
    with pytest.raises(ValueError, match="there is no batch to validate on; val_dataloader"):
        d2l.Trainer(1).evaluate(Net(), Random(n_val=0))


def test_evaluate_needs_no_batch_to_train_on():
    data = Random()
    data.train_dataloader = lambda: []
    assert d2l.Trainer(1).evaluate(Net(), data).keys() == {"val_loss", "val_acc"}


def test_first_losses_are_those_of_the_first_ten_steps():
    seen = []

    class Notes(Net):
        def training_step(self, batch):
            loss = super().training_step(batch)
            seen.append(float(loss.detach()))
            return loss

    trainer = d2l.Trainer(2, seed=0)
    trainer.fit(Notes(), Random(n=96))
    assert len(seen) == 24
    assert trainer.first_losses == seen[:10]


def test_steps_can_be_taken_one_by_one():
    trainer = d2l.Trainer(2, seed=0)
    trainer.fit(Net(), Random(n=96, seed=0))
    again = d2l.Trainer(2, seed=0)
    again.start(Net(), Random(n=96, seed=0))
    losses = [float(again.step(batch)) for batch in again.train_dataloader]
    assert losses[:10] == trainer.first_losses


# --- attributes, devices, precision -----------------------------------------------------------


def test_attributes_of_the_book():
    model, data = Net(), Random()
    trainer = d2l.Trainer(max_epochs=2, num_gpus=0, gradient_clip_val=1)
    trainer.fit(model, data)
    assert (trainer.max_epochs, trainer.num_gpus, trainer.gradient_clip_val) == (2, 0, 1)
    assert trainer.gpus == []
    assert trainer.model is model and model.trainer is trainer
    assert isinstance(trainer.optim, torch.optim.SGD)
    assert (trainer.num_train_batches, trainer.num_val_batches) == (3, 2)
    assert len(trainer.train_dataloader) == 3 and len(trainer.val_dataloader) == 2
    assert (trainer.epoch, trainer.train_batch_idx, trainer.val_batch_idx) == (2, 6, 4)
    assert not trainer.interrupted and not model.training


def test_the_curves_are_on_the_board():
    model = Net()
    trainer = d2l.Trainer(3)
    trainer.fit(model, Random())
    assert model.board.xlim == [0, 3]
    assert [x for x, _ in model.board.points("val_acc")] == [1, 2, 3]
    values = [row["val_acc"] for row in trainer.history]
    assert [y for _, y in model.board.points("val_acc")] == values
    assert len(model.board.points("train_loss")) == 9  # 3 batches an epoch, 2 points asked for
    d2l.Trainer(1).fit(model, Random())
    assert [x for x, _ in model.board.points("val_acc")] == [1]


@pytest.mark.parametrize("num_gpus", [0, 1])
def test_without_a_gpu_it_says_that_it_trains_on_the_cpu(monkeypatch, capsys, num_gpus):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    trainer = d2l.Trainer(1, num_gpus=num_gpus, precision="float32")
    assert (trainer.device, trainer.gpus) == (d2l.cpu(), [])
    trainer.fit(Net(), Random())
    output = capsys.readouterr()
    assert output.out == ""
    assert "cpu float32:" in output.err
    assert output.err.rsplit("\r", 2)[-2].strip() == output.err.rsplit("\r", 1)[-1] == ""


def test_with_a_gpu_it_takes_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    trainer = d2l.Trainer(1, num_gpus=1, precision="bfloat16")
    assert (trainer.device, trainer.gpus) == (d2l.gpu(0), [d2l.gpu(0)])
    assert d2l.Trainer(1, num_gpus=0).device == d2l.cpu()


@pytest.mark.parametrize("fast", PRECISIONS)
def test_precision_is_what_the_machine_is_fast_in_unless_asked_for(monkeypatch, fast):
    monkeypatch.setattr("d2l_utils.trainer.fast_precision", lambda device: fast)
    assert d2l.Trainer(1).precision == fast
    for asked in PRECISIONS:
        assert d2l.Trainer(1, precision=asked).precision == asked


def test_only_a_classifier_is_trained_in_low_precision_unasked(monkeypatch):
    """The targets of a regression may need more than the three digits of bfloat16."""

    class Regression(d2l.Module):
        def __init__(self):
            super().__init__()
            self.lr, self.net = 0.1, nn.Sequential(nn.Flatten(), nn.Linear(64, 1))

        def loss(self, y_hat, y):
            return F.mse_loss(y_hat[:, 0], 1000 + y.float())

    monkeypatch.setattr("d2l_utils.trainer.fast_precision", lambda device: "bfloat16")
    for model, asked, precision in [
        (Regression(), None, "float32"),
        (Regression(), "bfloat16", "bfloat16"),
        (Net(), None, "bfloat16"),
        (Net(), "float32", "float32"),
    ]:
        trainer = d2l.Trainer(1, precision=asked)
        trainer.start(model, Random())
        assert trainer.precision == precision


def test_a_subclass_may_save_hyperparameters_of_its_own():
    class Mine(d2l.Trainer):
        def __init__(self, max_epochs, patience=3):
            super().__init__(max_epochs, precision="bfloat16")
            self.save_hyperparameters()

    trainer = Mine(1)
    trainer.fit(Net(), Random())
    assert (trainer.precision, trainer.hparams) == ("bfloat16", {"max_epochs": 1, "patience": 3})


@pytest.mark.parametrize(("precision", "dtype"), PRECISIONS.items())
def test_precision_is_that_of_the_activations_and_never_of_the_weights(precision, dtype):
    seen = set()

    class Looks(Net):
        def forward(self, X):
            Y_hat = super().forward(X)
            last = X.is_contiguous(memory_format=torch.channels_last)
            seen.add((Y_hat.dtype, last and not X.is_contiguous()))
            return Y_hat

    model, data = Looks(), Random()
    data.X = data.X.expand(-1, 3, -1, -1).contiguous()
    model.apply_init([data.X])
    seen.clear()
    d2l.Trainer(1, precision=precision).fit(model, data)
    assert seen == {(dtype, precision == "bfloat16")}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_on_a_gpu(precision, tmp_path):
    model = TenClasses()
    data = d2l.FashionMNIST(64, (32, 32), train_size=256, augment=["flip", "crop"], holdout=1000)
    trainer = d2l.Trainer(2, 1, precision=precision, checkpoint=tmp_path / "run.pt", seed=0)
    trainer.fit(model, data)
    assert {p.device.type for p in model.parameters()} == {"cuda"}
    assert next(iter(data.val_dataloader()))[0].device.type == "cuda"
    assert all(math.isfinite(value) for row in trainer.history for value in row.values())


def test_a_seed_fixes_everything():
    def run(seed, global_seed):
        torch.manual_seed(global_seed)
        model, data = Net(), Random()
        d2l.Trainer(2, seed=seed).fit(model, data)
        return weights(model)

    assert equal(run(3, 0), run(3, 1))
    assert not equal(run(3, 0), run(4, 0))
    assert equal(run(None, 5), run(None, 5))
    assert not equal(run(None, 5), run(None, 6))


# --- optimisers -------------------------------------------------------------------------------


class Scratch(Line):
    """With an optimiser written by hand, and weights that are no nn.Parameter."""

    class SGD(d2l.HyperParameters):
        def __init__(self, params, lr):
            self.save_hyperparameters()

        def step(self):
            for param in self.params:
                param -= self.lr * param.grad

        def zero_grad(self):
            for param in self.params:
                if param.grad is not None:
                    param.grad.zero_()

    def __init__(self, by_hand=True):
        super().__init__()
        self.by_hand = by_hand
        self.W = self.net[1].weight.detach().clone().requires_grad_()
        del self.net

    def parameters(self):
        return [self.W]

    def forward(self, X):
        return X.flatten(1) @ self.W.T

    def configure_optimizers(self):
        return self.SGD([self.W], 0.1) if self.by_hand else torch.optim.SGD([self.W], 0.1)


def test_an_optimiser_written_by_hand_trains_as_torchs():
    torch.manual_seed(0)
    by_hand = Scratch()
    of_torch = Scratch(by_hand=False)
    of_torch.W.data.copy_(by_hand.W)
    first = by_hand.W.detach().clone()
    for model in (by_hand, of_torch):
        d2l.Trainer(2, precision="float32", gradient_clip_val=1).fit(model, Random(seed=1))
    assert not torch.equal(by_hand.W, first)
    torch.testing.assert_close(by_hand.W, of_torch.W)


@pytest.mark.parametrize("kind", [tuple, list])
def test_a_scheduler_is_stepped_after_each_batch(kind):
    class Decays(Line):
        def configure_optimizers(self):
            optimiser = torch.optim.SGD(self.parameters(), 1.0)
            return kind([optimiser, torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.5)])

    trainer = d2l.Trainer(2)
    trainer.fit(Decays(), Random())
    assert trainer.optim.param_groups[0]["lr"] == 0.5**6


@pytest.mark.parametrize("wrong", [None, [], [1, 2, 3], "SGD", [None, None]])
def test_what_is_no_optimiser(wrong):
    model = Line()
    model.configure_optimizers = lambda: wrong
    message = "configure_optimizers gave a .*; it must give an optimiser, with step and zero_grad"
    with pytest.raises(TypeError, match=message):
        d2l.Trainer(1).fit(model, Random())


SGD = functools.partial(torch.optim.SGD, lr=1.0)
PLATEAU = torch.optim.lr_scheduler.ReduceLROnPlateau


@pytest.mark.parametrize(
    ("configured", "message"),
    [
        (lambda p: (SGD(p), 0.5), "gave a float after the optimiser; it must be a learning-rate"),
        (lambda p: (SGD(p), SGD(p)), "gave a SGD after the optimiser; .*with step and no zero_g"),
        (lambda p: (o := SGD(p), PLATEAU(o)), "ReduceLROnPlateau needs a metric, .*, such as One"),
        (torch.optim.LBFGS, "LBFGS needs a closure, .* an optimiser that needs none, such as SGD"),
    ],
)
def test_optimisers_and_schedulers_that_cannot_be_stepped_are_refused(configured, message):
    model = Line()
    model.configure_optimizers = lambda: configured(list(model.parameters()))
    with pytest.raises(TypeError, match=message):
        d2l.Trainer(1).start(model, Random())


@pytest.mark.parametrize(
    ("spoil", "given"),
    [
        (lambda loss: None, "NoneType"),
        (lambda loss: loss.item(), "float"),
        (lambda loss: loss.expand(8), r"tensor of shape \(8,\)"),
    ],
)
def test_a_loss_that_is_not_one_number_is_refused(spoil, given):
    model = Line()
    train = model.training_step
    model.training_step = lambda batch: spoil(train(batch))
    message = f"training_step gave a {given}; it must give the loss, a tensor that is one number"
    with pytest.raises(TypeError, match=message):
        d2l.Trainer(1).fit(model, Random())


# --- interrupts and bad numbers ---------------------------------------------------------------


def test_an_interrupt_keeps_what_was_trained(capsys):
    torch.manual_seed(0)
    full, stopped = Net(), Net()
    data = Random()
    d2l.Trainer(1, seed=0).fit(full, Random(seed=0))
    trainer = d2l.Trainer(5, seed=0)
    trainer.fit(stop_at(stopped, 5, KeyboardInterrupt()), Random(seed=0))
    assert trainer.interrupted and len(trainer.history) == 1
    assert trainer.train_batch_idx == 5
    assert "Stopped in epoch 2; the model keeps what it has learned." in capsys.readouterr().out
    assert not equal(weights(stopped), weights(full))  # it has learned after the first epoch, too
    assert not stopped.training
    assert all(p.isfinite().all() for p in stopped.parameters())
    del stopped.training_step
    trainer.fit(stopped, data)
    assert not trainer.interrupted and len(trainer.history) == 5


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("device", ["cpu", "like a gpu"])
def test_a_loss_that_is_not_finite_names_epoch_and_step(tmp_path, monkeypatch, value, device):
    class Spoils(Net):
        def training_step(self, batch):
            loss = super().training_step(batch)
            return loss * value if self.trainer.train_batch_idx == 3 + 1 else loss

    trainer = d2l.Trainer(3, precision="float32", checkpoint=tmp_path / "run.pt", seed=0)
    if device == "like a gpu":  # on which losses are looked at once an epoch only
        real = trainer._check_finite
        monkeypatch.setattr(
            trainer,
            "_check_finite",
            lambda losses, first_step: real(losses, first_step) if len(losses) > 1 else None,
        )
    message = r"the loss is (nan|inf|-inf) in epoch 2, step 2 of 3; lower the learning rate, or cl"
    with pytest.raises(FloatingPointError, match=message):
        trainer.fit(Spoils(), Random(seed=0))
    assert len(trainer.history) == 1
    assert trainer.train_batch_idx == (4 if device == "cpu" else 6)  # steps that were taken
    # The checkpoint is that of the last good epoch.
    good = Net()
    d2l.Trainer(1, precision="float32", seed=0).fit(good, Random(seed=0))
    state = torch.load(tmp_path / "run.pt", weights_only=True)
    assert state["epoch"] == 1
    assert equal(state["model"], weights(good))


def test_weights_spoilt_by_the_last_step_of_an_epoch_are_not_kept(tmp_path):
    class Explodes(Net):
        def training_step(self, batch):
            loss = super().training_step(batch)
            if self.trainer.train_batch_idx == 5:  # finite, but not its gradient
                loss = loss + 0 * self.net[6].weight.sum().sub(self.net[6].weight.sum()).sqrt()
            return loss

    path = tmp_path / "run.pt"
    trainer = d2l.Trainer(3, precision="float32", checkpoint=path, seed=0)
    message = "the validation loss is nan after epoch 2, step 3 of 3; lower the learning rate"
    with pytest.raises(FloatingPointError, match=message):
        trainer.fit(Explodes(), Random(seed=0))
    state = torch.load(path, weights_only=True)
    assert state["epoch"] == 1
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


def test_without_validation_the_weights_themselves_are_looked_at(tmp_path):
    class Explodes(Line):
        def training_step(self, batch):
            loss = super().training_step(batch)
            if self.trainer.train_batch_idx == 2:
                loss = loss + 0 * self.net[1].weight.sum().sub(self.net[1].weight.sum()).sqrt()
            return loss

    path = tmp_path / "run.pt"
    message = "there are weights that are not finite after epoch 1, step 3 of 3; lower the learning"
    with pytest.raises(FloatingPointError, match=message):
        d2l.Trainer(3, precision="float32", checkpoint=path).fit(Explodes(), Random(n_val=0))
    assert not path.exists()


def test_an_interrupt_at_the_very_end_names_the_last_epoch(monkeypatch, capsys):
    def interrupted(trainer):
        if trainer.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(d2l.Trainer, "_save_checkpoint", interrupted)
    trainer = d2l.Trainer(2)
    trainer.fit(Line(), Random())
    assert trainer.interrupted and len(trainer.history) == 2
    assert "Stopped in epoch 2; " in capsys.readouterr().out


# --- checkpoints ------------------------------------------------------------------------------


def fashion(seed):
    data = d2l.FashionMNIST(16, (12, 12), train_size=60, augment=["flip", "crop"], seed=seed)
    data.val = ImageSet(data.val.data[:40], data.val.targets[:40], data.resize)
    return data


class TenClasses(Net):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.net[-1] = nn.LazyLinear(10)


@pytest.mark.parametrize("schedule", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("stop", ["between epochs", "within an epoch"])
def test_going_on_is_never_having_stopped(tmp_path, seed, precision, schedule, stop):
    def run(global_seed, path, stop_after=None):
        torch.manual_seed(global_seed)
        model, data = TenClasses(schedule=schedule), fashion(seed)
        trainer = d2l.Trainer(4, precision=precision, seed=seed, checkpoint=path)
        if stop_after is not None:
            stop_at(model, stop_after, KeyboardInterrupt())
        trainer.fit(model, data)
        return model, trainer, torch.get_rng_state()

    whole, trainer, generator = run(0, tmp_path / "whole.pt")
    batch = 8 if stop == "between epochs" else 10
    run(0, tmp_path / "parts.pt", stop_after=batch)
    # As in a new process: another state of the generators, another network, another trainer.
    resumed, second, second_generator = run(99, tmp_path / "parts.pt")
    assert second.train_batch_idx == trainer.train_batch_idx == 16
    assert second.val_batch_idx == trainer.val_batch_idx == 12
    assert equal(weights(resumed), weights(whole))
    assert comparable(second.history) == comparable(trainer.history)
    assert second.first_losses == trainer.first_losses
    assert resumed.board.points("val_acc") == whole.board.points("val_acc")
    # And so it would be if both went on.
    assert torch.equal(generator, second_generator)
    states = [t.optim.state_dict()["state"].values() for t in (trainer, second)]
    for one, other in zip(*states, strict=True):
        assert torch.equal(one["momentum_buffer"], other["momentum_buffer"])


def test_a_checkpoint_changes_nothing(tmp_path):
    def run(checkpoint):
        model = Net()
        d2l.Trainer(3, seed=0, checkpoint=checkpoint).fit(model, Random(seed=0))
        return weights(model)

    assert equal(run(None), run(str(tmp_path / "new" / "folder" / "run.pt")))
    assert os.listdir(tmp_path / "new" / "folder") == ["run.pt"]


def test_a_finished_run_trains_no_more(tmp_path):
    path = tmp_path / "run.pt"
    model = Net()
    d2l.Trainer(2, seed=0, checkpoint=path).fit(model, Random(seed=0))
    again = stop_at(Net(), 6, AssertionError("it went on"))
    trainer = d2l.Trainer(2, seed=0, checkpoint=path)
    trainer.fit(again, Random(seed=0))
    del again.training_step
    assert equal(weights(again), weights(model))
    assert len(trainer.history) == 2


def test_plain_sgd_can_go_on_for_more_epochs(tmp_path):
    whole, longer = Net(), Net()
    d2l.Trainer(4, seed=0).fit(whole, Random(seed=0))
    for epochs in (2, 4):
        d2l.Trainer(epochs, seed=0, checkpoint=tmp_path / "run.pt").fit(longer, Random(seed=0))
    assert equal(weights(longer), weights(whole))


def test_a_checkpoint_of_more_epochs_is_refused(tmp_path):
    save_run(tmp_path / "run.pt")
    with pytest.raises(ValueError, match=r"run\.pt is of 2 epochs, but max_epochs is 1; give at"):
        save_run(tmp_path / "run.pt", max_epochs=1)


def test_a_checkpoint_from_before_a_setting_or_a_generator_was_there_still_counts(tmp_path):
    path = tmp_path / "run.pt"
    save_run(path)
    state = torch.load(path, weights_only=True)
    del state["settings"]["scheduler"], state["random"]["data"]
    torch.save(state, path)
    save_run(path, max_epochs=3)
    assert torch.load(path, weights_only=True)["epoch"] == 3


def save_run(path, model=Net, **arguments):
    data = Random(**{"seed": 0} | arguments.pop("data", {}))
    arguments = {"max_epochs": 2, "seed": 0, "precision": "float32"} | arguments
    d2l.Trainer(**arguments, checkpoint=path).fit(model(), data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"seed \(0, not 1\)"),
        ({"precision": "bfloat16"}, r"precision \(float32, not bfloat16\)"),
        ({"gradient_clip_val": 1}, r"gradient_clip_val \(0, not 1\)"),
        ({"data": {"n": 30}}, r"number of batches \(3, not 4\)"),
        ({"data": {"n": 21}}, r"data \(Random {'n': 20.*, not Random {'n': 21"),
        ({"data": {"seed": 2}}, "data"),
        ({"model": lambda: Net(lr=0.06)}, "optimiser"),
        ({"model": lambda: Net(momentum=0.8)}, "optimiser"),
        ({"model": lambda: Net(schedule=True)}, "optimiser"),
        ({"model": lambda: Net(dropout=0.4)}, "network"),
        ({"model": Line}, "network"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(tmp_path, change, message):
    path = tmp_path / "run.pt"
    save_run(path)
    content = path.read_bytes()
    message = rf"checkpoint .*run\.pt was made with another {message}.*; use the same settings, or"
    with pytest.raises(ValueError, match=message):
        save_run(path, **change)
    assert path.read_bytes() == content


@pytest.mark.parametrize("change", ["weight", "gamma"])
def test_a_checkpoint_of_another_loss_or_schedule_is_refused(tmp_path, change):
    class Weighted(Line):
        def __init__(self, weight=1.0, gamma=0.5):
            super().__init__()
            self.save_hyperparameters()

        def loss(self, Y_hat, Y):
            return self.weight * super().loss(Y_hat, Y)

        def configure_optimizers(self):
            optimiser = super().configure_optimizers()
            return optimiser, torch.optim.lr_scheduler.StepLR(optimiser, 2, self.gamma)

    save_run(tmp_path / "run.pt", Weighted)
    save_run(tmp_path / "run.pt", Weighted)  # the same may go on
    message = {"weight": r"model \({.*'weight': 1.0.*, not {.*'weight': 0.25", "gamma": "schedule"}
    with pytest.raises(ValueError, match=f"was made with another {message[change]}"):
        save_run(tmp_path / "run.pt", lambda: Weighted(**{change: 0.25}))


def test_a_list_and_a_tuple_of_the_same_are_the_same_setting(tmp_path):
    for resize in ([8, 8], (8, 8)):
        data = Random(seed=0)
        data.hparams["resize"] = resize
        d2l.Trainer(1, seed=0, checkpoint=tmp_path / "run.pt").fit(Net(), data)


def test_a_schedule_is_for_its_number_of_epochs(tmp_path):
    save_run(tmp_path / "run.pt", lambda: Net(schedule=True))
    with pytest.raises(ValueError, match=r"with another max_epochs \(2, not 3\)"):
        save_run(tmp_path / "run.pt", lambda: Net(schedule=True), max_epochs=3)


def test_where_the_data_lies_does_not_matter(tmp_path):
    data = Random(seed=0)
    data.hparams |= {"root": "here", "num_workers": 0, "more": torch.rand(3)}
    d2l.Trainer(1, seed=0, checkpoint=tmp_path / "run.pt").fit(Net(), data)
    data = Random(seed=0)
    data.hparams |= {"root": "there", "num_workers": 4, "more": torch.rand(3)}
    trainer = d2l.Trainer(2, seed=0, checkpoint=tmp_path / "run.pt")
    trainer.fit(Net(), data)
    assert trainer.train_batch_idx == 6
    assert trainer.resumed_epochs == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:-1],
        lambda whole: b"no checkpoint at all",
        lambda whole: whole[len(whole) // 2 :],
    ],
    ids=["empty", "half", "one byte less", "text", "second half"],
)
def test_a_damaged_checkpoint_is_named(tmp_path, damage):
    path = tmp_path / "run.pt"
    save_run(path)
    path.write_bytes(damage(path.read_bytes()))
    message = r"run\.pt is no checkpoint of this trainer, or a damaged one; delete it to start anew"
    with pytest.raises(ValueError, match=message):
        save_run(path)


def test_a_bit_that_flips_is_noticed(tmp_path):
    path = tmp_path / "run.pt"
    save_run(path, Line)  # whose weights fill a good part of the file
    whole = path.read_bytes()
    good = torch.load(path, weights_only=True)["model"]
    noticed = 0
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            assert equal(read_checkpoint(path)["model"], good)  # it was in the padding
        except ValueError as error:
            assert "damaged" in str(error)
            noticed += 1
    assert noticed > 10


@pytest.mark.parametrize("content", [[1, 2], {"model": {}}, Line().state_dict()])
def test_another_file_of_torch_is_no_checkpoint(tmp_path, content):
    torch.save(content, tmp_path / "run.pt")
    with pytest.raises(ValueError, match=r"run\.pt is no checkpoint of this trainer"):
        save_run(tmp_path / "run.pt")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk full")])
def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path, monkeypatch, error):
    path = tmp_path / "run.pt"
    save_run(path)
    content = path.read_bytes()

    def breaks(state, part):
        part.write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(torch, "save", breaks)
    try:
        save_run(path, max_epochs=3)
    except OSError as caught:
        assert caught is error
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["run.pt"]


def test_weights_that_a_checkpoint_would_lose_are_refused(tmp_path):
    checkpoint = tmp_path / "run.pt"
    message = (
        r"Scratch cannot be kept in a checkpoint: it has parameters that are not in its state_"
    )
    with pytest.raises(TypeError, match=message):
        d2l.Trainer(1, checkpoint=checkpoint).fit(Scratch(by_hand=False), Random())

    class ByHand(Line):
        def configure_optimizers(self):
            return Scratch.SGD(list(self.parameters()), 0.1)

    with pytest.raises(
        TypeError, match=r"SGD cannot be kept in a checkpoint: it has no state_dict"
    ):
        d2l.Trainer(1, checkpoint=checkpoint).fit(ByHand(), Random())
    assert not checkpoint.exists()


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_epochs": 0}, ValueError, "max_epochs is 0; it must be at least 1"),
        ({"max_epochs": -3}, ValueError, "max_epochs is -3; it must be at least 1"),
        ({"max_epochs": 2.0}, TypeError, "max_epochs is 2.0; it must be a whole number"),
        ({"max_epochs": True}, TypeError, "max_epochs is True; it must be a whole number"),
        (
            {"num_gpus": 2},
            ValueError,
            "num_gpus is 2; this trainer uses one GPU at most: give 0 or",
        ),
        ({"num_gpus": -1}, ValueError, "num_gpus is -1; this trainer uses one GPU at most"),
        ({"num_gpus": "1"}, TypeError, "num_gpus is '1'; it must be a whole number"),
        ({"gradient_clip_val": -1}, ValueError, "gradient_clip_val is -1; it must be 0 or more"),
        ({"gradient_clip_val": math.nan}, ValueError, "gradient_clip_val is nan; it must be 0 or"),
        ({"gradient_clip_val": "1"}, TypeError, "gradient_clip_val is '1'; it must be a number"),
        (
            {"precision": "float16"},
            ValueError,
            r"precision is 'float16'; it must be one of \['float32', 'bfloat16'\]",
        ),
        ({"seed": 0.5}, TypeError, "seed is 0.5; it must be a whole number, or None"),
        ({"seed": 2**64}, ValueError, r"seed is 18.*; it must be from -2\*\*63 to 2\*\*64 - 1"),
        ({"seed": -(2**63) - 1}, ValueError, "seed is -9.*; it must be from"),
        ({"checkpoint": 5}, TypeError, "checkpoint is 5; it must be the path of a file, or None"),
        ({"checkpoint": ""}, ValueError, "checkpoint is ''; it must be a file, and no folder"),
        ({"checkpoint": os.sep}, ValueError, "checkpoint is '.+'; it must be a file, and no fol"),
    ],
)
def test_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        d2l.Trainer(**{"max_epochs": 1} | arguments)


@pytest.mark.parametrize("seed", [-(2**63), 2**64 - 1])
def test_the_largest_and_the_smallest_seed(seed):
    d2l.Trainer(1, seed=seed).start(Net(), Random())


def test_a_checkpoint_in_a_folder_that_cannot_be_made_is_refused_before_training(tmp_path):
    (tmp_path / "file").touch()
    model = stop_at(Net(), 0, AssertionError("it trains"))
    with pytest.raises(OSError, match="file"):
        d2l.Trainer(1, checkpoint=tmp_path / "file" / "run.pt").fit(model, Random())


def test_a_model_that_cannot_be_trained():
    with pytest.raises(TypeError, match="model is a Linear; it must be a Module or Classifier"):
        d2l.Trainer(1).fit(nn.Linear(1, 1), Random())

    class NoNet(d2l.Classifier):
        lr = 0.1

    with pytest.raises(TypeError, match="NoNet has no parameters to train: set self.net"):
        d2l.Trainer(1).fit(NoNet(), Random())


def test_labels_that_the_network_has_no_output_for():
    data = Random()
    data.y[3] = 2
    with pytest.raises(ValueError, match="labels run from 0 to 2, but the network has 2 outputs"):
        d2l.Trainer(1, seed=0).fit(Net(), data)


def test_images_that_the_network_eats():
    data = Random()
    data.X = data.X[..., :2, :2]
    with pytest.raises(ValueError, match="images of 2 x 2 are too small for this Net"):
        d2l.Trainer(1).fit(Net(), data)


def test_data_without_a_batch():
    data = Random()
    data.train_dataloader = lambda: []
    with pytest.raises(ValueError, match="there is no batch to train on; the data needs at least"):
        d2l.Trainer(1).fit(Net(), data)
