"""The curves and the rows of images, and what a notebook stores of them."""

import asyncio
import copy
import os
import pickle

import matplotlib
import nbformat
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from nbclient import NotebookClient
from nbconvert.preprocessors.coalescestreams import CoalesceStreamsPreprocessor
from nbformat.v4 import new_code_cell, new_notebook

import d2l_utils as d2l
from d2l_utils.board import progress_options


@pytest.fixture(autouse=True)
def no_window():
    matplotlib.use("Agg")
    with matplotlib.rc_context():
        yield
    plt.close("all")


# --- points and figure ------------------------------------------------------------------------


def test_points_are_means_of_every_n():
    board = d2l.ProgressBoard()
    for x in range(5):
        board.draw(x, 10 * x, "line", every_n=2)
    assert board.points("line") == [(0.5, 5.0), (2.5, 25.0)]  # the fifth waits for a sixth


def test_points_may_be_tensors():
    board = d2l.ProgressBoard()
    loss = torch.ones(1, requires_grad=True).sum()
    board.draw(0, loss, "loss", every_n=2)
    board.draw(1, 2 * loss, "loss", every_n=2)
    assert board.points("loss") == [(0.5, 1.5)]
    assert not board._raw["loss"][0][1].requires_grad  # or each point would keep its graph


def test_draw_stores_and_does_nothing_else(monkeypatch):
    # D2L plots all points again at each call, and waits for the device.
    monkeypatch.setattr(plt, "subplots", lambda *_, **__: pytest.fail("draw made a figure"))
    monkeypatch.setattr(torch.Tensor, "item", lambda _: pytest.fail("draw read a tensor"))
    monkeypatch.setattr(torch.Tensor, "__float__", lambda _: pytest.fail("draw read a tensor"))
    d2l.ProgressBoard().draw(0, torch.tensor(1.0), "loss")


def test_unknown_curve_is_an_error_and_makes_none():
    board = d2l.ProgressBoard()
    with pytest.raises(KeyError, match="nothing"):
        board.points("nothing")
    assert not board.figure().axes[0].lines


@pytest.mark.parametrize("every_n", [0, -1])
def test_every_n_below_1(every_n):
    with pytest.raises(ValueError, match=f"every_n is {every_n}; it must be at least 1"):
        d2l.ProgressBoard().draw(0, 0, "line", every_n)


def test_figure_has_one_line_a_curve_however_often_it_is_drawn():
    board = d2l.ProgressBoard("epoch", "loss", [0, 4], [0, 20], "linear", "linear")
    for x in range(4):
        board.draw(x, x, "first")
        board.draw(x, x**2, "second", every_n=2)
    first_figure = board.figure()
    assert board.figure() is first_figure
    (axes,) = first_figure.axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines == {"first": [[x, x] for x in range(4)], "second": [[0.5, 0.5], [2.5, 6.5]]}
    assert [line.get_linestyle() for line in axes.lines] == ["-", "--"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "loss")
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 4), (0, 20))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["first", "second"]


def test_more_curves_than_styles():
    board = d2l.ProgressBoard(ls=["-"], colors=["C0", "C1"])
    for label in "abc":
        board.draw(0, 0, label)
    assert [line.get_color() for line in board.figure().axes[0].lines] == ["C0", "C1", "C0"]


def test_scales_size_and_given_axes():
    board = d2l.ProgressBoard(xscale="log", yscale="log", figsize=(2, 1))
    board.draw(1, 1, "line")
    figure = board.figure()
    assert figure.get_size_inches().tolist() == [2, 1]
    assert (figure.axes[0].get_xscale(), figure.axes[0].get_yscale()) == ("log", "log")
    own_figure, own_axes = plt.subplots()
    board = d2l.ProgressBoard(fig=own_figure, axes=own_axes)
    board.draw(1, 1, "line")
    assert board.figure() is own_figure
    assert len(own_axes.lines) == 1


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda board: pickle.loads(pickle.dumps(board))])
def test_a_copy_opens_no_figure_of_its_own(copied):
    board = d2l.ProgressBoard()
    board.draw(1, 2, "line")
    figure, open_figures = board.figure(), plt.get_fignums()
    twin = copied(board)
    assert plt.get_fignums() == open_figures
    assert twin.points("line") == [(1, 2)]
    assert twin.figure() is not figure and board.figure() is figure


def test_a_curve_without_a_full_chunk_draws_nothing_and_warns_of_nothing():
    board = d2l.ProgressBoard()
    board.draw(0, 0, "line", every_n=2)
    assert not board.figure().axes[0].lines  # a warning would be an error here


def test_clear_forgets():
    board = d2l.ProgressBoard()
    board.draw(0, 0, "line")
    board.clear()
    assert not board.figure().axes[0].lines


def test_show_outside_a_notebook_is_silent(capfd):
    board = d2l.ProgressBoard()
    board.draw(0, 0, "line")
    board.show()
    assert capfd.readouterr() == ("", "")
    assert not plt.get_fignums()


# --- images -----------------------------------------------------------------------------------


def test_show_images_shows_those_that_find_a_place():
    axes = d2l.show_images(torch.rand(9, 4, 4), 2, 3, titles=list("abcdefghi"))
    assert [ax.get_title() for ax in axes] == list("abcdef")
    assert all(len(ax.images) == 1 for ax in axes)


def test_show_images_leaves_places_without_an_image_empty():
    images = np.arange(12.0).reshape(3, 2, 2)
    axes = d2l.show_images(images, 1, 4, scale=2)
    assert [len(ax.images) for ax in axes] == [1, 1, 1, 0]
    assert axes[1].images[0].get_array().tolist() == images[1].tolist()
    assert axes[0].figure.get_size_inches().tolist() == [8, 2]


def test_set_figsize():
    d2l.set_figsize((7, 3))
    assert plt.rcParams["figure.figsize"] == [7, 3]


# --- in a notebook ----------------------------------------------------------------------------


def run(folder, cells, watched=True, disabled=False):
    """Returns the outputs that each cell stores; `watched`: run as by a reader in JupyterLab."""

    class Client(NotebookClient):
        async def async_start_new_kernel_client(self, **options):
            client = await super().async_start_new_kernel_client(**options)
            client.allow_stdin = watched  # the one difference that a kernel can see
            return client

    environment = {k: v for k, v in os.environ.items() if k != "TQDM_DISABLE"}
    environment |= {"TQDM_DISABLE": "1"} if disabled else {}
    notebook = new_notebook(cells=[new_code_cell(source) for source in cells.values()])
    client = Client(notebook, timeout=120, resources={"metadata": {"path": str(folder)}})
    asyncio.run(client.async_execute(env=environment))
    nbformat.validate(notebook)
    # A busy kernel may send one line in two parts; `make notebooks` puts them together, too.
    notebook, _ = CoalesceStreamsPreprocessor().preprocess(notebook, {})
    return {name: cell.outputs for name, cell in zip(cells, notebook.cells, strict=True)}


DEFINE = """
import torch
import d2l_utils as d2l

class Noise(d2l.DataModule):
    batch_size = 4

    def get_dataloader(self, train):
        return self.get_tensorloader([torch.rand(16, 3), torch.arange(16) % 2], train)

class Line(d2l.Classifier):
    lr = 0.1

    def __init__(self, stop=None):
        super().__init__()
        self.net = torch.nn.LazyLinear(2)
        self.stop = stop

    def training_step(self, batch):
        if self.stop and self.trainer.train_batch_idx == 6:
            raise self.stop
        return super().training_step(batch)
"""
TRAIN = """
print("before")
d2l.Trainer(max_epochs=3, num_gpus=1).fit(Line(), Noise())
"""
CELLS = {
    "define": DEFINE,
    "train": TRAIN,
    "interrupt": TRAIN.replace("Line()", "Line(KeyboardInterrupt)"),
    "error": """
print("before")
try:
    d2l.Trainer(max_epochs=3).fit(Line(FloatingPointError("spoilt")), Noise())
except FloatingPointError as error:
    print(error)
""",
    "no display": """
model = Line()
model.board.display = False
d2l.Trainer(max_epochs=3).fit(model, Noise())
""",
    "spy": """
shown = []
put = d2l.ProgressBoard._put
d2l.ProgressBoard._put = lambda *a, **options: (shown.append(str(a[1])), put(*a, **options))
""",
    "spied": TRAIN,
    "shown": "print(*shown, sep='\\n')",
    "svg": "d2l.use_svg_display(); _ = d2l.show_images([[[0, 1]]], 1, 1)",
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return run(tmp_path_factory.mktemp("notebook"), CELLS)


def assert_only_a_figure(outputs, text_after=None):
    kinds = ["stream", "display_data"] + (["stream"] if text_after else [])
    assert [output.output_type for output in outputs] == kinds
    assert (outputs[0].name, outputs[0].text) == ("stdout", "before\n")
    assert set(outputs[1].data) == {"image/png", "text/plain"}
    assert outputs[1].data["text/plain"] == "<Figure size 350x250 with 1 Axes>"
    if text_after:
        assert outputs[2].name == "stdout" and text_after in outputs[2].text


def test_training_stores_one_figure_and_nothing_else(stored):
    assert_only_a_figure(stored["train"])


def test_a_reader_sees_progress_before_the_figure(stored):
    first, *_, shown_at_the_end, last = stored["shown"][0].text.splitlines()
    assert "cpu" in first and "0/12" in first
    assert "█" in shown_at_the_end
    assert "Figure" in last
    assert_only_a_figure(stored["spied"])


def test_an_interrupt_or_an_error_leaves_the_figure(stored):
    assert_only_a_figure(stored["interrupt"], "Stopped in epoch 2")
    assert_only_a_figure(stored["error"], "spoilt")


def test_a_board_without_display_stores_nothing(stored):
    assert stored["no display"] == []


def test_svg_on_request(stored):
    assert [set(output.data) for output in stored["svg"]] == [{"image/svg+xml", "text/plain"}]


@pytest.mark.parametrize(("watched", "disabled"), [(True, True), (False, False)])
def test_without_a_bar_the_stored_outputs_are_the_same(tmp_path, watched, disabled):
    cells = {name: CELLS[name] for name in ("define", "train")}
    assert_only_a_figure(run(tmp_path, cells, watched, disabled)["train"])


def test_in_a_terminal_tqdm_decides():
    assert progress_options(d2l.ProgressBoard()) == {}
    assert progress_options(None) == {}
