"""The notebooks as a reader meets them: in JupyterLab, run from top to bottom in a browser."""

import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from test_notebooks import (
    BOOK,
    GUARDS,
    NOTEBOOKS,
    ROOT,
    code_cells,
    differing_pictures,
    read,
    texts,
)

# The notebook in front, as JupyterLab itself holds it.
NOTEBOOK = "jupyterapp.shell.currentWidget?.content"


# Two run in `make test`; nbval has run every one there already.
QUICK = {"missing_layers", "parameters"}
EACH = [
    pytest.param(path, id=path.stem, marks=[] if path.stem in QUICK else pytest.mark.slow)
    for path in NOTEBOOKS
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="module")
def lab(copy, browser):
    """Runs `make lab` on a copy of the book, with a home of its own; returns its address."""
    for name in ("Makefile", "requirements.txt", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, copy)
    for name in ("book", ".jupyter"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns(".ipynb*"))
    options = "--no-browser --port=0 --LabApp.expose_app_in_browser=True"
    command = ["make", "-o", "data", "lab", f"VENV={sys.prefix}", f"LAB={options}"]
    log = copy / "log"
    with log.open("w", encoding="utf-8") as out:
        server = subprocess.Popen(
            command,
            cwd=copy,
            env=os.environ | {"HOME": str(copy)},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        try:
            yield address(server, log)
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)


def address(server, log):
    """Waits until the server says where it listens."""
    for _ in range(300):
        said = log.read_text("utf-8")
        if found := re.search(r"http://(?:localhost|127\.0\.0\.1):\d+/lab\S*", said):
            return found[0]
        try:
            server.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
        break
    pytest.fail(log.read_text("utf-8"))


@pytest.fixture(scope="module")
def page(browser, lab):
    """JupyterLab in the browser, as a reader finds it who has just started it."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.goto(lab)
    page.get_by_role("heading", name="Exercise 1.1").wait_for()
    yield page
    context.close()


@pytest.fixture
def open_notebook(page):
    """Opens a notebook in a tab and with a kernel of its own, and closes both after the test."""

    def open_notebook(name):
        opened = f"jupyterapp.commands.execute('docmanager:open', {{path: '{name}'}})"
        page.evaluate(f"{opened}.then(() => null)")  # the widget itself cannot be passed on
        ready = f"{NOTEBOOK}?.model && jupyterapp.shell.currentWidget.context?.path == '{name}'"
        page.wait_for_function(ready)
        page.evaluate("jupyterapp.shell.currentWidget.context.ready")
        kernel = "jupyterapp.shell.currentWidget.context.sessionContext.session?.kernel"
        page.wait_for_function(
            f"{kernel}?.status == 'idle' && {kernel}.connectionStatus == 'connected'"
        )

    yield open_notebook
    page.evaluate("jupyterapp.serviceManager.sessions.shutdownAll()")
    # Closing would ask whether to save. With its kernel gone, the first page would be of no use.
    page.evaluate("[...jupyterapp.shell.widgets('main')].forEach(widget => widget.dispose())")


def test_lab_opens_on_the_first_exercise_whose_hints_unfold_with_their_formulas(page):
    hint = page.locator("details", has_text="Hint 1")
    mark = "hint => getComputedStyle(hint.querySelector('summary')).listStyleType"
    assert hint.evaluate(mark) == "disclosure-closed"  # shown, so that one sees what it is
    hint.locator("summary").click()
    hint.locator("mjx-container:visible").first.wait_for()
    assert "\\times" not in hint.inner_text()  # a formula, as typed


def test_the_first_page_shows_its_pictures_in_lab(page):
    page.evaluate(
        "jupyterapp.commands.execute('docmanager:open', {path: 'index.md'}).then(() => null)"
    )
    shown = page.locator(".jp-MarkdownViewer")
    shown.get_by_role("link", name="Must the images be 224×224?").wait_for()
    pictures = "[...document.querySelectorAll('.jp-MarkdownViewer img')]"
    page.wait_for_function(f"{pictures}.every(picture => picture.naturalWidth)")
    assert shown.locator("img").count() == 8
    assert not re.search(r":::|^---|\{", shown.inner_text(), re.MULTILINE)  # as typed, for Sphinx


def run_all(page):
    """Runs all cells and returns them with their outputs, as the browser has them."""
    page.evaluate("jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
    cells = page.evaluate(f"{NOTEBOOK}.model.toJSON().cells")
    return [cell for cell in cells if cell["cell_type"] == "code"]


def errors(cells):
    return [
        (number, output.get("name", output.get("ename")))
        for number, cell in enumerate(cells)
        for output in cell["outputs"]
        if output["output_type"] == "error" or output.get("name") == "stderr"
    ]


@pytest.mark.parametrize("path", EACH)
def test_notebook_runs_in_the_browser_and_stays_whole(page, open_notebook, copy, path):
    """Run and saved by a reader, it still passes what `make test` asks of it."""
    open_notebook(path.relative_to(BOOK).as_posix())
    cells = run_all(page)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert errors(cells) == []

    page.evaluate("jupyterapp.commands.execute('docmanager:save').then(() => null)")
    page.wait_for_function("!jupyterapp.shell.currentWidget.context.model.dirty")
    before, saved = read(path), read(copy / path.relative_to(ROOT))
    for guard in GUARDS:
        assert guard(saved) == guard(before)
    for old, new in zip(code_cells(before), code_cells(saved), strict=True):
        assert list(texts(new)) == list(texts(old))
        varies = "picture-varies" in old.metadata.get("tags", [])
        assert differing_pictures(old.outputs, new.outputs, varies) == []


def test_explorer_is_live_in_lab(page, open_notebook):
    open_notebook("explorer.ipynb")
    page.get_by_role("combobox", name="Network").select_option(label="AlexNet")
    page.get_by_text("46,787,978 parameters").wait_for()


def test_an_error_is_noticed(page, open_notebook):
    open_notebook("reproducing.ipynb")
    # The last: what comes after an error is stopped or run, as it happens to reach the kernel.
    last = f"{NOTEBOOK}.model.sharedModel.cells.findLast(cell => cell.cell_type == 'code')"
    page.evaluate(f"{last}.setSource('1 / 0')")
    cells = run_all(page)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert errors(cells) == [(len(cells) - 1, "ZeroDivisionError")]
