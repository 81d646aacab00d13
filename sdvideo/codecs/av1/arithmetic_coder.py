"""Codes bits with a binary arithmetic coder whose probabilities adapt and are mixed from several contexts.

This is the second half of the specification in `header_compression.py`. All numbers are integers; >> rounds down.

Contexts
    A context is a number. It has a probability that a bit is one, in 1/65536, at first 32768, and a count, at first 0.
    After each bit that was coded in a context,
        probability += ((65535 * bit - probability) * ADAPTATION_RATES[count]) >> 16
    and then the count grows by one, up to 30.

Mixing
    Each bit is coded in several contexts, with a weight for each. Contexts and weights are chosen by the format.
        prediction = stretch(probability >> 4)                           of each context
        d = clamp(sum(weight * prediction) >> 16, -2047, 2047)
        the bit is coded with a probability of squash(d) / 4096 for a one
        weight += (prediction * (4096 * bit - squash(d)) * LEARNING_RATE + 32768) >> 16
    squash(d) is about 4096 / (1 + exp(-d / 256)). It is linear between the values of SQUASH, which are 128 apart: with
    i = (d + 2048) >> 7 and j = (d + 2048) & 127,
        squash(d) = (SQUASH[i] * (128 - j) + SQUASH[i + 1] * j + 64) >> 7
    stretch(p) is the least d from -2047 on with squash(d) >= p.

Arithmetic coder
    The coder narrows a range low..high, which is 0..2^32 - 1 at first. With
        middle = low + ((high - low) * squash(d) >> 12)
    a one leaves low..middle, and a zero leaves middle + 1..high. While low and high agree in their highest byte, that
    byte is written, and both are shifted left by a byte: 00 follows in low, ff in high. The last bytes are as few as
    make, followed by zeros, a number in low..high, and the smallest such number. Zero bytes at the end of all are left
    out; a decoder reads zeros behind the last byte.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from operator import mul
from typing import TypeAlias

SQUASH = (
    1, 2, 4, 6, 10, 17, 27, 45, 74, 120, 194, 311, 488, 747, 1102, 1546, 2048,
    2550, 2994, 3349, 3608, 3785, 3902, 3976, 4022, 4051, 4069, 4079, 4086, 4090, 4092, 4094, 4095,
)  # fmt: skip
ADAPTATION_RATES = (40960, *(131072 // (2 * n + 3) for n in range(1, 31)))
LEARNING_RATE = 160

Contexts: TypeAlias = "defaultdict[int, tuple[int, int]]"  # context -> probability, count

_ALL, _TOP = 0xFFFFFFFF, 0xFF000000
_MAX_COUNT = len(ADAPTATION_RATES) - 1


def contexts_from(known: Mapping[int, tuple[int, int]]) -> Contexts:
    """Contexts with their initial state, but for some whose probability and count are known."""
    return defaultdict(lambda: (32768, 0), known)


class BitEncoder:
    """Codes bits into bytes."""

    def __init__(self) -> None:
        self._low, self._high, self._out = 0, _ALL, bytearray()

    def code(self, probability: int, bit: int) -> int:
        """Write a bit and return it. probability: of a one, in 1/4096, 1 to 4095."""
        middle = self._low + ((self._high - self._low) * probability >> 12)
        if bit:
            self._high = middle
        else:
            self._low = middle + 1
        while not (self._low ^ self._high) & _TOP:
            self._out.append(self._high >> 24)
            self._low, self._high = self._low << 8 & _ALL, self._high << 8 & _ALL | 255
        return bit

    def finish(self) -> bytes:
        """All bytes, when no more bits follow."""
        for size in range(5):
            left = 32 - 8 * size
            if (number := -(-self._low >> left)) << left <= self._high:
                return bytes(self._out + number.to_bytes(size, "big")).rstrip(b"\0")
        raise AssertionError("low is above high")


class BitDecoder:
    """Decodes what a BitEncoder made, given the same probabilities."""

    def __init__(self, data: bytes):
        self._low, self._high, self._data = 0, _ALL, iter(data)
        self._value = 0
        for _ in range(4):
            self._value = self._value << 8 | next(self._data, 0)

    def code(self, probability: int, _: int = 0) -> int:
        """Read a bit and return it. probability: of a one, in 1/4096, 1 to 4095."""
        middle = self._low + ((self._high - self._low) * probability >> 12)
        bit = int(self._value <= middle)
        if bit:
            self._high = middle
        else:
            self._low = middle + 1
        while not (self._low ^ self._high) & _TOP:
            self._low, self._high = self._low << 8 & _ALL, self._high << 8 & _ALL | 255
            self._value = self._value << 8 & _ALL | next(self._data, 0)
        return bit


class ContextMixer:
    """Predicts bits from contexts, codes them, and learns from them.

    The same calls encode with a BitEncoder and decode with a BitDecoder, which ignores the bits that it is given.
    """

    def __init__(self, coder: BitEncoder | BitDecoder, contexts: Contexts):
        self._code_bit = coder.code
        self.reset(contexts)

    def reset(self, contexts: Contexts) -> None:
        """Go on with other contexts, which will be changed, and with initial weights."""
        self.contexts = contexts
        self._weights: dict[int, list[int]] = {}

    def weights(self, key: int, initial: Sequence[int]) -> list[int]:
        """The weights for `code` that belong to a key."""
        return self._weights.setdefault(key, list(initial))

    def code(self, contexts: Sequence[int], weights: list[int], bit: int) -> int:
        """Code one bit and return it. weights: from `weights`, as many as there are contexts."""
        states = [self.contexts[context] for context in contexts]
        predictions = [_STRETCHED[probability >> 4] for probability, _ in states]
        mixed = sum(map(mul, weights, predictions)) >> 16
        squashed = _SQUASHED[mixed if -2047 < mixed < 2047 else -2047 if mixed < 0 else 2047]
        bit = self._code_bit(squashed, bit)
        error = ((bit << 12) - squashed) * LEARNING_RATE
        weights[:] = [weight + ((p * error + 32768) >> 16) for weight, p in zip(weights, predictions)]
        certain = 65535 * bit
        for context, (probability, count) in zip(contexts, states):
            moved = probability + ((certain - probability) * ADAPTATION_RATES[count] >> 16)
            self.contexts[context] = moved, count + (count < _MAX_COUNT)
        return bit


def _squash(d: int) -> int:
    i, j = divmod(d + 2048, 128)
    return (SQUASH[i] * (128 - j) + SQUASH[i + 1] * j + 64) >> 7


_RISING = [_squash(d) for d in range(-2047, 2048)]
_SQUASHED = _RISING[2047:] + _RISING[:2047]  # indexed by d; negative ones count from the end
_STRETCHED = [bisect_left(_RISING, p) - 2047 for p in range(4096)]
