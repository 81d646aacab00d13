"""Palettes and error diffusion over a latent, for the encoder of `palette.py`. Decoders do not need them.

Vectors are latents in units of a byte, float32 (see byte.py), clipped to 0..255.
"""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np

COLOURS = 256
_SEED = 1
_SAMPLE = 1 << 14  # vectors that a palette is made from, at most
_ROUNDS = 20  # of k-means
# Shares of an error by Floyd and Steinberg, and where they go: (down, right).
_SHARES = (((0, 1), 7 / 16), ((1, -1), 3 / 16), ((1, 0), 5 / 16), ((1, 1), 1 / 16))


def find_palette(vectors: np.ndarray) -> np.ndarray:
    """A palette for vectors, float32 [n, channels]: uint8 [at most 256, channels], all different.

    The same vectors give the same palette. Consecutive colours are close to each other.
    """
    distinct = np.unique(np.rint(vectors).astype(np.uint8), axis=0)
    if len(distinct) <= COLOURS:
        return _chained(distinct)
    sample = np.ascontiguousarray(vectors[:: -(-len(vectors) // _SAMPLE)], np.float32)
    if len(sample) < COLOURS:
        sample = vectors
    cv2.setRNGSeed(_SEED)
    criteria = cv2.TERM_CRITERIA_MAX_ITER, _ROUNDS, 0.0
    no_labels: Any = None  # OpenCV's type stubs do not allow None
    centres = cv2.kmeans(sample, COLOURS, no_labels, criteria, 1, cv2.KMEANS_PP_CENTERS)[2]
    palette = np.unique(np.rint(centres).clip(0, 255).astype(np.uint8), axis=0)
    # Where centres round to the same bytes, the vectors farthest from all colours take their place.
    _, far = nearest(distinct.astype(np.float32), palette)
    farthest = distinct[np.argsort(-far, kind="stable")[: COLOURS - len(palette)]]
    return _chained(np.concatenate([palette, farthest]))


def nearest(vectors: np.ndarray, palette: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each vector, float32 [n, channels], its colour, int64 [n], and the squared distance to it, float32 [n]."""
    colours = palette.astype(np.float32)
    distances = np.square(colours).sum(1) - 2 * vectors @ colours.T
    found = distances.argmin(1)
    return found, np.square(vectors - colours[found]).sum(1)


def diffuse(
    wanted: np.ndarray, palette: np.ndarray, kept: np.ndarray, indices: np.ndarray, errors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Choose colours so that later positions compensate the error of earlier ones (Floyd and Steinberg, 1976).

    wanted: float32 [h, w, channels]. kept: bool [h, w], positions whose index and error do not change; they take no
    share of other errors, which could only accumulate there. indices, errors: those of the previous frame, uint8 [h, w]
    and float32 [h, w, channels]. Returns the new ones.
    """
    rows, columns, channels = wanted.shape
    colours = palette.astype(np.float32)
    least, most = colours.min(0), colours.max(0)
    indices, errors = indices.copy(), errors.copy()
    received = np.zeros((rows + 1, columns + 2, channels), np.float32)  # shares, with a border of 1 left and right
    for y, x in _waves(rows, columns):
        free = ~kept[y, x]
        at = y[free], x[free]
        # Errors that no colour can compensate must not accumulate either.
        target = (wanted[at] + received[at[0], at[1] + 1]).clip(least, most)
        indices[at] = nearest(target, palette)[0]
        errors[at] = target - colours[indices[at]]
        for (down, right), share in _SHARES:
            received[y + down, x + 1 + right] += np.float32(share) * errors[y, x]
    return indices, errors


@functools.lru_cache(maxsize=4)
def _waves(rows: int, columns: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The positions (y, x) of a grid, many at once, each after all those that pass an error to it."""
    y, x = np.divmod(np.arange(rows * columns), columns)
    number = x + 2 * y
    order = np.argsort(number, kind="stable")
    ends = np.cumsum(np.bincount(number))
    return [(y[wave], x[wave]) for wave in np.split(order, ends[:-1]) if len(wave)]


def _chained(colours: np.ndarray) -> np.ndarray:
    """The colours in an order in which each is followed by the closest one that is left."""
    vectors = colours.astype(np.int64)
    order, here = [], int(vectors.sum(1).argmin())
    left = np.ones(len(vectors), bool)
    while True:
        order.append(here)
        left[here] = False
        if not left.any():
            return colours[order]
        distances = np.square(vectors - vectors[here]).sum(1)
        here = int(np.where(left, distances, np.iinfo(np.int64).max).argmin())
