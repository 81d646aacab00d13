"""How an AV1 base spends its bits: the scale of each group by rate and distortion, and its level by what may be spent.

One number, the level, moves everything: it is the CRF of a base at full size. A smaller base has a lower CRF at the
same level, so that one more bit buys as much at every scale, and the scale is the one that costs least in squared
error + SLOPE(level) * bits when the middle of the group is coded in a hurry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Protocol

import numpy as np

from sdvideo.frames import Picture
from sdvideo.media.scaling import scaled

from .bitstream import (
    EFFORT,
    HIGHEST_CRF,
    LOWEST_CRF,
    PROBE,
    SCALES,
    Base,
    Draft,
    Filter,
    decodable,
    decode_draft,
    encode_base,
    pack_step,
    unpack_step,
)
from .svt_process import Progress, silently

FINEST, COARSEST = 20.0, 80.0

# Frames at which a scale is looked for. On five clips of 90 to 120, at four levels, the first 32 chose as all did.
_GLIMPSE = 64
_TRIES, _CLOSE, _FEWEST = 5, 0.01, 64.0
_MADE_UP = 0.03  # of what a group may take: those after it make up for so much
_GLANCES = 3  # in a hurry, to find where the first group begins
_CARE = 0.85  # bits of a group coded with care, over those in a hurry, about
_NEAR = 4.0  # levels between which the scale of a group is taken to stay
# What natural video takes about: bits per pixel at level 50, and log(bits) per level.
_USUAL, _DECAY = 0.035, 0.065

# Below the level by this much is the CRF at each scale. Like the slopes, from 14 shots of the training set: where
# d(error)/d(bits) of the scales are one.
_BELOW = {SCALES[0]: 0, SCALES[1]: 6, SCALES[2]: 11}
# Squared error of luma a bit per pixel is worth, at levels; below 34 as it goes from 50 to there.
_SLOPES = ((20, 15), (34, 65), (42, 150), (50, 350), (58, 1200), (65, 3200), (71, 8000), (80, 32000))
# What restoring leaves of the squared error that Lanczos would have: a mean over CRF 40 and 55 on held-back shots. At
# full size 5 % less, as much as the hurry costs more there.
_LEFT = {SCALES[0]: 0.92, SCALES[1]: 0.88, SCALES[2]: 0.85}


def level_of(quality: float) -> float:
    """Quality 0..100 -> level, 76 at 0, 20 at 100."""
    return 76 - 0.56 * quality


def share_of_error(level: float) -> float:
    """How much of the last error a key frame keeps, see seam.py: the coarser a video, the more can be seen of it."""
    return float(np.interp(level, (30, 60), (0.5, 1.0)))


def cheapest_scale(pictures: Sequence[Picture], level: float) -> Fraction:
    """The scale that suits a closed group, going by the middle of it. level: FINEST to COARSEST."""
    first = max(0, (len(pictures) - _GLIMPSE) // 2)
    glimpse = pictures[first : first + _GLIMPSE]
    fitting = [scale for scale in SCALES if LOWEST_CRF <= _crf(level, scale) <= HIGHEST_CRF]

    def cost(scale: Fraction) -> float:
        return decodable(lambda: _cost(glimpse, in_a_hurry(glimpse, level, scale), level))

    return min(fitting, key=cost)


def in_a_hurry(pictures: Sequence[Picture], level: float, scale: Fraction) -> Draft:
    """One closed group with little care. level: FINEST to COARSEST."""
    return encode_base(pictures, scale, _fitting_crf(level, scale), PROBE)


def draft_at(
    pictures: Sequence[Picture],
    level: float,
    preset: str,
    scale: Fraction,
    progress: Progress = silently,
    prefilter: Filter | None = None,
) -> Draft:
    """One closed group. level: FINEST to COARSEST; preset: of EFFORT; prefilter: see encode_base."""
    return encode_base(pictures, scale, _fitting_crf(level, scale), EFFORT[preset], progress, prefilter)


def _crf(level: float, scale: Fraction) -> float:
    return round(4 * (level - _BELOW[scale])) / 4


def _fitting_crf(level: float, scale: Fraction) -> float:
    return min(max(_crf(level, scale), LOWEST_CRF), HIGHEST_CRF)


def _cost(pictures: Sequence[Picture], draft: Draft, level: float) -> float:
    width, height = pictures[0].width, pictures[0].height
    shown = (scaled(picture, width, height).y for picture in decode_draft(draft, width, height))
    errors = [float(np.square(p.y.astype(np.float32) - y).mean()) for p, y in zip(pictures, shown, strict=True)]
    bits_per_pixel = draft.bits / (len(pictures) * width * height)
    return _LEFT[draft.scale] * math.fsum(errors) / len(errors) + _slope(level) * bits_per_pixel


def _slope(level: float) -> float:
    levels, slopes = zip(*_SLOPES)
    return math.exp(np.interp(level, levels, np.log(slopes)))


def _level_of_step(step: int) -> float:
    crf, scale = unpack_step(step)
    return min(max(float(crf + _BELOW[scale]), FINEST), COARSEST)


Encode = Callable[[float, Fraction], Base]


class Allocation(Protocol):
    """Chooses the levels of groups."""

    def foresee(self, pictures: Sequence[Picture]) -> Fraction | None:
        """The scale of a group, if that can be known without those before it. May be called from several threads."""

    def code(self, pictures: Sequence[Picture], encode: Encode, scale: Fraction | None) -> Base:
        """Code the next group. encode: does it at a level and a scale; scale: what was foreseen."""


class OneLevel:
    """The same level for all groups. scale: of all of them; None for what is cheapest."""

    def __init__(self, level: float, scale: Fraction | None):
        self._level, self._scale = level, scale

    def foresee(self, pictures: Sequence[Picture]) -> Fraction:
        return self._scale or cheapest_scale(pictures, self._level)

    def code(self, pictures: Sequence[Picture], encode: Encode, scale: Fraction) -> Base:
        return encode(self._level, scale)


class TargetBits:
    """Steers towards a number of bits for a known number of frames: each group gets its share of what is left.

    A group is coded again, at most _TRIES times in all, until it takes what it may, or differs by what those after it
    can make up for. Where the first one begins is found in a hurry. bits, frames: left to spend and to code; pixels: of
    a frame; scale: of all groups, None for what is cheapest; step: the step byte of the frame before, if there is one.
    All that one group tells the next is in the file, so that an encoding that was interrupted goes on as if it had not
    been.
    """

    def __init__(self, bits: float, frames: int, pixels: int, scale: Fraction | None, step: int | None = None):
        self._bits, self._frames, self._scale, self._first = bits, frames, scale, step is None
        if step is not None:
            self._level = _level_of_step(step)
        else:
            usual = 50 - math.log(max(bits, _FEWEST) / max(1, frames) / pixels / _USUAL) / _DECAY
            self._level = min(max(usual, FINEST), COARSEST)

    def foresee(self, pictures: Sequence[Picture]) -> Fraction | None:
        return self._scale

    def code(self, pictures: Sequence[Picture], encode: Encode, scale: Fraction | None) -> Base:
        frames = len(pictures)
        target = max(self._bits * frames / max(frames, self._frames), _FEWEST)
        close = _MADE_UP if frames < self._frames else _CLOSE
        tries: dict[float, Base] = {}
        scales: dict[float, Fraction] = {}
        level = self._level
        if self._first:
            for _ in range(_GLANCES):
                scales[level], before = scale or cheapest_scale(pictures, level), level
                level = _level_at(level, _CARE * in_a_hurry(pictures, level, scales[level]).packed().bits / target)
                if abs(level - before) <= _NEAR:
                    break
        while len(tries) < _TRIES and level not in tries:
            known = [scales[seen] for seen in scales if abs(seen - level) <= _NEAR]
            scales[level] = scale or (known[-1] if known else cheapest_scale(pictures, level))
            tries[level] = encode(level, scales[level])
            if abs(tries[level].bits / target - 1) < close:
                break
            level = self._following(tries, target)
        base = min(tries.values(), key=lambda base: abs(math.log(base.bits / target)))
        self._level, self._first = _level_of_step(pack_step(base.crf, base.scale)), False
        self._bits -= base.bits
        self._frames -= frames
        return base

    @staticmethod
    def _following(tries: dict[float, Base], target: float) -> float:
        """Where log(bits) should meet the target: between the two tries around it, else along _DECAY."""
        over = [level for level in tries if tries[level].bits > target]
        under = [level for level in tries if tries[level].bits <= target]
        if over and under:
            low, high = max(over), min(under)
            gap, part = (math.log(tries[low].bits / b) for b in (tries[high].bits, target))
            level = low + (high - low) * min(max(part / gap, 0.05), 0.95) if gap > 0 else (low + high) / 2
        else:
            nearest = max(over) if over else min(under)
            return _level_at(nearest, tries[nearest].bits / target)
        return _rounded(level)


def _level_at(level: float, ratio: float) -> float:
    """Where a group should take what it may if at this level it takes `ratio` times as much."""
    return _rounded(level + math.log(ratio) / _DECAY)


def _rounded(level: float) -> float:
    return min(max(round(4 * level) / 4, FINEST), COARSEST)
