"""Which devices there are, which precision each is fast in, and memory that a process keeps."""

import ctypes

import torch

__all__ = ["cpu", "fast_precision", "gpu", "keep_memory", "num_gpus", "try_all_gpus", "try_gpu"]

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def cpu() -> torch.device:
    """Return the CPU device."""
    return torch.device("cpu")


def gpu(i: int = 0) -> torch.device:
    """Return the device of GPU number `i`, whether or not there is one.

    It is of the kind that `torch.accelerator` finds, such as CUDA, MPS or XPU; else of CUDA's.

    >>> gpu(1).index
    1
    """
    found = torch.accelerator.current_accelerator()
    return torch.device("cuda" if found is None else found.type, i)


def num_gpus() -> int:
    """Return the number of GPUs that this process can use."""
    return torch.accelerator.device_count()


def try_gpu(i: int = 0) -> torch.device:
    """Return GPU number `i` if there is one, else the CPU.

    >>> try_gpu(1000)
    device(type='cpu')
    """
    return gpu(i) if num_gpus() > i else cpu()


def try_all_gpus() -> list[torch.device]:
    """Return all GPUs, or a list with the CPU alone."""
    return [gpu(i) for i in range(num_gpus())] or [cpu()]


def fast_precision(device: torch.device) -> str:
    """Return `"bfloat16"` where `device` multiplies it in hardware, else `"float32"`.

    Never float16: it would need a loss scale, and on a CPU it is emulated. A CPU counts as fast if
    it has AVX512-BF16 or AMX instructions; without them bfloat16 is slower than float32.
    """
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere was the first
    else:  # other devices are untested
        on_cpu = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        fast = device.type == "cpu" and on_cpu
    return "bfloat16" if fast else "float32"


def keep_memory() -> bool:
    """Have this process keep what it frees, instead of giving it back to the system.

    Large tensors are new at each training step. The C library of Linux, glibc, gives their memory
    back as soon as they are freed, and gets it again page by page, each cleared first; at 224 x 224
    on a CPU that can take half of a step. The process then holds at least what it held at its peak
    until it ends, so this is for programs that train, and for no library to do unasked. GPUs'
    memory is kept by PyTorch itself. Source: mallopt(3).

    Returns:
        Whether glibc accepted it; no other C library is told.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl and Windows have none
        return False
    trim_threshold, mmap_max = -1, -4  # as malloc.h numbers them
    return mallopt(mmap_max, 0) == 1 and mallopt(trim_threshold, -1) == 1
