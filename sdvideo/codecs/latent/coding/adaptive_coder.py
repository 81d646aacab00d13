"""The plain latent coder: latents of any number of channels, without a trained model of what they look like.

Every choice below is made of integers that both sides know; // rounds down, sums are 64-bit. Positions are
visited in the seven lattice passes of context.LATTICES, coarse to fine, so that all but the first pass look
at four known neighbours N (a mirrored one at the border, 0 where there is none or where nothing is coded).

The latent, channel after channel. A symbol is coded as its difference to an expected value e, and the table
follows from the size m the difference is foreseen to have, in 2**-16:
    e = (weight * sum(N) + 8) // 16                 weight 0..4: from nothing to the neighbours' mean
    m = (2 * mean + local * L + place * P) // (2 + local + place)               local, place 0..4
        mean = S // n: S the sum, in 2**-16, of the sizes of the n differences coded so far in this channel.
               They begin with what the channel before left, each divided by max(1, n // 16), rounded down;
               in the first channel with n = 1 and S the size of table `start`
        L    = 16384 * the sum of the sizes of N - e
        P    = mean * A // 16, where A is how lively the place is in what is known of it: the mean, rounded
               down, of its livelinesses in the earlier channels of this frame, and in this channel of the
               frame before if that had anything coded; 16 if there are none of these
    table = 1 + how many of the thresholds are at most m, plus offset, but 1 at least and 63 at most
The size of a number is its absolute value, at most 2047. The size of table k is that of its values on
average, (ROOTS[k] << 32) // (2**32 - ROOTS[k]**2) in 2**-16; thresholds lie halfway, rounded down, between
the sizes of tables 1 and 2, 2 and 3, ..., 62 and 63. The liveliness of a place in a channel is 2**20 * size
// mean, at most 255, where size is that of its difference (of its symbol in the frame before), and mean =
max(1, 65536 * sum // count) over the coded places of the channel.

First comes `start`, as a value under table 30, expected 32. Before each pass that has at least 32 coded
positions its weight, local, place and offset are coded, as values under table 14; expected are those of the
channel's pass before, in its first pass those of the first pass of the channel before it, at the very
beginning 4, 2, 1, 0 in key frames and 0, 0, 0, 0 in others. Smaller passes use what is expected. Passes
without coded positions are left out. Whatever was decoded is clipped: start to 0..63, weight, local and
place to 0..4, offset to -64..64.

The map of coded blocks. First its `density`, as a value under table 20, clipped to 0..63; expected is that of
the map before. A map's density is 24 if it is empty, else the number of thresholds below 65536 * its ones //
its size; thresholds lie halfway, rounded down, between the ODDS. Then the bits. The context of a bit is how
many of its four neighbours are coded (0..4), whether the block was coded in the frame before, and whether at
least three of its eight neighbours were; if all blocks were, as in key frames, the map before counts as
empty. A context begins as if it had seen 4 bits with the odds of table density + 5 * neighbours + (0, 4, 6,
10)[2 * before + around] - 8, clipped to 0..63, and after each pass counts its bits. The table of a bit is
the number of thresholds that are at most 65536 * ones // bits of its context.
"""

from __future__ import annotations

import numpy as np

from .frame_syntax import lattices, plain_motion_tables
from .range_coder import ODDS, ROOTS, TABLES, value_costs

_LARGEST = 2047
_ONE = 1 << 16
_FEWEST = 32  # positions of a pass worth parameters of its own
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
_DEAD = 0.38  # differences of up to 1 - _DEAD steps mostly become zero, see quantise.choose


class PlainCoder:
    """A LatentCoder (see symbols.py) that needs no training; see the module's docstring."""

    name = "plain-1"

    def __init__(self, channels: int):
        self.channels = channels

    def motion_tables(self, deviations, stage, index):
        return plain_motion_tables(deviations, stage)

    def code_map(self, end, before, motion, step, coded):
        """The map of coded blocks, bool [h, w]."""
        rows, columns = before.coded.shape
        last = np.zeros_like(before.coded) if before.coded.all() else before.coded
        density = _code_table(end, 20, _density(last), None if coded is None else _density(coded))
        around = _box(last.astype(np.int64)) >= 3
        context = (2 * last + around).reshape(-1)
        prior = np.add.outer(5 * np.arange(5), [0, 4, 6, 10]).ravel() + density - 8
        count = np.full(prior.size, _PRIOR, np.int64)
        ones = count * _ODDS[prior.clip(0, TABLES - 1)]
        known = np.zeros(rows * columns + 1, np.int64)
        for _, at, near in lattices(rows, columns):
            which = 4 * known[near].sum(1) + context[at]
            tables = bit_tables(ones // count)[which]
            known[at] = end.bits(tables, None if coded is None else coded.reshape(-1)[at])
            ones += _ONE * np.bincount(which[known[at] > 0], minlength=prior.size)
            count += np.bincount(which, minlength=prior.size)
        return known[:-1].reshape(rows, columns) > 0

    def code_latent(self, end, before, coded, step, units):
        """The latent, int32 [h, w, channels]; units: float32 [h, w, channels] from the encoder, else None."""
        here = coded.reshape(-1)
        units = None if units is None else units.reshape(here.size, self.channels)
        start = _code_table(end, 30, 32, None if units is None else table_near(units[here, 0]))
        first = _KEY_PARAMETERS if before is None else _OTHER_PARAMETERS
        walk = _Walk(end, coded, int(_SIZES[start]), first)
        symbols = np.zeros((here.size, self.channels), np.int32)
        for channel in range(self.channels):
            lively = []
            if before is not None and before.coded.any():
                lively.append(_liveliness(before.latent[..., channel].reshape(-1), before.coded.reshape(-1)))
            wanted = None if units is None else units[:, channel]
            symbols[:, channel] = walk.channel(lively, wanted)
        return symbols.reshape(*coded.shape, self.channels)


class _Walk:
    """What one channel hands to the next."""

    def __init__(self, end, coded: np.ndarray, size: int, parameters: tuple[int, int, int, int]):
        """size: the first mean size, in 2**-16; parameters: expected of the very first pass."""
        self._end, self._here = end, coded.reshape(-1)
        self._passes = []
        for _, at, near in lattices(*coded.shape):
            chosen = self._here[at]
            if chosen.any():
                self._passes.append((at[chosen], near[chosen]))
        self._total, self._count = size, 1
        self._parameters = parameters
        self._lively = np.zeros(self._here.size, np.int64)
        self._channels = 0

    def channel(self, lively: list[np.ndarray], units: np.ndarray | None) -> np.ndarray:
        """Code a channel. lively: what the frame before says of its places, int64 [h * w] or nothing.

        units: float32 [h * w] or None. Returns int32 [h * w].
        """
        place = sum(lively, self._lively) // max(1, self._channels + len(lively))
        if not self._channels + len(lively):
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
            values = self._end.values(tables.astype(np.uint8), expected.astype(np.int32), wanted)
            known[at] = values
            sizes[at] = np.minimum(np.abs(values - expected), _LARGEST)
            self._total += _ONE * int(sizes[at].sum())
            self._count += len(at)
        self._lively += _liveliness(sizes, self._here)
        self._channels += 1
        return known[:-1].astype(np.int32)

    def _code_parameters(self, seen: _Pass, expected: tuple, units: np.ndarray | None) -> tuple:
        wanted = None if units is None else np.array(_best_parameters(seen, expected, units), np.int32)
        values = self._end.exactly(_PARAMETER_TABLE, np.array(expected, np.int32), wanted)
        return tuple(int(v) for v in values.clip(_LEAST, _MOST))


class _Pass:
    """What is known before a pass: neighbours int64 [n, 4], the mean size so far, liveliness int64 [n]."""

    def __init__(self, neighbours: np.ndarray, mean: int, lively: np.ndarray):
        self._neighbours, self._sum = neighbours, neighbours.sum(1)
        self._mean, self._place = mean, mean * lively // 16

    def expected(self, weight: int) -> np.ndarray:
        """int64 [n]."""
        return (weight * self._sum + 8) // 16

    def tables(self, weight: int, local: int, place: int) -> np.ndarray:
        """Tables before the offset, int64 [n]."""
        apart = np.abs(self._neighbours - self.expected(weight)[:, None])
        here = 16384 * np.minimum(apart, _LARGEST).sum(1)
        return _table((2 * self._mean + local * here + place * self._place) // (2 + local + place))


def _best_parameters(seen: _Pass, last: tuple, units: np.ndarray) -> list[int]:
    """The parameters that make a pass cheap, found one after the other; units: float32 [n]."""
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


def _code_table(end, table: int, expected: int, wanted: int | None) -> int:
    """Code the number of a table."""
    wanted = None if wanted is None else np.array([wanted], np.int32)
    value = end.exactly(np.array([table], np.uint8), np.array([expected], np.int32), wanted)
    return int(value[0].clip(0, TABLES - 1))


def bit_tables(shares: np.ndarray) -> np.ndarray:
    """Tables for bits of which such shares, in 2**-16, are ones, uint8: how many thresholds are at most it."""
    return np.searchsorted(_ODDS_THRESHOLDS, shares, side="right").astype(np.uint8)


def _table(sizes: np.ndarray) -> np.ndarray:
    """Sizes in 2**-16, int64 -> tables of values, 1..63."""
    return np.searchsorted(_THRESHOLDS, sizes, side="right") + 1


def _clipped(tables: np.ndarray) -> np.ndarray:
    """Tables as they are used: all but table 0, under which nothing but what is expected can be coded."""
    return tables.clip(1, TABLES - 1)


def table_near(units: np.ndarray) -> int:
    """The table for values such as these, float32 [n]."""
    return int(_table(np.int64(_ONE * min(float(np.abs(units).mean()), _LARGEST))))


def _liveliness(values: np.ndarray, coded: np.ndarray) -> np.ndarray:
    """Sizes against their mean over the coded places, in sixteenths, int64 [n]; 255 at most."""
    sizes = np.minimum(np.abs(values.astype(np.int64)), _LARGEST)
    mean = max(1, _ONE * int(sizes.sum()) // max(1, int(coded.sum())))
    return np.minimum(16 * _ONE * sizes // mean, 255)


def _density(coded: np.ndarray) -> int:
    """The table of bits nearest to the share of ones, _FIRST_DENSITY where there are none."""
    ones = int(coded.sum())
    return int(np.searchsorted(_ODDS_THRESHOLDS, _ONE * ones // coded.size)) if ones else _FIRST_DENSITY


def _box(values: np.ndarray) -> np.ndarray:
    """Sum over each position's eight neighbours, [h, w]."""
    padded = np.pad(values, 1)
    wide = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return wide[:-2] + wide[1:-1] + wide[2:] - values
