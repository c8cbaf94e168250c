"""What a record says of the machine that a run was done on."""

import os
import platform

import pytest
import torch

from d2l_lab import machine

CPU = torch.device("cpu")


def test_device_and_load(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (1.234, 5, 9), raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card {device.index}")
    assert machine.hardware(torch.device("cuda", 1))["device"] == "card 1"
    assert machine.hardware(CPU)["device"] == "cpu"
    assert machine.hardware(CPU)["load_average"] == 1.23
    monkeypatch.delattr(os, "getloadavg")  # Windows
    assert machine.hardware(CPU)["load_average"] is None


@pytest.mark.parametrize(
    ("cpuinfo", "processor", "name"),
    [
        ("model name\t: EPYC 9354\nmodel name\t: another\n", "x86_64", "EPYC 9354"),
        ("processor\t: 0\n", "arm", "arm"),  # Linux on Arm names no model
        (None, "", "aarch64"),
    ],
)
def test_the_processor_is_named_as_well_as_can_be(monkeypatch, tmp_path, cpuinfo, processor, name):
    if cpuinfo:
        (tmp_path / "cpuinfo").write_text(cpuinfo, encoding="utf-8")
    monkeypatch.setattr(machine, "Path", lambda _: tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "processor", lambda: processor)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert machine.hardware(CPU)["processor"] == name
