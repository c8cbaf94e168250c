"""The laboratory's command: trains what is missing of a grid.

python -m d2l_lab book/experiments/low_resolution.toml
python -m d2l_lab GRID.toml --variant r56 --seed 0     # a part of it
python -m d2l_lab GRID.toml --list                     # what is there, what is not
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from d2l_lab.grid import Config, Grid, load_grid
from d2l_lab.run import Run, default_folders
from d2l_utils.data import FashionMNIST
from d2l_utils.device import fast_precision, keep_memory, try_gpu

__all__ = ["main", "runs_of"]

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
        prog="python -m d2l_lab",
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
