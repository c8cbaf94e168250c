"""What all tests of the laboratory share: data that are read once, and grids that are tiny."""

import functools

import pytest
from tiny_grid import DEFAULTS, TOP, VARIANT

from d2l_lab import __main__ as command
from d2l_utils import data, fashion_mnist_files

LOAD = functools.cache(fashion_mnist_files.load)


@pytest.fixture(autouse=True, scope="module")
def read_once():
    """Unpacking the data set takes longer than these runs. Other tests read it as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", LOAD)
        yield


@pytest.fixture(autouse=True, scope="module")
def kept():
    """Counts how often memory is to be kept; the process of the tests goes on as it is."""
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "keep_memory", lambda: calls.append(0))
        yield calls


@pytest.fixture
def write(tmp_path):
    """Writes a grid and gives its path."""

    def write(variants=VARIANT, top=TOP, defaults=DEFAULTS, name="tiny"):
        path = tmp_path / f"{name}.toml"
        path.write_text(top + defaults + variants, encoding="utf-8")
        return path

    return write
