"""Pictures: the curves of a training run and rows of images. Matplotlib is imported when drawn."""

import sys
from collections.abc import Sequence

import torch

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
        titles: one title an image.
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


class ProgressBoard:
    """Curves that grow point by point and are drawn once, by `show()`.

    `draw` only stores its point, so it costs nothing however many there are, and a value that
    lives on a GPU is not waited for until the figure is made.

    Args:
        xlabel: label of the horizontal axis.
        ylabel: label of the vertical axis.
        xlim: limits of the horizontal axis, `(low, high)`; None fits them to the points.
        ylim: limits of the vertical axis.
        xscale: "linear", or another scale that Matplotlib knows.
        yscale: likewise.
        ls: line styles, taken in turn.
        colors: colours, taken in turn.
        fig: the Matplotlib figure to draw on.
        axes: its axes; None makes both anew.
        figsize: width and height of the figure, in inches.
        display: whether `show()` shows anything.

    >>> board = ProgressBoard(xlabel="epoch")
    >>> for x in range(4):
    ...     board.draw(x, x**2, "square", every_n=2)
    >>> board.points("square")
    [(0.5, 0.5), (2.5, 6.5)]
    """

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
        self.xlabel, self.ylabel = xlabel, ylabel
        self.xlim, self.ylim = xlim, ylim
        self.xscale, self.yscale = xscale, yscale
        self.ls, self.colors = ls, colors
        self.fig, self.axes, self.figsize = fig, axes, figsize
        self.display = display
        self.clear()

    def __getstate__(self):
        # A copy gets a figure of its own once it draws; a copied one would be shown by itself.
        return {**self.__dict__, "fig": None, "axes": None, "_place": None}

    def clear(self) -> None:
        """Forget all points."""
        self._raw: dict[str, list[tuple]] = {}
        self._every: dict[str, int] = {}
        self._place = None

    def draw(self, x: float, y, label: str, every_n: int = 1) -> None:
        """Add a point; each `every_n` points of a curve are drawn as their mean.

        Raises:
            ValueError: if `every_n` is below 1.
        """
        if every_n < 1:
            raise ValueError(f"every_n is {every_n}; it must be at least 1")
        y = y.detach() if isinstance(y, torch.Tensor) else y
        self._raw.setdefault(label, []).append((x, y))
        self._every[label] = every_n

    def points(self, label: str) -> list[tuple[float, float]]:
        """Return the points `(x, y)` of one curve as they will be drawn.

        Raises:
            KeyError: if there is no such curve.
        """
        raw, n = self._raw[label], self._every[label]
        chunks = [raw[i : i + n] for i in range(0, len(raw) - n + 1, n)]
        return [tuple(sum(float(v) for v in c) / n for c in zip(*ch, strict=True)) for ch in chunks]

    def figure(self):
        """Draw all curves and return the Matplotlib figure."""
        from matplotlib import pyplot as plt

        if self.axes is None:
            self.fig, self.axes = plt.subplots(figsize=self.figsize)
        ax = self.axes
        ax.clear()
        for i, label in enumerate(self._raw):
            if points := self.points(label):
                style = {
                    "ls": self.ls[i % len(self.ls)],
                    "color": self.colors[i % len(self.colors)],
                }
                ax.plot(*zip(*points, strict=True), label=label, **style)
        ax.set(xlabel=self.xlabel, ylabel=self.ylabel, xscale=self.xscale, yscale=self.yscale)
        ax.set(**{k: v for k, v in {"xlim": self.xlim, "ylim": self.ylim}.items() if v})
        if ax.lines:
            ax.legend()
        return self.fig or ax.figure

    def show(self) -> None:
        """Show the figure, once, if this runs in a notebook and there is anything to show.

        It takes the place of the line that `write` has shown, if any.
        """
        if not (self.display and self._raw and _kernel()):
            return
        from matplotlib import pyplot as plt

        figure = self.figure()
        self._put(figure)
        plt.close(figure)  # or the notebook would show it a second time
        self.fig = self.axes = self._place = None

    def write(self, text: str) -> None:
        """Show a line of text where the figure will be; so a progress bar takes this as its file.

        Nothing of it is left in the notebook once the figure is shown.
        """
        if text := text.strip():
            self._put({"text/plain": text}, raw=True)

    def _put(self, content, **options):
        from IPython.display import display

        if self._place is None:
            self._place = display(content, display_id=True, **options)
        else:
            self._place.update(content, **options)


def progress_options(board: ProgressBoard | None) -> dict:
    """Return the arguments that make a tqdm bar leave nothing behind, here and now.

    In a terminal there are none to give. In a notebook that somebody looks at, the bar is written
    to the board, whose figure replaces it; where nobody looks, as in nbconvert, there is no bar.
    """
    kernel = _kernel()
    if kernel is None:
        return {}
    # A front end with a reader takes input; programs that run notebooks say that they do not.
    watched = getattr(kernel, "_allow_stdin", False)
    if watched and board is not None and board.display:
        return {"file": board, "ascii": False}
    return {"disable": True}


def _kernel():
    """Return the notebook's kernel, or None in a terminal."""
    # Asked without importing IPython: if it is not loaded, this is no notebook.
    ipython = sys.modules.get("IPython")
    return getattr(ipython.get_ipython(), "kernel", None) if ipython else None
