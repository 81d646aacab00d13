"""The network before AV1 bases: presets balanced and best use it, and nobody who decodes has to know."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from sdvideo.base import decode_base, encode_base
from sdvideo.demux import open_source
from sdvideo.fidelity import structure
from sdvideo.models import load_prefilter, load_restorer
from sdvideo.picture import Frame, Picture
from sdvideo.restore import Canvas

SAMPLE = Path(__file__).parents[1] / "samples" / "walk.mp4"


@pytest.fixture(scope="module")
def walk() -> list[Picture]:
    with open_source(SAMPLE) as video:
        return [frame.picture for frame in islice(video.frames(), 24)]


@pytest.mark.parametrize(("width", "height"), [(64, 64), (66, 70), (1, 3), (213, 120)])
def test_a_picture_keeps_its_size_and_its_colours(width: int, height: int) -> None:
    rng = np.random.default_rng(1)
    half = (height + 1) // 2, (width + 1) // 2
    picture = Picture(*(rng.integers(0, 256, size, np.uint8) for size in ((height, width), half, half)))
    readied = load_prefilter(device="cpu")(picture, 40, Fraction(1))
    assert readied.y.dtype == np.uint8 and readied.y.shape == (height, width)
    assert readied.u is picture.u and readied.v is picture.v


def test_a_flat_picture_stays_flat(walk: list[Picture]) -> None:
    """What has no detail has none to make clearer."""
    grey = Picture(np.full_like(walk[0].y, 120), walk[0].u, walk[0].v)
    readied = load_prefilter(device="cpu")(grey, 45, Fraction(1)).y.astype(int)
    assert np.abs(readied - 120).max() <= 2


def measured(pictures: list[Picture], crf: int, scale: Fraction, prefilter) -> tuple[float, float]:
    """Log of the bits, and MS-SSIM in decibels of what is shown."""
    base = encode_base(pictures, scale, crf, 6, prefilter=prefilter)
    size = pictures[0].width, pictures[0].height
    canvas, alike = Canvas(load_restorer(device="cpu"), *size), []
    for number, picture in enumerate(
        decode_base(base.coded([Frame(i, 1, picture) for i, picture in enumerate(pictures)]), *size)
    ):
        shown = canvas.paint(canvas.trace(picture, number == 0), crf)
        alike.append(structure(pictures[number].y, shown.y)[1])
    return np.log(base.bits), -10 * np.log10(1 - np.mean(alike))


@pytest.mark.parametrize("scale", [Fraction(1), Fraction(2, 3)])
def test_the_shipped_weights_are_worth_having(walk: list[Picture], scale: Fraction) -> None:
    """Fewer bits at equal MS-SSIM, read off the line between two points without it: bad weights cannot land."""
    fine, coarse = (measured(walk, crf, scale, None) for crf in (38, 50))
    bits, found = measured(walk, 44, scale, load_prefilter(device="cpu"))
    wanted = np.interp(found, (coarse[1], fine[1]), (coarse[0], fine[0]))
    assert coarse[1] < found < fine[1]
    assert bits < wanted - 0.01


def test_a_fast_encode_does_without_torch(tmp_path: Path) -> None:
    for preset, loaded in (("fast", "False"), ("balanced", "True")):
        call = f"sdvideo.encode({str(SAMPLE)!r}, {str(tmp_path / preset)!r}, preset={preset!r}, quality=5)"
        script = f"import sys, sdvideo; {call}; print('torch' in sys.modules)"
        said = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
        assert said.stdout.strip() == loaded
