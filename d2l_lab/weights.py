"""Trained weights to take along: one safetensors file with the network's description in it.

Reading them needs no grid.
"""

import json
import os
from pathlib import Path

import msgspec
import safetensors.torch

from d2l_lab.grid import Config, structure
from d2l_lab.run import Run
from d2l_utils.files import atomic_write
from d2l_utils.models import VGG

# What of a record tells of its training, and not of the network that came out.
_LEFT_OUT = ("history", "first_losses", "hardware", "wall_seconds", "resumed")


def export(run: Run, path: str | os.PathLike) -> None:
    """Write the trained weights of a run, as they are, and what its record says of them.

    What has no record, or weights of other settings, or was transformed, is refused.
    """
    if run.config.transform:
        raise ValueError(f"{run.variant} is a transformed network; only plain ones can be kept")
    record = run.recorded()
    if record is None:
        raise FileNotFoundError(f"there is no record of this run: {run.record}")
    weights = {name: w.contiguous() for name, w in run.trained_model().state_dict().items()}
    # The format's metadata are strings.
    card = {key: json.dumps(value) for key, value in record.items() if key not in _LEFT_OUT}
    with atomic_write(Path(path)) as part:
        part.write_bytes(safetensors.torch.save(weights, card))


def load_card(path: str | os.PathLike) -> dict:
    """Return what the file says of its network: how it was trained, and how well it did."""
    return _read(path)[0]


def load_model(path: str | os.PathLike) -> VGG:
    """Return the trained network, in evaluation mode; the caller's random numbers stay the same."""
    _, config, weights = _read(path)
    model = structure(config)
    model.load_state_dict(weights, assign=True)
    return model


def _read(path):
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            card = {key: json.loads(text) for key, text in (file.metadata() or {}).items()}
            config = msgspec.convert(card["config"], Config)
            return card, config, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (KeyError, safetensors.SafetensorError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no file that `export` wrote: {error}") from error
