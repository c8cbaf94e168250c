"""Training runs as data: a grid in TOML, one JSON record a run, stopped and resumed at will.

    python -m d2l_utils.experiment book/experiments/low_resolution.toml
    python -m d2l_utils.experiment GRID.toml --variant r56 --seed 0     # a part of it
    python -m d2l_utils.experiment GRID.toml --list                     # what is there, what is not

A record is `<results>/<grid>/<variant>-seed<k>.json`, written whole or not at all. A run whose
record is there is not done again, so several machines can share a grid, each with variants or seeds
of its own. A stopped run goes on after its last whole epoch. The records of the book's grids go to
`book/results`, their checkpoints and weights, which are not kept in git, to `checkpoints`; other
grids have both folders beside them.
Only int8 needs more than torch, numpy and tqdm.
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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 (the field's name for it)

from d2l_utils.cost import layer_costs
from d2l_utils.data import FashionMNIST
from d2l_utils.device import fast_precision, keep_memory, try_gpu
from d2l_utils.grid import Config, Grid, load_grid, transformed
from d2l_utils.models import VGG
from d2l_utils.trainer import Trainer, read_saved, whole_or_not_at_all

__all__ = ["Config", "Grid", "Run", "load_grid", "load_records", "replay"]


# --- one run ---------------------------------------------------------------------------------


class RecipeVGG(VGG):
    """A VGG that is trained as a `Config` says."""

    def __init__(self, config: Config, teacher: VGG | None = None):
        super().__init__(config.arch, config.lr, head=config.head, batch_norm=config.batch_norm)
        self.config = config
        self._teacher = [teacher]  # in a list, so that its weights are none of this model's

    def configure_optimizers(self):
        """Return SGD and its schedule; the trainer asks once, when the weights have been drawn."""
        c = self.config
        if not c.start:
            scale_start(self.net, c)
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
                targets = teacher.to(X.device)(X).float()
            loss = _distillation(logits, targets, loss, self.config)
        self.plot("loss", loss, train=True)
        return loss


@torch.no_grad()
def scale_start(net, config: Config) -> None:
    """Scale the weights that Xavier's rule drew to the start that a configuration asks for.

    Xavier's spread is sqrt(2 / (inputs + outputs)), Kaiming's sqrt(2 / inputs), so no other number
    is drawn than without it.
    """
    layers = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    if config.init == "kaiming":
        for layer in layers:
            layer.weight /= _xavier_gain(layer)
    if config.fc_gain:
        first = next(layer for layer in layers if isinstance(layer, torch.nn.Linear))
        first.weight *= config.fc_gain / _xavier_gain(first)


def _xavier_gain(layer) -> float:
    """Return the factor by which Xavier's rule draws closer than Kaiming's."""
    inputs, outputs = layer.weight[0].numel(), layer.weight[:, 0].numel()
    return (inputs / (inputs + outputs)) ** 0.5


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
    def predictions(self) -> Path:
        """The file of predicted classes, one per validation image, uint8."""
        return self.record.with_suffix(".predictions.npy")

    @property
    def checkpoint(self) -> Path:
        """The file that training goes on from."""
        return self.checkpoints / self.grid.name / f"{self.variant}-seed{self.seed}.pt"

    @property
    def weights(self) -> Path:
        """The file of the trained weights, for the variants that start from them."""
        return self.checkpoint.with_suffix(".weights.pt")

    @property
    def _settings(self) -> Path:
        return self.checkpoint.with_suffix(".settings.json")

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
            model = transformed(self.sibling(c.start).trained_model(), c.transform)
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
            ValueError: if they are damaged, or of another network, or the record is of other
                settings.
        """
        self.recorded()  # weights of other settings than the grid's must not be gone on from
        if not self.weights.exists():
            there = self.record.exists()
            remedy = f"delete {self.record} and train" if there else "train"
            raise FileNotFoundError(
                f"the weights of {self.variant} with seed {self.seed} are not on this machine "
                f"({self.weights}); {remedy} that run here first"
            )
        model, c = make_model(self.config), self.config
        model.eval()(torch.zeros(1, 1, c.resolution, c.resolution))
        try:
            model.load_state_dict(read_saved(self.weights))
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.weights} is damaged, or of another network than {self.variant}; delete it "
                f"and {self.record} to train again"
            ) from error
        return model

    def execute(self, precision: str | None = None) -> dict | None:
        """Train, write the record and return it; None if it was interrupted."""
        started = time.perf_counter()
        model, data = self.prepare()
        c = self.config
        trainer = Trainer(
            max(c.epochs, 1),
            num_gpus=0 if "int8" in c.transform else 1,
            precision=precision or c.precision or ("float32" if "int8" in c.transform else None),
            seed=self.seed,
            checkpoint=self.checkpoint if c.epochs else None,
        )
        if c.epochs:
            self._check_checkpoint()
            trainer.fit(model, data)
            if trainer.interrupted:
                return None
            final = {key: trainer.history[-1][key] for key in ("val_loss", "val_acc")}
        else:
            final = trainer.evaluate(model, data)
        earlier = sum(row["seconds"] for row in trainer.history[: trainer.resumed_epochs])
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
            "wall_seconds": earlier + time.perf_counter() - started,
            "resumed": trainer.resumed_epochs > 0,
            "finished": datetime.date.today().isoformat(),
        }
        self._keep_weights(model)
        self._keep_predictions(model, data, trainer)
        write_json(self.record, record)
        self.checkpoint.unlink(missing_ok=True)
        self._settings.unlink(missing_ok=True)
        return record

    def recorded(self) -> dict | None:
        """Return the record, or None if there is none.

        Raises:
            ValueError: if it is damaged or cannot be read, or was made with other settings than the
                grid has now.
        """
        if not self.record.exists():
            return None
        try:
            record = json.loads(self.record.read_text(encoding="utf-8"))
            was = _settings_then(record["config"])
            float(record["final"]["val_acc"])  # which the list shows
        except OSError as error:
            raise ValueError(f"{self.record} cannot be read: {error}") from error
        except (KeyError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"{self.record} is damaged; delete it to train again") from error
        if other := _differences(was, _settings_of(self.config)):
            message = f"{self.record} was made with other settings: {other}"
            raise ValueError(f"{message}; delete it to train again")
        return record

    def _check_checkpoint(self):
        """Refuse a checkpoint of other settings; the trainer itself does not know them all."""
        now = _settings_of(self.config)
        if self.checkpoint.exists() and self._settings.exists():
            try:
                was = _settings_then(json.loads(self._settings.read_text(encoding="utf-8")))
            except (RecursionError, TypeError, ValueError) as error:
                message = f"{self._settings} is damaged; delete it and {self.checkpoint}"
                raise ValueError(f"{message} to train from the first epoch on") from error
            if other := _differences(was, now):
                message = f"{self.checkpoint} was made with other settings: {other}"
                raise ValueError(f"{message}; delete it to train from the first epoch on")
        write_json(self._settings, now)

    def _keep_weights(self, model):
        others = self.grid.variants.values()
        if any(self.variant in (c.start, c.teacher) for c in others) or self._is_worth_shipping():
            with whole_or_not_at_all(self.weights) as part:
                torch.save(model.state_dict(), part)

    @torch.no_grad()
    def _keep_predictions(self, model, data, trainer):
        """Write the class that each image is taken for, in the data set's order."""
        trainer.prepare_data(data)
        batches = map(trainer.prepare_batch, trainer.val_dataloader)
        with trainer._autocast():
            classes = torch.cat([model(*batch[:-1]).argmax(dim=1) for batch in batches])
        with whole_or_not_at_all(self.predictions) as part, part.open("wb") as file:
            np.save(file, classes.to(torch.uint8).numpy(force=True))

    def _is_worth_shipping(self):
        return self.config.head == "gap"  # small enough to be kept


def _network(model, config) -> dict:
    # Pruning and int8 change neither the number of weights nor of multiply-accumulates.
    counted = model if "svd" in config.transform else make_model(config)
    rows = layer_costs(counted, (1, config.resolution, config.resolution))
    return {
        "params": sum(p.numel() for p in model.parameters()),
        "macs": sum(row.macs for row in rows),
    }


def replay(run: Run, precision: str, steps: int = 10, *, num_gpus: int = 0) -> list[float]:
    """Train the first steps of a run again and return their losses.

    They are those of the record, but for rounding: another processor, or another number of
    threads, adds in another order.

    Raises:
        FileNotFoundError: if it starts from weights that are not on this machine.
    """
    model, data = run.prepare()
    trainer = Trainer(max(run.config.epochs, 1), num_gpus, precision=precision, seed=run.seed)
    trainer.start(model, data)
    return [float(trainer.step(batch)) for batch in islice(trainer.train_dataloader, steps)]


# --- records ---------------------------------------------------------------------------------


def load_records(folder: str | os.PathLike) -> list[dict]:
    """Return all records below a folder of one grid, sorted by file name.

    Raises:
        FileNotFoundError: if there is none.
    """
    # A folder that is shared with checkpoints has their settings, too.
    there = Path(folder).glob("*-seed*.json")
    files = sorted(file for file in there if not file.name.endswith(".settings.json"))
    if not files:
        raise FileNotFoundError(f"there are no records in {folder}")
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def write_json(path: Path, content) -> None:
    """Write a JSON file whole or not at all."""
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    with whole_or_not_at_all(path) as part:
        part.write_text(text, encoding="utf-8")


def _settings_of(config: Config) -> dict:
    """Return the settings as JSON keeps them: with lists and no tuples."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def _settings_then(kept: dict) -> dict:
    """Return settings of earlier; one that did not exist yet had its default."""
    return _settings_of(Config(**kept))


def _differences(was: dict, now: dict) -> str:
    """Return how settings differ, "" if they do not."""
    pairs = {key: (was.get(key), now.get(key)) for key in was | now}
    return ", ".join(f"{key} {a}, now {b}" for key, (a, b) in pairs.items() if a != b)


def hardware(device: torch.device) -> dict:
    """Return what a time depends on: device, processor, threads, and how busy the machine was."""
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "amx": bool(torch.cpu._is_amx_tile_supported()),
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

# What may go wrong in one run and leaves the others to be done.
_FAILURES = (ArithmeticError, ImportError, OSError, RuntimeError, ValueError)


def runs_of(grid: Grid, results: Path, checkpoints: Path) -> Iterator[Run]:
    """Yield all runs: seed by seed, and what others start from before them."""
    for seed in sorted({seed for seeds in grid.seeds.values() for seed in seeds}):
        for variant in _sources_first(grid.variants):
            if seed in grid.seeds[variant]:
                yield Run(grid, variant, seed, results, checkpoints)


def _sources_first(variants: dict[str, Config]) -> list[str]:
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


def default_folders(grid_file: Path) -> tuple[Path, Path]:
    """Return the folders of records and of checkpoints: the book's, or beside any other grid."""
    folder = grid_file.resolve().parent
    if folder.parts[-2:] == ("book", "experiments"):
        return folder.parent / "results", folder.parents[1] / "checkpoints"
    return folder / "results", folder / "checkpoints"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing of the grids; return 0 if nothing is missing at the end."""
    options = _parser().parse_args(arguments)
    try:
        runs = _chosen_runs(options)
        missing = [] if options.list else [run for run in runs if not run.record.exists()]
        if missing:
            FashionMNIST()  # if it is not to be had, it is said once, and not for each run
            keep_memory()  # a step at 224 x 224 can take half the time on a CPU
        _execute(missing, options.precision)
    except KeyboardInterrupt:
        print("stopped; the same command goes on after the last whole epoch")
        return 130
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return _report(runs, options.list)


def _chosen_runs(options) -> list[Run]:
    runs = []
    for path in options.grids:
        results, checkpoints = default_folders(path)
        results, checkpoints = options.results or results, options.checkpoints or checkpoints
        runs += runs_of(load_grid(path), results, checkpoints)
    if len({run.record for run in runs}) < len(runs):
        raise ValueError("two of these grids have one name, so their records would be the same")
    for key in ("variant", "seed"):
        there = {getattr(run, key): None for run in runs}  # in the order of the grids
        for wanted in getattr(options, key) or ():
            if wanted not in there:
                known = ", ".join(map(str, there))
                raise ValueError(f"there is no {key} {wanted} in these grids; there are {known}")
    chosen = [
        run
        for run in runs
        if (not options.variant or run.variant in options.variant)
        and (not options.seed or run.seed in options.seed)
    ]
    if not chosen:
        raise ValueError("no run of these grids has such a variant and such a seed")
    return chosen


def _execute(missing: list[Run], precision: str | None) -> None:
    for number, run in enumerate(missing, 1):
        if run.record.exists():
            continue  # another process, which shares the grid, was there first
        print(f"[{number}/{len(missing)}] {_name(run)}", flush=True)
        device = try_gpu()
        if not precision and run.config.precision == "bfloat16" != fast_precision(device):
            print(f"  left out: {device} is not fast in bfloat16, which this run asks for")
            continue
        try:
            record = run.execute(precision)
        except _FAILURES as error:
            print(f"  failed: {error}", file=sys.stderr, flush=True)
            continue
        if record is None:
            raise KeyboardInterrupt
        accuracy, seconds = record["final"]["val_acc"], record["wall_seconds"]
        print(f"  accuracy {accuracy:.4f} ({record['validated_on']}), {seconds:.0f} s", flush=True)


def _report(runs: list[Run], show_all: bool) -> int:
    """Print what is recorded and what is not; return 0 if all is."""
    lines, count = [], 0
    for run in runs:
        try:
            record = run.recorded()
        except ValueError as error:
            lines.append(f"  wrong: {error}")
            continue
        count += record is not None
        if record is None:
            lines.append(f"  missing: {_name(run)}")
        elif show_all:
            lines.append(f"  {record['final']['val_acc']:.4f}   {_name(run)}")
    print(f"{count} of {len(runs)} runs are recorded")
    if lines:
        print("\n".join(lines))
    return 0 if count == len(runs) else 1


def _name(run: Run) -> str:
    return f"{run.grid.name}/{run.variant} seed {run.seed}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m d2l_utils.experiment",
        description="Train what is missing of a grid: of each variant with each seed. Stop it with "
        "Ctrl-C; the same command goes on. It ends with status 0 if nothing is missing, 1 if "
        "something is, 2 if it was asked for something impossible, 130 if it was stopped.",
    )
    add = parser.add_argument
    add("grids", nargs="+", type=Path, metavar="GRID.toml", help="what to train")
    add("--variant", action="append", metavar="NAME", help="only this variant (repeatable)")
    add("--seed", action="append", type=int, metavar="N", help="only this seed (repeatable)")
    precisions = ("float32", "bfloat16")
    add("--precision", choices=precisions, help="instead of what the device is fast in")
    add("--list", action="store_true", help="train nothing; say what is recorded and what is not")
    add(
        "--results",
        type=Path,
        metavar="FOLDER",
        help="of the records, instead of results/ beside the grid (book/results for the book's)",
    )
    add(
        "--checkpoints",
        type=Path,
        metavar="FOLDER",
        help="of checkpoints and weights, instead of checkpoints/ beside the grid (or the book)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
