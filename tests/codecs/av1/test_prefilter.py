"""The prefilter of base av1, which presets balanced and best use, and of which decoders know nothing."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from fractions import Fraction
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import needs

from sdvideo.codecs.av1.base_layer import PRESETS, Filter, decode_base, encode_base
from sdvideo.codecs.av1.prefilter import Prefilter
from sdvideo.frames import Picture
from sdvideo.media.source import open_source
from sdvideo.metrics.fidelity import psnr, structural_similarity
from sdvideo.restoration.engine import conditioning
from sdvideo.restoration.loading import load_restorer
from sdvideo.restoration.restorer import FrameRestorer
from sdvideo.weights import PREFILTER

SAMPLE = Path(__file__).parents[3] / "samples" / "walk.mp4"
FULL = Fraction(1)


@pytest.fixture(scope="module")
def walk() -> list[Picture]:
    with open_source(SAMPLE) as video:
        return [frame.picture for frame in islice(video.frames(), 24)]


@pytest.mark.parametrize(("width", "height"), [(64, 64), (66, 70), (1, 3), (213, 120)])
def test_a_picture_keeps_its_size_and_its_chroma(width: int, height: int) -> None:
    rng = np.random.default_rng(1)
    half = (height + 1) // 2, (width + 1) // 2
    picture = Picture(*(rng.integers(0, 256, size, np.uint8) for size in ((height, width), half, half)))
    (filtered,) = Prefilter(PREFILTER, "cpu")([picture], 63, FULL)
    assert filtered.y.dtype == np.uint8 and filtered.y.shape == (height, width)
    assert filtered.u is picture.u and filtered.v is picture.v


def test_a_flat_picture_stays_flat(walk: list[Picture]) -> None:
    """Without detail there is nothing to sharpen."""
    grey = Picture(np.full_like(walk[0].y, 120), walk[0].u, walk[0].v)
    (filtered,) = Prefilter(PREFILTER, "cpu")([grey], 45, FULL)
    assert np.abs(filtered.y.astype(int) - 120).max() <= 2


def measured(pictures: list[Picture], crf: int, prefilter: Filter | None) -> tuple[float, float]:
    """The logarithm of the bits, and the MS-SSIM of the restored pictures in decibels."""
    base = encode_base(pictures, FULL, crf, PRESETS["fast"], prefilter=prefilter)
    size = pictures[0].width, pictures[0].height
    restorer, ms_ssim = FrameRestorer(load_restorer(device="cpu"), *size), []
    for number, (picture, decoded) in enumerate(zip(pictures, decode_base(base, *size), strict=True)):
        shown = restorer.restore(restorer.prepare(decoded, number == 0), crf)
        ms_ssim.append(structural_similarity(picture.y, shown.y)[1])
    return math.log(base.bits), -10 * math.log10(1 - np.mean(ms_ssim))


def test_the_shipped_weights_save_bits(walk: list[Picture]) -> None:
    """Fewer bits at equal MS-SSIM than without the prefilter, so that bad weights fail this test.

    A difference in MS-SSIM is converted to bits by the slope between the CRFs around it.
    """
    fine, plain, coarse = (measured(walk, crf, None) for crf in (54, 58, 62))
    bits, quality = measured(walk, 58, Prefilter(PREFILTER, "cpu"))
    per_bit = (fine[1] - coarse[1]) / (fine[0] - coarse[0])
    assert bits - plain[0] < (quality - plain[1]) / per_bit - 0.01
    # and the picture changes little
    (filtered,) = Prefilter(PREFILTER, "cpu")([walk[0]], 58, FULL)
    assert 44 < psnr(walk[0], filtered)[1] < 60


def test_rendered_text_stays_unchanged() -> None:
    """The network was not trained on such pictures, and would change them much and make them worse."""
    page = np.full((240, 320), 235, np.uint8)
    for line in range(12):
        cv2.putText(page, "The quick brown fox 0123456789", (4, 18 + 19 * line), cv2.FONT_HERSHEY_PLAIN, 0.9, 16)
    half = np.full((120, 160), 128, np.uint8)
    picture = Picture(page, half, half)
    for crf in (42, 56):
        (filtered,) = Prefilter(PREFILTER, "cpu")([picture], crf, FULL)
        assert filtered is picture


def test_encoding_imports_torch_only_where_it_runs_the_prefilter(tmp_path: Path) -> None:
    openvino = importlib.util.find_spec("openvino") is not None
    for preset, loaded in (("fast", False), ("balanced", not openvino)):
        call = (
            f"sdvideo.encode({str(SAMPLE)!r}, {str(tmp_path / preset)!r}, preset={preset!r}, quality=5, device='cpu')"
        )
        script = f"import sys, sdvideo; {call}; print('torch' in sys.modules)"
        said = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
        assert said.stdout.strip() == str(loaded)


def test_engines_agree() -> None:
    needs("openvino")
    from sdvideo.codecs.av1.prefilter_network import TorchPrefilter
    from sdvideo.codecs.av1.prefilter_openvino import OpenvinoPrefilter

    rng = np.random.default_rng(2)
    smooth = cv2.GaussianBlur(rng.integers(0, 256, (30, 44, 16)).astype(np.float32), (0, 0), 1.5)
    luma, setting = smooth.astype(np.uint8), conditioning(50, 2 / 3)
    ours, theirs = (
        OpenvinoPrefilter(PREFILTER).change(luma, setting),
        TorchPrefilter(PREFILTER, "cpu").change(luma, setting),
    )
    assert np.abs(theirs).max() > 0.5  # the network does something
    assert np.abs(ours - theirs).max() < 0.25
