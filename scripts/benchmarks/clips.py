"""The material that measuring scripts work on: clips cut and scaled, and how far a picture is from another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from sdvideo.frames import Frame, Picture, StreamInfo
from sdvideo.media.output import open_sink
from sdvideo.media.source import open_source
from sdvideo.metrics import fidelity

VIDEOS = (".mp4", ".mkv", ".mov", ".m4v", ".webm", ".avi", ".y4m")
STILLS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def files_in(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    if not found:
        raise SystemExit(f"{folder}: no {' '.join(suffixes)} in it")
    return found


class Clip:
    """One clip of a folder, its first `frames` frames, scaled down to a short side of at most `short` pixels.

    What is made of it goes into `folder`, once. info: the description of what it becomes.
    """

    def __init__(self, source: Path, folder: Path, frames: int, short: int):
        self.source, self.name, self.folder = source, source.stem, folder
        with open_source(source) as video:
            size = scaled_size(video.info.width, video.info.height, short)
            count = min(frames, video.count_frames())
            self.info = replace(video.info, width=size[0], height=size[1], frames=count)

    @cached_property
    def path(self) -> Path:
        """The lossless copy, with all of the source's sound."""
        path = self.folder / f"{self.name}.mp4"
        with open_source(self.source) as video:
            files = video.track_files()
            with open_sink(path, self.info, track_files=files, lossless=True) as sink:
                for frame in self.cut():
                    sink.write(frame)
        return path

    def cut(self) -> Iterator[Frame]:
        """The frames, from the source."""
        with open_source(self.source) as video:
            for frame in islice(video.frames(), self.info.frames):
                yield replace(frame, picture=scaled(frame.picture, self.info))

    def frames(self) -> Iterator[Frame]:
        """The frames, from the lossless copy."""
        with open_source(self.path) as video:
            yield from video.frames()

    @property
    def is_480p(self) -> bool:
        """Is it about 854x480 large? The promised speeds are for that."""
        return self.info.width * self.info.height >= 0.9 * 854 * 480

    @property
    def about(self) -> dict:
        info = self.info
        return {
            "width": info.width,
            "height": info.height,
            "frames": info.frames,
            "fps": float(info.rate or 25),
            "is_480p": self.is_480p,
        }


def scaled_size(width: int, height: int, short: int) -> tuple[int, int]:
    """Even, in the same shape, the short side at most `short`."""
    factor = min(Fraction(1), Fraction(short, min(width, height)))
    if factor == 1:
        return width // 2 * 2, height // 2 * 2
    return round(width * factor / 2) * 2, round(height * factor / 2) * 2


def scaled(picture: Picture, info: StreamInfo) -> Picture:
    """The picture at info's size: cropped by an odd column or line, else averaged over areas."""
    width, height = info.width, info.height
    if picture.width - width <= 1 and picture.height - height <= 1:
        half = np.s_[: height // 2, : width // 2]
        return Picture(picture.y[:height, :width], picture.u[half], picture.v[half])
    half = width // 2, height // 2
    sizes = ((width, height), half, half)
    planes = (picture.y, picture.u, picture.v)
    return Picture(*(cv2.resize(p, s, interpolation=cv2.INTER_AREA) for p, s in zip(planes, sizes)))


def without_tracks(info: StreamInfo) -> StreamInfo:
    return replace(info, tracks=(), chapters=())


def psnr(original: Picture, coded: Picture) -> dict[str, float]:
    """y: of luma; yuv: (6 Y + U + V) / 8. In dB, at most 100."""
    _, y, u, v = fidelity.psnr(original, coded)
    return {"y": y, "yuv": (6 * y + u + v) / 8}
