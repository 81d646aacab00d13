"""A stand-in for AV1 that can be differentiated: blocks, their frequencies, rounding, and motion from frame to frame.

The first frame is coded by itself, every other one from the one before, warped along the flow of the source. It rounds
as AV1 does, with a zone around zero; the gradient passes as if it had not, but out of that zone it hardly comes: were
it let through as well, the filter would learn to make stronger what is lost all the same. It knows no loop filters, no
choice of block sizes, no frames from two sides; so what it says of bits is right in direction only, see RATE of
train_prefilter.py.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from train_restore import warp

# The quantiser's step in grey levels of an orthonormal transform at CRF 40, and how the log of it grows with the CRF:
# such that after the restoring network there is as much error as with AV1, on held-back shots at CRF 40 and 55 (within
# 0.2 dB of PSNR and 0.5 dB of MS-SSIM at all three scales). AV1's own step grows faster, but it gets on better with it.
_STEP, _GROWTH = 22.5, 0.0432
_INTRA, _INTER = 0.55, 0.9  # of it
_ROUNDING = 0.36  # less than a half: what is small becomes zero
_WIDTH = 0.15  # over which, seen from the gradient, a level comes out of that zone
_KNEE, _SIGNIFICANT = 0.6, 2.0


class Coded(NamedTuple):
    """decoded: [B, T, H, W]; intra, inter: bits of the first frame and of the others, [B]."""

    decoded: torch.Tensor
    intra: torch.Tensor
    inter: torch.Tensor


def step_of(crf: np.ndarray) -> np.ndarray:
    return _STEP * np.exp(_GROWTH * (crf - 40))


def code(frames: torch.Tensor, flow: torch.Tensor, visible: torch.Tensor, step: torch.Tensor, size: int) -> Coded:
    """frames: luma [B, T, H, W], 0..255. flow: [B, T, 2, H, W], towards the frame before in samples; visible: there,
    [B, T, H, W], 0 or 1. step: [B], see step_of. size: of the blocks, which divides H and W.
    """
    basis = _cosines(size).to(frames)
    decoded, bits = [], []
    for t in range(frames.shape[1]):
        now = frames[:, t]
        flat = F.avg_pool2d(now[:, None], size).detach()
        flat = F.interpolate(flat, scale_factor=size, mode="nearest")[:, 0]
        if t == 0:
            guess = flat
        else:
            before, _ = warp(decoded[-1][:, None], flow[:, t], "bicubic")
            guess = torch.where(visible[:, t] > 0, before[:, 0], flat)
        fineness = (step * (_INTER if t else _INTRA))[:, None, None, None, None]
        levels = basis @ _blocks(now - guess, size) @ basis.T / fineness
        soft = levels * torch.sigmoid((levels.abs() - (1 - _ROUNDING)) / _WIDTH)
        rounded = soft + (levels.sign() * (levels.abs() + _ROUNDING).floor() - soft).detach()
        decoded.append((guess + _whole(basis.T @ (rounded * fineness) @ basis)).clamp(0, 255))
        bits.append(_bits(levels).sum((1, 2, 3, 4)))
    return Coded(torch.stack(decoded, 1), bits[0], torch.stack(bits[1:], 1).sum(1))


def _bits(levels: torch.Tensor) -> torch.Tensor:
    """About what a level costs: hardly anything below the knee, one bit more for each doubling above it."""
    fourth = (levels / _KNEE).square().square()
    return 0.25 * torch.log2(1 + fourth) + _SIGNIFICANT * fourth / (1 + fourth)


def _cosines(size: int) -> torch.Tensor:
    at, k = torch.arange(size) + 0.5, torch.arange(size)[:, None]
    cosines = torch.cos(torch.pi / size * k * at) * (2 / size) ** 0.5
    cosines[0] /= 2**0.5
    return cosines


def _blocks(planes: torch.Tensor, size: int) -> torch.Tensor:
    """[B, H, W] -> [B, H/n, W/n, n, n]."""
    b, h, w = planes.shape
    return planes.view(b, h // size, size, w // size, size).transpose(2, 3)


def _whole(blocks: torch.Tensor) -> torch.Tensor:
    """The inverse of _blocks."""
    b, rows, columns, size, _ = blocks.shape
    return blocks.transpose(2, 3).reshape(b, rows * size, columns * size)
