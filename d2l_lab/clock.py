"""Times that can be compared: taken in turn, round by round, by torch's own timer; their records.

A record keeps one time a round, so that time `i` of one row was taken next to time `i` of another.
"""

import argparse
import dataclasses
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from d2l_lab.machine import hardware, versions
from d2l_lab.records import note, write_json
from d2l_utils.data import DataModule
from d2l_utils.device import fast_precision

REPOSITORY = Path(__file__).parents[1]


def seconds(run: Callable, at_least: float) -> float:
    """Return the time of a call, the median over this many seconds, after one that warms up."""
    from torch.utils.benchmark import Timer  # slow to import, and looks for a CUDA compiler

    timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=at_least).median


def in_turn(rows: list, plan) -> list[dict]:
    """Measure rows `(description, run)` in turn, and return each with its times as `seconds`.

    Those that a GPU's memory does not suffice for, beside what the others keep there, are left out.
    """
    for row, _ in rows:
        row["seconds"] = []
    for _ in range(plan.rounds):
        for row, run in rows:
            with suppress(torch.OutOfMemoryError):
                row["seconds"].append(seconds(run, plan.seconds))
    return [row for row, _ in rows if len(row["seconds"]) == plan.rounds]


class Batches(DataModule):
    """Batches to train on that are there already, and none to validate on."""

    def __init__(self, *batches):
        super().__init__()
        self.batches = batches

    def get_dataloader(self, train):
        """Return the batches, as trainers ask for them."""
        return self.batches if train else None


def noise(batch_size: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch of noise, whose labels are right once in ten."""
    return torch.randn(batch_size, 1, side, side), torch.arange(batch_size) % 10


# --- records -----------------------------------------------------------------------------------


def about(device: torch.device, plan, *packages: str) -> dict:
    """Return what a record begins with; taken first, its load is that without the measurement."""
    plan = dataclasses.asdict(plan)
    return {"hardware": hardware(device), "versions": versions(*packages), "plan": plan}


def keep(record: dict, name: str, options: argparse.Namespace) -> None:
    """Write a record to the folder of `--results`, else to the book's, but no rehearsal there."""
    if options.results or not options.quick:
        folder = options.results or REPOSITORY / "book" / "results" / "speed"
        path = folder / f"{name}.json"
        write_json(path, record)
        note({path: path.read_bytes()})
        print(path)


def file_name(machine: dict, device: torch.device) -> str:
    """Return the name of a machine's records."""
    name = machine["device"]
    if device.type == "cpu":  # processors of one name differ in their instructions
        name += f" {machine['processor']} {machine['cores']} cores {fast_precision(device)}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
