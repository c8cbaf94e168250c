"""Notebooks that leave the book: the exercises without their answers, and the pages' copies.

Both first say how to get the package where it is not there yet.
"""

import os
import re
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

BOOK = Path(__file__).parents[1]
ANSWER = re.compile(r"^(?:\*\*(?:Short a|A)nswer|## )", re.MULTILINE)
FOLDED = re.compile(r"<details>\s*<summary>(?!Hint).*?</details>\s*", re.DOTALL)
CHECK = re.compile(r"^## Check yourself$.*?(?=^## )", re.MULTILINE | re.DOTALL)

GET = """try:
    import d2l_utils
except ModuleNotFoundError:
    raise ModuleNotFoundError("{how}") from None"""


def get_the_package():
    """Return a cell that in a folder without the package answers with the way to it."""
    repository = os.environ.get("REPOSITORY", "").rstrip("/")
    source = f"'d2l_utils[notebook] @ git+{repository}'" if repository else "'FOLDER[notebook]'"
    where = "" if repository else ", where FOLDER is a copy of the book's repository"
    how = f"d2l_utils is missing. Get it with: pip install {source}{where}"
    return new_code_cell(GET.format(how=how), id="get-the-package")


def page_alone(nb):
    """Return the page's notebook with that cell above its first code."""
    nb = nbformat.from_dict(nb)
    kinds = [cell.cell_type for cell in nb.cells]
    nb.cells.insert(kinds.index("code"), get_the_package())
    return nb


def exercise_alone(nb):
    """Return a notebook with the exercise, its hints, the questions to check oneself, and room."""
    text = "\n\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    exercise = ANSWER.split(text, maxsplit=1)[0]
    questions = FOLDED.sub("", match[0]) if (match := CHECK.search(text)) else ""
    cells = [new_markdown_cell(exercise.strip())]
    cells += [get_the_package(), new_code_cell("import d2l_utils as d2l")]
    cells += [new_markdown_cell("**Your answer.**")]
    cells += [new_code_cell(), new_markdown_cell(questions.strip()), new_code_cell()]
    for i, cell in enumerate(cells):
        cell.id = f"cell-{i}"
    return new_notebook(cells=cells, metadata={"kernelspec": nb.metadata.kernelspec})


def write(app, exception):
    folder = Path(app.outdir) / "_static" / "exercises"
    folder.mkdir(parents=True, exist_ok=True)
    for path in BOOK.glob("*.ipynb"):
        nb = nbformat.read(path, as_version=4)
        if nb.cells[0].source.startswith("# Exercise "):
            nbformat.write(exercise_alone(nb), folder / path.name)
            copy = Path(app.outdir) / "_sources/book" / path.name
            if copy.exists():
                nbformat.write(page_alone(nb), copy)


def setup(app):
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
