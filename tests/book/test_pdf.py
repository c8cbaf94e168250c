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
@pytest.mark.timeout(900)  # it builds the book twice, prints it twice
def test_the_pdf_has_every_chapter_where_its_contents_say(book, browser):
    subprocess.run([sys.executable, ROOT / "book/pdf.py"], check=True, timeout=600)
    check(PdfReader(ROOT / "_build/book.pdf").pages, book)


def check(pages, book):
    assert len(pages) > 100
    lines = [line for page in pages[:2] for line in page.extract_text().splitlines()]
    contents = "\n".join(map(squeezed, lines))
    begins = []
    for name in toc_files(yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8")))[1:]:
        title = squeezed(parse(book / f"{name}.html").h1.find(string=True))
        (number,) = re.findall(rf"^{re.escape(title)}(\d+)$", contents, re.MULTILINE)
        text = pages[int(number) - 1].extract_text()
        assert squeezed(text).startswith(title), name
        assert text.split()[-1] == number, name
        begins.append(int(number))
    assert begins == sorted(set(begins))


def test_without_a_browser_one_line_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="Chromium") as stop:
        pdf.main()
    assert "\n" not in str(stop.value)
