"""Pictures as 4x4 squares: the form in which the restoration network sees them, in numpy.

A picture of H x W pixels becomes [H/4, W/4, 24]: for each square its 16 luma samples, 4 Cb and 4 Cr samples, side by
side in memory (space-to-depth). Every function here has its inverse beside it.
"""

from __future__ import annotations

import cv2
import numpy as np

from sdvideo.frames import Picture

SAMPLES = 24  # of a square: 16 luma, 4 Cb, 4 Cr
WARP_ERRORS = 4  # of a square: warp errors live on the half-size grid
_WORD = {2: np.uint16, 4: np.uint32}  # a row of so many bytes is moved as one number


def picture_to_patches(picture: Picture) -> np.ndarray:
    """A picture whose sides are multiples of 4 -> uint8 [H/4, W/4, 24]."""
    patches = np.empty((picture.height // 4, picture.width // 4, SAMPLES), np.uint8)
    space_to_depth(picture.y, 4, 4, patches[..., :16])
    space_to_depth(picture.u, 2, 2, patches[..., 16:20])
    space_to_depth(picture.v, 2, 2, patches[..., 20:])
    return patches


def patches_to_picture(patches: np.ndarray) -> Picture:
    """The inverse of picture_to_patches."""
    y, u, v = np.split(patches, (16, 20), -1)
    return Picture(depth_to_space(y, 4, 4), depth_to_space(u, 2, 2), depth_to_space(v, 2, 2))


def space_to_depth(plane: np.ndarray, height: int, width: int, out: np.ndarray | None = None) -> np.ndarray:
    """Cut a plane into blocks: uint8 [h * height, w * width] -> uint8 [h, w, height * width].

    width: 2 or 4. out: where to put the blocks, a new array if None.
    """
    rows, columns = plane.shape[0] // height, plane.shape[1] // width
    if out is None:
        out = np.empty((rows, columns, height * width), np.uint8)
    cut = np.ascontiguousarray(plane).view(_WORD[width]).reshape(rows, height, columns)
    words = out.view(_WORD[width])
    for row in range(height):  # faster than one transposed copy
        words[..., row] = cut[:, row]
    return out


def depth_to_space(blocks: np.ndarray, height: int, width: int) -> np.ndarray:
    """The inverse of space_to_depth."""
    rows, columns = blocks.shape[:2]
    words = blocks.view(_WORD[width])
    cut = np.empty((rows, height, columns), _WORD[width])
    for row in range(height):
        cut[:, row] = words[..., row]
    return cut.view(np.uint8).reshape(rows * height, columns * width)


def add_rounded(samples: np.ndarray, change: np.ndarray) -> np.ndarray:
    """samples + change, rounded and clipped: uint8 and float32 [H, W, C] -> uint8 [H, W, C]."""
    rows = len(samples)
    return cv2.add(samples.reshape(rows, -1), change.reshape(rows, -1), dtype=cv2.CV_8U).reshape(samples.shape)
