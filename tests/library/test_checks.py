"""What training refuses, and what it says is at fault."""

import math

import pytest
import torch
from small import Line, Net, Random, equal, fit
from torch import nn
from torch.optim import lr_scheduler

import d2l_utils as d2l
from d2l_utils import checks


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_epochs", 0),
        ("num_gpus", -1),
        ("gradient_clip_val", math.nan),
        ("precision", "float16"),
    ],
)
def test_arguments_that_would_fail_late_or_never(name, value):
    with pytest.raises(ValueError, match=f"{name} is "):
        d2l.Trainer(**{"max_epochs": 1} | {name: value})
    assert d2l.Trainer(1, gradient_clip_val=0.5).gradient_clip_val == 0.5


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


def test_data_give_batches_on_the_cpu_again_though_start_or_evaluate_failed():
    data, trainer = Random(), d2l.Trainer(1)
    data.val_dataloader = lambda: 1 / 0
    trainer.device = "meta"  # stands in for a GPU
    for use in (trainer.fit, trainer.evaluate):
        with pytest.raises(ZeroDivisionError):
            use(Line(), data)
        assert data.device == d2l.cpu()


class Decays(Line):
    """With a schedule that is said to step after `when`."""

    def __init__(self, *when, schedule=lambda sgd: lr_scheduler.StepLR(sgd, 1, 0.1)):
        super().__init__()
        self.when, self.schedule = when, schedule

    def configure_optimizers(self):
        sgd = torch.optim.SGD(self.parameters(), 1.0)
        return sgd, self.schedule(sgd), *self.when


@pytest.mark.parametrize(("when", "rate"), [("epoch", 1e-2), ("batch", 1e-6)])
def test_a_schedule_steps_when_it_is_said_to(when, rate):
    """In two epochs of three batches each."""
    sgd = fit(Decays(when), epochs=2).optim
    assert sgd.param_groups[0]["lr"] == pytest.approx(rate)


@pytest.mark.parametrize(("when", "said"), [((), "None"), (("epochs",), "epochs")])
def test_a_schedule_that_does_not_say_when_it_steps_is_refused(when, said):
    with pytest.raises(ValueError, match=f"StepLR steps per {said}; it must be 'epoch' or 'batch'"):
        fit(Decays(*when))


def test_a_schedule_that_waits_for_a_loss_is_refused():
    with pytest.raises(ValueError, match="ReduceLROnPlateau"):
        fit(Decays("epoch", schedule=lr_scheduler.ReduceLROnPlateau))


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
    state = torch.load(tmp_path / "run.pt", weights_only=True)
    assert state["epoch"] == 1
    assert equal(state["model"], fit(data=Random(seed=0), seed=0).model)


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
        fit(Explodes(), Random(n_val=n_val), 3, checkpoint=path)
    assert torch.load(path, weights_only=True)["epoch"] == 1


@pytest.mark.parametrize("where", [3, 27])  # in training, in validation
def test_bad_images_are_the_datas_fault(where):
    data = Random()
    data.X[where, 0, 2, 2] = math.nan
    with pytest.raises(FloatingPointError, match="the data are at fault"):
        fit(Line(), data)


def test_a_network_that_starts_with_nan_is_not_told_to_learn_slower():
    model = Line()
    nn.init.constant_(model.net[1].bias, math.nan)
    with pytest.raises(FloatingPointError, match="no weight has changed yet"):
        fit(model)


@pytest.mark.parametrize("part", ["train", "val"])
def test_an_empty_batch(part):
    data = Random()
    batches = list(data.get_dataloader(part == "train"))
    setattr(data, f"{part}_dataloader", lambda: [*batches, [a[:0] for a in batches[0]]])
    with pytest.raises(ValueError, match="no image in a batch"):
        fit(data=data)
    data.train_dataloader = lambda: []
    for empty in (Random(n=0), data):
        with pytest.raises(ValueError, match="no batch to train on"):
            fit(data=empty)
