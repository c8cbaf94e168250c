"""The notebooks for a class hold the exercise and none of its answers, and run."""

import importlib.util
import os
import subprocess
import sys

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


def run(path, folder, python_path):
    """Runs a page's copy in a folder, with the package from there only; returns how that went."""
    nb = alone.page_alone(read(path))
    nb.cells = [cell for cell in nb.cells if cell.cell_type == "code"]
    code = f"import d2l_utils; assert d2l_utils.__file__.startswith({str(python_path)!r})"
    nb.cells[1:1] = [nbformat.v4.new_code_cell(code)]
    nbformat.write(nb, folder / "page.ipynb")
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "page.ipynb"]
    command += ["--ExecutePreprocessor.kernel_name=python3", "--output", "run.ipynb"]
    environment = os.environ | {"PYTHONPATH": str(python_path)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=350
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["missing_layers", "parameters"])
def test_a_page_runs_in_an_empty_folder_with_the_wheel_alone(name, installed, tmp_path):
    done = run(ROOT / f"book/{name}.ipynb", tmp_path, installed)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("repository", ["", "https://github.com/someone/vgg"])
def test_without_the_package_the_first_cell_says_how_to_get_it(monkeypatch, repository):
    monkeypatch.setenv("REPOSITORY", repository)
    monkeypatch.setitem(sys.modules, "d2l_utils", None)  # as if it were not installed
    page = alone.page_alone(read(ROOT / "book/parameters.ipynb"))
    first = next(cell for cell in page.cells if cell.cell_type == "code")
    with pytest.raises(ModuleNotFoundError, match=f"pip install .*{repository}") as error:
        exec(first.source, {})
    assert "\n" not in str(error.value)
