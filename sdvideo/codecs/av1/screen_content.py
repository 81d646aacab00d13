"""Screens, text and line art: told from what a camera sees, because AV1 has tools that only these are worth.

A palette for a square, and copying squares from elsewhere in the same picture, save up to half of the bits on them.
SVT-AV1 looks for such content itself, but wants samples that are exactly equal: it finds clean user interfaces, and
misses most text with soft edges, and recordings of a screen that were compressed before. So here each square of 8x8
luma samples with an edge in it is asked how many of its samples are close to its darkest or to its brightest one. Of
what is drawn on a plain ground most are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdvideo.frames import Picture

_SQUARE = 8
_EDGE = 48  # between the darkest and the brightest sample of a square, at least
_CLOSE, _CLOSE_OF_EDGE = 6, 1 / 12  # so many levels, or that part of the edge if it is more
_FEWEST = 0.01  # of the squares must have an edge for a picture to be judged by them
# Of 260 training shots, 12 of the 13 screens and an aurora over black hills; the others are at 0.51 and less.
_DRAWN = 0.52
_LOOKS = 4  # pictures of a group


def is_drawn(pictures: Sequence[Picture]) -> bool:
    """Is a group of pictures drawn rather than seen by a camera? Goes by a few of them."""
    looks = pictures[:: -(-len(pictures) // _LOOKS)]
    return sum(plainness(picture.y) for picture in looks) / len(looks) >= _DRAWN


def plainness(luma: np.ndarray) -> float:
    """0..1: of the squares with an edge, how much is close to one of their extremes; 0 where few have one.

    luma: uint8 [H, W].
    """
    height, width = (side // _SQUARE for side in luma.shape)
    squares = luma[: height * _SQUARE, : width * _SQUARE].reshape(height, _SQUARE, width, _SQUARE)
    squares = squares.swapaxes(1, 2).reshape(-1, _SQUARE**2)
    dark, bright = squares.min(1), squares.max(1)
    edged = bright - dark >= _EDGE
    if edged.sum() < max(1, _FEWEST * len(squares)):
        return 0.0
    squares, dark, bright = squares[edged], dark[edged, None], bright[edged, None]
    close = np.maximum(_CLOSE, (bright - dark) * _CLOSE_OF_EDGE)
    return float(np.maximum((squares - dark <= close).mean(1), (bright - squares <= close).mean(1)).mean())
