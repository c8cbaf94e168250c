"""Prints the whole book, one page of HTML, into _build/book.pdf: `make pdf` calls this.

It is printed twice: the first time shows where each chapter begins, the second names the pages in
the contents.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright
from pypdf import PdfReader

ROOT = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# The book's styles give no margins on paper.
A4 = {"format": "A4", "margin": dict.fromkeys(("top", "bottom", "left", "right"), "18mm")}
FOOTER = """<p style="width: 100%; text-align: center; font: 8pt sans-serif">
<span class="pageNumber"></span></p>"""

# The theme's own list of contents, for paper, has no pages.
NAME_PAGES = """pages => document.querySelectorAll("#jb-print-toc a").forEach(link => {
  link.querySelector(".page")?.remove();
  const page = document.createElement("span");
  page.className = "page";
  page.textContent = pages[link.textContent.replace(/\\s/g, "")] ?? "";
  link.append(page);
})"""


def browser_here():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        sys.exit(
            f"The PDF is printed by Chromium, and there is none of {', '.join(BROWSERS)} here."
        )
    return path


def built():
    """Build the book as one page and return it."""
    command = [Path(sys.executable).with_name("jupyter-book"), "build", ROOT, "-q"]
    subprocess.run([*command, "--builder", "singlehtml"], check=True)
    # Sphinx has the page in a folder, and in it paths as from above.
    folder = ROOT / "_build/singlehtml"
    return (folder / "book/index.html").replace(folder / "index.html")


def first_pages(pdf):
    """Where each chapter begins, by its title without spaces: the outline loses some of them."""
    reader = PdfReader(pdf)
    chapters = [item for part in reader.outline for item in part if isinstance(part, list)]
    chapters = [item for item in chapters if not isinstance(item, list)]
    return {
        re.sub(r"\s", "", item.title): reader.get_destination_page_number(item) + 1
        for item in chapters
    }


def write_pdf(html, pdf):
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=browser_here(), args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(300_000)
        page.goto(html.as_uri())
        options = A4 | {"outline": True, "tagged": True, "print_background": True}
        options |= {"display_header_footer": True, "header_template": "<p></p>"}
        pages = {}
        for _ in range(2):
            page.evaluate(NAME_PAGES, pages)
            page.pdf(path=pdf, footer_template=FOOTER, **options)
            pages = first_pages(pdf)
        browser.close()


def main():
    browser_here()  # before the build, which takes a while
    pdf = ROOT / "_build/book.pdf"
    write_pdf(built(), pdf)
    print(f"The book is in {pdf.relative_to(ROOT)}, {len(PdfReader(pdf).pages)} pages.")


if __name__ == "__main__":
    main()
