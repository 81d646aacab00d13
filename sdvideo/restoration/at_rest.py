"""Finds the parts of a picture that have to be restored: those whose base picture has changed, and what is near them.

A part is at rest if the base picture did not change within the reach of the network for some frames. What the network
would show there changes hardly any more, so the shown picture stays, without a seam: the parts that are restored see
the same samples around them as in a whole picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from sdvideo.frames import Picture

from .engine import BLOCKS

CONTEXT = BLOCKS + 1  # squares around a part that the network and the upscaled flow look at
_REACH = BLOCKS + 3  # squares around a changed sample within which the restored picture changes; 2 are Lanczos's
_TILE = 16  # squares a side; smaller tiles follow the motion more closely and make more parts with their context
_SETTLED = 2  # frames of rest, in which the network still improves a tile: 1 cost up to 0.45 dB, 2 cost 0.001
_WORTHWHILE = 0.8  # of the squares of the picture: more than that, with context, and it is restored as a whole


class Rectangle(NamedTuple):
    """A part of a picture, in 4x4 squares: rows top..bottom, columns left..right, without the last ones."""

    top: int
    left: int
    bottom: int
    right: int

    def grown(self, by: int, rows: int, columns: int) -> Rectangle:
        """With so many squares more on each side, within a picture of so many rows and columns."""
        return Rectangle(
            max(0, self.top - by),
            max(0, self.left - by),
            min(rows, self.bottom + by),
            min(columns, self.right + by),
        )

    def of(self, plane: np.ndarray, size: int, inside: Rectangle | None = None) -> np.ndarray:
        """The part of a plane, [H, W] or [H, W, C], whose squares have `size` samples a side; a view.

        inside: the rectangle that the plane itself is, the whole picture if None.
        """
        top, left = (inside.top, inside.left) if inside else (0, 0)
        rows = slice((self.top - top) * size, (self.bottom - top) * size)
        return plane[rows, (self.left - left) * size : (self.right - left) * size]

    @property
    def area(self) -> int:
        return (self.bottom - self.top) * (self.right - self.left)


class RestDetector:
    """Compares consecutive base pictures of one video. rows, columns: of the restored picture, in squares.

    width, height: of the restored picture without what extends it, in pixels.
    """

    def __init__(self, rows: int, columns: int, width: int, height: int):
        self._rows, self._columns, self._size = rows, columns, (width, height)
        self._previous: Picture | None = None
        self._frames_at_rest = np.zeros((-(-rows // _TILE), -(-columns // _TILE)), np.int32)

    def moving(self, base: Picture, first: bool) -> Sequence[Rectangle]:
        """The parts of the next picture that are to be restored, none if all of it is at rest. first: see prepare."""
        previous, self._previous = self._previous, base
        whole = Rectangle(0, 0, self._rows, self._columns)
        if first or previous is None or previous.y.shape != base.y.shape:
            self._frames_at_rest[:] = 0
            return [whole]
        self._frames_at_rest += 1
        self._frames_at_rest[self._changed_tiles(previous, base)] = 0
        return self._parts(self._frames_at_rest < _SETTLED, whole)

    def _changed_tiles(self, previous: Picture, base: Picture) -> np.ndarray:
        """The tiles with a changed sample within _REACH, bool."""
        changed = _changed(previous, base)
        sums = cv2.integral(changed)
        rows, columns = (
            _windows(tiles, squares, side, full)
            for tiles, squares, side, full in zip(
                self._frames_at_rest.shape, (self._rows, self._columns), changed.shape, self._size[::-1]
            )
        )
        inside = sums[rows[:, 1]][:, columns] - sums[rows[:, 0]][:, columns]
        return inside[..., 1] != inside[..., 0]

    def _parts(self, moving: np.ndarray, whole: Rectangle) -> Sequence[Rectangle]:
        """Rectangles of whole tiles that cover the moving ones."""
        count, _, boxes, _ = cv2.connectedComponentsWithStats(moving.astype(np.uint8), connectivity=8)
        parts = []
        for left, top, width, height, _ in boxes[1:count]:
            bottom, right = min(self._rows, (top + height) * _TILE), min(self._columns, (left + width) * _TILE)
            parts.append(Rectangle(int(top) * _TILE, int(left) * _TILE, int(bottom), int(right)))
        work = sum(part.grown(CONTEXT, self._rows, self._columns).area for part in parts)
        return [whole] if work > _WORTHWHILE * whole.area else parts


def _changed(previous: Picture, base: Picture) -> np.ndarray:
    """Where any of three planes has changed, uint8 0 or 1, on the chroma grid."""
    luma = previous.y != base.y
    height, width = base.u.shape
    rows = np.zeros((2 * height, 2 * width), bool)
    rows[: base.height, : base.width] = luma
    changed = rows[::2, ::2] | rows[1::2, ::2] | rows[::2, 1::2] | rows[1::2, 1::2]
    changed |= (previous.u != base.u) | (previous.v != base.v)
    return changed.astype(np.uint8)


def _windows(tiles: int, squares: int, samples: int, pixels: int) -> np.ndarray:
    """For each tile along one side, the first sample that it depends on and the one after the last, int [tiles, 2].

    squares, pixels: of that side of the restored picture; samples: of the base's chroma grid.
    """
    starts = np.arange(tiles) * _TILE
    ends = np.minimum(starts + _TILE, squares)
    scale = samples * 4 / pixels  # samples of a square
    window = np.stack([np.floor((starts - _REACH) * scale), np.ceil((ends + _REACH) * scale)], 1)
    return np.clip(window, 0, samples).astype(int)
