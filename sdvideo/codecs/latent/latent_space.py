"""Latents of autoencoders as integers, and their prediction. No network takes part.

Scale. Diffusion models are trained on latents of unit deviation, so an autoencoder's config names the scale of its
latents: (raw - shift_factor) * scaling_factor. Where the config's numbers cannot be right, `probe.py` measures others.
This unit scale times STEPS_PER_DEVIATION is the scale of the codec's quantizer steps, which are meant for grey levels:
quality 50 quantizes a latent to a third of its deviation, quality 100 to a thirtieth. A reference holds sixteenths of a
step as integers.

Prediction warps these integers in integer arithmetic, the same on every machine. So the latents of a file follow from
the file alone. Its autoencoder is needed only for pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdvideo.codecs.latent.coding.adaptive_coder import AdaptiveCoder
from sdvideo.codecs.latent.coding.frame_syntax import LatentCoder
from sdvideo.frames import Picture
from sdvideo.motion.block_matching import BLOCK

STEPS_PER_DEVIATION = 64  # steps of size 1 in one standard deviation of a latent
UNITS_PER_STEP = 16  # integer units of a reference in a step of size 1
LIMIT = 2**22 - 1  # largest magnitude of a reference, in these units: a bilinear sum of such values fits 32 bits


@dataclass(eq=False, slots=True)
class Reference:
    """A dequantized latent, and the picture it decodes to.

    values: int32 [h, w, channels], UNITS_PER_STEP to a step of size 1. picture: None until it has been decoded.
    ancestor: values and picture of the last reference before this one whose picture was decoded; None if there is none.
    """

    values: np.ndarray
    picture: Picture | None = None
    ancestor: tuple[np.ndarray, Picture] | None = None

    def successor(self, values: np.ndarray) -> Reference:
        """A reference that is derived from this one."""
        return Reference(values, ancestor=self.ancestor if self.picture is None else (self.values, self.picture))


class LatentSpace:
    """The integer half of a latent model (see `model.py`): prediction, and adding the decoded delta to it.

    block: pixels per latent position along each side. coder: the entropy coder of the latents.
    """

    def __init__(self, channels: int, block: int):
        self.block = block
        self.coder: LatentCoder = AdaptiveCoder(channels)

    def blank(self, height: int, width: int) -> Reference:
        return Reference(np.zeros((*grid_size(height, width, self.block), self.coder.channels), np.int32))

    def predict(self, reference: Reference, motion: np.ndarray) -> Reference:
        if not motion.any():
            return reference
        return reference.successor(warp(reference.values, motion, self.block))

    def synthesise(self, prediction: Reference, latent: np.ndarray, coded: np.ndarray, step: float) -> Reference:
        if not coded.any():
            return prediction
        delta = np.clip(np.rint(latent * np.float32(UNITS_PER_STEP)), -LIMIT, LIMIT).astype(np.int32)
        values = np.clip(prediction.values + delta, -LIMIT, LIMIT)
        return prediction.successor(np.where(coded[..., None], values, prediction.values))


def to_diffusion_scale(values: np.ndarray) -> np.ndarray:
    """Values of a reference, int32 [h, w, channels] -> latent of unit deviation, float32 [channels, h, w]."""
    return values.transpose(2, 0, 1).astype(np.float32) / np.float32(UNITS_PER_STEP * STEPS_PER_DEVIATION)


def grid_size(height: int, width: int, block: int) -> tuple[int, int]:
    """Rows and columns of the blocks that cover a picture; block: pixels along each side."""
    return -(-height // block), -(-width // block)


def warp(values: np.ndarray, motion: np.ndarray, block: int) -> np.ndarray:
    """Sample a latent where the motion points, bilinearly, in integer arithmetic.

    values: int32 [h, w, channels], magnitudes up to LIMIT. motion: int16 [2, H/16, W/16] (dx, dy), quarters of a pixel.
    block: pixels per latent position along each side. Returns int32 [h, w, channels]. A position moves by the mean
    vector of the 16x16 blocks it touches, rounded to 1/16 of a position. Outside the latent, the border value is
    repeated.
    """
    rows, columns = values.shape[:2]
    x, y = _position_motion(motion, rows, columns, block)
    x += 16 * np.arange(columns)
    y += 16 * np.arange(rows)[:, None]
    left, top = x >> 4, y >> 4
    right_weight, bottom_weight = (x & 15)[..., None], (y & 15)[..., None]
    lefts, rights = left.clip(0, columns - 1), (left + 1).clip(0, columns - 1)
    tops, bottoms = top.clip(0, rows - 1), (top + 1).clip(0, rows - 1)
    upper = (16 - right_weight) * values[tops, lefts] + right_weight * values[tops, rights]
    lower = (16 - right_weight) * values[bottoms, lefts] + right_weight * values[bottoms, rights]
    total: np.ndarray = (16 - bottom_weight) * upper + bottom_weight * lower
    return ((total + 128) >> 8).astype(np.int32)


def _position_motion(motion: np.ndarray, rows: int, columns: int, block: int) -> np.ndarray:
    """The mean motion of each latent position, in sixteenths of a position: int32 [2, rows, columns]."""
    first_y, last_y = _touched_blocks(rows, block, motion.shape[1])
    first_x, last_x = _touched_blocks(columns, block, motion.shape[2])
    sums = np.pad(motion.astype(np.int64).cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))
    down = sums[:, last_y] - sums[:, first_y]
    total = down[:, :, last_x] - down[:, :, first_x]
    size = block * (last_y - first_y)[:, None] * (last_x - first_x)
    mean: np.ndarray = (8 * total + size) // (2 * size)
    return mean.astype(np.int32)


def _touched_blocks(count: int, block: int, blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """The 16-pixel blocks that each of `count` positions along an axis touches, as a half-open range [first, last)."""
    at = np.arange(count)
    first = (at * block // BLOCK).clip(0, blocks - 1)
    last = (-(-(at + 1) * block // BLOCK)).clip(None, blocks)
    return first, last
