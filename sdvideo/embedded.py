"""The embedded latent model: a 16x16 block transform that starts as the KLT, with networks that learn the rest.

    latent  = A(x - p)  +  a(x - p, p)          A: 384 x 384 per block, linear; a: network, last layer zero at first
    picture = p + m * (S(latent) + s(latent, p))  S, s likewise; m: 1 in blocks that have a delta, else 0

where p is the prediction (128 everywhere for key frames). A block is 16x16 luma and two 8x8 chroma samples: 384
numbers, of which the transform makes 384 latent channels, in the order of falling variance. One set of weights serves
all rates: the networks are told the quantiser step.

Inside, a picture is "patches", float32 [B, 96, H/8, W/8]: the 64 luma and 2 x 16 chroma samples of each 8x8 square.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

BLOCK = 16
CHANNELS = 384
_PATCH = 96
_FINE = 96  # features at 1/8
_COARSE = 192  # features at 1/16


def to_patches(y: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """[B, H, W] and two [B, H/2, W/2] of any type, H and W multiples of 8 -> [B, 96, H/8, W/8]."""
    squares = [F.pixel_unshuffle(plane[:, None], size) for plane, size in ((y, 8), (u, 4), (v, 4))]
    return torch.cat(squares, 1)


def from_patches(patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The inverse of to_patches."""
    y, u, v = patches.split((64, 16, 16), 1)
    return F.pixel_shuffle(y, 8)[:, 0], F.pixel_shuffle(u, 4)[:, 0], F.pixel_shuffle(v, 4)[:, 0]


class Block(nn.Module):
    """Residual block: depthwise 3x3 to look around, two 1x1 to think."""

    def __init__(self, channels: int):
        super().__init__()
        self.look = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.widen = nn.Conv2d(channels, 2 * channels, 1)
        self.narrow = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.narrow(F.leaky_relu(self.widen(self.look(x)), 0.1))


def _zero(conv: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


def _rate(step: torch.Tensor) -> torch.Tensor:
    """Quantiser steps [B] -> a number around zero for the networks, [B, 1, 1, 1]."""
    return ((step.log2() - 5) / 2)[:, None, None, None]


class Analysis(nn.Module):
    """(difference, prediction) patches -> latent, float32 [B, 384, H/16, W/16]."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Conv2d(4 * _PATCH, CHANNELS, 1, bias=False)
        self.enter = nn.Conv2d(2 * _PATCH, _FINE, 1)
        self.fine = Block(_FINE)
        self.down = nn.Conv2d(4 * _FINE, _COARSE, 1)
        self.rate = nn.Conv2d(1, _COARSE, 1, bias=False)
        self.coarse = nn.Sequential(Block(_COARSE), Block(_COARSE))
        self.leave = _zero(nn.Conv2d(_COARSE, CHANNELS, 1))

    def forward(self, difference: torch.Tensor, prediction: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        x = self.fine(self.enter(torch.cat([difference, prediction - 128], 1) * (1 / 64)))
        x = self.down(F.pixel_unshuffle(x, 2)) + self.rate(_rate(step))
        return self.linear(F.pixel_unshuffle(difference, 2)) + 64 * self.leave(self.coarse(x))


class Synthesis(nn.Module):
    """(latent, prediction patches) -> what to add to the prediction, patches [B, 96, H/8, W/8]."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Conv2d(CHANNELS, 4 * _PATCH, 1, bias=False)
        self.up = nn.Conv2d(CHANNELS, _COARSE, 1)
        self.rate = nn.Conv2d(1, _COARSE, 1, bias=False)
        self.coarse = nn.Sequential(Block(_COARSE), Block(_COARSE))
        self.spread = nn.Conv2d(_COARSE, 4 * _FINE, 1)
        self.enter = nn.Conv2d(2 * _PATCH, _FINE, 1)
        self.fine = nn.Sequential(*(Block(_FINE) for _ in range(4)))
        self.leave = _zero(nn.Conv2d(_FINE, _PATCH, 1))

    def forward(self, latent: torch.Tensor, prediction: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        plain = F.pixel_shuffle(self.linear(latent), 2)
        x = self.coarse(self.up(latent * (1 / 64)) + self.rate(_rate(step)))
        x = F.pixel_shuffle(self.spread(x), 2)
        x = x + self.enter(torch.cat([plain, prediction + plain - 128], 1) * (1 / 64))
        return plain + 64 * self.leave(self.fine(x))


class Transform(nn.Module):
    """Analysis and synthesis together."""

    def __init__(self):
        super().__init__()
        self.analysis = Analysis()
        self.synthesis = Synthesis()

    def start_from(self, basis: torch.Tensor) -> None:
        """Take an orthonormal basis, [384 basis vectors, 384 patch samples], for the linear paths."""
        with torch.no_grad():
            self.analysis.linear.weight.copy_(basis[:, :, None, None])
            self.synthesis.linear.weight.copy_(basis.T[:, :, None, None])

    def analyse(self, source: torch.Tensor, prediction: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Patches 0..255, steps [B] -> latent delta, in the scale of the steps."""
        return self.analysis(source - prediction, prediction, step)

    def synthesise(
        self, latent: torch.Tensor, prediction: torch.Tensor, step: torch.Tensor, coded: torch.Tensor
    ) -> torch.Tensor:
        """Dequantised latent, prediction patches, steps [B], coded [B, 1, H/16, W/16] in 0..1 -> patches 0..255.

        Not rounded. Where coded is 0 the prediction comes back unchanged.
        """
        change = self.synthesis(latent, prediction, step)
        mask = F.interpolate(coded, scale_factor=2, mode="nearest")
        return (prediction + mask * change).clamp(0, 255)
