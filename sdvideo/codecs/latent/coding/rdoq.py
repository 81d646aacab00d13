"""Rate-distortion optimised quantization of latents, and the symbol streams of the encoder and the decoder.

A latent value in units of its step becomes the integer that costs least in squared error + LAMBDA * bits: the nearest
one, the one next to it towards the expected value, or the expected value. That makes a dead zone around the expected
value, which is wider where that value is more probable. Dequantization multiplies the integer by the step.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from .range_coder import REACH, SymbolReader, SymbolWriter, value_costs

LAMBDA = 0.12  # squared steps that one bit is worth
STEPS = 256
_MAP_BITS = 3  # about the bits that the map takes for a coded block
_BIT_WEIGHT = 0.6  # bits of a block count less than what it gains, since later frames inherit the gain


def step_size(index: int) -> float:
    """The quantizer step of an index 0..255, in grey levels: 1 to 250, 32 indices to the octave."""
    size: float = 2.0 ** (index / 32)
    return size


def choose_integers(units: np.ndarray, expected: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Latent values in steps, float32 [n] -> integers, int32 [n]; see the module's docstring.

    expected: int32 [n]. tables: uint8 [n]; under table 0 only the expected value can be coded.
    """
    costs = value_costs()
    chosen = expected.copy()
    near = np.rint(units).astype(np.int32)
    open_ = np.flatnonzero((near != expected) & (tables > 0))  # positions at which there is a choice
    units, expected, tables, near = units[open_], expected[open_], tables[open_], near[open_]
    best, best_cost = expected, (units - expected) ** 2 + LAMBDA * costs[tables, 0]
    for candidate in (near, near - np.sign(near - expected)):
        difference = np.abs(candidate - expected)
        bits = costs[tables, np.minimum(difference, REACH + 1)]
        bits = bits + np.where(difference > REACH, 2 * np.log2(np.maximum(difference - REACH, 1)) + 2, 0)
        cost = (units - candidate) ** 2 + LAMBDA * bits
        best, best_cost = np.where(cost < best_cost, candidate, best), np.minimum(cost, best_cost)
    chosen[open_] = best
    return chosen


def dequantize(integers: np.ndarray, step: float) -> np.ndarray:
    """Integers -> latent values, float32 of the same shape."""
    return integers.astype(np.float32) * np.float32(step)


def worth_coding(units: np.ndarray) -> np.ndarray:
    """Blocks whose delta gains more than it costs, by an estimate, bool [h, w]. units: float32 [h, w, channels]."""
    symbols = np.rint(units)
    size = np.abs(symbols)
    gain = (units * units - (units - symbols) ** 2).sum(-1)
    cost = ((size > 0) * (5 + 1.5 * np.log2(np.maximum(size, 1)))).sum(-1)
    worth: np.ndarray = gain > _BIT_WEIGHT * LAMBDA * (cost + _MAP_BITS)
    return worth


class SymbolStream(Protocol):
    """The integers of a frame, in coding order: an encoder writes them, a decoder reads them.

    The last argument of each method says what to code. It is None in a decoder, and never in an encoder. All methods
    return the integers that are coded, which are those that the decoder reads. tables: uint8 [n]. expected: int32 [n];
    values are coded as their differences to it.
    """

    def values(self, tables: np.ndarray, expected: np.ndarray, units: np.ndarray | None) -> np.ndarray:
        """Code values, int32 [n], which an encoder chooses. units: latent values in steps, float32 [n]."""

    def exactly(self, tables: np.ndarray, expected: np.ndarray, values: np.ndarray | None) -> np.ndarray:
        """Code the given values, int32 [n]."""

    def bits(self, tables: np.ndarray, bits: np.ndarray | None) -> np.ndarray:
        """Code bits, [n] of 0 and 1 or of bool."""


class SymbolEncoder:
    """The encoder's SymbolStream: chooses integers by rate and distortion, and writes them."""

    def __init__(self) -> None:
        self._writer = SymbolWriter()

    def values(self, tables: np.ndarray, expected: np.ndarray, units: np.ndarray | None) -> np.ndarray:
        assert units is not None
        values = choose_integers(units, expected, tables)
        self._writer.values(tables, values - expected)
        return values

    def exactly(self, tables: np.ndarray, expected: np.ndarray, values: np.ndarray | None) -> np.ndarray:
        assert values is not None
        self._writer.values(tables, (values - expected).astype(np.int32))
        return values

    def bits(self, tables: np.ndarray, bits: np.ndarray | None) -> np.ndarray:
        assert bits is not None
        self._writer.bits(tables, bits)
        return bits

    def finish(self) -> bytes:
        """The frame data."""
        return self._writer.finish()


class ExactSymbolEncoder(SymbolEncoder):
    """An encoder's SymbolStream that writes the integers it is given, without loss: units are whole numbers."""

    def values(self, tables: np.ndarray, expected: np.ndarray, units: np.ndarray | None) -> np.ndarray:
        assert units is not None
        return self.exactly(tables, expected, units.astype(np.int32))


class SymbolDecoder:
    """The decoder's SymbolStream: reads frame data. Raises DamagedError if it does not decode."""

    def __init__(self, data: bytes):
        self._reader = SymbolReader(data)

    def values(self, tables: np.ndarray, expected: np.ndarray, units: np.ndarray | None = None) -> np.ndarray:
        values: np.ndarray = self._reader.values(tables) + expected
        return values

    exactly = values

    def bits(self, tables: np.ndarray, bits: np.ndarray | None = None) -> np.ndarray:
        return self._reader.bits(tables)

    def finish(self) -> None:
        """Raises DamagedError if there is data left."""
        self._reader.finish()
