"""The network behind `--base av1`: paints full-size pictures from small decoded ones, frame after frame.

    up      = the decoded base picture, enlarged by Lanczos (scaling.scaled)
    carried = the previous painted picture, warped along the flow between the two enlarged base pictures
    doubt   = how far the base itself is from its own past when it is warped like that, 255 out of frame
    out     = up + change + blend * (carried - up)

change and blend (0..1, one per sample) come from the network, which starts as Lanczos: its last layer is zero but for a
bias that keeps blend small. The first picture of a group has carried = up and doubt = 255 everywhere. Flow is estimated
from what the decoder has, so it costs no bits.

Inside, a picture is "patches", [B, 24, H/4, W/4]: the 16 luma and 2 x 4 chroma samples of each 4x4 square.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from sdvideo.frames import Picture

PATCH, DOUBTS = 24, 4  # numbers of a 4x4 square: its samples, and its doubts
NO_TRUST = 255  # doubt where there is nothing to carry over
_CHANNELS = 64
_BLOCKS = 6
_MOST_SQUARES = 80_000  # that are painted at once, which limits the memory for it: 1 kB for each
_LEAST = 64  # pixels a side; DIS needs half of that


def to_patches(y: torch.Tensor, uv: torch.Tensor) -> torch.Tensor:
    """[B, H, W] and [B, 2, H/2, W/2] of any type, H and W multiples of 4 -> [B, 24, H/4, W/4]."""
    return torch.cat([F.pixel_unshuffle(y[:, None], 4), F.pixel_unshuffle(uv, 2)], 1)


def from_patches(patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The inverse of to_patches."""
    y, uv = patches.split((16, 8), 1)
    return F.pixel_shuffle(y, 4)[:, 0], F.pixel_shuffle(uv, 2)


def setting_of(crf: float, scale: float) -> tuple[float, float]:
    """What the network is told of the base: crf 20..63 and scale 1/2..1 as numbers around zero."""
    return (crf - 45) / 12, -math.log2(scale)


class Block(nn.Module):
    """Residual block: depthwise 3x3 to look around, two 1x1 to think."""

    def __init__(self, channels: int):
        super().__init__()
        self.look = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.widen = nn.Conv2d(channels, 2 * channels, 1)
        self.narrow = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.narrow(F.hardswish(self.widen(self.look(x)), inplace=True))


class _FusedBlock(nn.Module):
    """The same for painting alone: oneDNN applies what follows a convolution while it is at it. Half the time."""

    def __init__(self, block: Block):
        super().__init__()
        self._look, self._widen, self._narrow = map(_packed, (block.look, block.widen, block.narrow))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        onednn = torch.ops.mkldnn
        seen = onednn._convolution_pointwise(x, *self._look, "none", [], "")
        wide = onednn._convolution_pointwise(seen, *self._widen, "hardswish", [], "")
        # into x, which is not needed any more
        return onednn._convolution_pointwise_.binary(x, wide, *self._narrow, "add", 1.0, None, [], None)


def _packed(conv: nn.Conv2d) -> tuple:
    """Weights in the order that oneDNN would bring them into for each picture, and how they are used."""
    how = list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups
    size = [1, conv.in_channels, 64, 64]  # some usual one
    return torch.ops.mkldnn._reorder_convolution_weight(conv.weight, *how, size), conv.bias, *how


def _fuses(block: Block, kind: torch.dtype) -> bool:
    """Can this torch do that? Its operations for it are its own, and not promised to stay as they are."""
    if not torch.backends.mkldnn.enabled:
        return False
    try:
        with torch.inference_mode():
            _FusedBlock(block)(torch.zeros(1, block.look.in_channels, 4, 4, dtype=kind))
    except (AttributeError, RuntimeError, TypeError):
        return False
    return True


class Restoration(nn.Module):
    """(seen, setting) -> what the painted picture has more than up: patches, float32, not rounded."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Conv2d(2 * PATCH + DOUBTS, _CHANNELS, 1)
        self.setting = nn.Sequential(nn.Linear(2, 32), nn.SiLU(), nn.Linear(32, _CHANNELS))
        self.blocks = nn.Sequential(*(Block(_CHANNELS) for _ in range(_BLOCKS)))
        self.leave = nn.Conv2d(_CHANNELS, 2 * PATCH, 1)
        self._start()

    def _start(self) -> None:
        """Lanczos, seen as whitened frequencies: neighbouring samples are too alike to learn from side by side."""
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias[:PATCH])
        nn.init.constant_(self.leave.bias[PATCH:], -2.0)
        luma, chroma = frequencies(4), frequencies(2)
        basis = torch.block_diag(luma, chroma, chroma)
        with torch.no_grad():
            self.enter.weight[:PATCH, :PATCH, 0, 0] = basis
            self.enter.weight[PATCH : 2 * PATCH, PATCH : 2 * PATCH, 0, 0] = 2 * basis
            for block in self.blocks:
                block.look.weight[:, :, 1, 1] += 1
                nn.init.kaiming_normal_(block.widen.weight, nonlinearity="relu")

    def forward(self, seen: torch.Tensor, setting: torch.Tensor) -> torch.Tensor:
        """seen: up - 128, carried - up (patches) and doubt (the 2x2 values of each square), [B, 24 + 24 + 4, H/4, W/4].

        Whole or float numbers. setting: float32 [B, 2], see setting_of.
        """
        kind = self.enter.weight.dtype  # whole numbers up to 256 are exact in bfloat16, too
        weight, told = self.enter.weight * (1 / 64), self.enter.bias + self.setting(setting.to(kind))
        if len(told) == 1:  # a walk through memory less
            x = F.conv2d(seen.to(kind), weight, told[0])
        else:
            x = F.conv2d(seen.to(kind), weight)
            x += told[:, :, None, None]
        x, leave = self.blocks(x), self.leave
        # Apart, each lies in one piece.
        change, blend = (F.conv2d(x, leave.weight[of], leave.bias[of]) for of in (slice(PATCH), slice(PATCH, None)))
        apart = seen[:, PATCH : 2 * PATCH].float()
        return change.float().mul_(8).addcmul_(blend.float().sigmoid_(), apart)

    def macs(self) -> float:
        """Multiplications per full-size pixel."""
        return sum(conv.weight.numel() for conv in self.modules() if isinstance(conv, nn.Conv2d)) / 16


def frequencies(size: int) -> torch.Tensor:
    """The DCT of size x size squares, [size², size²], each frequency as strong as the others in a usual picture."""
    at, k = torch.arange(size) + 0.5, torch.arange(size)[:, None]
    cosines = torch.cos(math.pi / size * k * at) * torch.where(k == 0, math.sqrt(1 / size), math.sqrt(2 / size))
    strength = (1 + k) * (1 + k.T) / size
    return torch.kron(cosines, cosines) * strength.reshape(-1, 1)


class Tracer:
    """Finds where each part of a base picture was in the one before (DIS flow; Kroeger et al. 2016, OpenCV's)."""

    def __init__(self):
        self._dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._dis.setFinestScale(1)  # at half size as good as the slower presets, at a third of their time
        self._dis.setPatchStride(5)  # as good as 4, in 0.7 of the time

    def trace(self, before: np.ndarray, now: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """before, now: luma at half size (see halved), uint8 [H/2, W/2].

        Returns the flow from `now` to `before`, float32 [H/2, W/2, 2] (x, y) in samples of this grid, and the doubt
        about it, uint8 [H/2, W/2].
        """
        flow = self._dis.calc(now, before, None)
        place = flow + grid(*now.shape)
        seen = cv2.remap(before, place, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        inside = cv2.inRange(place, (0, 0), (now.shape[1] - 1, now.shape[0] - 1))
        return flow, cv2.bitwise_or(cv2.absdiff(now, seen), cv2.bitwise_not(inside))


@lru_cache(maxsize=4)
def grid(height: int, width: int) -> np.ndarray:
    """The place of every sample, float32 [H, W, 2] (x, y), read-only."""
    places = np.dstack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)))
    places.setflags(write=False)
    return places


def halved(luma: np.ndarray) -> np.ndarray:
    """2x2 means: uint8 [H, W] of even sides -> [H/2, W/2]."""
    return cv2.resize(luma, (luma.shape[1] // 2, luma.shape[0] // 2), interpolation=cv2.INTER_AREA)


class Traced(NamedTuple):
    """A base picture, made ready. base: as decoded; up: enlarged, sides padded to multiples of 4.

    flow: float32 [H/2, W/2, 2], towards the picture before; None where there is none. doubt: uint8 [H/2, W/2].
    """

    base: Picture
    up: Picture
    flow: np.ndarray | None
    doubt: np.ndarray


class Canvas:
    """The pictures of one video, frame after frame, in two steps that may run in two threads.

    trace needs no painted picture and paint nothing of the base's past, so one may be some frames ahead of the other.
    width, height: of the painted pictures.
    """

    def __init__(self, restorer: Restorer, width: int, height: int):
        self._restorer, self._width, self._height = restorer, width, height
        self._tracer = Tracer()
        self._half: np.ndarray | None = None
        self._shown: Picture | None = None

    def trace(self, base: Picture, first: bool) -> Traced:
        """The next base picture, enlarged and compared with the one before. first: of its group."""
        from sdvideo.media.scaling import scaled  # here, because training needs no PyAV

        up = _padded(scaled(base, self._width, self._height))
        before, self._half = self._half, halved(up.y)
        if first or before is None:
            return Traced(base, up, None, np.full_like(self._half, NO_TRUST))
        return Traced(base, up, *self._tracer.trace(before, self._half))

    def paint(self, traced: Traced, crf: float, still: np.ndarray | None = None) -> Picture:
        """The next picture. crf: with which the base was coded, 20..63.

        still: bool, of the size of the base picture; where it is True the picture before stays as it is.
        """
        carried = traced.up if traced.flow is None else _carry(self._shown, traced.flow)
        scale = math.sqrt(traced.base.width * traced.base.height / (self._width * self._height))
        shown = self._restorer.paint(traced.up, carried, traced.doubt, setting_of(crf, scale))
        if still is not None:
            shown = _kept(self._shown, shown, still, self._width, self._height)
        self._shown = shown
        h, w = (self._height + 1) // 2, (self._width + 1) // 2
        planes = shown.y[: self._height, : self._width], shown.u[:h, :w], shown.v[:h, :w]
        return Picture(*map(np.ascontiguousarray, planes))


def loaded(network: nn.Module, path: Path, device: str) -> nn.Module:
    """A network of blocks with its weights, safetensors, as it runs fastest. device: "cpu" or "cuda"."""
    from sdvideo.codecs.latent.model import has_bfloat16

    network.load_state_dict({name: value.float() for name, value in safetensors.torch.load_file(path).items()})
    # Where bfloat16 is not multiplied in hardware, float32 is faster.
    kind = torch.bfloat16 if device == "cuda" or has_bfloat16() else torch.float32
    network = network.eval().to(device, kind, memory_format=torch.channels_last)
    if device == "cpu" and _fuses(network.blocks[0], kind):
        network.blocks = nn.Sequential(*map(_FusedBlock, network.blocks))
    return network


class Restorer:
    """The network with its weights. path: of them, safetensors."""

    def __init__(self, path: Path, device: str = "auto"):
        from sdvideo.codecs.latent.model import choose_device

        self._device = choose_device(device)
        self._network = loaded(Restoration(), path, self._device)

    @torch.inference_mode()
    def paint(self, up: Picture, carried: Picture, doubt: np.ndarray, setting: tuple[float, float]) -> Picture:
        """One picture, see Restoration; of all of them the sides are multiples of 4."""
        shown, before = _patches(up), _patches(carried)
        middle, apart = (np.subtract(a, b, dtype=np.int16) for a, b in ((shown, 128), (before, shown)))
        seen = np.concatenate([middle, apart, folded(doubt, 2, 2)], -1)
        told = torch.tensor([setting], device=self._device)
        painted = np.empty_like(shown)
        for rows, wider in _strips(*seen.shape[:2]):
            strip = torch.from_numpy(seen[wider]).to(self._device).permute(2, 0, 1)[None]
            added = self._network(strip, told)[0].permute(1, 2, 0).cpu().numpy()
            skip = rows.start - wider.start
            painted[rows] = sum_of(shown[rows], added[skip : skip + rows.stop - rows.start])
        return _unpatched(painted)


def _strips(rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Rows of squares to paint at once, and the rows for that, because the network looks around."""
    count = -(-rows * columns // _MOST_SQUARES)
    for n in range(count):
        top, bottom = rows * n // count, rows * (n + 1) // count
        yield slice(top, bottom), slice(max(0, top - _BLOCKS), min(rows, bottom + _BLOCKS))


def _patches(picture: Picture) -> np.ndarray:
    """What to_patches gives, with the samples of a square side by side in memory: uint8 [H/4, W/4, 24]."""
    patches = np.empty((picture.height // 4, picture.width // 4, PATCH), np.uint8)
    folded(picture.y, 4, 4, patches[..., :16])
    folded(picture.u, 2, 2, patches[..., 16:20])
    folded(picture.v, 2, 2, patches[..., 20:])
    return patches


def _unpatched(patches: np.ndarray) -> Picture:
    """The inverse of _patches."""
    y, u, v = np.split(patches, (16, 20), -1)
    return Picture(unfolded(y, 4, 4), unfolded(u, 2, 2), unfolded(v, 2, 2))


def sum_of(samples: np.ndarray, more: np.ndarray) -> np.ndarray:
    """uint8 and float32 [H, W, C] -> uint8, rounded and clipped, in one walk through memory."""
    rows = len(samples)
    return cv2.add(samples.reshape(rows, -1), more.reshape(rows, -1), dtype=cv2.CV_8U).reshape(samples.shape)


_NUMBERS = {2: np.uint16, 4: np.uint32}  # so many bytes move as one number


def folded(plane: np.ndarray, height: int, width: int, squares: np.ndarray | None = None) -> np.ndarray:
    """Cut uint8 [height h, width w] into squares: [h, w, height width]. width: 2 or 4; squares: to put them into."""
    rows, columns = plane.shape[0] // height, plane.shape[1] // width
    if squares is None:
        squares = np.empty((rows, columns, height * width), np.uint8)
    cut = np.ascontiguousarray(plane).view(_NUMBERS[width]).reshape(rows, height, columns)
    side_by_side = squares.view(_NUMBERS[width])
    for row in range(height):  # faster than one copy of all, transposed
        side_by_side[..., row] = cut[:, row]
    return squares


def unfolded(squares: np.ndarray, height: int, width: int) -> np.ndarray:
    """The inverse of folded."""
    rows, columns = squares.shape[:2]
    side_by_side = squares.view(_NUMBERS[width])
    cut = np.empty((rows, height, columns), _NUMBERS[width])
    for row in range(height):
        cut[:, row] = side_by_side[..., row]
    return cut.view(np.uint8).reshape(rows * height, columns * width)


def _padded(picture: Picture) -> Picture:
    """The picture with its last row and column repeated up to multiples of 4."""
    height, width = (max(_LEAST, -(-side // 4) * 4) for side in (picture.height, picture.width))
    chroma = (_grown(plane, height // 2, width // 2) for plane in (picture.u, picture.v))
    return Picture(_grown(picture.y, height, width), *chroma)


def _grown(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    down, right = height - plane.shape[0], width - plane.shape[1]
    return cv2.copyMakeBorder(plane, 0, down, 0, right, cv2.BORDER_REPLICATE) if down or right else plane


def _kept(before: Picture, now: Picture, still: np.ndarray, width: int, height: int) -> Picture:
    """The samples of before where still, bool of any size, says so; width, height: of what is not padding."""
    squares = (width + 1) // 2, (height + 1) // 2
    kept = cv2.resize(still.astype(np.uint8), squares, interpolation=cv2.INTER_NEAREST)
    kept = _grown(kept, *now.u.shape).astype(bool)
    y = np.where(kept.repeat(2, 0).repeat(2, 1), before.y, now.y)
    return Picture(y, np.where(kept, before.u, now.u), np.where(kept, before.v, now.v))


def _carry(shown: Picture, flow: np.ndarray) -> Picture:
    """Look every sample up along a flow of the half-size grid, which is the grid of the chroma samples."""
    fine = cv2.resize(2 * flow, shown.y.shape[::-1], interpolation=cv2.INTER_LINEAR)
    how = cv2.INTER_CUBIC | cv2.WARP_RELATIVE_MAP
    planes = (shown.y, fine), (shown.u, flow), (shown.v, flow)
    return Picture(*(cv2.remap(plane, way, None, how, borderMode=cv2.BORDER_REPLICATE) for plane, way in planes))
