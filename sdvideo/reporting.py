"""How close a coded video comes to its original, frame by frame and in all.

    result = sdvideo.report("clip.mp4", "clip.sdv", json="clip.json", csv="clip.csv")
    print(result.summary["psnr"]["mean"])

PSNR is taken on the code values of the upright 8-bit 4:2:0 pictures; "psnr" is that of all samples of Y, U
and V together. It is at most 100 dB, which two equal pictures have. Bytes are those of the video alone: in an
.sdv the data of each frame (in the summary: the groups), elsewhere the packets.
"""

from __future__ import annotations

import csv as csv_format
import json as json_format
import math
import os
import sys
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

import av
import cv2

from .ahead import ahead
from .chunk import OVERHEAD
from .container import KEY, Reader
from .decoding import VideoReader
from .demux import open_source
from .errors import DamagedError, SettingError, SourceError
from .layout import MAGIC
from .output import check_output, whole_file
from .picture import Frame, Picture, StreamInfo

METRICS = ("psnr", "psnr_y", "psnr_u", "psnr_v")
_BEST_PSNR = 100.0
_PEAK = 255.0**2


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured.

    info: the two videos; summary: all frames together; columns: "seconds", "key", "bytes" and the METRICS, a
    number per frame each, in arrays because a film has many frames.
    """

    info: dict[str, Any]
    summary: dict[str, Any]
    columns: dict[str, array]

    def frames(self) -> Iterator[dict[str, Any]]:
        """One row per frame, as in the JSON and the CSV."""
        columns = self.columns
        for number in range(len(columns["key"])):
            yield {
                "frame": number,
                "seconds": round(columns["seconds"][number], 6),
                "type": "key" if columns["key"][number] else "predicted",
                "bytes": columns["bytes"][number],
                **{name: round(columns[name][number], 4) for name in METRICS},
            }

    def write_json(self, file: TextIO) -> None:
        """One object on one line: schema, type, info, summary, frames."""
        head = {"schema": 1, "type": "report", "info": self.info, "summary": self.summary}
        file.write(json_format.dumps(head, ensure_ascii=False)[:-1] + ', "frames": [')
        for row in self.frames():
            file.write((", " if row["frame"] else "") + json_format.dumps(row))
        file.write("]}\n")
        file.flush()

    def write_csv(self, file: TextIO) -> None:
        """A header line, then one line per frame (RFC 4180)."""
        rows = csv_format.DictWriter(file, ["frame", "seconds", "type", "bytes", *METRICS])
        rows.writeheader()
        rows.writerows(self.frames())
        file.flush()


def report(
    reference: str | os.PathLike,
    distorted: str | os.PathLike,
    *,
    json: str | os.PathLike | None = None,
    csv: str | os.PathLike | None = None,
    device: str = "auto",
    progress: Callable[[int, int | None, int], None] = lambda done, total, size: None,
) -> Report:
    """Compare a video with its original.

    reference, distorted: any video or .sdv file, of the same size and number of frames. json, csv: files to
    write the result to, written over if there; "-" is standard output. progress: called after every frame
    with (frames done, frames in all or None, 0). Raises the errors of errors.py.
    """
    targets = [os.fspath(target) for target in (json, csv) if target is not None]
    if len(set(targets)) < len(targets):
        raise SettingError(f"the JSON and the CSV cannot both go to {targets[0]}")
    for target in set(targets) - {"-"}:
        for source in (reference, distorted):
            check_output(Path(target), source, overwrite=True)
    result = _compare(reference, distorted, device, progress)
    for target, write in ((json, result.write_json), (csv, result.write_csv)):
        if target is not None:
            with _text_file(os.fspath(target)) as file:
                write(file)
    return result


def psnr(original: Picture, coded: Picture) -> tuple[float, float, float, float]:
    """In the order of METRICS: of all samples, of Y, of U, of V."""
    pairs = ((original.y, coded.y), (original.u, coded.u), (original.v, coded.v))
    errors = [cv2.norm(a, b, cv2.NORM_L2SQR) for a, b in pairs]
    sizes = [a.size for a, _ in pairs]
    whole, *parts = map(_decibel, (sum(errors), *errors), (sum(sizes), *sizes))
    return (whole, *parts)


def _decibel(squared_error: float, samples: int) -> float:
    if not squared_error:
        return _BEST_PSNR
    return min(_BEST_PSNR, 10 * math.log10(_PEAK * samples / squared_error))


def _compare(reference, distorted, device: str, progress) -> Report:
    columns = {"seconds": array("d"), "key": array("b"), "bytes": array("q")}
    columns |= {name: array("d") for name in METRICS}
    with ExitStack() as stack:
        before = stack.enter_context(_open(os.fspath(reference), device))
        after = stack.enter_context(_open(os.fspath(distorted), device))
        _check_sizes(before, after)
        length = _measure(before, after, columns, progress)
        size = after.video_bytes
        info = {"reference": before.about(), "distorted": after.about()}
    summary = {
        "frames": len(columns["key"]),
        "key_frames": sum(columns["key"]),
        "seconds": round(length, 6),
        "bytes": size,
        "kbit_per_second": round(size * 8 / length / 1000, 3),
        **{name: _statistics(columns[name]) for name in METRICS},
    }
    return Report(info, summary, columns)


def _measure(before: _Video, after: _Video, columns: dict[str, array], progress) -> float:
    """Fill the columns, reading both videos side by side; returns the length in seconds."""
    info = before.info
    with ahead(before.frames()) as originals, ahead(after.frames()) as coded:
        first = last = None
        for done, (x, y) in enumerate(zip_longest(originals, coded), 1):
            if x is None or y is None:
                short, long = (before, after) if x is None else (after, before)
                raise SourceError(
                    f"{short.name} ends after {done - 1} frames, {long.name} goes on: "
                    "only videos of one length can be compared"
                )
            first, last = first or x.frame, x.frame
            time = (last.pts - first.pts) * info.time_base
            row = (float(time), y.key, y.bytes, *psnr(last.picture, y.frame.picture))
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
            progress(done, before.total, 0)
    duration = last.duration * info.time_base or 1 / (info.rate or 25)
    return float(time + duration)


def _check_sizes(before: _Video, after: _Video) -> None:
    sizes = [f"{video.info.width}x{video.info.height}" for video in (before, after)]
    if sizes[0] != sizes[1]:
        raise SourceError(
            f"{before.name} is {sizes[0]}, {after.name} {sizes[1]}: only pictures of one size can be compared"
        )


def _statistics(values: array) -> dict[str, float]:
    found = {"mean": sum(values) / len(values), "min": min(values), "max": max(values)}
    return {name: round(value, 4) for name, value in found.items()}


# --- the videos ---------------------------------------------------------------------------------------------


class _Coded(NamedTuple):
    """A picture and what it took: bytes, and whether it stands alone."""

    frame: Frame
    bytes: int
    key: bool


class _Video(Protocol):
    """One of the two videos; a context manager.

    name: its path; info: its description; total: the number of its frames if known; video_bytes: of them all.
    """

    name: str
    info: StreamInfo
    total: int | None
    video_bytes: int

    def frames(self) -> Iterator[_Coded]: ...

    def about(self) -> dict[str, Any]:
        """For the report: JSON values."""


def _open(path: str, device: str) -> _Video:
    try:
        with open(path, "rb") as file:
            ours = file.read(4) == MAGIC[:4]
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from error
    return _OurVideo(path, device) if ours else _OtherVideo(path)


class _OurVideo:
    """An .sdv file."""

    def __init__(self, path: str, device: str):
        self.name = path
        self._video, self._reader = VideoReader(path, device=device), Reader(path)
        self.info, self.total = self._video.info, len(self._video)
        self.video_bytes = sum(entry.size + OVERHEAD for entry in self._reader.groups)
        if not self._video.complete or not self.total:
            self.close()
            raise DamagedError(f"{path}: cut short after frame {self.total}")

    def frames(self) -> Iterator[_Coded]:
        groups = (self._reader.read_group(number) for number in range(len(self._reader.groups)))
        coded = (frame for group in groups for frame in group.frames)
        for frame, source in zip(self._video, coded, strict=True):
            yield _Coded(frame, len(source.data), source.kind == KEY)

    def about(self) -> dict[str, Any]:
        header = self._reader.header
        made = {"model": asdict(header.model), "base": header.base, "settings": header.settings}
        return _about(self) | made

    def close(self) -> None:
        self._video.close()
        self._reader.close()

    def __enter__(self) -> _OurVideo:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _OtherVideo:
    """Any video FFmpeg reads."""

    def __init__(self, path: str):
        self.name = path
        self._source = open_source(path)
        self.info, self.total = self._source.info, self._source.count_frames()
        self._packets = _packets(path)
        self.video_bytes = sum(size for size, _ in self._packets.values())

    def frames(self) -> Iterator[_Coded]:
        for frame in self._source.frames():
            yield _Coded(frame, *self._packets.get(frame.pts, (0, False)))

    def about(self) -> dict[str, Any]:
        return _about(self)

    def __enter__(self) -> _OtherVideo:
        return self

    def __exit__(self, *_: object) -> None:
        self._source.close()


def _about(video: _Video) -> dict[str, Any]:
    info = video.info
    rate = info.rate and round(float(info.rate), 6)
    return {"path": video.name, "width": info.width, "height": info.height, "frames_per_second": rate}


def _packets(path: str) -> dict[int, tuple[int, bool]]:
    """Size and key flag of the packets of the video, by presentation time."""
    found: dict[int, tuple[int, bool]] = {}
    try:
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            for packet in container.demux(container.streams.best("video")):
                if packet.size and (time := packet.dts if packet.pts is None else packet.pts) is not None:
                    size, key = found.get(time, (0, False))
                    found[time] = size + packet.size, key or packet.is_keyframe
    except av.FFmpegError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from error
    return found


@contextmanager
def _text_file(target: str) -> Iterator[TextIO]:
    if target == "-":
        yield sys.stdout
    else:
        with whole_file(Path(target)) as part, part.open("w", encoding="utf-8", newline="") as file:
            yield file
