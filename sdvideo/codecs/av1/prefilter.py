"""The network before `--base av1`: readies luma for what AV1 and the network after it make of it.

    out = x + change

What costs many bits and is lost all the same becomes weaker, what will be seen becomes clearer. The decoder knows
nothing of it. The network looks at one picture; told CRF and scale, it starts as no change. Its weights were trained
through a stand-in for the codec, and are used where they gain with AV1 itself, see `weights/PREFILTER.md`.
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
from sdvideo.frames import Picture
from sdvideo.restoration.restorer import Block, folded, frequencies, loaded, setting_of, sum_of, unfolded

SQUARE = 4
_PATCH = SQUARE**2
# Of the usual squared error, what the network may change. In natural pictures it is a twentieth at most, on drawn text,
# which the training has not seen, a third; there it makes things worse.
_MOST = 0.1
_COARSE = 54  # the CRF from which on it gains at two thirds; at full size it always does, at half it does not
_CHANNELS = 48
_BLOCKS = 3


class Prefiltering(nn.Module):
    """(luma, setting) -> the change, as patches [B, 16, H/4, W/4] of the 4x4 squares of a plane.

    luma: uint8 or float32, 0..255; the change is float32, not rounded. setting: float32 [B, 2], see restore.setting_of.
    """

    def __init__(self):
        super().__init__()
        self.enter = nn.Conv2d(_PATCH, _CHANNELS, 1)
        self.setting = nn.Sequential(nn.Linear(2, 32), nn.SiLU(), nn.Linear(32, _CHANNELS))
        self.blocks = nn.Sequential(*(Block(_CHANNELS) for _ in range(_BLOCKS)))
        self.leave = nn.Conv2d(_CHANNELS, _PATCH, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        with torch.no_grad():
            self.enter.weight[:_PATCH, :, 0, 0] = frequencies(SQUARE)
            for block in self.blocks:
                block.look.weight[:, :, 1, 1] += 1

    def forward(self, luma: torch.Tensor, setting: torch.Tensor) -> torch.Tensor:
        kind = self.enter.weight.dtype
        x = self.enter((luma.to(kind) - 128) * (1 / 64)) + self.setting(setting.to(kind))[:, :, None, None]
        return self.leave(self.blocks(x)).float() * 8


class Prefilter:
    """The network with its weights. path: of them, safetensors; device: "auto", "cpu" or "cuda"."""

    def __init__(self, path: Path, device: str = "auto"):
        from sdvideo.codecs.latent.model import choose_device

        self._device = choose_device(device)
        self._network = loaded(Prefiltering(), path, self._device)

    def __call__(self, pictures: Sequence[Picture], crf: float, scale: Fraction) -> list[Picture]:
        """The pictures of a group as AV1 should get them: as they are where the network does not gain.

        pictures: of the base's size; crf, scale: those of the base.
        """
        if scale < 1 and (scale != SCALES[1] or crf < _COARSE):
            return list(pictures)
        readied = [self._readied(picture, crf, scale) for picture in pictures]
        changed = [cv2.norm(a.y, b.y, cv2.NORM_L2SQR) / a.y.size for a, b in zip(pictures, readied, strict=True)]
        return readied if sum(changed) / len(changed) <= _MOST * usual_error(crf) else list(pictures)

    @torch.inference_mode()
    def _readied(self, picture: Picture, crf: float, scale: Fraction) -> Picture:
        setting = torch.tensor([setting_of(crf, scale)], device=self._device)
        luma = np.pad(picture.y, [(0, -side % SQUARE) for side in picture.y.shape], mode="edge")
        patches = folded(luma, SQUARE, SQUARE)
        change = self._network(torch.from_numpy(patches).to(self._device).permute(2, 0, 1)[None], setting)
        readied = sum_of(patches, change[0].permute(1, 2, 0).cpu().numpy())
        y = unfolded(readied, SQUARE, SQUARE)[: picture.height, : picture.width]
        return replace(picture, y=np.ascontiguousarray(y))


def usual_error(crf: float) -> float:
    """The squared error of luma that natural video has at a CRF, about: held-back shots at full size, restored."""
    return 255**2 / 10 ** ((37.5 - 0.24 * (crf - 40)) / 10)
