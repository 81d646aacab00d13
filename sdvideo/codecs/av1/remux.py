"""Copies the AV1 base of a file into an MP4 or Matroska that any AV1 player shows; nothing is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import av

from sdvideo.container.group import KEY, CodedFrame
from sdvideo.errors import SinkError
from sdvideo.frames import StreamInfo
from sdvideo.media.formats import MUXERS, Destination, output_format
from sdvideo.media.muxer import MuxedSink

from .header_compression import Unpacker

_TEMPORAL_DELIMITER = b"\x12\x00"  # the OBU that begins a temporal unit


def open_remux(
    path: Destination,
    info: StreamInfo,
    first: CodedFrame,
    *,
    track_files: Sequence[Path] = (),
    format: str | None = None,
) -> RemuxSink:
    """Open an MP4 or Matroska file that coded frames are copied into.

    first: the first frame that will be written. The other arguments are those of `media.output.open_sink`. Raises
    SinkError if the format cannot hold AV1, or the file cannot be created.
    """
    kind = output_format(path, format)
    if kind not in MUXERS:
        raise SinkError(f"{kind} does not hold AV1; .mp4 and .mkv do")
    return RemuxSink(path, info, kind, track_files, first)


class RemuxSink(MuxedSink[CodedFrame]):
    """Copied AV1 beside copied tracks. first: the first frame, whose sequence header describes the stream."""

    def __init__(
        self, path: Destination, info: StreamInfo, kind: str, track_files: Sequence[Path], first: CodedFrame
    ) -> None:
        self._first, self._unpacker = first, Unpacker()
        super().__init__(path, info, kind, track_files)

    def _check(self, frame: CodedFrame) -> None:
        pass  # each group has its own size

    def _write(self, frame: CodedFrame) -> None:
        packet = av.Packet(self._tagged(b"".join(self._unpacker.obus(frame.data, frame.kind == KEY))))
        packet.time_base, packet.stream = self._time_base, self._stream
        packet.pts = packet.dts = self._ticks(frame.pts)
        packet.duration = max(1, self._ticks(self._duration(frame)))
        packet.is_keyframe = frame.kind == KEY
        self._mux_video([packet])

    def _add_video(self) -> av.VideoStream:
        # FFmpeg recognises a bare AV1 stream by the delimiter before its first unit.
        unit = b"".join([_TEMPORAL_DELIMITER, *Unpacker().obus(self._first.data, first=True)])
        with av.open(BytesIO(unit), format="obu") as sequence:
            colour = self._info.colour
            tags = "av1_metadata=color_primaries={}:transfer_characteristics={}:matrix_coefficients={}:color_range={}"
            span = "pc" if colour.full_range else "tv"
            self._tagger = av.BitStreamFilterContext(
                tags.format(colour.primaries, colour.transfer, colour.matrix, span), sequence.streams.video[0]
            )
        with av.open(BytesIO(self._tagged(unit)), format="obu") as sequence:
            # opaque: copies the codec's parameters, since PyAV has no encoder of the decoder's name.
            stream = self._container.add_stream_from_template(sequence.streams.video[0], opaque=True)
        stream.time_base = self._time_base
        return stream

    def _tagged(self, unit: bytes) -> bytes:
        """A temporal unit whose sequence header, if it has one, names the colours of the video."""
        return b"".join(bytes(packet) for packet in self._tagger.filter(av.Packet(unit)))
