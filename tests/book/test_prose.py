"""The prose: spelling, and links to elsewhere, by their form; nothing here needs the network."""

import ast
import re
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
from test_notebooks import BOOK, NOTEBOOKS, ROOT, code_cells, read

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(BOOK.glob("**/*.md"))]
PAGES += [BOOK / "references.bib"]
CODE = sorted(ROOT.glob("d2l_*/*.py"))


def prose(path):
    """The words of a page; of a notebook its cells and captions; of a module its docstrings."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        nb = read(path)
        shown = [str(cell.metadata.get("mystnb", "")) for cell in code_cells(nb)]
        return "\n".join([cell.source for cell in nb.cells] + shown)
    if path.suffix == ".py":
        with_docstring = (ast.Module, ast.ClassDef, ast.FunctionDef)
        nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, with_docstring)]
        return "\n".join(ast.get_docstring(node) or "" for node in nodes)
    return text


def misspelt(folder, texts):
    """The complaints about texts, each behind the name that it goes by."""
    for name, text in texts.items():
        (folder / name.replace("/", " ")).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "codespell_lib", "--toml", ROOT / "pyproject.toml", folder]
    lines = subprocess.run(command, capture_output=True, encoding="utf-8").stdout.splitlines()
    return [line.removeprefix(f"{folder}/") for line in lines if "==>" in line]


def test_spelling(tmp_path):
    paths = [*PAGES, *NOTEBOOKS, *CODE]
    texts = {path.relative_to(ROOT).as_posix(): prose(path) for path in paths}
    planted = "the paramters of a network"
    found = misspelt(tmp_path, texts | {"planted": planted})
    assert found == ["planted:1: paramters ==> parameters"]


URL = re.compile(r"https?://[^\s<>\"'`\])}]+")
# How a link has to look by its host; arXiv's, for one, are easily a digit short.
FORMS = {
    "arxiv.org": r"/abs/\d{4}\.\d{4,5}",
    "d2l.ai": r"(/[\w-]+)*/[\w-]+\.html(#[\w-]+)?|/?",
    "github.com": r"/[\w.-]+/[\w.-]+(/(issues|pull)/\d+|/(blob|tree)/.+)?(#[\w-]+)?",
}


def malformed(text):
    """The links that lead nowhere, as far as one can see without following them."""
    found = []
    for url in (match[0].rstrip(".,;:") for match in URL.finditer(text)):
        parts = urlsplit(url)
        form = FORMS.get(parts.netloc.removeprefix("www."), ".*")
        path = parts.path + (f"#{parts.fragment}" if parts.fragment else "")
        if parts.scheme != "https" or "." not in parts.netloc or not re.fullmatch(form, path):
            found.append(url)
    return found


# In the package's code a URL may be made of parts.
@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: path.name)
def test_links_to_elsewhere_are_well_formed(path):
    assert malformed(prose(path)) == []


@pytest.mark.parametrize("page", PAGES[:2], ids=lambda path: path.name)
def test_links_within_the_repository_lead_somewhere(page):
    """The pages of the book are checked as they are built."""
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_a_malformed_link_is_noticed():
    wrong = ["http://d2l.ai/x.html", "https://arxiv.org/abs/1409.15", "https://github.com/pytorch"]
    wrong += ["https://arxiv.org/pdf/1409.1556", "https://localhost/x"]
    good = "https://arxiv.org/abs/1409.1556, https://github.com/pytorch/vision/pull/6936."
    assert malformed(f"{good} <https://d2l.ai/chapter/vgg.html> {'. '.join(wrong)}") == wrong


def test_every_paper_cited_is_among_the_references():
    listed = URL.findall((BOOK / "references.bib").read_text(encoding="utf-8"))
    papers = ("arxiv.org", "papers.nips.cc", "proceedings.mlr.press")
    texts = [prose(path) for path in [*NOTEBOOKS, *BOOK.glob("*.md")]]
    cited = {url for text in texts for url in URL.findall(text) if urlsplit(url).netloc in papers}
    assert cited and cited <= set(listed)
