"""Grids of training runs as data: read from TOML, and checked whole before anything is trained."""

import dataclasses
import math
import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import torch

from d2l_lab import compress
from d2l_utils.cost import on_meta
from d2l_utils.models import VGG
from d2l_utils.pixels import AUGMENTATIONS

__all__ = ["Config", "Grid", "load_grid", "transformed"]


@dataclass(frozen=True)
class Config:
    """All settings of a run on Fashion-MNIST; the defaults are the section's recipe.

    Attributes:
        arch: blocks, `[num_convs, out_channels]` each.
        head: widths of the hidden fully connected layers, or "gap".
        batch_norm: normalise after each convolution.
        resolution: height and width of the images.
        epochs: 0 only evaluates.
        batch_size: images a batch.
        lr: learning rate; with a one-cycle schedule its peak.
        momentum: of SGD; above 0 in Nesterov's form.
        weight_decay: of SGD.
        schedule: "constant" or "one_cycle".
        label_smoothing: of the training loss; validation has none.
        augment: any of "flip" and "crop".
        train_size: train on this many images only; 0 takes all.
        holdout: validate on this many images of the training set instead of the test set.
        start: the variant of the same grid whose trained weights, of the same seed, to start from.
        transform: what to do to it first, one of `{svd = [r, r]}`, `{prune = share kept}`,
            `{int8 = true}`.
        teacher: the variant whose logits are learned from (distillation).
        temperature: of the teacher's and the student's logits in distillation.
        soft_share: the weight of the teacher's logits against the labels in the loss.
        init: "xavier", or "kaiming": the same draws, scaled to Kaiming's spread layer by layer.
        fc_gain: scale the first fully connected layer's start so that this is its Xavier gain,
            sqrt(inputs / (inputs + outputs)), whatever its inputs; 0 leaves it as drawn.
        precision: "float32" or "bfloat16" for all machines; "" takes what the device is fast in.
    """

    arch: list
    head: list | str = field(default_factory=lambda: [4096, 4096])
    batch_norm: bool = False
    resolution: int = 224
    epochs: int = 10
    batch_size: int = 128
    lr: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: str = "constant"
    label_smoothing: float = 0.0
    augment: list = field(default_factory=list)
    train_size: int = 0
    holdout: int = 0
    start: str = ""
    transform: dict = field(default_factory=dict)
    teacher: str = ""
    temperature: float = 4.0
    soft_share: float = 0.9
    init: str = "xavier"
    fc_gain: float = 0.0
    precision: str = ""


@dataclass(frozen=True)
class Grid:
    """A grid: its name, the question it answers, seeds, and one configuration a variant."""

    name: str
    question: str
    seeds: dict[str, list[int]]
    variants: dict[str, Config]


def load_grid(path: str | os.PathLike) -> Grid:
    """Read and check a grid.

    The file has `question`, `seeds`, a table `[defaults]` and one table `[variants.<name>]` each;
    their keys are the fields of `Config`, and a variant may have `seeds` of its own.

    Raises:
        ValueError: if anything in it is wrong; the message begins with file and line.
        OSError: if the file cannot be read.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}:1: this is no UTF-8 text") from error
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"at line (\d+)", str(error))  # else it is the end of the file
        line = found[1] if found else text.count("\n") + 1
        raise ValueError(f"{path}:{line}: {error}") from error
    except (RecursionError, ValueError) as error:  # lists in lists, or digits, without end
        raise ValueError(f"{path}:{_line_of_limit(text)}: {error}") from error
    try:
        return _check_grid(path.stem, raw)
    except _WrongEntry as error:
        raise ValueError(f"{path}:{_line_of(text, error.entry)}: {error}") from error


def transformed(model: VGG, transform: dict) -> VGG:
    """Return a new model, as `Config.transform` says, or the model itself if it says nothing."""
    if "svd" in transform:
        return compress.truncated_svd(model, transform["svd"])
    if "prune" in transform:
        return compress.magnitude_pruning(model, transform["prune"])
    if "int8" in transform:
        return compress.int8(model)
    return model


# --- the checks --------------------------------------------------------------------------------

_TYPES = {
    bool: (bool, "true or false"),
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
    str: (str, "a text"),
    list: (list, "a list"),
    dict: (dict, "a table"),
    list | str: ((list, str), "a list or a text"),
}
_RANGES = {
    "resolution": (1, math.inf),
    "epochs": (0, math.inf),
    "batch_size": (1, math.inf),
    "lr": (0, math.inf),
    "momentum": (0, 1),
    "weight_decay": (0, math.inf),
    "label_smoothing": (0, 1),
    "train_size": (0, 60_000),
    "holdout": (0, 59_999),
    "temperature": (0, math.inf),
    "soft_share": (0, 1),
    "fc_gain": (0, 1),
}
_NOT_ZERO = ("lr", "temperature")
_CHOICES = {
    "schedule": ("constant", "one_cycle"),
    "init": ("xavier", "kaiming"),
    "precision": ("", "float32", "bfloat16"),
}
_TRANSFORMS = ("svd", "prune", "int8")
# What cannot be changed in weights that are there already; the size of the images is one of them,
# since a fully connected head fits one size alone.
_INHERITED = ("arch", "head", "batch_norm", "resolution")


class _WrongEntry(ValueError):
    """What is wrong in a grid, with the keys that lead to it."""

    def __init__(self, entry: tuple[str, ...], message: str):
        super().__init__(message)
        self.entry = entry


def _check_grid(name, raw):
    for key in raw:
        if key not in ("question", "seeds", "defaults", "variants"):
            raise _WrongEntry((key,), f"unknown key {key!r}")
    _check_type(("question",), raw.get("question", ""), str)
    _check_type(("defaults",), defaults := raw.get("defaults", {}), dict)
    _check_type(("variants",), tables := raw.get("variants", {}), dict)
    if not tables:
        raise _WrongEntry(("variants",), "there is no table [variants.<name>]")
    _check_seeds(("seeds",), raw.get("seeds"))
    _check_fields(("defaults",), defaults)
    variants, seeds = {}, {}
    for variant, table in tables.items():
        entry = ("variants", variant)
        _check_name(entry, variant, variants)
        _check_type(entry, table, dict)
        settings = dict(table)
        seeds[variant] = settings.pop("seeds", raw["seeds"])
        _check_seeds((*entry, "seeds"), seeds[variant])
        _check_fields(entry, settings)
        if "arch" not in defaults | settings:
            raise _WrongEntry(entry, f"{variant} has no arch")
        variants[variant] = Config(**defaults | settings)
    grid = Grid(name, raw.get("question", ""), seeds, variants)
    for variant in variants:
        _check_numbers(grid, variant)
        _check_network(grid, variant)
    for variant in variants:
        _check_sources(grid, variant)
        _check_transform(grid, variant)
    return grid


def _check_type(entry, value, kind):
    allowed, words = _TYPES[kind]
    # To Python true is a number, 1.
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise _WrongEntry(entry, f"{entry[-1]} is {value!r}; it must be {words}")


def _check_seeds(entry, seeds):
    good = isinstance(seeds, list) and all(type(s) is int and 0 <= s < 2**63 for s in seeds)
    if not (good and seeds and len(set(seeds)) == len(seeds)):
        message = "it must be a list of different whole numbers from 0, like [0, 1, 2]"
        said = "there are no seeds" if seeds is None else f"seeds is {seeds!r}"
        raise _WrongEntry(entry, f"{said}; {message}")


def _check_name(entry, name, others):
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name):
        message = f"{name!r} names a file; it must be of letters, digits, '-', '_' and '.'"
        raise _WrongEntry(entry, message)
    if twin := next((other for other in others if other.lower() == name.lower()), None):
        message = f"{name} and {twin} would be one file where capitals do not count"
        raise _WrongEntry(entry, message)


def _check_fields(table, settings):
    kinds = {f.name: f.type for f in dataclasses.fields(Config)}
    for key, value in settings.items():
        entry = (*table, key)
        if key not in kinds:
            raise _WrongEntry(entry, f"unknown key {key!r}; known are {', '.join(kinds)}")
        _check_type(entry, value, kinds[key])
        if key in _RANGES:
            low, high = _RANGES[key]
            above_low = low < value if key in _NOT_ZERO else low <= value
            if not (above_low and value <= high and value < math.inf):  # so written, nan is caught
                least = f"above {low}" if key in _NOT_ZERO else f"at least {low}"
                limits = f"finite and {least}" if high == math.inf else f"from {low} to {high}"
                raise _WrongEntry(entry, f"{key} is {value}; it must be {limits}")
        if key in _CHOICES and value not in _CHOICES[key]:
            raise _WrongEntry(entry, f"{key} is {value!r}; it must be one of {_CHOICES[key]}")
        if key == "augment" and any(name not in AUGMENTATIONS for name in value):
            raise _WrongEntry(entry, f"augment is {value}; it takes any of {AUGMENTATIONS}")


def _check_numbers(grid, variant):
    c, entry = grid.variants[variant], ("variants", variant)
    if c.train_size + c.holdout > 60_000:
        message = (
            f"train_size {c.train_size:,} and holdout {c.holdout:,} are together more than the "
            "60,000 training images"
        )
        raise _WrongEntry((*entry, "train_size"), message)
    if c.epochs == 0 and not c.start:
        raise _WrongEntry((*entry, "epochs"), "epochs is 0, but there is no start to evaluate")


def _check_network(grid, variant):
    c = grid.variants[variant]
    # No image is too small while arch and head are tried.
    large = max(c.resolution, 2 ** len(c.arch))
    for key, config in (
        ("arch", dataclasses.replace(c, head="gap", resolution=large)),
        ("head", dataclasses.replace(c, resolution=large)),
        ("resolution", c),
    ):
        try:
            _structure(config)
        except (OverflowError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            message = f"this network is impossible: {reason}"
            raise _WrongEntry(("variants", variant, key), message) from error


def _structure(config) -> VGG:
    """Return the network on the meta device, with the shapes of all its weights."""
    net = on_meta(VGG(config.arch, head=config.head, batch_norm=config.batch_norm)).eval()
    return _run(net, config.resolution)


def _run(net, resolution):
    with torch.no_grad():
        net(torch.empty(1, 1, resolution, resolution, device="meta"))
    return net


def _check_sources(grid, variant):
    """Check what a variant starts from and whom it learns from."""
    c = grid.variants[variant]
    for key in ("start", "teacher"):
        if not (name := getattr(c, key)):
            continue
        entry, said = ("variants", variant, key), f"{key} is {name!r}"
        if name not in grid.variants:
            raise _WrongEntry(entry, f"{said}, which is no variant of this grid")
        if variant in _all_sources(grid.variants, variant):
            raise _WrongEntry(entry, f"{said}, which itself needs {variant!r} to be trained first")
        source = grid.variants[name]
        if source.transform:
            raise _WrongEntry(entry, f"{said}, which is transformed; only plain networks will do")
        if lacking := [s for s in grid.seeds[variant] if s not in grid.seeds[name]]:
            raise _WrongEntry(entry, f"{said}, which has no seed {lacking[0]} as {variant!r} has")
        if source.holdout < c.holdout:
            raise _WrongEntry(entry, f"{said}, which is trained on images that are held out here")
    if c.start:
        for key in _INHERITED:
            if (value := getattr(c, key)) != (other := getattr(grid.variants[c.start], key)):
                message = f"{key} is {value}, but {other} in {c.start!r}, from which it starts"
                raise _WrongEntry(("variants", variant, key), message)
    if c.teacher:
        try:
            _run(_structure(grid.variants[c.teacher]), c.resolution)
        except (RuntimeError, ValueError) as error:
            message = f"teacher {c.teacher!r} cannot take images of {c.resolution}: {error}"
            raise _WrongEntry(("variants", variant, "teacher"), message) from error


def _all_sources(variants, variant) -> set[str]:
    """Return all that must be trained before a variant, itself too if it goes round in a circle."""
    found, ahead = set(), [variant]
    while ahead:
        config = variants[ahead.pop()]
        new = {n for n in (config.start, config.teacher) if n in variants and n not in found}
        found |= new
        ahead += new
    return found


def _check_transform(grid, variant):
    c, entry = grid.variants[variant], ("variants", variant, "transform")
    if not c.transform:
        return
    if len(c.transform) > 1 or next(iter(c.transform)) not in _TRANSFORMS:
        message = f"transform is {c.transform}; it must be one of {_TRANSFORMS}"
        raise _WrongEntry(entry, message)
    if not c.start:
        raise _WrongEntry(entry, "there is a transform, but no start to transform")
    if "int8" in c.transform:  # not tried out, so that grids can be read where there is no torchao
        if c.transform["int8"] is not True:
            raise _WrongEntry(entry, f"int8 is {c.transform['int8']!r}; it must be true")
        if c.epochs:
            message = f"int8 is for inference only, so epochs must be 0, not {c.epochs}"
            raise _WrongEntry(entry, message)
        return
    try:
        transformed(_structure(c), c.transform)
    except (TypeError, ValueError) as error:
        message = f"this transform is impossible: {error}"
        raise _WrongEntry(entry, message) from error


def _line_of(text: str, entry: tuple[str, ...]) -> int:
    """Return the line at which an entry, or the table that lacks it, begins, counted from 1.

    The first lines of a grid are a grid: the entry begins where they hold it for the first time.
    """
    whole = tomllib.loads(text)
    while not _holds(whole, entry):
        entry = entry[:-1]
    lines, begin = text.split("\n"), 1
    for end in range(1, len(lines) + 1):
        try:
            head = tomllib.loads("\n".join(lines[:end]))
        except tomllib.TOMLDecodeError:
            continue  # in the midst of an entry of several lines
        if entry and _holds(head, entry):
            break
        begin = end + 1
    return begin if entry else 1


def _line_of_limit(text: str) -> int:
    """Return the line, counted from 1, at which TOML becomes more than Python can take."""
    lines = text.split("\n")
    for end in range(1, len(lines)):
        try:
            tomllib.loads("\n".join(lines[:end]))
        except tomllib.TOMLDecodeError:
            continue  # in the midst of an entry of several lines
        except (RecursionError, ValueError):
            return end
    return len(lines)


def _holds(table, entry) -> bool:
    for key in entry:
        if not isinstance(table, dict) or key not in table:
            return False
        table = table[key]
    return True
