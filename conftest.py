"""What `pytest --nbval` needs in this book, from whichever folder and with however many workers."""

import base64
import io
from pathlib import Path

import pytest

SANITIZE = Path(__file__).with_name("tests") / "nbval_sanitize.cfg"


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Cells share a kernel: with `-n 2` a notebook goes to one worker as a whole."""
    if getattr(config.option, "numprocesses", None) and config.option.dist == "no":
        config.option.dist = "loadfile"


def pytest_configure(config):
    """A path in addopts would be looked for in the current folder."""
    config.option.nbval_sanitize_with = config.option.nbval_sanitize_with or str(SANITIZE)


def pytest_collectstart(collector):
    """SVG holds random ids, stderr differs by machine: the guards let neither be stored."""
    if collector.path.suffix == ".ipynb" and hasattr(collector, "skip_compare"):
        collector.skip_compare += ("image/svg+xml", "stderr")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Compares the pictures of a cell, which nbval passes over."""
    result = yield
    if getattr(item, "test_outputs", None) is not None and item.options["check"]:
        varies = "picture-varies" in item.cell.metadata.get("tags", [])
        complaints = differing_pictures(item.cell.outputs, item.test_outputs, varies)
        if complaints:
            item.raise_cell_error("Pictures differ", "\n".join(complaints))
    return result


def pictures(outputs):
    return [
        output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})
    ]


def differing_pictures(stored, drawn, varies=False):
    """Complains of pictures that show something else than those stored.

    One version of Matplotlib draws the same everywhere, so that even a digit counts. Where another
    version drew, or a cell's tag says that its picture varies (a live training does), lines may lie
    elsewhere, but most of the picture must be the same.
    """
    stored, drawn = pictures(stored), pictures(drawn)
    if len(stored) != len(drawn):
        return [f"{len(stored)} pictures are stored, {len(drawn)} were drawn"]
    pairs = enumerate(zip(stored, drawn, strict=True))
    found = [(i, *difference(*pair, varies)) for i, pair in pairs if pair[0] != pair[1]]
    return [
        f"picture {i} differs by {by:.3f}, over {limit}" for i, by, limit in found if by > limit
    ]


def difference(stored, drawn, varies):
    """Returns by how much two PNG differ, from 0 to 1, and how much they may."""
    import numpy as np
    from PIL import Image

    stored, drawn = (Image.open(io.BytesIO(base64.b64decode(png))) for png in (stored, drawn))
    same_version = stored.info.get("Software") == drawn.info.get("Software")
    on_white = []
    for picture in (stored, drawn.resize(stored.size)):
        white = Image.new("RGBA", picture.size, "white")
        white.alpha_composite(picture.convert("RGBA"))
        on_white.append(np.asarray(white.convert("RGB"), dtype=np.float32) / 255)
    apart = np.abs(on_white[0] - on_white[1]).mean(axis=2)
    if varies or not same_version:
        return apart.mean(), 0.06
    if stored.size != drawn.size:
        return 1.0, 0.0
    # The mean over a block of 8×8 pixels, about a letter, where it is largest.
    padded = np.pad(apart, [(0, -apart.shape[0] % 8), (0, -apart.shape[1] % 8)])
    blocks = padded.reshape(padded.shape[0] // 8, 8, padded.shape[1] // 8, 8)
    return blocks.mean(axis=(1, 3)).max(), 0.08
