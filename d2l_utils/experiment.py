"""Training runs as data: a grid in TOML, one JSON record a run, stopped and resumed at will.

    python -m d2l_utils.experiment book/experiments/low_resolution.toml
    python -m d2l_utils.experiment GRID.toml --variant r56 --seed 0     # a part of it
    python -m d2l_utils.experiment GRID.toml --list                     # what is there, what is not

A record is `<results>/<grid>/<variant>-seed<k>.json`, written whole or not at all. A run whose
record is there is not done again, so machines can share a grid and a stopped run goes on from its
last epoch. It needs torch, numpy and tqdm only.
"""

import argparse
import dataclasses
import datetime
import json
import os
import platform
import re
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from torch.nn import functional as F  # noqa: N812 (the field's name for it)

from d2l_utils import compress
from d2l_utils.cost import layer_costs
from d2l_utils.data import AUGMENTATIONS, FashionMNIST
from d2l_utils.models import VGG
from d2l_utils.trainer import Trainer

__all__ = ["Config", "Grid", "Run", "load_grid", "load_records", "replay"]


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


@dataclass(frozen=True)
class Grid:
    """A grid: its name, the question it answers, seeds, and one configuration a variant."""

    name: str
    question: str
    seeds: dict[str, list[int]]
    variants: dict[str, Config]


# --- reading a grid --------------------------------------------------------------------------

_RANGES = {
    "resolution": (1, None),
    "epochs": (0, None),
    "batch_size": (1, None),
    "lr": (0, None),
    "momentum": (0, 1),
    "weight_decay": (0, None),
    "label_smoothing": (0, 1),
    "train_size": (0, 60_000),
    "holdout": (0, 59_999),
    "temperature": (0, None),
    "soft_share": (0, 1),
}
_CHOICES = {"schedule": ("constant", "one_cycle")}
_TRANSFORMS = ("svd", "prune", "int8")


def load_grid(path: str | os.PathLike) -> Grid:
    """Read and check a grid.

    The file has `question`, `seeds`, a table `[defaults]` and one table `[variants.<name>]` each;
    their keys are the fields of `Config`, and a variant may have `seeds` of its own.

    Raises:
        ValueError: if anything in it is wrong; the message begins with file and line.
    """
    path = Path(path)
    text = path.read_text(encoding="utf-8")
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: {error}") from error
    try:
        return _check_grid(path.stem, raw)
    except _WrongEntry as error:
        line = _line_of(text, error.table, error.key)
        raise ValueError(f"{path}:{line}: {error}") from error


class _WrongEntry(ValueError):
    def __init__(self, table: str, key: str, message: str):
        super().__init__(message)
        self.table, self.key = table, key


def _check_grid(name: str, raw: dict) -> Grid:
    for key in raw:
        if key not in ("question", "seeds", "defaults", "variants"):
            raise _WrongEntry("", key, f"unknown key {key!r}")
    if not raw.get("variants"):
        raise _WrongEntry("", "", "there is no table [variants.<name>]")
    _check_seeds("", raw.get("seeds"))
    defaults = raw.get("defaults", {})
    _check_fields("defaults", defaults)
    variants, seeds = {}, {}
    for variant, settings in raw["variants"].items():
        table = f"variants.{variant}"
        settings = dict(settings)
        seeds[variant] = settings.pop("seeds", raw["seeds"])
        _check_seeds(table, seeds[variant])
        _check_fields(table, settings)
        if "arch" not in defaults | settings:
            raise _WrongEntry(table, "", f"{variant} has no arch")
        variants[variant] = Config(**defaults | settings)
    for variant, config in variants.items():
        _check_config(f"variants.{variant}", config, variants)
    return Grid(name, raw.get("question", ""), seeds, variants)


def _check_seeds(table, seeds):
    good = isinstance(seeds, list) and seeds and all(type(s) is int and s >= 0 for s in seeds)
    if not good:
        raise _WrongEntry(table, "seeds", f"seeds is {seeds!r}; it must be a list like [0, 1, 2]")


def _check_fields(table, settings):
    fields = {f.name: f.type for f in dataclasses.fields(Config)}
    for key, value in settings.items():
        if key not in fields:
            raise _WrongEntry(table, key, f"unknown key {key!r}; known are {', '.join(fields)}")
        kind = fields[key]
        allowed = (int, float) if kind is float else kind
        if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
            name = getattr(kind, "__name__", str(kind))
            raise _WrongEntry(table, key, f"{key} is {value!r}; it must be of type {name}")
        low, high = _RANGES.get(key, (None, None))
        if (low is not None and value < low) or (high is not None and value > high):
            limits = f"at least {low}" if high is None else f"from {low} to {high}"
            raise _WrongEntry(table, key, f"{key} is {value}; it must be {limits}")
        if key in _CHOICES and value not in _CHOICES[key]:
            raise _WrongEntry(table, key, f"{key} is {value!r}; it must be one of {_CHOICES[key]}")
        if key == "augment" and any(name not in AUGMENTATIONS for name in value):
            raise _WrongEntry(table, key, f"augment is {value}; it takes any of {AUGMENTATIONS}")


def _check_config(table, config, variants):
    for key in ("start", "teacher"):
        if (name := getattr(config, key)) and name not in variants:
            raise _WrongEntry(table, key, f"{key} is {name!r}, which is no variant of this grid")
    if config.transform and (
        len(config.transform) > 1 or next(iter(config.transform)) not in _TRANSFORMS
    ):
        message = f"transform is {config.transform}; it must be one of {_TRANSFORMS}"
        raise _WrongEntry(table, "transform", message)
    if config.epochs == 0 and not config.start:
        raise _WrongEntry(table, "epochs", "epochs is 0, but there is no start to evaluate")
    try:
        layer_costs(make_model(config), (1, config.resolution, config.resolution))
    except (TypeError, ValueError) as error:
        raise _WrongEntry(table, "arch", f"this network is impossible: {error}") from error


def _line_of(text: str, table: str, key: str) -> int:
    """Return the line of `key` in `[table]` (or of the table itself), counted from 1."""
    current, table_line = "", 1
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[([^\[\]]+)\]", line):
            current = header[1].replace('"', "").replace(" ", "")
            table_line = number if current == table else table_line
        elif current == table and key and re.match(rf'\s*"?{re.escape(key)}"?\s*=', line):
            return number
    return table_line


# --- one run ---------------------------------------------------------------------------------


class RecipeVGG(VGG):
    """A VGG that is trained as a `Config` says."""

    def __init__(self, config: Config, teacher: VGG | None = None):
        super().__init__(
            config.arch, config.lr, head=config.head, batch_norm=config.batch_norm
        )
        self.config = config
        self._teacher = [teacher]  # in a list, so that its weights are none of this model's

    def configure_optimizers(self):
        """Return SGD and its schedule."""
        c = self.config
        optimiser = torch.optim.SGD(
            self.parameters(),
            lr=c.lr,
            momentum=c.momentum,
            nesterov=c.momentum > 0,
            weight_decay=c.weight_decay,
            fused=True,  # the same arithmetic; a large head's step takes a tenth of the time
        )
        if c.schedule == "constant":
            return optimiser
        steps = self.trainer.max_epochs * self.trainer.num_train_batches
        # The defaults of OneCycleLR cycle the momentum too, which Nesterov's form has no need of.
        return optimiser, torch.optim.lr_scheduler.OneCycleLR(
            optimiser, max_lr=c.lr, total_steps=steps, cycle_momentum=False
        )

    def training_step(self, batch):
        """Return the training loss: smoothed labels, and the teacher's logits if there is one."""
        X, y = batch
        logits = self(X).float()
        loss = F.cross_entropy(logits, y, label_smoothing=self.config.label_smoothing)
        if (teacher := self._teacher[0]) is not None:
            with torch.no_grad():
                targets = teacher(X).float()
            loss = _distillation(logits, targets, loss, self.config)
        self.plot("loss", loss, train=True)
        return loss


def _distillation(logits, targets, hard_loss, config):
    """Hinton et al., 2015, arXiv 1503.02531: T squared keeps the gradient's size at any T."""
    T = config.temperature
    soft = F.kl_div(
        F.log_softmax(logits / T, dim=1),
        F.log_softmax(targets / T, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return config.soft_share * T**2 * soft + (1 - config.soft_share) * hard_loss


def make_model(config: Config, teacher: VGG | None = None) -> RecipeVGG:
    """Return the untrained network of a configuration."""
    return RecipeVGG(config, teacher)


@dataclass(frozen=True)
class Run:
    """One run of a grid: a variant with a seed, and where its files lie.

    Attributes:
        grid: the grid.
        variant: name of the variant.
        seed: seed of weights, order, dropout and augmentation.
        results: folder of the records.
        checkpoints: folder of checkpoints and trained weights, which are not kept in git.
    """

    grid: Grid
    variant: str
    seed: int
    results: Path
    checkpoints: Path

    @property
    def config(self) -> Config:
        """The settings of the variant."""
        return self.grid.variants[self.variant]

    @property
    def record(self) -> Path:
        """The record's file."""
        return self.results / self.grid.name / f"{self.variant}-seed{self.seed}.json"

    @property
    def checkpoint(self) -> Path:
        """The file that training goes on from."""
        return self.checkpoints / self.grid.name / f"{self.variant}-seed{self.seed}.pt"

    @property
    def weights(self) -> Path:
        """The file of the trained weights, for the variants that start from them."""
        return self.checkpoint.with_suffix(".weights.pt")

    def sibling(self, variant: str) -> "Run":
        """Return the run of another variant with the same seed."""
        return dataclasses.replace(self, variant=variant)

    def prepare(self) -> tuple[RecipeVGG, FashionMNIST]:
        """Return model and data, ready to be trained.

        Raises:
            FileNotFoundError: if it starts from weights that are not on this machine.
        """
        c = self.config
        teacher = self.sibling(c.teacher).trained_model() if c.teacher else None
        if c.start:
            model = _transform(self.sibling(c.start).trained_model(), c.transform)
            model.config, model._teacher = c, [teacher]
        else:
            model = make_model(c, teacher)
        size = (c.resolution, c.resolution)
        data = FashionMNIST(
            c.batch_size,
            size,
            holdout=c.holdout,
            train_size=c.train_size or None,
            augment=c.augment,
        )
        return model, data

    def trained_model(self) -> RecipeVGG:
        """Return the network with the weights that this run ended with.

        Raises:
            FileNotFoundError: if they are not on this machine.
        """
        if not self.weights.exists():
            raise FileNotFoundError(
                f"the weights of {self.variant} with seed {self.seed} are not on this machine "
                f"({self.weights}); remove {self.record} and run the grid again to train them"
            )
        model, c = make_model(self.config), self.config
        model.eval()(torch.zeros(1, 1, c.resolution, c.resolution))
        model.load_state_dict(torch.load(self.weights, map_location="cpu", weights_only=True))
        return model

    def execute(self, precision: str | None = None) -> dict | None:
        """Train, write the record and return it; None if it was interrupted."""
        started = time.perf_counter()
        model, data = self.prepare()
        c = self.config
        trainer = Trainer(
            max(c.epochs, 1),
            num_gpus=0 if "int8" in c.transform else 1,
            precision=precision or ("float32" if "int8" in c.transform else None),
            seed=self.seed,
            checkpoint=self.checkpoint if c.epochs else None,
        )
        if c.epochs:
            trainer.fit(model, data)
            if trainer.interrupted:
                return None
            final = {key: trainer.history[-1][key] for key in ("val_loss", "val_acc")}
        else:
            final = trainer.evaluate(model, data)
        record = {
            "experiment": self.grid.name,
            "variant": self.variant,
            "seed": self.seed,
            "config": dataclasses.asdict(c),
            "validated_on": "held-out training images" if c.holdout else "test set",
            "network": _network(model, c),
            "final": final,
            "history": trainer.history,
            "first_losses": trainer.first_losses,
            "precision": trainer.precision,
            "hardware": hardware(trainer.device),
            "versions": versions(),
            "wall_seconds": time.perf_counter() - started,
            "finished": datetime.date.today().isoformat(),
        }
        self._keep_weights(model)
        write_json(self.record, record)
        self.checkpoint.unlink(missing_ok=True)
        return record

    def _keep_weights(self, model):
        others = self.grid.variants.values()
        if any(self.variant in (c.start, c.teacher) for c in others) or self._is_worth_shipping():
            self.weights.parent.mkdir(parents=True, exist_ok=True)
            torch.save(model.state_dict(), self.weights)

    def _is_worth_shipping(self):
        return self.config.head == "gap"  # small enough to be kept


def _transform(model, transform):
    if "svd" in transform:
        return compress.truncated_svd(model, transform["svd"])
    if "prune" in transform:
        return compress.magnitude_pruning(model, transform["prune"])
    if "int8" in transform:
        return compress.int8(model)
    return model


def _network(model, config) -> dict:
    # Pruning and int8 change neither the number of weights nor of multiply-accumulates.
    counted = model if "svd" in config.transform else make_model(config)
    rows = layer_costs(counted, (1, config.resolution, config.resolution))
    return {
        "params": sum(p.numel() for p in model.parameters()),
        "macs": sum(row.macs for row in rows),
    }


def replay(run: Run, precision: str, steps: int = 10) -> list[float]:
    """Train the first steps of a run again and return their losses."""
    model, data = run.prepare()
    trainer = Trainer(max(run.config.epochs, 1), precision=precision, seed=run.seed)
    trainer.start(model, data)
    return [float(trainer.step(batch)) for batch in islice(trainer.train_dataloader, steps)]


# --- records ---------------------------------------------------------------------------------


def load_records(folder: str | os.PathLike) -> list[dict]:
    """Return all records below a folder of one grid, sorted by file name.

    Raises:
        FileNotFoundError: if there is none.
    """
    files = sorted(Path(folder).glob("*-seed*.json"))
    if not files:
        raise FileNotFoundError(f"there are no records in {folder}")
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def write_json(path: Path, content) -> None:
    """Write a JSON file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)


def hardware(device: torch.device) -> dict:
    """Return what a time depends on: device, processor, threads, and how busy the machine was."""
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict:
    """Return the versions that a result depends on."""
    return {"python": platform.python_version(), "torch": str(torch.__version__)}


# --- the command -----------------------------------------------------------------------------


def runs_of(grid: Grid, results: Path, checkpoints: Path) -> Iterator[Run]:
    """Yield all runs: seed by seed, and what others start from before them."""
    for seed in sorted({seed for seeds in grid.seeds.values() for seed in seeds}):
        for variant in _dependencies_first(grid.variants):
            if seed in grid.seeds[variant]:
                yield Run(grid, variant, seed, results, checkpoints)


def _dependencies_first(variants: dict[str, Config]) -> list[str]:
    ordered: list[str] = []

    def add(name):
        for other in (variants[name].start, variants[name].teacher):
            if other and other not in ordered:
                add(other)
        if name not in ordered:
            ordered.append(name)

    for name in variants:
        add(name)
    return ordered


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing of the grids; return 0 if nothing is missing at the end."""
    options = _parser().parse_args(arguments)
    try:
        grids = [load_grid(path) for path in options.grids]
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    runs = [
        run
        for grid in grids
        for run in runs_of(grid, options.results, options.checkpoints)
        if (not options.variant or run.variant in options.variant)
        and (not options.seed or run.seed in options.seed)
    ]
    if not runs:
        print("no run of these grids has such a variant and seed", file=sys.stderr)
        return 2
    missing = [run for run in runs if not run.record.exists()]
    for number, run in enumerate(() if options.list else missing, 1):
        print(f"[{number}/{len(missing)}] {_name(run)}", flush=True)
        try:
            record = run.execute(options.precision)
        except (FileNotFoundError, FloatingPointError) as error:
            print(f"  failed: {error}", file=sys.stderr)
            continue
        if record is None:
            print("stopped; the same command goes on from the last epoch")
            return 130
        accuracy, seconds = record["final"]["val_acc"], record["wall_seconds"]
        print(f"  accuracy {accuracy:.4f} ({record['validated_on']}), {seconds:.0f} s", flush=True)
    missing = [run for run in runs if not run.record.exists()]
    print(f"{len(runs) - len(missing)} of {len(runs)} runs are recorded")
    for run in missing:
        print(f"  missing: {_name(run)}")
    return 1 if missing else 0


def _name(run: Run) -> str:
    return f"{run.grid.name}/{run.variant} seed {run.seed}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m d2l_utils.experiment",
        description="Train what is missing of a grid; stop with Ctrl-C and go on when you like.",
    )
    parser.add_argument("grids", nargs="+", type=Path, metavar="GRID.toml")
    parser.add_argument("--variant", action="append", help="only this variant (repeatable)")
    parser.add_argument("--seed", action="append", type=int, help="only this seed (repeatable)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="not the fastest")
    parser.add_argument("--list", action="store_true", help="train nothing, say what is missing")
    parser.add_argument("--results", type=Path, default=Path("book/results"))
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
