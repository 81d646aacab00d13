"""MP4 and Matroska outputs: a video stream beside copied sound and subtitles."""

from __future__ import annotations

import logging
import re
from abc import abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import av
from av.codec.context import Flags
from av.container import OutputContainer
from av.stream import Stream

from sdvideo.errors import SinkError
from sdvideo.frames import Frame, Picture, StreamInfo, extend_edges

from . import colour
from .formats import Destination
from .metadata import apply_metadata, has_free_keys
from .sink import Sink, TimedFrame
from .tracks import (
    MATROSKA_OPTIONS,
    SideStream,
    TrackReader,
    common_timescale,
    copy_stream,
    describe,
    put,
    reason,
    refusal,
    timescale,
)

if TYPE_CHECKING:
    from av.container.core import Chapter

log = logging.getLogger("sdvideo")

# MP4 has 32 bits for a picture's duration: finer clocks than this are rounded to microseconds.
_FINEST_CLOCK = 100_000_000
# The timecodes that FFmpeg writes as a track: hours, minutes, seconds, frames. With a semicolon, frame numbers are
# dropped to keep up with 29.97 frames per second.
_TIMECODE = re.compile(r"\d\d:\d\d:\d\d([:;.])\d\d")
_DROPPING = Fraction(30000, 1001)


class MuxedSink(Sink[TimedFrame]):
    """A video stream beside copied tracks. kind: FFmpeg's name of the muxer; track_files: see TrackReader.

    Subclasses add the video stream and write to it.
    """

    def __init__(self, path: Destination, info: StreamInfo, kind: str, track_files: Sequence[Path]) -> None:
        super().__init__(path, info)
        self._kind = kind
        fine = info.time_base.denominator > _FINEST_CLOCK
        self._time_base = Fraction(1, 1_000_000) if fine else info.time_base
        with self._translated():
            self._readers = [self._open_tracks(file) for file in track_files]
            kept = [self._accepted(reader) for reader in self._readers]
            self._container = self._open_container([timescale(stream) for group in kept for stream in group])
            self._resources.callback(self._container.close)
            self._stream = self._add_video()
            self._outputs = [{stream.index: copy_stream(self._container, stream) for stream in group} for group in kept]
            for reader, group in zip(self._readers, kept, strict=True):
                reader.start(group, ties=kind == "matroska")
            said = info.metadata if kind == "matroska" else _valid_timecode(info)
            self._container.metadata.update(apply_metadata(said, self._stream))
            self._container.set_chapters(_chapter_entries(info))
            self._container.start_encoding()

    @abstractmethod
    def _add_video(self) -> av.VideoStream:
        """Add the video stream to self._container."""

    def _finish(self) -> None:
        self._mux_tracks(None)

    def _duration(self, frame: TimedFrame) -> int:
        """The frame's duration in info.time_base; if it is unknown, the distance to the previous frame."""
        if frame.duration > 0:
            return frame.duration
        if self._last_pts is not None:
            return frame.pts - self._last_pts
        return round(1 / (self._info.rate or Fraction(25)) / self._info.time_base)

    def _ticks(self, time: int) -> int:
        return round(time * self._info.time_base / self._time_base)

    def _mux_video(self, packets: Sequence[av.Packet[Stream]]) -> None:
        for packet in packets:
            # Tracks advance with the video, so that the muxer queues little of either.
            assert packet.dts is not None  # of encoded and of copied frames
            self._mux_tracks(packet.dts * packet.time_base)
            self._container.mux(packet)

    def _mux_tracks(self, until: Fraction | None) -> None:
        for reader, outputs in zip(self._readers, self._outputs, strict=True):
            for packet in reader.until(until):
                # Unlike an edit list, Matroska cannot mark sound before the start as inaudible; but decoders need the
                # last packet of it.
                inaudible = packet.is_discard and (packet.pts or 0) + 2 * (packet.duration or 0) <= 0
                if inaudible and self._kind == "matroska":
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

    def _accepted(self, reader: TrackReader) -> list[SideStream]:
        """The streams of one track file that the output format can hold; a warning names the others."""
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

    def _open_container(self, track_scales: list[int]) -> OutputContainer:
        if self._kind == "matroska":
            return av.open(self._target(), "w", format=self._kind, container_options=MATROSKA_OPTIONS)
        # delay_moov writes the header of a fragmented file only when the start of each track is known.
        fragments = "frag_keyframe+delay_moov+default_base_moof"
        options = {
            "movie_timescale": str(common_timescale([self._time_base.denominator, *track_scales])),
            "video_track_timescale": str(self._time_base.denominator),
            "movflags": fragments if self._file else "faststart",
        }
        if has_free_keys(self._info.metadata):
            options["movflags"] += "+use_metadata_tags"
        return av.open(self._target(), "w", format=self._kind, container_options=options)

    def _target(self) -> str | _WriteOnly:
        return _WriteOnly(self._file) if self._file else f"file:{self._name}"


class H264Sink(MuxedSink[Frame]):
    """H.264 beside copied tracks. options: of libx264."""

    def __init__(
        self,
        path: Destination,
        info: StreamInfo,
        kind: str,
        track_files: Sequence[Path],
        options: dict[str, str],
    ) -> None:
        self._options = options
        super().__init__(path, info, kind, track_files)

    def _check(self, frame: Frame) -> None:
        self._check_size(frame.picture)

    def _write(self, frame: Frame) -> None:
        picture = _even(frame.picture)
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
        # Without B-frames and with durations passed on, MP4 keeps every time and the total exactly.
        encoder.max_b_frames = 0
        encoder.flags |= Flags.frame_duration
        encoder.thread_count = 2
        colour.apply_tags(encoder, info.colour)
        return stream


class _WriteOnly:
    """Gives FFmpeg only write() of an open binary file, so that it never seeks or closes it."""

    def __init__(self, file: BinaryIO) -> None:
        self.write = file.write


def _valid_timecode(info: StreamInfo) -> dict[str, str]:
    """The metadata, without a timecode that does not fit the frame rate: FFmpeg would refuse the whole file."""
    key = next((key for key in info.metadata if key.lower() == "timecode"), None)
    if key is None:
        return info.metadata
    rate = info.rate or Fraction(25)
    found = _TIMECODE.fullmatch(info.metadata[key])
    if found and rate < 256 and (found[1] == ":" or (rate / _DROPPING).denominator == 1):
        return info.metadata
    log.warning("the timecode %.40s is left out: it does not fit %.4g frames per second", info.metadata[key], rate)
    return {name: value for name, value in info.metadata.items() if name != key}


def _chapter_entries(info: StreamInfo) -> list[Chapter]:
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


def _even(picture: Picture) -> Picture:
    """The picture with even sides, its last column and row repeated; the 4:2:0 chroma already fits."""
    if picture.width % 2 == picture.height % 2 == 0:
        return picture
    y = extend_edges(picture.y, picture.height + picture.height % 2, picture.width + picture.width % 2)
    return Picture(y, picture.u, picture.v)
