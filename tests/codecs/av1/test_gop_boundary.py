"""GOP boundaries of base av1: a group that follows another one begins with a smaller pop than one coded alone."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from conftest import Clips

import sdvideo
from sdvideo.codecs.av1.gop_boundary import add_error, boundary_error
from sdvideo.container import Reader
from sdvideo.frames import Frame, Picture, StreamInfo
from sdvideo.media.output import open_sink
from sdvideo.media.source import open_source
from sdvideo.metrics.fidelity import decibel
from sdvideo.metrics.flicker import flicker
from sdvideo.motion.source_motion import source_motion

SAMPLE = Path(__file__).parents[3] / "samples" / "walk.mp4"
GROUP = 24


def write(path: Path, pictures: Sequence[Picture]) -> Path:
    info = StreamInfo(pictures[0].width, pictures[0].height, Fraction(1, 25), rate=Fraction(25))
    with open_sink(path, info, lossless=True) as sink:
        for number, picture in enumerate(pictures):
            sink.write(Frame(number, 1, picture))
    return path


def pictures_of(path: Path, count: int) -> list[Picture]:
    with open_source(path) as video:
        return [frame.picture for frame in islice(video.frames(), count)]


def encode_and_decode(source: Path, target: Path, **settings) -> list[np.ndarray]:
    sdvideo.encode(source, target, preset="fast", keyint=GROUP, **settings)
    with sdvideo.open(target) as video:
        return [frame.picture.y for frame in video]


@pytest.fixture(scope="module")
def walk() -> list[Picture]:
    return pictures_of(SAMPLE, 2 * GROUP)


def test_a_group_begins_with_a_smaller_pop(walk: list[Picture], tmp_path: Path) -> None:
    together = encode_and_decode(write(tmp_path / "both.y4m", walk), tmp_path / "both.sdv", quality=15)
    alone = encode_and_decode(write(tmp_path / "second.y4m", walk[GROUP:]), tmp_path / "second.sdv", quality=15)
    previous, current = walk[GROUP - 1].y, walk[GROUP].y
    motion = source_motion(previous, current)
    last = together[GROUP - 1]
    soft, hard = (flicker(motion, previous, current, last, first).new_error for first in (together[GROUP], alone[0]))
    assert soft < 0.8 * hard
    # and this costs little
    kept, lost = (
        decibel(np.mean([np.square(x.y - y.astype(float)).mean() for x, y in zip(walk[GROUP:], group, strict=True)]))
        for group in (together[GROUP:], alone)
    )
    assert kept > lost - 1


def test_no_error_is_carried_across_a_scene_cut(clips: Clips, tmp_path: Path) -> None:
    clip = clips["cut"]
    pictures = pictures_of(clip.path, clip.frames)
    both = write(tmp_path / "both.y4m", pictures)
    second = write(tmp_path / "second.y4m", pictures[clip.cut :])
    for path in (both, second):
        sdvideo.encode(path, path.with_suffix(".sdv"), preset="fast", quality=15)
    with Reader(both.with_suffix(".sdv")) as one, Reader(second.with_suffix(".sdv")) as other:
        frames = [
            [frame.data for frame in reader.read_group(number).frames] for reader, number in ((one, 1), (other, 0))
        ]
    assert frames[0] == frames[1]


@pytest.mark.parametrize(("width", "height"), [(64, 48), (33, 47), (1, 1), (17, 200)])
def test_pictures_of_any_size_can_keep_an_error(width: int, height: int) -> None:
    rng = np.random.default_rng(1)
    sizes = (height, width), *[((height + 1) // 2, (width + 1) // 2)] * 2
    picture, other = (Picture(*(rng.integers(0, 256, size, np.uint8) for size in sizes)) for _ in range(2))
    assert all(error.shape == size for error, size in zip(boundary_error(picture, picture, other, picture), sizes))
    same = add_error(picture, boundary_error(picture, picture, picture, picture), 1)
    assert all(np.array_equal(getattr(same, plane), getattr(picture, plane)) for plane in "yuv")
