"""What several files of tests share: the built pages, and a browser to open them in."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from test_html import HTML, ROOT, parse
from test_notebooks import load

BROWSERS = load("book/pdf.py").BROWSERS
# Chromium asks its makers for updates and lists, which offline only costs time.
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@pytest.fixture(scope="session")
def warnings_of_the_build(tmp_path_factory, worker_id):
    """Builds the book from nothing, once for all workers; returns what it was warned of."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared if worker_id == "master" else shared.parent
    with FileLock(shared / "book.lock"):
        log = shared / "book.log"
        if not log.exists():
            shutil.rmtree(HTML, ignore_errors=True)
            command = [Path(sys.executable).with_name("jupyter-book"), "build", ROOT, "--all", "-q"]
            build = subprocess.run(
                [*command, "-W", "--keep-going"], capture_output=True, encoding="utf-8"
            )
            log.write_text("" if build.returncode == 0 else build.stdout + build.stderr, "utf-8")
    return log.read_text("utf-8")


@pytest.fixture(scope="session")
def book(warnings_of_the_build):
    """The built book, which is looked at even where there were warnings."""
    assert (HTML / "index.html").exists(), warnings_of_the_build
    return HTML


@pytest.fixture(scope="session")
def pages(book):
    """Every page of the book, parsed."""
    paths = [path for path in book.rglob("*.html") if "_static" not in path.parts]
    return {path: parse(path) for path in paths if path.name != "404.html"}


# One module long, since its event loop would stop nbval, which may run in the same process later.
@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        message = f"no browser here: none of {', '.join(BROWSERS)}"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()
