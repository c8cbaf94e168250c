"""What is looked at before and while a model trains, so that an error says what is at fault."""

import math
import os
from itertools import chain

import torch

from d2l_utils.device import PRECISIONS

__all__ = [
    "check_arguments",
    "check_some",
    "check_losses",
    "check_parts",
    "check_weights",
]


def check_arguments(trainer) -> None:
    """Raise a ValueError that names an argument which would fail late or without a word."""
    epochs, clip, file = trainer.max_epochs, trainer.gradient_clip_val, trainer.checkpoint
    for name, allowed, good in (
        ("max_epochs", "at least 1", epochs >= 1),
        ("gradient_clip_val", "0 or more", clip >= 0),  # not so nan
        (
            "precision",
            "float32, bfloat16 or auto",
            trainer.precision in (None, "auto", *PRECISIONS),
        ),
        ("checkpoint", "a file", file is None or not os.path.isdir(file or ".")),
    ):
        if not good:
            raise ValueError(f"{name} is {getattr(trainer, name)!r}; it must be {allowed}")


def check_some(things, what: str) -> None:
    """Raise a ValueError if there are none of these things, batches or images."""
    if len(things) == 0:
        raise ValueError(f"there is no {what}: train_dataloader() or val_dataloader() is at fault")


def check_parts(model, data) -> None:
    """Raise a TypeError that names the argument if it is no model, or no data module.

    >>> check_parts(None, None)
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


def check_losses(trainer, losses: list[torch.Tensor], first_step: int) -> None:
    """Raise a FloatingPointError that names the step if a training loss is not finite."""
    for step, loss in enumerate(torch.stack(losses).tolist(), first_step):
        if not math.isfinite(loss):
            _stop(trainer, f"the loss is {loss} in", step)


def check_weights(trainer, row: dict) -> None:
    """Raise a FloatingPointError if the last step of an epoch, after its loss, spoilt the weights.

    Where there is validation, its loss tells.
    """
    if not math.isfinite(row.get("val_loss", 0)):
        _stop(trainer, f"the validation loss is {row['val_loss']} after", trainer.num_train_batches)
    if "val_loss" not in row:
        if not all(bool(p.isfinite().all()) for p in trainer.model.parameters()):
            _stop(trainer, "weights are not finite after", trainer.num_train_batches)


def _stop(trainer, what, step):
    advice = "lower the learning rate, or clip the gradient"
    if trainer.train_batch_idx == 0:
        advice = "no weight has changed yet, so look at how they start, and at the loss itself"
    batches = chain(trainer.train_dataloader, trainer.val_dataloader or ())
    if not all(bool(a.isfinite().all()) for batch in batches for a in batch):
        advice = "the data are at fault: they hold nan or infinity"
    where = f"epoch {len(trainer.history) + 1}, step {step} of {trainer.num_train_batches}"
    raise FloatingPointError(f"{what} {where}; {advice}")
