"""Outputs: the base class of all of them, and those without a muxer, which are YUV4MPEG2 video and single pictures."""

from __future__ import annotations

import logging
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from typing import BinaryIO, Generic, Protocol, TypeVar

import av
import numpy as np

from sdvideo.errors import SinkError
from sdvideo.frames import Frame, Picture, StreamInfo

from .formats import Destination, file_name
from .tracks import reason

log = logging.getLogger("sdvideo")


class Timed(Protocol):
    """A decoded or coded frame with its time: integers in units of the stream's time_base, duration 0 if unknown."""

    @property
    def pts(self) -> int: ...

    @property
    def duration(self) -> int: ...


TimedFrame = TypeVar("TimedFrame", bound=Timed)


class Sink(ABC, Generic[TimedFrame]):
    """An output being written; a context manager that abandons the file if an exception leaves the block.

    Subclasses write decoded frames (`Frame`), or copy coded ones. path: where to. info: size, time base, colours and
    tracks.
    """

    def __init__(self, path: Destination, info: StreamInfo) -> None:
        name = file_name(path)
        self._name = "standard output" if name is None else name
        self._file: BinaryIO | None = None  # None if the output is still to be opened by its name
        if name is None:
            self._file = sys.stdout.buffer if isinstance(path, (str, os.PathLike)) else path
        self._info = info
        self._resources = ExitStack()
        self._last_pts: int | None = None
        self._closed = False

    def __enter__(self) -> Sink[TimedFrame]:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close() if kind is None else self.abort()

    def write(self, frame: TimedFrame) -> None:
        """Write the next frame.

        Raises:
            SinkError: the size differs from that of info, the pts does not increase, or writing fails.
        """
        self._check(frame)
        if self._last_pts is not None and frame.pts <= self._last_pts:
            raise SinkError(f"{self._name}: pts {frame.pts} does not come after {self._last_pts}")
        with self._translated():
            self._write(frame)
        self._last_pts = frame.pts

    def close(self) -> None:
        """Finish the file: flush the encoder, copy what is left of the tracks.

        Raises:
            SinkError: writing fails, or no picture was written.
        """
        if self._closed:
            return
        if self._last_pts is None:
            self.abort()
            raise SinkError(f"{self._name}: no picture to write")
        self._closed = True
        with self._translated():
            self._finish()
            self._resources.close()

    def abort(self) -> None:
        """Close the file without finishing it."""
        self._closed = True
        with suppress(av.FFmpegError, OSError, ValueError):
            self._resources.close()

    @abstractmethod
    def _check(self, frame: TimedFrame) -> None:
        """Raise SinkError if the frame does not fit the output."""

    @abstractmethod
    def _write(self, frame: TimedFrame) -> None: ...

    @abstractmethod
    def _finish(self) -> None: ...

    def _check_size(self, picture: Picture) -> None:
        size = picture.width, picture.height
        if size != (self._info.width, self._info.height):
            expected = f"{self._info.width}x{self._info.height}"
            raise SinkError(f"{self._name}: a picture of {size[0]}x{size[1]} in a video of {expected}")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except SinkError:
            self.abort()
            raise
        except (av.FFmpegError, OSError, ValueError, OverflowError) as exc:
            self.abort()
            raise SinkError(f"{self._name}: {reason(exc)}") from exc


_HALF_FRAME = Fraction(1, 2)  # the most by which a picture may come at another time than the rate says


class Y4mSink(Sink[Frame]):
    """YUV4MPEG2: uncompressed samples at a constant rate."""

    def __init__(self, path: Destination, info: StreamInfo) -> None:
        super().__init__(path, info)
        if info.tracks or info.chapters:
            log.warning("y4m holds no sound, subtitles or chapters: they are left out")
        self._rate = info.rate or Fraction(25)
        self._first_pts, self._count, self._even = 0, 0, True
        with self._translated():
            self._output = self._file or self._resources.enter_context(open(self._name, "wb"))  # noqa: SIM115
            self._output.write(self._header())

    def _header(self) -> bytes:
        info, rate = self._info, self._rate
        code_range = "FULL" if info.colour.full_range else "LIMITED"
        return (
            f"YUV4MPEG2 W{info.width} H{info.height} F{rate.numerator}:{rate.denominator} Ip "
            f"A{info.sar.numerator}:{info.sar.denominator} C420mpeg2 XCOLORRANGE={code_range}\n"
        ).encode()

    def _check(self, frame: Frame) -> None:
        self._check_size(frame.picture)

    def _write(self, frame: Frame) -> None:
        if not self._count:
            self._first_pts = frame.pts
        late = (frame.pts - self._first_pts) * self._info.time_base * self._rate - self._count
        self._even &= abs(late) < _HALF_FRAME
        self._count += 1
        self._output.write(b"FRAME\n")
        for plane in (frame.picture.y, frame.picture.u, frame.picture.v):
            self._output.write(np.ascontiguousarray(plane).data)

    def _finish(self) -> None:
        self._output.flush()
        if not self._even:
            log.warning("y4m holds no times: the pictures, whose times are uneven, now come at %.4g fps", self._rate)


class StillSink(Sink[Frame]):
    """One picture, as PNG, JPEG or WebP. kind: Pillow's name of the format."""

    def __init__(self, path: Destination, info: StreamInfo, kind: str, lossless: bool) -> None:
        super().__init__(path, info)
        self._kind, self._lossless = kind, lossless
        if info.tracks or info.chapters:
            log.warning("a picture file holds no sound, subtitles or chapters: they are left out")

    def _check(self, frame: Frame) -> None:
        self._check_size(frame.picture)

    def _write(self, frame: Frame) -> None:
        if self._last_pts is not None:
            raise SinkError(f"{self._name}: {self._kind} holds one picture")
        from .stills.image import write_picture  # imports Pillow, which videos do not need

        write_picture(self._file or self._name, frame.picture, self._info, self._kind, self._lossless)

    def _finish(self) -> None:
        pass  # everything is written
