"""The data that crosses borders between modules: pictures, frames, and the description of their stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One upright 8-bit YUV 4:2:0 picture, code values exactly as in the video (limited or full range).

    y: uint8 [H, W]; u, v: uint8 [(H + 1) // 2, (W + 1) // 2].
    """

    y: np.ndarray
    u: np.ndarray
    v: np.ndarray

    @property
    def height(self) -> int:
        return int(self.y.shape[0])

    @property
    def width(self) -> int:
        return int(self.y.shape[1])

    def __repr__(self) -> str:
        return f"Picture({self.width}x{self.height})"


def grey(width: int, height: int) -> Picture:
    """A mid-grey picture, for where nothing else is known."""
    half = (height + 1) // 2, (width + 1) // 2
    return Picture(*(np.full(size, 128, np.uint8) for size in ((height, width), half, half)))


def extend_edges(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """A plane, [H, W] or [H, W, C], with its last row and column repeated up to a size; itself if it has that size."""
    below, right = height - plane.shape[0], width - plane.shape[1]
    if not below and not right:
        return plane
    return np.pad(plane, ((0, below), (0, right), *[(0, 0)] * (plane.ndim - 2)), mode="edge")


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A picture with its time.

    pts: presentation time, an integer in units of the stream's time_base (may be negative).
    duration: in the same units, 0 where the source does not say.
    """

    pts: int
    duration: int
    picture: Picture


@dataclass(frozen=True, slots=True)
class Colour:
    """How code values map to colours: ITU-T H.273 code points (2 = unspecified) and the range."""

    full_range: bool = False
    matrix: int = 2
    primaries: int = 2
    transfer: int = 2


@dataclass(frozen=True, slots=True)
class Track:
    """A stream beside the video, copied without re-encoding.

    kind: "audio" or "subtitle"; codec: FFmpeg's name; language: ISO 639-2 or "".
    blob: number of the track file that holds it (see `media/tracks.py`). index: its place among that file's streams.
    """

    kind: str
    codec: str
    language: str
    blob: int
    index: int


@dataclass(frozen=True, slots=True)
class Chapter:
    """A chapter mark: start and end are integers in units of time_base seconds."""

    start: int
    end: int
    time_base: Fraction
    title: str


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """The video stream, as the source describes it.

    width, height: of the upright picture, in pixels, at least 1. time_base: seconds per pts unit.
    rate: average frames per second or None. frames: number of frames if it is known beforehand, else None.
    sar: sample aspect ratio of the upright picture. rotation: degrees counter-clockwise by which the source asked to be
    turned; pictures are already turned, so this is for the record only. icc: the ICC profile of a still whose RGB is
    not sRGB, else b"".
    """

    width: int
    height: int
    time_base: Fraction
    rate: Fraction | None = None
    frames: int | None = None
    sar: Fraction = Fraction(1)
    colour: Colour = Colour()
    rotation: int = 0
    tracks: tuple[Track, ...] = ()
    chapters: tuple[Chapter, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    icc: bytes = b""
