"""Rate control of base "none": the quantizer step index of each frame.

Each frame's index is a base index plus an offset by the frame's place in its group. Key frames are finer, because the
frames after them inherit their detail. Every fourth frame after a key frame is a little finer too, which pays for those
between being coarser. At constant quality the base index is fixed. Towards a target size it is the index at which the
frames left are expected to take the bits left: bits are modelled as complexity / step**1.2, with a running estimate of
the complexity of key frames and of predicted frames.

At low quality, pictures are better coded small with fine steps than at full size with coarse ones. So the scale follows
from the quality, or from the bits per pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from sdvideo.codecs.latent.coding.rdoq import STEPS, step_size

FINEST = 32  # the least index used
KEY_BONUS = 22  # indices by which a key frame is finer than the base
PREDICTED_OFFSETS = (5, 2, 5, -8)  # of the first, second ... predicted frame of a group from the base, repeating
_FIXED_INDEX = 113  # for quantizers whose only step is a byte: its step size is about that of the byte
_DECAY = 1.2  # bits ~ step ** -decay
_MAX_CHANGE = 10  # indices by which the base may move from frame to frame

# For each smaller scale: the quality and the bits per pixel below which it is the best one. From 8 shots of the
# training set, 16 frames each, between where the curves of PSNR and of MS-SSIM cross: 20 % fewer bits than at full size
# at 0.03 bits per pixel, 40 % fewer at 0.01.
_SMALLER_SCALES = ((Fraction(1, 2), 33.0, 0.03), (Fraction(2, 3), 48.0, 0.066))
# What is added to the quality at each scale, to be as good there as at the next larger scale. From the same shots.
_QUALITY_SHIFT = {Fraction(1): 0.0, Fraction(2, 3): -4.0, Fraction(1, 2): 5.0}
_MIN_SIDE = 64  # pixels; pictures are not scaled below this


def best_scale(quality: float | None, bits_per_pixel: float | None, sides: tuple[int, int]) -> Fraction:
    """The scale at which to code pictures, by quality, 0..100, or if that is None by the bits per full-size pixel.

    sides: width and height in pixels.
    """
    for scale, below_quality, below_bits in _SMALLER_SCALES:
        if quality is not None:
            wanted = quality < below_quality
        else:
            wanted = bits_per_pixel is not None and bits_per_pixel < below_bits
        if wanted and min(sides) * scale >= _MIN_SIDE:
            return scale
    return Fraction(1)


def step_index(quality: float, scale: Fraction = Fraction(1)) -> int:
    """Quality 0..100 -> base step index (see `rdoq.step_size`): at scale 1, 250 at quality 0 and 32 at 100."""
    return _clamped(round(250 - 2.18 * (quality + _QUALITY_SHIFT[scale])))


def index_offset(place: int) -> int:
    """A frame's step index minus the base index, by its place in its group, counted from 0."""
    return PREDICTED_OFFSETS[(place - 1) % len(PREDICTED_OFFSETS)] if place else -KEY_BONUS


class RateControl(Protocol):
    """Chooses the step index of each frame. Plain, picklable data: it travels with the group that is coded."""

    def index(self, key: bool) -> int:
        """The step index of the next frame, 0..255. key: whether it is a key frame."""

    def record(self, key: bool, index: int, size: int) -> None:
        """Learn from a coded frame. index: its step index. size: its bytes."""


class _PlaceInGroup:
    """Counts the frames since the last key frame."""

    def __init__(self) -> None:
        self._since_key = 0

    def _offset(self, key: bool) -> int:
        """The next frame's index minus the base index."""
        return index_offset(0 if key else self._since_key)

    def _count(self, key: bool) -> None:
        self._since_key = 1 if key else self._since_key + 1


class ConstantQuality(_PlaceInGroup):
    """The same base index for all frames."""

    def __init__(self, base: int):
        super().__init__()
        self._base = base

    def index(self, key: bool) -> int:
        return _clamped(self._base + self._offset(key))

    def record(self, key: bool, index: int, size: int) -> None:
        self._count(key)


class FixedStep:
    """For quantizers whose only step is a byte (`quantizers/byte.py`). Only the motion search uses the index."""

    def index(self, key: bool) -> int:
        return _FIXED_INDEX

    def record(self, key: bool, index: int, size: int) -> None:
        pass


def _clamped(index: int) -> int:
    return min(max(index, FINEST), STEPS - 1)


@dataclass(slots=True)
class _Complexity:
    """Bits that a kind of frame takes at step 1. A guess until the first frame of that kind is recorded."""

    value: float
    known: bool = False

    def learn(self, bits: float, weight: float) -> None:
        self.value = self.value + weight * (bits - self.value) if self.known else bits
        self.known = True


class TargetSize(_PlaceInGroup):
    """Steers towards a number of bits for a known number of frames.

    bits, frames: to be spent, and to be coded. keyint: a key frame at least every so many frames. pixels: of a frame.
    """

    def __init__(self, bits: float, frames: int, keyint: int, pixels: int):
        super().__init__()
        self._bits, self._frames, self._keyint = bits, frames, keyint
        # About what natural video takes per pixel at step 1. The first frames correct it.
        self._key, self._predicted = _Complexity(17.0 * pixels), _Complexity(2.0 * pixels)
        self._last_base: int | None = None

    def index(self, key: bool) -> int:
        frames = max(1, self._frames)
        to_next_key = 0 if key else self._keyint - self._since_key
        keys = 0 if to_next_key >= frames else 1 + (frames - 1 - to_next_key) // self._keyint
        bonus = step_size(KEY_BONUS) ** _DECAY
        wanted = keys * self._key.value * bonus + (frames - keys) * self._predicted.value
        budget = max(self._bits, frames * 16.0)
        step = (wanted / budget) ** (1 / _DECAY)
        base = next((i for i in range(FINEST, STEPS) if step_size(i) >= step), STEPS - 1)
        if self._last_base is not None and self._predicted.known:
            base = min(max(base, self._last_base - _MAX_CHANGE), self._last_base + _MAX_CHANGE)
        return _clamped(base + self._offset(key))

    def record(self, key: bool, index: int, size: int) -> None:
        bits = 8.0 * size
        self._bits -= bits
        self._frames -= 1
        self._last_base = index - self._offset(key)
        self._count(key)
        kind = self._key if key else self._predicted
        kind.learn(bits * step_size(index) ** _DECAY, 0.5 if key else 0.15)
