"""A grid whose runs take a tenth of a second, for the laboratory's tests."""

import json

from d2l_lab.__main__ import main
from d2l_lab.grid import load_grid
from d2l_lab.run import Run, default_folders

TOP = """question = "Does it run?"
seeds = [0]
"""
DEFAULTS = """[defaults]
arch = [[1, 4]]
head = [8]
resolution = 4
epochs = 2
batch_size = 64
lr = 0.1
train_size = 256
holdout = 256
"""
VARIANT = "[variants.a]\n"
RECIPE = """momentum = 0.9
schedule = "one_cycle"
augment = ["flip", "crop"]
label_smoothing = 0.1
batch_norm = true
"""


def train(path, *options):
    return main(["train", str(path), *map(str, options)])


def run_of(path, variant="a", seed=0):
    return Run(load_grid(path), variant, seed, *default_folders(path))


def record_of(path, variant="a", seed=0):
    return json.loads(run_of(path, variant, seed).record.read_text(encoding="utf-8"))


def files_below(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
