"""What tests of the library and of the book share: the package out of its wheel."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

REPOSITORY = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "--no-cache-dir")


def build(wheels):
    """Builds the wheel from a copy, since setuptools leaves files in the folder it builds from."""
    source = wheels / "source"
    for folder in ("d2l_utils", "d2l_lab", "book/results"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / folder, source / folder, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", wheels]
    subprocess.run([*PIP, "wheel", *options, source], check=True, timeout=120)


@pytest.fixture(scope="session")
def installed(tmp_path_factory, worker_id):
    """A folder that the package was installed into from its wheel, once for all workers."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared if worker_id == "master" else shared.parent
    wheels, folder = shared / "wheels", shared / "installed"
    with FileLock(shared / "wheel.lock"):
        if not folder.exists():
            build(wheels)
            options = ["--no-deps", "--no-index", "--root-user-action=ignore", "--target", folder]
            command = [*PIP, "install", *options, *wheels.glob("*.whl")]
            subprocess.run(command, check=True, timeout=120)
    return folder
