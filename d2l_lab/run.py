"""One run of a grid: trained, recorded, resumed.

A record is `<results>/<grid>/<variant>-seed<k>.json`, written whole or not at all, with the
predictions beside it. A run whose record is there is not done again; a stopped one goes on after
its last whole epoch. The records of the book's grids go to `book/results`, their checkpoints and
weights, which are not kept in git, to `checkpoints`; other grids have both folders beside them.
"""

import dataclasses
import datetime
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch

from d2l_lab.grid import Config, Grid, transformed
from d2l_lab.machine import hardware, versions
from d2l_lab.recipe import RecipeVGG
from d2l_lab.records import locked, note, tidy, write_json
from d2l_utils.checkpoint import differences, flat, read_saved, save
from d2l_utils.cost import layer_costs
from d2l_utils.data import FashionMNIST
from d2l_utils.device import fast_precision, try_gpu
from d2l_utils.files import atomic_write
from d2l_utils.trainer import Trainer


@dataclass(frozen=True)
class Run:
    """One run of a grid, and the folders that its files lie in."""

    grid: Grid
    variant: str
    seed: int  # of weights, order, dropout and augmentation
    results: Path
    checkpoints: Path

    def __str__(self):
        return f"{self.grid.name}/{self.variant} seed {self.seed}"

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
    def sources(self) -> list["Run"]:
        """The runs that must be done first: what it starts from, and its teacher."""
        return [self.sibling(variant) for variant in self.config.sources]

    def sibling(self, variant: str) -> "Run":
        """Return the run of another variant with the same seed."""
        return dataclasses.replace(self, variant=variant)

    def tidy(self) -> None:
        """Remove what processes that were killed have left of any run in this run's folders."""
        tidy(self.results, self.results)
        for folder in (self.record.parent, self.checkpoint.parent):
            tidy(folder, self.record.parent)

    @contextmanager
    def reserved(self) -> Iterator[None]:
        """Keep other processes from this run; raise filelock.Timeout if one is at it."""
        self.tidy()  # also of a process that was killed while this one waited for it
        # A second's patience: another process may be tidying.
        with locked(self.record.with_suffix(".lock"), timeout=1):
            yield

    def prepare(self) -> tuple[RecipeVGG, FashionMNIST]:
        """Return model and data, ready to be trained."""
        c = self.config
        teacher = self.sibling(c.teacher).trained_model() if c.teacher else None
        if c.start:
            model = transformed(self.sibling(c.start).trained_model(), c.transform)
            model.follow(c, teacher)
        else:
            model = RecipeVGG(c, teacher)
        model.board.display = False  # or each run would leave a figure open
        return model, FashionMNIST(
            c.batch_size,
            c.input_shape[1:],
            holdout=c.holdout,
            train_size=c.train_size or None,
            augment=c.augment,
        )

    def trained_model(self) -> RecipeVGG:
        """Return the network with the weights that this run ended with."""
        self.recorded()  # weights of other settings than the grid's must not be gone on from
        if not self.weights.exists():
            remedy = f"delete {self.record} and train" if self.record.exists() else "train"
            raise FileNotFoundError(
                f"the weights of {self.variant} with seed {self.seed} are not on this machine "
                f"({self.weights}); {remedy} that run here first"
            )
        model = RecipeVGG(self.config).eval()
        model(torch.zeros(1, *self.config.input_shape))
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
        if self._is_finished():
            self._put_in_place()
            return self.recorded()
        started, c = time.perf_counter(), self.config
        model, data = self.prepare()
        trainer = self._trainer(precision)
        if c.epochs:
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
            "config": msgspec.to_builtins(c),
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
        write_json(self.checkpoint, record)
        self._put_in_place()
        return record

    def _trainer(self, precision) -> Trainer:
        c, int8 = self.config, "int8" in self.config.transform
        fast = "float32" if int8 else fast_precision(try_gpu())
        if not precision and c.precision == "bfloat16" != fast:
            raise ValueError(
                f"{self} asks for bfloat16, in which {try_gpu()} is not fast, so it is left out; "
                "--precision takes another"
            )
        return Trainer(
            max(c.epochs, 1),
            num_gpus=0 if int8 else 1,
            precision=precision or c.precision or fast,
            seed=self.seed,
            checkpoint=self.checkpoint if c.epochs else None,
        )

    def recorded(self) -> dict | None:
        """Return the record, or None; raise ValueError if it is damaged or of other settings."""
        if not self.record.exists():
            return None
        try:
            record = json.loads(self.record.read_text(encoding="utf-8"))
            was = msgspec.convert(record["config"], Config)  # what did not exist yet: its default
            float(record["final"]["val_acc"])  # which the list shows
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.record} is damaged; delete it to train again") from error
        was, now = (flat(msgspec.to_builtins(config)) for config in (was, self.config))
        if other := differences(was, now):
            message = f"{self.record} was made with other settings: {other}"
            raise ValueError(f"{message}; delete it to train again")
        return record

    def _is_finished(self) -> bool:
        """Whether a record stands in the checkpoint's place: one rename was still to be done."""
        if not self.checkpoint.exists():
            return False
        with self.checkpoint.open("rb") as file:
            return file.read(1) == b"{"

    def _put_in_place(self):
        """Make a record of what stands in the checkpoint's place, so that never both are there."""
        contents = {self.record: self.checkpoint, self.predictions: self.predictions}
        note({file: content.read_bytes() for file, content in contents.items()})
        try:
            os.replace(self.checkpoint, self.record)
        except OSError:  # it lies on another file system
            with atomic_write(self.record) as part:
                shutil.copyfile(self.checkpoint, part)
            self.checkpoint.unlink()

    def _keep_weights(self, model):
        others = self.grid.variants.values()
        worth_shipping = self.config.head == "gap"  # small enough to be kept
        if worth_shipping or any(self.variant in c.sources for c in others):
            save(model.state_dict(), self.weights)

    @torch.no_grad()
    def _keep_predictions(self, model, data, trainer):
        """Write the class that each image is taken for, in the data set's order."""
        trainer.prepare_data(data)
        batches = map(trainer.prepare_batch, trainer.val_dataloader)
        with trainer._autocast():
            classes = torch.cat([model(*batch[:-1]).argmax(dim=1) for batch in batches])
        with atomic_write(self.predictions) as part, part.open("wb") as file:
            np.save(file, classes.to(torch.uint8).numpy(force=True))


def _network(model, config) -> dict:
    # Pruning and int8 change neither the number of weights nor of multiply-accumulates.
    counted = model if "svd" in config.transform else RecipeVGG(config)
    macs = sum(row.macs for row in layer_costs(counted, config.input_shape))
    return {"params": sum(p.numel() for p in model.parameters()), "macs": macs}


def default_folders(grid_file: Path) -> tuple[Path, Path]:
    """Return the folders of records and of checkpoints: the book's, or beside any other grid."""
    folder = grid_file.resolve().parent
    if folder.parts[-2:] == ("book", "experiments"):
        return folder.parent / "results", folder.parents[1] / "checkpoints"
    return folder / "results", folder / "checkpoints"
