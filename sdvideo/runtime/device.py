"""Which device networks run on, what it can do, and how many CPU cores there are."""

from __future__ import annotations

import os
import sys

from sdvideo.errors import ModelError

_NVIDIA_DRIVER = r"C:\Windows\System32\nvcuda.dll" if sys.platform == "win32" else "/dev/nvidiactl"


def choose_device(device: str) -> str:
    """ "auto" -> "cuda" if torch sees a CUDA device, else "cpu". Raises ModelError for "cuda" without one."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelError("device cuda was asked for, but torch sees no CUDA device")
    return device


def usable_cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def needs_torch(device: str) -> bool:
    """Whether a device may be one that only torch can use. device: as for choose_device. Imports no torch."""
    return device == "cuda" or (device == "auto" and os.path.exists(_NVIDIA_DRIVER))


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; elsewhere float32 is faster."""
    import torch

    return any(getattr(torch.cpu, f"_is_{name}_supported", bool)() for name in ("avx512_bf16", "amx_tile"))
