"""What all tests of the library share."""

import sys

import pytest


@pytest.fixture(autouse=True)
def figures_are_closed():
    """Closes the figures that trainings leave for a script to show."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
