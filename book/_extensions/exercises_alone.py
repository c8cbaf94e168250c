"""Exercise notebooks that leave the book: they say how to get the package where it is not there.

As a script it writes the cell that says so into the stored notebooks, above their first code; the
book leaves it out and JupyterLab folds it. The address is Repository in pyproject.toml. A build
with REPOSITORY writes that one into the copies to download. Those for a class have no answers.
"""

import os
import re
import sys
import tomllib
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

BOOK = Path(__file__).parents[1]
ANSWER = re.compile(r"^(?:\*\*(?:Short a|A)nswer|## )", re.MULTILINE)
FOLDED = re.compile(r"<details>\s*<summary>(?!Hint).*?</details>\s*", re.DOTALL)
CHECK = re.compile(r"^## Check yourself$.*?(?=^## )", re.MULTILINE | re.DOTALL)

YOURS = "**Your answer.** Where a question below names a cell or a function, it means yours."

ID = "get-the-package"
FOLDED_CELL = {"jupyter": {"source_hidden": True}, "tags": ["remove-cell"]}
GET = """from importlib.util import find_spec

if not find_spec("d2l_utils"):
    how = '{how}'
    raise ModuleNotFoundError(f"d2l_utils is missing. Get it with: {{how}}")"""


def stored_address():
    """Where pyproject.toml says that the repository is, or nothing."""
    project = tomllib.loads((BOOK.parent / "pyproject.toml").read_text("utf-8"))["project"]
    return project["urls"].get("Repository", "").rstrip("/")


def address():
    return os.environ.get("REPOSITORY", "").rstrip("/") or stored_address()


def get_the_package(repository):
    """Return a cell that in a folder without the package answers with the way to it."""
    how = 'pip install "FOLDER[notebook]", where FOLDER is a copy of its repository'
    if repository:
        how = f'pip install "d2l_utils[notebook] @ git+{repository}"'
    return new_code_cell(GET.format(how=how), id=ID, metadata=FOLDED_CELL)


def is_exercise(nb):
    return nb.cells[0].source.startswith("# Exercise ")


def page_alone(nb, repository):
    """Return the notebook with that cell above its first code, written anew."""
    nb = nbformat.from_dict(nb)
    cell = get_the_package(repository)
    stored = [cell.id for cell in nb.cells]
    if ID in stored:
        nb.cells[stored.index(ID)].update(source=cell.source, metadata=cell.metadata)
    else:
        nb.cells.insert([cell.cell_type for cell in nb.cells].index("code"), cell)
    return nb


def exercise_alone(nb, repository):
    """Return a notebook with the exercise, its hints, the questions to check oneself, and room."""
    text = "\n\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    exercise = ANSWER.split(text, maxsplit=1)[0]
    questions = FOLDED.sub("", match[0]) if (match := CHECK.search(text)) else ""
    cells = [new_markdown_cell(exercise.strip())]
    cells += [get_the_package(repository), new_code_cell("import d2l_utils as d2l")]
    cells += [new_markdown_cell(YOURS)]
    cells += [new_code_cell(), new_markdown_cell(questions.strip()), new_code_cell()]
    for i, cell in enumerate(cells):
        cell.id = f"cell-{i}"
    return new_notebook(cells=cells, metadata={"kernelspec": nb.metadata.kernelspec})


def write_copies(app, exception):
    folder = Path(app.outdir) / "_static" / "exercises"
    folder.mkdir(parents=True, exist_ok=True)
    for path in BOOK.glob("*.ipynb"):
        nb = nbformat.read(path, as_version=4)
        if is_exercise(nb):
            nbformat.write(exercise_alone(nb, address()), folder / path.name)
            copy = Path(app.outdir) / "_sources/book" / path.name
            if copy.exists():
                nbformat.write(page_alone(nb, address()), copy)


def setup(app):
    app.connect("build-finished", write_copies)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def main(paths):
    for path in paths:
        nb = nbformat.read(path, as_version=4)
        if is_exercise(nb):
            nbformat.write(page_alone(nb, stored_address()), path)


if __name__ == "__main__":
    main(sys.argv[1:] or sorted(BOOK.glob("*.ipynb")))
