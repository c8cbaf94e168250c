"""Reads what the experiments recorded: runs of training as a table, and the speed of machines."""

import json
from pathlib import Path

__all__ = ["results", "speed"]

# An installed package carries the records; in the repository they lie with the book.
_FOLDER = Path(__file__).parent / "recorded"
if not _FOLDER.is_dir():
    _FOLDER = Path(__file__).parents[1] / "book" / "results"


def results(experiment: str):
    """Return the recorded runs of an experiment as a pandas DataFrame, one row per run.

    The files are found from wherever a notebook lies. Columns:

    * `variant`, `seed`: the entry of the experiment's grid, and the seed of its run;
    * `accuracy`, `loss`: after the last epoch, on the experiment's validation images (D2L's
      sections, and so most experiments, take the test set; choices were made on held-out images);
    * `macs`, `params`: multiply-accumulates per image, and weights;
    * `precision`, `device`: "float32" or "bfloat16", and the processor's or GPU's kind;
    * `seconds`: wall-clock time of the run, evaluation included;
    * `history`: one dict per epoch, as `Trainer.history`.

    Args:
        experiment: the name of a grid in the book's experiments, such as "low_resolution".

    Raises:
        FileNotFoundError: if there is no such experiment.

    >>> results("low_resolution").groupby("variant").accuracy.count()["final"]
    np.int64(5)
    """
    import pandas as pd

    files = sorted((_FOLDER / experiment).glob("*-seed*.json"))
    if not files:
        there = ", ".join(sorted({file.parent.name for file in _FOLDER.glob("*/*-seed*.json")}))
        raise FileNotFoundError(f"experiment is {experiment!r}; there are records of: {there}")
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return pd.DataFrame(
        {
            "variant": record["variant"],
            "seed": record["seed"],
            "accuracy": record["final"]["val_acc"],
            "loss": record["final"]["val_loss"],
            "macs": record["network"]["macs"],
            "params": record["network"]["params"],
            "precision": record["precision"],
            "device": record["hardware"]["device"],
            "seconds": record["wall_seconds"],
            "history": record["history"],
        }
        for record in records
    )


def speed(machine: str) -> dict:
    """Return the times and peaks of memory that were recorded on one machine.

    The record holds `hardware`, `versions` and lists of measurements: `peak_memory`,
    `network_times`, `layer_times`, `head_times` and `rates`. Times are in seconds, one per round.

    Raises:
        FileNotFoundError: if there is no record of such a machine.

    >>> speed("nvidia-h100-80gb-hbm3")["peak_memory"][0]
    {'network': 'VGG-11', 'batch': 1, 'peak_bytes': 1166176768}
    """
    file = _FOLDER / "speed" / f"{machine}.json"
    if not file.exists():
        there = ", ".join(sorted(path.stem for path in file.parent.glob("*.json")))
        raise FileNotFoundError(f"machine is {machine!r}; there are records of: {there}")
    return json.loads(file.read_text(encoding="utf-8"))
