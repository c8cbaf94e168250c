"""The book on paper: one PDF with all chapters, contents and page numbers."""

import re
import subprocess
import sys
import unicodedata

import pytest
import yaml
from pypdf import PdfReader
from test_html import parse
from test_notebooks import ROOT, load, toc_files

pdf = load("book/pdf.py")


def squeezed(text):
    """Without spaces, and without ligatures, which the PDF has."""
    return re.sub(r"\s", "", unicodedata.normalize("NFKC", text))


@pytest.mark.slow
def test_the_pdf_has_every_chapter_where_its_contents_say(book, browser):
    subprocess.run([sys.executable, ROOT / "book/pdf.py"], check=True, timeout=380)
    pages = [page.extract_text() for page in PdfReader(ROOT / "_build/book.pdf").pages]
    assert len(pages) > 100
    names = toc_files(yaml.safe_load((ROOT / "_toc.yml").read_text()))[1:]
    begins = []
    for name in names:
        title = squeezed(parse(book / f"{name}.html").h1.find(string=True))
        begins += map(int, re.findall(rf"^{re.escape(title)}(\d+)$", contents(pages), re.MULTILINE))
        assert squeezed(pages[begins[-1] - 1]).startswith(title), name
    assert len(begins) == len(names) and begins == sorted(begins)
    for number, text in enumerate(pages, start=1):
        assert text.rstrip().splitlines()[-1].strip() == str(number)


def contents(pages):
    """The lines of the first page, each without its spaces."""
    return "\n".join(map(squeezed, pages[0].splitlines()))


def test_without_a_browser_one_line_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="Chromium") as stop:
        pdf.main()
    assert "\n" not in str(stop.value)
