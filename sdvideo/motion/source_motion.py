"""The motion of a source video: where each pixel was in the previous frame, and whether it was visible there.

The flow is DIS at its medium preset and full size. At half size, or with a faster preset, its errors double, and with
them the flicker share φ that a plain blur gets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdvideo.frames import extend_edges

from .block_matching import BLOCK
from .optical_flow import DenseFlow, sample, sample_grid
from .scene_cuts import is_cut

# Forward and backward flow agree where |f + b|² < _RELATIVE (|f|² + |b|²) + _ABSOLUTE, in pixels: the check of
# Sundaram, Brox and Keutzer (ECCV 2010).
_RELATIVE, _ABSOLUTE = 0.01, 0.5


@dataclass(frozen=True, slots=True)
class SourceMotion:
    """Where each pixel of a frame was in the previous frame.

    positions: float32 [H, W, 2] (x, y), the position in the previous frame, in pixels. visible: bool [H, W], True where
    the pixel can be seen in the previous frame. cut: True if the two frames show different scenes.
    """

    positions: np.ndarray
    visible: np.ndarray
    cut: bool


def source_motion(previous: np.ndarray, current: np.ndarray) -> SourceMotion:
    """Follow every pixel of a luma plane back into the previous one; both uint8 [H, W]."""
    height, width = current.shape
    flow = DenseFlow("medium")
    backward, forward = flow.estimate(current, previous), flow.estimate(previous, current)
    positions = backward + sample_grid(height, width)
    x, y = positions[..., 0], positions[..., 1]
    inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    rows, columns = -(-height // BLOCK) * BLOCK, -(-width // BLOCK) * BLOCK
    pair = (extend_edges(plane, rows, columns) for plane in (current, sample(previous, positions)))
    return SourceMotion(positions, inside & _agree(backward, forward, positions), is_cut(*pair))


def _agree(backward: np.ndarray, forward: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Where the forward flow leads back to where the backward flow came from, bool [H, W]."""
    returning = sample(forward, positions)
    apart, length, length_back = (np.square(v).sum(-1) for v in (backward + returning, backward, returning))
    return apart < _RELATIVE * (length + length_back) + _ABSOLUTE
