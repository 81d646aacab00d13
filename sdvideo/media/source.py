"""Reads a video file or pipe: its description, its pictures in time order, and the streams beside the video."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import av
from av.container import InputContainer
from av.stream import Stream

from sdvideo.container.header import MAX_KEY, MAX_TEXT
from sdvideo.errors import SourceError
from sdvideo.frames import Chapter, Frame, StreamInfo

from . import colour
from .alike import AlikePictures
from .losses import lost
from .metadata import metadata_of
from .probing.side_data import SideDataReader
from .stills.heif import is_heif
from .streams import STANDARD_INPUT, choose_streams, no_picture, open_container
from .timeline import ContinuousClock, DecodingTimes, PictureClock
from .tracks import Packet, TrackWriter, reason, ticks, time_base

if TYPE_CHECKING:
    from .stills.image import PictureSource


# Seconds that may be missing at the end without a warning: not every container stores how long the last picture lasts.
_MISSING_SECONDS = 0.5
_CAPTIONED = frozenset(("h264", "hevc", "mpeg2video"))
_REORDERING = frozenset(("h264", "hevc", "vvc", "mpeg4", "mpeg2video", "mpeg1video", "vc1", "wmv3"))
# Formats, by FFmpeg's names, whose clock may jump: transport and program streams.
_JUMPING = frozenset(("mpegts", "mpeg"))
# Seconds by which sound may begin before time zero: the priming samples of its encoder, which are not played.
_PRIMING = Fraction(1, 10)
# Pictures per second above which a container's rate is its clock rate.
_MAX_RATE = 1000
# Pictures per second above which a rate is checked against their times.
_UNUSUAL_RATE = 120
_SAME_RATE = 0.1  # by which part the two may differ


# The first bytes of PNG, GIF, WebP, BMP, AVIF sequences and JPEG 2000; and of JPEG and TIFF, which other formats share.
_PICTURES = re.compile(
    rb"\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|BM....\0\0\0\0|....ftypavis"
    rb"|\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
    re.DOTALL,
)
_MOTION_JPEG_2000 = b"ftypmjp2"  # after the signature that JPEG 2000 pictures have as well
_JPEG, _TIFF = b"\xff\xd8\xff", (b"II*\0", b"MM\0*")


def open_source(path: str | os.PathLike[str]) -> Source | PictureSource:
    """Open a video, a picture or an animation; "-" is standard input, for a video.

    Raises:
        SourceError: the file does not exist, is neither video nor picture, or has no decodable picture.
    """
    if _is_picture(path):
        from .stills.image import PictureSource, Unread  # imports Pillow, which videos do not need

        try:
            return PictureSource(path)
        except Unread as error:
            try:
                return Source(path)
            except SourceError:
                raise error from None
    return Source(path)


def _is_picture(path: str | os.PathLike[str]) -> bool:
    if os.fspath(path) == "-" or not Path(path).is_file():
        return False
    try:
        with open(path, "rb") as file:
            head = file.read(24)
    except OSError:
        return False  # Source reports the reason
    suffix = Path(path).suffix.lower()
    if head.startswith(_JPEG):
        return suffix not in (".mjpg", ".mjpeg")  # a video of consecutive JPEGs
    if head.startswith(_TIFF):
        return suffix in (".tif", ".tiff")  # raw files of cameras are TIFFs with a small picture in front
    return (bool(_PICTURES.match(head)) and head[16:24] != _MOTION_JPEG_2000) or is_heif(head)


class Source:
    """A video being read; a context manager. Its times count from the beginning of the file.

    info: its description. seekable: whether the file can be read more than once (a pipe cannot).
    """

    info: StreamInfo
    seekable: bool

    def __init__(self, path: str | os.PathLike[str]) -> None:
        piped = os.fspath(path) == "-"
        self._name = STANDARD_INPUT if piped else os.fspath(path)
        self.seekable = not piped and Path(path).is_file()
        self._resources = ExitStack()
        self._count: int | None = None
        self._copied = self._exhausted = self._started = False
        self._told: set[str] = set()
        self._pending: list[Packet] | None = []  # of other streams of a pipe, until the first picture is read
        self._container = self._resources.enter_context(open_container(self._name, self.seekable))
        try:
            self._streams = choose_streams(self._container, self._name, self.seekable)
            self._video = self._streams.video
            self._time_base = time_base(self._video)
            self._decoded = self._decode()
            self._first = self._first_frame()
            self._pixel_shape = self._video.codec_context.sample_aspect_ratio or Fraction(1)
            self._begin = self._find_begin()
            folder = self._resources.enter_context(tempfile.TemporaryDirectory(prefix="sdvideo-"))
            self._writer = TrackWriter(self._streams.sides, Path(folder), self._begin)
            self._resources.callback(self._writer.close)
            if not self.seekable:
                self._writer.open(self._container)
                for packet in self._pending or ():
                    self._writer.write(packet)
                self._pending = None
            self._orientation = colour.read_orientation(self._first)
            self._margins = self._checked_margins()
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
        """Close the file and delete the track files."""
        self._resources.close()

    def frames(self) -> Iterator[Frame]:
        """The upright pictures in time order, their pts strictly increasing, in units of info.time_base; only once.

        Raises:
            SourceError: a pixel format cannot be converted, or this is the second call.
        """
        if self._started:
            raise SourceError(f"{self._name}: the pictures can be read only once, open the source again")
        self._started = True
        clock, alike, end = PictureClock(self.info, self._begin), AlikePictures(self._first), 0
        for frame in self._watched(chain((self._first,), self._decoded)):
            try:
                picture = self._orientation.apply(colour.cropped(alike.picture(frame), self._margins))
            except av.FFmpegError as exc:
                raise SourceError(f"{self._name}: {frame.format.name} pictures: {reason(exc)}") from exc
            pts, duration = clock.pts(frame), frame.duration or 0
            yield Frame(pts, duration, picture)
            end = pts + duration
        self._warn_if_short(end)
        self._writer.close()
        self._exhausted = True

    def _watched(self, frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """The frames; names what changes in them, or is hidden in them, and is not kept."""
        captions = SideDataReader("A53_CC") if self._video.codec_context.name in _CAPTIONED else None
        for frame in frames:
            if captions is not None and _has(captions, frame):
                lost("closed captions inside the pictures (CEA-608, CEA-708) are left out; extract them to keep them")
                captions = None
            shape = self._video.codec_context.sample_aspect_ratio or Fraction(1)
            if shape != self._pixel_shape:
                self._tell("the aspect ratio of the pixels changes in mid-stream: all are shown with that of the first")
            yield frame

    def track_files(self) -> list[Path]:
        """The files that hold info.tracks, in the order of Track.blob; they exist until close().

        A seekable source is read a second time for them; of a pipe they are copied while the pictures are read.

        Raises:
            SourceError: the source is a pipe whose pictures have not all been read yet.
        """
        if self.seekable:
            self._read_packets()
        elif not self._exhausted:
            raise SourceError(f"{self._name}: the tracks of a pipe are complete only after its last picture")
        return list(self._writer.paths)

    @property
    def track_forms(self) -> tuple[str, ...]:
        """The format of each track file, "mp4" or "matroska"; known before any packet is copied."""
        return self._writer.forms

    def count_frames(self) -> int | None:
        """The number of pictures, from the container or by reading all packets; None for a pipe.

        It counts damaged pictures, so it is for progress and rate control, not for allocation.
        """
        if self.info.frames is None and self.seekable:
            self._read_packets()
        return self.info.frames if self.info.frames is not None else self._count

    def packets(self) -> dict[int, tuple[int, bool]]:
        """Bytes and key flag of the coded pictures, by pts; not for pipes."""
        found: dict[int, tuple[int, bool]] = {}
        begin = ticks(self._begin, self._time_base)
        with open_container(self._name, self.seekable) as container:
            for packet in self._packets(container, False):
                if packet.size and (time := packet.dts if packet.pts is None else packet.pts) is not None:
                    size, key = found.get(time - begin, (0, False))
                    found[time - begin] = size + packet.size, key or packet.is_keyframe
        return found

    # --- opening --------------------------------------------------------------------------------------------

    def _find_begin(self) -> Fraction:
        """When the first picture or sound is due, in seconds: players count from there, and MP4 cannot start below 0.

        It is 0 if pictures begin at 0 or later, and sound before 0 only by its priming samples. The first picture may
        come before the time at which its stream is said to start, if its packet has none.
        """
        shown = None if self._first.pts is None else self._first.pts * self._time_base
        videos = [time for time in (_start(self._video), shown) if time is not None]
        video = min(videos, default=None)
        sounds = [start for start in map(_start, self._container.streams.audio) if start is not None]
        starts = [*videos, *sounds]
        first = min(starts, default=Fraction(0))
        primed = -_PRIMING <= first <= 0 and (video is None or video >= 0)
        return Fraction(0) if primed else first

    def _first_frame(self) -> av.VideoFrame:
        frame = next(self._decoded, None)
        if frame is None:
            raise no_picture(self._name, self.seekable)
        # WebM stores transparency in a second stream, which the decoder of the colours does not see.
        transparent = self._video.metadata.get("alpha_mode") == "1"
        for line in colour.losses(frame, transparent):
            lost("%s", line)
        return frame

    def _describe(self) -> StreamInfo:
        left, top, right, bottom = self._margins
        width, height = self._first.width - left - right, self._first.height - top - bottom
        sar = self._streams.header.sar or self._video.sample_aspect_ratio or Fraction(1)
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
        return StreamInfo(
            width=width,
            height=height,
            time_base=self._time_base,
            rate=self._rate(),
            frames=self._stored_frames(),
            sar=sar,
            colour=colour.read_colour(self._first),
            rotation=self._first.rotation if self._orientation.turns else 0,
            tracks=self._writer.tracks,
            chapters=tuple(chapters),
            metadata=self._metadata(),
        )

    def _metadata(self) -> dict[str, str]:
        """What describes the video, of the file and of the video stream, see `metadata.py`."""
        said = metadata_of(self._container.metadata, self._video)
        if long := [key for key, value in said.items() if len(key) > MAX_KEY or len(value) > MAX_TEXT]:
            lost("metadata is left out because it is too long: %s", ", ".join(f"{key:.40}" for key in long))
        return {key: value for key, value in said.items() if key not in long}

    def _checked_margins(self) -> tuple[int, int, int, int]:
        """The margins to cut off; none if they do not lie inside the picture."""
        left, top, right, bottom = margins = self._streams.header.margins
        inside = min(margins) >= 0 and left + right < self._first.width and top + bottom < self._first.height
        return margins if inside else (0, 0, 0, 0)

    def _rate(self) -> Fraction | None:
        rate = self._video.average_rate or self._video.guessed_rate or None
        if rate is None or rate <= _UNUSUAL_RATE:
            return rate
        if self.seekable and (found := self._measured_rate()) is not None:
            return rate if abs(found / rate - 1) < _SAME_RATE else found
        if rate >= _MAX_RATE and self._first.duration:
            return 1 / (self._first.duration * self._time_base)
        return rate

    def _measured_rate(self) -> Fraction | None:
        """Pictures per second by their times."""
        times = sorted(self.packets())
        if len(times) < 2:
            return None
        return Fraction((len(times) - 1) / ((times[-1] - times[0]) * self._time_base)).limit_denominator(1001)

    def _stored_frames(self) -> int | None:
        """The number of pictures by the file's index; None if it is not known, or some of them are hidden."""
        count, rate = self._video.frames, self._video.average_rate
        if not self.seekable or not count:
            return None
        shown = self._video.duration * self._time_base * rate if self._video.duration and rate else count
        return None if count > shown + 1 else count

    # --- reading --------------------------------------------------------------------------------------------

    def _decode(self) -> Iterator[av.VideoFrame]:
        """Decoded frames in the order of showing; of a pipe the packets of the other streams are copied meanwhile.

        Where packets cannot be decoded, as after a hole in the file, the picture before stays on.
        """
        bad = concealed = sent = shown = 0
        times = self._times()
        # Whatever ends the packets, the last call makes the decoder give what it still holds.
        for packet in chain(self._packets(self._container, not self.seekable), (None,)):
            if packet is not None and packet.stream.index != self._video.index:
                self._write(packet)
                continue
            if packet is not None:
                packet = packet if times is None else times.expect(packet)
                sent += packet.size > 0 and not packet.is_discard
            try:
                frames = self._video.decode(packet)
            except av.EOFError:
                continue
            except av.FFmpegError:
                bad += 1
                if times is not None and packet is not None:
                    times.forget(packet)
                continue
            shown += len(frames)
            concealed += sum(frame.is_corrupt for frame in frames)
            yield from frames if times is None else map(times.timed, frames)
        if shown and (bad or concealed):
            lost(
                "damaged pictures: %d left out, where the picture before stays, %d concealed by the decoder",
                max(bad, sent - shown) if bad else 0,
                concealed,
            )

    def _times(self) -> DecodingTimes | None:
        """What derives the times of pictures from those of packets, for codecs that change their order."""
        context = self._video.codec_context
        if context.name not in _REORDERING:
            return None
        # AVI stores no times but the order of coding, and FFmpeg's guess fails for these.
        reads_dts = self._container.format.name == "avi" and context.name in ("h264", "hevc")
        return DecodingTimes(context.has_b_frames, reads_dts)

    def _end_early(self, exc: Exception) -> None:
        """Say once that the file could not be read up to its end."""
        broken = isinstance(exc, av.InvalidDataError | av.BlockingIOError | av.EOFError)
        self._tell(f"{self._name}: ends early: {'it is cut short or damaged' if broken else reason(exc)}")

    def _tell(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            lost("%s", line)

    def _warn_if_short(self, end: int) -> None:
        """end: pts where the last picture ends. A cut-off file is read without error, but its index promises more."""
        if self._video.frames and self._video.duration:  # without an index the length is an estimate
            promised = (self._video.start_time or 0) + self._video.duration - ticks(self._begin, self._time_base)
            found, whole = (float(time * self._time_base) for time in (end, promised))
            if whole - found > _MISSING_SECONDS:
                lost("%s: the pictures end at %.1f of %.1f s, the rest is missing", self._name, found, whole)

    def _read_packets(self) -> None:
        """Copy the tracks and count the pictures in a separate pass without decoding; only once."""
        if self._copied:
            return
        self._copied = True
        count = 0
        with open_container(self._name, self.seekable) as container:
            self._writer.open(container)
            for packet in self._packets(container, True):
                if packet.stream.index != self._video.index:
                    self._writer.write(packet)
                elif packet.size and not packet.is_discard:
                    count += 1
        self._writer.close()
        self._count = count

    def _write(self, packet: Packet) -> None:
        """Copy a packet of a pipe as soon as it is known when the video begins."""
        if self._pending is None:
            self._writer.write(packet)
        else:
            self._pending.append(packet)

    def _packets(self, container: InputContainer, sides: bool) -> Iterator[Packet]:
        """The packets of the video and, if wanted, of the streams beside it, in the order of the file.

        A clock that jumps can be followed only if all are read, so that all passes find the same jumps.
        """
        clock = ContinuousClock() if container.format.name in _JUMPING else None
        wanted = [self._video.index, *(stream.index for stream in self._streams.sides if sides or clock is not None)]
        try:
            for packet in container.demux(*(container.streams[index] for index in wanted)):
                if clock is not None and packet.size:
                    clock.move(packet)
                if sides or packet.stream.index == self._video.index:
                    yield packet
        except (av.FFmpegError, OSError) as exc:
            self._end_early(exc)
        if clock is not None and clock.jumps:
            self._tell(
                f"the clock jumps {clock.jumps} time{'s' if clock.jumps > 1 else ''}, as in joined recordings: their "
                "parts follow each other without a gap"
            )


def _has(reader: SideDataReader, frame: av.VideoFrame) -> bool:
    """Whether a frame has side data of a kind; none is found in pixel formats that FFmpeg's filters do not read."""
    try:
        return reader.read(frame) is not None
    except av.FFmpegError:
        return False


def _start(stream: Stream) -> Fraction | None:
    return None if stream.start_time is None else stream.start_time * time_base(stream)
