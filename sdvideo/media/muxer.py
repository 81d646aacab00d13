"""Pictures and the streams beside them out again: MP4 and Matroska (H.264, or AV1 as it is), YUV4MPEG2, or a still."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.codec.context import Flags

from sdvideo.errors import SettingError, SinkError
from sdvideo.frames import Frame, Picture, StreamInfo

from . import colour
from .tracks import (
    MATROSKA_OPTIONS,
    TrackReader,
    common_timescale,
    copy_stream,
    describe,
    put,
    reason,
    refusal,
    timescale,
)

log = logging.getLogger("sdvideo")

# Output formats by suffix; the values are FFmpeg's muxer names, except that y4m is written here.
_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".y4m": "y4m"}
# Those that hold one picture; the values are Pillow's names.
STILL_FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
# A third of the time of "veryfast" at CRF 16, on which two cores would spend up to a fifth of theirs, 2.3 to 3.1 dB
# nearer to what was decoded, its worst frames 3.7 to 5.9; 1.4 to 3.3 times the bytes (four clips), lossless 1.1 to 1.2.
_PRESET, _CRF = "ultrafast", 8
# MP4 has 32 bits for a picture's duration: finer clocks than this are rounded to microseconds.
_FINEST_CLOCK = 100_000_000
# What FFmpeg makes a timecode track of: hours, minutes, seconds, frames; with a semicolon, frame numbers are dropped to
# keep up with 29.97 frames per second.
_TIMECODE = re.compile(r"\d\d:\d\d:\d\d([:;.])\d\d")
_DROPPING = Fraction(30000, 1001)


def open_sink(
    path: str | os.PathLike | BinaryIO,
    info: StreamInfo,
    *,
    track_files: Sequence[Path] = (),
    crf: int | None = None,
    lossless: bool = False,
    format: str | None = None,
    frames: int | None = None,
) -> Sink:
    """Open an output video for writing, overwriting what is there.

    Args:
        path: its suffix chooses the format (.mp4 .m4v .mov .mkv .y4m, or .png .jpg .webp for one picture); "-" is
            standard output and, like an open binary file, gets fragmented MP4, which needs no seeking.
        info: size, time base, colour, chapters, metadata and tracks, as a Source describes them.
        track_files: what Source.track_files() returned.
        crf, lossless: x264's, crf 8 if not given; lossless keeps every sample (of a .webp: every colour).
        format: the suffix to go by, without its dot ("mp4", "mkv", "y4m" ...), where the name lacks it.
        frames: how many pictures will come, where that is known.

    Raises:
        SinkError: the format is unknown or the file cannot be created.
        SettingError: the format cannot hold so many pictures, or not in that quality.
    """
    kind = choose_format(path, format)
    if kind in STILL_FORMATS.values():
        _check_still(kind, frames, crf, lossless)
        return _StillSink(path, info, kind, lossless)
    if info.icc:
        log.warning("the colour profile of the picture has no place in a video: it is left out")
    if kind == "y4m":
        _check_crf(kind, crf)
        return _RawSink(path, info)
    quality = {"qp": "0"} if lossless else {"crf": str(_CRF if crf is None else crf)}
    return _EncodedSink(path, info, kind, track_files, options={"preset": _PRESET, **quality})


class Sink:
    """A video being written; a context manager that lets go instead of finishing when an exception passes."""

    def __init__(self, path: str | os.PathLike | BinaryIO, info: StreamInfo) -> None:
        named = isinstance(path, (str, os.PathLike)) and os.fspath(path) != "-"
        self._file = None if named else sys.stdout.buffer if isinstance(path, (str, os.PathLike)) else path
        self._name = os.fspath(path) if named else "standard output"
        self._info = info
        self._resources = ExitStack()
        self._last_pts: int | None = None
        self._closed = False

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close() if kind is None else self.abort()

    def write(self, frame: Frame) -> None:
        """Write the next picture.

        Raises:
            SinkError: another size than info says, a pts that does not increase, or the output fails.
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
            SinkError: the output fails, or no picture was written.
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
        """Let go of the file, unfinished as it is."""
        self._closed = True
        with suppress(av.FFmpegError, OSError, ValueError):
            self._resources.close()

    def _check(self, frame: Frame) -> None:
        size = frame.picture.width, frame.picture.height
        if size != (self._info.width, self._info.height):
            expected = f"{self._info.width}x{self._info.height}"
            raise SinkError(f"{self._name}: a picture of {size[0]}x{size[1]} in a video of {expected}")

    def _write(self, frame: Frame) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        raise NotImplementedError

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


class _RawSink(Sink):
    """YUV4MPEG2: the samples as they are at a constant rate."""

    def __init__(self, path: str | os.PathLike | BinaryIO, info: StreamInfo) -> None:
        super().__init__(path, info)
        if info.tracks or info.chapters:
            log.warning("y4m holds neither sound nor subtitles nor chapters: they are left out")
        with self._translated():
            if self._file is None:
                self._file = open(self._name, "wb")  # noqa: SIM115, closed with the other resources
                self._resources.enter_context(self._file)
            self._file.write(self._header())

    def _header(self) -> bytes:
        info = self._info
        rate = info.rate or Fraction(25)
        code_range = "FULL" if info.colour.full_range else "LIMITED"
        return (
            f"YUV4MPEG2 W{info.width} H{info.height} F{rate.numerator}:{rate.denominator} Ip "
            f"A{info.sar.numerator}:{info.sar.denominator} C420mpeg2 XCOLORRANGE={code_range}\n"
        ).encode()

    def _write(self, frame: Frame) -> None:
        self._file.write(b"FRAME\n")
        for plane in (frame.picture.y, frame.picture.u, frame.picture.v):
            self._file.write(np.ascontiguousarray(plane).data)

    def _finish(self) -> None:
        self._file.flush()


class _StillSink(Sink):
    """One picture, as PNG, JPEG or WebP."""

    def __init__(self, path: str | os.PathLike | BinaryIO, info: StreamInfo, kind: str, lossless: bool) -> None:
        super().__init__(path, info)
        self._kind, self._lossless = kind, lossless
        if info.tracks or info.chapters:
            log.warning("a picture holds neither sound nor subtitles nor chapters: they are left out")

    def _write(self, frame: Frame) -> None:
        if self._last_pts is not None:
            raise SinkError(f"{self._name}: {self._kind} holds one picture")
        from .image import write_picture  # with Pillow, which videos do without

        write_picture(self._file or self._name, frame.picture, self._info, self._kind, self._lossless)

    def _finish(self) -> None:
        pass  # all is written


class MuxedSink(Sink):
    """A video stream beside copied tracks, in MP4 or Matroska."""

    def __init__(
        self, path: str | os.PathLike | BinaryIO, info: StreamInfo, kind: str, track_files: Sequence[Path]
    ) -> None:
        super().__init__(path, info)
        self._kind = kind
        fine = info.time_base.denominator > _FINEST_CLOCK
        self._time_base = Fraction(1, 1_000_000) if fine else info.time_base
        self._last_end = Fraction(0)
        with self._translated():
            self._readers = [self._open_tracks(file) for file in track_files]
            kept = [self._accepted(reader) for reader in self._readers]
            self._container = self._open_container([timescale(stream) for group in kept for stream in group])
            self._resources.callback(self._container.close)
            self._stream = self._add_video()
            self._outputs = [{stream.index: copy_stream(self._container, stream) for stream in group} for group in kept]
            for reader, group in zip(self._readers, kept, strict=True):
                reader.start(group)
            self._container.metadata.update(info.metadata if kind == "matroska" else _sound_timecode(info))
            self._container.set_chapters(_chapter_entries(info))
            self._container.start_encoding()

    def _add_video(self) -> av.VideoStream:
        raise NotImplementedError

    def _finish(self) -> None:
        self._mux_tracks(None)

    def _duration(self, frame: Frame) -> int:
        """The picture's duration in info.time_base; where it is unknown, that of the picture before."""
        if frame.duration > 0:
            return frame.duration
        if self._last_pts is not None:
            return frame.pts - self._last_pts
        return round(1 / (self._info.rate or Fraction(25)) / self._info.time_base)

    def _ticks(self, time: int) -> int:
        return round(time * self._info.time_base / self._time_base)

    def _mux_video(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            # Tracks advance with the video, so that neither side piles up in the muxer's queue.
            self._mux_tracks(packet.dts * packet.time_base)
            self._container.mux(packet)

    def _mux_tracks(self, until: Fraction | None) -> None:
        for reader, outputs in zip(self._readers, self._outputs, strict=True):
            for packet in reader.until(until):
                # Matroska cannot say that sound before the start is not to be heard, as an edit list can; but decoders
                # want the last packet of it.
                if self._kind == "matroska" and packet.is_discard and packet.pts + 2 * packet.duration <= 0:
                    continue
                put(packet, outputs[packet.stream_index])

    # --- opening --------------------------------------------------------------------------------------------

    def _open_tracks(self, file: Path) -> TrackReader:
        try:
            reader = TrackReader(file)
        except (av.FFmpegError, OSError) as exc:
            raise SinkError(f"{self._name}: its tracks cannot be read: {reason(exc)}") from exc
        self._resources.callback(reader.close)
        return reader

    def _accepted(self, reader: TrackReader) -> list[av.stream.Stream]:
        """The streams of one track file that the output format takes; the others are named in the log."""
        kept = []
        for stream in reader.streams:
            why = refusal(stream, self._kind)
            if why:
                other = ".mp4" if self._kind == "matroska" else ".mkv"
                line = "%s does not fit into %s and is left out; an %s may hold it"
                log.warning(line, describe(stream), self._kind, other)
            else:
                kept.append(stream)
        return kept

    def _open_container(self, track_scales: list[int]) -> av.container.OutputContainer:
        if self._kind == "matroska":
            return av.open(self._target(), "w", format=self._kind, container_options=MATROSKA_OPTIONS)
        # delay_moov writes the header of a fragmented file late enough to know where each track starts.
        fragments = "frag_keyframe+delay_moov+default_base_moof"
        options = {
            "movie_timescale": str(common_timescale([self._time_base.denominator, *track_scales])),
            "video_track_timescale": str(self._time_base.denominator),
            "movflags": fragments if self._file else "faststart",
        }
        return av.open(self._target(), "w", format=self._kind, container_options=options)

    def _target(self) -> str | _WriteOnly:
        return _WriteOnly(self._file) if self._file else f"file:{self._name}"


class _EncodedSink(MuxedSink):
    """H.264 beside copied tracks, in MP4 or Matroska."""

    def __init__(self, *muxed, options: dict[str, str]) -> None:
        self._options = options
        super().__init__(*muxed)

    def _write(self, frame: Frame) -> None:
        picture = _padded(frame.picture)
        encoded = colour.to_frame(picture, self._info.colour)
        encoded.time_base = self._time_base
        encoded.pts = self._ticks(frame.pts)
        encoded.duration = max(1, self._ticks(self._duration(frame)))
        self._mux_video(self._stream.encode(encoded))

    def _finish(self) -> None:
        self._mux_video(self._stream.encode(None))
        super()._finish()

    def _add_video(self) -> av.VideoStream:
        info = self._info
        width, height = info.width + info.width % 2, info.height + info.height % 2
        if (width, height) != (info.width, info.height):
            log.warning(
                "%dx%d becomes %dx%d: H.264 4:2:0 has even sizes only (.y4m keeps odd ones)",
                info.width,
                info.height,
                width,
                height,
            )
        rate = (info.rate or Fraction(25)).limit_denominator(1_000_000)
        stream = self._container.add_stream("libx264", rate=rate, options=self._options)
        encoder = stream.codec_context
        encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
        encoder.time_base = stream.time_base = self._time_base
        encoder.sample_aspect_ratio = info.sar
        # Without reordering and with durations handed through, MP4 keeps every time and the total exactly.
        encoder.max_b_frames = 0
        encoder.flags |= Flags.frame_duration
        encoder.thread_count = 2
        colour.apply_tags(encoder, info.colour)
        return stream


class _WriteOnly:
    """An open binary file of which FFmpeg sees nothing but write(), so that it never seeks or closes it."""

    def __init__(self, file: BinaryIO) -> None:
        self.write = file.write


def choose_format(path: str | os.PathLike | BinaryIO, format: str | None) -> str:
    if format is not None:
        suffix = f".{format}" if format else ""
    elif isinstance(path, (str, os.PathLike)) and os.fspath(path) != "-":
        suffix = Path(path).suffix.lower()
    else:
        suffix = ".mp4"
    known = _FORMATS | STILL_FORMATS
    if suffix not in known:
        raise SinkError(f"{suffix or 'no suffix'}: the output is one of {' '.join(known)}")
    return known[suffix]


def _check_crf(kind: str, crf: int | None) -> None:
    if crf is not None:
        raise SettingError(f"crf is of H.264, which a {kind} does not hold; leave it out")


def _check_still(kind: str, frames: int | None, crf: int | None, lossless: bool) -> None:
    if frames is not None and frames > 1:
        raise SettingError(f"a {kind} holds one picture, and there are {frames:,}: name an .mp4, .mkv, .mov or .y4m")
    _check_crf(kind, crf)
    if lossless and kind == "jpeg":
        raise SettingError("a jpeg cannot be lossless; a .png is, and a .webp can be")


def _sound_timecode(info: StreamInfo) -> dict[str, str]:
    """The metadata, without a timecode that MP4 cannot count on with: FFmpeg would refuse the whole file."""
    key = next((key for key in info.metadata if key.lower() == "timecode"), None)
    if key is None:
        return info.metadata
    rate = info.rate or Fraction(25)
    found = _TIMECODE.fullmatch(info.metadata[key])
    if found and rate < 256 and (found[1] == ":" or (rate / _DROPPING).denominator == 1):
        return info.metadata
    log.warning("the timecode %.40s is left out: it does not fit %.4g frames per second", info.metadata[key], rate)
    return {name: value for name, value in info.metadata.items() if name != key}


def _chapter_entries(info: StreamInfo) -> list[dict]:
    return [
        {
            "id": number,
            "start": chapter.start,
            "end": chapter.end,
            "time_base": chapter.time_base,
            "metadata": {"title": chapter.title},
        }
        for number, chapter in enumerate(info.chapters, 1)
    ]


def _padded(picture: Picture) -> Picture:
    """The picture at an even size, its last column and line repeated; 4:2:0 chroma already fits."""
    if picture.width % 2 == picture.height % 2 == 0:
        return picture
    y = np.pad(picture.y, ((0, picture.height % 2), (0, picture.width % 2)), mode="edge")
    return Picture(y, picture.u, picture.v)
