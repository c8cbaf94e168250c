"""Plants faults in the packages and counts how many the tests notice: `make mutants`.

Cosmic Ray's operators change one place of one module, in a copy of the repository, and the tests
of that module run. The same seed plants the same faults. A survivor that changes nothing that a
reader or a run could notice stands in `mutate_code.toml`, with the reason.
"""

import argparse
import ast
import contextlib
import difflib
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from pathlib import Path

import cosmic_ray.plugins
import hypothesis  # noqa: F401 (this and others are here so that no fork has to import them)
import nbformat  # noqa: F401
import pytest
import torch  # noqa: F401
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

ROOT = Path(__file__).parents[1]
CONFIG = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "_build", "data", "checkpoints", "__pycache__")
NAMES = [name for name in cosmic_ray.plugins.operator_names() if re.search(CONFIG["use"], name)]
OPERATORS = [cosmic_ray.plugins.get_operator(name)() for name in NAMES]


def tests_of(module):
    """Returns what pytest is to run: the module's examples, and tests of its name or as listed."""
    package, name = module.removesuffix(".py").split("/")
    folder = {"d2l_utils": "tests/library", "d2l_lab": "tests/lab"}[package]
    names = CONFIG["tests"].get(module, [name])
    files = [f"{folder}/test_{name}.py" for name in names]
    return ["--doctest-modules", module, *files, *CONFIG["options"].get(module, [])]


def faults(module, count):
    """Yields (what was changed, code with the fault), one for each of `count` places at random."""
    source = (ROOT / module).read_text(encoding="utf-8")
    nodes = [*ast_nodes(get_ast(source))]
    places = {}

    def luck(place):  # by the line, so that a change elsewhere draws no other faults
        (line, column), _ = place
        return random.Random(f"{CONFIG['seed']} {source.splitlines()[line - 1]} {column}")

    for operator in OPERATORS:
        found = (place for node in nodes for place in operator.mutation_positions(node))
        for number, place in enumerate(found):
            places.setdefault(place, []).append((operator, number))
    for place in sorted(places, key=lambda place: luck(place).random()):
        code = mutate_code(source, *luck(place).choice(places[place]))
        if compiles(code):
            lines = [*difflib.ndiff(source.splitlines(), code.splitlines())]
            was, now = (" ".join(x[2:].strip() for x in lines if x[0] == sign) for sign in "-+")
            yield f"{module}:{place[0][0]}: {was} → {now}", code
            count -= 1
        if not count:
            return


def compiles(code):
    with contextlib.suppress(SyntaxError):
        return ast.parse(code)


def outcome(copy, tests, limit):
    """Runs tests in a fork, which has torch imported: did they let a fault survive, or kill it?"""
    started, child = time.monotonic(), os.fork()
    if not child:
        status = 1
        try:
            os.setsid()
            os.chdir(copy)
            sys.path[0] = os.environ["PYTHONPATH"] = str(copy)
            log = os.open("tests.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1), os.dup2(log, 2)
            options = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore:Module already imported"]
            status = pytest.main([*options, *tests])
        finally:
            os._exit(status)
    while not (ended := os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)):
        if time.monotonic() - started > limit:
            break
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # a test that hangs, and what outlives its test
    status = os.waitpid(child, 0)[1]
    return "timed out" if not ended else "killed" if status else "survived"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("modules", nargs="*", help="such as d2l_utils/cost.py; without any, all")
    parser.add_argument("--count", type=int, help="faults to plant in each; else as listed")
    parser.add_argument("--record", type=Path, default=Path(os.devnull), help="to go on from")
    options = parser.parse_args()
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    everything = [f"{file.parent.name}/{file.name}" for file in sorted(ROOT.glob("d2l_*/*.py"))]
    before = options.record.read_text("utf-8").splitlines() if options.record.exists() else []
    equivalent = {change for part in CONFIG["equivalent"].values() for change in part}
    verdicts = Counter()
    lines = {"buffering": 1, "encoding": "utf-8"}
    with tempfile.TemporaryDirectory() as folder, options.record.open("a", **lines) as record:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=NOT_COPIED)
        if (ROOT / "data").exists():
            (copy / "data").symlink_to(ROOT / "data")
        for module in options.modules or everything:
            planted = [*faults(module, options.count or CONFIG["count"].get(module, 5))]
            tests, right = tests_of(module), (copy / module).read_text("utf-8")
            started = time.monotonic()
            if planted and outcome(copy, tests, limit=600) != "survived":
                log = (copy / "tests.log").read_text("utf-8")
                print(f"{module}: its tests fail without a fault\n{log}", flush=True)
                verdicts["not judged"] += len(planted)
                continue
            limit = 30 + 4 * (time.monotonic() - started)
            for change, code in planted:
                verdict = "killed"
                if f"killed {change}" not in before:
                    (copy / module).write_text(code, encoding="utf-8")
                    verdict = outcome(copy, tests, limit)
                if verdict == "survived" and change.split(": ", 1)[1] in equivalent:
                    verdict = "equivalent"
                verdicts[verdict] += 1
                print(verdict, change, file=record)
                if verdict == "survived":
                    print(verdict, change, flush=True)
            (copy / module).write_text(right, encoding="utf-8")
    caught, equivalent = verdicts["killed"] + verdicts["timed out"], verdicts["equivalent"]
    alive, rest = verdicts["survived"], verdicts["not judged"]
    counts = f"{caught} caught, {equivalent} equivalent, {alive} alive, {rest} not judged"
    print(f"{verdicts.total()} planted, {counts}")
    sys.exit(rest > 0)


if __name__ == "__main__":
    main()
