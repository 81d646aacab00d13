"""The prefilter of base "av1": a network that changes luma before it is coded. Decoders know nothing of it.

    coded = x + change

It weakens what costs many bits and is lost in any case, and sharpens what will be seen after restoration. It looks at
one picture, conditioned on CRF and scale, and starts as no change. It was trained through a differentiable stand-in for
the codec, and is used where it gains with real AV1, see `weights/PREFILTER.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from sdvideo.container.header import SCALES
from sdvideo.frames import Picture, extend_edges
from sdvideo.restoration.engine import conditioning
from sdvideo.restoration.network import ResidualBlock, dct_basis, load_network
from sdvideo.restoration.patches import add_rounded, depth_to_space, space_to_depth
from sdvideo.runtime.device import choose_device

SQUARE = 4
_SAMPLES = SQUARE**2
# The network may change at most this share of the usual squared error. In natural pictures it changes a twentieth at
# most; on rendered text, which was not in its training set, a third, and makes it worse.
_MAX_SHARE = 0.1
_COARSE = 54  # the CRF from which on it gains at two thirds; at full size it always does, at half size never
_CHANNELS = 48
_BLOCKS = 3


class PrefilterNetwork(nn.Module):
    """(luma, conditioning) -> the change, as patches [B, 16, H/4, W/4] of the 4x4 squares of a plane.

    luma: uint8 or float32, 0..255. The change is float32, not rounded. setting: float32 [B, 2], see conditioning.
    """

    def __init__(self):
        super().__init__()
        self.enter = nn.Conv2d(_SAMPLES, _CHANNELS, 1)
        self.setting = nn.Sequential(nn.Linear(2, 32), nn.SiLU(), nn.Linear(32, _CHANNELS))
        self.blocks = nn.Sequential(*(ResidualBlock(_CHANNELS) for _ in range(_BLOCKS)))
        self.leave = nn.Conv2d(_CHANNELS, _SAMPLES, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        with torch.no_grad():
            self.enter.weight[:_SAMPLES, :, 0, 0] = dct_basis(SQUARE)
            for block in self.blocks:
                block.look.weight[:, :, 1, 1] += 1

    def forward(self, luma: torch.Tensor, setting: torch.Tensor) -> torch.Tensor:
        dtype = self.enter.weight.dtype
        x = self.enter((luma.to(dtype) - 128) * (1 / 64)) + self.setting(setting.to(dtype))[:, :, None, None]
        return self.leave(self.blocks(x)).float() * 8


class Prefilter:
    """The network with its weights. path: safetensors; device: "auto", "cpu" or "cuda"."""

    def __init__(self, path: Path, device: str = "auto"):
        self._device = choose_device(device)
        self._network = load_network(PrefilterNetwork(), path, self._device)

    def __call__(self, pictures: Sequence[Picture], crf: float, scale: Fraction) -> list[Picture]:
        """The pictures of a group as the AV1 encoder gets them: unchanged where the network does not gain.

        pictures: of the base's size. crf, scale: those of the base.
        """
        if scale < 1 and (scale != SCALES[1] or crf < _COARSE):
            return list(pictures)
        filtered = [self._filter(picture, crf, scale) for picture in pictures]
        changed = [cv2.norm(a.y, b.y, cv2.NORM_L2SQR) / a.y.size for a, b in zip(pictures, filtered, strict=True)]
        return filtered if sum(changed) / len(changed) <= _MAX_SHARE * usual_error(crf) else list(pictures)

    @torch.inference_mode()
    def _filter(self, picture: Picture, crf: float, scale: Fraction) -> Picture:
        setting = torch.tensor([conditioning(crf, scale)], device=self._device)
        luma = extend_edges(picture.y, *(-(-side // SQUARE) * SQUARE for side in picture.y.shape))
        patches = space_to_depth(luma, SQUARE, SQUARE)
        change = self._network(torch.from_numpy(patches).to(self._device).permute(2, 0, 1)[None], setting)
        filtered = add_rounded(patches, change[0].permute(1, 2, 0).cpu().numpy())
        y = depth_to_space(filtered, SQUARE, SQUARE)[: picture.height, : picture.width]
        return replace(picture, y=np.ascontiguousarray(y))


def usual_error(crf: float) -> float:
    """The squared error of luma that natural video has at a CRF: held-back shots at full size, restored."""
    return 255**2 / 10 ** ((37.5 - 0.24 * (crf - 40)) / 10)
