"""Codes integers as bytes: one range-coder run per frame, under integer probability tables.

A table gives each of its N symbols a frequency; the frequencies add up to 2**24. There are 64 tables of each family:

* values: symbols -40..40 and, last, the escape. Table k is about the Laplace distribution of standard deviation
  0.06 * 2**(k / 5), integrated over the integers: with s = ROOTS[k] / 2**16 (the square root of its decay)
  P(0) = 1 - s and P(+-n) = s^(2n - 1) (1 - s^2) / 2. Exactly, with p(1) = ROOTS[k] << 32 and
  p(n + 1) = p(n) * ROOTS[k]**2 >> 32, the frequency of n and of -n is max(1, (p(n) - p(n + 1)) >> 25) for n = 1..40,
  that of the escape max(1, p(41) >> 24), and that of 0 the remainder. Values beyond +-40 are coded as the escape and
  their excess. Under table 0 nothing is coded: the value is 0.
* bits: symbols 0 and 1. In table k the frequency of 1 is ODDS[k] << 8.
* excess of an escaped value v: bits under even odds, first its sign (1 if negative), then the number |v| - 40 of d + 1
  binary digits as d ones, a zero, and its d digits after the first. d is at most 24.

Within a call all symbols of one table are coded together, tables ascending; then the excesses, in order of the symbols.

The coder is constriction's RangeEncoder: 32-bit words, stored little-endian, and 64-bit state. Its intervals are not
quite the frequencies: symbol i of N, counted from 0, begins at (the sum of the frequencies before it) * (2**24 - N) //
2**24 + i and ends where the next begins, the last one at 2**24. A decoder, in arithmetic modulo 2**64, starts with
low = 0, range = 2**64 - 1 and code = the first two words, the first one in the upper half. For each symbol
    unit = range >> 24; the symbol is the one whose interval begin..end holds (code - low) // unit;
    low += unit * begin; range = unit * (end - begin);
    if range < 2**32: low, range and code are shifted left by 32 bits, and code takes the next word, 0 after the last.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import constriction
import numpy as np

from sdvideo.errors import DamagedError

TABLES = 64
REACH = 40  # largest magnitude of a value that is coded without an escape
ESCAPE = 2 * REACH + 1  # the number of the escape among the symbols of a table of values, counted from 0
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
_TOTAL = 1 << 24  # of the frequencies of a table
_MOST_DIGITS = 24  # of an excess, after the first


def _value_frequencies(root: int) -> list[int]:
    """The table of values of one of the ROOTS: frequencies of -40..40 and the escape, which add up to 2**24."""
    side, power = [], root << 32  # p(n) of the module's docstring: s^(2n - 1) in 2**-48
    for _ in range(REACH):
        following = power * root * root >> 32
        side.append(max(1, (power - following) >> 25))
        power = following
    frequencies = [*side[::-1], 0, *side, max(1, power >> 24)]
    frequencies[REACH] = _TOTAL - sum(frequencies)
    return frequencies


@functools.cache
def _value_model(table: int) -> Any:
    frequencies = np.array(_value_frequencies(ROOTS[table]), np.float64)
    return constriction.stream.model.Categorical(frequencies / _TOTAL, perfect=False)


@functools.cache
def _bit_model(table: int) -> Any:
    one = ODDS[table] / 65536
    return constriction.stream.model.Categorical(np.array([1 - one, one]), perfect=False)


@functools.cache
def _even_model() -> Any:
    return constriction.stream.model.Categorical(np.array([0.5, 0.5]), perfect=False)


@functools.cache
def value_costs() -> np.ndarray:
    """Bits of |value| 0..40 and of an escape (without its excess) under each table, float32 [64, 42]."""
    frequencies = np.array([_value_frequencies(root) for root in ROOTS], np.float64)[:, REACH:]
    return -np.log2(frequencies / _TOTAL).astype(np.float32)


def _by_table(tables: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """For each table in use, ascending: (table, positions of the symbols under it, ascending)."""
    order = np.argsort(tables, kind="stable")
    counts = np.bincount(tables, minlength=TABLES)
    ends = np.cumsum(counts)
    for table in np.flatnonzero(counts):
        yield int(table), order[ends[table] - counts[table] : ends[table]]


class SymbolWriter:
    """Codes integers; the inverse of SymbolReader, call by call."""

    def __init__(self) -> None:
        self._coder: Any = constriction.stream.queue.RangeEncoder()

    def values(self, tables: np.ndarray, values: np.ndarray) -> None:
        """tables: uint8 [n]. values: int32 [n], zero where the table is 0."""
        beyond = np.abs(values) > REACH
        symbols = np.where(beyond, ESCAPE, values + REACH).astype(np.int32)
        for table, positions in _by_table(tables):
            if table:
                self._coder.encode(symbols[positions], _value_model(table))
        for value in values[beyond & (tables > 0)]:
            self._write_excess(int(value))

    def _write_excess(self, value: int) -> None:
        digits = bin(abs(value) - REACH)[3:]
        bits = [int(value < 0), *[1] * len(digits), 0, *map(int, digits)]
        self._coder.encode(np.array(bits, np.int32), _even_model())

    def bits(self, tables: np.ndarray, bits: np.ndarray) -> None:
        """tables: uint8 [n]. bits: [n] of 0 and 1."""
        bits = bits.astype(np.int32)
        for table, positions in _by_table(tables):
            self._coder.encode(bits[positions], _bit_model(table))

    def finish(self) -> bytes:
        """The words of the run; none if nothing was coded."""
        data: bytes = self._coder.get_compressed().astype("<u4").tobytes()
        return data


class SymbolReader:
    """Decodes what SymbolWriter coded, given the same tables. Raises DamagedError if the data does not decode."""

    def __init__(self, data: bytes):
        if len(data) % 4:
            raise DamagedError(f"frame data of {len(data)} bytes is not whole words")
        self._coder: Any = constriction.stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))

    def _decode(self, model: Any, count: int) -> np.ndarray:
        try:
            symbols: np.ndarray = self._coder.decode(model, count)
        except (AssertionError, ValueError) as error:
            raise DamagedError("frame data does not decode") from error
        return symbols

    def values(self, tables: np.ndarray) -> np.ndarray:
        """tables: uint8 [n]. Returns int32 [n]."""
        symbols = np.full(len(tables), REACH, np.int32)
        for table, positions in _by_table(tables):
            if table:
                symbols[positions] = self._decode(_value_model(table), len(positions))
        values = symbols - REACH
        for position in np.flatnonzero(symbols == ESCAPE):
            values[position] = self._read_escaped()
        return values

    def _read_escaped(self) -> int:
        """The value of an escape, from its excess."""
        even = _even_model()
        negative = self._decode(even, 1)[0]
        length = 0
        while self._decode(even, 1)[0]:
            length += 1
            if length > _MOST_DIGITS:
                raise DamagedError("frame data holds an impossible value")
        size = 1
        for digit in self._decode(even, length):
            size = 2 * size + int(digit)
        return -(size + REACH) if negative else size + REACH

    def bits(self, tables: np.ndarray) -> np.ndarray:
        """tables: uint8 [n]. Returns uint8 [n] of 0 and 1."""
        bits = np.zeros(len(tables), np.uint8)
        for table, positions in _by_table(tables):
            bits[positions] = self._decode(_bit_model(table), len(positions))
        return bits

    def finish(self) -> None:
        """Raises DamagedError if there is data left."""
        if not self._coder.maybe_exhausted():
            raise DamagedError("frame data is longer than its frame")
