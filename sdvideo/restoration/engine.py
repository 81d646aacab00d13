"""The engine that runs the restoration network: what it is asked, and which one is chosen.

    PyTorch      where it is installed, on the CPU or on CUDA
    OpenVINO     elsewhere, on the CPU: an installation of 0.6 GB instead of 1.5 GB decodes

The two never run in one process: with both loaded, a process has crashed, and the cause is not known.

Both read the same weights and give the same pictures but for roundings: restoration is outside the coding loop, so no
coded byte depends on the engine.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np

from sdvideo.errors import ModelError
from sdvideo.runtime.device import choose_device, needs_torch

NO_HISTORY = 255  # the warp error where there is no previous picture to use
BLOCKS, CHANNELS = 6, 64  # of the network; each block looks one square further


class Engine(Protocol):
    """Runs the network on pictures cut into squares, see `patches.py`."""

    def restore(
        self, upscaled: np.ndarray, warped: np.ndarray, warp_error: np.ndarray, setting: tuple[float, float]
    ) -> np.ndarray:
        """One picture. upscaled, warped: uint8 [h, w, 24]; warp_error: uint8 [h, w, 4]; setting: see conditioning.

        Returns uint8 [h, w, 24]. May be called by several threads at the same time.
        """
        ...


def conditioning(crf: float, scale: float) -> tuple[float, float]:
    """How the base was coded, as two numbers around zero. crf: 20..63; scale: 1/2..1."""
    return (crf - 45) / 12, -math.log2(scale)


def load_engine(path: Path, device: str) -> Engine:
    """The engine for a device, "auto", "cpu" or "cuda". path: weights, safetensors.

    Raises ModelError if neither engine is installed, or the device is not there.
    """
    if find_spec("torch"):
        from .torch_engine import TorchEngine

        return TorchEngine(path, choose_device(device))
    if needs_torch(device) or not find_spec("openvino"):
        raise ModelError("restoring pictures needs PyTorch, or on the CPU OpenVINO (pip install openvino)")
    from .openvino_engine import OpenvinoEngine

    return OpenvinoEngine(path)
