"""Screens and text are detected as screen content, and take far fewer bits with the tools for it."""

from __future__ import annotations

import string
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from sdvideo.codecs.av1 import base_layer
from sdvideo.codecs.av1 import svt_process as svt
from sdvideo.codecs.av1.base_layer import PRESETS, TRIAL_PRESET, decode_base, encode_base
from sdvideo.codecs.av1.screen_content import is_screen_content, share_near_extremes
from sdvideo.container.header import SCALES
from sdvideo.frames import Picture
from sdvideo.media.source import open_source
from sdvideo.metrics.fidelity import psnr

SAMPLE = Path(__file__).parents[3] / "samples" / "walk.mp4"


def grey_picture(luma: np.ndarray) -> Picture:
    grey = np.full([(side + 1) // 2 for side in luma.shape], 128, np.uint8)
    return Picture(np.ascontiguousarray(luma), grey, grey)


def text(width: int = 320, height: int = 192, ink: int = 30, paper: int = 230) -> np.ndarray:
    rng = np.random.default_rng(0)
    luma = np.full((height, width), paper, np.uint8)
    for bottom in range(20, height, 18):
        line = "".join(rng.choice(list(string.ascii_lowercase + "    "), width // 9))
        cv2.putText(luma, line, (6, bottom), cv2.FONT_HERSHEY_SIMPLEX, 0.45, ink, 1, cv2.LINE_AA)
    return luma


def scrolling(count: int, **size: int) -> list[Picture]:
    return [grey_picture(np.roll(text(**size), -3 * number, 0)) for number in range(count)]


@pytest.mark.parametrize(("ink", "paper"), [(30, 230), (220, 20), (20, 140)])
def test_text_with_soft_edges_is_screen_content(ink: int, paper: int) -> None:
    assert is_screen_content([grey_picture(text(ink=ink, paper=paper))])
    jpeg = cv2.imencode(".jpg", text(ink=ink, paper=paper), [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
    assert is_screen_content([grey_picture(cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE))])


def test_camera_footage_is_not_screen_content() -> None:
    with open_source(SAMPLE) as video:
        assert not is_screen_content([frame.picture for frame in islice(video.frames(), 24)])


def test_pictures_with_few_edges_are_not_screen_content() -> None:
    flat = np.full((192, 320), 90, np.uint8)
    assert share_near_extremes(flat) == 0
    flat[80:88, 80:88] = text()[:8, :8]
    flat[84, 84] = 255  # one block of 960
    assert share_near_extremes(flat) == 0
    assert (
        share_near_extremes(np.tile(np.arange(256, dtype=np.uint8), (64, 1))) == 0
    )  # a ramp: no block spans 48 levels


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 7), (8, 8)])
def test_small_pictures_can_be_examined(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, size, np.uint8)
    assert 0 <= share_near_extremes(noise) < 0.5


@pytest.mark.parametrize("preset", ["fast", "balanced"])
def test_screen_content_takes_fewer_bits_for_a_better_picture(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = scrolling(8, width=560, height=320)

    def bits_and_psnr() -> tuple[int, float]:
        group = encode_base(pictures, SCALES[0], 40, PRESETS[preset])
        shown = decode_base(group, pictures[0].width, pictures[0].height)
        return group.bits, float(np.mean([psnr(a, b)[1] for a, b in zip(pictures, shown, strict=True)]))

    bits, quality = bits_and_psnr()
    monkeypatch.setattr(base_layer, "is_screen_content", lambda pictures: False)
    usual_bits, usual_quality = bits_and_psnr()
    assert bits < 0.75 * usual_bits
    assert quality > usual_quality


@pytest.mark.parametrize(
    ("width", "height", "preset", "used", "has_tools"),
    [
        (320, 192, PRESETS["best"], PRESETS["best"], True),
        (320, 192, PRESETS["fast"], PRESETS["fast"] + 1, True),  # with the tools it takes a third of the time of "fast"
        (320, 192, TRIAL_PRESET, TRIAL_PRESET, False),
        (2560, 1440, PRESETS["balanced"], PRESETS["balanced"], False),  # searching for copies would take minutes
        (2560, 1440, PRESETS["fast"], PRESETS["fast"], False),
    ],
)
def test_the_tools_are_used_where_there_is_time_for_them(
    width: int, height: int, preset: int, used: int, has_tools: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    def encode(pictures, options, progress):
        seen.update(options)
        return dict.fromkeys(range(len(pictures)), b"\x12\x00\x32\x00")

    monkeypatch.setattr(svt, "encode", encode)
    encode_base([grey_picture(text(width, height))], SCALES[0], 40, preset)
    assert seen["preset"] == str(used)
    assert ("scm=1" in seen["svtav1-params"]) == has_tools
