"""What is looked at before and while a model trains, so that an error says what is at fault."""

import copy
import math
import warnings
from itertools import chain

import torch
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["check_losses", "check_parts", "check_weights", "optimiser_and_schedule"]


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


def optimiser_and_schedule(trainer) -> tuple:
    """Return the model's optimiser, its scheduler or None, and whether that steps per epoch.

    `configure_optimizers` gives the optimiser alone; or with a scheduler, which steps after each
    batch; or with a scheduler and "epoch" or "batch".

    Raises:
        ValueError: if that is not said, and the learning rate would fall to less than a thousandth
            in the first of several epochs, as that of a schedule does that is meant for epochs.
    """
    configured = trainer.model.configure_optimizers()
    if not isinstance(configured, tuple | list):
        return configured, None, False
    optim, scheduler, when = [*configured, None][:3]
    if when is None and trainer.max_epochs > 1 and isinstance(scheduler, LRScheduler):
        rates = _learning_rates(scheduler, trainer.num_train_batches)
        if rates[-1] < max(rates) / 1000:
            raise ValueError(
                f"{type(scheduler).__name__} steps after each batch, and so takes the learning "
                f"rate from {max(rates):.3g} to {rates[-1]:.3g} in the first epoch; let "
                "configure_optimizers return 'epoch' or 'batch' as a third item, as it is meant"
            )
    return optim, scheduler, when == "epoch"


def _learning_rates(scheduler, steps: int) -> list[float]:
    """Return the learning rates of the next steps, and leave everything as it was."""
    groups = scheduler.optimizer.param_groups
    state, before = copy.deepcopy(scheduler.state_dict()), [dict(group) for group in groups]
    rates = []
    with warnings.catch_warnings(action="ignore"):  # that the optimiser takes no step meanwhile
        for _ in range(steps):
            rates.append(float(groups[0]["lr"]))
            scheduler.step()
    scheduler.load_state_dict(state)
    for group, old in zip(groups, before, strict=True):
        group.update(old)
    return rates
