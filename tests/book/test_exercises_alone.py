"""The notebooks for a class hold the exercise and none of its answers, and run."""

import os
import re
import subprocess
import sys

import nbformat
import pytest
from test_notebooks import NOTEBOOKS, alone, read

from d2l_utils.fashion_mnist_files import find_folder

EXERCISES = [path for path in NOTEBOOKS if alone.is_exercise(read(path))]


@pytest.mark.parametrize("path", EXERCISES, ids=lambda path: path.stem)
def test_the_exercise_is_there_and_its_answer_is_not(path):
    page, nb = read(path), alone.exercise_alone(read(path), "")
    nbformat.validate(nb)
    text = "\n".join(cell.source for cell in nb.cells)
    assert page.cells[0].source.splitlines()[0] in text
    assert "Hint 1" in text and "## Check yourself" in text
    assert "**Answer" not in text and "grader" not in text
    assert "<summary>" not in text.replace("<summary>Hint", "")
    assert not has_more(nb)
    for cell in nb.cells:
        if cell.cell_type == "code":
            exec(cell.source, {})


def has_more(nb):
    """Tells whether a class would get more than the exercise, its hints and numbered questions."""
    exercise, _, questions = (cell.source for cell in nb.cells if cell.cell_type == "markdown")
    behind_the_hints = exercise.rsplit("</details>", 1)[-1].strip()
    lines = filter(None, questions.splitlines()[1:])
    numbered = (re.match(rf"\W*{i}\.", line) for i, line in enumerate(lines, start=1))
    return bool(behind_the_hints) or not all(numbered)


@pytest.mark.parametrize("path", EXERCISES, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    ("mark", "fault"),
    [(r"\*\*Answer\.", "**Solution."), ("<details>\\s*<summary>(?!Hint).*</summary>", "")],
    ids=["the answer", "a fold"],
)
def test_an_answer_that_lost_its_mark_is_noticed(path, mark, fault):
    page = read(path)
    for cell in page.cells:
        cell.source = re.sub(mark, fault, cell.source)
    assert has_more(alone.exercise_alone(page, ""))


def run(path, folder, **environment):
    """Runs a stored notebook by itself in a folder; returns how that went."""
    nb = read(path)
    where = 'import d2l_utils\nprint("from", d2l_utils.__file__)'
    nb.cells.append(nbformat.v4.new_code_cell(where))
    nbformat.write(nb, folder / "page.ipynb")
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "page.ipynb"]
    command += ["--ExecutePreprocessor.kernel_name=python3", "--output", "run.ipynb"]
    environment = os.environ | {"D2L_DATA": str(find_folder())} | environment
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=350
    )


@pytest.mark.slow
@pytest.mark.parametrize("path", EXERCISES, ids=lambda path: path.stem)
def test_an_exercise_runs_in_an_empty_folder_with_the_wheel_alone(path, installed, tmp_path):
    done = run(path, tmp_path, PYTHONPATH=str(installed))
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"from {installed}" in read(tmp_path / "run.ipynb").cells[-1].outputs[0].text


@pytest.mark.parametrize("path", EXERCISES, ids=lambda path: path.stem)
@pytest.mark.parametrize("repository", ["", "https://github.com/someone/vgg"])
def test_without_the_package_the_first_cell_says_how_to_get_it(monkeypatch, path, repository):
    monkeypatch.setitem(sys.modules, "d2l_utils", None)  # as if it were not installed
    page = alone.page_alone(read(path), repository)
    first = next(cell for cell in page.cells if cell.cell_type == "code")
    with pytest.raises(ModuleNotFoundError, match=f"pip install .*{repository}") as error:
        exec(first.source, {})
    assert "\n" not in str(error.value)
