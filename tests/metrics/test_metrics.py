"""The measures by themselves: their definitions, published implementations of the same, and ffmpeg's scores."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import needs, synthesise

from sdvideo.errors import SdvError
from sdvideo.frames import Picture, StreamInfo
from sdvideo.metrics.fidelity import MIN_SIDE, psnr, structural_similarity
from sdvideo.metrics.flicker import flicker, key_frame_pop
from sdvideo.metrics.vmaf import VmafMeter, find_ffmpeg
from sdvideo.motion.source_motion import source_motion

BENCHMARKS = Path(__file__).parents[2] / "scripts" / "benchmarks"

needs_ffmpeg = pytest.mark.skipif(find_ffmpeg() is None, reason="imageio-ffmpeg is not installed")


# --- fidelity -----------------------------------------------------------------------------------------------


def test_psnr_follows_its_definition():
    rng = np.random.default_rng(0)
    one, other = (Picture(*(rng.integers(0, 256, s, np.uint8) for s in ((7, 9), (4, 5), (4, 5)))) for _ in range(2))
    errors = [np.square(a.astype(float) - b) for a, b in ((one.y, other.y), (one.u, other.u), (one.v, other.v))]
    all_planes = np.concatenate([error.ravel() for error in errors])
    wanted = [10 * np.log10(255**2 / error.mean()) for error in (all_planes, *errors)]
    assert psnr(one, other) == pytest.approx(wanted)
    assert psnr(one, one) == (100, 100, 100, 100)


def test_ssim_of_flat_pictures_is_its_luminance_term():
    one, other = np.full((200, 200), 100, np.uint8), np.full((200, 200), 120, np.uint8)
    luminance = (2 * 100 * 120 + 6.5025) / (100**2 + 120**2 + 6.5025)
    ssim, ms_ssim = structural_similarity(one, other)
    assert ssim == pytest.approx(luminance, rel=1e-5)
    assert ms_ssim == pytest.approx(luminance**0.1333, rel=1e-5)


def test_structural_similarity_of_small_pictures():
    plane = np.arange(200 * (MIN_SIDE - 1), dtype=np.uint32).reshape(200, -1).astype(np.uint8)
    ssim, ms_ssim = structural_similarity(plane, plane)
    assert ssim == pytest.approx(1) and math.isnan(ms_ssim)
    assert all(map(math.isnan, structural_similarity(plane[:8], plane[:8])))


@pytest.mark.parametrize("damage", ["blur", "noise", "negative"])
def test_ssim_and_ms_ssim_agree_with_a_published_implementation(damage: str):
    """Sides are multiples of 16: at odd sizes the other one pads with zeros, where ours leaves out a row."""
    needs("pytorch_msssim")
    import pytorch_msssim
    import torch

    luma = synthesise(320, 208, 1)[0][0]
    noise = np.random.default_rng(3).normal(0, 12, luma.shape)
    damaged = {
        "blur": cv2.GaussianBlur(luma, (0, 0), 2.5),
        "noise": np.clip(luma + noise, 0, 255).astype(np.uint8),
        "negative": 255 - luma,  # its structure term is below zero, which MS-SSIM counts as zero
    }[damage]
    tensors = [torch.from_numpy(plane.astype(np.float32))[None, None] for plane in (luma, damaged)]
    wanted = [float(measure(*tensors)) for measure in (pytorch_msssim.ssim, pytorch_msssim.ms_ssim)]
    assert structural_similarity(luma, damaged) == pytest.approx(wanted, abs=1e-5)
    assert wanted[0] < 0.95


# --- flicker ------------------------------------------------------------------------------------------------


def test_flicker_is_measured_along_the_motion():
    """An error that moves with the content is no flicker; one that stays on the screen is."""
    pictures = [planes[0] for planes in synthesise(160, 96, 2, speed=6.0)]
    motion = source_motion(*pictures)
    assert not motion.cut
    visible = motion.visible.mean()
    assert visible > 0.7
    dirt = np.zeros_like(pictures[0])
    dirt[40:50, 60:80] = 40
    moved = np.roll(dirt, (-2, -6), (0, 1))  # content of `synthesise` moves up by a third of its speed, and left by all
    stuck, following = (
        flicker(motion, *pictures, pictures[0] + dirt, pictures[1] + current) for current in (dirt, moved)
    )
    assert following.coverage == pytest.approx(visible)
    assert following.new_error < 0.25 * stuck.new_error
    assert following.phi < 0.2 < stuck.phi


@pytest.mark.parametrize("size", [(16, 16), (9, 33), (64, 48)])
def test_motion_of_small_pictures(size):
    planes = [np.random.default_rng(1).integers(0, 256, size, np.uint8)] * 2
    motion = source_motion(*planes)
    assert motion.positions.shape[:2] == motion.visible.shape == size
    assert motion.visible.mean() > 0.9


def test_key_frame_pop_with_nothing_to_compare():
    assert math.isnan(key_frame_pop([1.0, 2.0], [False, False]))
    assert math.isnan(key_frame_pop([1.0, 0.0], [True, False]))
    assert key_frame_pop([0.0, 0.0], [True, False]) == 1
    assert key_frame_pop([6.0, 1.0, 3.0], [True, False, False]) == 3


# --- ffmpeg -------------------------------------------------------------------------------------------------


@needs_ffmpeg
def test_ffmpeg_compares_frames_of_the_same_number():
    """One bad frame has the lowest scores."""
    pictures = [Picture(*planes) for planes in synthesise(97, 65, 12)]
    info = StreamInfo(97, 65, Fraction(1, 25), rate=Fraction(25))
    with VmafMeter(info) as meter:
        for number, picture in enumerate(pictures):
            blurred = replace(picture, y=cv2.GaussianBlur(picture.y, (0, 0), 2))
            meter.add(picture, blurred if number == 7 else picture)
        scores = meter.finish()
    for name, values in scores.items():
        assert len(values) == 12 and int(np.argmin(values)) == 7, name


@needs_ffmpeg
def test_a_failing_ffmpeg_raises_sdverror():
    planes = np.zeros((64, 64), np.uint8), *[np.full((32, 32), 128, np.uint8)] * 2
    with VmafMeter(StreamInfo(64, 64, Fraction(1, 25))) as meter, pytest.raises(SdvError, match="ffmpeg"):
        meter._process.kill()
        for _ in range(100):
            meter.add(Picture(*planes), Picture(*planes))
        meter.finish()


def test_without_ffmpeg_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr("sdvideo.metrics.vmaf.find_ffmpeg", lambda: None)
    with pytest.raises(SdvError, match=r"pip install"):
        VmafMeter(StreamInfo(64, 64, Fraction(1, 25)))


# --- rate-distortion curves ---------------------------------------------------------------------------------


def test_bd_rate_agrees_with_a_published_implementation(monkeypatch):
    """Ours is a mean of 400 samples, the other one an integral: they differ by up to 0.2 % of the bits."""
    needs("scipy")
    needs("bjontegaard")
    import bjontegaard

    monkeypatch.syspath_prepend(BENCHMARKS)
    curves = importlib.import_module("curves")
    rng = np.random.default_rng(4)
    for _ in range(20):
        ladders = []
        for _ in range(2):
            rates = 0.02 * np.cumprod(rng.uniform(1.3, 2.2, rng.integers(4, 7)))
            ladders.append((rates, 28 + np.cumsum(rng.uniform(0.8, 3.0, len(rates)))))
        ours, theirs = (list(zip(*ladder)) for ladder in ladders)
        (our_rates, our_values), (their_rates, their_values) = ladders
        wanted = bjontegaard.bd_rate(
            their_rates,
            their_values,
            our_rates,
            our_values,
            method="pchip",
            require_matching_points=False,
            min_overlap=0,
        )
        assert curves.bits_ratio(ours, theirs, least=0.5) == pytest.approx(1 + wanted / 100, rel=0.003)
