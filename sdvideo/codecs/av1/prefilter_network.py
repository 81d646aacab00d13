"""The network of the prefilter, in PyTorch: (luma, conditioning) -> the change.

    [B, 16, H/4, W/4] -> enter 1x1 -> + conditioning -> 3 residual blocks, 48 channels -> leave 1x1 -> [B, 16, H/4, W/4]

The attribute names of the layers are the keys of the weight file, so they stay.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from sdvideo.restoration.network import ResidualBlock, dct_basis, load_network
from sdvideo.weights import read_weights

from .prefilter_engine import BLOCKS, CHANNELS, SAMPLES, SQUARE


class PrefilterNetwork(nn.Module):
    """(luma, conditioning) -> the change, as patches [B, 16, H/4, W/4] of the 4x4 squares of a plane.

    luma: uint8 or float32, 0..255. The change is float32, not rounded. setting: float32 [B, 2], see conditioning.
    """

    def __init__(self):
        super().__init__()
        self.enter = nn.Conv2d(SAMPLES, CHANNELS, 1)
        self.setting = nn.Sequential(nn.Linear(2, 32), nn.SiLU(), nn.Linear(32, CHANNELS))
        self.blocks = nn.Sequential(*(ResidualBlock(CHANNELS) for _ in range(BLOCKS)))
        self.leave = nn.Conv2d(CHANNELS, SAMPLES, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        with torch.no_grad():
            self.enter.weight[:SAMPLES, :, 0, 0] = dct_basis(SQUARE)
            for block in self.blocks:
                block.look.weight[:, :, 1, 1] += 1

    def forward(self, luma: torch.Tensor, setting: torch.Tensor) -> torch.Tensor:
        dtype = self.enter.weight.dtype
        x = self.enter((luma.to(dtype) - 128) * (1 / 64)) + self.setting(setting.to(dtype))[:, :, None, None]
        return self.leave(self.blocks(x)).float() * 8


class TorchPrefilter:
    """A PrefilterEngine, see `prefilter.py`. path: weights, safetensors; device: "cpu" or "cuda"."""

    def __init__(self, path: Path, device: str):
        self._device = device
        self._network = load_network(PrefilterNetwork(), read_weights(path), device)

    @torch.inference_mode()
    def change(self, luma: np.ndarray, setting: tuple[float, float]) -> np.ndarray:
        patches = torch.from_numpy(luma).to(self._device).permute(2, 0, 1)[None]
        found: torch.Tensor = self._network(patches, torch.tensor([setting], device=self._device))
        return found[0].permute(1, 2, 0).cpu().numpy()
