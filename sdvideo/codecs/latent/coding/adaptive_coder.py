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
The size of a number is its absolute value, at most 2047. The size of table k is that of its values on
average, (ROOTS[k] << 32) // (2**32 - ROOTS[k]**2) in 2**-16; thresholds lie halfway, rounded down, between
the sizes of tables 1 and 2, 2 and 3, ..., 62 and 63. The activity of a place in a channel is 2**20 * size
// mean, at most 255, where size is that of its difference (of its symbol in the previous frame), and mean =
max(1, 65536 * sum // count) over the coded places of the channel.

First comes `start`, as a value under table 30, expected 32. Before each pass that has at least 32 coded
positions its weight, local, place and offset are coded, as values under table 14; expected are those of the
previous pass of the channel, in its first pass those of the first pass of the previous channel, at the very
beginning 4, 2, 1, 0 in key frames and 0, 0, 0, 0 in others. Smaller passes use the expected ones. Passes
without coded positions are skipped. Decoded parameters are clipped: start to 0..63, weight, local and
place to 0..4, offset to -64..64.

The map of coded blocks. First its `density`, as a value under table 20, clipped to 0..63; expected is that of
the previous map. A map's density is 24 if it is empty, else the number of thresholds below 65536 * its ones //
its size; thresholds lie halfway, rounded down, between the ODDS. Then the bits. The context of a bit is how
many of its four neighbours are coded (0..4), whether the block was coded in the previous frame, and whether at
least three of its eight neighbours were; if all blocks were, as in key frames, the previous map counts as
empty. A context begins as if it had seen 4 bits with the odds of table density + 5 * neighbours + (0, 4, 6,
10)[2 * before + around] - 8, clipped to 0..63, and after each pass counts its bits. The table of a bit is
the number of thresholds that are at most 65536 * ones // bits of its context.
"""

from __future__ import annotations

import numpy as np

from .frame_syntax import adaptive_motion_tables, lattices
from .range_coder import ODDS, ROOTS, TABLES, value_costs

_LARGEST = 2047
_ONE = 1 << 16
_FEWEST = 32  # positions of a pass for which parameters are coded
_PARAMETER_TABLE = np.full(4, 14, np.uint8)
_LEAST, _MOST = (0, 0, 0, -TABLES), (4, 4, 4, TABLES)
_KEY_PARAMETERS, _OTHER_PARAMETERS = (4, 2, 1, 0), (0, 0, 0, 0)

# Mean |n| under each table of values, s / (1 - s^2), in 2**-16.
_SIZES = np.array([(root << 32) // ((1 << 32) - root * root) for root in ROOTS], np.int64)
_THRESHOLDS = (_SIZES[1:-1] + _SIZES[2:]) // 2
_ODDS = np.array(ODDS, np.int64)
_ODDS_THRESHOLDS = (_ODDS[:-1] + _ODDS[1:]) // 2
_FIRST_DENSITY = 24
_PRIOR = 4  # bits
_OFFSETS = np.arange(-12, 13)
_UNDER = np.arange(TABLES)[:, None]
_DEAD = 0.38  # differences of up to 1 - _DEAD steps mostly become zero, see rdoq.choose


class AdaptiveCoder:
    """A LatentCoder (see frame_syntax.py) without a trained model; see the module's docstring."""

    name = "plain-1"

    def __init__(self, channels: int):
        self.channels = channels

    def motion_tables(self, deviations, stage, index):
        return adaptive_motion_tables(deviations, stage)

    def code_map(self, stream, before, motion, step, coded):
        """The map of coded blocks, bool [h, w]."""
        rows, columns = before.coded.shape
        last = np.zeros_like(before.coded) if before.coded.all() else before.coded
        density = _code_table(stream, 20, _density(last), None if coded is None else _density(coded))
        around = _box(last.astype(np.int64)) >= 3
        context = (2 * last + around).reshape(-1)
        prior = np.add.outer(5 * np.arange(5), [0, 4, 6, 10]).ravel() + density - 8
        count = np.full(prior.size, _PRIOR, np.int64)
        ones = count * _ODDS[prior.clip(0, TABLES - 1)]
        known = np.zeros(rows * columns + 1, np.int64)
        for _, at, near in lattices(rows, columns):
            which = 4 * known[near].sum(1) + context[at]
            tables = bit_tables(ones // count)[which]
            known[at] = stream.bits(tables, None if coded is None else coded.reshape(-1)[at])
            ones += _ONE * np.bincount(which[known[at] > 0], minlength=prior.size)
            count += np.bincount(which, minlength=prior.size)
        return known[:-1].reshape(rows, columns) > 0

    def code_latent(self, stream, before, coded, step, units):
        """The latent, int32 [h, w, channels]. units: the encoder's, float32 [h, w, channels]; None when decoding."""
        here = coded.reshape(-1)
        units = None if units is None else units.reshape(here.size, self.channels)
        start = _code_table(stream, 30, 32, None if units is None else table_near(units[here, 0]))
        first = _KEY_PARAMETERS if before is None else _OTHER_PARAMETERS
        walk = _Walk(stream, coded, int(_SIZES[start]), first)
        symbols = np.zeros((here.size, self.channels), np.int32)
        for channel in range(self.channels):
            activities = []
            if before is not None and before.coded.any():
                activities.append(_activity(before.latent[..., channel].reshape(-1), before.coded.reshape(-1)))
            wanted = None if units is None else units[:, channel]
            symbols[:, channel] = walk.channel(activities, wanted)
        return symbols.reshape(*coded.shape, self.channels)


class _Walk:
    """Codes one channel after the other; holds the state that passes from one to the next."""

    def __init__(self, stream, coded: np.ndarray, size: int, parameters: tuple[int, int, int, int]):
        """size: the first mean size, in 2**-16. parameters: expected in the very first pass."""
        self._stream, self._here = stream, coded.reshape(-1)
        self._passes = []
        for _, at, near in lattices(*coded.shape):
            chosen = self._here[at]
            if chosen.any():
                self._passes.append((at[chosen], near[chosen]))
        self._total, self._count = size, 1
        self._parameters = parameters
        self._activities = np.zeros(self._here.size, np.int64)
        self._channels = 0

    def channel(self, activities: list[np.ndarray], units: np.ndarray | None) -> np.ndarray:
        """Code a channel. activities: of its places in the previous frame, int64 [h * w], or empty.

        units: float32 [h * w] or None. Returns int32 [h * w].
        """
        place = sum(activities, self._activities) // max(1, self._channels + len(activities))
        if not self._channels + len(activities):
            place = np.full_like(place, 16)
        fewer = max(1, self._count // 16)
        self._total, self._count = self._total // fewer, self._count // fewer
        known = np.zeros(self._here.size + 1, np.int64)
        sizes = np.zeros(self._here.size, np.int64)
        parameters = self._parameters
        for number, (at, near) in enumerate(self._passes):
            seen = _Pass(known[near], self._total // self._count, place[at])
            wanted = None if units is None else units[at]
            if len(at) >= _FEWEST:
                parameters = self._code_parameters(seen, parameters, wanted)
            if number == 0:
                self._parameters = parameters
            expected = seen.expected(parameters[0])
            tables = _clipped(seen.tables(*parameters[:3]) + parameters[3])
            values = self._stream.values(tables.astype(np.uint8), expected.astype(np.int32), wanted)
            known[at] = values
            sizes[at] = np.minimum(np.abs(values - expected), _LARGEST)
            self._total += _ONE * int(sizes[at].sum())
            self._count += len(at)
        self._activities += _activity(sizes, self._here)
        self._channels += 1
        return known[:-1].astype(np.int32)

    def _code_parameters(self, seen: _Pass, expected: tuple, units: np.ndarray | None) -> tuple:
        wanted = None if units is None else np.array(_best_parameters(seen, expected, units), np.int32)
        values = self._stream.exactly(_PARAMETER_TABLE, np.array(expected, np.int32), wanted)
        return tuple(int(v) for v in values.clip(_LEAST, _MOST))


class _Pass:
    """What is known before a pass: neighbours int64 [n, 4], the mean size so far, activity int64 [n]."""

    def __init__(self, neighbours: np.ndarray, mean: int, activities: np.ndarray):
        self._neighbours, self._sum = neighbours, neighbours.sum(1)
        self._mean, self._place = mean, mean * activities // 16

    def expected(self, weight: int) -> np.ndarray:
        """int64 [n]."""
        return (weight * self._sum + 8) // 16

    def tables(self, weight: int, local: int, place: int) -> np.ndarray:
        """Tables before the offset, int64 [n]."""
        apart = np.abs(self._neighbours - self.expected(weight)[:, None])
        here = 16384 * np.minimum(apart, _LARGEST).sum(1)
        return _table((2 * self._mean + local * here + place * self._place) // (2 + local + place))


def _best_parameters(seen: _Pass, last: tuple, units: np.ndarray) -> list[int]:
    """Parameters that make a pass cheap, chosen one after the other. units: float32 [n]."""
    costs = value_costs()
    change = costs[_PARAMETER_TABLE[0]]

    def spread(weight):
        apart = np.abs(units - seen.expected(weight)).mean()
        return len(units) * np.log2(apart + 0.3) + change[abs(weight - last[0])]

    weight = min(range(_MOST[0] + 1), key=spread)
    sizes = np.floor(np.abs(units - seen.expected(weight)) + _DEAD)
    sizes = np.minimum(sizes, costs.shape[1] - 1).astype(np.int64)

    def offset(local, place):
        """(bits, offset) of the best offset, given the others."""
        tables = seen.tables(weight, local, place)
        found = np.bincount(tables * costs.shape[1] + sizes, minlength=costs.size).reshape(costs.shape)
        bits = (found @ costs.T)[_UNDER, _clipped(_UNDER + _OFFSETS)].sum(0)
        bits += change[np.minimum(np.abs(_OFFSETS - last[3]), len(change) - 1)]
        best = int(bits.argmin())
        return bits[best] + change[abs(local - last[1])] + change[abs(place - last[2])], int(_OFFSETS[best])

    local = min(range(_MOST[1] + 1), key=lambda local: offset(local, last[2]))
    place = min(range(_MOST[2] + 1), key=lambda place: offset(local, place))
    return [weight, local, place, offset(local, place)[1]]


def _code_table(stream, table: int, expected: int, wanted: int | None) -> int:
    """Code the number of a table."""
    wanted = None if wanted is None else np.array([wanted], np.int32)
    value = stream.exactly(np.array([table], np.uint8), np.array([expected], np.int32), wanted)
    return int(value[0].clip(0, TABLES - 1))


def bit_tables(shares: np.ndarray) -> np.ndarray:
    """Tables for bits of which these shares, in 2**-16, are ones; uint8: the number of thresholds up to each share."""
    return np.searchsorted(_ODDS_THRESHOLDS, shares, side="right").astype(np.uint8)


def _table(sizes: np.ndarray) -> np.ndarray:
    """Sizes in 2**-16, int64 -> tables of values, 1..63."""
    return np.searchsorted(_THRESHOLDS, sizes, side="right") + 1


def _clipped(tables: np.ndarray) -> np.ndarray:
    """Tables clipped to those in use: all but table 0, under which only the expected value can be coded."""
    return tables.clip(1, TABLES - 1)


def table_near(units: np.ndarray) -> int:
    """The table that fits these values, float32 [n]."""
    return int(_table(np.int64(_ONE * min(float(np.abs(units).mean()), _LARGEST))))


def _activity(values: np.ndarray, coded: np.ndarray) -> np.ndarray:
    """Sizes relative to their mean over the coded places, in sixteenths, int64 [n], at most 255."""
    sizes = np.minimum(np.abs(values.astype(np.int64)), _LARGEST)
    mean = max(1, _ONE * int(sizes.sum()) // max(1, int(coded.sum())))
    return np.minimum(16 * _ONE * sizes // mean, 255)


def _density(coded: np.ndarray) -> int:
    """The table of bits closest to the share of ones; _FIRST_DENSITY if there are none."""
    ones = int(coded.sum())
    return int(np.searchsorted(_ODDS_THRESHOLDS, _ONE * ones // coded.size)) if ones else _FIRST_DENSITY


def _box(values: np.ndarray) -> np.ndarray:
    """Sum over each position's eight neighbours, [h, w]."""
    padded = np.pad(values, 1)
    wide = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return wide[:-2] + wide[1:-1] + wide[2:] - values
