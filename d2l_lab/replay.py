"""The first steps of a recorded run again: do the losses still come out?

Processors round differently, and training makes more of it with each step. So the first two steps,
in which nothing has grown yet, are held tightly, and the rest by what rounding was measured to do.
All is a share of the range that the ten recorded losses span.
"""

from functools import cache
from itertools import islice
from pathlib import Path

import torch

from d2l_lab.grid import load_grid
from d2l_lab.machine import hardware
from d2l_lab.run import Run, default_folders
from d2l_utils.device import cpu, fast_precision, try_gpu
from d2l_utils.trainer import Trainer

_grid = cache(load_grid)


def run_of(record: dict, experiments: Path) -> Run:
    """Return the run that a record of the grids in this folder is of."""
    path = experiments / f"{record['experiment']}.toml"
    return Run(_grid(path), record["variant"], record["seed"], *default_folders(path))


def why_not(record: dict, run: Run) -> str | None:
    """Return why this machine cannot replay a record, or None if it can."""
    on_cpu = record["hardware"]["device"] == "cpu"
    device = cpu() if on_cpu else try_gpu()
    if not record["first_losses"]:
        return "it took no steps"
    if device.type == "cpu" and not on_cpu:
        return f"it was recorded on {record['hardware']['device']}"
    if record["precision"] == "bfloat16" != fast_precision(device):
        return "this machine emulates bfloat16"
    for source in run.sources:
        if not source.weights.exists():
            return f"the weights of {source.variant} are not on this machine"
    return None


def replay(run: Run, precision: str, steps: int = 10, *, num_gpus: int = 0) -> list[float]:
    """Train the first steps of a run again and return their losses."""
    model, data = run.prepare()
    trainer = Trainer(max(run.config.epochs, 1), num_gpus, precision=precision, seed=run.seed)
    trainer.start(model, data)
    return [float(trainer.step(batch)) for batch in islice(trainer.train_dataloader, steps)]


def replayed(record: dict, run: Run) -> str | None:
    """Replay a record; return None if its losses come out, else all that tells why they may not."""
    threads = torch.get_num_threads()
    # A sum that more threads share is rounded otherwise.
    torch.set_num_threads(min(threads, record["hardware"].get("threads", threads)))
    try:
        return _compared(record, run)
    finally:
        torch.set_num_threads(threads)


def _compared(record: dict, run: Run) -> str | None:
    recorded = record["first_losses"]
    on_cpu = record["hardware"]["device"] == "cpu"
    losses = replay(run, record["precision"], len(recorded), num_gpus=0 if on_cpu else 1)
    for step, share in enumerate(deviation(losses, recorded), 1):
        allowed = limit(record, step)
        if not share <= allowed:
            here = hardware(cpu() if on_cpu else try_gpu())
            return (
                f"step {step} of {run} is off by {share:.4f} of the range of its losses, the limit "
                f"is {allowed}; recorded on {_machine(record['hardware'])}, replayed on "
                f"{_machine(here)}: {losses}, recorded {recorded}"
            )
    return None


def deviation(losses: list[float], recorded: list[float]) -> list[float]:
    """Return for each step the difference, as a share of the range of the recorded losses."""
    span = max(recorded) - min(recorded)
    return [abs(a - b) / span for a, b in zip(losses, recorded, strict=True)]


def limit(record: dict, step: int) -> float:
    """Return how far a step, the first of which is 1, may lead away."""
    if step <= 2:
        return 0.004
    return 0.12 if record["config"]["batch_norm"] else 0.02


def _machine(hardware: dict) -> str:
    parts = ("processor", "threads", "cpu_capability", "onednn_max_cpu_isa")
    said = ", ".join(f"{key} {hardware[key]}" for key in parts if hardware.get(key))
    return f"{hardware['device']} ({said})"
