"""Streams beside the video: copied packet by packet into track files, and out of them again.

A track file is a plain MP4, or a Matroska for the codecs that MP4 refuses. MP4 is preferred because it keeps the
encoder delay of AAC (as an edit list), so that sound stays in sync to the sample. Streams from a Matroska file prefer
Matroska, which alone keeps where the last packet of an Opus stream is cut off.
"""

from __future__ import annotations

import io
import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import av
from av.container import InputContainer, OutputContainer
from av.stream import Stream
from av.subtitles.stream import SubtitleStream

from sdvideo.errors import SinkError
from sdvideo.frames import Track

from .losses import lost

SideStream: TypeAlias = av.AudioStream | SubtitleStream  # what can be copied beside the video
Packet: TypeAlias = "av.Packet[Any]"

SUFFIXES = {"mp4": "mp4", "matroska": "mkv"}  # of track files, by their format
_INT32 = 2**31 - 1
_USUAL_LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
_SILENT_BYTES = 24  # of each channel: a whole number of samples of 1, 2, 3, 4 and 8 bytes
_SAME_TIME = Fraction(1, 10)  # seconds by which a packet may lag behind the previous one and still be moved
_SUBTITLE_SECONDS = Fraction(1)  # of subtitles without a length; the next one ends them in any case

# Without the first, FFmpeg delays a whole Matroska file if its sound starts a little before zero; without the second
# it chooses by itself which tracks are played.
MATROSKA_OPTIONS = {"avoid_negative_ts": "disabled", "default_mode": "passthrough"}


def reason(exc: Exception) -> str:
    """An error in one line, without FFmpeg's error number and the path."""
    return str(getattr(exc, "strerror", None) or exc).splitlines()[0]


def refusal(stream: SideStream, format: str) -> str:
    """Why FFmpeg's muxer `format` does not take a copy of this stream; empty if it does.

    Found out by writing a file: it depends on more than the codec's name. MP4 refuses some PCM only at the end of the
    file, and only if there was any.
    """
    try:
        with av.open(io.BytesIO(), "w", format=format) as trial:
            copy = _added(trial, stream)
            trial.start_encoding()
            if isinstance(stream, av.AudioStream) and _codec_name(stream).startswith("pcm_"):
                silence = av.Packet(bytes(_SILENT_BYTES * stream.channels))
                silence.stream, silence.pts, silence.dts = copy, 0, 0
                trial.mux(silence)
    except (av.FFmpegError, ValueError) as exc:
        return reason(exc)
    return ""


def side_streams(container: InputContainer) -> list[SideStream]:
    """The audio and subtitle streams of a file, in its order."""
    streams: list[SideStream] = [*container.streams.audio, *container.streams.subtitles]
    return sorted(streams, key=lambda stream: stream.index)


def describe(stream: SideStream) -> str:
    """The stream in words, for messages: 'audio track aac (eng)'."""
    language = _language(stream)
    return f"{stream.type} track {_codec_name(stream)}" + (f" ({language})" if language else "")


def time_base(stream: Stream) -> Fraction:
    """Seconds per tick of a stream in an open file, which always has a time base."""
    assert stream.time_base is not None
    return stream.time_base


def timescale(stream: SideStream) -> int:
    """Ticks per second in which MP4 stores this stream."""
    rate = stream.codec_context.sample_rate if isinstance(stream, av.AudioStream) else 0
    return rate or time_base(stream).denominator


def ticks(seconds: Fraction, time_base: Fraction) -> int:
    """A time in seconds -> units of time_base, rounded."""
    return round(seconds / time_base)


def common_timescale(scales: Sequence[int]) -> int:
    """Ticks per second that are a multiple of the first of these, and of as many others as 31 bits allow.

    MP4 stores the start of every track in one common unit; in FFmpeg's default of 1 ms a first pts of 3003/90000 s
    would come back as 33/1000.
    """
    common = scales[0]
    for scale in scales[1:]:
        if math.lcm(common, scale) <= _INT32:
            common = math.lcm(common, scale)
    return common


class TrackWriter:
    """Copies audio and subtitle streams of one input into at most two track files.

    begin: the time in seconds that becomes 0. tracks: the streams and where each is stored. paths: the files, in the
    order of Track.blob.
    """

    def __init__(self, streams: Sequence[SideStream], folder: Path, begin: Fraction = Fraction(0)) -> None:
        self._folder = folder
        by_format: dict[str, list[SideStream]] = {name: [] for name in SUFFIXES}
        for stream in streams:
            refusals = {name: refusal(stream, name) for name in _preferred_formats(stream)}
            home = next((name for name, why in refusals.items() if not why), None)
            if home is None:
                other = "AAC or FLAC" if stream.type == "audio" else "SubRip or ASS"
                line = "%s is left out: it cannot be copied into MP4 or Matroska; convert it to %s first"
                lost(line, describe(stream), other)
            else:
                by_format[home].append(stream)
        self._begin = begin
        self._homes = [(name, members) for name, members in by_format.items() if members]
        self.paths = [folder / f"tracks.{SUFFIXES[name]}" for name, _ in self._homes]
        self.tracks = tuple(
            Track(stream.type, _codec_name(stream), _language(stream), blob, index)
            for blob, (_, members) in enumerate(self._homes)
            for index, stream in enumerate(members)
        )
        self._outputs: dict[int, SideStream] = {}
        self._ties = {stream.index: name == "matroska" for name, members in self._homes for stream in members}
        self._containers: list[OutputContainer] = []
        self._order = _Order()
        self._lost: dict[int, int] = {}
        self._layouts: dict[int, tuple[int, int]] = {}  # by stream, see _adts_configuration
        self._other: dict[int, Fraction] = {}  # seconds left out in another layout, by stream

    @property
    def forms(self) -> tuple[str, ...]:
        """The format of each file, "mp4" or "matroska"."""
        return tuple(name for name, _ in self._homes)

    @property
    def stream_indices(self) -> list[int]:
        """The stream numbers of the input that are to be copied."""
        return [stream.index for _, members in self._homes for stream in members]

    def open(self, source: InputContainer) -> None:
        """Create the files. source: the container that the packets will come from. Raises SinkError."""
        templates = {stream.index: stream for stream in side_streams(source)}
        for (name, members), path in zip(self._homes, self.paths, strict=True):
            scale = common_timescale([timescale(stream) for stream in members])
            options = {"movie_timescale": str(scale)} if name == "mp4" else MATROSKA_OPTIONS
            with self._room():
                container = av.open(f"file:{path}", "w", format=name, container_options=options)
                self._containers.append(container)
                for stream in members:
                    self._outputs[stream.index] = copy_stream(container, templates[stream.index])
                container.start_encoding()

    def write(self, packet: Packet) -> None:
        """Copy one packet; a packet that the muxer refuses is left out and counted. Raises SinkError."""
        index = packet.stream_index
        if not packet.size or index not in self._outputs:
            return
        if self._changed(packet):
            return
        begin = ticks(self._begin, packet.time_base)
        packet.pts, packet.dts = (None if time is None else time - begin for time in (packet.pts, packet.dts))
        if packet.stream.type == "audio":
            self._order.repair(packet, ties=self._ties[index])
        elif packet.pts is not None and packet.pts < 0 and packet.duration:
            packet.duration = packet.duration + packet.pts
            if packet.duration <= 0:
                return  # a subtitle that ends before the video begins
            packet.pts = packet.dts = 0
        try:
            with self._room():
                put(packet, self._outputs[index])
        except (av.ArgumentError, av.InvalidDataError, ValueError):
            self._lost[index] = self._lost.get(index, 0) + 1

    def _changed(self, packet: Packet) -> bool:
        """Whether AAC with a header before each packet has another rate or layout than at first: no track file holds
        both."""
        found = _adts_configuration(packet)
        if found is None or found == self._layouts.setdefault(packet.stream_index, found):
            return False
        seconds = (packet.duration or 0) * packet.time_base
        self._other[packet.stream_index] = self._other.get(packet.stream_index, Fraction(0)) + seconds
        return True

    def close(self) -> None:
        """Finish the files and warn about lost packets. Raises SinkError."""
        while self._containers:
            with self._room():
                self._containers.pop().close()
        for index, count in self._lost.items():
            line = "%s: %d of its packets, damaged or out of order, are left out"
            lost(line, describe(self._outputs[index]), count)
        for index, seconds in self._other.items():
            line = "%s: its rate or layout changes in mid-stream: %.1f s in another one than at first are left out"
            lost(line, describe(self._outputs[index]), seconds)
        self._lost.clear()
        self._other.clear()

    @contextmanager
    def _room(self) -> Iterator[None]:
        """Name the temporary folder in errors: that is full then, not the place of the result."""
        try:
            yield
        except OSError as error:
            raise SinkError(f"{self._folder}: {reason(error)}") from error


class TrackReader:
    """Reads one track file, in step with a video that is being written. path: with a suffix of SUFFIXES.

    A track file may come from an attacker, so it is read as that format and no other: some of FFmpeg's formats are
    lists of other files to open. Whatever it asks for, no other file is opened.
    """

    def __init__(self, path: Path) -> None:
        form = next(form for form, suffix in SUFFIXES.items() if path.suffix == f".{suffix}")
        self._file = path.open("rb")
        try:
            self.container = av.open(self._file, "r", format=form, metadata_errors="replace", io_open=_nothing_else)
        except BaseException:
            self._file.close()
            raise
        self.streams = side_streams(self.container)
        self._packets: Iterator[Packet] = iter(())
        self._next: Packet | None = None
        self._order, self._ties = _Order(), False

    def start(self, streams: Sequence[SideStream], *, ties: bool) -> None:
        """Choose the streams to read; called once. ties: whether sound packets may come with equal times."""
        self._ties = ties
        self._packets = self.container.demux(*streams) if streams else iter(())
        self._advance()

    def until(self, seconds: Fraction | None) -> Iterator[Packet]:
        """The packets up to a time in file order; all that are left if None."""
        while self._next is not None and (seconds is None or _seconds(self._next) <= seconds):
            packet = self._next
            self._advance()
            yield packet

    def close(self) -> None:
        self.container.close()
        self._file.close()

    def _advance(self) -> None:
        self._next = next((packet for packet in self._packets if packet.size), None)
        if self._next is not None and self._next.stream.type == "audio":
            self._order.repair(self._next, self._ties)


def _adts_configuration(packet: Packet) -> tuple[int, int] | None:
    """Rate index and channel configuration in the ADTS header of an AAC packet; None for other packets."""
    if packet.size < 7 or packet.stream.type != "audio" or packet.stream.codec_context.name != "aac":
        return None
    head = bytes(packet)[:4]
    if head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
        return None
    return head[2] >> 2 & 15, (head[2] & 1) << 2 | head[3] >> 6


class _Order:
    """Repairs the times of sound packets: muxers require those of each stream to increase, or not to decrease."""

    def __init__(self) -> None:
        self._last: dict[int, int] = {}  # dts, by stream

    def repair(self, packet: Packet, ties: bool) -> None:
        """ties: whether packets may have the same time, as in Matroska, which counts milliseconds."""
        if packet.dts is None:
            return
        if not ties:
            _count_samples(packet)
        last = self._last.get(packet.stream_index)
        if last is None:
            self._last[packet.stream_index] = packet.dts
            return
        # AVI and Matroska may not store how long a packet lasts; MP4 would then end the track before the last one.
        if not packet.duration:
            packet.duration = max(0, packet.dts - last)
        earliest = last if ties else last + _ticks_of_a_sample(packet)
        if packet.dts < earliest and (last - packet.dts) * packet.time_base < _SAME_TIME:
            packet.dts = earliest
            packet.pts = packet.dts if packet.pts is None else max(packet.pts, packet.dts)
        self._last[packet.stream_index] = packet.dts


def _count_samples(packet: Packet) -> None:
    """Give a packet a time base in which samples differ: packets may be shorter than a tick of their file."""
    finer = Fraction(1, _sample_rate(packet))
    if finer < packet.time_base:
        times = packet.pts, packet.dts, packet.duration
        pts, dts, duration = (None if time is None else ticks(time * packet.time_base, finer) for time in times)
        packet.time_base = finer
        packet.pts, packet.dts, packet.duration = pts, dts, duration or 0


def _ticks_of_a_sample(packet: Packet) -> int:
    """At least one."""
    return math.ceil(1 / (_sample_rate(packet) * packet.time_base))


def _sample_rate(packet: Packet) -> int:
    assert isinstance(packet.stream, av.AudioStream)
    return packet.stream.codec_context.sample_rate or 48000


def readable(path: Path) -> bool:
    """Whether a track file can be opened."""
    try:
        TrackReader(path).close()
    except (av.FFmpegError, OSError, ValueError):
        return False
    return True


def mend(path: Path, holes: Sequence[range], folder: Path) -> tuple[list[Path], int]:
    """Copy what can be read of a damaged track file into new ones, without the packets that lie in holes.

    holes: missing bytes, in rising order. folder: for the new files, is created. Returns their paths, none if nothing
    can be read, and how many packets are left out.
    """
    folder.mkdir()
    left_out = 0
    try:
        with closing(TrackReader(path)) as reader:
            writer = TrackWriter(reader.streams, folder)
            if not writer.paths:
                return [], 0
            writer.open(reader.container)
            with closing(writer):
                reader.start([one for one in reader.streams if one.index in writer.stream_indices], ties=True)
                for packet in reader.until(None):
                    begin = packet.pos or 0
                    before = bisect_left(holes, begin + packet.size, key=lambda hole: hole.start)
                    if before and holes[before - 1].stop > begin:
                        left_out += 1
                    else:
                        writer.write(packet)
    except (av.FFmpegError, OSError, ValueError):
        return [], left_out
    return writer.paths, left_out


def _nothing_else(url: str, flags: int, options: dict[str, str]) -> None:
    raise PermissionError(f"a track file asks for {url}")


def put(packet: Packet, stream: SideStream) -> None:
    """Write a packet to a stream."""
    container = stream.container
    assert isinstance(container, OutputContainer)
    packet.stream = stream
    # MP4 refuses packets that last too long, and loses a last one of no length. Image subtitles may have either, which
    # means that they stay until the next one.
    in_mp4 = container.format.name in ("mp4", "mov")
    if in_mp4 and stream.type == "subtitle" and not 0 < (packet.duration or 0) <= _INT32:
        packet.duration = ticks(_SUBTITLE_SECONDS, packet.time_base)
    container.mux(packet)


def copy_stream(container: OutputContainer, template: SideStream) -> SideStream:
    """A stream of `container` for unchanged packets of `template`, with its language, title and role."""
    stream = _added(container, template)
    stream.disposition = template.disposition
    for key in ("language", "title"):
        if key in template.metadata:
            stream.metadata[key] = template.metadata[key]
    return stream


def _added(container: OutputContainer, template: SideStream) -> SideStream:
    stream: SideStream = container.add_stream_from_template(template)
    # AVI and Matroska store the number of channels, not their layout; MP4 needs it, so the usual one is assumed.
    if isinstance(template, av.AudioStream) and isinstance(stream, av.AudioStream) and template.codec_context:
        channels = template.channels
        if template.layout.name == f"{channels} channels" and channels in _USUAL_LAYOUTS:
            stream.codec_context.layout = _USUAL_LAYOUTS[channels]
    return stream


def _preferred_formats(stream: SideStream) -> tuple[str, str]:
    from_matroska = "matroska" in stream.container.format.name
    return ("matroska", "mp4") if from_matroska else ("mp4", "matroska")


def _codec_name(stream: SideStream) -> str:
    return stream.codec.canonical_name if stream.codec_context else "of an unknown codec"


def _language(stream: SideStream) -> str:
    return "" if stream.language in (None, "und") else stream.language


def _seconds(packet: Packet) -> Fraction:
    ticks = packet.dts if packet.dts is not None else packet.pts
    return Fraction(0) if ticks is None else ticks * packet.time_base
