"""The training loop: equal to a plain one, its parts replaceable, honest about what goes wrong."""

import copy
import functools
import math

import pytest
import torch
from small import Line, Net, Random, Scratch, TenClasses, comparable, equal, stop_at, weights
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import d2l_utils as d2l
from d2l_utils import checks, fashion_mnist_files
from d2l_utils import data as data_module
from d2l_utils.device import PRECISIONS

HISTORY = ["epoch", "train_loss", "val_loss", "val_acc", "seconds", "images_per_second"]


read_files = functools.cache(fashion_mnist_files.load)


@pytest.fixture(autouse=True)
def read_files_once(monkeypatch):
    monkeypatch.setattr(data_module, "load", read_files)


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
    assert len(model.board.data["val_acc"]) == 1 and model.board.xlim == [0, 1]  # as trained


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
    assert [x for x, _ in model.board.data["val_acc"]] == [1, 2, 3]
    values = [row["val_acc"] for row in trainer.history]
    assert [y for _, y in model.board.data["val_acc"]] == values
    assert len(model.board.data["train_loss"]) == 9  # 3 batches an epoch, 2 points asked for
    d2l.Trainer(1).fit(model, Random())
    assert [x for x, _ in model.board.data["val_acc"]] == [1]


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


class NoFloat64(TorchDispatchMode):
    """Stands in for a device like Apple's GPUs, which refuse numbers in double precision."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, out)):
            dtype = leaf.dtype if isinstance(leaf, torch.Tensor) else leaf
            if isinstance(dtype, torch.dtype) and dtype == torch.float64:
                raise TypeError(f"{operation}: this device has no float64")
        return out


def test_a_device_without_float64_trains_to_the_same(tmp_path):
    def run(name):
        model = Net(schedule=True)
        trainer = d2l.Trainer(2, gradient_clip_val=1, seed=0, checkpoint=tmp_path / name)
        trainer.fit(model, Random(seed=0))
        return weights(model), comparable(trainer.history)

    with NoFloat64():
        with pytest.raises(TypeError, match="no float64"):
            torch.ones(1).double()
        without = run("without.pt")
    (theirs, history), (ours, our_history) = without, run("with.pt")
    assert equal(theirs, ours) and history == our_history


def test_with_a_gpu_it_takes_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    trainer = d2l.Trainer(1, num_gpus=1, precision="bfloat16")
    assert (trainer.device, trainer.gpus) == (d2l.gpu(0), [d2l.gpu(0)])
    assert d2l.Trainer(1, num_gpus=0).device == d2l.cpu()
    assert d2l.Trainer(1, num_gpus=3).gpus == [d2l.gpu(0), d2l.gpu(1)]


@pytest.mark.parametrize("fast", PRECISIONS)
@pytest.mark.parametrize("asked", [None, "auto", *PRECISIONS])
def test_precision_is_float32_unless_asked(monkeypatch, asked, fast):
    monkeypatch.setattr("d2l_utils.device.fast_precision", lambda device: fast)
    trainer = d2l.Trainer(1, precision=asked)
    assert trainer.precision == {None: "float32", "auto": fast}.get(asked, asked)
    assert d2l.Trainer(1).precision == "float32"


def test_a_subclass_may_save_hyperparameters_of_its_own():
    class Mine(d2l.Trainer):
        def __init__(self, max_epochs, precision=None):
            super().__init__(max_epochs, precision="bfloat16")
            self.save_hyperparameters()

    trainer = Mine(1)
    trainer.fit(Net(), Random())
    assert (trainer.precision, trainer.hparams) == ("float32", {"max_epochs": 1, "precision": None})


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
    assert data.device == d2l.cpu()  # where the next model is
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


def test_an_optimiser_written_by_hand_trains_as_torchs():
    torch.manual_seed(0)
    by_hand, of_torch = Scratch(by_hand=True), Scratch()
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


SCHEDULES = {
    "StepLR": lambda optimiser: torch.optim.lr_scheduler.StepLR(optimiser, 1, 0.01),
    "MultiStepLR": lambda optimiser: torch.optim.lr_scheduler.MultiStepLR(optimiser, [1, 2], 0.01),
    "LambdaLR": lambda optimiser: torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: 0.01**i),
    "CosineAnnealingLR": lambda optimiser: torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 1),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("when", [None, "epoch", "batch"])
def test_a_schedule_that_is_meant_for_epochs(name, when):
    """In an epoch of three batches the learning rate would all but vanish."""

    class Decays(Line):
        def configure_optimizers(self):
            optimiser = torch.optim.SGD(self.parameters(), 1.0)
            return optimiser, SCHEDULES[name](optimiser), *([when] if when else [])

    def rate(steps):
        optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
        scheduler = SCHEDULES[name](optimiser)
        for _ in range(steps):
            optimiser.step()
            scheduler.step()
        return optimiser.param_groups[0]["lr"]

    trainer = d2l.Trainer(2)
    if when is None:
        with pytest.raises(ValueError, match=f"{name} steps after each batch"):
            trainer.fit(Decays(), Random())
        return
    trainer.fit(Decays(), Random())
    assert trainer.optim.param_groups[0]["lr"] == rate({"epoch": 2, "batch": 6}[when])


def test_a_look_ahead_at_a_schedule_changes_nothing():
    def run(ahead):
        model = Net(schedule=True)
        trainer = d2l.Trainer(3, seed=0)
        model.trainer = trainer
        if not ahead:
            pair = model.configure_optimizers
            model.configure_optimizers = lambda: (*pair(), "batch")
        trainer.start(model, Random(seed=0))
        return trainer.scheduler.state_dict(), trainer.optim.state_dict()["param_groups"]

    assert run(ahead=True) == run(ahead=False)


@pytest.mark.parametrize(
    ("spoil", "given"),
    [
        (lambda loss: None, "None"),
        (lambda loss: loss.expand(8), r"shape \(8,\)"),
    ],
)
def test_a_loss_that_is_not_one_number_is_refused(spoil, given):
    model = Line()
    train = model.training_step
    model.training_step = lambda batch: spoil(train(batch))
    with pytest.raises(TypeError, match=f"train_loss is {given}"):
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
        real = checks.check_losses
        monkeypatch.setattr(
            "d2l_utils.trainer.check_losses",
            lambda trainer, losses, first_step: (
                len(losses) > 1 and real(trainer, losses, first_step)
            ),
        )
    message = r"the loss is (nan|inf|-inf) in epoch 2, step 2 of 3; lower the learning rate"
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
    message = "validation loss is nan after epoch 2, step 3 of 3; lower the learning rate"
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
    message = "weights are not finite after epoch 1, step 3 of 3; lower the learning"
    with pytest.raises(FloatingPointError, match=message):
        d2l.Trainer(3, precision="float32", checkpoint=path).fit(Explodes(), Random(n_val=0))
    assert not path.exists()


def test_an_interrupt_at_the_very_end_names_the_last_epoch(monkeypatch, capsys):
    def interrupted(trainer):
        if trainer.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("d2l_utils.trainer.save_checkpoint", interrupted)
    trainer = d2l.Trainer(2)
    trainer.fit(Line(), Random())
    assert trainer.interrupted and len(trainer.history) == 2
    assert "Stopped in epoch 2; " in capsys.readouterr().out


# --- parts that are replaced, as the book's sections do ---------------------------------------


class OwnInit(d2l.Trainer):
    def __init__(self, max_epochs, num_gpus=0, gradient_clip_val=0):
        self.save_hyperparameters()


class OwnFit(d2l.Trainer):
    def fit(self, model, data):
        self.prepare_data(data)
        self.prepare_model(model)
        self.optim = model.configure_optimizers()
        self.epoch = self.train_batch_idx = self.val_batch_idx = 0
        for self.epoch in range(self.max_epochs):  # noqa: B020
            self.fit_epoch()


class OwnPreparations(d2l.Trainer):
    def prepare_data(self, data):
        self.train_dataloader = data.train_dataloader()
        self.val_dataloader = data.val_dataloader()
        self.num_train_batches = len(self.train_dataloader)
        self.num_val_batches = len(self.val_dataloader)

    def prepare_model(self, model):
        model.trainer = self
        model.board.xlim = [0, self.max_epochs]
        self.model = model

    def prepare_batch(self, batch):
        return batch


class OwnEpoch(d2l.Trainer):
    def fit_epoch(self):
        self.model.train()
        for batch in self.train_dataloader:
            loss = self.model.training_step(self.prepare_batch(batch))
            self.optim.zero_grad()
            loss.backward()
            self.optim.step()
            self.train_batch_idx += 1
        self.model.eval()
        with torch.no_grad():
            for batch in self.val_dataloader:
                self.model.validation_step(self.prepare_batch(batch))
                self.val_batch_idx += 1


class OwnInitAndFit(OwnFit, OwnInit): ...


class OwnFitAndEpoch(OwnFit, OwnEpoch): ...


class Foreign(d2l.HyperParameters):
    """A trainer that is typed in whole; what it has of ours is how it saves its arguments."""

    def __init__(self, max_epochs):
        self.save_hyperparameters()

    prepare_data, prepare_model = OwnPreparations.prepare_data, OwnPreparations.prepare_model
    prepare_batch, fit_epoch = OwnPreparations.prepare_batch, OwnEpoch.fit_epoch
    fit = OwnFit.fit


@pytest.mark.parametrize(
    "kind",
    [OwnInit, OwnFit, OwnPreparations, OwnEpoch, OwnInitAndFit, OwnFitAndEpoch, Foreign],
)
def test_parts_can_be_replaced_one_by_one(kind):
    def run(kind):
        torch.manual_seed(0)
        model, trainer = Line(), kind(2)
        trainer.fit(model, Random(n=16, n_val=16, seed=0))  # batches of one size
        return model, trainer

    (plain, ours), (model, trainer) = run(d2l.Trainer), run(kind)
    assert equal(weights(model), weights(plain))
    assert trainer.train_batch_idx == ours.train_batch_idx == 4
    points = model.board.data
    assert [x for x, _ in points["val_acc"]] == [1, 2]
    assert points["train_loss"] == plain.board.data["train_loss"]
    values = [[y for _, y in m.board.data["val_loss"]] for m in (model, plain)]
    assert values[0] == pytest.approx(values[1])
    if kind not in (Foreign, OwnFitAndEpoch):
        keys = ("epoch", "train_loss", "val_loss", "val_acc")
        for row, our_row in zip(trainer.history, ours.history, strict=True):
            assert [row[k] for k in keys] == pytest.approx([our_row[k] for k in keys])


def test_epochs_after_fit_go_on_counting():
    trainer = d2l.Trainer(1)
    trainer.fit(Line(), Random())
    trainer.fit_epoch()
    trainer.fit_epoch()
    assert [row["epoch"] for row in trainer.history] == [1, 2, 3]
    trainer.fit(Line(), Random())
    assert [row["epoch"] for row in trainer.history] == [1]


@pytest.mark.parametrize("board", [None, "own"])
def test_a_board_may_be_missing_or_the_readers_own(board):
    points = []

    class Board:
        def draw(self, x, y, label, every_n=1):
            points.append((label, float(x)))

    model = Line()
    model.board = Board() if board else None
    d2l.Trainer(2).fit(model, Random(n=8))
    places = [(label, x) for x in (1, 2) for label in ("train_loss", "val_loss", "val_acc")]
    drawn = [(label, x - 1 if label == "train_loss" else x) for label, x in places]
    assert points == (drawn if board else [])


def test_data_are_left_where_a_new_model_is(monkeypatch):
    """A device that is named cpu:0 stands in for a GPU."""
    seen = []

    class Notes(Random):
        def __setattr__(self, name, value):
            seen.append(str(value)) if name == "device" else super().__setattr__(name, value)

    monkeypatch.setattr(d2l.Trainer, "device", torch.device("cpu", 0))
    for use in (d2l.Trainer(1).fit, d2l.Trainer(1).evaluate):
        use(Line(), Notes())
    assert seen == ["cpu:0", "cpu"] * 2


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argument",
    [
        {"max_epochs": 0},
        {"gradient_clip_val": -1},
        {"gradient_clip_val": math.nan},
        {"precision": "float16"},
        {"checkpoint": ""},
        {"checkpoint": "/"},
    ],
)
def test_arguments_that_would_fail_late_or_never(argument):
    (name,) = argument
    with pytest.raises(ValueError, match=f"{name} is "):
        d2l.Trainer(**{"max_epochs": 1} | argument)


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (lambda: (Random(), Line()), "model is Random"),
        (lambda: (Line, Random()), "model is the class Line"),
        (lambda: (Line(), Random), "data is the class Random"),
        (lambda: (Line(), Random().train_dataloader()), "data is DataLoader"),
        (lambda: (None, Random()), "model is NoneType"),
        (lambda: (nn.Linear(1, 1), Random()), "model is Linear"),
    ],
)
def test_arguments_of_fit_that_are_something_else(arguments, culprit):
    for use in (d2l.Trainer(1).fit, d2l.Trainer(1).evaluate):
        with pytest.raises(TypeError, match=culprit):
            use(*arguments())


def test_labels_that_the_network_has_no_output_for():
    data = Random()
    data.y[3] = 2
    with pytest.raises(ValueError, match="labels .* run from 0 to 2"):
        d2l.Trainer(1, seed=0).fit(Net(), data)


def test_one_hot_labels():
    data = Random()
    data.y = F.one_hot(data.y)
    with pytest.raises(ValueError, match="labels must be class indices"):
        d2l.Trainer(1).fit(Line(), data)


def test_images_that_the_network_eats():
    data = Random()
    data.X = data.X[..., :2, :2]
    with pytest.raises(ValueError, match="images of 2 x 2 are too small for this Net"):
        d2l.Trainer(1).fit(Net(), data)


@pytest.mark.parametrize("where", [3, 27])  # in training, in validation
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_bad_images_are_the_datas_fault(value, where):
    data = Random()
    data.X[where, 0, 2, 2] = value
    with pytest.raises(FloatingPointError, match="the data are at fault"):
        d2l.Trainer(1).fit(Line(), data)


def test_a_network_that_starts_with_nan_is_not_told_to_learn_slower():
    model = Line()
    nn.init.constant_(model.net[1].bias, math.nan)
    with pytest.raises(FloatingPointError, match="no weight has changed yet"):
        d2l.Trainer(1).fit(model, Random())


@pytest.mark.parametrize("train", [True, False])
def test_an_empty_batch(train):
    data = Random()
    batches = list(data.get_dataloader(train))
    loader = [*batches, [a[:0] for a in batches[0]]]
    setattr(data, "train_dataloader" if train else "val_dataloader", lambda: loader)
    with pytest.raises(ValueError, match="no image in a batch"):
        d2l.Trainer(1).fit(Net(), data)


def test_data_without_a_batch():
    data = Random()
    data.train_dataloader = lambda: []
    with pytest.raises(ValueError, match="no batch to train on"):
        d2l.Trainer(1).fit(Net(), data)
