"""The two videos of a report: their frames with coded sizes, and which frames are compared with each other.

with open_video("clip.mp4") as reference, open_video("clip.sdv") as distorted:
    with pair_frames(reference, distorted, align=False, notes=[]) as pairs:
        for source, decoded in pairs:
            print(source.frame.pts, decoded.bytes, decoded.key)
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from fractions import Fraction
from itertools import zip_longest
from typing import Any, NamedTuple

from sdvideo.container import KEY
from sdvideo.container.preamble import is_sdv
from sdvideo.errors import DamagedError, SourceError
from sdvideo.frames import Frame, StreamInfo
from sdvideo.media.colour import converted, means_the_same
from sdvideo.media.scaling import scaled
from sdvideo.media.source import open_source
from sdvideo.reader import VideoReader
from sdvideo.runtime.prefetch import prefetch
from sdvideo.runtime.standard_streams import valid_text

# Frame rates that differ by a smaller share, or by what so many frames more or less make, count as equal: they are
# averages over a file, in which the duration of the last frame may be missing.
_SAME_RATE, _SAME_FRAMES = 0.01, 1.5


class SizedFrame(NamedTuple):
    """A frame, the bytes it was coded in (0 if that is not known), and whether it is a key frame."""

    frame: Frame
    bytes: int
    key: bool


TimedFrames = Iterator[tuple[Fraction, SizedFrame]]  # with seconds after the video's first frame


class ComparedVideo(ABC):
    """A video of a report; a context manager.

    name: its path. info: its description. total: the number of its frames if that is known. video_bytes: the bytes in
    which all its frames are coded.
    """

    name: str
    info: StreamInfo
    total: int | None
    video_bytes: int

    @abstractmethod
    def frames(self) -> Iterator[SizedFrame]:
        """All frames in order. A second call reads the video again."""

    def about(self) -> dict[str, Any]:
        """JSON values: path, width, height, frames_per_second; of an .sdv also model, base and settings."""
        info = self.info
        rate = info.rate and round(float(info.rate), 6)
        return {"path": self.name, "width": info.width, "height": info.height, "frames_per_second": rate}

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> ComparedVideo:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_video(
    path: str | os.PathLike[str],
    model: str | None = None,
    device: str = "auto",
    look: float | str | None = None,
) -> ComparedVideo:
    """Open an .sdv file or any other video, animation or picture. model, device, look: of an .sdv, see VideoReader.

    Raises SourceError if it cannot be read, DamagedError for an .sdv that was cut short.
    """
    path = os.fspath(path)
    try:
        ours = is_sdv(path)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from error
    return _SdvVideo(path, model, device, look) if ours else _MediaVideo(path)


class _SdvVideo(ComparedVideo):
    """An .sdv file."""

    def __init__(self, path: str, model: str | None, device: str, look: float | str | None):
        self.name = valid_text(path)
        self._video = VideoReader(path, model=model, device=device, look=look)
        self.info, self.total = self._video.info, len(self._video)
        self.video_bytes = self._video.video_bytes
        if not self._video.complete or not self.total:
            self.close()
            raise DamagedError(f"{path}: cut short after frame {self.total}")

    def frames(self) -> Iterator[SizedFrame]:
        for frame, coded in zip(self._video, self._video.coded_frames(), strict=True):
            yield SizedFrame(frame, len(coded.data), coded.kind == KEY)

    def about(self) -> dict[str, Any]:
        header = self._video.header
        made = {"model": asdict(header.model), "base": header.base, "settings": header.settings}
        return super().about() | made

    def close(self) -> None:
        self._video.close()


class _MediaVideo(ComparedVideo):
    """A file that FFmpeg or Pillow reads."""

    def __init__(self, path: str):
        self.name, self._path = valid_text(path), path
        self._source, self._started = open_source(path), False
        self.info, self.total = self._source.info, self._source.count_frames()
        self._packets = self._source.packets()
        self.video_bytes = sum(size for size, _ in self._packets.values())

    def frames(self) -> Iterator[SizedFrame]:
        if self._started:  # a source gives its frames once
            self._source.close()
            self._source = open_source(self._path)
        self._started = True
        for frame in self._source.frames():
            yield SizedFrame(frame, *self._packets.get(frame.pts, (0, False)))

    def close(self) -> None:
        self._source.close()


@contextmanager
def pair_frames(
    reference: ComparedVideo, distorted: ComparedVideo, align: bool, notes: list[str]
) -> Iterator[Iterator[tuple[SizedFrame, SizedFrame]]]:
    """Read both videos: each frame of the reference with the frame of the distorted video that it is compared with.

    Without align that is the frame of the same number. Raises SourceError at once if the two differ in size, frame rate
    or the meaning of code values, and from the iterator if one video ends before the other. A note says if their times
    differ.

    With align it is the frame nearest in time, both counted from the first frame of their video. It is scaled to the
    size of the reference (Lanczos), and converted to its range and matrix. The pairs end with the shorter video. The
    bytes of a frame that is left out are added to the next one; those of a repeated frame count once. At the end, what
    was done is appended to notes, in words.
    """
    if not align:
        _check_alike(reference, distorted)
    with prefetch(_timed(reference)) as sources, prefetch(_timed(distorted)) as decoded:
        if align:
            yield _by_time(sources, decoded, reference, distorted, notes)
        else:
            yield _by_number(sources, decoded, reference, distorted, notes)


_HINT = "give --align to compare them nevertheless"


def _check_alike(reference: ComparedVideo, distorted: ComparedVideo) -> None:
    sizes = _sizes(reference, distorted)
    if sizes[0] != sizes[1]:
        raise SourceError(f"{reference.name} is {sizes[0]}, {distorted.name} is {sizes[1]}: {_HINT}")
    if rates := _different_rates(reference, distorted):
        raise SourceError(f"{reference.name} has {rates[0]:g} fps, {distorted.name} has {rates[1]:g}: {_HINT}")
    if colours := _different_colours(reference, distorted):
        raise SourceError(f"{reference.name} has {colours[0]}, {distorted.name} has {colours[1]}: {_HINT}")


def _by_number(
    sources: TimedFrames, decoded: TimedFrames, reference: ComparedVideo, distorted: ComparedVideo, notes: list[str]
) -> Iterator[tuple[SizedFrame, SizedFrame]]:
    apart = None
    for number, (x, y) in enumerate(zip_longest(sources, decoded)):
        if x is None or y is None:
            short, long = (reference, distorted) if x is None else (distorted, reference)
            raise SourceError(f"{short.name} ends after {number} frames, {long.name} goes on: {_HINT}")
        if apart is None and abs(x[0] - y[0]) > _duration(x[1], reference) / 2:
            apart = number, float(y[0] - x[0])
        yield x[1], y[1]
    if apart is not None:
        notes.append(
            f"frames were paired by number, though the times of {distorted.name} are {apart[1]:+.3g} s apart from "
            f"frame {apart[0]} on: a frame may be missing or doubled; --align pairs by time"
        )


def _by_time(
    sources: TimedFrames,
    decoded: TimedFrames,
    reference: ComparedVideo,
    distorted: ComparedVideo,
    notes: list[str],
) -> Iterator[tuple[SizedFrame, SizedFrame]]:
    repeated = left_out = after_end = 0
    sizes, rates = _sizes(reference, distorted), _different_rates(reference, distorted)
    colours = _different_colours(reference, distorted)
    (current_time, current), following = next(decoded), next(decoded, None)
    size, used = current.bytes, False
    for time, source in sources:
        while following is not None and abs(following[0] - time) < abs(current_time - time):
            left_out += not used
            (current_time, current), following = following, next(decoded, None)
            size, used = size + current.bytes, False
        if following is None and time >= current_time + _duration(current, distorted):
            after_end = 1 + sum(1 for _ in sources)
            break
        repeated += used
        picture = scaled(current.frame.picture, reference.info.width, reference.info.height)
        if colours:
            picture = converted(picture, distorted.info.colour, reference.info.colour)
        yield source, SizedFrame(replace(current.frame, picture=picture), size, current.key and not used)
        size, used = 0, True
    left_out += (following is not None) + sum(1 for _ in decoded)
    if sizes[0] != sizes[1]:
        notes.append(f"{distorted.name} was scaled from {sizes[1]} to {sizes[0]}")
    if colours:
        notes.append(f"{distorted.name} was converted from {colours[1]} to {colours[0]}")
    if rates:
        notes.append(
            f"frames were paired by time: {reference.name} has {rates[0]:g} fps, {distorted.name} {rates[1]:g}"
        )
    for count, what in (
        (repeated, f"frames of {distorted.name} were repeated"),
        (left_out, f"frames of {distorted.name} were left out"),
        (after_end, f"frames of {reference.name} after the end of {distorted.name} were left out"),
    ):
        if count:
            notes.append(f"{count} {what}")


def _timed(video: ComparedVideo) -> TimedFrames:
    """Frames with their time in seconds after the first."""
    start = None
    for sized in video.frames():
        start = sized.frame.pts if start is None else start
        yield (sized.frame.pts - start) * video.info.time_base, sized


def _duration(sized: SizedFrame, video: ComparedVideo) -> Fraction:
    """In seconds; 1 / frame rate if the video does not say."""
    return sized.frame.duration * video.info.time_base or 1 / (video.info.rate or Fraction(25))


def _sizes(*videos: ComparedVideo) -> list[str]:
    return [f"{video.info.width}x{video.info.height}" for video in videos]


def _different_rates(*videos: ComparedVideo) -> list[float] | None:
    """Both frame rates if both are known and differ, else None."""
    rates = [float(video.info.rate or 0) for video in videos]
    frames = min(video.total or 1 for video in videos)
    close = max(_SAME_RATE, _SAME_FRAMES / frames) * max(rates)
    return rates if all(rates) and abs(rates[0] - rates[1]) > close else None


def _different_colours(*videos: ComparedVideo) -> list[str] | None:
    """What code values mean in both videos, in words, if they do not mean the same; else None."""
    one, other = (video.info.colour for video in videos)
    if means_the_same(one, other):
        return None
    return [f"{'full' if c.full_range else 'limited'} range, matrix {c.matrix} of H.273" for c in (one, other)]
