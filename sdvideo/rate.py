"""Rate control: which quantiser index the next frame gets.

At constant quality a fixed one, finer for key frames, whose detail the frames after them inherit. Towards a given
number of bits, the one at which what is left to code is expected to take what is left to spend: bits are modelled as
complexity / step**1.2, with a running complexity for key and for predicted frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .quantise import STEPS, step_size

FINEST = 32
KEY_BONUS = 12  # quantiser indices a key frame is finer by
_DECAY = 1.2  # bits ~ step ** -decay
_SWIFT = 10  # indices the quantiser may move from frame to frame


class RateControl(Protocol):
    """Chooses quantiser indices, being told what each frame took."""

    def index(self, key: bool) -> int:
        """For the next frame, 0..255."""

    def spent(self, key: bool, index: int, size: int) -> None:
        """A frame was coded with this index and took so many bytes."""


class ConstantQuality:
    """The same quantiser for every frame of a kind."""

    def __init__(self, index: int):
        self._index = index

    def index(self, key: bool) -> int:
        return max(FINEST, self._index - KEY_BONUS) if key else self._index

    def spent(self, key: bool, index: int, size: int) -> None:
        pass


@dataclass(slots=True)
class _Complexity:
    """Bits a kind of frame takes at step 1: a guess until the first is coded."""

    value: float
    known: bool = False

    def learn(self, bits: float, weight: float) -> None:
        self.value = self.value + weight * (bits - self.value) if self.known else bits
        self.known = True


class TargetSize:
    """Steers towards a number of bits for a known number of frames.

    pixels: of a frame; frames: how many; keyint: a key frame at least every so many.
    """

    def __init__(self, bits: float, frames: int, keyint: int, pixels: int):
        self._bits, self._frames, self._keyint = bits, frames, keyint
        # What natural video takes about, per pixel, at step 1; the first frames put it right.
        self._key, self._predicted = _Complexity(17.0 * pixels), _Complexity(2.0 * pixels)
        self._since_key = 0
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
        return max(FINEST, index - KEY_BONUS) if key else index

    def spent(self, key: bool, index: int, size: int) -> None:
        bits = 8.0 * size
        self._bits -= bits
        self._frames -= 1
        self._since_key = 1 if key else self._since_key + 1
        kind = self._key if key else self._predicted
        kind.learn(bits * step_size(index) ** _DECAY, 0.5 if key else 0.15)
        self._last = index + KEY_BONUS if key else index
