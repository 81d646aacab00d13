"""Rate control of base "av1": at which level and scale each group is coded.

The level is the one number that stands for quality. At each scale it means a CRF; CRF and λ of all scales move with it.
A group is coded at the scale that is cheapest in squared error + λ · bits, found by trial encodes at full size, two
thirds and half.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Protocol

import numpy as np

from sdvideo.container.header import SCALES
from sdvideo.frames import Picture
from sdvideo.media.scaling import scaled

from .base_layer import PRESETS, TRIAL_PRESET, Filter, decode_base, encode_base, retry_undecodable
from .bitstream import HIGHEST_CRF, LOWEST_CRF, EncodedGroup, PackedGroup, unpack_step
from .svt_process import Progress, no_progress

FINEST, COARSEST = 20.0, 80.0  # levels

# Frames of a group that a trial encode sees. On five clips of 90 to 120 frames, at four levels, the first 32 chose as
# all did.
_TRIAL_FRAMES = 64

# The CRF at each scale is the level minus this. Like the slopes it comes from 14 shots of the training set: where
# d(error)/d(bits) of the scales are equal.
_CRF_BELOW_LEVEL = {SCALES[0]: 0, SCALES[1]: 6, SCALES[2]: 11}
# λ: squared error of luma that a bit per pixel is worth, by level; below 34 extrapolated from 34 to 50.
_SLOPES = ((20, 15), (34, 65), (42, 150), (50, 350), (58, 1200), (65, 3200), (71, 8000), (80, 32000))
# What restoration leaves of the squared error that Lanczos would have: means over CRF 40 and 55 on held-back shots. At
# full size 5 % less than measured, as much as the trial preset costs more there.
_LEFT_BY_RESTORATION = {SCALES[0]: 0.92, SCALES[1]: 0.88, SCALES[2]: 0.85}

# Constants of TargetSize.
_TRIES, _TOLERANCE, _MIN_BITS = 5, 0.01, 64.0
_MADE_UP_LATER = 0.03  # of a group's share: so much the following groups can make up for
_FIRST_TRIALS = 3  # trial encodes that find where the first group begins
_CAREFUL_TO_TRIAL = 0.85  # bits of a careful encode over those of a trial encode, about
_SAME_SCALE = 4.0  # levels within which the scale of a group is taken to stay the same
_USUAL_BITS, _DECAY = 0.035, 0.065  # of natural video: bits per pixel at level 50, and -d(log bits)/d(level)


def level_of(quality: float) -> float:
    """Quality 0..100 -> level: 76 at 0, 20 at 100."""
    return 76 - 0.56 * quality


def cheapest_scale(pictures: Sequence[Picture], level: float) -> Fraction:
    """The scale that suits a closed group, judged by the frames in its middle. level: FINEST to COARSEST."""
    first = max(0, (len(pictures) - _TRIAL_FRAMES) // 2)
    part = pictures[first : first + _TRIAL_FRAMES]
    fitting = [scale for scale in SCALES if LOWEST_CRF <= _crf(level, scale) <= HIGHEST_CRF]

    def cost(scale: Fraction) -> float:
        return retry_undecodable(lambda: _cost(part, trial_encode(part, level, scale), level))

    return min(fitting, key=cost)


def trial_encode(pictures: Sequence[Picture], level: float, scale: Fraction) -> EncodedGroup:
    """One closed group at SVT-AV1's fastest useful preset. level: FINEST to COARSEST."""
    return encode_base(pictures, scale, _clamped_crf(level, scale), TRIAL_PRESET)


def encode_at_level(
    pictures: Sequence[Picture],
    level: float,
    preset: str,
    scale: Fraction,
    progress: Progress = no_progress,
    prefilter: Filter | None = None,
) -> EncodedGroup:
    """One closed group. level: FINEST to COARSEST; preset: a key of PRESETS; prefilter: see encode_base."""
    return encode_base(pictures, scale, _clamped_crf(level, scale), PRESETS[preset], progress, prefilter)


def _crf(level: float, scale: Fraction) -> float:
    return round(4 * (level - _CRF_BELOW_LEVEL[scale])) / 4


def _clamped_crf(level: float, scale: Fraction) -> float:
    return min(max(_crf(level, scale), LOWEST_CRF), HIGHEST_CRF)


def _level_of_step(step: int) -> float:
    crf, scale = unpack_step(step)
    return _clamped_level(crf + _CRF_BELOW_LEVEL[scale])


def _cost(pictures: Sequence[Picture], group: EncodedGroup, level: float) -> float:
    """Squared error + λ · bits per pixel of a trial encode, as it will be after restoration."""
    width, height = pictures[0].width, pictures[0].height
    decoded = (scaled(picture, width, height).y for picture in decode_base(group, width, height))
    errors = [float(np.square(p.y.astype(np.float32) - y).mean()) for p, y in zip(pictures, decoded, strict=True)]
    bits_per_pixel = group.bits / (len(pictures) * width * height)
    return _LEFT_BY_RESTORATION[group.scale] * math.fsum(errors) / len(errors) + _slope(level) * bits_per_pixel


def _slope(level: float) -> float:
    levels, slopes = zip(*_SLOPES)
    return math.exp(np.interp(level, levels, np.log(slopes)))


Encode = Callable[[float, Fraction], PackedGroup]  # codes the group in hand at a level and a scale


class RateControl(Protocol):
    """Chooses level and scale of groups. Plain, picklable data: it travels with the group that is coded."""

    def scale_ahead(self, pictures: Sequence[Picture]) -> Fraction | None:
        """The scale of a group, if it can be known before the groups before it are coded."""

    def code(
        self, pictures: Sequence[Picture], encode: Encode, scale: Fraction | None
    ) -> tuple[PackedGroup, RateControl]:
        """Code the next group. Returns it and the rate control for the group after it. scale: see scale_ahead."""


@dataclass(frozen=True, slots=True)
class ConstantQuality:
    """The same level for all groups. scale: of all groups, None for the cheapest of each."""

    level: float
    scale: Fraction | None

    def scale_ahead(self, pictures: Sequence[Picture]) -> Fraction:
        return self.scale or cheapest_scale(pictures, self.level)

    def code(
        self, pictures: Sequence[Picture], encode: Encode, scale: Fraction | None
    ) -> tuple[PackedGroup, ConstantQuality]:
        return encode(self.level, scale or self.scale_ahead(pictures)), self


@dataclass(frozen=True, slots=True)
class TargetSize:
    """Steers towards a number of bits: each group gets its share of what is left.

    A group is coded again, at most _TRIES times in all, until it takes its share, or misses it by as much as the
    following groups can make up for. Trial encodes find where the first group begins.

    bits, frames: left to spend and to code. scale: of all groups, None for the cheapest of each. level: where the next
    group begins. first: whether no group was coded yet. All of it follows from the groups in the file, so that an
    encoding that was interrupted goes on as if it had not been.
    """

    bits: float
    frames: int
    scale: Fraction | None
    level: float
    first: bool

    @classmethod
    def start(cls, bits: float, frames: int, pixels: int, scale: Fraction | None, step: int | None) -> TargetSize:
        """pixels: of a frame. step: the step byte of the last frame that was coded, None if there is none."""
        if step is not None:
            return cls(bits, frames, scale, _level_of_step(step), False)
        usual = 50 - math.log(max(bits, _MIN_BITS) / max(1, frames) / pixels / _USUAL_BITS) / _DECAY
        return cls(bits, frames, scale, _clamped_level(usual), True)

    def scale_ahead(self, pictures: Sequence[Picture]) -> Fraction | None:
        return self.scale

    def code(
        self, pictures: Sequence[Picture], encode: Encode, scale: Fraction | None
    ) -> tuple[PackedGroup, TargetSize]:
        frames = len(pictures)
        target = max(self.bits * frames / max(frames, self.frames), _MIN_BITS)
        tolerance = _MADE_UP_LATER if frames < self.frames else _TOLERANCE
        tries: dict[float, PackedGroup] = {}
        scales: dict[float, Fraction] = {}
        level = self.level
        if self.first:
            for _ in range(_FIRST_TRIALS):
                scales[level], before = scale or cheapest_scale(pictures, level), level
                trial = trial_encode(pictures, level, scales[level]).packed()
                level = _level_at(level, _CAREFUL_TO_TRIAL * trial.bits / target)
                if abs(level - before) <= _SAME_SCALE:
                    break
        while len(tries) < _TRIES and level not in tries:
            known = [scales[tried] for tried in scales if abs(tried - level) <= _SAME_SCALE]
            scales[level] = scale or (known[-1] if known else cheapest_scale(pictures, level))
            tries[level] = encode(level, scales[level])
            if abs(tries[level].bits / target - 1) < tolerance:
                break
            level = _next_level(tries, target)
        group = min(tries.values(), key=lambda group: abs(math.log(group.bits / target)))
        following = _clamped_level(round(group.crf) + _CRF_BELOW_LEVEL[group.scale])
        left = replace(self, bits=self.bits - group.bits, frames=self.frames - frames, level=following, first=False)
        return group, left


def _next_level(tries: dict[float, PackedGroup], target: float) -> float:
    """Where log(bits) should meet the target: interpolated between the tries around it, else along _DECAY."""
    over = [level for level in tries if tries[level].bits > target]
    under = [level for level in tries if tries[level].bits <= target]
    if not (over and under):
        nearest = max(over) if over else min(under)
        return _level_at(nearest, tries[nearest].bits / target)
    low, high = max(over), min(under)
    gap, part = (math.log(tries[low].bits / b) for b in (tries[high].bits, target))
    level = low + (high - low) * min(max(part / gap, 0.05), 0.95) if gap > 0 else (low + high) / 2
    return _rounded(level)


def _level_at(level: float, ratio: float) -> float:
    """Where a group should take its share, if at this level it takes `ratio` times as much."""
    return _rounded(level + math.log(ratio) / _DECAY)


def _rounded(level: float) -> float:
    return _clamped_level(round(4 * level) / 4)


def _clamped_level(level: float) -> float:
    return min(max(float(level), FINEST), COARSEST)
