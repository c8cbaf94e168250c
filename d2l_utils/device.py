"""Which devices there are, and which precision each of them is fast in."""

import torch

__all__ = ["cpu", "fast_precision", "gpu", "num_gpus", "try_all_gpus", "try_gpu"]


def cpu() -> torch.device:
    """Return the CPU device.

    >>> cpu()
    device(type='cpu')
    """
    return torch.device("cpu")


def gpu(i: int = 0) -> torch.device:
    """Return the device of GPU number `i`, whether or not there is one.

    >>> gpu(1)
    device(type='cuda', index=1)
    """
    return torch.device(f"cuda:{i}")


def num_gpus() -> int:
    """Return the number of GPUs that this process can use.

    >>> num_gpus() >= 0
    True
    """
    return torch.cuda.device_count()


def try_gpu(i: int = 0) -> torch.device:
    """Return GPU number `i` if there is one, else the CPU.

    >>> try_gpu(1000)
    device(type='cpu')
    """
    return gpu(i) if num_gpus() > i else cpu()


def try_all_gpus() -> list[torch.device]:
    """Return all GPUs, or a list with the CPU alone.

    >>> len(try_all_gpus()) >= 1
    True
    """
    return [gpu(i) for i in range(num_gpus())] or [cpu()]


def fast_precision(device: torch.device) -> str:
    """Return `"bfloat16"` where `device` multiplies it in hardware, else `"float32"`.

    Never float16: it would need a loss scale, and on a CPU it is emulated. A CPU counts as fast if
    it has AVX512-BF16 or AMX instructions; without them bfloat16 is slower than float32.

    >>> fast_precision(cpu()) in ("bfloat16", "float32")
    True
    """
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere was the first
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if fast else "float32"
