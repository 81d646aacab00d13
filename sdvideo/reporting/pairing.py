"""Two videos side by side: what each of their frames took, and which frame of one belongs to which of the other.

with footage("clip.mp4") as before, footage("clip.sdv") as after:
    with paired(before, after, align=False, notes=[]) as pairs:
        for x, y in pairs:
            print(x.frame.pts, y.bytes, y.key)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from fractions import Fraction
from itertools import zip_longest
from typing import Any, NamedTuple, Protocol

from sdvideo.container import KEY, Reader
from sdvideo.container.chunk import OVERHEAD
from sdvideo.container.index import is_ours
from sdvideo.errors import DamagedError, SourceError
from sdvideo.frames import Frame, StreamInfo
from sdvideo.media.colour import converted, means_the_same
from sdvideo.media.scaling import scaled
from sdvideo.media.source import open_source
from sdvideo.reader import VideoReader
from sdvideo.runtime.prefetch import ahead

# Rates that differ by less are one: they are averages over a file, in which the last frame's duration may be missing.
_SAME_RATE, _SAME_FRAMES = 0.01, 1.5


class Shown(NamedTuple):
    """A frame and what it took: bytes, and whether it stands alone. bytes is 0 where that is not known."""

    frame: Frame
    bytes: int
    key: bool


Timed = Iterator[tuple[Fraction, Shown]]  # with seconds after the video's first frame


class Footage(Protocol):
    """One video; a context manager.

    name: its path; info: its description; total: the number of its frames if known; video_bytes: of them all.
    """

    name: str
    info: StreamInfo
    total: int | None
    video_bytes: int

    def frames(self) -> Iterator[Shown]: ...

    def about(self) -> dict[str, Any]:
        """JSON values: path, width, height, frames_per_second, and of an .sdv also model, base and settings."""


@contextmanager
def footage(path: str | os.PathLike, model: str | None = None, device: str = "auto") -> Iterator[Footage]:
    """Open an .sdv or any video. model: of an .sdv, see VideoReader.

    Raises SourceError, or DamagedError for an .sdv that was cut short.
    """
    path = os.fspath(path)
    try:
        ours = is_ours(path)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from error
    video = _OurVideo(path, model, device) if ours else _OtherVideo(path)
    try:
        yield video
    finally:
        video.close()


@contextmanager
def paired(before: Footage, after: Footage, align: bool, notes: list[str]) -> Iterator[Iterator[tuple[Shown, Shown]]]:
    """Both videos being read: which frame of the second belongs to each of the first.

    Without align that is the one of the same number. Raises SourceError at once if sizes, frame rates or what code
    values mean differ, and from the iterator if one video ends before the other.

    With align it is the one nearest in time, both counted from their first frames, scaled to the first's size (Lanczos)
    and in its range and matrix, up to the end of the shorter video. What a frame took that meets none is added to the
    next one; a frame met twice took its bytes once. In the end, what was done is added to notes.
    """
    if not align:
        _check_likeness(before, after)
    with ahead(_timed(before)) as originals, ahead(_timed(after)) as coded:
        if align:
            yield _by_time(originals, coded, before, after, notes)
        else:
            yield _by_number(originals, coded, before, after)


_HINT = "only like can be compared with like, unless --align is given"


def _check_likeness(before: Footage, after: Footage) -> None:
    sizes, rates = _sizes(before, after), _rates(before, after)
    if sizes[0] != sizes[1]:
        raise SourceError(f"{before.name} is {sizes[0]}, {after.name} {sizes[1]}: {_HINT}")
    if rates is not None:
        raise SourceError(f"{before.name} has {rates[0]:g} fps, {after.name} {rates[1]:g}: {_HINT}")
    if colours := _colours(before, after):
        raise SourceError(f"{before.name} has {colours[0]}, {after.name} {colours[1]}: {_HINT}")


def _by_number(originals: Timed, coded: Timed, before: Footage, after: Footage) -> Iterator[tuple[Shown, Shown]]:
    for number, (x, y) in enumerate(zip_longest(originals, coded)):
        if x is None or y is None:
            short, long = (before, after) if x is None else (after, before)
            raise SourceError(f"{short.name} ends after {number} frames, {long.name} goes on: {_HINT}")
        yield x[1], y[1]


def _by_time(
    originals: Timed, coded: Timed, before: Footage, after: Footage, notes: list[str]
) -> Iterator[tuple[Shown, Shown]]:
    repeated = left_out = behind = 0
    sizes, rates, colours = _sizes(before, after), _rates(before, after), _colours(before, after)
    (current_time, current), following = next(coded), next(coded, None)
    carried, met = current.bytes, False
    for time, x in originals:
        while following is not None and abs(following[0] - time) < abs(current_time - time):
            left_out += not met
            (current_time, current), following = following, next(coded, None)
            carried, met = carried + current.bytes, False
        if following is None and time >= current_time + _lasting(current, after):
            behind = 1 + sum(1 for _ in originals)
            break
        repeated += met
        picture = scaled(current.frame.picture, before.info.width, before.info.height)
        if colours:
            picture = converted(picture, after.info.colour, before.info.colour)
        yield x, Shown(replace(current.frame, picture=picture), carried, current.key and not met)
        carried, met = 0, True
    left_out += (following is not None) + sum(1 for _ in coded)
    if sizes[0] != sizes[1]:
        notes.append(f"{after.name} was scaled from {sizes[1]} to {sizes[0]}")
    if colours:
        notes.append(f"{after.name} was converted from {colours[1]} to {colours[0]}")
    if rates is not None:
        notes.append(f"frames were paired by time: {before.name} has {rates[0]:g} fps, {after.name} {rates[1]:g}")
    for count, what in (
        (repeated, f"frames of {after.name} were met again"),
        (left_out, f"frames of {after.name} met none of {before.name}"),
        (behind, f"frames of {before.name} come after the end of {after.name}"),
    ):
        if count:
            notes.append(f"{count} {what}")


def _timed(video: Footage) -> Timed:
    """Frames with their time in seconds after the first."""
    start = None
    for shown in video.frames():
        start = shown.frame.pts if start is None else start
        yield (shown.frame.pts - start) * video.info.time_base, shown


def _lasting(shown: Shown, video: Footage) -> Fraction:
    return shown.frame.duration * video.info.time_base or 1 / (video.info.rate or Fraction(25))


def _sizes(*videos: Footage) -> list[str]:
    return [f"{video.info.width}x{video.info.height}" for video in videos]


def _rates(*videos: Footage) -> list[float] | None:
    """Both frame rates if both are known and not one, else None."""
    rates = [float(video.info.rate or 0) for video in videos]
    frames = min(video.total or 1 for video in videos)
    close = max(_SAME_RATE, _SAME_FRAMES / frames) * max(rates)
    return rates if all(rates) and abs(rates[0] - rates[1]) > close else None


def _colours(*videos: Footage) -> list[str] | None:
    """What code values mean in both if it is not the same, else None."""
    one, other = (video.info.colour for video in videos)
    if means_the_same(one, other):
        return None
    return [f"{'full' if c.full_range else 'limited'} range, matrix {c.matrix} of H.273" for c in (one, other)]


class _OurVideo:
    """An .sdv file."""

    def __init__(self, path: str, model: str | None, device: str):
        self.name = path
        self._video, self._reader = VideoReader(path, model=model, device=device), Reader(path)
        self.info, self.total = self._video.info, len(self._video)
        self.video_bytes = sum(entry.size + OVERHEAD for entry in self._reader.groups)
        if not self._video.complete or not self.total:
            self.close()
            raise DamagedError(f"{path}: cut short after frame {self.total}")

    def frames(self) -> Iterator[Shown]:
        groups = (self._reader.read_group(number) for number in range(len(self._reader.groups)))
        coded = (frame for group in groups for frame in group.frames)
        for frame, source in zip(self._video, coded, strict=True):
            yield Shown(frame, len(source.data), source.kind == KEY)

    def about(self) -> dict[str, Any]:
        header = self._reader.header
        made = {"model": asdict(header.model), "base": header.base, "settings": header.settings}
        return _about(self) | made

    def close(self) -> None:
        self._video.close()
        self._reader.close()


class _OtherVideo:
    """Any other video, animation or picture."""

    def __init__(self, path: str):
        self.name = path
        self._source = open_source(path)
        self.info, self.total = self._source.info, self._source.count_frames()
        self._packets = self._source.packets()
        self.video_bytes = sum(size for size, _ in self._packets.values())

    def frames(self) -> Iterator[Shown]:
        for frame in self._source.frames():
            yield Shown(frame, *self._packets.get(frame.pts, (0, False)))

    def about(self) -> dict[str, Any]:
        return _about(self)

    def close(self) -> None:
        self._source.close()


def _about(video: Footage) -> dict[str, Any]:
    info = video.info
    rate = info.rate and round(float(info.rate), 6)
    return {"path": video.name, "width": info.width, "height": info.height, "frames_per_second": rate}
