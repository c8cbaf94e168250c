"""An optimiser and its schedule, which steps per batch or per epoch."""

import copy
import math
import warnings

from torch.optim.lr_scheduler import LRScheduler

__all__ = ["optimiser_and_schedule"]


def optimiser_and_schedule(trainer) -> tuple:
    """Return the model's optimiser, its scheduler or None, and whether that steps per epoch.

    `configure_optimizers` gives the optimiser alone; or with a scheduler, which steps after each
    batch; or with a scheduler and "epoch" or "batch".

    Raises:
        ValueError: if that is not said, and the learning rate would fall to less than a thousandth
            in the first half of the steps, as that of a schedule does that is meant for epochs.
    """
    configured = trainer.model.configure_optimizers()
    if not isinstance(configured, tuple | list):
        return configured, None, False
    optim, scheduler, when = [*configured, None][:3]
    if when is None and isinstance(scheduler, LRScheduler):
        half = math.ceil(trainer.max_epochs * trainer.num_train_batches / 2)
        rates = _learning_rates(scheduler, min(half, 10_000))
        highest = max(rates)
        lowest = min(rates[rates.index(highest) :])  # after it: a warm-up may start low
        if lowest < highest / 1000:
            raise ValueError(
                f"{type(scheduler).__name__} steps after each batch, and so takes the learning "
                f"rate from {highest:.3g} to {lowest:.3g} in half of the steps; "
                "let configure_optimizers return 'epoch' or 'batch' as a third item, as it is meant"
            )
    return optim, scheduler, when == "epoch"


def _learning_rates(scheduler, steps: int) -> list[float]:
    """Return the learning rates of the next steps, and leave everything as it was.

    >>> import torch
    >>> optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> _learning_rates(torch.optim.lr_scheduler.StepLR(optimiser, 2, 0.5), 4)
    [1.0, 1.0, 0.5, 0.5]
    """
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
