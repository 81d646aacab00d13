"""Where groups of pictures begin: at the first frame, every keyint frames, and at cuts."""

from __future__ import annotations

import numpy as np

from .motion import BLOCK


def is_cut(luma: np.ndarray, predicted: np.ndarray) -> bool:
    """Does this picture have nothing to do with what was predicted of it?

    Both uint8 [H, W], multiples of 16. It is a cut when most of the picture is told better by the mean of each of its
    blocks than by its motion-compensated prediction: the prediction then is of no use to the coder.
    """
    inter = np.abs(luma.astype(np.int16) - predicted)
    blocks = luma.reshape(luma.shape[0] // BLOCK, BLOCK, luma.shape[1] // BLOCK, BLOCK).astype(np.float32)
    intra = np.abs(blocks - blocks.mean((1, 3), keepdims=True)).mean((1, 3))
    inter = inter.reshape(blocks.shape).mean((1, 3))
    return bool((inter > intra + 1).mean() > 0.6 and inter.mean() > 8)
