"""The laboratory's command: it trains, times, exports and replays what the book reports.

python -m d2l_lab train book/experiments/low_resolution.toml
python -m d2l_lab train GRID.toml --variant r56 --seed 0    # a part of it
python -m d2l_lab train GRID.toml --list                    # what is there, what is not
python -m d2l_lab train GRID.toml --ray 10.0.0.1:6379       # on a Ray cluster
python -m d2l_lab time                                      # how long the networks take here
python -m d2l_lab time --keep-memory                        # with `d2l.keep_memory()`
python -m d2l_lab time --quick --results rehearsal          # small images, in one minute
python -m d2l_lab time --part engines                       # a head in int8, by engine
python -m d2l_lab bench                                     # beside d2l, torchinfo and others
python -m d2l_lab export GRID.toml final 0 final.safetensors
python -m d2l_lab replay book/results/low_resolution/final-seed0.json
python -m d2l_lab digests book/results                      # is it what was recorded?
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path

from filelock import Timeout

from d2l_lab import bench, engines, timing
from d2l_lab.cluster import train_on_ray
from d2l_lab.grid import load_grid
from d2l_lab.machine import avoid_amx
from d2l_lab.records import differences, note
from d2l_lab.replay import replayed, run_of, why_not
from d2l_lab.run import Run, default_folders
from d2l_lab.weights import export, load_card
from d2l_utils.data import FashionMNIST
from d2l_utils.device import keep_memory


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return 0 if it went well, 1 if not wholly, 2 if not at all."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except KeyboardInterrupt:
        print("stopped; the same command goes on after the last whole epoch")
        return 130
    except BrokenPipeError:
        raise
    except (ImportError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2


# --- train --------------------------------------------------------------------------------------


def _train(options) -> int:
    runs = _chosen_runs(options)
    if not options.list:
        for run in {run.grid.name: run for run in runs}.values():
            run.tidy()
    missing = [] if options.list else [run for run in runs if not run.record.exists()]
    if missing and options.ray is not None:
        train_on_ray(missing, options.ray, options.cores, options.precision)
    elif missing:
        FashionMNIST()  # if it is not to be had, it is said once, and not for each run
        keep_memory()  # a step at 224 x 224 can take half the time on a CPU
        _train_here(missing, options.precision)
    return _report(runs, options.list)


def _chosen_runs(options) -> list[Run]:
    """Return the runs of the grids that are asked for, seed by seed."""
    runs = []
    for path in options.grids:
        grid, (results, checkpoints) = load_grid(path), default_folders(path)
        folders = options.results or results, options.checkpoints or checkpoints
        of_grid = [Run(grid, v, seed, *folders) for v in grid.variants for seed in grid.seeds[v]]
        runs += sorted(of_grid, key=attrgetter("seed"))
    if len({run.record for run in runs}) < len(runs):
        raise ValueError("two of these grids have one name, so their records would be the same")
    for key in ("variant", "seed"):
        there = {getattr(run, key): None for run in runs}  # in the order of the grids
        for wanted in getattr(options, key) or ():
            if wanted not in there:
                known = ", ".join(map(str, there))
                raise ValueError(f"there is no {key} {wanted} in these grids; there are {known}")
        runs = [run for run in runs if getattr(run, key) in (getattr(options, key) or there)]
    return runs


def _train_here(missing: list[Run], precision: str | None) -> None:
    """Do one run after the other; what another process is at comes last, when that is done."""
    pending = {run.record: run for run in missing}
    while pending:
        before = len(pending)
        for record, run in list(pending.items()):
            if any(source.record in pending for source in run.sources):
                continue
            try:
                with run.reserved():
                    if not record.exists():
                        number = len(missing) - len(pending) + 1
                        print(f"[{number}/{len(missing)}] {run}", flush=True)
                        done = run.execute(precision)
                        if done is None:
                            raise KeyboardInterrupt
                        score = f"{done['final']['val_acc']:.4f} ({done['validated_on']})"
                        print(f"  accuracy {score}, {done['wall_seconds']:.0f} s", flush=True)
            except Timeout:
                continue
            except Exception as error:  # the others are still to be done
                reason = str(error) or type(error).__name__
                print(f"  failed: {reason}", file=sys.stderr, flush=True)
            del pending[record]
        if len(pending) == before:
            time.sleep(1)


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
            lines.append(f"  missing: {run}")
        elif show_all:
            lines.append(f"  {record['final']['val_acc']:.4f}   {run}")
    print("\n".join([f"{count} of {len(runs)} runs are recorded", *lines]))
    return 0 if count == len(runs) else 1


# --- the other commands -------------------------------------------------------------------------


def _time(options) -> int:
    return (engines if options.part == "engines" else timing).run(options)


def _export(options) -> int:
    (run,), file = _chosen_runs(options), options.file
    export(run, file)
    note({file: file.read_bytes()})
    card, size = load_card(file), file.stat().st_size
    params, accuracy = card["network"]["params"], card["final"]["val_acc"]
    print(f"{file}: {params:,} parameters, {size:,} bytes, accuracy {accuracy:.4f}")
    return 0


def _replay(options) -> int:
    avoid_amx()
    wrong = 0
    for file in options.records:
        record = json.loads(file.read_text(encoding="utf-8"))
        run = run_of(record, file.resolve().parents[2] / "experiments")
        if reason := why_not(record, run):
            print(f"skipped: {run}: {reason}", flush=True)
            continue
        reason = replayed(record, run)
        wrong += reason is not None
        print(f"wrong: {reason}" if reason else f"right: {run}", flush=True)
    return 1 if wrong else 0


def _digests(options) -> int:
    lines = differences(options.results, mend=options.mend)
    print("\n".join(lines) or "all is as it was recorded")
    return 1 if any(line.startswith("changed") or not options.mend for line in lines) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m d2l_lab", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, function, description):
        sub = commands.add_parser(name, help=description, description=description)
        sub.set_defaults(command=function)
        return sub

    sub = command("train", _train, "Train what is missing of a grid. Stop it with Ctrl-C at will.")
    add = sub.add_argument
    add("grids", nargs="+", type=Path, metavar="GRID.toml", help="what to train")
    add("--variant", action="append", metavar="NAME", help="only this variant (repeatable)")
    add("--seed", action="append", type=int, metavar="N", help="only this seed (repeatable)")
    precisions = ("float32", "bfloat16")
    add("--precision", choices=precisions, help="instead of what the grid or the device says")
    add("--list", action="store_true", help="train nothing; say what is recorded and what is not")
    ray = "on the Ray cluster at this address, or on one that is started here"
    add("--ray", nargs="?", const="local", metavar="ADDRESS", help=ray)
    add("--cores", type=int, default=2, help="that each run takes on a Ray cluster (default: 2)")
    _add_folders(sub)

    sub = command("time", _time, "Time the networks on this machine at rest.")
    what = "networks, their layers and heads (the default), or a head in int8 by engine"
    sub.add_argument("--part", choices=("networks", "engines"), default="networks", help=what)
    keep = "only the CPU, and with memory that is kept from step to step"
    sub.add_argument("--keep-memory", action="store_true", help=keep)
    _add_rehearsal(sub)

    what = "Time this package beside what readers would use instead."
    sub = command("bench", bench.run, what)
    only = "measure only rows whose name holds this; the others of the book's record stay"
    sub.add_argument("--only", default="", metavar="TEXT", help=only)
    _add_rehearsal(sub)

    sub = command("export", _export, "Write a run's trained weights to a safetensors file.")
    sub.add_argument("grids", nargs=1, type=Path, metavar="GRID.toml", help="the grid of the run")
    sub.add_argument("variant", nargs=1, metavar="VARIANT", help="the run's variant")
    sub.add_argument("seed", nargs=1, type=int, metavar="SEED", help="the run's seed")
    sub.add_argument("file", type=Path, metavar="FILE.safetensors", help="the file to write")
    _add_folders(sub)

    sub = command("replay", _replay, "Train the first steps of recorded runs again, and compare.")
    sub.add_argument("records", nargs="+", type=Path, metavar="RECORD.json", help="of the book")

    sub = command("digests", _digests, "Compare a folder of results with its manifest.")
    sub.add_argument("results", type=Path, metavar="FOLDER", help="that holds SHA256SUMS")
    sub.add_argument("--mend", action="store_true", help="note new files, forget those gone")
    return parser


def _add_rehearsal(parser):
    results = "of the record (default: book/results/speed, but not for a rehearsal)"
    parser.add_argument("--quick", action="store_true", help="little, and once: a rehearsal")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help=results)


def _add_folders(parser):
    results = "of the records, instead of results/ beside the grid (or the book's)"
    checkpoints = "of checkpoints and weights, instead of checkpoints/ beside it (or the book)"
    parser.add_argument("--results", type=Path, metavar="FOLDER", help=results)
    parser.add_argument("--checkpoints", type=Path, metavar="FOLDER", help=checkpoints)


if __name__ == "__main__":
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough; Python would complain once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)
