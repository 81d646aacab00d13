"""Frames gathered into closed groups beforehand: a group ends at a cut, or when it is long enough."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import cv2
import numpy as np

from sdvideo.frames import Frame

from .block_matching import BLOCK
from .predict import is_cut

_SIDE = 180  # pixels of the short side on which cuts are looked for


def shots(frames: Iterable[Frame], most: int) -> Iterator[list[Frame]]:
    """Lists of 1 to `most` frames in a row, each without a cut inside."""
    shot: list[Frame] = []
    before: np.ndarray | None = None
    for frame in frames:
        now = _small(frame.picture.y)
        if shot and (len(shot) == most or is_cut(now, _carried(before, now))):
            yield shot
            shot = []
        shot.append(frame)
        before = now
    if shot:
        yield shot


def _small(luma: np.ndarray) -> np.ndarray:
    """uint8 [H, W] -> about _SIDE pixels high or wide, in multiples of BLOCK, at least two of them."""
    factor = min(1.0, _SIDE / min(luma.shape))
    height, width = (max(2, round(side * factor / BLOCK)) * BLOCK for side in luma.shape)
    return cv2.resize(luma, (width, height), interpolation=cv2.INTER_AREA)


def _carried(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """The picture before, warped along the flow from the one now."""
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST).calc(now, before, None)
    height, width = now.shape
    x = flow[..., 0] + np.arange(width, dtype=np.float32)
    y = flow[..., 1] + np.arange(height, dtype=np.float32)[:, None]
    return cv2.remap(before, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
