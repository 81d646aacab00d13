"""Processes large pictures in overlapping tiles, which are blended linearly where they overlap.

Tiles bound the memory that a network takes. All sizes are given in latent positions, of `block` pixels along each side.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch

MAX_PIXELS = 2**20  # a picture with more pixels is processed in tiles
TILE, OVERLAP = 512, 64  # sides in pixels


def apply_tiled(
    work: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    block: int,
    *,
    scale_in: int = 1,
    scale_out: int = 1,
    max_pixels: int | None = None,
) -> torch.Tensor:
    """work(x), at once or in tiles.

    x: [1, c, h * scale_in, w * scale_in], with h x w latent positions of `block` pixels along each side. max_pixels: up
    to how many pixels x is processed at once, MAX_PIXELS if None. Returns [1, c', h * scale_out, w * scale_out].
    """
    rows, columns = x.shape[2] // scale_in, x.shape[3] // scale_in
    if rows * columns * block**2 <= (max_pixels or MAX_PIXELS):
        return work(x)
    total: torch.Tensor | None = None
    weights = torch.zeros(rows * scale_out, columns * scale_out)
    fade = _overlap(block) * scale_out
    for top, bottom in tile_ranges(rows, block):
        for left, right in tile_ranges(columns, block):
            done = work(x[..., top * scale_in : bottom * scale_in, left * scale_in : right * scale_in])
            weight = _ramp(done.shape[2], fade)[:, None] * _ramp(done.shape[3], fade)
            if total is None:
                total = torch.zeros(1, done.shape[1], *weights.shape)
            there = slice(top * scale_out, bottom * scale_out), slice(left * scale_out, right * scale_out)
            total[(..., *there)] += done * weight
            weights[there] += weight
    assert total is not None  # there is at least one tile
    return total / weights


def _overlap(block: int) -> int:
    return -(-OVERLAP // block)


@lru_cache(maxsize=16)
def tile_ranges(count: int, block: int) -> tuple[tuple[int, int], ...]:
    """Half-open ranges of equal length that cover an axis of `count` positions. The last one overlaps the most."""
    size = min(count, max(TILE // block, 2 * _overlap(block)))
    starts = range(0, max(1, count - _overlap(block)), max(1, size - _overlap(block)))
    return tuple((start, start + size) for start in (min(start, count - size) for start in starts))


def _ramp(count: int, fade: int) -> torch.Tensor:
    """Weights along a tile, float32 [count]: rising over the first `fade` samples, falling over the last.

    At its edge a tile lacks the samples beyond. So samples there get next to no weight, unless no other tile has them,
    as at the border of the picture.
    """
    inwards = torch.arange(count) + 0.5
    return ((torch.minimum(inwards, inwards.flip(0)) - fade / 4) / (fade / 2)).clamp(1e-3, 1)
