"""Regular patterns in what was painted: a loss against them, and a measure of another kind that judges.

A small network that is rewarded for texture likes to weave: it fills lawns with a hatch that feature networks take for
grass. What was painted is the difference between the shown picture and the enlarged base; what should have been is the
difference between the source and the base.

The loss looks at spectra, averaged over a region, since chance evens out there and a pattern does not. The measure
looks at autocorrelation: a pattern comes back at some distance, and is unlike itself at half of it.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F

_BLOCK, _HOP = 32, 16  # samples, of the spectra
_POOLED = 3  # blocks to each side of a region
_FLOOR = 0.25  # squared levels; what is weaker is not seen
_EXCESS = 1.5  # times the energy of the source that pass
_OCTAVES = ((1 / 16, 1 / 8), (1 / 8, 1 / 4), (1 / 4, 1.0))  # cycles per sample
_TOLERANCE = 0.2  # nepers of energy in an octave that pass
_REGION, _STRIDE, _REACH = 64, 32, 16  # samples, of the measure
_SEEN = 0.25  # squared levels; regions with less painted do not count
_WOVEN = 0.3  # a region with more periodicity, and as much above the source's by _BEYOND, is woven
_BEYOND = 0.2


@cache
def _window() -> torch.Tensor:
    window = torch.hann_window(_BLOCK, periodic=False)
    window = window[:, None] * window
    return window / window.square().sum().sqrt()


def spectra(planes: torch.Tensor) -> torch.Tensor:
    """Power of [N, S, R] -> [N, regions, 32, 17]; white noise has its variance everywhere."""
    blocks = planes.unfold(1, _BLOCK, _HOP).unfold(2, _BLOCK, _HOP)
    blocks = (blocks - blocks.mean((-2, -1), keepdim=True)) * _window()
    power = torch.view_as_real(torch.fft.rfft2(blocks)).square().sum(-1)
    by_bin = power.flatten(3).permute(0, 3, 1, 2)
    pooled = F.avg_pool2d(by_bin, _POOLED, stride=2)
    return pooled.flatten(2).transpose(1, 2).unflatten(2, power.shape[-2:])


def excess(painted: torch.Tensor, missing: torch.Tensor) -> torch.Tensor:
    """How far the spectrum of what was painted stands out of that of what should have been, in nepers. [N, S, R] twice.

    Counted by the energy painted there: a pattern has all of its energy in a few peaks.
    """
    power, allowed = spectra(painted), spectra(missing)
    rows = F.pad(allowed, (0, 0, 1, 1), mode="circular")
    allowed = F.max_pool2d(F.pad(rows, (1, 1, 0, 0), mode="replicate"), 3, stride=1)
    over = ((power + _FLOOR) / (_EXCESS * allowed + _FLOOR)).log()
    share = (power / (power.sum((-2, -1), keepdim=True) + power[0, 0].numel() * _FLOOR)).detach()
    return (share * F.relu(over)).sum((-2, -1)).mean()


@cache
def _octave_masks() -> torch.Tensor:
    frequency = torch.hypot(torch.fft.fftfreq(_BLOCK)[:, None], torch.fft.rfftfreq(_BLOCK))
    return torch.stack([((low <= frequency) & (frequency < high)).float() for low, high in _OCTAVES])


def octave_energies(planes: torch.Tensor) -> torch.Tensor:
    """[N, S, R] -> logarithms of the mean power [N, regions, octaves]."""
    masks = _octave_masks()
    return (torch.einsum("nrhw,ohw->nro", spectra(planes), masks) / masks.sum((1, 2)) + _FLOOR).log()


def octave_distance(shown: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """How far the energy by octave is from the source's, in nepers, beyond what passes. [N, S, R] twice."""
    return F.relu((octave_energies(shown) - octave_energies(source)).abs() - _TOLERANCE).mean()


def periodicity(planes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each region of [N, S, R]: how much it repeats itself, 0..1, and its variance.

    That is the largest R(L) that is as much above R(L/2) at least: along an edge R is large, but has no valley.
    """
    regions = planes.unfold(1, _REGION, _STRIDE).unfold(2, _REGION, _STRIDE).flatten(0, 2)
    regions = regions - regions.mean((-2, -1), keepdim=True)
    size = 2 * _REGION
    products = torch.fft.irfft2(torch.fft.rfft2(regions, (size, size)).abs().square(), (size, size))
    overlap = _REGION - torch.arange(-_REACH, _REACH + 1).abs()
    lags = products.roll((_REACH, _REACH), (1, 2))[:, : 2 * _REACH + 1, : 2 * _REACH + 1]
    correlation = lags / (overlap[:, None] * overlap)
    variance = correlation[:, _REACH, _REACH]
    correlation = correlation / variance.clamp_min(1e-6)[:, None, None]
    near = slice(_REACH // 2, -(_REACH // 2))
    half_way = F.interpolate(
        correlation[:, None, near, near], correlation.shape[1:], mode="bilinear", align_corners=True
    )[:, 0]
    place = torch.arange(-_REACH, _REACH + 1)
    far = torch.hypot(place[:, None].float(), place.float())
    score = torch.minimum(correlation, correlation - half_way).where((far >= 2) & (far <= _REACH), 0)
    return score.amax((1, 2)).clamp(0, 1), variance


def woven(shown: torch.Tensor, source: torch.Tensor, up: torch.Tensor) -> tuple[float, float, float]:
    """Periodicity of what was painted, and of what should have been, and the share of regions that are woven.

    Means over the regions of [N, S, R] where something was painted.
    """
    painted, variance = periodicity(shown - up)
    missing, _ = periodicity(source - up)
    seen = variance > _SEEN
    if not seen.any():
        return 0.0, 0.0, 0.0
    painted, missing = painted[seen], missing[seen]
    is_woven = (painted > _WOVEN) & (painted > missing + _BEYOND)
    return float(painted.mean()), float(missing.mean()), float(is_woven.float().mean())
