"""What is seen of a run: the means of an epoch, a bar, and curves on the model's board."""

import torch

from d2l_utils.board import progress_options

__all__ = ["Means", "draw", "progress_bar", "show"]


class Means:
    """Means of values over batches, weighted by samples.

    They are added up here, and in float64, which not every GPU has; so no GPU is waited for before.

    Attributes:
        samples: how many samples the batch at hand has; None counts each batch the same.

    >>> means = Means()
    >>> for means.samples, loss in ((8, 1.0), (2, 6.0)):
    ...     means.add("loss", torch.tensor(loss))
    >>> means.pop()
    {'loss': 2.0}
    """

    def __init__(self):
        self.samples: int | None = None
        self._values: dict[str, list[tuple]] = {}

    def add(self, key: str, value) -> None:
        """Take a value of the batch at hand.

        Raises:
            TypeError: if it is not one number.
        """
        if not isinstance(value, int | float) and getattr(value, "numel", int)() != 1:
            given = f"shape {tuple(value.shape)}" if hasattr(value, "shape") else f"{value!r}"
            raise TypeError(f"{key} is {given}; it must be one number, such as a batch's mean")
        value = value.detach() if isinstance(value, torch.Tensor) else value
        self._values.setdefault(key, []).append((value, self.samples or 1))

    def pop(self) -> dict[str, float]:
        """Return the means and forget the values."""
        values, self._values = self._values, {}
        return {
            key: sum(float(value) * n for value, n in pairs) / sum(n for _, n in pairs)
            for key, pairs in values.items()
        }


def progress_bar(trainer):
    """Return a tqdm bar for all batches of a run; it leaves nothing behind."""
    from tqdm import tqdm

    return tqdm(
        desc=f"{trainer.device} {trainer.precision}",
        total=trainer.max_epochs * trainer.num_train_batches,
        initial=trainer.epoch * trainer.num_train_batches,
        leave=False,
        unit="batch",
        **progress_options(),
    )


def draw(model, row: dict) -> None:
    """Draw the validation's values of a row of the history, if the model has a board."""
    if board := getattr(model, "board", None):
        for key, value in row.items():
            if key.startswith("val_"):
                board.draw(row["epoch"], value, key)


def show(model) -> None:
    """Show what the board has stored, if it is one that stores."""
    if show_board := getattr(getattr(model, "board", None), "show", None):
        show_board()
