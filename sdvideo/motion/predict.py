"""What prediction can know beforehand: where a picture has not changed at all, and where it has nothing to go by."""

from __future__ import annotations

import numpy as np

from sdvideo.frames import Picture

from .block_matching import BLOCK


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


def unchanged(picture: Picture, last: Picture, block: int) -> np.ndarray:
    """The blocks of an even size in which a picture equals the one before, bool [ceil(H/block), ceil(W/block)].

    Whatever the coder thinks of them, they stay as they are: what does not move in the source must not move decoded.
    """
    rows, columns = -(-picture.height // block), -(-picture.width // block)
    same = np.ones((rows, columns), bool)
    for ours, theirs, size in zip(
        (picture.y, picture.u, picture.v), (last.y, last.u, last.v), (block, block // 2, block // 2)
    ):
        differs = np.zeros((rows * size, columns * size), bool)
        differs[: ours.shape[0], : ours.shape[1]] = ours != theirs
        same &= ~differs.reshape(rows, size, columns, size).any((1, 3))
    return same
