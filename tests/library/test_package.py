"""The package as a whole: what its import costs and pulls in, its layers, and its examples."""

import ast
import doctest
import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import matplotlib
import pytest

import d2l_utils as d2l

REPOSITORY = Path(__file__).parents[2]

# From the ground up: a module imports only modules that stand before it here.
LIBRARY = """
    device files hyperparameters board work meta cost module models pixels fashion_mnist_files data
    distributed checkpoint checks progress trainer results earlier_chapters __main__
""".split()
LABORATORY = """
    machine records compress grid recipe run replay clock heads timing measures bench weights
    engines cluster __main__
""".split()
ORDER = [f"d2l_utils.{name}" for name in LIBRARY] + [f"d2l_lab.{name}" for name in LABORATORY]
MODULES = [
    f"{package}.{module.name}"
    for package in ("d2l_utils", "d2l_lab")
    for module in pkgutil.iter_modules([str(REPOSITORY / package)])
]


def run(code, *options):
    """Runs code in a Python of its own and returns what it prints; anything on stderr fails."""
    result = subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, encoding="utf-8", timeout=120
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


def test_signatures_of_the_book():
    def begins_with(function, **defaults):
        """The book's arguments come first and in its order; ours can only follow."""
        parameters = list(inspect.signature(function).parameters.values())
        theirs, rest = parameters[: len(defaults)], parameters[len(defaults) :]
        return [(p.name, p.default) for p in theirs] == list(defaults.items()) and all(
            p.default is not p.empty for p in rest
        )

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
    board = "xlabel ylabel xlim ylim xscale yscale ls colors fig axes figsize display".split()
    assert list(inspect.signature(d2l.ProgressBoard).parameters) == board
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


def test_tensors_have_the_books_names_for_all_frameworks():
    X = d2l.reshape(d2l.arange(6, dtype=d2l.float32), (2, 3))
    assert d2l.numpy(d2l.to(d2l.transpose(X), d2l.cpu())).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert (d2l.size(X), float(d2l.reduce_sum(X, 1)[0])) == (6, 3)
    assert d2l.repeat(X, 2, 1).shape == (4, 3)
    assert d2l.astype(d2l.expand_dims(X, 0), d2l.int64).dtype == d2l.int64


def test_a_name_that_is_not_served_says_where_it_is():
    with pytest.raises(AttributeError, match="'RNNScratch'.* package d2l has it"):
        d2l.RNNScratch  # noqa: B018


# --- the import -------------------------------------------------------------------------------

HEAVY = ("matplotlib", "torchvision", "IPython", "matplotlib_inline", "PIL")
EARLIER = """
    SyntheticRegressionData LinearRegressionScratch LinearRegression SGD SoftmaxRegression LeNet
    Residual ResNeXtBlock plot set_axes corr2d Timer plt reduce_mean astype
""".split()
# One process for all, since each import of torch takes seconds.
SESSION = f"""
import json, os, runpy, sys
os.environ["TQDM_DISABLE"] = "1"
found = {{}}
def note(name):
    heavy = sorted(set(sys.modules) & set({HEAVY}))
    found[name] = ["d2l_utils.earlier_chapters" in sys.modules, *heavy]

import d2l_utils as d2l
note("import")
data = d2l.FashionMNIST(batch_size=8, train_size=8, holdout=8)
model = d2l.VGG(((1, 2),), head=(4,))
d2l.layer_costs(model, (1, 28, 28)), d2l.saved_tensors(model, (1, 28, 28))
model.board.display = False
d2l.Trainer(max_epochs=1).fit(model, data)
note("training")
d2l.SGD
note("an earlier chapter")
found["served"] = all(hasattr(d2l, name) for name in {EARLIER})
model.board.figure()
note("figure")
print(json.dumps(found))
sys.argv = ["-m", "--check"]
runpy.run_module("d2l_utils", run_name="__main__")
"""


@pytest.fixture(scope="module")
def session():
    """What a process finds in which each warning is an error, and what the command says there."""
    found, command = run(SESSION, "-W", "error").splitlines()
    return {**json.loads(found), "command": command}


def test_nothing_is_imported_that_is_not_needed_yet(session):
    assert session["import"] == session["training"] == [False]
    assert session["an earlier chapter"] == [True] and session["served"]
    assert {"PIL", "matplotlib"} <= set(session["figure"])


def test_the_command_runs_without_a_warning(session):
    assert session["command"].startswith("Fashion-MNIST: ")


# --- layers -----------------------------------------------------------------------------------


def ours(code):
    """Returns which of our modules Python code imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        names = [alias.name for alias in getattr(node, "names", [])]
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            is_package = node.module in ("d2l_utils", "d2l_lab")
            found |= {f"{node.module}.{n}" for n in names} if is_package else {node.module}
        elif isinstance(node, ast.Import):
            found |= set(names)
    return {name for name in found if name.split(".")[0] in ("d2l_utils", "d2l_lab")}


@pytest.mark.parametrize("name", MODULES)
def test_no_module_imports_upwards(name):
    """Nor does the library import the laboratory, which stands above it."""
    code = (REPOSITORY / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")
    assert ours(code) <= set(ORDER[: ORDER.index(name)])


def code_of(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")


EXERCISES = [p for p in sorted(REPOSITORY.glob("book/*.ipynb")) if p.stem != "reproducing"]


@pytest.mark.parametrize("page", EXERCISES, ids=lambda page: page.stem)
def test_exercises_import_the_library_alone(page):
    names = ours(code_of(page))
    assert names and not any(name.startswith("d2l_lab") for name in names)


# --- examples and docstrings ------------------------------------------------------------------


# Training, files and machines differ from run to run.
WITHOUT_EXAMPLE = {
    *(f"d2l_utils.{name}" for name in ("work", "fashion_mnist_files", "__main__")),
    *(name for name in ORDER if name.startswith("d2l_lab.") and not name.endswith(".compress")),
}


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    matplotlib.use("Agg")
    module = importlib.import_module(name)
    failed, attempted = doctest.testmod(module, optionflags=doctest.FAIL_FAST)
    assert failed == 0  # what failed stands in the captured output
    assert attempted or name in WITHOUT_EXAMPLE


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("d2l_utils.")])
def test_classes_describe_all_of_their_arguments(name):
    """For functions, and for docstrings that are not there, ruff sees to it."""
    module = importlib.import_module(name)
    for thing in map(module.__dict__.get, module.__all__):
        text = inspect.isclass(thing) and inspect.getdoc(thing)
        if text and "Args:" in text:
            assert [p for p in inspect.signature(thing).parameters if f"{p}:" not in text] == []


# --- the wheel --------------------------------------------------------------------------------


def test_a_wheel_has_the_records_with_it(installed, tmp_path, monkeypatch):
    code = f"""
import sys
sys.path.insert(0, {str(installed)!r})
import d2l_utils as d2l
print(d2l.__file__, d2l.__version__)
print(len(d2l.results("low_resolution")), d2l.speed("nvidia-h100-80gb-hbm3")["hardware"]["device"])
"""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path)
    where, there = run(code).splitlines()
    assert where == f"{installed / 'd2l_utils' / '__init__.py'} {d2l.__version__}"
    assert there == f"{len(d2l.results('low_resolution'))} NVIDIA H100 80GB HBM3"
    assert list(installed.glob("d2l_utils/recorded/*/*.safetensors"))
    assert (installed / "d2l_utils" / "py.typed").exists()


def test_there_are_no_weights_or_records_too_many(installed):
    files = {p for p in installed.rglob("*") if p.is_file() and p.suffix != ".pyc"}
    assert {p.suffix for p in files if "recorded" in p.parts} == {".json", ".safetensors"}
    assert sum(p.stat().st_size for p in files) < 5e6


# --- the files around it ----------------------------------------------------------------------

SCHEMAS = {
    "github-workflows": ".github/workflows/*.yml",
    "dependabot": ".github/dependabot.yml",
    "github-issue-config": ".github/ISSUE_TEMPLATE/config.yml",
    "github-issue-forms": ".github/ISSUE_TEMPLATE/*[!g].yml",  # all but config
    "citation-file-format": "CITATION.cff",
}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_files_that_others_read_are_well_formed(schema):
    files = [str(path) for path in REPOSITORY.glob(SCHEMAS[schema])]
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
    checked = subprocess.run([*command, *files], capture_output=True, encoding="utf-8", timeout=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def in_the_locales_encoding(code):
    """Returns the lines that read or write text and leave open in which encoding."""
    found = []
    for call in (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)):
        method, name = getattr(call.func, "attr", ""), getattr(call.func, "id", "")
        named = {keyword.arg for keyword in call.keywords}
        mode = "".join(str(getattr(arg, "value", "")) for arg in call.args[1:])
        open_to_say = {
            "read_text": not call.args,
            "write_text": len(call.args) == 1,
            "open": name == "open" and "b" not in mode,
        }.get(method or name, "text" in named and method in ("run", "Popen", "check_output"))
        if open_to_say and not named & {"encoding", None}:
            found.append(call.lineno)
    return found


def test_text_is_read_and_written_in_a_named_encoding():
    """Else what runs here may fail on Windows, or in a container without a locale."""
    folders = [folder for name in ("d2l_*", "book", "tests") for folder in REPOSITORY.glob(name)]
    code = {path: path.read_text("utf-8") for path in REPOSITORY.glob("*.py")}
    code |= {path: path.read_text("utf-8") for folder in folders for path in folder.rglob("*.py")}
    code |= {path: code_of(path) for path in REPOSITORY.glob("book/**/*.ipynb")}
    found = {str(path): in_the_locales_encoding(text) for path, text in code.items()}
    assert not {path: lines for path, lines in found.items() if lines}


def test_the_locales_encoding_is_noticed():
    wrong = "p.read_text(); p.write_text(''); open(p); open(p, 'w'); subprocess.run(c, text=True)"
    assert len(in_the_locales_encoding(wrong)) == 5
    right = "p.read_text('utf-8'); p.write_text('', encoding='utf-8'); open(p, 'rb'); image.open(p)"
    assert not in_the_locales_encoding(right)


def test_windows_and_macos_run_the_commands_of_the_readme():
    """Where they name no notebook; there the workflow runs two of them."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    lines = readme.split("### Windows and macOS")[1].split("```")[1].splitlines()
    workflow = (REPOSITORY / ".github/workflows/tests.yml").read_text(encoding="utf-8")
    for line in lines:
        command = line.split("#")[0].strip()
        if command.startswith(("pip", "python -m d2l", "jupyter-book", "pytest")):
            assert f"- run: {command}" in workflow


def test_the_version_is_one():
    citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    version = settings["project"]["version"]
    assert f"\nversion: {version}\n" in citation
    assert f"\n## {version}, " in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
