"""How steady a coded video is: five measures of the error that moves when the picture's content does not.

x is the source, y the coded video, e = y - x its error, all luma on the 8-bit scale. F is the flow from frame t to
t - 1 and M the mask of what is visible in both; both are computed once, on the source, so that nothing the codec
does can hide what it does. W is the backward warp along F, and

    d_t = e_t - W(e_{t-1})

the part of the error that is new. Warping is linear, so d_t = (y_t - W(y_{t-1})) - (x_t - W(x_{t-1})): what the flow
gets wrong is wrong in both brackets and cancels.

    MCF    10 log10(255² / mean_M d_t²), motion-compensated flicker PSNR; higher is steadier
    φ      mean_M d_t² / (mean_M e_t² + mean_M W(e_{t-1})²), the share of the error that flickers:
           0 glued to the content, 1 new noise in every frame, 2 alternating
    R_w    mean_M (y_t - W(y_{t-1}))² / mean_M (x_t - W(x_{t-1}))²: above 1 shimmer, below 1 smoothing
    ΔL     |mean e_t - mean e_{t-1}|, luminance pump in grey levels
    KP     mean_M d_t² where groups start over that elsewhere, key-frame pop: 1 is invisible

    motion = source_motion(x_before, x_now)
    print(flicker(motion, x_before, x_now, y_before, y_now).mcf)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

import cv2
import numpy as np

from sdvideo.motion.optical_flow import sample
from sdvideo.motion.source_motion import SourceMotion

from .fidelity import decibel


@dataclass(frozen=True, slots=True)
class Flicker:
    """What two frames in a row tell, as means over the visible pixels: squared grey levels where nothing else is said.

    change: d_t²; error: e_t²; carried: W(e_{t-1})²; warp_source, warp_coded: (x_t - W(x_{t-1}))², and of y.
    pump: ΔL, in grey levels. coverage: share of the picture that is visible in both, 0..1.
    """

    change: float
    error: float
    carried: float
    warp_source: float
    warp_coded: float
    pump: float
    coverage: float

    @property
    def mcf(self) -> float:
        """dB, at most 100."""
        return decibel(self.change)

    @property
    def phi(self) -> float:
        """0..2; of no error at all 0."""
        whole = self.error + self.carried
        return self.change / whole if whole else 0.0

    @property
    def r_w(self) -> float:
        """From 0 up; NaN where the source does not change at all along the motion, but the coded video does."""
        if not self.warp_source:
            return math.nan if self.warp_coded else 1.0
        return self.warp_coded / self.warp_source


def flicker(
    motion: SourceMotion, x_before: np.ndarray, x_now: np.ndarray, y_before: np.ndarray, y_now: np.ndarray
) -> Flicker | None:
    """Compare two frames of a coded video with the same ones of its source, luma planes uint8 [H, W].

    None where nothing is visible in both frames.
    """
    count = int(motion.visible.sum())
    if not count:
        return None
    source, coded, error, carried = _along(motion, x_before, x_now, y_before, y_now)
    means = (
        float(np.square(plane[motion.visible]).sum(dtype=np.float64)) / count
        for plane in (coded - source, error, carried, source, coded)
    )
    (mean_before, mean_now) = (cv2.mean(y)[0] - cv2.mean(x)[0] for x, y in ((x_before, y_before), (x_now, y_now)))
    return Flicker(*means, pump=abs(mean_now - mean_before), coverage=count / motion.visible.size)


def flicker_map(
    motion: SourceMotion, x_before: np.ndarray, x_now: np.ndarray, y_before: np.ndarray, y_now: np.ndarray
) -> np.ndarray:
    """|d_t| of every pixel, float32 [H, W] in grey levels; NaN where it is not visible in both frames."""
    source, coded, _, _ = _along(motion, x_before, x_now, y_before, y_now)
    return np.where(motion.visible, np.abs(coded - source), np.float32(np.nan))


def whole(flickers: Iterable[Flicker]) -> Flicker:
    """The means over all frames, from which the measures of a clip follow. Raises ValueError if there are none."""
    rows = [astuple(found) for found in flickers]
    if not rows:
        raise ValueError("no frames to take means of")
    return Flicker(*np.mean(rows, axis=0).tolist())


def key_frame_pop(changes: Sequence[float], starts: Sequence[bool]) -> float:
    """KP of the mean d_t² of frames, given which of them start a group; NaN where there is nothing to compare."""
    at, elsewhere = ([c for c, s in zip(changes, starts, strict=True) if s is here] for here in (True, False))
    if not at or not elsewhere:
        return math.nan
    popping, usual = math.fsum(at) / len(at), math.fsum(elsewhere) / len(elsewhere)
    if not usual:
        return math.nan if popping else 1.0
    return popping / usual


def _along(motion: SourceMotion, x_before, x_now, y_before, y_now) -> tuple[np.ndarray, ...]:
    """float32 [H, W] each: x_t - W(x_{t-1}), the same of y, e_t and W(e_{t-1})."""
    x_now, y_now = x_now.astype(np.float32), y_now.astype(np.float32)
    both = cv2.merge((x_before, y_before)).astype(np.float32)
    x_was, y_was = cv2.split(sample(both, motion.positions))
    return x_now - x_was, y_now - y_was, y_now - x_now, y_was - x_was
