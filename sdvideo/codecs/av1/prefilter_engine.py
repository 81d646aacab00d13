"""The interface of the engines that run the prefilter's network, and the shape of the network they share."""

from __future__ import annotations

from typing import Protocol

import numpy as np

SQUARE = 4
SAMPLES = SQUARE**2
CHANNELS, BLOCKS = 48, 3  # of the network


class PrefilterEngine(Protocol):
    """Runs the network on planes cut into squares, see `restoration/patches.py`."""

    def change(self, luma: np.ndarray, setting: tuple[float, float]) -> np.ndarray:
        """luma: uint8 [h, w, 16]; setting: see conditioning. Returns the change, float32 [h, w, 16], not rounded."""
        ...
