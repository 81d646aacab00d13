"""Temporal stability of a decoded video: five measures of error that moves while the content does not.

x is the source, y the decoded video, e = y - x its error; all are luma on the 8-bit scale. F is the optical flow from
frame t to frame t - 1, and M the mask of the pixels that are visible in both frames. Both are computed once, on the
source, so a codec cannot hide its flicker. W is the backward warp along F, and

    d_t = e_t - W(e_{t-1})

is the new error: the part of e_t that is not the previous error, moved with the content. Warping is linear, so
d_t = (y_t - W(y_{t-1})) - (x_t - W(x_{t-1})). Errors of the flow occur in both brackets and cancel.

    MCF    10 log10(255² / mean_M d_t²), motion-compensated flicker PSNR; higher is steadier
    φ      mean_M d_t² / (mean_M e_t² + mean_M W(e_{t-1})²), the share of the error that flickers:
           0: fixed to the content; 1: new noise in every frame; 2: it alternates
    R_w    mean_M (y_t - W(y_{t-1}))² / mean_M (x_t - W(x_{t-1}))²: above 1 shimmer, below 1 smoothing
    ΔL     |mean e_t - mean e_{t-1}|, luminance pumping in grey levels
    KP     mean_M d_t² where groups start, divided by the same elsewhere, key-frame pop: 1 is invisible

    motion = source_motion(x_previous, x)
    print(flicker(motion, x_previous, x, y_previous, y).mcf)
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields

import cv2
import numpy as np

from sdvideo.frames import Picture, StreamInfo
from sdvideo.motion.optical_flow import sample
from sdvideo.motion.source_motion import SourceMotion

from .fidelity import decibel
from .meter import Meter


@dataclass(frozen=True, slots=True)
class Flicker:
    """The components of the measures, for one frame and the previous one.

    The first five are means over the visible pixels, in squared grey levels. new_error: d_t². error: e_t².
    previous_error: W(e_{t-1})². source_change: (x_t - W(x_{t-1}))². decoded_change: (y_t - W(y_{t-1}))².

    pump: ΔL, in grey levels. coverage: the share of the picture that is visible in both frames, 0..1.
    """

    new_error: float
    error: float
    previous_error: float
    source_change: float
    decoded_change: float
    pump: float
    coverage: float

    @property
    def mcf(self) -> float:
        """dB, at most 100."""
        return decibel(self.new_error)

    @property
    def phi(self) -> float:
        """0..2; 0 if there is no error."""
        both = self.error + self.previous_error
        return self.new_error / both if both else 0.0

    @property
    def r_w(self) -> float:
        """0 or more; NaN if the source does not change along the motion, but the decoded video does."""
        if not self.source_change:
            return math.nan if self.decoded_change else 1.0
        return self.decoded_change / self.source_change


class FlickerMeter(Meter):
    """MCF, φ, R_w, ΔL and coverage of every frame that has a previous one in its shot; for the whole video also KP.

    MCF, φ and R_w of the whole video come from the means of their components over all frames.
    """

    def __init__(self, info: StreamInfo) -> None:
        self._columns = {name: array("d") for name in ("mcf", "phi", "r_w", "delta_l", "coverage")}
        self._components = [array("d") for _ in fields(Flicker)]  # of the frames that could be measured
        self._previous: tuple[Picture, Picture] | None = None

    def add(self, source: Picture, decoded: Picture, motion: SourceMotion | None = None) -> None:
        found = None
        if motion is not None and self._previous is not None:
            found = flicker(motion, self._previous[0].y, source.y, self._previous[1].y, decoded.y)
        self._previous = source, decoded
        values = (math.nan,) * len(self._columns)
        if found is not None:
            values = (found.mcf, found.phi, found.r_w, found.pump, found.coverage)
            for column, value in zip(self._components, astuple(found), strict=True):
                column.append(value)
        for column, value in zip(self._columns.values(), values, strict=True):
            column.append(value)

    def finish(self) -> dict[str, array[float]]:
        return self._columns

    def clip(self, keys: Sequence[bool]) -> dict[str, float]:
        """MCF, φ and R_w, if a frame could be measured, and KP, which is NaN if it cannot be."""
        starts = [bool(key) for key, mcf in zip(keys, self._columns["mcf"], strict=True) if not math.isnan(mcf)]
        values = {"kp": key_frame_pop(self._components[0], starts)}
        if starts:
            mean = mean_flicker(Flicker(*row) for row in zip(*self._components))
            values |= {"mcf": mean.mcf, "phi": mean.phi, "r_w": mean.r_w}
        return values


def flicker(
    motion: SourceMotion, x_previous: np.ndarray, x: np.ndarray, y_previous: np.ndarray, y: np.ndarray
) -> Flicker | None:
    """Compare two consecutive frames of a decoded video, y, with those of its source, x: luma planes, uint8 [H, W].

    Returns None if no pixel is visible in both frames.
    """
    count = int(motion.visible.sum())
    if not count:
        return None
    source_change, decoded_change, error, previous_error = _changes(motion, x_previous, x, y_previous, y)

    def mean_square(plane: np.ndarray) -> float:
        return float(np.square(plane[motion.visible]).sum(dtype=np.float64)) / count

    previous_mean, mean = (cv2.mean(b)[0] - cv2.mean(a)[0] for a, b in ((x_previous, y_previous), (x, y)))
    return Flicker(
        new_error=mean_square(decoded_change - source_change),
        error=mean_square(error),
        previous_error=mean_square(previous_error),
        source_change=mean_square(source_change),
        decoded_change=mean_square(decoded_change),
        pump=abs(mean - previous_mean),
        coverage=count / motion.visible.size,
    )


def flicker_map(
    motion: SourceMotion, x_previous: np.ndarray, x: np.ndarray, y_previous: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """|d_t| of every pixel, float32 [H, W] in grey levels; NaN where it is not visible in both frames."""
    source_change, decoded_change, _, _ = _changes(motion, x_previous, x, y_previous, y)
    return np.where(motion.visible, np.abs(decoded_change - source_change), np.float32(np.nan))


def mean_flicker(flickers: Iterable[Flicker]) -> Flicker:
    """The means of all components, which give the measures of a clip. Raises ValueError if there are no frames."""
    rows = [astuple(found) for found in flickers]
    if not rows:
        raise ValueError("no frames to take means of")
    return Flicker(*np.mean(rows, axis=0).tolist())


def key_frame_pop(new_errors: Sequence[float], starts: Sequence[bool]) -> float:
    """KP of the mean d_t² of frames. starts: which of them start a group. NaN if there is nothing to compare."""
    at, elsewhere = ([e for e, s in zip(new_errors, starts, strict=True) if s is here] for here in (True, False))
    if not at or not elsewhere:
        return math.nan
    popping, usual = math.fsum(at) / len(at), math.fsum(elsewhere) / len(elsewhere)
    if not usual:
        return math.nan if popping else 1.0
    return popping / usual


def _changes(
    motion: SourceMotion, x_previous: np.ndarray, x: np.ndarray, y_previous: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x_t - W(x_{t-1}), the same of y, e_t and W(e_{t-1}): float32 [H, W] each."""
    x, y = x.astype(np.float32), y.astype(np.float32)
    both = cv2.merge((x_previous, y_previous)).astype(np.float32)
    x_warped, y_warped = cv2.split(sample(both, motion.positions))
    return x - x_warped, y - y_warped, y - x, y_warped - x_warped
