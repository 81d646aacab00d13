"""Files as others make them, by a separate ffmpeg (imageio-ffmpeg), and what reading them gives."""

from __future__ import annotations

import subprocess
from pathlib import Path

import imageio_ffmpeg
import pytest

import sdvideo
from sdvideo.errors import SourceError
from sdvideo.frames import Frame
from sdvideo.media.source import Source, open_source

X264 = ("-c:v", "libx264", "-preset", "veryfast", "-qp", "10", "-pix_fmt", "yuv420p")
TONE = ("-f", "lavfi", "-i", "sine=f=440:r=48000:d=2")


def ffmpeg(*arguments: object) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def pattern(seconds: float = 2, size: str = "96x64", rate: int = 10) -> tuple[str, ...]:
    return "-f", "lavfi", "-i", f"testsrc2=s={size}:d={seconds}:r={rate}"


def seconds_of(source: Source, frames: list[Frame]) -> list[float]:
    return [float(frame.pts * source.info.time_base) for frame in frames]


def read(path: Path) -> tuple[Source, list[Frame]]:
    with open_source(path) as source:
        return source, list(source.frames())


def refused(path: Path, folder: Path) -> str:
    """The error of a strict encode, which leaves no file behind."""
    with pytest.raises(SourceError, match="refused, as --strict asks") as info:
        sdvideo.encode(path, folder / "strict.sdv", preset="fast", strict=True)
    assert not list(folder.glob("*strict.sdv*"))
    return str(info.value)
