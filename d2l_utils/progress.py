"""What is seen of a run: the means of an epoch, a bar, and curves on the model's board."""

from contextlib import nullcontext
from numbers import Real

import torch

from d2l_utils.board import kernel
from d2l_utils.distributed import add_up, processes

__all__ = ["Means", "draw", "prepare_board", "progress_bar", "say_stopped"]


class Means:
    """Means of values over batches, weighted by the batches' `samples`, or alike if that is None.

    Values stay on their device until `pop`, so no step waits for a GPU; `pop` adds them up on the
    CPU, in float64, which not every GPU has.

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
        elif not isinstance(value, Real):  # NumPy's numbers are, too
            given = f"of shape {tuple(value.shape)}" if hasattr(value, "shape") else repr(value)
            raise TypeError(f"{key} is {given}; it must be one number, such as a batch's mean")
        samples = 1 if self.samples is None else self.samples
        self._values.setdefault(key, []).append((value, samples))

    def pop(self) -> dict[str, float]:
        """Return the means and forget the values."""
        values, self._values = self._values, {}
        sums = [[sum(float(v) * n for v, n in p), sum(n for _, n in p)] for p in values.values()]
        if processes()[1] > 1:
            add_up([of_all := torch.tensor(sums, dtype=torch.float64)])
            sums = of_all.tolist()
        return {key: total / n for key, (total, n) in zip(values, sums, strict=True)}


def progress_bar(trainer):
    """Return a tqdm bar for all batches of a run; it leaves nothing behind.

    There is none in a notebook, where the picture grows and stderr is stored.
    """
    if kernel() or processes()[0] > 0:
        return nullcontext()
    from tqdm import tqdm

    n, about = trainer.num_train_batches, f"{trainer.device} {trainer.precision}"
    total, done = trainer.max_epochs * n, trainer.epoch * n
    return tqdm(desc=about, total=total, initial=done, leave=False, unit="batch")


def prepare_board(model, trainer) -> None:
    """Make the model's board ready for a run, if it has one; several processes show one."""
    if (board := getattr(model, "board", None)) is not None:
        board.xlim = [0, trainer.max_epochs]
        if processes()[0] > 0:
            board.display = False
        if hasattr(board, "clear"):
            board.clear()
    for row in trainer.history:  # of the checkpoint
        draw(model, row)


def draw(model, row: dict, bar=None) -> None:
    """Show the validation values of a row of the history on the model's board and the bar."""
    values = {key: value for key, value in row.items() if key.startswith("val_")}
    if bar is not None:
        bar.set_postfix({key: f"{value:.4f}" for key, value in values.items()})
    if (board := getattr(model, "board", None)) is not None:
        for key, value in values.items():
            board.draw(row["epoch"], value, key)


def say_stopped(trainer) -> None:
    """Say in which epoch a run was interrupted."""
    if processes()[0] == 0:
        epoch = min(trainer.epoch + 1, trainer.max_epochs)
        print(f"Stopped in epoch {epoch}; the model keeps what it has learned.")
