"""The training loop: equal to a plain one, its parts replaceable."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small import Line, Net, Random, equal, fit, stop_at, weights
from torch import nn
from torch.nn import functional as F  # noqa: N812

import d2l_utils as d2l
from d2l_utils import checks, distributed, progress
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
    trainer = fit(model, data, epochs, precision=precision, seed=seed)

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

    rows = []
    for _ in range(epochs):
        net.train()
        train_loss = val_loss = right = 0.0
        for X, y in train:
            loss = F.cross_entropy(logits_of(X), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if schedule:
                scheduler.step()
            train_loss += loss.item() * len(y)
        net.eval()
        for X, y in val:
            with torch.no_grad():
                logits = logits_of(X)
            val_loss += F.cross_entropy(logits, y).item() * len(y)
            right += int((logits.argmax(1) == y).sum())
        # Weighted by samples: the last batches have 4 and 3 images, the others 8.
        rows.append([train_loss / 20, val_loss / 11, right / 11])
    assert equal(model.net, net)
    found = [[row[key] for key in HISTORY[1:4]] for row in trainer.history]
    assert sum(found, []) == pytest.approx(sum(rows, []), abs=1e-7)


def test_the_gradient_is_clipped_to_the_norm_asked_for():
    def steps(clip):
        torch.manual_seed(0)
        model = Line(lr=1.0)
        before = weights(model)
        fit(model, Random(n=8), gradient_clip_val=clip)
        return torch.cat([(value - before[key]).flatten() for key, value in weights(model).items()])

    free, clipped, loose = steps(0), steps(0.01), steps(1000)
    assert float(free.norm()) > 0.1
    assert float(clipped.norm()) == pytest.approx(0.01, rel=1e-3)  # at learning rate 1
    torch.testing.assert_close(clipped / clipped.norm(), free / free.norm())
    torch.testing.assert_close(loose, free)


def test_a_seed_fixes_everything():
    def run(seed, global_seed):
        torch.manual_seed(global_seed)
        return fit(seed=seed).model

    assert equal(run(3, 0), run(3, 1))
    assert not equal(run(3, 0), run(4, 0))
    assert not equal(run(None, 5), run(None, 6))


# --- history and board ------------------------------------------------------------------------


def test_history_is_plain_data_and_attributes_are_those_of_the_book():
    model = Net()
    trainer = fit(model, epochs=2, num_gpus=0, gradient_clip_val=1)
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


def test_the_curves_are_on_the_board():
    trainer = fit(epochs=3)
    board = trainer.model.board
    assert board.xlim == [0, 3]
    assert board.data["val_acc"] == [(row["epoch"], row["val_acc"]) for row in trainer.history]
    assert len(board.data["train_loss"]) == 9  # 3 batches an epoch, 2 points asked for
    fit(trainer.model)
    assert [x for x, _ in board.data["val_acc"]] == [1]


@pytest.mark.parametrize("board", [None, "own"])
def test_a_board_may_be_missing_or_the_readers_own(board):
    points = []

    class Board:
        def draw(self, x, y, label, every_n=1):
            points.append((label, float(x)))
            torch.as_tensor(y).numpy()  # as Matplotlib does; it takes no gradient along

    model = Line()
    model.board = Board() if board else None
    fit(model, Random(n=8), 2)
    drawn = [[("train_loss", x - 1), ("val_loss", x), ("val_acc", x)] for x in (1, 2)]
    assert points == (sum(drawn, []) if board else [])
    assert model.board is None or model.board.xlabel == "epoch"


def test_a_model_may_report_more():
    class Reports(Line):
        def training_step(self, batch):
            self.plot("acc", self.accuracy(self(batch[0]), batch[1]), train=True)
            return super().training_step(batch)

        def validation_step(self, batch):
            self.plot("count", float(len(batch[1])), train=False)

    row = fit(Reports(), Random(n=8, n_val=12)).history[0]
    assert set(row) == {"epoch", "train_acc", "train_loss", "val_count"} | set(HISTORY[-2:])
    assert row["val_count"] == (8 * 8 + 4 * 4) / 12


def test_means_are_taken_of_any_one_number():
    class Reports(Line):
        def loss(self, *batch):
            return super().loss(*batch).reshape(1)

        def validation_step(self, batch):
            self.plot("count", np.float32(len(batch[1])), train=False)

    trainer = fit(Reports(), Random(n=8, n_val=12))
    assert trainer.history[0]["val_count"] == (8 * 8 + 4 * 4) / 12
    assert trainer.first_losses == [pytest.approx(trainer.history[0]["train_loss"])]


@pytest.mark.parametrize("spoil", [lambda loss: None, lambda loss: loss.expand(8)])
def test_a_loss_that_is_not_one_number_is_refused(spoil):
    model = Line()
    train = model.training_step
    model.training_step = lambda batch: spoil(train(batch))
    with pytest.raises(TypeError, match="train_loss is "):
        fit(model)


def test_without_validation_data():
    data = Random()
    data.val_dataloader = lambda: None
    trainer = fit(data=data)
    assert trainer.num_val_batches == 0
    assert list(trainer.history[0]) == [k for k in HISTORY if not k.startswith("val_")]


def test_evaluate():
    data = Random()
    trainer = fit(data=data, seed=0)
    model = trainer.model
    before = weights(model)
    data.train_dataloader = lambda: []  # which it does not need
    result = d2l.Trainer(1).evaluate(model, data)
    assert result == {key: trainer.history[0][key] for key in ("val_loss", "val_acc")}
    assert equal(model, before) and not model.training
    assert len(model.board.data["val_acc"]) == 1  # as trained


def test_first_losses_are_those_of_the_first_ten_steps_which_can_be_taken_one_by_one():
    trainer, again = fit(data=Random(n=96, seed=0), epochs=2, seed=0), d2l.Trainer(2, seed=0)
    again.start(Net(), Random(n=96, seed=0))
    losses = [float(again.step(batch)) for batch in again.train_dataloader]
    assert len(losses) == 12
    assert trainer.first_losses == losses[:10]


def test_epochs_after_fit_go_on_counting():
    trainer = fit(Line())
    trainer.fit_epoch()
    trainer.fit_epoch()
    assert [row["epoch"] for row in trainer.history] == [1, 2, 3]
    trainer.fit(Line(), Random())
    assert [row["epoch"] for row in trainer.history] == [1]


def test_an_interrupt_keeps_what_was_trained(capsys):
    one_epoch = fit(data=Random(seed=0), seed=0).model
    stopped, trainer = Net(), d2l.Trainer(5, seed=0)
    trainer.fit(stop_at(stopped, 5, KeyboardInterrupt()), Random(seed=0))
    assert trainer.interrupted and len(trainer.history) == 1
    assert trainer.train_batch_idx == 5 and not stopped.training
    assert "Stopped in epoch 2" in capsys.readouterr().out
    assert not equal(stopped, one_epoch)
    del stopped.training_step
    trainer.fit(stopped, Random())
    assert not trainer.interrupted and len(trainer.history) == 5


def test_an_interrupt_before_the_first_step_is_one_too(capsys):
    def stop():
        raise KeyboardInterrupt

    trainer, data = fit(), Random()
    data.train_dataloader = stop
    trainer.fit(Line(), data)
    assert trainer.interrupted and trainer.history == []
    assert "Stopped in epoch 1" in capsys.readouterr().out


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


def test_an_interrupted_epoch_of_the_readers_own_leaves_no_values_behind():
    def run(trainer):
        torch.manual_seed(0)
        trainer.fit(Line(), Random(seed=0))
        return trainer.history

    trainer = OwnEpoch(1)
    trainer.fit(stop_at(Line(), 2, KeyboardInterrupt()), Random())
    assert run(trainer) == run(OwnEpoch(1))


class OwnFitAndEpoch(OwnFit, OwnEpoch): ...


class OwnBatches(d2l.Trainer):
    """Of data that give dicts."""

    def __init__(self, max_epochs):
        self.save_hyperparameters()

    def prepare_data(self, data):
        super().prepare_data(data)
        for name in ("train_dataloader", "val_dataloader"):
            batches = getattr(self, name)
            setattr(self, name, Dicts(batches))

    def prepare_batch(self, batch):
        return batch["image"], batch["label"]


class Dicts:
    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return ({"image": X, "label": y} for X, y in self.batches)


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
    [OwnInit, OwnFit, OwnPreparations, OwnEpoch, OwnFitAndEpoch, OwnBatches, OwnDevice, Foreign],
)
def test_parts_can_be_replaced_one_by_one(kind):
    def run(kind):
        torch.manual_seed(0)
        model, trainer = Line(), kind(2)
        trainer.fit(model, Random(n=16, n_val=16, seed=0))  # batches of one size
        return model, trainer

    (plain, ours), (model, trainer) = run(d2l.Trainer), run(kind)
    assert equal(model, plain)
    assert trainer.train_batch_idx == ours.train_batch_idx == 4
    points = model.board.data
    assert [x for x, _ in points["val_acc"]] == [1, 2]
    assert points["train_loss"] == plain.board.data["train_loss"]
    values = [[y for _, y in m.board.data["val_loss"]] for m in (model, plain)]
    assert values[0] == pytest.approx(values[1])
    if kind not in (Foreign, OwnFitAndEpoch):
        for row, our_row in zip(trainer.history, ours.history, strict=True):
            assert [row[k] for k in HISTORY[:4]] == pytest.approx([our_row[k] for k in HISTORY[:4]])


def test_a_trainer_that_sets_no_gpus_takes_none(monkeypatch):
    monkeypatch.setattr(distributed, "num_gpus", lambda: 2)
    assert len(d2l.Trainer(1, num_gpus=2).gpus) == 2 and OwnBatches(1).gpus == []


def test_a_gpu_is_waited_for_at_the_first_step_alone(monkeypatch):
    trainer, asked = OwnPreparations(1), []
    trainer.start(Line(), Random())
    monkeypatch.setattr(OwnPreparations, "device", SimpleNamespace(type="cuda"))
    monkeypatch.setattr(checks, "losses", lambda *_: asked.append(trainer.train_batch_idx))
    for batch in trainer.train_dataloader:
        trainer.step(batch)
    assert asked == [0] and trainer.train_batch_idx == 3


def test_lazy_layers_have_weights_when_the_optimiser_is_made():
    class Asks(Net):
        def configure_optimizers(self):
            assert not any(map(nn.parameter.is_lazy, self.parameters()))
            return super().configure_optimizers()

    fit(Asks())


def test_steps_may_call_a_lazy_model_in_their_own_way():
    class Weighted(Line):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.LazyLinear(2))

        def training_step(self, batch):
            weights, X, y = batch
            return (self.loss(self(X), y, averaged=False) * weights).mean()

        def validation_step(self, batch):
            self.plot("acc", self.accuracy(self(batch[1]), batch[2]), train=False)

    class Weights(Random):
        def get_dataloader(self, train):
            return self.get_tensorloader((torch.ones(len(self.y)), self.X, self.y), train)

    trainer = d2l.Trainer(1)
    trainer.fit(Weighted(), Weights())
    assert {"train_loss", "val_acc"} <= set(trainer.history[0])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_images_are_channels_last_in_bfloat16_alone(precision):
    X, y = torch.rand(2, 3, 4, 4), torch.zeros(2)
    batch, labels = d2l.Trainer(1, precision=precision).prepare_batch([X, y])
    assert torch.equal(batch, X) and torch.equal(labels, y)
    assert batch.is_contiguous(memory_format=torch.channels_last) == (precision == "bfloat16")


def test_one_of_several_processes_has_a_bar(monkeypatch):
    trainer = d2l.Trainer(3)
    trainer.start(Net(), Random())
    with progress.progress_bar(trainer) as bar:
        assert bar.total == 9
    monkeypatch.setattr(progress, "processes", lambda: (1, 2))
    with progress.progress_bar(trainer) as bar:
        assert bar is None
