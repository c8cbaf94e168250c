"""The D2L interface that the notebooks share, and counts of what a network costs.

`import d2l_utils as d2l` gives `d2l.Classifier`, `d2l.Trainer`, `d2l.FashionMNIST`, `d2l.VGG`, …
"""

import importlib
from importlib import metadata

from d2l_utils.board import ProgressBoard, set_figsize, show_images, use_svg_display
from d2l_utils.cost import LayerCost, layer_costs, saved_tensors
from d2l_utils.data import DataModule, FashionMNIST
from d2l_utils.device import cpu, fast_precision, gpu, keep_memory, num_gpus, try_all_gpus, try_gpu
from d2l_utils.hyperparameters import HyperParameters, add_to_class
from d2l_utils.meta import materialize
from d2l_utils.models import VGG, VGG_ARCHS, VGG_NARROW, AlexNet, vgg_block
from d2l_utils.module import Classifier, Module, init_cnn
from d2l_utils.results import results, speed
from d2l_utils.trainer import Trainer

try:
    __version__ = metadata.version("d2l_utils")
except metadata.PackageNotFoundError:  # used from a copy that is not installed
    __version__ = "0"

__all__ = [
    "VGG", "VGG_ARCHS", "VGG_NARROW", "AlexNet", "Classifier", "DataModule", "FashionMNIST",
    "HyperParameters", "LayerCost", "Module", "ProgressBoard", "Trainer", "add_to_class",
    "cpu", "fast_precision", "gpu", "init_cnn", "keep_memory", "layer_costs", "materialize",
    "num_gpus", "results", "saved_tensors", "set_figsize", "show_images", "speed",
    "try_all_gpus", "try_gpu", "use_svg_display", "vgg_block",
]  # fmt: skip


def __getattr__(name):
    """Serve what earlier chapters define, from modules that are imported only for that."""
    if name == "plt":
        return importlib.import_module("matplotlib.pyplot")
    earlier = importlib.import_module("d2l_utils.earlier_chapters")
    if name in earlier.TENSORS:
        return earlier.TENSORS[name]
    if name in earlier.__all__:
        return getattr(earlier, name)
    raise AttributeError(
        f"d2l_utils serves no {name!r}, only chapters 2 to 8 of the book; if it is a later "
        "chapter's, the package d2l has it: from d2l import torch; if an older edition's, d2l 0.17"
    )
