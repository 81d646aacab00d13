"""Codes integers as bytes: one range-coder run per frame, under integer probability tables.

The coder is constriction's RangeEncoder (32-bit words, 64-bit state) with 24-bit fixed-point probabilities; the words
are stored little-endian. Every symbol is coded with one of 64 tables of a family:

* values: table k is the Laplace distribution of standard deviation 0.06 * 2**(k / 5), integrated over the integers.
  With s = ROOTS[k] / 2**16 (the square root of its decay): P(0) = 1 - s, P(+-n) = s^(2n - 1) (1 - s^2) / 2, rounded
  to multiples of 2**-24 with at least one unit each, P(0) taking the remainder. Values beyond +-40 are coded as the
  escape symbol (the 82nd, after -40..40) and their excess. Under table 0 nothing is coded: the value is 0.
* bits: table k says 1 with probability ODDS[k] / 2**16.
* excess: n >= 0 beyond an escape as Exp-Golomb bits (n + 1: its length in ones and a zero, then its digits), sign
  first, under even odds.

Within a call all symbols of one table are coded together, tables ascending; then the escapes, in order of the symbols.
"""

from __future__ import annotations

import functools

import constriction
import numpy as np

from sdvideo.errors import DamagedError

TABLES = 64
REACH = 40
ESCAPE = 2 * REACH + 1
# 2**16 exp(-1 / (2 b)) with b = 0.06 * 2**(k / 5) / sqrt(2).
ROOTS = (
    0, 2, 9, 28, 75, 181, 388, 753, 1343, 2222, 3443, 5042, 7027, 9382, 12066, 15021, 18177, 21460, 24796,
    28121, 31376, 34514, 37502, 40312, 42929, 45346, 47560, 49575, 51399, 53042, 54514, 55829, 57000, 58039,
    58959, 59771, 60488, 61119, 61674, 62160, 62587, 62961, 63289, 63575, 63826, 64045, 64236, 64403, 64548,
    64675, 64786, 64883, 64967, 65040, 65104, 65160, 65209, 65251, 65288, 65320, 65348, 65372, 65393, 65412,
)  # fmt: skip
# 2**16 / (1 + exp((31.5 - k) / 5)).
ODDS = (
    120, 147, 179, 219, 267, 326, 397, 484, 591, 720, 877, 1068, 1300, 1581, 1921, 2331, 2825, 3418, 4127,
    4971, 5972, 7150, 8527, 10123, 11955, 14036, 16367, 18943, 21746, 24743, 27889, 31131, 34405, 37647,
    40793, 43790, 46593, 49169, 51500, 53581, 55413, 57009, 58386, 59564, 60565, 61409, 62118, 62711, 63205,
    63615, 63955, 64236, 64468, 64659, 64816, 64945, 65052, 65139, 65210, 65269, 65317, 65357, 65389, 65416,
)  # fmt: skip
_UNIT = 1 << 24
_LONGEST = 24  # digits of an excess


def _value_counts(root: int) -> list[int]:
    """The table of one root, integers that add up to 2**24, for -40..40 and the escape."""
    side, power = [], root << 32  # s^(2n - 1) in 2**-48
    for _ in range(REACH):
        following = power * root * root >> 32
        side.append(max(1, (power - following) >> 25))
        power = following
    counts = [*side[::-1], 0, *side, max(1, power >> 24)]
    counts[REACH] = _UNIT - sum(counts)
    return counts


@functools.cache
def _value_model(table: int):
    counts = np.array(_value_counts(ROOTS[table]), np.float64)
    return constriction.stream.model.Categorical(counts / _UNIT, perfect=False)


@functools.cache
def _bit_model(table: int):
    one = ODDS[table] / 65536
    return constriction.stream.model.Categorical(np.array([1 - one, one]), perfect=False)


@functools.cache
def _even_model():
    return constriction.stream.model.Categorical(np.array([0.5, 0.5]), perfect=False)


@functools.cache
def value_costs() -> np.ndarray:
    """Bits of |value| 0..40 and of an escape (without its excess) under each table, float32 [64, 42]."""
    counts = np.array([_value_counts(root) for root in ROOTS], np.float64)[:, REACH:]
    return -np.log2(counts / _UNIT).astype(np.float32)


def _runs(tables: np.ndarray):
    """For each table in use, ascending: (table, positions that use it)."""
    order = np.argsort(tables, kind="stable")
    counts = np.bincount(tables, minlength=TABLES)
    ends = np.cumsum(counts)
    for table in np.flatnonzero(counts):
        yield int(table), order[ends[table] - counts[table] : ends[table]]


class SymbolWriter:
    """Codes integers; the inverse of SymbolReader, call by call."""

    def __init__(self):
        self._coder = constriction.stream.queue.RangeEncoder()

    def values(self, tables: np.ndarray, values: np.ndarray) -> None:
        """tables: uint8 [n]; values: int32 [n], zero where the table is 0."""
        beyond = np.abs(values) > REACH
        symbols = np.where(beyond, ESCAPE, values + REACH).astype(np.int32)
        for table, where in _runs(tables):
            if table:
                self._coder.encode(symbols[where], _value_model(table))
        for value in values[beyond & (tables > 0)]:
            self._excess(int(value))

    def _excess(self, value: int) -> None:
        digits = bin(abs(value) - REACH)[3:]
        bits = [int(value < 0), *[1] * len(digits), 0, *map(int, digits)]
        self._coder.encode(np.array(bits, np.int32), _even_model())

    def bits(self, tables: np.ndarray, bits: np.ndarray) -> None:
        """tables: uint8 [n]; bits: [n] of 0 and 1."""
        bits = bits.astype(np.int32)
        for table, where in _runs(tables):
            self._coder.encode(bits[where], _bit_model(table))

    def finish(self) -> bytes:
        return self._coder.get_compressed().astype("<u4").tobytes()


class SymbolReader:
    """Decodes what SymbolWriter coded, given the same tables. Raises DamagedError if the data does not decode."""

    def __init__(self, data: bytes):
        if len(data) % 4:
            raise DamagedError(f"frame data of {len(data)} bytes is not whole words")
        self._coder = constriction.stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))

    def _decode(self, model, count: int) -> np.ndarray:
        try:
            return self._coder.decode(model, count)
        except (AssertionError, ValueError) as error:
            raise DamagedError("frame data does not decode") from error

    def values(self, tables: np.ndarray) -> np.ndarray:
        """tables: uint8 [n] -> int32 [n]."""
        symbols = np.full(len(tables), REACH, np.int32)
        for table, where in _runs(tables):
            if table:
                symbols[where] = self._decode(_value_model(table), len(where))
        values = symbols - REACH
        for where in np.flatnonzero(symbols == ESCAPE):
            values[where] = self._excess()
        return values

    def _excess(self) -> int:
        even = _even_model()
        negative = self._decode(even, 1)[0]
        length = 0
        while self._decode(even, 1)[0]:
            length += 1
            if length > _LONGEST:
                raise DamagedError("frame data holds an impossible value")
        size = 1
        for digit in self._decode(even, length):
            size = 2 * size + int(digit)
        return -(size + REACH) if negative else size + REACH

    def bits(self, tables: np.ndarray) -> np.ndarray:
        """tables: uint8 [n] -> uint8 [n] of 0 and 1."""
        bits = np.zeros(len(tables), np.uint8)
        for table, where in _runs(tables):
            bits[where] = self._decode(_bit_model(table), len(where))
        return bits

    def finish(self) -> None:
        """Raises DamagedError if there is data left."""
        if not self._coder.maybe_exhausted():
            raise DamagedError("frame data is longer than its frame")
