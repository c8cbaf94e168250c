"""Pictures: curves of a training run, rows of images. Matplotlib is imported only to draw."""

import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch

from d2l_utils.hyperparameters import HyperParameters

__all__ = ["ProgressBoard", "set_figsize", "show_images", "use_svg_display"]


def use_svg_display() -> None:
    """Show figures as SVG in this notebook, as the book's sections do."""
    # The notebooks here keep PNG: two drawings of one SVG never have the same text.
    from matplotlib_inline import backend_inline

    backend_inline.set_matplotlib_formats("svg")


def set_figsize(figsize: tuple[float, float] = (3.5, 2.5)) -> None:
    """Set the size of the figures to come, in inches."""
    from matplotlib import pyplot as plt

    plt.rcParams["figure.figsize"] = figsize


def show_images(imgs, num_rows: int, num_cols: int, titles=None, scale: float = 1.5):
    """Show as many images as the grid has room for, and return its axes, flattened.

    `imgs` are tensors or arrays, each `(h, w)` or `(h, w, 3)`, of `scale` inches a side.

    >>> [ax.get_title() for ax in show_images(torch.rand(9, 4, 4), 1, 2, titles=["a", "b"])]
    ['a', 'b']
    """
    from matplotlib import pyplot as plt

    figsize = (num_cols * scale, num_rows * scale)
    _, axes = plt.subplots(num_rows, num_cols, figsize=figsize, squeeze=False)
    axes = axes.flatten()
    for ax in axes:
        ax.set_axis_off()
    for i, (ax, image) in enumerate(zip(axes, imgs, strict=False)):
        is_tensor = isinstance(image, torch.Tensor)
        ax.imshow(image.numpy(force=True) if is_tensor else image, cmap="gray")
        if titles:
            ax.set_title(titles[i])
    return axes


class Point(NamedTuple):
    """A point of a curve, the mean of the values that it was drawn from."""

    x: float
    y: float


class ProgressBoard(HyperParameters):
    """Curves that grow point by point.

    In a notebook the picture grows below the cell, and one figure is stored. In a script the figure
    is there for `plt.show()` and `plt.savefig(...)`. The curves are drawn on `fig` or `axes` if
    given; with `display=False`, only when `figure` is called.

    Line styles `ls` and `colors` are taken in turn; `figsize` is in inches; limits are
    `(low, high)`, or None to fit the points. `data` has for each label a list of points, with `.x`
    and `.y`.

    >>> board = ProgressBoard(xlabel="epoch")
    >>> for x in range(4):
    ...     board.draw(x, x**2, "square", every_n=2)
    >>> board.data["square"][-1].y
    6.5
    """

    # For subclasses whose own __init__ sets none of these.
    xlabel = ylabel = xlim = ylim = fig = axes = None
    xscale = yscale = "linear"
    ls, colors = ("-", "--", "-.", ":"), ("C0", "C1", "C2", "C3")
    figsize, display = (3.5, 2.5), True

    _mine = None  # the figure that this board made
    _place = None  # where a picture grows in a notebook

    def __init__(
        self,
        xlabel: str | None = None,
        ylabel: str | None = None,
        xlim: Sequence[float] | None = None,
        ylim: Sequence[float] | None = None,
        xscale: str = xscale,
        yscale: str = yscale,
        ls: Sequence[str] = ls,
        colors: Sequence[str] = colors,
        fig=None,
        axes=None,
        figsize: tuple[float, float] = figsize,
        display: bool = display,
    ):
        self.save_hyperparameters()
        self.clear()

    def __getstate__(self):
        # A copy gets a figure of its own once it draws; a copied one would be shown by itself.
        figure = dict.fromkeys(("fig", "axes", "_mine", "_place"))
        given = {k: v for k, v in getattr(self, "hparams", {}).items() if k not in figure}
        return {**self.__dict__, **figure, "_lines": {}, "hparams": given}

    def clear(self) -> None:
        """Forget all points. What is drawn stays as it is."""
        self.data: dict[str, list[Point]] = {}
        self._waiting: dict[str, list[tuple]] = {}
        self._lines: dict = {}
        self._pause_until = 0.0
        if self._mine is not None:
            self.fig = self.axes = self._mine = None

    def draw(self, x: float, y, label: str, every_n: int = 1) -> None:
        """Add a value; each `every_n` values of a curve make a point, their mean."""
        if not hasattr(self, "data"):  # a subclass whose __init__ does not call this one's
            self.clear()
        points = self.data.setdefault(label, [])
        waiting = self._waiting.setdefault(label, [])
        waiting.append((x, y.detach() if isinstance(y, torch.Tensor) else y))
        if len(waiting) < every_n:
            return
        columns = zip(*waiting, strict=True)
        points.append(Point(*(sum(map(float, column)) / len(waiting) for column in columns)))
        waiting.clear()
        if self.display:
            self._show()

    def figure(self):
        """Return the Matplotlib figure, with all points."""
        from matplotlib import pyplot as plt

        if self._mine is not None and not plt.fignum_exists(self._mine.number):
            self.fig = self.axes = self._mine = None  # closed by a reader, or as its cell ended
        if self.axes is None:
            if self.fig is None:
                self.fig = self._mine = plt.figure(figsize=self.figsize)
            self.axes, self._lines = self.fig.gca(), {}
        axes = self.axes
        axes.set(xlabel=self.xlabel, ylabel=self.ylabel, xscale=self.xscale, yscale=self.yscale)
        for i, (label, points) in enumerate(self.data.items()):
            if not points:
                continue
            if label not in self._lines:
                ls, color = self.ls[i % len(self.ls)], self.colors[i % len(self.colors)]
                (self._lines[label],) = axes.plot([], [], ls=ls, color=color, label=label)
                axes.legend()
            self._lines[label].set_data(*zip(*points, strict=True))
        axes.relim()
        axes.autoscale_view()
        axes.set(**{k: v for k, v in {"xlim": self.xlim, "ylim": self.ylim}.items() if v})
        return self.fig or axes.figure

    def _show(self):
        try:
            from matplotlib import pyplot as plt
        except ImportError:  # training goes without pictures
            return
        figure, start = self.figure(), time.monotonic()
        # A front end with a reader takes input; programs that run notebooks say that they do not.
        watched = "inline" in plt.get_backend() and getattr(kernel(), "_allow_stdin", False)
        if watched and start > self._pause_until:
            self._grow(figure)
            # So growing takes a tenth of the time at most; setting the points is not throttled.
            self._pause_until = time.monotonic() + 10 * (time.monotonic() - start)

    def _grow(self, figure):
        # Where nobody looks nothing needs to be done: a figure is shown when its cell ends, and
        # programs that run notebooks trip over outputs that replace others.
        from IPython import display, get_ipython

        if self._place is not None:
            self._place.update(figure)
            return
        self._place = display.display(figure, display_id=True)

        def last_picture():
            from matplotlib import pyplot as plt

            ends.remove(last_picture)
            self._place.update(figure)
            self._place = None
            plt.close(figure)  # or the notebook would show it a second time

        ends = get_ipython().events.callbacks["post_execute"]
        ends.insert(0, last_picture)  # before the notebook shows all figures that are open


def kernel():
    """Return the notebook's kernel, or None in a script or a terminal."""
    ipython = sys.modules.get("IPython")  # if it is not loaded, this is no notebook
    return getattr(ipython.get_ipython(), "kernel", None) if ipython else None
