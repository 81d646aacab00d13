"""Rate control: which quantiser index the next frame gets.

Around a base index, key frames are finer, for the frames after them inherit their detail, and so is every fourth frame
after one, a little, which pays for those between being coarser. At constant quality the base is fixed. Towards a given
number of bits, the one at which what is left to code is expected to take what is left to spend: bits are modelled as
complexity / step**1.2, with a running complexity for key and for predicted frames.

Coarse pictures are better coded small and finely than large and coarsely: the scale follows from the quality, or from
the bits there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from sdvideo.codecs.latent.coding.rdoq import STEPS, step_size

FINEST = 32
KEY_BONUS = 22  # quantiser indices a key frame is finer by
RHYTHM = (5, 2, 5, -8)  # what is added to the index of the first, second ... predicted frame of a group, and again
_DECAY = 1.2  # bits ~ step ** -decay
_SWIFT = 10  # indices the quantiser may move from frame to frame


# The quality below which each scale is the best one, and the bits per pixel; and what is then added to the quality to
# be as good as the next larger scale is there. From 8 shots of the training set, 16 frames each, between where the
# curves of PSNR and of MS-SSIM cross: 20 % fewer bits than at full size at 0.03 bits per pixel, 40 % fewer at 0.01.
_SMALLER = ((Fraction(1, 2), 33.0, 0.03), (Fraction(2, 3), 48.0, 0.066))
_SHIFT = {Fraction(1): 0.0, Fraction(2, 3): -4.0, Fraction(1, 2): 5.0}
_LEAST_SIDE = 64  # pixels of a picture that it pays to make smaller still


def best_scale(quality: float | None, bits_per_pixel: float | None, sides: tuple[int, int]) -> Fraction:
    """The scale at which to code pictures of these sides, given the quality, 0..100, or what may be spent."""
    for scale, finest, most_bits in _SMALLER:
        wanted = quality < finest if quality is not None else bits_per_pixel < most_bits
        if wanted and min(sides) * scale >= _LEAST_SIDE:
            return scale
    return Fraction(1)


def step_index(quality: float, scale: Fraction = Fraction(1)) -> int:
    """Quality 0..100 -> base quantiser index (see quantise.step_size), at scale 1 250 at 0, 32 at 100."""
    return _within(round(250 - 2.18 * (quality + _SHIFT[scale])))


def beside_base(place: int) -> int:
    """What the index of a frame is beside the base, by its place in its group, from 0."""
    return RHYTHM[(place - 1) % len(RHYTHM)] if place else -KEY_BONUS


class RateControl(Protocol):
    """Chooses quantiser indices, being told what each frame took."""

    def index(self, key: bool) -> int:
        """For the next frame, 0..255."""

    def spent(self, key: bool, index: int, size: int) -> None:
        """A frame was coded with this index and took so many bytes."""


class _Rhythm:
    """Keeps count of the frames of a group."""

    def __init__(self):
        self._since_key = 0

    def _offset(self, key: bool) -> int:
        """What the next frame's index is beside the base."""
        return beside_base(0 if key else self._since_key)

    def _count(self, key: bool) -> None:
        self._since_key = 1 if key else self._since_key + 1


class ConstantQuality(_Rhythm):
    """The same base for all frames."""

    def __init__(self, base: int):
        super().__init__()
        self._base = base

    def index(self, key: bool) -> int:
        return _within(self._base + self._offset(key))

    def spent(self, key: bool, index: int, size: int) -> None:
        self._count(key)


class OneStep:
    """For quantisers that have but one step, of a byte (see eightbit.py): the search for motion goes by its index."""

    def index(self, key: bool) -> int:
        return 113

    def spent(self, key: bool, index: int, size: int) -> None:
        pass


def _within(index: int) -> int:
    return min(max(index, FINEST), STEPS - 1)


@dataclass(slots=True)
class _Complexity:
    """Bits a kind of frame takes at step 1: a guess until the first is coded."""

    value: float
    known: bool = False

    def learn(self, bits: float, weight: float) -> None:
        self.value = self.value + weight * (bits - self.value) if self.known else bits
        self.known = True


class TargetSize(_Rhythm):
    """Steers towards a number of bits for a known number of frames.

    pixels: of a frame; frames: how many; keyint: a key frame at least every so many.
    """

    def __init__(self, bits: float, frames: int, keyint: int, pixels: int):
        super().__init__()
        self._bits, self._frames, self._keyint = bits, frames, keyint
        # What natural video takes about, per pixel, at step 1; the first frames put it right.
        self._key, self._predicted = _Complexity(17.0 * pixels), _Complexity(2.0 * pixels)
        self._last: int | None = None

    def index(self, key: bool) -> int:
        frames = max(1, self._frames)
        to_next_key = 0 if key else self._keyint - self._since_key
        keys = 0 if to_next_key >= frames else 1 + (frames - 1 - to_next_key) // self._keyint
        bonus = step_size(KEY_BONUS) ** _DECAY
        wanted = keys * self._key.value * bonus + (frames - keys) * self._predicted.value
        budget = max(self._bits, frames * 16.0)
        step = (wanted / budget) ** (1 / _DECAY)
        index = next((i for i in range(FINEST, STEPS) if step_size(i) >= step), STEPS - 1)
        if self._last is not None and self._predicted.known:
            index = min(max(index, self._last - _SWIFT), self._last + _SWIFT)
        return _within(index + self._offset(key))

    def spent(self, key: bool, index: int, size: int) -> None:
        bits = 8.0 * size
        self._bits -= bits
        self._frames -= 1
        self._last = index - self._offset(key)
        self._count(key)
        kind = self._key if key else self._predicted
        kind.learn(bits * step_size(index) ** _DECAY, 0.5 if key else 0.15)
