"""What nbval compares in this book: every kind of output, pictures too, with one worker or two."""

import base64
import io
import re
import shutil
import subprocess
import sys

import matplotlib.pyplot as plt
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from test_notebooks import KERNEL, ROOT, code_cells, differing_pictures, read, stream


@pytest.fixture
def project(tmp_path):
    """A folder with the settings that the book is checked with."""
    for name in ("pyproject.toml", "conftest.py", "tests/nbval_sanitize.cfg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "book").mkdir()
    return tmp_path


def failures(notebook, *options, cwd):
    """Runs `pytest --nbval`; returns the numbers of the cells that failed."""
    command = [sys.executable, "-m", "pytest", "--nbval", "--color=no", "-q", notebook, *options]
    output = subprocess.run(command, cwd=cwd, capture_output=True, encoding="utf-8").stdout
    assert " passed" in output, output
    return sorted(int(n) for n in re.findall(r"^FAILED \S+::Cell (\d+)", output, re.MULTILINE))


def png(draw):
    fig, ax = plt.subplots()
    draw(ax)
    file = io.BytesIO()
    fig.savefig(file, format="png", bbox_inches="tight")  # as the notebooks' backend does
    plt.close(fig)
    return base64.b64encode(file.getvalue()).decode()


def result(**data):
    data = {key.replace("_", "/"): value for key, value in data.items()}
    return new_output("execute_result", data=data, execution_count=1)


def bars(heights):
    picture, text = png(lambda ax: ax.bar([0, 1], heights)), "<Figure size 640x480 with 1 Axes>"
    return new_output("display_data", data={"image/png": picture, "text/plain": text})


HTML = "from IPython.display import HTML\nHTML('<b>9220480</b>')"
PLAIN = "<IPython.core.display.HTML object>"
PLOT = "import matplotlib.pyplot as plt\nfig, ax = plt.subplots()\n_ = ax.bar([0, 1], [5, 3])"
CELLS = [  # of each pair the second stores something else than what comes out
    ("n = 9220480\nprint(n)", lambda: stream("9220480\n")),
    ("print(n)", lambda: stream("9220481\n")),
    ("9220480", lambda: result(text_plain="9220480")),
    ("9220480", lambda: result(text_plain="9220481")),
    (HTML, lambda: result(text_plain=PLAIN, text_html="<b>9220480</b>")),
    (HTML, lambda: result(text_plain=PLAIN, text_html="<b>9220481</b>")),
    ("print('Python 3.11.7')", lambda: stream("Python 3.13.0\n")),  # by the sanitize rule
    ("print('Python 3.14.0')", lambda: stream("Python 3.13.0\n")),
    (PLOT, lambda: bars([5, 3])),
    (PLOT, lambda: bars([5, 4])),
]


@pytest.mark.slow
def test_nbval_compares_every_kind_of_output(project):
    """From another folder than the project's, and with two workers."""
    nb = new_notebook(metadata={"kernelspec": KERNEL})
    nb.cells = [new_code_cell(src, outputs=[out()], execution_count=1) for src, out in CELLS]
    nbformat.write(nb, project / "book/small.ipynb")
    assert failures("small.ipynb", "-n2", cwd=project / "book") == [1, 3, 5, 7, 9]


@pytest.mark.parametrize(
    ("draw", "differs", "differs_much"),
    [
        (lambda ax: ax.bar([0, 1], [5, 3]), False, False),
        (lambda ax: ax.bar([0, 1], [5, 3.2]), True, False),
        (lambda ax: ax.bar([0, 1], [5, 3]) and ax.set_title("7"), True, False),
        (lambda ax: ax.set_facecolor("red"), True, True),
    ],
)
def test_a_picture_of_something_else_is_noticed(draw, differs, differs_much):
    stored = [bars([5, 3])]
    drawn = [new_output("display_data", data={"image/png": png(draw)})]
    assert bool(differing_pictures(stored, drawn)) == differs
    assert bool(differing_pictures(stored, drawn, varies=True)) == differs_much
    assert differing_pictures(stored, []) != []


@pytest.mark.slow
def test_nbval_notices_one_altered_digit_in_the_book(project):
    nb = read(ROOT / "book/parameters.ipynb")
    printed = ((i, out) for i, cell in enumerate(code_cells(nb)) for out in cell.outputs)
    number, output = next((i, out) for i, out in printed if re.search(r"\d{3}\b", str(out)))
    stored = output if output.output_type == "stream" else output.data
    key = next(k for k in ("text", "text/html", "text/plain") if k in stored)
    stored[key] = re.sub(r"(\d\d)(\d)\b", lambda m: m[1] + str(9 - int(m[2])), stored[key], count=1)
    nbformat.write(nb, project / "book/parameters.ipynb")
    assert failures("book/parameters.ipynb", cwd=project) == [number]
