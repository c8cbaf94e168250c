"""The curves and the rows of images, and what a notebook stores of them."""

import asyncio
import copy
import itertools
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from nbclient import NotebookClient
from nbconvert.preprocessors.coalescestreams import CoalesceStreamsPreprocessor
from nbformat.v4 import new_code_cell, new_notebook
from small import Line, fit

import d2l_utils as d2l


def board_of(n=30, **arguments):
    board = d2l.ProgressBoard(**arguments)
    for x in range(n):  # faster than pictures are drawn
        board.draw(x, x**2, "line")
    return board


def points(axes):
    return [line.get_xydata().tolist() for line in axes.lines]


# --- points and figure ------------------------------------------------------------------------


def test_points_are_means_of_every_n():
    board = d2l.ProgressBoard()
    for x in range(5):
        board.draw(x, 10 * x, "line", every_n=2)
    assert board.data["line"] == [(0.5, 5.0), (2.5, 25.0)]  # the fifth waits for a sixth
    assert (board.data["line"][-1].x, board.data["line"][-1].y) == (2.5, 25.0)


def test_tensors_make_points_and_are_not_read_before(monkeypatch):
    board = d2l.ProgressBoard()
    loss = torch.ones(1, requires_grad=True).sum()
    with monkeypatch.context() as patch:  # D2L waits for the device, and plots, at each call
        patch.setattr(plt, "figure", lambda *_, **__: pytest.fail("draw made a figure"))
        patch.setattr(torch.Tensor, "__float__", lambda _: pytest.fail("draw read a tensor"))
        board.draw(torch.tensor(0.0), loss, "loss", every_n=2)
    assert not board._waiting["loss"][0][1].requires_grad  # or each value would keep its graph
    board.draw(torch.tensor(1.0), 2 * loss, "loss", every_n=2)
    assert board.data["loss"] == [(0.5, 1.5)] and type(board.data["loss"][0].y) is float


def test_a_figure_has_one_line_a_curve_however_often_it_is_drawn():
    board = d2l.ProgressBoard("epoch", "loss", [0, 4], [0, 20], figsize=(2, 1))
    for x in range(4):
        board.draw(x, x, "first")
        board.draw(x, x**2, "second", every_n=2)
    figure = board.figure()
    assert board.figure() is figure is board.fig
    (axes,) = figure.axes
    assert points(axes) == [[[x, x] for x in range(4)], [[0.5, 0.5], [2.5, 6.5]]]
    assert [line.get_linestyle() for line in axes.lines] == ["-", "--"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "loss")
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 4), (0, 20))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["first", "second"]
    assert figure.get_size_inches().tolist() == [2, 1]


def test_styles_are_taken_in_turn_and_scales_may_be_changed():
    board = d2l.ProgressBoard(ls=["-"], colors=["C0", "C1"], xscale="log")
    board.yscale = "log"
    for label in "abc":
        board.draw(1, 1, label)
    board.draw(1, 1, "no point yet", every_n=2)  # a warning would be an error here
    (axes,) = board.figure().axes
    assert [line.get_color() for line in axes.lines] == ["C0", "C1", "C0"]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_axes_may_be_given():
    figure, both = plt.subplots(ncols=2)
    boards = [board_of(2, fig=figure, axes=axes) for axes in both]
    figure.canvas.draw()
    assert [points(axes) for axes in both] == [[[[0, 0], [1, 1]]]] * 2
    boards[0].clear()
    assert boards[0].figure() is figure and len(both[0].lines) == 1  # what is drawn stays
    assert d2l.ProgressBoard(axes=both[1]).figure() is figure


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda board: pickle.loads(pickle.dumps(board))])
@pytest.mark.parametrize("given", [False, True])
def test_a_copy_opens_no_figure_of_its_own(copied, given):
    board = board_of(2, fig=plt.figure() if given else None)
    figure, open_figures = board.figure(), plt.get_fignums()
    twin = copied(board)
    assert plt.get_fignums() == open_figures
    assert twin.data == board.data
    assert twin.figure() is not figure and board.figure() is figure
    assert points(twin.figure().axes[0]) == [[[0, 0], [1, 1]]]


def test_a_new_run_gets_a_figure_of_its_own():
    board = board_of(1)
    first = board.figure()
    board.clear()
    assert board.data == {}
    first.canvas.draw()  # it stays as it is
    board.draw(1, 1, "line")
    assert [points(figure.axes[0]) for figure in (first, board.figure())] == [
        [[[0, 0]]],
        [[[1, 1]]],
    ]


def test_a_subclass_may_save_its_hyperparameters_and_no_more():
    class Board(d2l.ProgressBoard):
        def __init__(self, xlabel=None, ylabel="loss", xlim=None, ylim=None, xscale="linear",
                     yscale="linear", ls=("-",), colors=("C3",), fig=None, axes=None,
                     figsize=(3.5, 2.5), display=True):  # fmt: skip
            self.save_hyperparameters()

    board = Board("step")
    board.draw(1, 2, "line")
    assert (board.hparams["xlabel"], board.figure().axes[0].get_ylabel()) == ("step", "loss")


def test_a_subclass_may_save_nothing():
    class Board(d2l.ProgressBoard):
        def __init__(self):
            self.xlabel = "step"

    board = Board()
    board.draw(1, 2, "line")
    assert (board.figure().axes[0].get_xlabel(), board.data["line"]) == ("step", [(1, 2)])


# --- in a script ------------------------------------------------------------------------------


def test_a_figure_that_is_saved_has_all_points(capfd, tmp_path):
    board_of(30)
    assert len(plt.get_fignums()) == 1
    plt.title("of the reader")
    plt.xlim(5, 10)
    plt.savefig(tmp_path / "curves.png")
    assert points(plt.gca()) == [[[x, x**2] for x in range(30)]]
    assert (plt.gca().get_title(), plt.xlim()) == ("of the reader", (5, 10))
    assert capfd.readouterr() == ("", "")


def test_training_leaves_its_curves_for_a_script():
    trainer = fit(Line(), epochs=2)
    curves = {line.get_label(): line.get_ydata()[-1] for line in plt.gca().lines}
    assert curves["val_loss"] == trainer.model.board.data["val_loss"][-1].y
    assert curves["val_loss"] == trainer.history[-1]["val_loss"]
    assert set(curves) == {"train_loss", "val_loss", "val_acc"} and plt.get_fignums() == [1]


@pytest.mark.parametrize("without", ["display", "matplotlib"])
def test_without_display_or_matplotlib_there_are_points_and_no_figure(monkeypatch, without):
    if without == "matplotlib":
        monkeypatch.setitem(sys.modules, "matplotlib", None)
    board = board_of(2, display=without != "display")
    assert board.data["line"] == [(0, 0), (1, 1)] and not plt.get_fignums()


# --- images -----------------------------------------------------------------------------------


def test_show_images():
    images = np.arange(12.0).reshape(3, 2, 2)
    axes = d2l.show_images(images, 1, 4, scale=2)
    assert [len(ax.images) for ax in axes] == [1, 1, 1, 0]
    assert not any(ax.axison for ax in axes)
    assert axes[1].images[0].get_array().tolist() == images[1].tolist()
    assert axes[0].figure.get_size_inches().tolist() == [8, 2]
    images = torch.rand(9, 4, 4, requires_grad=True)
    axes = d2l.show_images(images, 2, 3, titles=list("abcdefghi"))
    assert [ax.get_title() for ax in axes] == list("abcdef")


def test_figures_have_the_books_size(monkeypatch):
    monkeypatch.setitem(plt.rcParams, "figure.figsize", (9, 9))
    d2l.set_figsize()
    assert plt.rcParams["figure.figsize"] == [3.5, 2.5]


def test_while_a_picture_grows_drawing_takes_a_tenth_of_the_time(monkeypatch):
    clock, grown = itertools.count(100), []  # each look at it takes a second
    monkeypatch.setattr("d2l_utils.board.time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr("d2l_utils.board.kernel", lambda: SimpleNamespace(_allow_stdin=True))
    monkeypatch.setattr(plt, "get_backend", lambda: "inline")
    board = d2l.ProgressBoard()
    monkeypatch.setattr(board, "_grow", grown.append)
    for x in range(50):
        board.draw(x, x, "line")
    assert len(grown) == 3  # the 1st, 21st and 41st


# --- in a notebook ----------------------------------------------------------------------------


class Client(NotebookClient):
    watched = False

    async def async_start_new_kernel_client(self, **options):
        client = await super().async_start_new_kernel_client(**options)
        client.allow_stdin = self.watched  # the one difference that a kernel can see
        return client


async def run(folder, cells, watched):
    """Returns the outputs that each cell stores; `watched`: run as by a reader in JupyterLab."""
    notebook = new_notebook(cells=[new_code_cell(source) for source in cells.values()])
    client = Client(notebook, timeout=120, resources={"metadata": {"path": str(folder)}})
    client.watched = watched
    await client.async_execute()
    nbformat.validate(notebook)
    # A busy kernel may send one line in two parts; `make notebooks` puts them together, too.
    notebook, _ = CoalesceStreamsPreprocessor().preprocess(notebook, {})
    return {name: cell.outputs for name, cell in zip(cells, notebook.cells, strict=True)}


DEFINE = f"""
import sys
import torch
import d2l_utils as d2l
from IPython.display import DisplayHandle
sys.path.append({str(Path(__file__).parent)!r})
from small import Line, Random, stop_at

data = Random(n=16, batch_size=4)
torch.manual_seed(0)
grown, update = [], DisplayHandle.update

def spy(handle, figure, **options):
    update(handle, figure, **options)
    grown.append(sum(len(line.get_xdata()) for line in figure.axes[0].lines))

DisplayHandle.update = spy
"""
TRAIN = """
print("before")
d2l.Trainer(max_epochs=3, num_gpus=1).fit(Line(), data)
"""
CELLS = {
    "define": DEFINE,
    "train": TRAIN,
    "interrupt": TRAIN.replace("Line()", "stop_at(Line(), 6, KeyboardInterrupt())"),
    "error": """
print("before")
try:
    d2l.Trainer(max_epochs=3).fit(stop_at(Line(), 6, FloatingPointError("spoilt")), data)
except FloatingPointError as error:
    print(error)
""",
    "no display": """
model = Line()
model.board.display = False
d2l.Trainer(max_epochs=3).fit(model, data)
""",
    "draw": """
grown.clear()
board = d2l.ProgressBoard("x")
for x in range(20):
    board.draw(x, x**2, "square")
    board._pause_until = 0  # as if it were slow
print("before")
""",
    "draw on": """
for x in range(20, 30):
    board.draw(x, x**2, "square")
print("before")
""",
    "saved": """
from matplotlib import pyplot as plt
board.draw(30, 900, "square")
plt.savefig("curves.png")
print("before")
""",
    "grown": "print(*grown or ['nothing'])",
    "svg": "d2l.use_svg_display(); _ = d2l.show_images([[[0, 1]]], 1, 1)",
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folders = [tmp_path_factory.mktemp(name) for name in ("watched", "alone")]

    async def both():
        return await asyncio.gather(*map(run, folders, (CELLS, CELLS), (True, False)))

    return dict(zip((True, False), asyncio.run(both()), strict=True))


def streams_and_figures(outputs):
    figures = [output for output in outputs if output.output_type == "display_data"]
    for figure in figures:
        assert set(figure.data) == {"image/png", "text/plain"} and figure.metadata == {}
        assert figure.data["text/plain"] == "<Figure size 350x250 with 1 Axes>"
    streams = [output for output in outputs if output.output_type == "stream"]
    assert len(streams) + len(figures) == len(outputs)
    assert all(stream.name == "stdout" for stream in streams)
    return "".join(stream.text for stream in streams), [f.data["image/png"] for f in figures]


@pytest.mark.parametrize("name", ["train", "interrupt", "error", "draw", "draw on", "saved"])
def test_a_cell_stores_one_figure_the_same_whether_it_grew_or_not(stored, name):
    text, figures = streams_and_figures(stored[True][name])
    assert text.startswith("before\n") and len(figures) == 1
    assert ("Stopped in epoch 2" in text) == (name == "interrupt")
    assert ("spoilt" in text) == (name == "error")
    assert (text, figures) == streams_and_figures(stored[False][name])


def test_a_picture_grows_while_somebody_looks(stored):
    (counts,), (none,) = ([o.text.split() for o in stored[w]["grown"]] for w in (True, False))
    counts = [int(n) for n in counts]
    assert counts == sorted(counts) and len(counts) > 20
    assert {20, 30} <= set(counts)  # at the end of each cell it is complete
    assert none == ["nothing"]


def test_what_a_board_without_display_and_svg_on_request_store(stored):
    assert stored[True]["no display"] == stored[False]["no display"] == []
    assert [set(o.data) for o in stored[True]["svg"]] == [{"image/svg+xml", "text/plain"}]
