"""Pictures: the curves of a training run and rows of images. Matplotlib is imported when drawn."""

import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch

from d2l_utils.hyperparameters import HyperParameters

__all__ = ["ProgressBoard", "set_figsize", "show_images", "use_svg_display"]


def use_svg_display() -> None:
    """Show figures as SVG in this notebook, as the book's sections do.

    The notebooks here keep PNG: two drawings of one SVG never have the same text.
    """
    from matplotlib_inline import backend_inline

    backend_inline.set_matplotlib_formats("svg")


def set_figsize(figsize: tuple[float, float] = (3.5, 2.5)) -> None:
    """Set the size of the figures to come, in inches.

    >>> set_figsize((4, 3))
    """
    from matplotlib import pyplot as plt

    plt.rcParams["figure.figsize"] = figsize


def show_images(imgs, num_rows: int, num_cols: int, titles=None, scale: float = 1.5):
    """Show the first images in a grid and return its axes, flattened.

    Args:
        imgs: images, each `(h, w)` or `(h, w, 3)`: a tensor, an array, or a list of what
            Matplotlib's `imshow` takes. Those that find no place in the grid are not shown.
        num_rows: rows of the grid.
        num_cols: columns of the grid.
        titles: one title per image.
        scale: width and height of one image, in inches.

    >>> [ax.get_title() for ax in show_images(torch.rand(9, 4, 4), 1, 2, titles=["a", "b"])]
    ['a', 'b']
    """
    from matplotlib import pyplot as plt

    figsize = (num_cols * scale, num_rows * scale)
    _, axes = plt.subplots(num_rows, num_cols, figsize=figsize, squeeze=False)
    axes = axes.flatten()
    for i, ax in enumerate(axes):
        ax.set_axis_off()
        if i < len(imgs):
            image = imgs[i]
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
    is there for `plt.show()` and `plt.savefig(...)`.

    Args:
        xlabel: label of the horizontal axis.
        ylabel: label of the vertical axis.
        xlim: limits of the horizontal axis, `(low, high)`; None fits them to the points.
        ylim: limits of the vertical axis.
        xscale: "linear", or another scale that Matplotlib knows.
        yscale: likewise.
        ls: line styles, taken in turn.
        colors: colours, taken in turn.
        fig: the Matplotlib figure to draw on; None makes one.
        axes: its axes; None makes them.
        figsize: width and height of the figure, in inches.
        display: whether there is a picture; without one the points are kept all the same.

    Attributes:
        data: a dict of label to list of points, each with `.x` and `.y`.

    >>> board = ProgressBoard(xlabel="epoch")
    >>> for x in range(4):
    ...     board.draw(x, x**2, "square", every_n=2)
    >>> board.data["square"][-1].y
    6.5
    """

    _mine = None  # the figure that this board made
    _late = None  # the figure that asks for the curves when it is drawn
    _place = None  # where a picture grows in a notebook
    _stale = False  # whether there are points that the figure lacks

    def __init__(
        self,
        xlabel: str | None = None,
        ylabel: str | None = None,
        xlim: Sequence[float] | None = None,
        ylim: Sequence[float] | None = None,
        xscale: str = "linear",
        yscale: str = "linear",
        ls: Sequence[str] = ("-", "--", "-.", ":"),
        colors: Sequence[str] = ("C0", "C1", "C2", "C3"),
        fig=None,
        axes=None,
        figsize: tuple[float, float] = (3.5, 2.5),
        display: bool = True,
    ):
        self.save_hyperparameters()
        self.clear()

    def __getstate__(self):
        # A copy gets a figure of its own once it draws; a copied one would be shown by itself.
        figure = dict.fromkeys(("fig", "axes", "_mine", "_late", "_place"))
        return {**self.__dict__, **figure, "_lines": {}, "_stale": True}

    def clear(self) -> None:
        """Forget all points. A figure that this board has made stays as it is."""
        self.data: dict[str, list[Point]] = {}
        self._waiting: dict[str, list[tuple]] = {}
        self._pause_until = 0.0
        if self._mine is None:
            for line in getattr(self, "_lines", {}).values():
                line.remove()
        else:
            self.fig = self.axes = self._mine = None
        self._lines: dict = {}

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
        self._stale = True
        if self.display and (time.monotonic() > self._pause_until or self._is_closed()):
            self._show_now()

    def show(self) -> None:
        """Bring the picture up to date now, if there is one; it costs some milliseconds."""
        if self.display and self._stale:
            self._show_now()

    def figure(self):
        """Return the Matplotlib figure, with all points."""
        from matplotlib import pyplot as plt

        if self._is_closed():
            self.fig = self.axes = self._mine = None
        if self.axes is None:
            if self.fig is None:
                self.fig = self._mine = plt.figure(figsize=self.figsize)
            self.axes = self.fig.gca()
            self._lines, self._stale = {}, True
        figure = self.fig or self.axes.figure
        self._plot_late(figure)
        self._plot()
        return figure

    def _is_closed(self):  # by a reader, or at the end of its cell
        from matplotlib import pyplot as plt

        return self._mine is not None and not plt.fignum_exists(self._mine.number)

    def _plot_late(self, figure):
        # Curves are plotted when the figure is drawn: not once per point, and yet none is missing
        # from what is shown or saved, whoever does it.
        if figure is self._late:
            return
        self._late, draw = figure, figure.draw

        def draw_with_all_points(renderer):
            if figure is (self.fig or self.axes.figure):
                self._plot()
            draw(renderer)

        figure.draw = draw_with_all_points

    def _plot(self):
        if not self._stale:
            return
        self._stale, axes = False, self.axes
        axes.set(xlabel=self.xlabel, ylabel=self.ylabel, xscale=self.xscale, yscale=self.yscale)
        for i, (label, points) in enumerate(self.data.items()):
            if points and label not in self._lines:
                style = {
                    "ls": self.ls[i % len(self.ls)],
                    "color": self.colors[i % len(self.colors)],
                }
                (self._lines[label],) = axes.plot([], [], label=label, **style)
                axes.legend()
            if points:
                self._lines[label].set_data(*zip(*points, strict=True))
        axes.relim()
        axes.autoscale_view()
        axes.set(**{k: v for k, v in {"xlim": self.xlim, "ylim": self.ylim}.items() if v})

    def _show_now(self):
        try:
            from matplotlib import pyplot as plt
        except ImportError:  # training goes without pictures
            return
        start = time.monotonic()
        figure = self.figure()
        # A front end with a reader takes input; programs that run notebooks say that they do not.
        if "inline" in plt.get_backend() and getattr(_kernel(), "_allow_stdin", False):
            self._grow(figure)
        # So drawing takes a tenth of the time at most.
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


def _kernel():
    """Return the notebook's kernel, or None in a script or a terminal."""
    ipython = sys.modules.get("IPython")  # if it is not loaded, this is no notebook
    return getattr(ipython.get_ipython(), "kernel", None) if ipython else None


def progress_options() -> dict:
    """Return tqdm's options: no bar in a notebook, where the picture grows and stderr is stored."""
    return {"disable": True} if _kernel() else {}
