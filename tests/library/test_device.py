"""Devices and precision, on this machine and on machines that it is told to be."""

import ctypes
import platform
import subprocess
import sys
import types

import pytest
import torch

import d2l_utils as d2l


@pytest.fixture
def gpus(monkeypatch):
    """Makes the machine have as many GPUs as the test says."""
    return lambda n: monkeypatch.setattr(torch.cuda, "device_count", lambda: n)


def test_without_a_gpu_the_cpu_is_taken(gpus):
    gpus(0)
    assert d2l.num_gpus() == 0
    assert d2l.gpu(3) == torch.device("cuda:3")
    assert d2l.try_gpu() == d2l.cpu()
    assert d2l.try_all_gpus() == [d2l.cpu()]


def test_with_two_gpus_both_are_found(gpus):
    gpus(2)
    assert d2l.num_gpus() == 2
    assert d2l.try_gpu(1) == d2l.gpu(1)
    assert d2l.try_gpu(2) == d2l.cpu()
    assert d2l.try_all_gpus() == [d2l.gpu(0), d2l.gpu(1)]


@pytest.mark.parametrize("kind", ["xpu", "mps"])
def test_other_accelerators_are_found(monkeypatch, kind):
    module = types.SimpleNamespace(device_count=lambda: 1)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    assert d2l.try_gpu() == torch.device(kind, 0)
    assert d2l.Trainer(1, num_gpus=1, precision="auto").device == torch.device(kind, 0)
    assert d2l.fast_precision(d2l.gpu()) == "float32"


@pytest.mark.parametrize(
    ("avx512", "amx", "precision"),
    [(True, False, "bfloat16"), (False, True, "bfloat16"), (False, False, "float32")],
)
def test_a_cpu_is_fast_in_bfloat16_if_it_has_the_instructions(monkeypatch, avx512, amx, precision):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert d2l.fast_precision(d2l.cpu()) == precision


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "float32"), ((8, 0), "bfloat16")])
def test_a_gpu_is_fast_in_bfloat16_from_ampere_on(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert d2l.fast_precision(d2l.gpu()) == precision


PAGES_OF_A_STEP = """
import resource, torch, d2l_utils as d2l

def new_pages():
    "Returns how often the system had to hand out a page for one tensor of 64 MiB."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

# The least of several: small allocations in between may take a piece of what was kept.
print(min(new_pages() for _ in range(8)))
print(int(d2l.keep_memory()))
print(min(new_pages() for _ in range(8)))
"""


def test_memory_that_is_kept_is_not_asked_for_again():
    done = subprocess.run([sys.executable, "-c", PAGES_OF_A_STEP], capture_output=True, text=True)
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
