"""Scene cuts: telling one from motion, and splitting a video into closed groups at them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import cv2
import numpy as np

from sdvideo.frames import Frame

from .block_matching import BLOCK
from .optical_flow import DenseFlow, sample, sample_grid

_SIDE = 180  # pixels of the short side at which cuts are looked for


def split_into_groups(frames: Iterable[Frame], max_frames: int) -> Iterator[list[Frame]]:
    """Lists of 1 to `max_frames` consecutive frames, each without a cut inside."""
    group: list[Frame] = []
    flow, previous = DenseFlow("ultrafast"), np.empty((0, 0), np.uint8)
    for frame in frames:
        current = _thumbnail(frame.picture.y)
        if group and (len(group) == max_frames or is_cut(current, _warped(flow, previous, current))):
            yield group
            group = []
        group.append(frame)
        previous = current
    if group:
        yield group


def is_cut(luma: np.ndarray, predicted: np.ndarray) -> bool:
    """Whether a picture has nothing in common with its motion-compensated prediction.

    Both uint8 [H, W], sides multiples of 16. It is a cut if for most 16x16 blocks their own mean is a better prediction
    than the motion-compensated one.
    """
    rows, columns = luma.shape[0] // BLOCK, luma.shape[1] // BLOCK
    blocks = luma.reshape(rows, BLOCK, columns, BLOCK).astype(np.float32)
    intra = np.abs(blocks - blocks.mean((1, 3), keepdims=True)).mean((1, 3))
    inter = np.abs(luma.astype(np.int16) - predicted).reshape(blocks.shape).mean((1, 3))
    return bool((inter > intra + 1).mean() > 0.6 and inter.mean() > 8)


def _thumbnail(luma: np.ndarray) -> np.ndarray:
    """uint8 [H, W] -> at most about _SIDE pixels on the short side, both sides multiples of BLOCK and at least 32."""
    factor = min(1.0, _SIDE / min(luma.shape))
    height, width = (max(2, round(side * factor / BLOCK)) * BLOCK for side in luma.shape)
    return cv2.resize(luma, (width, height), interpolation=cv2.INTER_AREA)


def _warped(flow: DenseFlow, previous: np.ndarray, current: np.ndarray) -> np.ndarray:
    """The previous picture, warped along the flow from the current one."""
    return sample(previous, flow.estimate(current, previous) + sample_grid(*current.shape))
