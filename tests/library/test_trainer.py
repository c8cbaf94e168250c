"""The training loop: equal to a plain one, its parts replaceable, honest about what goes wrong."""

import copy
import math

import pytest
import torch
from small import Line, Net, Random, TenClasses, equal, stop_at, weights
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.optim import lr_scheduler
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import d2l_utils as d2l
from d2l_utils import checks
from d2l_utils.device import PRECISIONS

HISTORY = ["epoch", "train_loss", "val_loss", "val_acc", "seconds", "images_per_second"]


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


# --- history ----------------------------------------------------------------------------------


def test_history_is_plain_data_and_attributes_are_those_of_the_book():
    model, trainer = Net(), d2l.Trainer(max_epochs=2, num_gpus=0, gradient_clip_val=1)
    trainer.fit(model, Random())
    assert [list(row) for row in trainer.history] == [HISTORY] * 2
    assert [row["epoch"] for row in trainer.history] == [1, 2]
    row = trainer.history[0]
    assert all(type(v) is (int if k == "epoch" else float) for k, v in row.items())
    assert row["images_per_second"] == pytest.approx(20 / row["seconds"])
    assert (trainer.max_epochs, trainer.num_gpus, trainer.gradient_clip_val) == (2, 0, 1)
    assert trainer.model is model and model.trainer is trainer
    assert isinstance(trainer.optim, torch.optim.SGD)
    assert (trainer.num_train_batches, trainer.num_val_batches) == (3, 2)
    assert (trainer.epoch, trainer.train_batch_idx, trainer.val_batch_idx) == (2, 6, 4)


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
    model, data, trainer = Net(), Random(), d2l.Trainer(1, seed=0)
    trainer.fit(model, data)
    before = weights(model)
    data.train_dataloader = lambda: []  # which it does not need
    result = d2l.Trainer(1).evaluate(model, data)
    assert result == {key: trainer.history[0][key] for key in ("val_loss", "val_acc")}
    assert equal(weights(model), before) and not model.training
    assert len(model.board.data["val_acc"]) == 1  # as trained


def test_first_losses_are_those_of_the_first_ten_steps_which_can_be_taken_one_by_one():
    trainer, again = d2l.Trainer(2, seed=0), d2l.Trainer(2, seed=0)
    trainer.fit(Net(), Random(n=96, seed=0))
    again.start(Net(), Random(n=96, seed=0))
    losses = [float(again.step(batch)) for batch in again.train_dataloader]
    assert len(losses) == 12
    assert trainer.first_losses == losses[:10]


# --- attributes, devices, precision -----------------------------------------------------------


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


def test_without_a_gpu_it_says_that_it_trains_on_the_cpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    trainer = d2l.Trainer(1, num_gpus=2, precision="float32")
    assert (trainer.device, trainer.gpus) == (d2l.cpu(), [])
    trainer.fit(Net(), Random())
    output = capsys.readouterr()
    assert output.out == "" and "cpu float32:" in output.err
    assert output.err.rsplit("\r", 2)[-2].strip() == ""  # the bar is gone


class NoFloat64(TorchDispatchMode):
    """Stands in for a device like Apple's GPUs, which refuse numbers in double precision."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, out)):
            dtype = leaf.dtype if isinstance(leaf, torch.Tensor) else leaf
            if isinstance(dtype, torch.dtype) and dtype == torch.float64:
                raise TypeError(f"{operation}: this device has no float64")
        return out


def test_a_device_without_float64_trains(tmp_path):
    with NoFloat64():
        with pytest.raises(TypeError, match="no float64"):
            torch.ones(1).double()
        trainer = d2l.Trainer(1, gradient_clip_val=1, checkpoint=tmp_path / "run.pt")
        trainer.fit(Net(schedule=True), Random())
    assert len(trainer.history) == 1


def test_with_a_gpu_it_takes_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    trainer = d2l.Trainer(1, num_gpus=1, precision="bfloat16")
    assert (trainer.device, trainer.gpus) == (d2l.gpu(0), [d2l.gpu(0)])
    assert d2l.Trainer(1, num_gpus=0).device == d2l.cpu()
    assert d2l.Trainer(1, num_gpus=3).gpus == [d2l.gpu(0), d2l.gpu(1)]


def test_precision_is_float32_unless_asked(monkeypatch):
    monkeypatch.setattr("d2l_utils.device.fast_precision", lambda device: "bfloat16")
    for asked, taken in {None: "float32", "auto": "bfloat16", "bfloat16": "bfloat16"}.items():
        assert d2l.Trainer(1, precision=asked).precision == taken
    assert d2l.Trainer(1).precision == "float32"


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
        model = Net()
        d2l.Trainer(2, seed=seed).fit(model, Random())
        return weights(model)

    assert equal(run(3, 0), run(3, 1))
    assert not equal(run(3, 0), run(4, 0))
    assert not equal(run(None, 5), run(None, 6))


# --- optimisers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule",
    [
        lambda sgd: lr_scheduler.StepLR(sgd, 1, 0.01),
        lambda sgd: lr_scheduler.StepLR(sgd, 1, 0.001**0.5),
        lambda sgd: lr_scheduler.CosineAnnealingLR(sgd, 1),
    ],
    ids=["StepLR", "StepLR to a thousandth", "CosineAnnealingLR"],
)
def test_a_schedule_that_is_meant_for_epochs(schedule):
    """Of three batches each; stepped after batches, the learning rate would all but vanish."""

    class Decays(Line):
        def __init__(self, *when):
            super().__init__()
            self.when = when

        def configure_optimizers(self):
            optimiser = torch.optim.SGD(self.parameters(), 1.0)
            return optimiser, schedule(optimiser), *self.when

    def rate(*when):
        trainer = d2l.Trainer(2)
        trainer.fit(Decays(*when), Random())
        return trainer.optim.param_groups[0]["lr"]

    def rate_after(steps):
        optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
        scheduler = schedule(optimiser)
        for _ in range(steps):
            optimiser.step()
            scheduler.step()
        return optimiser.param_groups[0]["lr"]

    with pytest.raises(ValueError, match="LR steps after each batch"):
        rate()
    assert (rate("epoch"), rate("batch")) == (rate_after(2), rate_after(6))
    with pytest.raises(ValueError, match="steps per 'epochs'"):
        rate("epochs")


@pytest.mark.parametrize("when", [(), ("epoch",)])
def test_a_schedule_that_waits_for_a_loss_is_refused(when):
    model = Line()
    optimiser = torch.optim.SGD(model.parameters(), 1.0)
    plateau = lr_scheduler.ReduceLROnPlateau(optimiser)
    model.configure_optimizers = lambda: (optimiser, plateau, *when)
    with pytest.raises(ValueError, match="ReduceLROnPlateau"):
        d2l.Trainer(1).fit(model, Random())


@pytest.mark.parametrize("spoil", [lambda loss: None, lambda loss: loss.expand(8)])
def test_a_loss_that_is_not_one_number_is_refused(spoil):
    model = Line()
    train = model.training_step
    model.training_step = lambda batch: spoil(train(batch))
    with pytest.raises(TypeError, match="train_loss is "):
        d2l.Trainer(1).fit(model, Random())


# --- interrupts and bad numbers ---------------------------------------------------------------


def test_an_interrupt_keeps_what_was_trained(capsys):
    one_epoch, stopped = Net(), Net()
    d2l.Trainer(1, seed=0).fit(one_epoch, Random(seed=0))
    trainer = d2l.Trainer(5, seed=0)
    trainer.fit(stop_at(stopped, 5, KeyboardInterrupt()), Random(seed=0))
    assert trainer.interrupted and len(trainer.history) == 1
    assert trainer.train_batch_idx == 5 and not stopped.training
    assert "Stopped in epoch 2; the model keeps what it has learned." in capsys.readouterr().out
    assert not equal(weights(stopped), weights(one_epoch))
    del stopped.training_step
    trainer.fit(stopped, Random())
    assert not trainer.interrupted and len(trainer.history) == 5


@pytest.mark.parametrize(("device", "value"), [("cpu", math.inf), ("like a gpu", math.nan)])
def test_a_loss_that_is_not_finite_names_epoch_and_step(tmp_path, monkeypatch, device, value):
    class Spoils(Net):
        def training_step(self, batch):
            loss = super().training_step(batch)
            return loss * value if self.trainer.train_batch_idx == 3 + 1 else loss

    def once_per_epoch(trainer, losses, first_step, check=checks.losses):
        if len(losses) > 1:
            check(trainer, losses, first_step)

    if device == "like a gpu":
        monkeypatch.setattr(checks, "losses", once_per_epoch)
    trainer = d2l.Trainer(3, checkpoint=tmp_path / "run.pt", seed=0)
    message = f"{value} in epoch 2, step 2 of 3; lower the learning rate"
    with pytest.raises(FloatingPointError, match=message):
        trainer.fit(Spoils(), Random(seed=0))
    assert len(trainer.history) == 1
    assert trainer.train_batch_idx == (4 if device == "cpu" else 6)  # steps that were taken
    # The checkpoint is that of the last good epoch.
    good = Net()
    d2l.Trainer(1, seed=0).fit(good, Random(seed=0))
    state = torch.load(tmp_path / "run.pt", weights_only=True)
    assert state["epoch"] == 1
    assert equal(state["model"], weights(good))


@pytest.mark.parametrize("n_val", [11, 0])
def test_weights_spoilt_by_the_last_step_of_an_epoch_are_not_kept(tmp_path, n_val):
    class Explodes(Line):
        def training_step(self, batch):
            loss = super().training_step(batch)
            if self.trainer.train_batch_idx == 5:  # finite, but not its gradient
                loss = loss + 0 * self.net[1].weight.sum().sub(self.net[1].weight.sum()).sqrt()
            return loss

    path = tmp_path / "run.pt"
    message = "after epoch 2, step 3 of 3; lower the learning rate"
    with pytest.raises(FloatingPointError, match=message):
        d2l.Trainer(3, checkpoint=path).fit(Explodes(), Random(n_val=n_val))
    assert torch.load(path, weights_only=True)["epoch"] == 1


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


class OwnFitAndEpoch(OwnFit, OwnEpoch): ...


class OwnDevice(d2l.Trainer):
    def __init__(self, max_epochs):
        super().__init__(max_epochs)
        self.device = "cpu"


class Foreign(d2l.HyperParameters):
    """A trainer that is typed in whole; what it has of ours is how it saves its arguments."""

    def __init__(self, max_epochs):
        self.save_hyperparameters()

    prepare_data, prepare_model = OwnPreparations.prepare_data, OwnPreparations.prepare_model
    prepare_batch, fit_epoch = OwnPreparations.prepare_batch, OwnEpoch.fit_epoch
    fit = OwnFit.fit


@pytest.mark.parametrize(
    "kind",
    [OwnInit, OwnFit, OwnPreparations, OwnEpoch, OwnFitAndEpoch, OwnDevice, Foreign],
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
    ("name", "value"),
    [("max_epochs", 0), ("gradient_clip_val", math.nan), ("precision", "float16")],
)
def test_arguments_that_would_fail_late_or_never(name, value):
    with pytest.raises(ValueError, match=f"{name} is "):
        d2l.Trainer(**{"max_epochs": 1} | {name: value})


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (lambda: (Random(), Line()), "model is Random"),
        (lambda: (Line, Random()), "model is the class Line"),
        (lambda: (Line(), Random().train_dataloader()), "data is DataLoader"),
        (lambda: (None, Random()), "model is NoneType"),
    ],
)
def test_arguments_of_fit_that_are_something_else(arguments, culprit):
    for use in (d2l.Trainer(1).fit, d2l.Trainer(1).evaluate):
        with pytest.raises(TypeError, match=culprit):
            use(*arguments())


@pytest.mark.parametrize("where", [3, 27])  # in training, in validation
def test_bad_images_are_the_datas_fault(where):
    data = Random()
    data.X[where, 0, 2, 2] = math.nan
    with pytest.raises(FloatingPointError, match="the data are at fault"):
        d2l.Trainer(1).fit(Line(), data)


def test_a_network_that_starts_with_nan_is_not_told_to_learn_slower():
    model = Line()
    nn.init.constant_(model.net[1].bias, math.nan)
    with pytest.raises(FloatingPointError, match="no weight has changed yet"):
        d2l.Trainer(1).fit(model, Random())


@pytest.mark.parametrize("part", ["train", "val"])
def test_an_empty_batch(part):
    data = Random()
    batches = list(data.get_dataloader(part == "train"))
    setattr(data, f"{part}_dataloader", lambda: [*batches, [a[:0] for a in batches[0]]])
    with pytest.raises(ValueError, match="no image in a batch"):
        d2l.Trainer(1).fit(Net(), data)
    data.train_dataloader = lambda: []
    for empty in (Random(n=0), data):
        with pytest.raises(ValueError, match="no batch to train on"):
            d2l.Trainer(1).fit(Net(), empty)
