"""Guards of the notebooks: what `pytest --nbval` does not look at, or lets pass without a word.

A guard takes a notebook and returns its complaints. `pytest tests/book/test_notebooks.py -k flops`
runs all guards on book/flops.ipynb; each guard is itself run on a notebook that breaks its rule.
"""

import ast
import importlib.util
import re
from collections import Counter
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from nbval.plugin import find_comment_markers, find_metadata_tags, get_sanitize_patterns

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "book"
NOTEBOOKS = sorted(BOOK.glob("*.ipynb")) + sorted(BOOK.glob("studies/*.ipynb"))
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}

# Cells, by notebook, whose output nbval is told not to compare. Each stands here for a reason.
UNCHECKED = {}
SANITIZE_RULES = 1


def load(name):
    """Imports a script of the repository that lies in no package."""
    spec = importlib.util.spec_from_file_location(f"script_{Path(name).stem}", ROOT / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


differing_pictures = load("conftest.py").differing_pictures  # nbval calls it
with_captions = load("book/captions.py").with_captions
alone = load("book/_extensions/exercises_alone.py")


def name_of(path):
    """The name of a page as _toc.yml and the built book have it: book/studies/heads."""
    return path.relative_to(ROOT).with_suffix("").as_posix()


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(nb):
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def texts(cell):
    """Yields (MIME type, text) for each text that the cell has stored."""
    for output in cell.outputs:
        if output.output_type == "stream":
            yield "text/plain", output.text
        for mime, data in output.get("data", {}).items():
            if mime.startswith("text/"):
                yield mime, data


# --- The guards -------------------------------------------------------------------------------


def was_run_from_top_to_bottom(nb):
    counts = [cell.execution_count for cell in code_cells(nb)]  # nbval passes null counts unchecked
    return [] if counts == list(range(1, len(counts) + 1)) else [f"execution counts are {counts}"]


def has_the_kernel_of_all(nb):
    kernel = nb.metadata.get("kernelspec")
    return [] if kernel == KERNEL else [f"kernelspec is {kernel}"]


def stores_no_error(nb):
    return [
        f"cell {cell.execution_count} stores {output.get('name', 'error')}"
        for cell in code_cells(nb)
        for output in cell.outputs
        if output.output_type == "error" or output.get("name") == "stderr"
    ]


# A timing that is recorded in book/results may be shown; one taken by the cell itself differs at
# each run, and these are the forms in which IPython and tqdm print it.
TRANSIENT = {
    "an ANSI code": r"\x1b\[",
    "a memory address": r"\b0x[0-9a-fA-F]{6,}",
    "a timing": r"CPU times:|Wall time:|per loop\b|\d ?it/s|\ds/it",
    "an absolute path": r"(?:^|[\s\"'(=])(?:file://)?/(?:[\w.+-]+/){2,}|\b[A-Z]:\\",
}


def stores_nothing_transient(nb):
    return [
        f"cell {cell.execution_count} stores {what}: {match[0].strip()!r}"
        for cell in code_cells(nb)
        for _, text in texts(cell)
        for what, pattern in TRANSIENT.items()
        if (match := re.search(pattern, text, re.MULTILINE))
    ]


def keeps_to_100_columns(nb):
    return [
        f"cell {cell.execution_count} prints {len(line)} columns: {line[:40]!r}"
        for cell in code_cells(nb)
        for mime, text in texts(cell)
        if mime == "text/plain"
        for line in text.splitlines()
        if len(line) > 100
    ]


def ends_no_cell_with_semicolon(nb):
    return [
        f"cell {cell.execution_count} ends with ';': write `_ = ...`"  # nbval stumbles over it
        for cell in code_cells(nb)
        if cell.source.rstrip().endswith(";")
    ]


def stores_no_svg(nb):
    return [
        f"cell {cell.execution_count} stores SVG"  # never twice the same
        for cell in code_cells(nb)
        for output in cell.outputs
        if "image/svg+xml" in output.get("data", {}) or "<svg" in str(output.get("data", ""))
    ]


def describes_each_picture(nb):
    """Alt text, caption and name stand in the metadata of the cell, where myst-nb looks."""
    complaints = []
    for cell in code_cells(nb):
        pictures = [out for out in cell.outputs if "image/png" in out.get("data", {})]
        if not pictures:
            continue
        shown = cell.metadata.get("mystnb", {})
        alt = shown.get("image", {}).get("alt", "")
        figure = shown.get("figure", {})
        where = f"cell {cell.execution_count}"
        if len(pictures) > 1:
            complaints.append(f"{where} has {len(pictures)} pictures for one description")
        if len(alt) < 30:
            complaints.append(f"{where}: the alt text {alt!r} does not say what is seen")
        if not figure.get("caption") or figure["caption"] == alt:
            complaints.append(f"{where} has no caption of its own")
        if not figure.get("name", "").startswith("fig-"):
            complaints.append(f"{where} has no name that starts with 'fig-'")
    return complaints


def is_plain_markdown(nb):
    """JupyterLab and code hosts show MyST's directives and roles as they are typed."""
    return [
        f"MyST in Markdown: {match[0]!r}"
        for cell in nb.cells
        if cell.cell_type == "markdown"
        for match in re.finditer(r"^(?::{3,}|`{3,})\{.*|\{[\w:+-]+\}`", cell.source, re.MULTILINE)
    ]


def keeps_folds_apart(nb):
    """JupyterLab shows what a fold holds if the fold begins on the line after another's end."""
    return [
        f"no blank line before {match[1]!r}"
        for cell in nb.cells
        for match in re.finditer(r"</details>\n(<details.*)", cell.source)
    ]


def is_plain_python(nb):
    """A misspelt magic only warns, and `%%script` may hide a failing assert: none is allowed."""
    complaints = []
    for cell in code_cells(nb):
        try:
            ast.parse(cell.source)
        except SyntaxError as error:
            complaints.append(f"cell {cell.execution_count}: {(error.text or '').strip()!r}")
        if "get_ipython" in cell.source:
            complaints.append(f"cell {cell.execution_count} calls get_ipython")
    return complaints


def folds_hidden_code_in_jupyterlab_too(nb):
    """The book goes by the tag, JupyterLab by the metadata."""
    return [
        f"cell {cell.execution_count} lacks 'jupyter': {{'source_hidden': true}}, or its tag"
        for cell in code_cells(nb)
        if bool({"hide-input", "hide-cell", "remove-cell"} & set(cell.metadata.get("tags", [])))
        != cell.metadata.get("jupyter", {}).get("source_hidden", False)
    ]


def lets_only_live_training_vary(nb):
    """The tag has nbval compare a picture only roughly: a curve of a training in the notebook."""
    trains = False
    complaints = []
    for cell in code_cells(nb):
        trains |= "fit(" in cell.source or "backward(" in cell.source
        if "picture-varies" in cell.metadata.get("tags", []) and not trains:
            complaints.append(
                f"cell {cell.execution_count} has a picture that varies for no reason"
            )
    return complaints


def shows_captions_outside_the_book_too(nb):
    shown, wanted = ([cell.source for cell in cells] for cells in (nb.cells, with_captions(nb)))
    return [] if shown == wanted else ["captions are not what book/captions.py writes"]


def says_how_to_get_the_package(nb):
    """An exercise may be opened by itself, as in Colab."""
    if not alone.is_exercise(nb) or nb == alone.page_alone(nb, alone.stored_address()):
        return []
    return ["the cell that `make address` writes is another, or is not there"]


GUARDS = [
    says_how_to_get_the_package,
    was_run_from_top_to_bottom,
    has_the_kernel_of_all,
    stores_no_error,
    stores_nothing_transient,
    keeps_to_100_columns,
    ends_no_cell_with_semicolon,
    stores_no_svg,
    describes_each_picture,
    is_plain_markdown,
    keeps_folds_apart,
    is_plain_python,
    folds_hidden_code_in_jupyterlab_too,
    lets_only_live_training_vary,
    shows_captions_outside_the_book_too,
]


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, guard):
    assert guard(read(path)) == []


# --- The guards bite --------------------------------------------------------------------------

PICTURE = {
    "image": {"alt": "Two curves that cross at the fourth epoch."},
    "figure": {"caption": "Loss by epoch.", "name": "fig-loss"},
}


def stream(text, name="stdout"):
    return new_output("stream", text=text, name=name)


def shown(**data):
    return new_output("display_data", data={key.replace("_", "/"): v for key, v in data.items()})


def small_notebook():
    """A notebook with nothing to complain of: text, a printed number, a table, a picture."""
    nb = new_notebook(metadata={"kernelspec": KERNEL})
    nb.cells = [
        new_markdown_cell(
            "# A study\nThe table of [the paper](https://example.org/) has $1\\,000$ classes."
        ),
        new_code_cell("print(512 * 7 * 7)", outputs=[stream("25088\n")]),
        new_code_cell("classes = 1_000", outputs=[shown(text_html="<td>3.14</td>")]),
        new_code_cell(
            "plot()", outputs=[shown(image_png="iVBORw==")], metadata={"mystnb": PICTURE}
        ),
    ]
    for count, cell in enumerate(code_cells(nb), start=1):
        cell.execution_count = count
    nb.cells = with_captions(nb)
    return nb


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
def test_guard_lets_a_good_notebook_pass(guard):
    assert guard(small_notebook()) == []


def source(text, cell=0):
    return lambda nb: nb.cells[cell].update(source=text)


def prints(text, name="stdout"):
    return lambda nb: nb.cells[1].update(outputs=[stream(text, name)])


def mystnb(**metadata):
    return lambda nb: nb.cells[3].update(metadata={"mystnb": PICTURE | metadata})


def elsewhere(nb):
    nb.cells[0].source = "# Exercise 1"
    nb.cells.insert(1, alone.get_the_package("https://github.com/someone/else"))


def marked(**metadata):
    return lambda nb: nb.cells[1].update(metadata=metadata)


@pytest.mark.parametrize(
    ("guard", "spoil", "complaint"),
    [
        (says_how_to_get_the_package, source("# Exercise 1"), "make address"),
        (says_how_to_get_the_package, elsewhere, "make address"),
        (was_run_from_top_to_bottom, lambda nb: nb.cells[1].update(execution_count=None), "None"),
        (was_run_from_top_to_bottom, lambda nb: nb.cells[1].update(execution_count=7), "7, 2, 3"),
        (has_the_kernel_of_all, lambda nb: nb.metadata.pop("kernelspec"), "None"),
        (stores_no_error, prints("UserWarning", "stderr"), "stderr"),
        (stores_no_error, lambda nb: nb.cells[1].update(outputs=[new_output("error")]), "error"),
        (stores_nothing_transient, prints("\x1b[31mred\x1b[0m"), "ANSI"),
        (stores_nothing_transient, prints("<Conv2d at 0x7f3a5c0d1e80>"), "address"),
        (stores_nothing_transient, prints("Wall time: 3 s"), "timing"),
        (stores_nothing_transient, prints("100%| 10/10 [00:01, 9.5it/s"), "timing"),
        (stores_nothing_transient, prints("saved in '/home/ann/book/x.pt'"), "path"),
        (stores_nothing_transient, prints(r"saved in C:\book"), "path"),
        (keeps_to_100_columns, prints("x" * 101), "101 columns"),
        (ends_no_cell_with_semicolon, source("plot();\n", cell=1), "';'"),
        (stores_no_svg, lambda nb: nb.cells[1].outputs.append(shown(text_html="<svg/>")), "SVG"),
        (describes_each_picture, lambda nb: nb.cells[3].metadata.clear(), "alt text ''"),
        (describes_each_picture, mystnb(image={"alt": "image"}), "alt text 'image'"),
        (describes_each_picture, mystnb(figure={"name": "fig-loss"}), "no caption"),
        (describes_each_picture, mystnb(figure={"caption": "Loss.", "name": "x"}), "no name"),
        (
            describes_each_picture,
            lambda nb: nb.cells[3].update(outputs=nb.cells[3].outputs * 2),
            "2",
        ),
        (is_plain_markdown, source(":::{note}\nSee.\n:::"), "{note}"),
        (is_plain_markdown, source("See {numref}`fig-loss`."), "{numref}"),
        (keeps_folds_apart, source("<details>\n\n</details>\n<details>"), "blank line"),
        (is_plain_python, source("%notmagic\nassert 1 == 2", cell=1), "%notmagic"),
        (is_plain_python, source("%%script false --no-raise-error", cell=1), "%%script"),
        (is_plain_python, source("!ls", cell=1), "!ls"),
        (is_plain_python, source("get_ipython().run_cell('!ls')", cell=1), "get_ipython"),
        (folds_hidden_code_in_jupyterlab_too, marked(tags=["hide-input"]), "source_hidden"),
        (folds_hidden_code_in_jupyterlab_too, marked(tags=["hide-cell"]), "source_hidden"),
        (folds_hidden_code_in_jupyterlab_too, marked(jupyter={"source_hidden": True}), "tag"),
        (shows_captions_outside_the_book_too, mystnb(figure={"caption": "Else."}), "captions"),
        (shows_captions_outside_the_book_too, lambda nb: nb.cells.pop(), "captions"),
        (lets_only_live_training_vary, marked(tags=["picture-varies"]), "varies"),
    ],
)
def test_guard_bites(guard, spoil, complaint):
    nb = small_notebook()
    spoil(nb)
    assert any(complaint in text for text in guard(nb))


# --- The book as a whole ----------------------------------------------------------------------


def toc_files(node):
    """Every `root:` and `file:` of _toc.yml, in reading order."""
    if isinstance(node, list):
        return [file for child in node for file in toc_files(child)]
    if isinstance(node, dict):
        own = [node[key] for key in ("root", "file") if key in node]
        return own + [file for child in node.values() for file in toc_files(child)]
    return []


def test_table_of_contents_lists_each_notebook_once():
    listed = Counter(toc_files(yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))))
    notebooks = {name_of(path) for path in NOTEBOOKS}
    assert notebooks <= set(listed)
    assert set(listed.values()) == {1}


def test_names_of_figures_are_unique():
    names = Counter(
        cell.metadata["mystnb"]["figure"]["name"]
        for path in NOTEBOOKS
        for cell in code_cells(read(path))
        if "figure" in cell.metadata.get("mystnb", {})
    )
    assert [name for name, times in names.items() if times > 1] == []


# --- nbval sees what it should ----------------------------------------------------------------


class Collector:
    """Counts the cells that nbval collects, by notebook."""

    def pytest_collection_modifyitems(self, items):
        cells = (item for item in items if hasattr(item, "cell"))
        self.cells = Counter(item.path.relative_to(ROOT).as_posix() for item in cells)


def test_nbval_collects_every_code_cell(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    collector = Collector()
    # Of the two folders that are collected the tests take long to import, and are not asked for.
    options = ["--nbval", "--collect-only", "-q", "--ignore=tests", "-p", "no:xdist"]
    pytest.main([*options, "-p", "no:cacheprovider"], plugins=[collector])
    cells = {path.relative_to(ROOT).as_posix(): len(code_cells(read(path))) for path in NOTEBOOKS}
    assert collector.cells == cells, capsys.readouterr().out


def is_unchecked(cell):
    markers = {*find_comment_markers(cell.source), *find_metadata_tags(cell.metadata)}
    return bool(markers & {("check", False), ("skip", True)})


def test_nbval_passes_over_no_more_cells_than_listed():
    passed_over = {
        name_of(path): sum(map(is_unchecked, code_cells(read(path)))) for path in NOTEBOOKS
    }
    assert {name: cells for name, cells in passed_over.items() if cells} == UNCHECKED


def test_an_unchecked_cell_is_noticed():
    assert is_unchecked(new_code_cell("# NBVAL_IGNORE_OUTPUT\nprint(1)"))
    assert is_unchecked(new_code_cell("print(1)", metadata={"tags": ["nbval-skip"]}))
    assert not is_unchecked(new_code_cell("print(1)", metadata={"tags": ["hide-input"]}))


def test_nbval_reads_every_sanitize_rule():
    text = (ROOT / "tests/nbval_sanitize.cfg").read_text("utf-8")
    assert len(get_sanitize_patterns(text)) == text.count("\nregex") == SANITIZE_RULES
