"""What a record says of the machine: device, processor, versions."""

import os
import platform
import re
from importlib import metadata
from pathlib import Path

import torch

_ISA = "ONEDNN_MAX_CPU_ISA"  # the newest instructions that oneDNN may use


def hardware(device: torch.device) -> dict:
    """Return what a time depends on: device, processor, threads, and how busy the machine was."""
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "amx": _uses_amx(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "onednn_max_cpu_isa": os.environ.get(_ISA, ""),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def avoid_amx() -> None:
    """Have oneDNN add in AVX-512's order, if torch has not multiplied anything in this process."""
    if _uses_amx():
        os.environ[_ISA] = "AVX512_CORE_BF16"


def _uses_amx() -> bool:
    limit = os.environ.get(_ISA, "").upper()
    allowed = limit in ("", "ALL", "DEFAULT") or "AMX" in limit
    return allowed and torch.cpu._is_amx_tile_supported()


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    names = re.findall(r"model name\s*:\s*(.+)", text)
    return names[0] if names else platform.processor() or platform.machine()


def versions(*packages: str) -> dict:
    """Return the versions that a result depends on: Python's, torch's, and those of packages."""
    ours = {"python": platform.python_version(), "torch": str(torch.__version__)}
    return ours | {name: metadata.version(name) for name in packages}
