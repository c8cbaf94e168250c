"""With its addresses the book has what a public one needs; other tests build it without them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
from test_html import ROOT, parse
from test_notebooks import load

SITE, REPOSITORY = "https://someone.github.io/vgg", "https://github.com/someone/vgg"
SITEMAP = "http://www.sitemaps.org/schemas/sitemap/0.9"
PAGES = ("index", "parameters", "explorer")
TOC = "format: jb-book\nroot: book/index\nchapters:\n"
TOC += "".join(f"  - file: book/{name}\n" for name in PAGES[1:])
INDEX = "# A first page\n\nOne picture.\n\n![Parameters](cards/parameters.png)\n"


def build(folder, **addresses):
    command = [Path(sys.executable).with_name("jupyter-book"), "build", folder, "--all", "-q"]
    environment = os.environ | addresses
    return subprocess.run(
        command, env=environment, capture_output=True, encoding="utf-8", timeout=200
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A book with three pages and all of the real one's settings, whose notebooks name it."""
    folder = tmp_path_factory.mktemp("public")
    for name in ("_config.yml", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name in ("_extensions", "_static", "_templates", "cards"):
        shutil.copytree(ROOT / "book" / name, folder / "book" / name)
    for name in ("parameters.ipynb", "explorer.ipynb", "references.bib"):
        shutil.copy(ROOT / "book" / name, folder / "book")
    (folder / "book/index.md").write_text(INDEX, "utf-8")
    (folder / "_toc.yml").write_text(TOC, "utf-8")
    settings = (folder / "pyproject.toml").read_text("utf-8")
    urls = f'[project.urls]\nRepository = "{REPOSITORY}"'
    (folder / "pyproject.toml").write_text(settings.replace("[project.urls]", urls), "utf-8")
    subprocess.run([sys.executable, folder / "book/_extensions/exercises_alone.py"], check=True)
    return folder


@pytest.fixture(scope="module")
def html(folder):
    built = build(folder, SITE=f"{SITE}/")
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "_build/html"


def test_a_notebook_has_its_buttons(html):
    page = parse(html / "book/parameters.html")
    links = {tag["href"] for tag in page.find(class_="article-header-buttons")("a", href=True)}
    place = "someone/vgg/blob/main/book/parameters.ipynb"
    assert f"https://colab.research.google.com/github/{place}" in links
    binder = "https://mybinder.org/v2/gh/someone/vgg/main?urlpath=lab/tree/book/parameters.ipynb"
    assert {binder, REPOSITORY, f"{REPOSITORY}/edit/main/book/parameters.ipynb"} <= links
    assert any(link.startswith(f"{REPOSITORY}/issues/new") for link in links)


def test_colab_opens_only_what_says_where_the_package_is(html):
    links = [tag["href"] for tag in parse(html / "book/explorer.html")("a", href=True)]
    assert any("mybinder" in link for link in links)
    assert not any("colab" in link for link in links)


def test_a_page_without_code_has_nothing_to_launch(html):
    links = [tag["href"] for tag in parse(html / "book/index.html")("a", href=True)]
    assert REPOSITORY in links and f"{REPOSITORY}/edit/main/book/index.md" in links
    assert not any("colab" in link or "mybinder" in link for link in links)


def test_a_page_says_where_it_stands_and_what_to_show_of_it(html):
    page, url = parse(html / "book/parameters.html"), f"{SITE}/book/parameters.html"
    assert [tag["href"] for tag in page("link", rel="canonical")] == [url]
    card = {tag["property"]: tag["content"] for tag in page("meta", property=True)}
    assert card["og:url"] == url and card["og:title"] == page.h1.find(string=True)
    assert card["og:description"] == page.find("meta", attrs={"name": "description"})["content"]
    assert (html / card["og:image"].removeprefix(f"{SITE}/")).is_file()


def test_a_notebook_to_download_says_where_the_package_is(html):
    for place in ("_sources/book", "_static/exercises", "../../book"):
        cells = nbformat.read(html / place / "parameters.ipynb", as_version=4).cells
        command = f'pip install "d2l_utils[notebook] @ git+{REPOSITORY}"'
        assert any(command in cell.source for cell in cells), place
    assert "find_spec" not in parse(html / "book/parameters.html").main.text


def test_the_sitemap_lists_every_page(html):
    urls = {tag.text for tag in ElementTree.parse(html / "sitemap.xml").iter(f"{{{SITEMAP}}}loc")}
    assert urls == {f"{SITE}/book/{name}.html" for name in PAGES}
    assert [tag["href"] for tag in parse(html / "404.html")("a")] == [f"{SITE}/"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("SITE", "someone.github.io"), ("REPOSITORY", "git@github.com:someone/vgg.git")],
)
def test_a_false_address_is_answered_by_its_name(monkeypatch, name, value):
    monkeypatch.syspath_prepend(ROOT / "book/_extensions")
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        load("book/_extensions/publish.py").configure(None, None)
