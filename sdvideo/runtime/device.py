"""Which device networks run on, and what it can do."""

from __future__ import annotations

from sdvideo.errors import ModelError


def choose_device(device: str) -> str:
    """ "auto" -> "cuda" if torch sees a CUDA device, else "cpu". Raises ModelError for "cuda" without one."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelError("device cuda was asked for, but torch sees no CUDA device")
    return device


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; elsewhere float32 is faster."""
    import torch

    return any(getattr(torch.cpu, f"_is_{name}_supported", bool)() for name in ("avx512_bf16", "amx_tile"))
