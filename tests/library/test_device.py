"""Devices and precision, on this machine and on machines that it is told to be."""

import ctypes
import math
import platform
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from small import Line, Net, NoFloat64, Random, TenClasses, fit

import d2l_utils as d2l
from d2l_utils.device import PRECISIONS

# --- which there are --------------------------------------------------------------------------


@pytest.mark.parametrize("there", [0, 2])
def test_gpus_are_taken_of_those_that_are_there(monkeypatch, there):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    gpus = [torch.device("cuda", i) for i in range(there)]
    assert d2l.num_gpus() == there
    assert d2l.gpu(3) == torch.device("cuda:3")
    assert [d2l.try_gpu(i) for i in range(3)] == (gpus + [d2l.cpu()] * 3)[:3]
    assert d2l.try_all_gpus() == (gpus or [d2l.cpu()])
    for asked in (0, 1, 3):
        trainer = d2l.Trainer(1, num_gpus=asked)
        assert trainer.gpus == gpus[:asked]
        assert trainer.device == (gpus[:asked] or [d2l.cpu()])[0]


@pytest.mark.parametrize("kind", ["xpu", "mps"])
def test_other_accelerators_are_found(monkeypatch, kind):
    module = types.SimpleNamespace(device_count=lambda: 1)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    assert d2l.try_gpu() == torch.device(kind, 0)
    assert d2l.Trainer(1, num_gpus=1, precision="auto").device == torch.device(kind, 0)
    assert d2l.fast_precision(d2l.gpu()) == "float32"


@pytest.mark.parametrize(("avx512", "amx"), [(True, False), (False, True), (False, False)])
def test_a_cpu_is_fast_in_bfloat16_if_it_has_the_instructions(monkeypatch, avx512, amx):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert d2l.fast_precision(d2l.cpu()) == ("bfloat16" if avx512 or amx else "float32")


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "float32"), ((8, 0), "bfloat16")])
def test_a_gpu_is_fast_in_bfloat16_from_ampere_on(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert d2l.fast_precision(d2l.gpu()) == precision


# --- what a trainer makes of them -------------------------------------------------------------


def test_it_says_where_it_trains(monkeypatch, capsys):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    fit()
    output = capsys.readouterr()
    assert output.out == "" and "cpu float32:" in output.err
    assert output.err.rsplit("\r", 2)[-2].strip() == ""  # the bar is gone


def test_a_device_without_float64_trains(tmp_path):
    with NoFloat64():
        with pytest.raises(TypeError, match="no float64"):
            torch.ones(1).double()
        fit(Net(schedule=True), gradient_clip_val=1, checkpoint=tmp_path / "run.pt")


def test_data_are_left_where_a_new_model_is(monkeypatch):
    """A device that is named cpu:0 stands in for a GPU."""
    seen = []

    class Notes(Random):
        def __setattr__(self, name, value):
            seen.append(str(value)) if name == "device" else super().__setattr__(name, value)

    monkeypatch.setattr(d2l.Trainer, "device", torch.device("cpu", 0))
    for use in (d2l.Trainer(1).fit, d2l.Trainer(1).evaluate):
        use(Line(), Notes())
    assert seen == ["cpu:0", "cpu"] * 2


def test_precision_is_float32_unless_asked(monkeypatch):
    monkeypatch.setattr("d2l_utils.trainer.fast_precision", lambda device: "bfloat16")
    for asked, taken in {"auto": "bfloat16", "bfloat16": "bfloat16"}.items():
        assert d2l.Trainer(1, precision=asked).precision == taken
    assert d2l.Trainer(1).precision == "float32"


@pytest.mark.parametrize(("precision", "dtype"), PRECISIONS.items())
def test_precision_is_that_of_the_activations_and_never_of_the_weights(precision, dtype):
    seen = set()

    class Looks(Net):
        def forward(self, X):
            Y_hat = super().forward(X)
            last = X.is_contiguous(memory_format=torch.channels_last)
            seen.add((Y_hat.dtype, last and not X.is_contiguous()))
            return Y_hat

    model, data = Looks(), Random()
    data.X = data.X.expand(-1, 3, -1, -1).contiguous()
    model.apply_init([data.X])
    seen.clear()
    fit(model, data, precision=precision)
    assert seen == {(dtype, precision == "bfloat16")}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_on_a_gpu(precision, tmp_path):
    data = d2l.FashionMNIST(64, (32, 32), train_size=256, augment=["flip", "crop"], holdout=1000)
    options = {"precision": precision, "checkpoint": tmp_path / "run.pt", "seed": 0}
    trainer = fit(TenClasses(), data, 2, num_gpus=1, **options)
    assert {p.device.type for p in trainer.model.parameters()} == {"cuda"}
    assert data.device == d2l.cpu()  # where the next model is
    assert all(math.isfinite(value) for row in trainer.history for value in row.values())


# --- memory that is kept ----------------------------------------------------------------------

PAGES_OF_A_STEP = """
import resource, sys, types
import numpy as np

# Of the package only this module, without torch, which takes seconds to import.
sys.modules["torch"] = types.ModuleType("torch")
sys.modules["torch"].float32 = sys.modules["torch"].bfloat16 = sys.modules["torch"].device = None
sys.path.insert(0, sys.argv[1])
import device

def new_pages():
    "Returns how often the system had to hand out a page for one array of 64 MiB."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**23)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

# The least of several: small allocations in between may take a piece of what was kept.
print(min(new_pages() for _ in range(8)))
print(int(device.keep_memory()))
print(min(new_pages() for _ in range(8)))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows counts no pages")
def test_memory_that_is_kept_is_not_asked_for_again():
    folder = str(Path(d2l.__file__).parent)
    command = [sys.executable, "-I", "-c", PAGES_OF_A_STEP, folder]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    before, kept, after = map(int, done.stdout.split())
    assert kept == (platform.libc_ver()[0] == "glibc")
    assert before >= 32  # of 2 MiB each, where the system hands out large ones
    assert before - after > before / 2 or not kept


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_other_systems_keep_no_memory(monkeypatch, error):
    def without_mallopt(name):
        raise error

    monkeypatch.setattr(ctypes, "CDLL", without_mallopt)
    assert d2l.keep_memory() is False
