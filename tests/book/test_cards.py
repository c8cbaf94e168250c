"""The stored pictures of the first page are what their script draws."""

import matplotlib.pyplot as plt
import numpy as np
from test_notebooks import BOOK, load

CARDS = BOOK / "cards"


def test_cards_show_what_the_package_counts(tmp_path):
    load("book/cards/draw.py").draw(tmp_path)
    stored = {path.name: plt.imread(path) for path in CARDS.glob("*.png")}
    drawn = {path.name: plt.imread(path) for path in tmp_path.glob("*.png")}
    assert stored.keys() == drawn.keys()
    for name, picture in drawn.items():
        assert picture.shape == stored[name].shape, name
        # Edges of letters may differ by version; a bar of another length differs by far more.
        assert np.abs(picture - stored[name]).mean() < 1e-3, name
