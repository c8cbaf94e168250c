"""The package as a whole: what its import costs and pulls in, its layers, and its examples."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

import d2l_utils as d2l

FOLDER = Path(d2l.__file__).parent
MODULES = [module.name for module in pkgutil.iter_modules([str(FOLDER)])]

# A module imports only modules that stand before it here.
ORDER = [
    *"device board module data cost models trainer compress grid".split(),
    *"experiment weights timing __main__".split(),
]


def run(code, *options):
    """Runs code in a Python of its own and returns what it prints; anything on stderr fails."""
    result = subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


# --- names ------------------------------------------------------------------------------------

INTERFACE = """
    HyperParameters add_to_class Module DataModule Classifier Trainer FashionMNIST ProgressBoard
    init_cnn cpu gpu num_gpus try_gpu try_all_gpus show_images set_figsize use_svg_display
    vgg_block VGG VGG_ARCHS AlexNet LayerCost layer_costs saved_tensors fast_precision keep_memory
""".split()


def test_the_names_at_the_top():
    assert set(INTERFACE) <= set(d2l.__all__)
    assert len(d2l.__all__) == len(set(d2l.__all__))
    assert all(hasattr(d2l, name) for name in d2l.__all__)


def test_signatures_of_the_book():
    def parameters(function):
        return list(inspect.signature(function).parameters.values())

    def begins_with(function, **defaults):
        """The book's arguments come first and in its order; ours can only follow."""
        theirs = [(p.name, p.default) for p in parameters(function)[: len(defaults)]]
        rest = parameters(function)[len(defaults) :]
        return theirs == list(defaults.items()) and all(p.default is not p.empty for p in rest)

    needed = inspect.Parameter.empty
    assert begins_with(d2l.Module, plot_train_per_epoch=2, plot_valid_per_epoch=1)
    assert begins_with(d2l.DataModule, root="../data", num_workers=4)
    assert begins_with(d2l.Trainer, max_epochs=needed, num_gpus=0, gradient_clip_val=0)
    assert begins_with(d2l.FashionMNIST, batch_size=64, resize=(28, 28), root=None, num_workers=0)
    assert begins_with(d2l.VGG, arch=needed, lr=0.1, num_classes=10)
    assert begins_with(d2l.AlexNet, lr=0.1, num_classes=10)
    assert begins_with(d2l.vgg_block, num_convs=needed, out_channels=needed)
    assert begins_with(d2l.layer_costs, net=needed, input_shape=needed)
    assert begins_with(d2l.gpu, i=0) and begins_with(d2l.try_gpu, i=0)
    assert begins_with(
        d2l.show_images, imgs=needed, num_rows=needed, num_cols=needed, titles=None, scale=1.5
    )
    board = [p.name for p in parameters(d2l.ProgressBoard)]
    assert board == (
        "xlabel ylabel xlim ylim xscale yscale ls colors fig axes figsize display".split()
    )
    self = {"self": needed}
    draw = self | {"x": needed, "y": needed, "label": needed, "every_n": 1}
    assert begins_with(d2l.ProgressBoard.draw, **draw)
    logits = self | {"Y_hat": needed, "Y": needed, "averaged": True}
    assert begins_with(d2l.Classifier.accuracy, **logits)
    assert begins_with(d2l.Classifier.loss, **logits)
    assert begins_with(d2l.Classifier.layer_summary, **self, X_shape=needed)
    assert begins_with(d2l.Module.apply_init, **self, inputs=needed, init=None)
    assert begins_with(d2l.Module.plot, **self, key=needed, value=needed, train=needed)
    assert begins_with(d2l.Trainer.clip_gradients, **self, grad_clip_val=needed, model=needed)
    tensors = self | {"tensors": needed, "train": needed, "indices": slice(0, None)}
    assert begins_with(d2l.DataModule.get_tensorloader, **tensors)
    batch = self | {"batch": needed, "nrows": 1, "ncols": 8}
    assert begins_with(d2l.FashionMNIST.visualize, **batch)


# --- the import -------------------------------------------------------------------------------

HEAVY = ("matplotlib", "torchvision", "IPython", "matplotlib_inline", "PIL")


def test_import_brings_nothing_that_is_not_needed_yet():
    code = f"""
import sys
import d2l_utils as d2l
def heavy(): return sorted(set(sys.modules) & set({HEAVY}))
print(heavy())
data = d2l.FashionMNIST(batch_size=8, train_size=8, holdout=8)
model = d2l.VGG(((1, 2),), head=(4,))
d2l.layer_costs(model, (1, 28, 28)), d2l.saved_tensors(model, (1, 28, 28))
d2l.Trainer(max_epochs=1).fit(model, data)
print(heavy())
model.board.figure()
print(heavy()[-2:])
"""
    code = "import os; os.environ['TQDM_DISABLE'] = '1'\n" + code
    assert run(code).splitlines() == ["[]", "[]", "['PIL', 'matplotlib']"]


def test_import_takes_under_half_a_second_beside_torch():
    code = """
import time, torch, numpy
start = time.perf_counter()
import d2l_utils
print(time.perf_counter() - start)
"""
    # Once more if need be: another process may have had the machine for a moment.
    assert float(run(code)) < 0.5 or float(run(code)) < 0.5


LAZY = """
import warnings
import torch
import d2l_utils as d2l
from torch import nn
# What an older torch says at each lazy layer.
warnings.warn("Lazy modules are a new feature under heavy development so changes to the API or "
              "functionality can happen at any moment.", stacklevel=1)
net = nn.Sequential(nn.LazyConv2d(2, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(2))
net.apply(d2l.init_cnn)
net(torch.zeros(2, 1, 4, 4))
d2l.VGG(((1, 2),), head=(4,)).layer_summary((1, 1, 4, 4))
"""


def test_no_warning_of_lazy_layers_reaches_a_reader():
    output = run(LAZY, "-W", "error")
    assert output.startswith("Sequential output shape:\t torch.Size([1, 2, 2, 2])")


def test_other_warnings_do_reach_a_reader():
    code = LAZY + 'warnings.warn("Beware", UserWarning)'
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0
    assert "Beware" in result.stderr and "Lazy" not in result.stderr


# --- layers -----------------------------------------------------------------------------------


def imports(name):
    """Returns the modules of the package that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            if node.module == "d2l_utils":
                found |= {alias.name for alias in node.names}
            elif node.module.startswith("d2l_utils."):
                found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            assert "d2l_utils" not in names, f"{name} imports the whole package"
            found |= {name.split(".")[1] for name in names if name.startswith("d2l_utils.")}
    return found


def test_an_import_of_the_whole_package_is_seen(monkeypatch, tmp_path):
    (tmp_path / "sly.py").write_text("def late():\n    import d2l_utils as d2l\n", encoding="utf-8")
    monkeypatch.setattr(sys.modules[__name__], "FOLDER", tmp_path)
    with pytest.raises(AssertionError, match="sly imports the whole package"):
        imports("sly")


def test_every_module_has_its_place():
    assert set(MODULES) == set(ORDER)


@pytest.mark.parametrize("name", MODULES)
def test_no_module_imports_upwards(name):
    assert imports(name) <= set(ORDER[: ORDER.index(name)])


def test_who_knows_nothing_of_whom():
    """Holds beyond the order: the trainer knows no model and no data, the counts no training."""
    assert imports("trainer") == {"board", "device", "module"}
    assert imports("cost") == set()
    assert imports("models") == {"module"}
    assert imports("data") == {"board", "device", "module"}
    assert imports("module") == {"board"}
    assert imports("board") == imports("device") == set()


# --- examples and docstrings ------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    matplotlib.use("Agg")
    module = importlib.import_module(f"d2l_utils.{name}")
    failed, attempted = doctest.testmod(module, optionflags=doctest.FAIL_FAST)
    assert failed == 0  # what failed stands in the captured output
    assert attempted or name not in ORDER[:8]


@pytest.mark.parametrize("name", MODULES)
def test_what_is_public_is_described(name):
    module = importlib.import_module(f"d2l_utils.{name}")
    assert module.__doc__
    for public in module.__all__:
        thing = getattr(module, public)
        if not callable(thing):
            continue
        text = inspect.getdoc(thing)
        assert text, f"{public} has no docstring"
        arguments = thing.__init__ if inspect.isclass(thing) else thing
        if "Args:" in text:
            missing = [p for p in inspect.signature(arguments).parameters if f"{p}:" not in text]
            assert not set(missing) - {"self"}, f"{public} describes not all of its arguments"
