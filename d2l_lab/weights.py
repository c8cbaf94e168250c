"""Trained weights to take along: one safetensors file with the network's description in it.

    python -m d2l_lab export book/experiments/low_resolution.toml final 0 winner.safetensors

writes the weights of a run that was trained on this machine. Reading them needs no grid.
"""

import argparse
import json
import os
from pathlib import Path

import safetensors.torch

from d2l_lab.grid import load_grid
from d2l_lab.records import note
from d2l_lab.run import Run, default_folders
from d2l_utils.files import atomic_write
from d2l_utils.meta import materialize
from d2l_utils.models import VGG

# What of a record goes into the file.
_CARD = (
    "experiment",
    "variant",
    "seed",
    "config",
    "validated_on",
    "network",
    "final",
    "precision",
    "versions",
    "finished",
)


def export(run: Run, path: str | os.PathLike) -> None:
    """Write the trained weights of a run, as they are, and what its record says of them.

    Raises:
        FileNotFoundError: if it is not recorded, or its weights are not on this machine.
        ValueError: if its record or its weights belong to other settings, or it is a transformed
            network.
    """
    if run.config.transform:
        raise ValueError(f"{run.variant} is a transformed network; only plain ones can be kept")
    record = run.recorded()
    if record is None:
        raise FileNotFoundError(f"there is no record of this run: {run.record}")
    weights = {name: w.contiguous() for name, w in run.trained_model().state_dict().items()}
    card = {key: json.dumps(record[key]) for key in _CARD}  # the format's metadata are strings
    with atomic_write(Path(path)) as part:
        part.write_bytes(safetensors.torch.save(weights, card))


def load_card(path: str | os.PathLike) -> dict:
    """Return what the file says of its network: how it was trained, and how well it did.

    Raises:
        ValueError: if it is not one that `export` wrote.
    """
    return _read(path)[0]


def load_model(path: str | os.PathLike) -> VGG:
    """Return the trained network, in evaluation mode.

    Raises:
        RuntimeError: if the weights are not those of the network that it describes.
        ValueError: if it is not one that `export` wrote.
    """
    card, weights = _read(path)
    c = card["config"]
    model = VGG(c["arch"], c["lr"], head=c["head"], batch_norm=c["batch_norm"])
    # On the meta device nothing is drawn, so that the caller's random numbers stay as they are.
    model = materialize(model, (1, c["resolution"], c["resolution"]))
    model.load_state_dict(weights, assign=True)
    return model


def _read(path):
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            card = {key: json.loads(file.metadata()[key]) for key in _CARD}
            return card, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (KeyError, safetensors.SafetensorError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no file that `export` wrote: {error}") from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m d2l_lab export`, but for the folders."""
    add = parser.add_argument
    add("grid", type=Path, metavar="GRID.toml", help="the grid of the run")
    add("variant", metavar="VARIANT", help="the run's variant")
    add("seed", type=int, metavar="SEED", help="the run's seed")
    add("file", type=Path, metavar="FILE.safetensors", help="the file to write")


def run(options: argparse.Namespace) -> int:
    """Write the weights of a run, and say what is in the file."""
    results, checkpoints = default_folders(options.grid)
    grid = load_grid(options.grid)
    if options.seed not in grid.seeds.get(options.variant, ()):
        raise ValueError(f"{options.grid} has no {options.variant} with seed {options.seed}")
    folders = options.results or results, options.checkpoints or checkpoints
    export(Run(grid, options.variant, options.seed, *folders), options.file)
    note({options.file: options.file.read_bytes()})
    card, size = load_card(options.file), options.file.stat().st_size
    params, accuracy = card["network"]["params"], card["final"]["val_acc"]
    print(f"{options.file}: {params:,} parameters, {size:,} bytes, accuracy {accuracy:.4f}")
    return 0
