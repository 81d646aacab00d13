"""The interface of the engines that run the restoration network, and the shape of the network they share.

All engines read the same weights and give the same pictures but for roundings: restoration is outside the coding loop,
so no coded byte depends on the engine. `loading.py` chooses one.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

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
