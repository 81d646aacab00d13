"""From one pixel to 4K, from one frame to an hour: all of it works or is refused in words, and memory stays flat.

The quick tests run always; `python -m pytest -m long tests/system/test_sizes.py` runs the rest, which takes hours.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch

import sdvideo
from sdvideo.container import KEY, CodedFrame, Group, Header, ModelId, Reader, Writer
from sdvideo.frames import Frame, Picture, StreamInfo
from sdvideo.media.output import open_sink
from sdvideo.media.source import open_source

LAUNCH = Path(__file__).parents[2] / "scripts" / "benchmarks" / "launch.py"
BASES = ("av1", "none")


@pytest.fixture(autouse=True)
def _one_thread():
    """Pictures this small gain nothing from threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_waves(path: Path, width: int, height: int, count: int) -> Path:
    """A video of waves that move."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    half = (height + 1) // 2, (width + 1) // 2
    chroma = [np.full(half, value, np.uint8) for value in (100, 150)]
    with open_sink(path, StreamInfo(width, height, Fraction(1, 25), rate=Fraction(25)), lossless=True) as sink:
        for i in range(count):
            luma = 110 + 60 * np.sin((x + 3 * i) / 9) + 30 * np.cos((y - i) / 5)
            sink.write(Frame(i, 1, Picture(luma.astype(np.uint8), *chroma)))
    return path


def lumas(path: Path) -> np.ndarray:
    with open_source(path) as video:
        return np.array([frame.picture.y for frame in video.frames()], np.int16)


# --- pictures of all shapes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(
    ("width", "height"), [(16, 16), (1, 64), (64, 1), (1, 1), (2, 2), (17, 3), (8191, 16), (16, 8191), (16384, 16)]
)
def test_shapes(tmp_path: Path, width: int, height: int, base: str) -> None:
    source = write_waves(tmp_path / "in.y4m", width, height, 4)
    sdvideo.encode(source, tmp_path / "a.sdv", base=base, quality=70, preset="fast")
    sdvideo.decode(tmp_path / "a.sdv", tmp_path / "out.y4m")
    before, after = lumas(source), lumas(tmp_path / "out.y4m")
    assert after.shape == before.shape == (4, height, width)
    assert np.abs(after - before).mean() < 8
    sdvideo.decode(tmp_path / "a.sdv", tmp_path / "out.mp4")
    padded = lumas(tmp_path / "out.mp4")
    assert padded.shape == (4, height + height % 2, width + width % 2)


@pytest.mark.parametrize("base", BASES)
def test_one_frame(tmp_path: Path, base: str) -> None:
    source = write_waves(tmp_path / "in.y4m", 96, 64, 1)
    assert sdvideo.encode(source, tmp_path / "a.sdv", base=base, preset="fast").frames == 1
    assert sdvideo.decode(tmp_path / "a.sdv", tmp_path / "out.mkv").frames == 1
    assert lumas(tmp_path / "out.mkv").shape == (1, 64, 96)


def test_what_is_too_large_is_refused(tmp_path: Path) -> None:
    source = write_waves(tmp_path / "wide.y4m", 16385, 16, 1)
    for base in BASES:
        with pytest.raises(sdvideo.SdvError, match="width is 16385, must be a whole number 1 to 16384"):
            sdvideo.encode(source, tmp_path / "a.sdv", base=base)
    source = write_waves(tmp_path / "high.y4m", 16, 16384, 1)
    with pytest.raises(sdvideo.SdvError, match=r"16x16384 is too high for base av1.*use base none"):
        sdvideo.encode(source, tmp_path / "a.sdv", preset="fast")
    assert not list(tmp_path.glob("*a.sdv*"))
    assert sdvideo.encode(source, tmp_path / "a.sdv", base="none", preset="fast").frames == 1


# --- the seek table -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 7, 64])
def test_table_of_100_000_frames_opens_at_once(tmp_path: Path, frames: int) -> None:
    """frames: of each group."""
    info = StreamInfo(96, 64, Fraction(1, 25))
    header = Header(info, ModelId("restore", "", "0" * 64), "av1", "av1", None)
    with (tmp_path / "many.sdv").open("wb") as file:
        writer = Writer(file, header)
        for first in range(0, 100_000, frames):
            numbers = range(first, min(first + frames, 100_000))
            coded = (CodedFrame(2 * i, 2, KEY if i == first else 1, 40, bytes([i % 256])) for i in numbers)
            writer.write_group(Group(first, tuple(coded)))
        writer.finish()
    took = []
    for _ in range(5):
        begin = time.perf_counter()
        with Reader(tmp_path / "many.sdv") as reader:
            took.append(time.perf_counter() - begin)
            assert reader.complete and reader.frame_count == 100_000
            assert len(reader.groups) == -(-100_000 // frames)
            number = 77_777 // frames
            assert reader.groups[number].first == number * frames == reader.read_group(number).first
            assert reader.groups[-1].end_pts == 200_000
    assert min(took) < 0.05
    with sdvideo.open(tmp_path / "many.sdv") as video:
        assert len(video) == 100_000


# --- memory -------------------------------------------------------------------------------------------------


def peak(*arguments: object) -> float:
    """Run a command of sdvideo; its peak of resident memory in MiB."""
    command = [sys.executable, str(LAUNCH), sys.executable, "-m", "sdvideo", *map(str, arguments)]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    print(arguments[0], f"{found['seconds']:.0f} s, {found['mib']:.0f} MiB")
    assert found["code"] == 0
    return found["mib"]


def peaks(source: Path, base: str) -> tuple[float, float]:
    """Of encoding it and of decoding that."""
    coded, decoded = source.with_suffix(".sdv"), source.with_suffix(".back.mkv")
    encoding = peak("encode", source, "-o", coded, "--base", base, "--preset", "fast", "-y")
    return encoding, peak("decode", coded, "-o", decoded, "-y")


def make_clip(path: Path, size: str, seconds: int) -> Path:
    """A test picture that changes, and a tone."""
    pictures = f"testsrc2=size={size}:rate=25:duration={seconds}"
    inputs = ("-f", "lavfi", "-i", pictures, "-f", "lavfi", "-i", f"sine=duration={seconds}")
    options = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac")
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *inputs, *options, path], check=True)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("base", BASES)
def test_4k_takes_less_than_4_gb(tmp_path: Path, base: str) -> None:
    source = write_waves(tmp_path / "4k.y4m", 3840, 2160, 2)
    assert max(peaks(source, base)) < 4000


@pytest.mark.long
def test_seconds_of_4k_take_less_than_4_gb(tmp_path: Path) -> None:
    """Several groups of it, which are held in memory."""
    assert max(peaks(make_clip(tmp_path / "4k.mp4", "3840x2160", 4), "av1")) < 4000


def assert_flat(folder: Path, size: str, short: int, long: int, base: str) -> None:
    """Seconds of video: the long one takes hardly more memory than the short one."""
    before = peaks(make_clip(folder / "short.mp4", size, short), base)
    after = peaks(make_clip(folder / "long.mp4", size, long), base)
    for little, much in zip(before, after, strict=True):
        assert much < 1.1 * little


@pytest.mark.slow
@pytest.mark.parametrize("base", ["av1", pytest.param("none", marks=pytest.mark.long)])
def test_memory_does_not_grow_with_length(tmp_path: Path, base: str) -> None:
    assert_flat(tmp_path, "96x64", 10, 60, base)


@pytest.mark.long
@pytest.mark.parametrize(
    ("size", "seconds", "base"), [("320x180", 3600, "av1"), ("1920x1080", 60, "av1"), ("320x180", 300, "none")]
)
def test_memory_of_long_videos(tmp_path: Path, size: str, seconds: int, base: str) -> None:
    assert_flat(tmp_path, size, 10, seconds, base)
