"""The embedded latent model: a 16x16 block transform that is initialised as the KLT, with networks that refine it.

    latent  = A(x - p)  +  a(x - p, p)            A: linear, 384 x 384 per block; a: network, last layer initially zero
    picture = p + m * (S(latent) + s(latent, p))  S, s: likewise; m: 1 in blocks that have a delta, else 0

Here x is the source and p the prediction, 128 everywhere for key frames. A block is 16x16 luma and two 8x8 chroma
samples: 384 numbers, of which the transform makes 384 latent channels, in the order of falling variance. One set of
weights serves all rates, because the quantizer step is an input of the networks.

The networks see a picture as patches, float32 [B, 96, H/8, W/8]: the 64 luma and 2 x 16 chroma samples of each 8x8
square. The attribute names of the layers are the keys of the weight files, so they stay.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn

from sdvideo import weights
from sdvideo.codecs.latent.coding.context_model import CHANNELS, ContextModel
from sdvideo.codecs.latent.coding.frame_syntax import ContextCoder, LatentCoder
from sdvideo.container import ModelId
from sdvideo.frames import Colour, Picture, extend_edges
from sdvideo.motion.block_matching import BLOCK, compensate
from sdvideo.runtime.device import choose_device, has_bfloat16
from sdvideo.settings import DEFAULT_MODEL

from .latent_space import grid_size

_PATCH = 96  # samples of an 8x8 square
_FINE = 96  # features at 1/8 of the resolution
_COARSE = 192  # features at 1/16 of the resolution


def to_patches_8x8(y: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """[B, H, W] and two [B, H/2, W/2] of any type, H and W multiples of 8 -> [B, 96, H/8, W/8]."""
    squares = [F.pixel_unshuffle(plane[:, None], size) for plane, size in ((y, 8), (u, 4), (v, 4))]
    return torch.cat(squares, 1)


def from_patches_8x8(patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The inverse of to_patches_8x8."""
    y, u, v = torch.split(patches, [64, 16, 16], 1)
    return F.pixel_shuffle(y, 8)[:, 0], F.pixel_shuffle(u, 4)[:, 0], F.pixel_shuffle(v, 4)[:, 0]


class LeakyResidualBlock(nn.Module):
    """x + narrow(leaky_relu(widen(look(x)))): a depthwise 3x3 convolution and two 1x1 ones.

    The restoration network's residual block has the same layers, but another activation.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.look = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.widen = nn.Conv2d(channels, 2 * channels, 1)
        self.narrow = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        change: torch.Tensor = self.narrow(F.leaky_relu_(self.widen(self.look(x)), 0.1))
        return x + change


def _zero_initialised(conv: nn.Conv2d) -> nn.Conv2d:
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


def _rate_input(step: torch.Tensor) -> torch.Tensor:
    """Quantizer steps [B] -> numbers around zero for the networks, [B, 1, 1, 1]."""
    return ((step.log2() - 5) / 2)[:, None, None, None]


def _autocast(bfloat16: bool) -> torch.autocast:
    """bfloat16 inside the networks. The linear paths, which carry the picture itself, stay float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=bfloat16)


class Analysis(nn.Module):
    """(difference, prediction) patches -> latent, float32 [B, 384, H/16, W/16]."""

    use_bfloat16 = False  # whether the network, but not the linear path, runs in bfloat16

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Conv2d(4 * _PATCH, CHANNELS, 1, bias=False)
        self.enter = nn.Conv2d(2 * _PATCH, _FINE, 1)
        self.fine = LeakyResidualBlock(_FINE)
        self.down = nn.Conv2d(4 * _FINE, _COARSE, 1)
        self.rate = nn.Conv2d(1, _COARSE, 1, bias=False)
        self.coarse = nn.Sequential(LeakyResidualBlock(_COARSE), LeakyResidualBlock(_COARSE))
        self.leave = _zero_initialised(nn.Conv2d(_COARSE, CHANNELS, 1))

    def forward(self, difference: torch.Tensor, prediction: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        linear: torch.Tensor = self.linear(F.pixel_unshuffle(difference, 2))
        with _autocast(self.use_bfloat16):
            x = self.fine(self.enter(torch.cat([difference, prediction - 128], 1) * (1 / 64)))
            x = self.down(F.pixel_unshuffle(x, 2)) + self.rate(_rate_input(step))
            refinement: torch.Tensor = self.leave(self.coarse(x))
        return linear + 64 * refinement.float()


class Synthesis(nn.Module):
    """(latent, prediction patches) -> the change to the prediction, patches [B, 96, H/8, W/8]."""

    use_bfloat16 = False  # whether the network, but not the linear path, runs in bfloat16

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Conv2d(CHANNELS, 4 * _PATCH, 1, bias=False)
        self.up = nn.Conv2d(CHANNELS, _COARSE, 1)
        self.rate = nn.Conv2d(1, _COARSE, 1, bias=False)
        self.coarse = nn.Sequential(LeakyResidualBlock(_COARSE), LeakyResidualBlock(_COARSE))
        self.spread = nn.Conv2d(_COARSE, 4 * _FINE, 1)
        self.enter = nn.Conv2d(2 * _PATCH, _FINE, 1)
        self.fine = nn.Sequential(*(LeakyResidualBlock(_FINE) for _ in range(4)))
        self.leave = _zero_initialised(nn.Conv2d(_FINE, _PATCH, 1))

    def forward(self, latent: torch.Tensor, prediction: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        linear = F.pixel_shuffle(self.linear(latent), 2)
        with _autocast(self.use_bfloat16):
            x = self.coarse(self.up(latent * (1 / 64)) + self.rate(_rate_input(step)))
            x = F.pixel_shuffle(self.spread(x), 2)
            x = x + self.enter(torch.cat([linear, prediction + linear - 128], 1) * (1 / 64))
            refinement: torch.Tensor = self.leave(self.fine(x))
        return linear + 64 * refinement.float()


class Transform(nn.Module):
    """Analysis and synthesis together."""

    def __init__(self) -> None:
        super().__init__()
        self.analysis = Analysis()
        self.synthesis = Synthesis()

    def start_from(self, basis: torch.Tensor) -> None:
        """Initialise the linear paths with an orthonormal basis, [384 basis vectors, 384 samples of a block]."""
        with torch.no_grad():
            self.analysis.linear.weight.copy_(basis[:, :, None, None])
            self.synthesis.linear.weight.copy_(basis.T[:, :, None, None])

    def analyse(self, source: torch.Tensor, prediction: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Patches 0..255 and quantizer steps [B] -> latent delta, float32 [B, 384, H/16, W/16], not yet divided."""
        latent: torch.Tensor = self.analysis(source - prediction, prediction, step)
        return latent

    def synthesise(
        self, latent: torch.Tensor, prediction: torch.Tensor, step: torch.Tensor, coded: torch.Tensor
    ) -> torch.Tensor:
        """Dequantized latent delta and prediction patches -> patches 0..255, not rounded.

        step: quantizer steps [B]. coded: [B, 1, H/16, W/16] in 0..1; where it is 0, the prediction stays as it is.
        """
        change: torch.Tensor = self.synthesis(latent, prediction, step)
        mask = F.interpolate(coded, scale_factor=2, mode="nearest")
        return (prediction + mask * change).clamp(0, 255)


class PaddedPlanes(NamedTuple):
    """A picture whose edges are extended to whole blocks: y uint8 [16 h, 16 w]; u, v uint8 [8 h, 8 w]."""

    y: np.ndarray
    u: np.ndarray
    v: np.ndarray


class EmbeddedModel:
    """The embedded model as a LatentModel (see `model.py`). Sources, references and predictions are PaddedPlanes."""

    block = BLOCK
    colour = Colour()  # unused: the model works on code values, whatever their colours

    def __init__(self, transform: Transform, context: ContextModel, sha256: str, revision: str, device: str = "cpu"):
        self.id = ModelId(DEFAULT_MODEL, revision, sha256)
        self.coder: LatentCoder = ContextCoder(context)
        self.description: dict[str, Any] = {"channels": CHANNELS, "block": BLOCK}
        self._device = device
        self._transform = transform.eval().to(device, memory_format=torch.channels_last)
        transform.analysis.use_bfloat16 = transform.synthesis.use_bfloat16 = device == "cpu" and has_bfloat16()

    def source(self, picture: Picture) -> PaddedPlanes:
        rows, columns = grid_size(picture.height, picture.width, BLOCK)
        return PaddedPlanes(
            extend_edges(picture.y, rows * 16, columns * 16),
            extend_edges(picture.u, rows * 8, columns * 8),
            extend_edges(picture.v, rows * 8, columns * 8),
        )

    def luma(self, planes: PaddedPlanes) -> np.ndarray:
        return planes.y

    def blank(self, height: int, width: int) -> PaddedPlanes:
        rows, columns = grid_size(height, width, BLOCK)
        chroma = np.full((rows * 8, columns * 8), 128, np.uint8)
        return PaddedPlanes(np.full((rows * 16, columns * 16), 128, np.uint8), chroma, chroma)

    def predict(self, reference: PaddedPlanes, motion: np.ndarray) -> PaddedPlanes:
        y = compensate(reference.y, motion, 16)
        chroma = compensate(np.dstack(reference[1:]), motion, 8)
        return PaddedPlanes(y, *(np.ascontiguousarray(chroma[..., i]) for i in (0, 1)))

    @torch.inference_mode()
    def analyse(self, source: PaddedPlanes, prediction: PaddedPlanes, step: float) -> np.ndarray:
        x, p = self._patches(source), self._patches(prediction)
        delta = self._transform.analyse(x, p, torch.tensor([step], device=self._device))
        latent: np.ndarray = delta[0].permute(1, 2, 0).cpu().contiguous().numpy()
        return latent

    @torch.inference_mode()
    def synthesise(self, prediction: PaddedPlanes, latent: np.ndarray, coded: np.ndarray, step: float) -> PaddedPlanes:
        if not coded.any():
            return prediction
        delta = torch.from_numpy(latent).to(self._device).permute(2, 0, 1)[None]
        mask = torch.from_numpy(coded).to(self._device, torch.float32)[None, None]
        p = self._patches(prediction)
        patches = self._transform.synthesise(delta, p, torch.tensor([step], device=self._device), mask)
        planes = from_patches_8x8(patches.round_().to(torch.uint8))
        return PaddedPlanes(*(plane[0].cpu().contiguous().numpy() for plane in planes))

    def picture(self, reference: PaddedPlanes, height: int, width: int) -> Picture:
        h, w = (height + 1) // 2, (width + 1) // 2
        return Picture(reference.y[:height, :width], reference.u[:h, :w], reference.v[:h, :w])

    def _patches(self, planes: PaddedPlanes) -> torch.Tensor:
        y, u, v = (torch.from_numpy(plane).to(self._device)[None] for plane in planes)
        return to_patches_8x8(y, u, v).to(torch.float32, memory_format=torch.channels_last)


def load_networks(data: bytes) -> tuple[Transform, ContextModel]:
    """The two networks in weights of the embedded model. data: the contents of a safetensors file."""
    tensors = safetensors.torch.load(data)
    transform, context = Transform(), ContextModel()
    for module, prefix in ((transform, "transform."), (context, "context.")):
        module.load_state_dict({k.removeprefix(prefix): v.float() for k, v in tensors.items() if k.startswith(prefix)})
    return transform, context


def load_embedded(*, device: str = "auto") -> EmbeddedModel:
    """The model that comes with the package. device: "auto", "cpu" or "cuda"."""
    data = weights.EMBEDDED.read_bytes()
    with safe_open(weights.EMBEDDED, "pt") as file:
        revision = (file.metadata() or {}).get("revision", "")
    return EmbeddedModel(*load_networks(data), hashlib.sha256(data).hexdigest(), revision, choose_device(device))
