"""The autoencoder of Stable Diffusion's shape that comes with the package, on natural pictures."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

import sdvideo
from sdvideo import weights
from sdvideo.codecs.latent.model_loading import TINY
from sdvideo.frames import Frame
from sdvideo.media.output import open_sink
from sdvideo.media.scaling import scaled
from sdvideo.media.source import open_source
from sdvideo.metrics.fidelity import psnr, structural_similarity

SAMPLE = Path(__file__).parents[3] / "samples" / "walk.mp4"
PSNR_Y, MS_SSIM = 27.5, 0.94  # 0.4 dB and 0.006 below what it reaches


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """Six frames of the sample at half its size."""
    path = tmp_path_factory.mktemp("tiny") / "walk.y4m"
    with open_source(SAMPLE) as source:
        info = source.info
        half = {"width": info.width // 2, "height": info.height // 2}
        with open_sink(path, info.__class__(**half, time_base=info.time_base, rate=info.rate)) as sink:
            for frame in islice(source.frames(), 6):
                sink.write(Frame(frame.pts, frame.duration, scaled(frame.picture, *half.values())))
    return path


@pytest.fixture(scope="module")
def coded(clip, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "walk.sdv"
    sdvideo.encode(clip, path, model=TINY, quality=60, device="cpu")
    return path


def test_it_is_small_enough_for_the_package():
    assert sum(path.stat().st_size for path in weights.TINY.iterdir()) < 3_000_000


def test_pictures_look_like_their_source(clip, coded):
    """Retrained weights that are worse than this must not replace it."""
    with open_source(clip) as source, sdvideo.open(coded, device="cpu") as video:
        for before, after in zip(source.frames(), video, strict=True):
            assert psnr(before.picture, after.picture)[1] > PSNR_Y
            assert structural_similarity(before.picture.y, after.picture.y)[1] > MS_SSIM


def test_its_files_decode_without_naming_a_model(clip, coded, tmp_path):
    with sdvideo.open(coded, device="cpu") as video:
        assert video.latents().shape == (6, 4, 23, 40)
        assert 0.5 < video.latents().std() < 2
    assert sdvideo.verify(coded) == []
    sdvideo.decode(coded, tmp_path / "walk.mp4", device="cpu")
    report = sdvideo.report(clip, coded, device="cpu")
    assert report.info["distorted"]["model"]["name"] == TINY
