"""The fixed parts of an .sdv file, as pairs of functions: preamble, track piece, seek index, end.

The specification is in `container.py`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from .chunk import MAX_PAYLOAD, OVERHEAD, ChunkFile
from .errors import DamagedError, FormatError
from .group import MAX_FRAMES, MAX_TIME, put_svarint, put_varint, take_svarint, take_varint
from .header import Header, pack_header, unpack_header

MAGIC = bytes.fromhex("89 53 44 56 0D 0A 1A 0A")
MAJOR, MINOR = 1, 0
MAX_HEADER = 2**20
MAX_PIECE = 2**20
ANYWHERE = 2**62  # the limit of an index whose file is not what it was

_PREAMBLE = struct.Struct("<8sHHI")
_CRC = struct.Struct("<I")
_PIECE = struct.Struct("<BQ")
_END = struct.Struct("<QIIQ")

END_SIZE = OVERHEAD + _END.size


class Piece(NamedTuple):
    """A piece of a track file: number of the file, offset of the piece in it, its bytes."""

    blob: int
    position: int
    data: bytes

    @property
    def end(self) -> int:
        return self.position + len(self.data)


class GroupEntry(NamedTuple):
    """Where a group is. offset: of its chunk; size: bytes of its payload; first: number of its first frame;
    frames: how many; start_pts: pts of the first frame; end_pts: pts + duration of the last one."""

    offset: int
    size: int
    first: int
    frames: int
    start_pts: int
    end_pts: int

    @property
    def end(self) -> int:
        """Offset of the first byte after the group's chunk."""
        return self.offset + OVERHEAD + self.size


class End(NamedTuple):
    """The end chunk: frames and groups in the file, crc32 over its chunks' CRCs, offset of the index or 0."""

    frames: int
    groups: int
    check: int
    index: int


def pack_preamble(header: Header) -> bytes:
    """Everything before the first chunk. Raises FormatError if the header is not valid or above 1 MiB."""
    text = pack_header(header)
    if len(text) > MAX_HEADER:
        raise FormatError(f"header: {len(text)} bytes, more than {MAX_HEADER}")
    data = _PREAMBLE.pack(MAGIC, MAJOR, MINOR, len(text)) + text
    return data + _CRC.pack(zlib.crc32(data))


def read_preamble(file: ChunkFile) -> tuple[Header, int]:
    """The header, and the offset of the first chunk. Raises FormatError or DamagedError."""
    fixed = file.read(0, _PREAMBLE.size)
    if fixed[:4] != MAGIC[:4]:
        raise FormatError("not an .sdv file")
    if len(fixed) < _PREAMBLE.size:
        raise DamagedError(f"the file ends after {len(fixed)} bytes, within its header")
    magic, major, minor, length = _PREAMBLE.unpack(fixed)
    if magic != MAGIC:
        raise DamagedError("the line ends in its first bytes are changed, as by a transfer in text mode")
    if major != MAJOR:
        age = "a newer" if major > MAJOR else "an unknown"
        raise FormatError(f"made by {age} sdvideo (format {major}.{minor}); this one reads {MAJOR}.x")
    if not 2 <= length <= MAX_HEADER:
        raise FormatError(f"header: {length} bytes, not 2 to {MAX_HEADER}")
    data = file.read(0, _PREAMBLE.size + length + _CRC.size)
    if len(data) < _PREAMBLE.size + length + _CRC.size:
        raise DamagedError(f"the file ends after {len(data)} bytes, within its header")
    if _CRC.pack(zlib.crc32(data[:-4])) != data[-4:]:
        raise DamagedError("the CRC of the header does not fit")
    return unpack_header(data[_PREAMBLE.size : -4]), len(data)


def pack_piece(piece: Piece) -> bytes:
    """The payload of a TRAK chunk."""
    return _PIECE.pack(piece.blob, piece.position) + piece.data


def unpack_piece(payload: bytes, blobs: int) -> Piece:
    """The piece in a TRAK chunk of a file with that many blobs. Raises DamagedError."""
    if not _PIECE.size < len(payload) <= _PIECE.size + MAX_PIECE:
        raise DamagedError(f"a track piece of {len(payload)} bytes")
    blob, position = _PIECE.unpack_from(payload)
    if blob >= blobs:
        raise DamagedError(f"a piece of track file {blob}, but the header announces {blobs}")
    return Piece(blob, position, payload[_PIECE.size :])


def pack_index(entries: Sequence[GroupEntry], start: int) -> bytes:
    """The index of groups with no frame missing between them; the first chunk of the file is at `start`."""
    index = bytearray()
    end, end_pts = start, 0
    for entry in entries:
        put_varint(index, entry.offset - end)
        put_varint(index, entry.size)
        put_varint(index, entry.frames)
        put_svarint(index, entry.start_pts - end_pts)
        put_varint(index, entry.end_pts - entry.start_pts)
        end, end_pts = entry.end, entry.end_pts
    return bytes(index)


def unpack_index(payload: bytes, start: int, limit: int) -> list[GroupEntry]:
    """The entries of an index whose groups lie between the offsets `start` and `limit`.

    Raises DamagedError if they do not; as each takes its room, no more entries than fit in the file.
    """
    entries: list[GroupEntry] = []
    at, end, first, last_start, end_pts = 0, start, 0, -MAX_TIME - 1, 0
    while at < len(payload):
        gap, at = take_varint(payload, at)
        size, at = take_varint(payload, at)
        frames, at = take_varint(payload, at)
        pause, at = take_svarint(payload, at)
        span, at = take_varint(payload, at)
        start_pts = end_pts + pause
        entry = GroupEntry(end + gap, size, first, frames, start_pts, start_pts + span)
        end += gap + OVERHEAD + size
        in_order = last_start < start_pts <= MAX_TIME and frames - 1 <= span <= 3 * MAX_TIME
        if end > limit or not 1 <= frames <= min(MAX_FRAMES, size) or size > MAX_PAYLOAD or not in_order:
            raise DamagedError(f"entry {len(entries)} of the index is impossible")
        entries.append(entry)
        first, last_start, end_pts = first + frames, start_pts, start_pts + span
    return entries


def pack_end(end: End) -> bytes:
    """The payload of the end chunk."""
    return _END.pack(*end)


def unpack_end(payload: bytes) -> End:
    """The end chunk in its payload. Raises DamagedError if that has another size."""
    if len(payload) != _END.size:
        raise DamagedError(f"an end chunk of {len(payload)} bytes, not {_END.size}")
    return End(*_END.unpack(payload))
