"""The adaptive coder "plain-1": probability tables for latents of any number of channels, without a trained model.

Every choice depends only on integers that both sides know; // rounds down, sums are 64-bit. Positions are visited in
the seven lattice passes of context_model.LATTICES, coarse to fine, so that all but the first pass have four known
neighbours N (a mirrored one at the border, 0 where there is none or where nothing is coded).

The latent, channel after channel. A symbol is coded as its difference to an expected value e, and its table follows
from the predicted size m of the difference, in 2**-16:
    e = (weight * sum(N) + 8) // 16                 weight 0..4: from nothing to the neighbours' mean
    m = (2 * mean + local * L + place * P) // (2 + local + place)               local, place 0..4
        mean = S // n: S the sum, in 2**-16, of the sizes of the n differences coded so far in this channel.
               They start from the values of the previous channel, each divided by max(1, n // 16), rounded
               down; in the first channel from n = 1 and S the size of table `start`
        L    = 16384 * the sum of the sizes of N - e
        P    = mean * A // 16, where A is the activity of the place as far as it is known: the mean, rounded
               down, of its activities in the earlier channels of this frame, and in this channel of the
               previous frame if that had anything coded; 16 if there are none of these
    table = 1 + how many of the thresholds are at most m, plus offset, but 1 at least and 63 at most
The size of a number is its absolute value, at most 2047. The size of table k is the mean size of its values,
(ROOTS[k] << 32) // (2**32 - ROOTS[k]**2) in 2**-16; thresholds lie halfway, rounded down, between the sizes of
tables 1 and 2, 2 and 3, ..., 62 and 63. The activity of a place in a channel is 2**20 * size // mean, at most 255,
where size is that of its difference (of its symbol in the previous frame), and mean = max(1, 65536 * sum // count)
over the coded places of the channel.

First comes `start`, as a value under table 30, expected 32. Before each pass that has at least 32 coded positions
its weight, local, place and offset are coded, as values under table 14; expected are those of the previous pass of
the channel, in its first pass those of the first pass of the previous channel, at the very beginning 4, 2, 1, 0 in
key frames and 0, 0, 0, 0 in others. Smaller passes use the expected ones. Passes without coded positions are skipped.
Decoded parameters are clipped: start to 0..63, weight, local and place to 0..4, offset to -64..64.

The map of coded blocks. First its `density`, as a value under table 20, clipped to 0..63; expected is that of the
previous map. A map's density is 24 if it is empty, else the number of thresholds below 65536 * its ones // its size;
thresholds lie halfway, rounded down, between the ODDS. Then the bits. The context of a bit is how many of its four
neighbours are coded (0..4), whether the block was coded in the previous frame, and whether at least three of its
eight neighbours were; if all blocks were, as in key frames, the previous map counts as empty. A context begins as if
it had seen 4 bits with the odds of table density + 5 * neighbours + (0, 4, 6, 10)[2 * before + around] - 8, clipped
to 0..63, and after each pass counts its bits. The table of a bit is the number of thresholds that are at most
65536 * ones // bits of its context.

Motion vectors. In the first pass both components have table 20. In later passes a component has table 8 if it is the
same in the four neighbours, else 11 + 5 * n // 8, where n = 8 * log2(1 + the largest of the four - the smallest),
rounded down (context_model.magnitudes).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from . import context_model as context
from .frame_syntax import FrameSymbols, lattices
from .range_coder import ODDS, ROOTS, TABLES, value_costs
from .rdoq import SymbolStream

_MAX_SIZE = 2047
_ONE = 1 << 16
_MIN_POSITIONS = 32  # of a pass for which parameters are coded
_START_TABLE, _EXPECTED_START = 30, 32
_DENSITY_TABLE, _FIRST_DENSITY = 20, 24
_PRIOR_BITS = 4
_MEAN_ACTIVITY = 16

# Mean |n| under each table of values, s / (1 - s^2), in 2**-16.
_SIZES = np.array([(root << 32) // ((1 << 32) - root * root) for root in ROOTS], np.int64)
_THRESHOLDS = (_SIZES[1:-1] + _SIZES[2:]) // 2
_ODDS = np.array(ODDS, np.int64)
_ODDS_THRESHOLDS = (_ODDS[:-1] + _ODDS[1:]) // 2
_FIRST_MOTION_TABLE = 20
_MOTION_TABLES = np.array([8 if n == 0 else 11 + 5 * n // 8 for n in range(89)], np.uint8)  # by magnitude


class _Parameters(NamedTuple):
    """Of a pass over a channel; see the module's docstring."""

    weight: int
    local: int
    place: int
    offset: int


_PARAMETER_TABLE = np.full(4, 14, np.uint8)
_MIN_PARAMETERS, _MAX_PARAMETERS = _Parameters(0, 0, 0, -TABLES), _Parameters(4, 4, 4, TABLES)
_KEY_PARAMETERS, _PREDICTED_PARAMETERS = _Parameters(4, 2, 1, 0), _Parameters(0, 0, 0, 0)

# Constants of the encoder's choice of parameters.
_OFFSETS = np.arange(-12, 13)
_DEAD_ZONE = 0.38  # differences of up to 1 - _DEAD_ZONE steps mostly become zero, see rdoq.choose_integers


class AdaptiveCoder:
    """The LatentCoder (see frame_syntax.py) "plain-1", without a trained model; see the module's docstring."""

    name = "plain-1"

    def __init__(self, channels: int):
        self.channels = channels

    def motion_tables(self, deviations: torch.Tensor, stage: int, index: int) -> np.ndarray:
        if stage == 0:
            return np.full((len(deviations), 2), _FIRST_MOTION_TABLE, np.uint8)
        spread = deviations[:, :4].amax(1) - deviations[:, :4].amin(1)
        return _MOTION_TABLES[context.magnitudes(spread).numpy().astype(np.uint8)]

    def code_map(
        self, stream: SymbolStream, previous: FrameSymbols, motion: np.ndarray, index: int, coded: np.ndarray | None
    ) -> np.ndarray:
        rows, columns = previous.coded.shape
        before = np.zeros_like(previous.coded) if previous.coded.all() else previous.coded
        wanted_density = None if coded is None else _density(coded)
        density = _code_table(stream, _DENSITY_TABLE, _density(before), wanted_density)
        around = _box(before.astype(np.int64)) >= 3
        outer_context = (2 * before + around).reshape(-1)
        prior = np.add.outer(5 * np.arange(5), [0, 4, 6, 10]).ravel() + density - 8
        count = np.full(prior.size, _PRIOR_BITS, np.int64)
        ones = count * _ODDS[prior.clip(0, TABLES - 1)]
        known = np.zeros(rows * columns + 1, np.int64)
        for _, positions, neighbours in lattices(rows, columns):
            contexts = 4 * known[neighbours].sum(1) + outer_context[positions]
            tables = bit_tables(ones // count)[contexts]
            known[positions] = stream.bits(tables, None if coded is None else coded.reshape(-1)[positions])
            ones += _ONE * np.bincount(contexts[known[positions] > 0], minlength=prior.size)
            count += np.bincount(contexts, minlength=prior.size)
        return known[:-1].reshape(rows, columns) > 0

    def code_latent(
        self,
        stream: SymbolStream,
        previous: FrameSymbols | None,
        coded: np.ndarray,
        index: int,
        units: np.ndarray | None,
    ) -> np.ndarray:
        here = coded.reshape(-1)
        units = None if units is None else units.reshape(here.size, self.channels)
        wanted_start = None if units is None else table_near(units[here, 0])
        start = _code_table(stream, _START_TABLE, _EXPECTED_START, wanted_start)
        parameters = _KEY_PARAMETERS if previous is None else _PREDICTED_PARAMETERS
        channel_coder = _ChannelCoder(stream, coded, int(_SIZES[start]), parameters)
        symbols = np.zeros((here.size, self.channels), np.int32)
        for channel in range(self.channels):
            activity = None
            if previous is not None and previous.coded.any():
                activity = _activity(previous.latent[..., channel].reshape(-1), previous.coded.reshape(-1))
            symbols[:, channel] = channel_coder.code(activity, None if units is None else units[:, channel])
        return symbols.reshape(*coded.shape, self.channels)


class _ChannelCoder:
    """Codes one channel after the other, and holds the state that passes from one to the next."""

    def __init__(self, stream: SymbolStream, coded: np.ndarray, size: int, parameters: _Parameters):
        """coded: bool [h, w]. size: the first mean size, in 2**-16. parameters: expected in the very first pass."""
        self._stream, self._here = stream, coded.reshape(-1)
        self._passes = []
        for _, positions, neighbours in lattices(*coded.shape):
            chosen = self._here[positions]
            if chosen.any():
                self._passes.append((positions[chosen], neighbours[chosen]))
        self._total, self._count = size, 1  # S and n of the module's docstring
        self._parameters = parameters
        self._activity = np.zeros(self._here.size, np.int64)  # the sum over the channels so far
        self._channels = 0

    def code(self, previous_activity: np.ndarray | None, units: np.ndarray | None) -> np.ndarray:
        """Code the next channel.

        previous_activity: of the places in the previous frame, int64 [h * w], None if nothing was coded there. units:
        float32 [h * w], None in a decoder. Returns int32 [h * w].
        """
        known_activities = self._channels + (previous_activity is not None)
        total_activity = self._activity if previous_activity is None else self._activity + previous_activity
        if known_activities:
            activity = total_activity // known_activities
        else:
            activity = np.full_like(total_activity, _MEAN_ACTIVITY)
        divisor = max(1, self._count // 16)
        self._total, self._count = self._total // divisor, self._count // divisor
        known = np.zeros(self._here.size + 1, np.int64)
        sizes = np.zeros(self._here.size, np.int64)
        parameters = self._parameters
        for number, (positions, neighbours) in enumerate(self._passes):
            model = _PassModel(known[neighbours], self._total // self._count, activity[positions])
            wanted = None if units is None else units[positions]
            if len(positions) >= _MIN_POSITIONS:
                parameters = self._code_parameters(model, parameters, wanted)
            if number == 0:
                self._parameters = parameters
            expected = model.expected(parameters.weight)
            tables = model.tables(parameters.weight, parameters.local, parameters.place)
            tables = _clipped(tables + parameters.offset).astype(np.uint8)
            values = self._stream.values(tables, expected.astype(np.int32), wanted)
            known[positions] = values
            sizes[positions] = np.minimum(np.abs(values - expected), _MAX_SIZE)
            self._total += _ONE * int(sizes[positions].sum())
            self._count += len(positions)
        self._activity += _activity(sizes, self._here)
        self._channels += 1
        return known[:-1].astype(np.int32)

    def _code_parameters(self, model: _PassModel, expected: _Parameters, units: np.ndarray | None) -> _Parameters:
        wanted = None if units is None else np.array(_best_parameters(model, expected, units), np.int32)
        values = self._stream.exactly(_PARAMETER_TABLE, np.array(expected, np.int32), wanted)
        return _Parameters(*(int(value) for value in values.clip(_MIN_PARAMETERS, _MAX_PARAMETERS)))


class _PassModel:
    """Expected values and tables of a pass, from what both sides know before it.

    neighbours: int64 [n, 4]. mean: the mean size so far, in 2**-16. activity: int64 [n].
    """

    def __init__(self, neighbours: np.ndarray, mean: int, activity: np.ndarray):
        self._neighbours, self._sum = neighbours, neighbours.sum(1)
        self._mean, self._place = mean, mean * activity // 16

    def expected(self, weight: int) -> np.ndarray:
        """int64 [n]."""
        expected: np.ndarray = (weight * self._sum + 8) // 16
        return expected

    def tables(self, weight: int, local: int, place: int) -> np.ndarray:
        """Tables before the offset, int64 [n]."""
        differences = np.abs(self._neighbours - self.expected(weight)[:, None])
        local_size = 16384 * np.minimum(differences, _MAX_SIZE).sum(1)
        return _tables_of_sizes((2 * self._mean + local * local_size + place * self._place) // (2 + local + place))


def _best_parameters(model: _PassModel, last: _Parameters, units: np.ndarray) -> _Parameters:
    """The encoder's: parameters that make a pass cheap, chosen one after the other.

    last: the expected ones. units: float32 [n].
    """
    costs = value_costs()
    parameter_costs = costs[_PARAMETER_TABLE[0]]
    every_table = np.arange(TABLES)[:, None]

    def weight_bits(weight: int) -> float:
        error = np.abs(units - model.expected(weight)).mean()
        bits: float = len(units) * np.log2(error + 0.3) + parameter_costs[abs(weight - last.weight)]
        return bits

    weight = min(range(_MAX_PARAMETERS.weight + 1), key=weight_bits)
    sizes = np.floor(np.abs(units - model.expected(weight)) + _DEAD_ZONE)
    sizes = np.minimum(sizes, costs.shape[1] - 1).astype(np.int64)

    def best_offset(local: int, place: int) -> tuple[float, int]:
        """(bits, offset) of the best offset, given the others."""
        tables = model.tables(weight, local, place)
        counts = np.bincount(tables * costs.shape[1] + sizes, minlength=costs.size).reshape(costs.shape)
        bits = (counts @ costs.T)[every_table, _clipped(every_table + _OFFSETS)].sum(0)
        bits += parameter_costs[np.minimum(np.abs(_OFFSETS - last.offset), len(parameter_costs) - 1)]
        best = int(bits.argmin())
        total = bits[best] + parameter_costs[abs(local - last.local)] + parameter_costs[abs(place - last.place)]
        return total, int(_OFFSETS[best])

    local = min(range(_MAX_PARAMETERS.local + 1), key=lambda local: best_offset(local, last.place))
    place = min(range(_MAX_PARAMETERS.place + 1), key=lambda place: best_offset(local, place))
    return _Parameters(weight, local, place, best_offset(local, place)[1])


def _code_table(stream: SymbolStream, table: int, expected: int, wanted: int | None) -> int:
    """Code the number of a table, 0..63, as a value under `table`."""
    given = None if wanted is None else np.array([wanted], np.int32)
    value = stream.exactly(np.array([table], np.uint8), np.array([expected], np.int32), given)
    return int(value[0].clip(0, TABLES - 1))


def bit_tables(shares: np.ndarray) -> np.ndarray:
    """Tables for bits of which these shares, in 2**-16, are ones; uint8: the number of thresholds up to each share."""
    return np.searchsorted(_ODDS_THRESHOLDS, shares, side="right").astype(np.uint8)


def _tables_of_sizes(sizes: np.ndarray) -> np.ndarray:
    """Sizes in 2**-16, int64 -> tables of values, 1..63."""
    return np.searchsorted(_THRESHOLDS, sizes, side="right") + 1


def _clipped(tables: np.ndarray) -> np.ndarray:
    """Tables clipped to those in use: all but table 0, under which only the expected value can be coded."""
    return tables.clip(1, TABLES - 1)


def table_near(units: np.ndarray) -> int:
    """The table that fits these values, [n]."""
    size = int(_ONE * min(float(np.abs(units).mean()), _MAX_SIZE))
    return int(_tables_of_sizes(np.array([size], np.int64))[0])


def _activity(values: np.ndarray, coded: np.ndarray) -> np.ndarray:
    """Sizes relative to their mean over the coded places, in sixteenths, int64 [n], at most 255."""
    sizes = np.minimum(np.abs(values.astype(np.int64)), _MAX_SIZE)
    mean = max(1, _ONE * int(sizes.sum()) // max(1, int(coded.sum())))
    activity: np.ndarray = np.minimum(16 * _ONE * sizes // mean, 255)
    return activity


def _density(coded: np.ndarray) -> int:
    """The table of bits closest to the share of ones; _FIRST_DENSITY if there are none."""
    ones = int(coded.sum())
    return int(np.searchsorted(_ODDS_THRESHOLDS, _ONE * ones // coded.size)) if ones else _FIRST_DENSITY


def _box(values: np.ndarray) -> np.ndarray:
    """Sum over each position's eight neighbours, [h, w]."""
    padded = np.pad(values, 1)
    wide = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    total: np.ndarray = wide[:-2] + wide[1:-1] + wide[2:] - values
    return total
