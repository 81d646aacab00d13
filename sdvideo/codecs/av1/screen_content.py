"""Detects screen content: user interfaces, text and line art, for which AV1 has coding tools of their own.

These tools, palettes for a block and copies from elsewhere in the same picture, save up to half of the bits on such
content. SVT-AV1 looks for it as well, but only for samples that are exactly equal. So it finds clean user interfaces,
and misses most text with soft edges and screen recordings that were compressed before. Here, all blocks of 8x8 luma
samples that contain an edge are examined: how many of their samples are close to the darkest or to the brightest one?
For something drawn on an even background most are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdvideo.frames import Picture

_BLOCK = 8
_MIN_EDGE = 48  # least difference of the darkest and the brightest sample of a block with an edge
_CLOSE, _CLOSE_OF_EDGE = 6, 1 / 12  # levels, or share of the edge if that is more
_MIN_BLOCKS = 0.01  # share of the blocks that must contain an edge for a picture to be judged
# Of 260 training shots, 12 of the 13 that show screens and an aurora over black hills reach this; all others have 0.51
# or less.
_MIN_SHARE = 0.52
_MAX_PICTURES = 4  # that are examined in a group


def is_screen_content(pictures: Sequence[Picture]) -> bool:
    """Whether a group of pictures shows screen content, judged by at most four of them."""
    examined = pictures[:: -(-len(pictures) // _MAX_PICTURES)]
    return sum(share_near_extremes(picture.y) for picture in examined) / len(examined) >= _MIN_SHARE


def share_near_extremes(luma: np.ndarray) -> float:
    """The share of samples that are close to an extreme of their block, among blocks with an edge.

    luma: uint8 [H, W]. In each block the darkest or the brightest sample counts, whichever has more samples close to
    it. Returns 0 if too few blocks have an edge.
    """
    height, width = (side // _BLOCK for side in luma.shape)
    rows = luma[: height * _BLOCK, : width * _BLOCK].reshape(height, _BLOCK, width, _BLOCK)
    blocks = rows.swapaxes(1, 2).reshape(-1, _BLOCK**2)
    dark, bright = blocks.min(1), blocks.max(1)
    has_edge = bright - dark >= _MIN_EDGE
    if has_edge.sum() < max(1, _MIN_BLOCKS * len(blocks)):
        return 0.0
    blocks, dark, bright = blocks[has_edge], dark[has_edge, None], bright[has_edge, None]
    close = np.maximum(_CLOSE, (bright - dark) * _CLOSE_OF_EDGE)
    return float(np.maximum((blocks - dark <= close).mean(1), (bright - blocks <= close).mean(1)).mean())
