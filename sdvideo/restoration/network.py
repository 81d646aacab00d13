"""The restoration network: what a decoded picture lacks, predicted from it and from the previous shown picture.

    upscaled    the decoded base picture at full size (Lanczos)
    warped      the previous shown picture, warped along the flow between the two upscaled base pictures
    warp error  how far the base picture is from the previous one when that is warped along the same flow
    output  =   upscaled + change + blend * (warped - upscaled)

`change` and `blend` (0..1 for each sample) are the network's. It starts as plain Lanczos: its last layer is zero but
for a bias that keeps `blend` small. It works at a quarter of the resolution, on the 4x4 squares of `patches.py`:

    [B, 52, H/4, W/4] -> enter 1x1 -> + conditioning -> 6 residual blocks, 64 channels -> leave 1x1 -> [B, 24, H/4, W/4]

The attribute names of the layers are the keys of the weight files, so they stay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .engine import BLOCKS, CHANNELS
from .patches import SAMPLES, WARP_ERRORS


def to_patches(y: torch.Tensor, uv: torch.Tensor) -> torch.Tensor:
    """[B, H, W] and [B, 2, H/2, W/2] of any type, H and W multiples of 4 -> [B, 24, H/4, W/4]."""
    return torch.cat([F.pixel_unshuffle(y[:, None], 4), F.pixel_unshuffle(uv, 2)], 1)


def from_patches(patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The inverse of to_patches."""
    y, uv = patches.split((16, 8), 1)
    return F.pixel_shuffle(y, 4)[:, 0], F.pixel_shuffle(uv, 2)


class ResidualBlock(nn.Module):
    """x + narrow(hardswish(widen(look(x)))): a depthwise 3x3 convolution and two 1x1 ones."""

    def __init__(self, channels: int):
        super().__init__()
        self.look = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.widen = nn.Conv2d(channels, 2 * channels, 1)
        self.narrow = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.narrow(F.hardswish(self.widen(self.look(x)), inplace=True))


class _FusedBlock(nn.Module):
    """The same for inference: oneDNN applies activation and addition within the convolution, in half the time."""

    def __init__(self, block: ResidualBlock):
        super().__init__()
        self._look, self._widen, self._narrow = map(_packed, (block.look, block.widen, block.narrow))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        onednn = torch.ops.mkldnn
        seen = onednn._convolution_pointwise(x, *self._look, "none", [], "")
        wide = onednn._convolution_pointwise(seen, *self._widen, "hardswish", [], "")
        # written into x, which is not needed any more
        return onednn._convolution_pointwise_.binary(x, wide, *self._narrow, "add", 1.0, None, [], None)


def _packed(conv: nn.Conv2d) -> tuple:
    """Weights in oneDNN's own order, else it would reorder them for each picture, and the convolution's parameters."""
    how = list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups
    size = [1, conv.in_channels, 64, 64]  # any common size
    return torch.ops.mkldnn._reorder_convolution_weight(conv.weight, *how, size), conv.bias, *how


def _can_fuse(block: ResidualBlock, dtype: torch.dtype) -> bool:
    """Whether this torch has the fused operations. They are private to torch, so another release may lack them."""
    if not torch.backends.mkldnn.enabled:
        return False
    try:
        with torch.inference_mode():
            _FusedBlock(block)(torch.zeros(1, block.look.in_channels, 4, 4, dtype=dtype))
    except (AttributeError, RuntimeError, TypeError):
        return False
    return True


class RestorationNetwork(nn.Module):
    """(seen, conditioning) -> output - upscaled: patches, float32, not rounded."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Conv2d(2 * SAMPLES + WARP_ERRORS, CHANNELS, 1)
        self.setting = nn.Sequential(nn.Linear(2, 32), nn.SiLU(), nn.Linear(32, CHANNELS))
        self.blocks = nn.Sequential(*(ResidualBlock(CHANNELS) for _ in range(BLOCKS)))
        self.leave = nn.Conv2d(CHANNELS, 2 * SAMPLES, 1)
        self._initialise()

    def _initialise(self) -> None:
        """Start as Lanczos. A DCT whitens the input: neighbouring samples are too alike to learn from as such."""
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias[:SAMPLES])
        nn.init.constant_(self.leave.bias[SAMPLES:], -2.0)
        luma, chroma = dct_basis(4), dct_basis(2)
        basis = torch.block_diag(luma, chroma, chroma)
        with torch.no_grad():
            self.enter.weight[:SAMPLES, :SAMPLES, 0, 0] = basis
            self.enter.weight[SAMPLES : 2 * SAMPLES, SAMPLES : 2 * SAMPLES, 0, 0] = 2 * basis
            for block in self.blocks:
                block.look.weight[:, :, 1, 1] += 1
                nn.init.kaiming_normal_(block.widen.weight, nonlinearity="relu")

    def forward(self, seen: torch.Tensor, setting: torch.Tensor) -> torch.Tensor:
        """seen: upscaled - 128, warped - upscaled (patches) and warp error (2x2 values of each square).

        [B, 24 + 24 + 4, H/4, W/4], integers or floats. setting: float32 [B, 2], see `engine.conditioning`.
        """
        dtype = self.enter.weight.dtype  # integers up to 256 are exact in bfloat16, too
        weight, bias = self.enter.weight * (1 / 64), self.enter.bias + self.setting(setting.to(dtype))
        if len(bias) == 1:  # saves a pass through memory
            x = F.conv2d(seen.to(dtype), weight, bias[0])
        else:
            x = F.conv2d(seen.to(dtype), weight)
            x += bias[:, :, None, None]
        x, leave = self.blocks(x), self.leave
        # Two convolutions, so that each result is contiguous.
        change, blend = (F.conv2d(x, leave.weight[of], leave.bias[of]) for of in (slice(SAMPLES), slice(SAMPLES, None)))
        difference = seen[:, SAMPLES : 2 * SAMPLES].float()
        return change.float().mul_(8).addcmul_(blend.float().sigmoid_(), difference)

    def macs(self) -> float:
        """Multiply-accumulate operations per full-size pixel."""
        return sum(conv.weight.numel() for conv in self.modules() if isinstance(conv, nn.Conv2d)) / 16


def dct_basis(size: int) -> torch.Tensor:
    """The DCT of size x size squares, [size², size²], scaled so that each frequency is about as strong in pictures."""
    at, k = torch.arange(size) + 0.5, torch.arange(size)[:, None]
    cosines = torch.cos(math.pi / size * k * at) * torch.where(k == 0, math.sqrt(1 / size), math.sqrt(2 / size))
    strength = (1 + k) * (1 + k.T) / size
    return torch.kron(cosines, cosines) * strength.reshape(-1, 1)


def load_network(network: nn.Module, weights: Mapping[str, np.ndarray], device: str) -> nn.Module:
    """Put weights into a network of residual blocks and prepare it for inference.

    device: "cpu" or "cuda". Runs in bfloat16 where the hardware multiplies it; elsewhere float32 is faster.
    """
    from sdvideo.runtime.device import has_bfloat16

    network.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    dtype = torch.bfloat16 if device == "cuda" or has_bfloat16() else torch.float32
    network = network.eval().to(device, dtype, memory_format=torch.channels_last)
    if device == "cpu" and _can_fuse(network.blocks[0], dtype):
        network.blocks = nn.Sequential(*map(_FusedBlock, network.blocks))
    return network
