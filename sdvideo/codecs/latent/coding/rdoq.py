"""Rate-distortion optimised quantization of latents, and the symbol streams of both directions.

A latent value in units of its step becomes the integer that costs least in squared error + LAMBDA * bits: the nearest
one, the one next to it towards the expected value, or the expected value. Around zero that makes a dead zone, which is
the wider, the more probable a zero is. Dequantization multiplies the integer by the step.
"""

from __future__ import annotations

import numpy as np

from .range_coder import REACH, SymbolReader, SymbolWriter, value_costs

LAMBDA = 0.12  # squared steps that one bit is worth
STEPS = 256
_MAP_BITS = 3  # about the bits that the map takes for a coded block
_INHERITED = 0.6  # bits count less than gains, since later frames inherit the gain


def step_size(index: int) -> float:
    """The quantizer step of an index 0..255, in grey levels: 1 to 250, 32 indices to the octave."""
    return 2.0 ** (index / 32)


def choose(units: np.ndarray, expected: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Latent values in steps, float32 [n] -> integers, int32 [n]; see the module's docstring.

    expected: int32 [n]. tables: uint8 [n]; under table 0 only the expected value can be coded.
    """
    costs = value_costs()
    chosen = expected.copy()
    near = np.rint(units).astype(np.int32)
    apart = np.flatnonzero((near != expected) & (tables > 0))
    units, expected, tables, near = units[apart], expected[apart], tables[apart], near[apart]
    best, best_cost = expected, (units - expected) ** 2 + LAMBDA * costs[tables, 0]
    for candidate in (near, near - np.sign(near - expected)):
        away = np.abs(candidate - expected)
        bits = costs[tables, np.minimum(away, REACH + 1)]
        bits = bits + np.where(away > REACH, 2 * np.log2(np.maximum(away - REACH, 1)) + 2, 0)
        cost = (units - candidate) ** 2 + LAMBDA * bits
        best, best_cost = np.where(cost < best_cost, candidate, best), np.minimum(cost, best_cost)
    chosen[apart] = best
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
    return gain > _INHERITED * LAMBDA * (cost + _MAP_BITS)


class SymbolEncoder:
    """The encoder's symbol stream: chooses integers by rate and distortion, and writes them."""

    def __init__(self):
        self._writer = SymbolWriter()

    def values(self, tables: np.ndarray, expected: np.ndarray, units: np.ndarray) -> np.ndarray:
        """tables: uint8 [n]; expected: int32 [n]; units: latent values in steps, float32 [n]. Returns int32 [n]."""
        values = choose(units, expected, tables)
        self._writer.values(tables, values - expected)
        return values

    def exactly(self, tables: np.ndarray, expected: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Write the given integers."""
        self._writer.values(tables, (values - expected).astype(np.int32))
        return values

    def bits(self, tables: np.ndarray, bits: np.ndarray) -> np.ndarray:
        self._writer.bits(tables, bits)
        return bits

    def finish(self) -> bytes:
        return self._writer.finish()


class ExactSymbolEncoder(SymbolEncoder):
    """An encoder's symbol stream that writes the integers it is given, without loss."""

    def values(self, tables: np.ndarray, expected: np.ndarray, units: np.ndarray) -> np.ndarray:
        """As SymbolEncoder; units are whole numbers."""
        return self.exactly(tables, expected, units.astype(np.int32))


class SymbolDecoder:
    """The decoder's symbol stream: the same calls, which read the integers instead of taking the last argument."""

    def __init__(self, data: bytes):
        self._reader = SymbolReader(data)

    def values(self, tables: np.ndarray, expected: np.ndarray, units: None = None) -> np.ndarray:
        return self._reader.values(tables) + expected

    exactly = values

    def bits(self, tables: np.ndarray, bits: None = None) -> np.ndarray:
        return self._reader.bits(tables)

    def finish(self) -> None:
        self._reader.finish()
