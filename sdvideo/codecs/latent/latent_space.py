"""Latents as integers, in the scale diffusion models are trained on, and their prediction: no network, no floats.

The scale. Diffusion models are trained on latents of unit deviation, so an autoencoder's config tells the scale of its
latents: (raw - shift_factor) * scaling_factor; where that cannot be, autoencoder.py finds another. Here that is
multiplied by LEVELS, to be measured in the codec's steps, which are meant for grey levels: quality 50 quantises a
latent to a third of its deviation, quality 100 to a thirtieth. A reference holds sixteenths of that in integers.
Prediction is a warp of these integers in integers, the same on every machine. So the latents of a file follow from the
file alone; its autoencoder is needed for pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdvideo.codecs.latent.coding.adaptive_coder import PlainCoder
from sdvideo.frames import Picture
from sdvideo.motion.block_matching import BLOCK

LEVELS = 64  # steps of size 1 in one standard deviation of a latent
FINE = 16  # integers of a reference in a step of size 1
LIMIT = 2**22 - 1  # of these integers; a bilinear sum of them fits 32 bits


@dataclass(eq=False, slots=True)
class Reference:
    """A dequantised latent and what it looks like.

    values: int32 [h, w, channels], FINE to a step of size 1. seen: its picture, once it has been painted.
    earlier: values and picture of the painted reference that this one comes from.
    """

    values: np.ndarray
    seen: Picture | None = None
    earlier: tuple[np.ndarray, Picture] | None = None

    def follow(self, values: np.ndarray) -> Reference:
        """A reference that comes from this one."""
        return Reference(values, earlier=self.earlier if self.seen is None else (self.values, self.seen))


class LatentSpace:
    """The half of a latent model (see latents.py) that is integers alone: what predicts and what adds the delta.

    block: pixels per latent and side. coder: how latents become bits.
    """

    def __init__(self, channels: int, block: int):
        self.block, self.coder = block, PlainCoder(channels)

    def blank(self, height: int, width: int) -> Reference:
        return Reference(np.zeros((*grid(height, width, self.block), self.coder.channels), np.int32))

    def predict(self, reference: Reference, motion: np.ndarray) -> Reference:
        if not motion.any():
            return reference
        return reference.follow(warp(reference.values, motion, self.block))

    def synthesise(self, prediction: Reference, latent: np.ndarray, coded: np.ndarray, step: float) -> Reference:
        if not coded.any():
            return prediction
        delta = np.clip(np.rint(latent * np.float32(FINE)), -LIMIT, LIMIT).astype(np.int32)
        values = np.clip(prediction.values + delta, -LIMIT, LIMIT)
        return prediction.follow(np.where(coded[..., None], values, prediction.values))

    def shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Of a picture's latent, as diffusion models see it: (channels, ceil(height / block), ceil(width / block))."""
        return self.coder.channels, *grid(height, width, self.block)


def in_deviations(values: np.ndarray) -> np.ndarray:
    """Values of a reference, int32 [h, w, channels] -> what diffusion models see, float32 [channels, h, w]."""
    return values.transpose(2, 0, 1).astype(np.float32) / np.float32(FINE * LEVELS)


def grid(height: int, width: int, block: int) -> tuple[int, int]:
    """Rows and columns of the latent of a picture."""
    return -(-height // block), -(-width // block)


def warp(values: np.ndarray, motion: np.ndarray, block: int) -> np.ndarray:
    """Look up every latent where the motion points, bilinearly and in integers.

    values: int32 [h, w, channels], at most LIMIT; motion: int16 [2, H/16, W/16] (dx, dy), quarters of a
    pixel; block: pixels per latent. A latent moves by the mean vector of the 16x16 blocks it touches, rounded
    to 1/16 of a latent; samples beyond the border are those at the border.
    """
    rows, columns = values.shape[:2]
    x, y = _sixteenths(motion, rows, columns, block)
    x += 16 * np.arange(columns)
    y += 16 * np.arange(rows)[:, None]
    left, top = x >> 4, y >> 4
    right_weight, bottom_weight = (x & 15)[..., None], (y & 15)[..., None]
    lefts, rights = left.clip(0, columns - 1), (left + 1).clip(0, columns - 1)
    tops, bottoms = top.clip(0, rows - 1), (top + 1).clip(0, rows - 1)
    upper = (16 - right_weight) * values[tops, lefts] + right_weight * values[tops, rights]
    lower = (16 - right_weight) * values[bottoms, lefts] + right_weight * values[bottoms, rights]
    return (((16 - bottom_weight) * upper + bottom_weight * lower + 128) >> 8).astype(np.int32)


def _sixteenths(motion: np.ndarray, rows: int, columns: int, block: int) -> np.ndarray:
    """The motion of each latent in sixteenths of a latent, int32 [2, rows, columns]."""
    first_y, last_y = _touched(rows, block, motion.shape[1])
    first_x, last_x = _touched(columns, block, motion.shape[2])
    sums = np.pad(motion.astype(np.int64).cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))
    down = sums[:, last_y] - sums[:, first_y]
    total = down[:, :, last_x] - down[:, :, first_x]
    size = block * (last_y - first_y)[:, None] * (last_x - first_x)
    return ((8 * total + size) // (2 * size)).astype(np.int32)


def _touched(count: int, block: int, blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """The 16-pixel blocks that each of `count` latents touches, from first up to but not including last."""
    at = np.arange(count)
    first = (at * block // BLOCK).clip(0, blocks - 1)
    last = (-(-(at + 1) * block // BLOCK)).clip(None, blocks)
    return first, last
