"""d2l 1.0.3 itself, from the registry, beside this package: the same numbers, bit for bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from d2l_utils import fashion_mnist_files

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("d2l")
    # Its pins are of 2022; it runs with today's packages. SciPy is what it alone imports.
    packages = ["d2l==1.0.3", "scipy==1.17.1", "requests", "urllib3", "idna", "certifi"]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder / "site"]
    subprocess.run([*pip, *packages, "charset-normalizer"], check=True)
    raw = folder / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in fashion_mnist_files.FILES:
        content = fashion_mnist_files.read_file(fashion_mnist_files.find_folder(), name)
        (raw / name).write_bytes(content)
    path = os.pathsep.join(map(str, [folder / "site", HERE, HERE.parents[1]]))
    script = [sys.executable, HERE / "beside_d2l.py", folder / "data", folder / "result.json"]
    subprocess.run(script, check=True, env={**os.environ, "PYTHONPATH": path}, timeout=1200)
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


@pytest.mark.timeout(1500)
def test_each_section_runs_on_both(found):
    assert {s: errors for s, errors in found["sections"].items() if any(errors.values())} == {}


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    "what", "pixels outputs labels summary hyperparameters losses_of_16_steps steps".split()
)
def test_it_is_the_same(found, what):
    assert found["ours"][what] == found["theirs"][what]


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("what", ["accuracy and loss", "validation"])
def test_it_is_the_same_to_rounding(found, what):
    assert found["ours"][what] == pytest.approx(found["theirs"][what], rel=1e-6)
