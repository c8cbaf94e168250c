"""What all tests of the library share."""

import functools

import matplotlib
import pytest
from matplotlib import pyplot as plt

from d2l_utils import fashion_mnist_files

matplotlib.use("Agg")
load = functools.cache(fashion_mnist_files.load)


@pytest.fixture(autouse=True)
def figures():
    """Closes the figures that trainings leave for a script to show."""
    with matplotlib.rc_context():
        yield
    plt.close("all")


@pytest.fixture(autouse=True)
def files_are_read_once(monkeypatch):
    """Keeps the data set between tests; those of its files put an empty fixture in this place."""
    monkeypatch.setattr("d2l_utils.data.load", load)
