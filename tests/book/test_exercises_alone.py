"""The notebooks for a class hold the exercise and none of its answers, and run."""

import importlib.util

import nbformat
import pytest
from test_notebooks import NOTEBOOKS, ROOT, read

spec = importlib.util.spec_from_file_location(
    "exercises_alone", ROOT / "book/_extensions/exercises_alone.py"
)
alone = importlib.util.module_from_spec(spec)
spec.loader.exec_module(alone)

EXERCISES = [path for path in NOTEBOOKS if read(path).cells[0].source.startswith("# Exercise ")]
EXERCISES = [path for path in EXERCISES if path.parent.name == "book"]


@pytest.mark.parametrize("path", EXERCISES, ids=lambda path: path.stem)
def test_the_exercise_is_there_and_its_answer_is_not(path):
    page, nb = read(path), alone.exercise_alone(read(path))
    nbformat.validate(nb)
    text = "\n".join(cell.source for cell in nb.cells)
    assert page.cells[0].source.splitlines()[0] in text
    assert "Hint 1" in text and "## Check yourself" in text
    assert "**Answer" not in text and "grader" not in text
    assert "<summary>" not in text.replace("<summary>Hint", "")
    for cell in nb.cells:
        if cell.cell_type == "code":
            exec(cell.source, {})
