"""What is seen of a run: the means of an epoch, a bar, and curves on the model's board."""

import torch

from d2l_utils.board import progress_options
from d2l_utils.distributed import processes, total

__all__ = ["Means", "advance", "clear", "draw", "progress_bar", "say", "show"]


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
        self._values.setdefault(key, []).append(
            (value, 1 if self.samples is None else self.samples)
        )

    def pop(self) -> dict[str, float]:
        """Return the means and forget the values."""
        values, self._values = self._values, {}
        sums = [sum(float(value) * n for value, n in pairs) for pairs in values.values()]
        samples = [sum(n for _, n in pairs) for pairs in values.values()]
        sums, samples = total(sums), total(samples)
        return {key: a / n for key, a, n in zip(values, sums, samples, strict=True)}


def progress_bar(trainer):
    """Return a tqdm bar for all batches of a run; it leaves nothing behind."""
    from tqdm import tqdm

    return tqdm(
        desc=f"{trainer.device} {trainer.precision}",
        total=trainer.max_epochs * trainer.num_train_batches,
        initial=trainer.epoch * trainer.num_train_batches,
        leave=False,
        unit="batch",
        **(progress_options() if processes()[0] == 0 else {"disable": True}),
    )


def clear(model, max_epochs: int) -> None:
    """Make the model's board ready for a run, if it has one; several processes show one."""
    if (board := getattr(model, "board", None)) is not None:
        board.xlim = [0, max_epochs]
        if processes()[0] > 0:
            board.display = False
        if hasattr(board, "clear"):
            board.clear()


def say(text: str) -> None:
    """Print a line, once, however many processes there are."""
    if processes()[0] == 0:
        print(text)


def advance(bar) -> None:
    """Have the bar, if there is one, count a batch."""
    if bar is not None:
        bar.update()


def draw(model, row: dict, bar=None) -> None:
    """Show the validation's values of a row of the history on the model's board, and at the bar."""
    values = {key: value for key, value in row.items() if key.startswith("val_")}
    if bar is not None:
        bar.set_postfix({key: f"{value:.4f}" for key, value in values.items()})
    if (board := getattr(model, "board", None)) is not None:
        for key, value in values.items():
            board.draw(row["epoch"], value, key)


def show(model) -> None:
    """Show what the board has stored, if it is one that stores."""
    if show_board := getattr(getattr(model, "board", None), "show", None):
        show_board()
