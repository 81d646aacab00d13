"""How close a picture is to its source: PSNR of Y, U and V, and SSIM and MS-SSIM of luma.

    all_planes, y, u, v = psnr(source, decoded)
    ssim, ms_ssim = structural_similarity(source.y, decoded.y)

SSIM and MS-SSIM are those of Wang et al. (2003, 2004): a Gaussian window of 11x11 pixels with σ 1.5, at all positions
where it lies inside the picture; for MS-SSIM five scales, each the 2x2 means of the finer one.
"""

from __future__ import annotations

import math
import operator
from array import array

import cv2
import numpy as np

from sdvideo.frames import Picture, StreamInfo
from sdvideo.motion.source_motion import SourceMotion

from .meter import Meter

MAX_DECIBEL = 100.0  # the PSNR of pictures that are equal
MIN_SIDE = 176  # pixels that MS-SSIM needs: its window at the coarsest of the five scales

_PEAK = 255.0
_C1, _C2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2
_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales of MS-SSIM, finest first
_WINDOW, _SIGMA = 11, 1.5


class FidelityMeter(Meter):
    """PSNR, SSIM and MS-SSIM of every frame."""

    def __init__(self, info: StreamInfo) -> None:
        self._columns = {name: array("d") for name in ("psnr", "psnr_y", "psnr_u", "psnr_v", "ssim", "ms_ssim")}

    def add(self, source: Picture, decoded: Picture, motion: SourceMotion | None = None) -> None:
        values = (*psnr(source, decoded), *structural_similarity(source.y, decoded.y))
        for column, value in zip(self._columns.values(), values, strict=True):
            column.append(value)

    def finish(self) -> dict[str, array[float]]:
        return self._columns


def psnr(source: Picture, decoded: Picture) -> tuple[float, float, float, float]:
    """PSNR of all samples of Y, U and V together, then of Y, U and V: dB, at most MAX_DECIBEL."""
    pairs = ((source.y, decoded.y), (source.u, decoded.u), (source.v, decoded.v))
    errors = [cv2.norm(a, b, cv2.NORM_L2SQR) / a.size for a, b in pairs]
    samples = [a.size for a, _ in pairs]
    all_planes = sum(map(operator.mul, errors, samples)) / sum(samples)
    y, u, v = map(decibel, errors)
    return decibel(all_planes), y, u, v


def decibel(squared_error: float) -> float:
    """The PSNR of a mean squared error of 8-bit samples, 10 log10(255² / error), at most MAX_DECIBEL."""
    return MAX_DECIBEL if squared_error <= 0 else min(MAX_DECIBEL, 10 * math.log10(_PEAK**2 / squared_error))


def structural_similarity(source: np.ndarray, decoded: np.ndarray) -> tuple[float, float]:
    """SSIM and MS-SSIM of two luma planes, uint8 [H, W]. Both are at most 1, which equal planes have.

    MS-SSIM is NaN if a side is below MIN_SIDE pixels, SSIM if one is below 11.
    """
    x, y = source.astype(np.float32), decoded.astype(np.float32)
    if min(x.shape) < _WINDOW:
        return math.nan, math.nan
    ssim, contrast = _similarity(x, y)
    if min(x.shape) < MIN_SIDE:
        return ssim, math.nan
    product = max(contrast, 0.0) ** _EXPONENTS[0]
    for scale, exponent in enumerate(_EXPONENTS[1:], 2):
        x, y = _half_size(x), _half_size(y)
        similarity, contrast = _similarity(x, y)
        # Luminance counts at the coarsest scale only.
        product *= max(similarity if scale == len(_EXPONENTS) else contrast, 0.0) ** exponent
    return ssim, product


def _similarity(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Means of SSIM, and of its contrast and structure terms alone, over float32 [H, W] planes."""
    mean_x, mean_y = _blurred(x), _blurred(y)
    product, squares = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
    covariance = _blurred(x * y) - product
    variances = _blurred(x * x + y * y) - squares
    contrast = (2 * covariance + _C2) / (variances + _C2)
    luminance = (2 * product + _C1) / (squares + _C1)
    return float(np.mean(luminance * contrast, dtype=np.float64)), float(np.mean(contrast, dtype=np.float64))


def _blurred(plane: np.ndarray) -> np.ndarray:
    """The weighted means of all windows inside a plane, [H - 10, W - 10]."""
    margin = _WINDOW // 2
    return cv2.GaussianBlur(plane, (_WINDOW, _WINDOW), _SIGMA)[margin:-margin, margin:-margin]


def _half_size(plane: np.ndarray) -> np.ndarray:
    """2x2 means; an odd last row or column is left out."""
    height, width = plane.shape[0] // 2, plane.shape[1] // 2
    return cv2.resize(plane[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
