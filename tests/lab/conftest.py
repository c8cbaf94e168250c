"""What all tests of the laboratory share: data that are read once, and grids that are tiny."""

import functools
import os

import pytest
import torch
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


@pytest.fixture
def int8_adds_up():
    """Skips where oneDNN is told to do without VNNI, and then lets sums of bytes overflow.

    PyTorch, which avoids oneDNN on processors without it, does not look at that setting:
    https://github.com/pytorch/pytorch/pull/136942. On such processors int8 is right.
    """
    most = torch.full((32, 32), 127, dtype=torch.int8)
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA")
    if allowed and int(torch._int_mm(most, most).max()) != 32 * 127**2:
        pytest.skip(f"with ONEDNN_MAX_CPU_ISA={allowed} sums of bytes overflow")
