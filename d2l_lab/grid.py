"""Grids of training runs as data: read from TOML, and checked whole before anything is trained."""

import os
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field

from d2l_lab import compress
from d2l_utils.meta import materialize
from d2l_utils.models import VGG

Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Block = tuple[int | list[int | Literal["LRN"]], int]
Transform = dict[Literal["svd", "prune", "int8"], list[int] | float | bool]


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """All settings of a run on Fashion-MNIST; the defaults are the section's recipe."""

    arch: list[Block]  # blocks, `[num_convs, out_channels]` each
    # The widths of the hidden fully connected layers, or "gap".
    head: list[int] | Literal["gap"] = field(default_factory=lambda: [4096, 4096])
    batch_norm: bool = False  # after each convolution
    resolution: Positive = 224  # height and width of the images
    epochs: Count = 10  # 0 only evaluates
    batch_size: Positive = 128
    lr: Annotated[float, Meta(gt=0)] = 0.01  # with a one-cycle schedule its peak
    momentum: Share = 0.0  # of SGD; above 0 in Nesterov's form
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    schedule: Literal["constant", "one_cycle"] = "constant"
    label_smoothing: Share = 0.0  # of the training loss; validation has none
    augment: list[Literal["flip", "crop"]] = []
    train_size: Count = 0  # train on this many images only; 0 takes all
    holdout: Count = 0  # validate on this many images of the training set, not on the test set
    # The variant of the same grid whose trained weights, of the same seed, to start from, and what
    # to do to it first, one of `{svd = [r, r]}`, `{prune = share kept}`, `{int8 = true}`.
    start: str = ""
    transform: Annotated[Transform, Meta(max_length=1)] = {}
    teacher: str = ""  # the variant whose logits are learned from (distillation)
    temperature: Annotated[float, Meta(gt=0)] = 4.0  # of teacher's and student's logits
    soft_share: Share = 0.9  # the weight of the teacher's logits against the labels in the loss
    # Kaiming's are the same draws, scaled to its spread layer by layer.
    init: Literal["xavier", "kaiming"] = "xavier"
    # Scale the first fully connected layer's start so that this is its Xavier gain,
    # sqrt(inputs / (inputs + outputs)), whatever its inputs; 0 leaves it as drawn.
    fc_gain: Share = 0.0
    # For all machines; "" takes what the device is fast in.
    precision: Literal["", "float32", "bfloat16"] = ""

    @property
    def sources(self) -> list[str]:
        """The variants that must be trained first."""
        return [name for name in (self.start, self.teacher) if name]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return 1, self.resolution, self.resolution


class Grid(Struct, frozen=True):
    """A grid: its name, the question it answers, seeds, and one configuration per variant."""

    name: str
    question: str
    seeds: dict[str, list[int]]
    variants: dict[str, Config]


class _File(Struct, forbid_unknown_fields=True):
    seeds: list[int]
    variants: dict[str, dict]
    question: str = ""
    defaults: dict = {}


def load_grid(path: str | os.PathLike) -> Grid:
    """Read and check a grid.

    The file has `question`, `seeds`, a table `[defaults]` and one table `[variants.<name>]` each;
    their keys are the fields of `Config`, and a variant may have `seeds` of its own.

    Raises:
        ValueError: if anything in it is wrong; the message names the file and the entry, as in
            `variants.r56.lr`.
        OSError: if the file cannot be read.
    """
    path = Path(path)
    try:
        file = msgspec.toml.decode(path.read_bytes(), type=_File)
        # What is wrong with a default would be said of each variant.
        _convert({"arch": []} | file.defaults, Config, "defaults")
        seeds, variants = {}, {}
        for name, table in file.variants.items():
            own = table.pop("seeds", file.seeds)
            seeds[name] = _convert(own, list[int], f"variants.{name}.seeds")
            variants[name] = _convert(file.defaults | table, Config, f"variants.{name}")
        grid = Grid(path.stem, file.question, seeds, variants)
        _check_order(grid)
        for name in variants:
            _check_network(grid, name)
        for name in variants:
            _check_sources(grid, name)
            _check_transform(grid, name)
    except ValueError as error:
        raise ValueError(f"{path}: {_with_place(error)}") from error
    return grid


def structure(config: Config) -> VGG:
    """Return the network of a configuration on the meta device, in evaluation mode."""
    net = VGG(config.arch, config.lr, head=config.head, batch_norm=config.batch_norm)
    return materialize(net, config.input_shape)


_made: dict[str, VGG] = {}


def _checked(config: Config) -> VGG:
    """Return `structure(config)`, made once for all variants of one network; only to look at."""
    network = repr((config.arch, config.head, config.batch_norm, config.resolution))
    if network not in _made:
        _made[network] = structure(config)
    return _made[network]


def transformed(model: VGG, transform: Transform) -> VGG:
    """Return a new model, as `Config.transform` says, or the model itself if it says nothing."""
    ways = {"svd": compress.truncated_svd, "prune": compress.magnitude_pruning}
    for way, argument in transform.items():
        model = compress.int8(model) if way == "int8" else ways[way](model, argument)
    return model


def _convert(value, kind, place):
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(_with_place(error, place)) from error


def _with_place(error: Exception, place: str = "") -> str:
    """Return msgspec's message with the entry at its head: `$.lr` becomes `variants.r56.lr`."""
    message, _, found = str(error).partition(" - at ")
    if inner := re.search(r"\$([^`]*)", found):
        place = (place + inner[1]).lstrip(".")
    return f"{place}: {message}" if place else message


# --- what would fail late, or without a word ----------------------------------------------------


def _check_order(grid: Grid):
    """Check that variants do not wait for each other to be trained."""
    try:
        TopologicalSorter({name: c.sources for name, c in grid.variants.items()}).prepare()
    except CycleError as error:
        wrong = "each of these variants needs another to be trained first"
        raise ValueError(f"{wrong}: {', '.join(error.args[1][1:])}") from error


def _check_network(grid: Grid, name: str):
    c, place = grid.variants[name], f"variants.{name}"
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"{place} names files; it must be of letters, digits, '-', '_' and '.'")
    if c.train_size + c.holdout > 60_000:
        message = f"train_size is {c.train_size} and holdout {c.holdout}"
        raise ValueError(f"{place}.{message}; together they must be at most 60000")
    if c.epochs == 0 and not c.start:
        raise ValueError(f"{place}.epochs is 0, but there is no start to evaluate")
    try:
        _checked(c)
    except (OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{place}: this network is impossible: {error}") from error


def _check_sources(grid: Grid, name: str):
    """Check what a variant starts from and whom it learns from."""
    c, place = grid.variants[name], f"variants.{name}"
    for source in c.sources:
        said = f"{place} builds on {source!r}, which"
        if source not in grid.variants:
            raise ValueError(f"{said} is no variant of this grid")
        other = grid.variants[source]
        if other.transform:
            raise ValueError(f"{said} is transformed; it must be a plain network")
        if lacking := set(grid.seeds[name]) - set(grid.seeds[source]):
            raise ValueError(f"{said} has no seed {min(lacking)}")
        if other.holdout < c.holdout:
            raise ValueError(f"{said} is trained on images that are held out here")
    # What cannot be changed in weights that are there already.
    for key in ("arch", "head", "batch_norm", "resolution") if c.start else ():
        if (value := getattr(c, key)) != (was := getattr(grid.variants[c.start], key)):
            raise ValueError(f"{place}.{key} is {value}; it must be {was}, as in {c.start!r}")
    if c.teacher:
        try:
            materialize(_checked(grid.variants[c.teacher]), c.input_shape)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{place}.teacher cannot take these images: {error}") from error


def _check_transform(grid: Grid, name: str):
    c, place = grid.variants[name], f"variants.{name}.transform"
    if c.transform and not c.start:
        raise ValueError(f"{place} has no start to transform")
    if "int8" in c.transform:  # not tried out, so that grids can be read where there is no torchao
        if c.transform["int8"] is not True or c.epochs:
            raise ValueError(f"{place}: int8 must be true, and epochs 0: it cannot be trained")
        return
    if not c.transform:
        return
    try:
        transformed(_checked(c), c.transform)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place} is impossible: {error}") from error
