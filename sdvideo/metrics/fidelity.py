"""How close a picture is to its original: PSNR of the planes, SSIM and MS-SSIM of luma.

    everything, y, u, v = psnr(original, coded)
    ssim, ms_ssim = structure(original.y, coded.y)

SSIM and MS-SSIM are those of Wang et al. (2003, 2004): a Gaussian window of 11 pixels and σ 1.5, only where it lies
inside the picture; five scales, each the 2x2 means of the one before.
"""

from __future__ import annotations

import math
import operator

import cv2
import numpy as np

from sdvideo.frames import Picture

BEST = 100.0  # dB, for pictures that are equal
LEAST_SIDE = 176  # pixels MS-SSIM needs: its window at the coarsest of the five scales

_PEAK = 255.0
_C1, _C2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2
_SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # exponents of the scales, finest first
_WINDOW, _SIGMA = 11, 1.5


def psnr(original: Picture, coded: Picture) -> tuple[float, float, float, float]:
    """PSNR of all samples of Y, U and V together, then of each: dB, at most BEST."""
    pairs = ((original.y, coded.y), (original.u, coded.u), (original.v, coded.v))
    errors = [cv2.norm(a, b, cv2.NORM_L2SQR) / a.size for a, b in pairs]
    samples = [a.size for a, _ in pairs]
    everything = sum(map(operator.mul, errors, samples)) / sum(samples)
    return decibel(everything), *map(decibel, errors)


def decibel(squared_error: float) -> float:
    """A mean squared error of 8-bit samples as 10 log10(255² / error), at most BEST."""
    return BEST if squared_error <= 0 else min(BEST, 10 * math.log10(_PEAK**2 / squared_error))


def structure(original: np.ndarray, coded: np.ndarray) -> tuple[float, float]:
    """SSIM and MS-SSIM of two luma planes, uint8 [H, W]: at most 1, for equal ones.

    MS-SSIM is NaN where a side is under LEAST_SIDE pixels, SSIM where one is under 11.
    """
    x, y = original.astype(np.float32), coded.astype(np.float32)
    if min(x.shape) < _WINDOW:
        return math.nan, math.nan
    ssim, contrast = _similarity(x, y)
    if min(x.shape) < LEAST_SIDE:
        return ssim, math.nan
    product = max(contrast, 0.0) ** _SCALES[0]
    for scale, exponent in enumerate(_SCALES[1:], 2):
        x, y = _halved(x), _halved(y)
        whole, contrast = _similarity(x, y)
        product *= max(whole if scale == len(_SCALES) else contrast, 0.0) ** exponent
    return ssim, product


def _similarity(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Means of SSIM and of its contrast-and-structure part over float32 [H, W] planes."""
    mean_x, mean_y = _blurred(x), _blurred(y)
    product, squares = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
    covariance = _blurred(x * y) - product
    variances = _blurred(x * x + y * y) - squares
    contrast = (2 * covariance + _C2) / (variances + _C2)
    luminance = (2 * product + _C1) / (squares + _C1)
    return float(np.mean(luminance * contrast, dtype=np.float64)), float(np.mean(contrast, dtype=np.float64))


def _blurred(plane: np.ndarray) -> np.ndarray:
    margin = _WINDOW // 2
    return cv2.GaussianBlur(plane, (_WINDOW, _WINDOW), _SIGMA)[margin:-margin, margin:-margin]


def _halved(plane: np.ndarray) -> np.ndarray:
    height, width = plane.shape[0] // 2, plane.shape[1] // 2
    return cv2.resize(plane[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
