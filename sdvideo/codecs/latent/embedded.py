"""The embedded latent model: a 16x16 block transform that starts as the KLT, with networks that learn the rest.

    latent  = A(x - p)  +  a(x - p, p)          A: 384 x 384 per block, linear; a: network, last layer zero at first
    picture = p + m * (S(latent) + s(latent, p))  S, s likewise; m: 1 in blocks that have a delta, else 0

where p is the prediction (128 everywhere for key frames). A block is 16x16 luma and two 8x8 chroma samples: 384
numbers, of which the transform makes 384 latent channels, in the order of falling variance. One set of weights serves
all rates: the networks are told the quantiser step.

Inside, a picture is "patches", float32 [B, 96, H/8, W/8]: the 64 luma and 2 x 16 chroma samples of each 8x8 square.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn

from sdvideo import weights
from sdvideo.codecs.latent.coding.context_model import CHANNELS, ContextModel
from sdvideo.codecs.latent.coding.frame_syntax import ContextCoder
from sdvideo.container import ModelId
from sdvideo.frames import Colour, Picture
from sdvideo.motion.block_matching import BLOCK, compensate
from sdvideo.runtime.device import choose_device, has_bfloat16
from sdvideo.settings import DEFAULT_MODEL

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
        return x + self.narrow(F.leaky_relu_(self.widen(self.look(x)), 0.1))


def _zero(conv: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


def _rate(step: torch.Tensor) -> torch.Tensor:
    """Quantiser steps [B] -> a number around zero for the networks, [B, 1, 1, 1]."""
    return ((step.log2() - 5) / 2)[:, None, None, None]


def _light(wanted: bool) -> torch.autocast:
    """bfloat16 inside the networks; the linear paths, which carry the picture itself, stay float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=wanted)


class Analysis(nn.Module):
    """(difference, prediction) patches -> latent, float32 [B, 384, H/16, W/16]."""

    light = False  # bfloat16 networks

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
        plain = self.linear(F.pixel_unshuffle(difference, 2))
        with _light(self.light):
            x = self.fine(self.enter(torch.cat([difference, prediction - 128], 1) * (1 / 64)))
            x = self.down(F.pixel_unshuffle(x, 2)) + self.rate(_rate(step))
            return plain + 64 * self.leave(self.coarse(x)).float()


class Synthesis(nn.Module):
    """(latent, prediction patches) -> what to add to the prediction, patches [B, 96, H/8, W/8]."""

    light = False  # bfloat16 networks

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
        with _light(self.light):
            x = self.coarse(self.up(latent * (1 / 64)) + self.rate(_rate(step)))
            x = F.pixel_shuffle(self.spread(x), 2)
            x = x + self.enter(torch.cat([plain, prediction + plain - 128], 1) * (1 / 64))
            return plain + 64 * self.leave(self.fine(x)).float()


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


class Planes(NamedTuple):
    """A picture padded to whole blocks: y uint8 [16 h, 16 w]; u, v uint8 [8 h, 8 w]."""

    y: np.ndarray
    u: np.ndarray
    v: np.ndarray


class EmbeddedModel:
    """The embedded model as a latent model (see latents.py). References are padded planes, uint8, in a Planes."""

    block = BLOCK
    colour = Colour()  # it works on code values, whatever they mean

    def __init__(self, transform: Transform, context: ContextModel, sha256: str, revision: str, device: str = "cpu"):
        self.id = ModelId(DEFAULT_MODEL, revision, sha256)
        self.coder = ContextCoder(context)
        self.description = {"channels": CHANNELS, "block": BLOCK}
        self._device = device
        self._transform = transform.eval().to(device, memory_format=torch.channels_last)
        transform.analysis.light = transform.synthesis.light = device == "cpu" and has_bfloat16()

    def source(self, picture: Picture) -> Planes:
        rows, columns = -(-picture.height // BLOCK), -(-picture.width // BLOCK)
        return Planes(
            _pad(picture.y, rows * 16, columns * 16),
            _pad(picture.u, rows * 8, columns * 8),
            _pad(picture.v, rows * 8, columns * 8),
        )

    def luma(self, planes: Planes) -> np.ndarray:
        return planes.y

    def blank(self, height: int, width: int) -> Planes:
        rows, columns = -(-height // BLOCK), -(-width // BLOCK)
        chroma = np.full((rows * 8, columns * 8), 128, np.uint8)
        return Planes(np.full((rows * 16, columns * 16), 128, np.uint8), chroma, chroma)

    def predict(self, reference: Planes, motion: np.ndarray) -> Planes:
        y = compensate(reference.y, motion, 16)
        chroma = compensate(np.dstack(reference[1:]), motion, 8)
        return Planes(y, *(np.ascontiguousarray(chroma[..., i]) for i in (0, 1)))

    @torch.inference_mode()
    def analyse(self, source: Planes, prediction: Planes, step: float) -> np.ndarray:
        x, p = self._patches(source), self._patches(prediction)
        latent = self._transform.analyse(x, p, torch.tensor([step], device=self._device))
        return latent[0].permute(1, 2, 0).cpu().contiguous().numpy()

    @torch.inference_mode()
    def synthesise(self, prediction: Planes, latent: np.ndarray, coded: np.ndarray, step: float) -> Planes:
        if not coded.any():
            return prediction
        delta = torch.from_numpy(latent).to(self._device).permute(2, 0, 1)[None]
        mask = torch.from_numpy(coded).to(self._device, torch.float32)[None, None]
        p = self._patches(prediction)
        patches = self._transform.synthesise(delta, p, torch.tensor([step], device=self._device), mask)
        planes = from_patches(patches.round_().to(torch.uint8))
        return Planes(*(plane[0].cpu().contiguous().numpy() for plane in planes))

    def picture(self, reference: Planes, height: int, width: int) -> Picture:
        h, w = (height + 1) // 2, (width + 1) // 2
        return Picture(reference.y[:height, :width], reference.u[:h, :w], reference.v[:h, :w])

    def _patches(self, planes: Planes) -> torch.Tensor:
        y, u, v = (torch.from_numpy(plane).to(self._device)[None] for plane in planes)
        return to_patches(y, u, v).to(torch.float32, memory_format=torch.channels_last)


def _pad(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.pad(plane, ((0, height - plane.shape[0]), (0, width - plane.shape[1])), mode="edge")


def load_networks(data: bytes) -> tuple[Transform, ContextModel]:
    """The two networks of a file of weights like the one that ships with the package."""
    tensors = safetensors.torch.load(data)
    transform, context = Transform(), ContextModel()
    for module, prefix in ((transform, "transform."), (context, "context.")):
        module.load_state_dict({k.removeprefix(prefix): v.float() for k, v in tensors.items() if k.startswith(prefix)})
    return transform, context


def load_embedded(*, device: str = "auto") -> EmbeddedModel:
    """The model that ships with the package, on "cpu" or "cuda" ("auto": cuda where there is one)."""
    data = weights.EMBEDDED.read_bytes()
    with safe_open(weights.EMBEDDED, "pt") as file:
        own_revision = (file.metadata() or {}).get("revision", "")
    return EmbeddedModel(*load_networks(data), hashlib.sha256(data).hexdigest(), own_revision, choose_device(device))
