"""What a reader does who changes one line, the import, and runs the sections' code.

It is in `sections.py`, which `test_beside_d2l.py` holds beside D2L's own package.
"""

import inspect

import pytest
import torch
from sections import kept, linear_regression, use_root
from sections_later import SECTIONS, alexnet, vgg

import d2l_utils as d2l
from d2l_utils import fashion_mnist_files


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
def as_in_a_notebook_of_its_own(root):
    """Undoes what a section adds to classes."""
    classes = (d2l.HyperParameters, d2l.Module, d2l.Classifier, d2l.DataModule, d2l.FashionMNIST)
    classes += (d2l.Trainer, d2l.ProgressBoard, d2l.SyntheticRegressionData)
    torch.manual_seed(0)
    with kept(classes):
        use_root(d2l, root)
        yield


@pytest.mark.parametrize("number", SECTIONS)
def test_section(number):
    SECTIONS[number](d2l)


def test_linear_regression_in_our_loop():
    linear_regression(d2l, own_loop=False)


def test_our_networks_are_those_of_the_sections():
    assert repr(d2l.AlexNet().net) == alexnet(d2l)
    assert repr(d2l.VGG(d2l.VGG_NARROW).net) == vgg(d2l)


SIGNATURES = {  # as the book has them
    d2l.SyntheticRegressionData: "(w, b, noise=0.01, num_train=1000, num_val=1000, batch_size=32)",
    d2l.LinearRegressionScratch: "(num_inputs, lr, sigma=0.01)",
    d2l.LeNet: "(lr=0.1, num_classes=10)",
    d2l.Residual: "(num_channels, use_1x1conv=False, strides=1)",
    d2l.ResNeXtBlock: "(num_channels, groups, bot_mul, use_1x1conv=False, strides=1)",
    d2l.plot: "(X, Y=None, xlabel=None, ylabel=None, legend=(), xlim=None, ylim=None, "
    "xscale='linear', yscale='linear', fmts=('-', 'm--', 'g-.', 'r:'), figsize=(3.5, 2.5), "
    "axes=None)",
}


@pytest.mark.parametrize("used", SIGNATURES, ids=lambda used: used.__name__)
def test_what_is_left_out_has_the_books_value(used):
    assert str(inspect.signature(used)) == SIGNATURES[used]


def test_a_timer_keeps_its_times(monkeypatch):
    clock = iter([0, 1, 2, 5])
    monkeypatch.setattr("time.time", lambda: next(clock))
    timer = d2l.Timer()
    assert timer.stop() == 1
    timer.start()
    assert (timer.stop(), timer.sum(), timer.avg(), timer.cumsum()) == (3, 4, 2, [1, 4])


def test_as_many_curves_are_plotted_as_are_given():
    d2l.plot(torch.arange(3), [torch.arange(3) * k for k in range(5)])
    assert len(d2l.plt.gca().lines) == 5
    d2l.plt.close("all")


def test_patches_are_undone():
    assert d2l.Trainer.fit_epoch.__module__ == "d2l_utils.trainer"
    assert d2l.Classifier.layer_summary.__module__ == "d2l_utils.module"
    assert d2l.FashionMNIST.get_dataloader.__module__ == "d2l_utils.data"
