"""What is seen of a run: the means of an epoch, a bar, and curves on the model's board."""

import torch

from d2l_utils.board import progress_options
from d2l_utils.distributed import processes, total

__all__ = ["Means", "clear", "draw", "progress_bar", "show"]


class Means:
    """Means of values over batches, weighted by the batches' `samples`, or alike if that is None.

    They are added up in `pop` and in float64, which not every GPU has; so no GPU is waited for.

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
        """Take a value of the batch at hand, which has `samples` samples."""
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            value = value.detach()
        elif not isinstance(value, int | float):
            given = f"of shape {tuple(value.shape)}" if hasattr(value, "shape") else repr(value)
            raise TypeError(f"{key} is {given}; it must be one number, such as a batch's mean")
        samples = 1 if self.samples is None else self.samples
        self._values.setdefault(key, []).append((value, samples))

    def pop(self) -> dict[str, float]:
        """Return the means and forget the values."""
        values, self._values = self._values, {}
        sums = total([sum(float(value) * n for value, n in pairs) for pairs in values.values()])
        samples = total([sum(n for _, n in pairs) for pairs in values.values()])
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


def draw(model, row: dict, bar=None) -> None:
    """Show the validation's values of a row of the history on the model's board, and at the bar."""
    values = {key: value for key, value in row.items() if key.startswith("val_")}
    if bar is not None:
        bar.set_postfix({key: f"{value:.4f}" for key, value in values.items()})
    if (board := getattr(model, "board", None)) is not None:
        for key, value in values.items():
            board.draw(row["epoch"], value, key)


def show(model) -> None:
    """Bring the picture up to date, if the board is one that keeps points."""
    if hasattr(getattr(model, "board", None), "show"):
        model.board.show()
