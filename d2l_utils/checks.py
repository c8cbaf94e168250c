"""What the trainer refuses: model, data, schedule, losses; each error names what is at fault."""

import math
from itertools import chain

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from d2l_utils.device import PRECISIONS

__all__ = ["arguments", "epoch", "losses", "parts", "schedule", "some"]


def arguments(trainer) -> None:
    """Raise a ValueError that names an argument which would fail late or without a word."""
    precisions = (*PRECISIONS, "auto")
    for name, allowed, good in (
        ("max_epochs", "at least 1", trainer.max_epochs >= 1),
        ("num_gpus", "0 or more", trainer.num_gpus >= 0),  # -1 would be all but one
        ("gradient_clip_val", "0 or more", trainer.gradient_clip_val >= 0),  # not so nan
        ("precision", "one of " + ", ".join(precisions), trainer.precision in precisions),
    ):
        if not good:
            raise ValueError(f"{name} is {getattr(trainer, name)!r}; it must be {allowed}")


def parts(model, data) -> None:
    """Raise a TypeError that names the argument if it is no model, or no data module.

    >>> parts(None, None)
    Traceback (most recent call last):
    ...
    TypeError: model is NoneType; it must be a Module or Classifier
    """
    for name, part, method, wanted in (
        ("model", model, "training_step", "a Module or Classifier"),
        ("data", data, "train_dataloader", "a DataModule, such as FashionMNIST()"),
    ):
        given = f"the class {part.__name__}" if isinstance(part, type) else type(part).__name__
        if isinstance(part, type) or not hasattr(part, method):
            raise TypeError(f"{name} is {given}; it must be {wanted}")


def some(things, what: str) -> None:
    """Raise a ValueError if there are none of these things, batches or images."""
    if len(things) == 0:
        raise ValueError(f"there is no {what}: train_dataloader() or val_dataloader() is at fault")


def schedule(scheduler, steps_per) -> None:
    """Raise a ValueError if a schedule does not say when to step, or needs a loss."""
    if scheduler is not None and steps_per not in ("epoch", "batch"):
        raise ValueError(
            f"{type(scheduler).__name__} steps per {steps_per}; it must be 'epoch' or 'batch', "
            "as configure_optimizers says by a third item"
        )
    if isinstance(scheduler, ReduceLROnPlateau):
        raise ValueError("ReduceLROnPlateau needs a loss at each step; schedules here get none")


def losses(trainer, losses: list[torch.Tensor], first_step: int) -> None:
    """Raise a FloatingPointError that names the step if a training loss is not finite."""
    for step, loss in enumerate(torch.stack(losses).flatten().tolist(), first_step):
        if not math.isfinite(loss):
            _stop(trainer, f"the loss is {loss} in", step)


def epoch(trainer, row: dict) -> None:
    """Raise a FloatingPointError if the last step of an epoch made weights that are not finite.

    The validation loss shows it, or else the weights themselves; the step's own loss came before.
    """
    step = trainer.num_train_batches
    if not math.isfinite(row.get("val_loss", 0)):
        _stop(trainer, f"the validation loss is {row['val_loss']} after", step)
    if "val_loss" not in row and not _are_finite(trainer.model.parameters()):
        _stop(trainer, "weights are not finite after", step)


def _stop(trainer, what, step):
    advice = "lower the learning rate, or clip the gradient"
    if trainer.train_batch_idx == 0:
        advice = "no weight has changed yet, so look at how they start, and at the loss itself"
    batches = chain(trainer.train_dataloader, trainer.val_dataloader or ())
    if not all(map(_are_finite, map(trainer.prepare_batch, batches))):
        advice = "the data are at fault: they hold nan or infinity"
    where = f"epoch {len(trainer.history) + 1}, step {step} of {trainer.num_train_batches}"
    raise FloatingPointError(f"{what} {where}; {advice}")


def _are_finite(tensors) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors)
