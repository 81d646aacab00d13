"""A hatch is told from noise, edges and the source's own pattern."""

import math
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "training" / "wide_restoration"))
from patterns import excess, octave_distance, periodicity, spectra, woven


def noise(seed: int) -> torch.Tensor:
    return 4 * torch.randn(1, 160, 160, generator=torch.Generator().manual_seed(seed))


def hatch(period: float) -> torch.Tensor:
    x = torch.arange(160) * (2 * math.pi / period)
    return 4 * (x[:, None].cos() * x.cos())[None] * math.sqrt(2)


def test_white_noise_has_its_variance_everywhere() -> None:
    assert abs(float(spectra(noise(1)).mean()) - 16) < 1.5


def test_hatch_stands_out_of_noise() -> None:
    assert excess(noise(1), noise(2)) < 0.1
    for period in (2, 3, 4, 5, 8, 11):
        assert excess(hatch(period), noise(2)) > 1
        assert excess(hatch(period), hatch(period)) < 0.05


def test_periodicity() -> None:
    edge = torch.zeros(1, 160, 160)
    edge[:, :, 70:74] = 8
    assert periodicity(noise(1))[0].mean() < 0.15
    assert periodicity(edge + 0.1 * noise(1))[0].mean() < 0.2
    for period in (2, 3, 4, 5, 8, 11):
        assert periodicity(hatch(period))[0].mean() > 0.5, period


def test_woven_counts_what_the_source_does_not_have() -> None:
    up = torch.full((1, 160, 160), 128.0)
    assert woven(up + hatch(4) + 0.3 * noise(1), up + noise(2), up)[2] > 0.9
    assert woven(up + hatch(4) + 0.3 * noise(1), up + hatch(4), up)[2] == 0
    assert woven(up + noise(1), up + noise(2), up)[2] == 0


def test_octaves() -> None:
    assert octave_distance(noise(1), noise(2)) < 0.05
    assert octave_distance(0.5 * noise(1), noise(2)) > 0.9
