"""Streams beside the video: copied packet by packet into track files, and out of them again.

A track file is a plain MP4, or a Matroska for the codecs that MP4 refuses. Plain MP4 comes first because it
keeps the encoder delay of AAC (as an edit list), so that sound stays in step to the sample. What comes from
Matroska goes into Matroska first, which alone keeps where the last packet of an Opus stream is to be cut off.
"""

from __future__ import annotations

import io
import logging
import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import av

from sdvideo.errors import SinkError
from sdvideo.frames import Track

log = logging.getLogger("sdvideo")

SUFFIXES = {"mp4": "mp4", "matroska": "mkv"}  # of the track files, by their form
_INT32 = 2**31 - 1
_USUAL_LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
_WHOLE_SAMPLES = 24  # bytes that hold such, of 1, 2, 3, 4 and 8 bytes
_SAME_TIME = Fraction(1, 10)  # seconds by which sound may lag behind what it should come after
_UNTIL_THE_NEXT = Fraction(1)  # second; the next one ends it in any case

# Without this, FFmpeg moves a whole Matroska file later when its sound starts a little before zero.
MATROSKA_OPTIONS = {"avoid_negative_ts": "disabled"}


def reason(exc: Exception) -> str:
    """What went wrong in one line, without FFmpeg's error number and our own path."""
    return str(getattr(exc, "strerror", None) or exc).splitlines()[0]


def refusal(stream: av.stream.Stream, format: str) -> str:
    """Why FFmpeg's muxer `format` does not take a copy of this stream; empty if it does.

    Found by writing a file: what a muxer takes depends on more than the codec's name. MP4 turns some PCM away only in
    the end, and only if there was any.
    """
    try:
        with av.open(io.BytesIO(), "w", format=format) as trial:
            copy = _added(trial, stream)
            trial.start_encoding()
            if stream.type == "audio" and _codec_name(stream).startswith("pcm_"):
                silence = av.Packet(bytes(_WHOLE_SAMPLES * stream.channels))
                silence.stream, silence.pts, silence.dts = copy, 0, 0
                trial.mux(silence)
    except (av.FFmpegError, ValueError) as exc:
        return reason(exc)
    return ""


def describe(stream: av.stream.Stream) -> str:
    """The stream in words, for messages: 'audio track aac (eng)'."""
    language = _language(stream)
    return f"{stream.type} track {_codec_name(stream)}" + (f" ({language})" if language else "")


def timescale(stream: av.stream.Stream) -> int:
    """Ticks per second in which MP4 stores this stream."""
    rate = stream.codec_context.sample_rate if stream.type == "audio" else 0
    return rate or stream.time_base.denominator


def ticks(seconds: Fraction, time_base: Fraction) -> int:
    """A time in seconds in units of time_base, to the nearest."""
    return round(seconds / time_base)


def common_timescale(scales: Sequence[int]) -> int:
    """Ticks per second that hold as many of these as 31 bits allow, the first one certainly.

    MP4 writes the start of every track in one common unit; in FFmpeg's default of 1 ms a first pts of
    3003/90000 s would come back as 33/1000.
    """
    common = scales[0]
    for scale in scales[1:]:
        if math.lcm(common, scale) <= _INT32:
            common = math.lcm(common, scale)
    return common


class TrackWriter:
    """Copies audio and subtitle streams of one input into at most two track files.

    begin: the time in seconds that becomes 0. tracks: what was found and where it goes; paths: the files, in the order
    of Track.blob.
    """

    def __init__(self, streams: Sequence[av.stream.Stream], folder: Path, begin: Fraction = Fraction(0)) -> None:
        self._folder = folder
        by_format: dict[str, list[av.stream.Stream]] = {name: [] for name in SUFFIXES}
        for stream in streams:
            refusals = {name: refusal(stream, name) for name in _preferred_formats(stream)}
            home = next((name for name, why in refusals.items() if not why), None)
            if home is None:
                other = "AAC or FLAC" if stream.type == "audio" else "SubRip or ASS"
                line = "%s is left out: it cannot be copied into MP4 or Matroska; convert it to %s first"
                log.warning(line, describe(stream), other)
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
        self._outputs: dict[int, av.stream.Stream] = {}
        self._containers: list[av.container.OutputContainer] = []
        self._order = _Order()
        self._lost: dict[int, int] = {}

    @property
    def forms(self) -> tuple[str, ...]:
        """The form of each file, "mp4" or "matroska"."""
        return tuple(name for name, _ in self._homes)

    @property
    def stream_indices(self) -> list[int]:
        """The input's stream numbers that are to be copied."""
        return [stream.index for _, members in self._homes for stream in members]

    def open(self, source: av.container.InputContainer) -> None:
        """Create the files; source is the container that the packets will come from. Raises SinkError."""
        for (name, members), path in zip(self._homes, self.paths, strict=True):
            scale = common_timescale([timescale(stream) for stream in members])
            options = {"movie_timescale": str(scale)} if name == "mp4" else MATROSKA_OPTIONS
            with self._room():
                container = av.open(f"file:{path}", "w", format=name, container_options=options)
                self._containers.append(container)
                for stream in members:
                    self._outputs[stream.index] = copy_stream(container, source.streams[stream.index])
                container.start_encoding()

    def write(self, packet: av.Packet) -> None:
        """Copy one packet; one that the muxer refuses is left out and counted. Raises SinkError."""
        if not packet.size:
            return
        index = packet.stream_index
        begin = ticks(self._begin, packet.time_base)
        packet.pts, packet.dts = (None if time is None else time - begin for time in (packet.pts, packet.dts))
        if packet.stream.type == "audio":
            self._order.mend(packet)
        elif packet.pts is not None and packet.pts < 0 and packet.duration:
            packet.duration = packet.duration + packet.pts
            if packet.duration <= 0:
                return  # a subtitle that is over before the video begins
            packet.pts = packet.dts = 0
        try:
            with self._room():
                put(packet, self._outputs[index])
        except (av.ArgumentError, av.InvalidDataError, ValueError):
            self._lost[index] = self._lost.get(index, 0) + 1

    def close(self) -> None:
        """Finish the files and say what was lost. Raises SinkError."""
        while self._containers:
            with self._room():
                self._containers.pop().close()
        for index, count in self._lost.items():
            line = "%s: %d of its packets, damaged or out of order, are left out"
            log.warning(line, describe(self._outputs[index]), count)
        self._lost.clear()

    @contextmanager
    def _room(self) -> Iterator[None]:
        """It is the temporary folder that is full then, not the place of the result."""
        try:
            yield
        except OSError as error:
            raise SinkError(f"{self._folder}: {reason(error)}") from error


class TrackReader:
    """Reads one track file back, in step with a video that is being written. path: named by its form, see SUFFIXES.

    What is in it may come from anybody, so it is read as that form and no other: FFmpeg has formats that are lists of
    other files to open. And whatever it should ask for, nothing else is opened.
    """

    def __init__(self, path: Path) -> None:
        form = next(form for form, suffix in SUFFIXES.items() if path.suffix == f".{suffix}")
        self._file = path.open("rb")
        try:
            self._container = av.open(self._file, format=form, metadata_errors="replace", io_open=_nothing_else)
        except BaseException:
            self._file.close()
            raise
        streams = self._container.streams
        self.streams = sorted((*streams.audio, *streams.subtitles), key=lambda stream: stream.index)
        self._packets: Iterator[av.Packet] = iter(())
        self._next: av.Packet | None = None
        self._order = _Order()

    def start(self, streams: Sequence[av.stream.Stream]) -> None:
        """Choose the streams to read; to be called once."""
        self._packets = self._container.demux(*streams) if streams else iter(())
        self._advance()

    def until(self, seconds: Fraction | None) -> Iterator[av.Packet]:
        """The packets due up to that time, in file order; all that are left if None."""
        while self._next is not None and (seconds is None or _seconds(self._next) <= seconds):
            packet = self._next
            self._advance()
            yield packet

    def close(self) -> None:
        self._container.close()
        self._file.close()

    def _advance(self) -> None:
        self._next = next((packet for packet in self._packets if packet.size), None)
        if self._next is not None and self._next.stream.type == "audio":
            self._order.mend(self._next)


class _Order:
    """Packets of sound as muxers want them, each stream's one after another."""

    def __init__(self):
        self._last: dict[int, int] = {}  # dts, by stream

    def mend(self, packet: av.Packet) -> None:
        if packet.dts is None:
            return
        last = self._last.get(packet.stream_index, packet.dts - 1)
        # AVI and Matroska may not say how long a packet lasts; MP4 would then end the track before the last one.
        if not packet.duration and packet.stream_index in self._last:
            packet.duration = max(0, packet.dts - last)
        # Matroska counts milliseconds, and two packets may have the same one.
        if 0 <= (last - packet.dts) * packet.time_base < _SAME_TIME:
            packet.dts = last + 1
            packet.pts = packet.dts if packet.pts is None else max(packet.pts, packet.dts)
        self._last[packet.stream_index] = packet.dts


def readable(path: Path) -> bool:
    """Is this a track file that can be opened?"""
    try:
        TrackReader(path).close()
    except (av.FFmpegError, OSError, ValueError):
        return False
    return True


def mend(path: Path, holes: Sequence[range], folder: Path) -> tuple[list[Path], int]:
    """Copy what can be read of a damaged track file into whole ones, without the packets that lie in holes.

    holes: in rising order. folder: for the new files, to be made. Returns them, none if nothing can be read, and how
    many packets are left out.
    """
    folder.mkdir()
    left_out = 0
    try:
        with closing(TrackReader(path)) as reader:
            writer = TrackWriter(reader.streams, folder)
            if not writer.paths:
                return [], 0
            writer.open(reader.streams[0].container)
            with closing(writer):
                reader.start([stream for stream in reader.streams if stream.index in writer.stream_indices])
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


def _nothing_else(url: str, flags: int, options: dict) -> None:
    raise PermissionError(f"a track file asks for {url}")


def put(packet: av.Packet, stream: av.stream.Stream) -> None:
    """Give a packet to a stream that is being written."""
    packet.stream = stream
    # MP4 takes nothing that lasts too long, and does not give back what lasts no time and comes last. Image subtitles
    # may say either: that they stay until the next one.
    in_mp4 = stream.container.format.name in ("mp4", "mov")
    if in_mp4 and stream.type == "subtitle" and not 0 < (packet.duration or 0) <= _INT32:
        packet.duration = ticks(_UNTIL_THE_NEXT, packet.time_base)
    stream.container.mux(packet)


def copy_stream(container: av.container.OutputContainer, template: av.stream.Stream) -> av.stream.Stream:
    """A stream in container that takes template's packets as they are, with its name and its role."""
    stream = _added(container, template)
    stream.disposition = template.disposition
    for key in ("language", "title"):
        if key in template.metadata:
            stream.metadata[key] = template.metadata[key]
    return stream


def _added(container: av.container.OutputContainer, template: av.stream.Stream) -> av.stream.Stream:
    stream = container.add_stream_from_template(template)
    # AVI and Matroska say how many channels there are, not which. What everybody takes them for, MP4 wants to be told.
    if template.type == "audio" and template.codec_context and template.layout.name == f"{template.channels} channels":
        with suppress(KeyError):
            stream.codec_context.layout = _USUAL_LAYOUTS[template.channels]
    return stream


def _preferred_formats(stream: av.stream.Stream) -> tuple[str, str]:
    from_matroska = "matroska" in stream.container.format.name
    return ("matroska", "mp4") if from_matroska else ("mp4", "matroska")


def _codec_name(stream: av.stream.Stream) -> str:
    return stream.codec.canonical_name if stream.codec_context else "of an unknown codec"


def _language(stream: av.stream.Stream) -> str:
    return "" if stream.language in (None, "und") else stream.language


def _seconds(packet: av.Packet) -> Fraction:
    ticks = packet.dts if packet.dts is not None else packet.pts
    return Fraction(0) if ticks is None else ticks * packet.time_base
