"""The exercise pages without what answers them: notebooks for a class, beside the built pages."""

import re
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

BOOK = Path(__file__).parents[1]
ANSWER = re.compile(r"^(?:\*\*(?:Short a|A)nswer|## )", re.MULTILINE)
FOLDED = re.compile(r"<details>\s*<summary>(?!Hint).*?</details>\s*", re.DOTALL)
CHECK = re.compile(r"^## Check yourself$.*?(?=^## )", re.MULTILINE | re.DOTALL)


def exercise_alone(nb):
    """Return a notebook with the exercise, its hints, the questions to check oneself, and room."""
    text = "\n\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    exercise = ANSWER.split(text, maxsplit=1)[0]
    questions = FOLDED.sub("", match[0]) if (match := CHECK.search(text)) else ""
    cells = [new_markdown_cell(exercise.strip())]
    cells += [new_code_cell("import d2l_utils as d2l"), new_markdown_cell("**Your answer.**")]
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


def setup(app):
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
