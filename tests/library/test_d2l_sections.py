"""What a reader does who changes one line, the import, and runs the sections' code.

It is in `sections.py`, which `test_beside_d2l.py` holds beside D2L's own package.
"""

import functools

import matplotlib
import pytest
import torch
from sections import SECTIONS, kept, linear_regression_scratch, train_on_few, use_root

import d2l_utils as d2l
from d2l_utils import data as data_module
from d2l_utils import fashion_mnist_files

read_files = functools.cache(fashion_mnist_files.load)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with the four files where torchvision looks for them."""
    folder = tmp_path_factory.mktemp("data")
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in fashion_mnist_files.FILES:
        content = fashion_mnist_files.read_file(fashion_mnist_files.find_folder(), name)
        (raw / name).write_bytes(content)
    return folder


@pytest.fixture(autouse=True)
def as_in_a_notebook_of_its_own(monkeypatch, root):
    """Undoes what a section adds to classes, and reads the data set once for all."""
    classes = (d2l.HyperParameters, d2l.Module, d2l.Classifier, d2l.DataModule, d2l.FashionMNIST)
    classes += (d2l.Trainer, d2l.ProgressBoard, d2l.SyntheticRegressionData)
    monkeypatch.setattr(data_module, "load", read_files)
    matplotlib.use("Agg")
    torch.manual_seed(0)
    with matplotlib.rc_context(), kept(classes):
        use_root(d2l, root)
        yield


@pytest.mark.parametrize("number", SECTIONS)
def test_section(number):
    SECTIONS[number](d2l)


def test_linear_regression_in_our_loop():
    linear_regression_scratch(d2l, own_loop=False)


def test_our_vgg():
    train_on_few(d2l, d2l.VGG(d2l.VGG_NARROW, lr=0.01), batch_size=16, resize=(56, 56))


# --- that the tests above leave no trace ------------------------------------------------------


def test_patches_are_undone():
    assert d2l.Trainer.fit_epoch.__module__ == "d2l_utils.trainer"
    assert d2l.Classifier.layer_summary.__module__ == "d2l_utils.module"
    assert d2l.FashionMNIST.get_dataloader.__module__ == "d2l_utils.data"
