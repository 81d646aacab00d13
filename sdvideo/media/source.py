"""A video file or pipe in: its description, its pictures in time order, and the streams beside the video."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import av

from sdvideo.container.index import is_ours
from sdvideo.errors import SourceError
from sdvideo.frames import Chapter, Frame, StreamInfo

from . import colour
from .tracks import TrackWriter, reason, ticks

if TYPE_CHECKING:
    from .image import PictureSource

log = logging.getLogger("sdvideo")

# After this many undecodable packets in a row the rest is taken for lost.
_MAX_BAD_IN_A_ROW = 8
# Seconds that may be missing at the end without a word: of the last picture containers say how long it is, or do not.
_UNTOLD = 0.5
_JUMP = 1  # second by which times go back where something else begins
# What describes the file that was read, not the video in it.
_FILE_METADATA = frozenset(("major_brand", "minor_version", "compatible_brands", "encoder", "duration"))
_MAX_METADATA_LENGTH = 4096
# Sound may begin this much before time zero, in seconds: with what an encoder needs to get going, and no one hears.
_PRIMING = Fraction(1, 10)
# Pictures per second beyond which a container's rate is that of its clock.
_FASTEST = 1000


# How PNG, GIF, WebP, BMP, AVIF and JPEG 2000 begin, and two with which other files begin as well.
_PICTURES = re.compile(
    rb"\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|BM....\0\0\0\0|....ftypavif"
    rb"|\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
    re.DOTALL,
)
_JPEG, _TIFF = b"\xff\xd8\xff", (b"II*\0", b"MM\0*")


def open_source(path: str | os.PathLike) -> Source | PictureSource:
    """Open a video, a picture or an animation; "-" is standard input, for a video.

    Raises:
        SourceError: no such file, neither video nor picture, or no decodable picture.
    """
    if _is_picture(path):
        from .image import PictureSource  # with Pillow, which videos do without

        return PictureSource(path)
    return Source(path)


def _is_picture(path: str | os.PathLike) -> bool:
    if os.fspath(path) == "-" or not Path(path).is_file():
        return False
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except OSError:
        return False  # Source will say why
    suffix = Path(path).suffix.lower()
    if head.startswith(_JPEG):
        return suffix not in (".mjpg", ".mjpeg")  # a video of JPEGs in a row
    if head.startswith(_TIFF):
        return suffix in (".tif", ".tiff")  # the raw files of cameras begin so, with a small picture in front
    return bool(_PICTURES.match(head))


_STILLS = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails


class Source:
    """A video being read; a context manager. Its times count from where the file begins.

    info: its description. seekable: whether the file can be read more than once (a pipe cannot).
    """

    info: StreamInfo
    seekable: bool

    def __init__(self, path: str | os.PathLike) -> None:
        piped = os.fspath(path) == "-"
        self._name = "standard input" if piped else os.fspath(path)
        self.seekable = not piped and Path(path).is_file()
        self._folder: tempfile.TemporaryDirectory | None = None
        self._writer: TrackWriter | None = None
        self._count: int | None = None
        self._copied = self._exhausted = self._started = False
        self._container = self._open_container()
        try:
            self._video = self._choose_video()
            self._begin = self._find_begin()
            self._writer = TrackWriter(self._side_streams(), self._make_folder(), self._begin)
            if not self.seekable:
                self._writer.open(self._container)
            self._decoded = self._decode()
            self._first = self._first_frame()
            self._orientation = colour.read_orientation(self._first)
            self.info = self._describe()
        except av.FFmpegError as exc:
            self.close()
            raise SourceError(f"{self._name}: {reason(exc)}") from exc
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file and delete the track files."""
        if self._writer is not None:
            self._writer.close()
        self._container.close()
        if self._folder is not None:
            self._folder.cleanup()

    def frames(self) -> Iterator[Frame]:
        """The upright pictures in time order, pts strictly increasing in units of info.time_base; only once.

        Raises:
            SourceError: the picture size changes, 8 packets in a row cannot be decoded, or a second call.
        """
        if self._started:
            raise SourceError(f"{self._name}: the pictures can be read only once, open the source again")
        self._started = True
        clock, end = _Clock(self.info, self._begin), 0
        size = self._first.width, self._first.height
        for index, frame in enumerate(chain((self._first,), self._decoded)):
            if (frame.width, frame.height) != size:
                raise SourceError(
                    f"{self._name}: the picture size changes from {size[0]}x{size[1]} to "
                    f"{frame.width}x{frame.height} at picture {index}; cut the video there first"
                )
            try:
                picture = self._orientation.apply(colour.to_picture(frame))
            except av.FFmpegError as exc:
                raise SourceError(f"{self._name}: {frame.format.name} pictures: {reason(exc)}") from exc
            pts, duration = clock.pts(frame), frame.duration or 0
            yield Frame(pts, duration, picture)
            end = pts + duration
        self._tell_if_short(end)
        self._writer.close()
        self._exhausted = True

    def track_files(self) -> list[Path]:
        """The files that hold info.tracks, by Track.blob; they live until close().

        A seekable source is read once more for them; from a pipe they are copied while the pictures are read.

        Raises:
            SourceError: a pipe whose pictures have not all been read yet.
        """
        if self.seekable:
            self._read_packets()
        elif not self._exhausted:
            raise SourceError(f"{self._name}: the tracks of a pipe are complete only after its last picture")
        return list(self._writer.paths)

    @property
    def track_forms(self) -> tuple[str, ...]:
        """The form of each track file, "mp4" or "matroska", known from the start."""
        return self._writer.forms

    def count_frames(self) -> int | None:
        """The number of pictures, from the container or by reading all packets; None for a pipe.

        Damaged pictures count, so this is for progress and plans, not for allocation.
        """
        if self.info.frames is None and self.seekable:
            self._read_packets()
        return self.info.frames if self.info.frames is not None else self._count

    def packets(self) -> dict[int, tuple[int, bool]]:
        """Bytes and key flag of what is coded of the pictures, by pts; not of a pipe."""
        found: dict[int, tuple[int, bool]] = {}
        begin = ticks(self._begin, self._video.time_base)
        with self._open_container() as container:
            for packet in self._packets(container, [self._video.index]):
                if packet.size and (time := packet.dts if packet.pts is None else packet.pts) is not None:
                    size, key = found.get(time - begin, (0, False))
                    found[time - begin] = size + packet.size, key or packet.is_keyframe
        return found

    @property
    def _unless_late(self) -> str:
        return "" if self.seekable else " (or is an MP4 with its index at the end, which a pipe cannot carry)"

    # --- opening --------------------------------------------------------------------------------------------

    def _open_container(self) -> av.container.InputContainer:
        try:
            if self._name == "standard input":
                file = sys.stdin.buffer
            else:
                # Python's open() first: its errors tell a missing file from a folder from a forbidden one.
                open(self._name, "rb").close() if self.seekable else os.stat(self._name)
                file = f"file:{self._name}"
            container = av.open(file, metadata_errors="replace")
        except av.InvalidDataError as exc:
            raise SourceError(f"{self._name}: {self._instead()}") from exc
        except (av.FFmpegError, OSError) as exc:
            raise SourceError(f"{self._name}: {reason(exc)}") from exc
        if container.format.name == "tty":  # FFmpeg would paint any .txt file as a terminal
            container.close()
            raise SourceError(f"{self._name}: not a video but text")
        return container

    def _instead(self) -> str:
        """What the file is if FFmpeg does not know it."""
        if self.seekable and is_ours(self._name):
            return "is an .sdv already; what is encoded is a video"
        return f"not a video{self._unless_late}"

    def _choose_video(self) -> av.VideoStream:
        videos = [stream for stream in self._container.streams.video if not stream.disposition & _STILLS]
        if not videos:
            raise SourceError(f"{self._name}: has no video stream")
        video = next((v for v in videos if v.disposition & av.stream.Disposition.default), videos[0])
        if video.codec_context is None:
            raise SourceError(f"{self._name}: no decoder for its video stream")
        if len(videos) > 1:
            log.warning("%d further video streams are left out: an .sdv holds one", len(videos) - 1)
        if others := self._without_place():
            log.warning("left out, an .sdv holds no such things: %s; keep the original for them", ", ".join(others))
        video.thread_type = "AUTO"
        video.codec_context.thread_count = 2
        return video

    def _side_streams(self) -> list[av.stream.Stream]:
        streams = self._container.streams
        return sorted((*streams.audio, *streams.subtitles), key=lambda stream: stream.index)

    def _without_place(self) -> list[str]:
        """Streams that are neither pictures nor sound nor subtitles, nor kept as chapters or metadata: in words."""
        streams = self._container.streams
        chaptered = bool(self._container.chapters())
        covers = ["cover art" for stream in streams.video if stream.disposition & _STILLS]
        files = [f"attached file {stream.metadata.get('filename', '')}".strip() for stream in streams.attachments]
        data = [
            f"data stream {stream.name or 'of an unknown kind'}"
            for stream in streams.data
            if "timecode" not in stream.metadata and not (chaptered and stream.name == "bin_data")
        ]
        return covers + files + data

    def _find_begin(self) -> Fraction:
        """When the first picture or sound is due, in seconds: players count from there, and MP4 cannot start below 0.

        Where pictures begin at 0 or later and sound only by its priming before, that is 0.
        """
        video = _start(self._video)
        starts = [start for start in map(_start, (self._video, *self._container.streams.audio)) if start is not None]
        first = min(starts, default=Fraction(0))
        primed = -_PRIMING <= first <= 0 and (video is None or video >= 0)
        return Fraction(0) if primed else first

    def _make_folder(self) -> Path:
        self._folder = tempfile.TemporaryDirectory(prefix="sdvideo-")
        return Path(self._folder.name)

    def _first_frame(self) -> av.VideoFrame:
        frame = next(self._decoded, None)
        if frame is None:
            raise SourceError(f"{self._name}: has no decodable picture{self._unless_late}")
        # WebM has transparency in a stream of its own, which the decoder of the colours does not see.
        transparent = self._video.metadata.get("alpha_mode") == "1"
        for line in colour.losses(frame, transparent):
            log.warning("%s", line)
        return frame

    def _describe(self) -> StreamInfo:
        width, height = self._first.width, self._first.height
        sar = self._video.sample_aspect_ratio or Fraction(1)
        if self._orientation.swap:
            width, height, sar = height, width, 1 / sar
        chapters = (
            Chapter(
                max(0, entry["start"] - ticks(self._begin, entry["time_base"])),
                max(0, entry["end"] - ticks(self._begin, entry["time_base"])),
                entry["time_base"],
                entry["metadata"].get("title", ""),
            )
            for entry in self._container.chapters()
            if entry["time_base"]
        )
        timecode = {key: self._video.metadata[key] for key in ("timecode",) if key in self._video.metadata}
        return StreamInfo(
            width=width,
            height=height,
            time_base=self._video.time_base,
            rate=self._rate(),
            frames=(self._video.frames or None) if self.seekable else None,
            sar=sar,
            colour=colour.read_colour(self._first),
            rotation=self._first.rotation,
            tracks=self._writer.tracks,
            chapters=tuple(chapters),
            metadata={
                key: value
                for key, value in (self._container.metadata | timecode).items()
                if key.lower() not in _FILE_METADATA and 0 < len(value) <= _MAX_METADATA_LENGTH
            },
        )

    def _rate(self) -> Fraction | None:
        rate = self._video.average_rate or self._video.guessed_rate or None
        duration = self._first.duration * self._video.time_base if self._first.duration else 0
        return 1 / duration if rate and rate > _FASTEST and duration else rate

    # --- reading --------------------------------------------------------------------------------------------

    def _decode(self) -> Iterator[av.VideoFrame]:
        """Decoded frames; on a pipe the packets of the other streams are copied on the way."""
        copied = [] if self.seekable else self._writer.stream_indices
        bad = bad_in_a_row = concealed = 0
        due = _Due() if self._untimed() else None
        for packet in self._packets(self._container, [self._video.index, *copied]):
            if packet.stream.index != self._video.index:  # the one that says it was the last has no stream_index
                self._writer.write(packet)
                continue
            if due is not None:
                due.expect(packet)
            try:
                frames = packet.decode()
            except av.EOFError:
                continue
            except av.FFmpegError as exc:
                bad, bad_in_a_row = bad + 1, bad_in_a_row + 1
                if bad_in_a_row == _MAX_BAD_IN_A_ROW:
                    raise SourceError(f"{self._name}: {bad} damaged pictures in a row: {reason(exc)}") from exc
                continue
            bad_in_a_row = 0
            concealed += sum(frame.is_corrupt for frame in frames)
            yield from frames if due is None else map(due.timed, frames)
        if bad or concealed:
            log.warning("damaged pictures: %d left out, %d concealed by the decoder", bad, concealed)

    def _tell_if_short(self, end: int) -> None:
        """end: of the last picture. A file that was cut off is read without an error, but its index promises more."""
        if self._video.frames and self._video.duration:  # without an index the length is a guess
            promised = (self._video.start_time or 0) + self._video.duration - ticks(self._begin, self._video.time_base)
            found, whole = (float(time * self._video.time_base) for time in (end, promised))
            if whole - found > _UNTOLD:
                log.warning("%s: the pictures end at %.1f of %.1f s, the rest is missing", self._name, found, whole)

    def _untimed(self) -> bool:
        """AVI says in which order pictures are coded, not when they are shown; FFmpeg's guess at it fails for these."""
        return self._container.format.name == "avi" and self._video.codec_context.name in ("h264", "hevc")

    def _read_packets(self) -> None:
        """Copy the tracks and count the pictures in one pass of its own, without decoding; once."""
        if self._copied:
            return
        self._copied = True
        count = 0
        with self._open_container() as container:
            self._writer.open(container)
            for packet in self._packets(container, [self._video.index, *self._writer.stream_indices]):
                if packet.stream.index != self._video.index:
                    self._writer.write(packet)
                elif packet.size and not packet.is_discard:
                    count += 1
        self._writer.close()
        self._count = count

    def _packets(self, container: av.container.InputContainer, indices: list[int]) -> Iterator[av.Packet]:
        try:
            yield from container.demux(*(container.streams[index] for index in indices))
        except (av.FFmpegError, OSError) as exc:
            log.warning("%s ends early: %s", self._name, reason(exc))


def _start(stream: av.stream.Stream) -> Fraction | None:
    return None if stream.start_time is None else stream.start_time * stream.time_base


class _Due:
    """Times of pictures from those of their packets: the first picture keeps its own, and as many follow as packets."""

    def __init__(self) -> None:
        self._waiting: deque[int] = deque()
        self._delay: int | None = None

    def expect(self, packet: av.Packet) -> None:
        if packet.size and packet.dts is not None:
            self._waiting.append(packet.dts)

    def timed(self, frame: av.VideoFrame) -> av.VideoFrame:
        if self._waiting:
            decoded = self._waiting.popleft()
            if self._delay is None:
                self._delay = 0 if frame.pts is None else frame.pts - decoded
            frame.pts = decoded + self._delay
        return frame


class _Clock:
    """Gives every picture a presentation time later than the one before, counted from `begin` in seconds."""

    def __init__(self, info: StreamInfo, begin: Fraction) -> None:
        rate = info.rate or Fraction(25)
        self._begin, self._time_base = ticks(begin, info.time_base), info.time_base
        self._step = max(1, round(1 / rate / info.time_base))
        self._last: int | None = None
        self._told: set[str] = set()

    def pts(self, frame: av.VideoFrame) -> int:
        """frame.pts, or what comes nearest: dts, or one average picture after the last; ties move one."""
        pts = frame.pts if frame.pts is not None else frame.dts
        if pts is not None:
            pts -= self._begin
        else:
            self._tell("pictures without a time are spaced by the average rate")
            pts = 0 if self._last is None else self._last + self._step
        if self._last is not None and (self._last - pts) * self._time_base > _JUMP:
            self._tell("times jump back, as where files were joined: what follows is squeezed together; remux it first")
        if self._last is not None and pts <= self._last:
            self._tell("pictures whose times do not increase are moved by the smallest step")
            pts = self._last + 1
        self._last = pts
        return pts

    def _tell(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            log.warning("%s", line)
