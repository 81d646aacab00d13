"""Screens and text are told from what a camera sees, and take far fewer bits for it."""

from __future__ import annotations

import string
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from sdvideo.codecs.av1 import bitstream as base
from sdvideo.codecs.av1 import svt_process as svt
from sdvideo.codecs.av1.base_layer import PRESETS, TRIAL_PRESET, decode_base, encode_base
from sdvideo.codecs.av1.screen_content import is_drawn, plainness
from sdvideo.container.header import SCALES
from sdvideo.frames import Picture
from sdvideo.media.source import open_source
from sdvideo.metrics.fidelity import psnr

SAMPLE = Path(__file__).parents[1] / "samples" / "walk.mp4"


def of_luma(luma: np.ndarray) -> Picture:
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
    return [of_luma(np.roll(text(**size), -3 * number, 0)) for number in range(count)]


@pytest.mark.parametrize(("ink", "paper"), [(30, 230), (220, 20), (20, 140)])
def test_text_with_soft_edges_is_drawn(ink: int, paper: int) -> None:
    assert is_drawn([of_luma(text(ink=ink, paper=paper))])
    jpeg = cv2.imencode(".jpg", text(ink=ink, paper=paper), [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
    assert is_drawn([of_luma(cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE))])


def test_what_a_camera_sees_is_not_drawn() -> None:
    with open_source(SAMPLE) as video:
        assert not is_drawn([frame.picture for frame in islice(video.frames(), 24)])


def test_where_little_has_an_edge_nothing_is_drawn() -> None:
    flat = np.full((192, 320), 90, np.uint8)
    assert plainness(flat) == 0
    flat[80:88, 80:88] = text()[:8, :8]
    flat[84, 84] = 255  # one square of 960
    assert plainness(flat) == 0
    assert plainness(np.tile(np.arange(256, dtype=np.uint8), (64, 1))) == 0  # a ramp: no square spans 48 levels


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 7), (8, 8)])
def test_small_pictures_can_be_asked(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, size, np.uint8)
    assert 0 <= plainness(noise) < 0.5


@pytest.mark.parametrize("preset", ["fast", "balanced"])
def test_a_screen_takes_fewer_bits_for_a_better_picture(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = scrolling(8, width=560, height=320)

    def coded() -> tuple[int, float]:
        made = encode_base(pictures, SCALES[0], 40, PRESETS[preset])
        shown = decode_base(made, pictures[0].width, pictures[0].height)
        return made.bits, float(np.mean([psnr(a, b)[1] for a, b in zip(pictures, shown, strict=True)]))

    bits, quality = coded()
    monkeypatch.setattr(base, "is_drawn", lambda pictures: False)
    usual_bits, usual_quality = coded()
    assert bits < 0.75 * usual_bits
    assert quality > usual_quality


@pytest.mark.parametrize(
    ("width", "height", "effort", "used", "asked"),
    [
        (320, 192, PRESETS["best"], PRESETS["best"], True),
        (320, 192, PRESETS["fast"], PRESETS["fast"] + 1, True),  # which takes a third of the time with them
        (320, 192, TRIAL_PRESET, TRIAL_PRESET, False),
        (2560, 1440, PRESETS["balanced"], PRESETS["balanced"], False),  # to look for copies would take minutes
        (2560, 1440, PRESETS["fast"], PRESETS["fast"], False),
    ],
)
def test_the_tools_are_asked_for_where_there_is_time_for_them(width, height, effort, used, asked, monkeypatch) -> None:
    seen = {}

    def encode(pictures, options, progress):
        seen.update(options)
        return dict.fromkeys(range(len(pictures)), b"\x12\x00\x32\x00")

    monkeypatch.setattr(svt, "encode", encode)
    encode_base([of_luma(text(width, height))], SCALES[0], 40, effort)
    assert seen["preset"] == str(used)
    assert ("scm=1" in seen["svtav1-params"]) == asked
