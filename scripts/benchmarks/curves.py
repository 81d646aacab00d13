"""Rate-distortion curves compared: bits at equal quality, and values at equal rate.

"At equal quality" is a Bjøntegaard average: log(rate) over quality by monotone cubic interpolation (PCHIP), the mean
difference over the range of quality that both curves have. Points are pairs (rate, value) of one codec's ladder, in
any unit of rate that all curves share.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

import numpy as np
from scipy.interpolate import PchipInterpolator

Points = list[tuple[float, float]]

_STEPS = 400  # at which curves are compared
_LEAST_RATES = 1.25  # the factor between the ends of a range of rates that curves must share


def bits_ratio(ours: Points, *theirs: Points, least: float) -> float | None:
    """Mean ratio of our bits to theirs at equal value; 1 where both need the same.

    Of several ladders of theirs the cheapest counts at each value, their upper envelope. None where ours and theirs
    share less than `least` of the values, or a ladder has no two points of which one is better and dearer.
    """
    ladders = [_undominated(points) for points in (ours, *theirs)]
    if min(map(len, ladders)) < 2:
        return None
    mine, *others = map(_Ladder, ladders)
    low = max(mine.low, min(ladder.low for ladder in others))
    high = min(mine.high, max(ladder.high for ladder in others))
    if high - low < least:
        return None
    at = np.linspace(low, high, _STEPS)
    cheapest = np.min([ladder.log_rate(at) for ladder in others], axis=0)
    return float(np.exp(np.mean(mine.log_rate(at) - cheapest)))


def bd_rate(ours: Points, *theirs: Points, least: float) -> float | None:
    """bits_ratio as a change: 0 for the same, 1 for twice the bits."""
    ratio = bits_ratio(ours, *theirs, least=least)
    return None if ratio is None else ratio - 1


def at_equal_rate(ours: Points, theirs: Points) -> tuple[float, float] | None:
    """Mean values over the range of (log) rates that both have; None where that is next to nothing."""
    sides = [{math.log(rate): value for rate, value in sorted(points)} for points in (ours, theirs)]
    if min(map(len, sides)) < 2:
        return None
    low, high = max(min(side) for side in sides), min(max(side) for side in sides)
    if high - low < math.log(_LEAST_RATES):
        return None
    at = np.linspace(low, high, _STEPS)
    one, other = (float(PchipInterpolator(list(side), list(side.values()))(at).mean()) for side in sides)
    return one, other


def geometric_mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value]
    return statistics.geometric_mean(known) if known else None


def _undominated(points: Points) -> Points:
    """By rising rate, without those that cost more than another and give no more."""
    kept: Points = []
    for rate, value in sorted(points):
        if not kept or value > kept[-1][1]:
            kept.append((rate, value))
    return kept


class _Ladder:
    """log(rate) over value, of points whose rate and value both rise."""

    def __init__(self, points: Points):
        rates, values = zip(*points)
        self.low, self.high = values[0], values[-1]
        self._log_rate = PchipInterpolator(values, np.log(rates))

    def log_rate(self, at: np.ndarray) -> np.ndarray:
        """At these values: below the lowest point what that point costs, above the highest infinity."""
        return np.where(at <= self.high, self._log_rate(np.clip(at, self.low, self.high)), np.inf)
