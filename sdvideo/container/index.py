"""The fixed parts of an .sdv file, as pairs of functions: preamble, track piece, seek index, end.

The specification is in `container.py`.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from sdvideo.errors import DamagedError, FormatError

from .chunk import MAX_PAYLOAD, OVERHEAD, ChunkFile
from .group import MAX_FRAMES, MAX_TIME
from .header import Header, pack_header, unpack_header
from .varint import put_svarint, put_varint

MAGIC = bytes.fromhex("89 53 44 56 0D 0A 1A 0A")
MAJOR, MINOR = 2, 0
MAX_HEADER = 2**20
MAX_PIECE = 2**20
ANYWHERE = 2**62  # the limit of an index whose file is not what it was

_FIELDS = 5  # numbers an entry of the index has
_WINDOW = 2**18  # bytes of the index that are looked at together

_PREAMBLE = struct.Struct("<8sHHI")
_CRC = struct.Struct("<I")
_DEFLATED = b"\x01"
_PIECE = struct.Struct("<BQ")
_END = struct.Struct("<QIIQ")

END_SIZE = OVERHEAD + _END.size

# What deflated headers are thought to follow: the more usual, the nearer to the end.
_USUAL = (
    b'"frames":1,"icc":"eJx","rotation":-90,"full_range":true,"sar":[4,3],[16,11],[1001,[1,16000],[1,15360],[1,90000],'
    b'"subtitle","codec":"mov_text","language":"eng","blob":1,"index":1},"subrip","opus","flac","ac3","mp3","vorbis",'
    b'"matroska"],"chapters":[{"start":0,"end":1000,"time_base":[1,1000],"title":"Chapter 1"},'
    b'"metadata":{"title":"","artist":"","comment":"","date":"","timecode":"creation_time":"description":"copyright":'
    b'"keyint":"scale":"size":"bitrate":"quantizer":"palette","quality":null,"best","fast"},"base":"none",'
    b'"coder":"context-1","model":{"name":"embedded","revision":"2026-11-28",'
    b'"sha256":"c1596305c469895e12f9e49c14e9128ad5bb6a29755cba0eda7d3cce3bcef89b"},'
    b'"latent":{"channels":384,"block":16},"scale":[2,3],"scale":[1,2],"restorer":{"name":"restore"'
    b'{"sdv":{"writer":"sdvideo 0.1.0"},"video":{"width":1920,"height":1080,"time_base":[1,12800],"rate":[30000,1001],'
    b'"rate":[30,1],"rate":[25,1],"frames":250,"colour":{"matrix":6,"primaries":6,"transfer":6}},'
    b'"colour":{"matrix":1,"primaries":1,"transfer":1}},"blobs":["mp4"],"tracks":[{"kind":"audio","codec":"aac",'
    b'"language":"und","blob":0,"index":0}],"base":"av1","model":{"name":"restore","revision":"2026-11-28b",'
    b'"sha256":"fad14cc29baef8306e45b4ca7dc5a0491e62ae9a5efd7ad3d2a8bf169a955b07"},'
    b'"settings":{"preset":"fast"}}"settings":{"quality":40.0}}'
)


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


def is_ours(path: str | os.PathLike) -> bool:
    """Whether a file begins like an .sdv. Raises OSError where it cannot be read."""
    with open(path, "rb") as file:
        return file.read(4) == MAGIC[:4]


def pack_preamble(header: Header) -> bytes:
    """Everything before the first chunk. Raises FormatError if the header is not valid or above 1 MiB."""
    text = deflated(pack_header(header))
    data = _PREAMBLE.pack(MAGIC, MAJOR, MINOR, len(text)) + text
    return data + _CRC.pack(zlib.crc32(data))


def deflated(text: bytes) -> bytes:
    """A JSON header as it is stored. Raises FormatError if it is longer than 1 MiB."""
    if len(text) > MAX_HEADER:
        raise FormatError(f"header: {len(text)} bytes, more than {MAX_HEADER}")
    pack = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, zdict=_USUAL)
    return _DEFLATED + pack.compress(text) + pack.flush()


def inflated(data: bytes) -> bytes:
    """The inverse of deflated; a header that is plain JSON stays as it is. Raises FormatError."""
    if data[:1] != _DEFLATED:
        return data
    unpack = zlib.decompressobj(-zlib.MAX_WBITS, zdict=_USUAL)
    try:
        text = unpack.decompress(data[1:], MAX_HEADER + 1)
    except zlib.error as error:
        raise FormatError(f"header: cannot be unpacked: {error}") from error
    if not unpack.eof or unpack.unused_data or len(text) > MAX_HEADER:
        raise FormatError(f"header: is not one whole text of up to {MAX_HEADER} bytes")
    return text


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
    return unpack_header(inflated(data[_PREAMBLE.size : -4])), len(data)


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


class GroupTable(Sequence):
    """GroupEntries that become one each only when asked for: opening a file takes no time for those that nobody reads.

    columns: int64 [6, groups], the fields of the entries.
    """

    def __init__(self, columns: np.ndarray) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return self.columns.shape[1]

    def __getitem__(self, number: int | slice) -> GroupEntry | GroupTable:
        if isinstance(number, slice):
            return GroupTable(self.columns[:, number])
        return GroupEntry(*self.columns[:, number].tolist())

    def __iter__(self) -> Iterator[GroupEntry]:
        return map(GroupEntry._make, zip(*self.columns.tolist()))

    def gaps(self, start: int, end: int) -> list[tuple[int, int]]:
        """Where there is something before, between and behind the groups, from offset `start` to `end`."""
        offsets, sizes = self.columns[:2]
        begins, ends = np.concatenate([[start], offsets + OVERHEAD + sizes]), np.concatenate([offsets, [end]])
        apart = begins < ends
        return list(zip(begins[apart].tolist(), ends[apart].tolist()))


def unpack_index(payload: bytes, start: int, limit: int) -> GroupTable:
    """The entries of an index whose groups lie between the offsets `start` and `limit`.

    Raises DamagedError if they do not; as each takes its room, no more entries than fit in the file.
    """
    data, at = np.frombuffer(payload, np.uint8), 0
    parts, last = [], GroupEntry(0, 0, 0, 0, -MAX_TIME - 1, 0)
    while at < len(data):
        numbers, size = _take_numbers(data[at : at + _WINDOW])
        part = _place_groups(numbers, start, last)
        _check_groups(part, numbers, limit, last, sum(len(part[0]) for part in parts))
        parts.append(part)
        last, at = GroupEntry(*part[:, -1].tolist()), at + size
        start = last.end
    return GroupTable(np.concatenate(parts, axis=1) if parts else np.empty((6, 0), np.int64))


def _take_numbers(data: np.ndarray) -> tuple[np.ndarray, int]:
    """The whole entries at the start of some bytes, as varints: int64 [entries, 5]; and the bytes they take."""
    ends = np.flatnonzero(data < 128) + 1
    ends = ends[: len(ends) // _FIELDS * _FIELDS]
    starts = np.concatenate([[0], ends[:-1]])
    sizes = ends - starts
    if not len(ends) or sizes.max() > 9:
        raise DamagedError("a number of the index is cut off or longer than 9 bytes")
    if ((data[ends - 1] == 0) & (sizes > 1)).any():
        raise DamagedError("a number of the index is not in its shortest form")
    numbers = (data[starts] & 127).astype(np.int64)
    for place in range(1, sizes.max()):
        longer = np.flatnonzero(sizes > place)
        numbers[longer] |= (data[starts[longer] + place] & 127).astype(np.int64) << 7 * place
    return numbers.reshape(-1, _FIELDS), int(ends[-1])


def _place_groups(numbers: np.ndarray, start: int, last: GroupEntry) -> np.ndarray:
    """Entries as they are stored -> columns of a GroupTable, after the entry `last`, which ends at offset `start`."""
    gaps, sizes, frames, pauses, spans = numbers.T
    pauses = (pauses >> 1) ^ -(pauses & 1)
    ends = start + np.cumsum(gaps + OVERHEAD + sizes)
    firsts = last.first + last.frames + np.cumsum(frames) - frames
    end_pts = last.end_pts + np.cumsum(pauses + spans)
    return np.stack([ends - sizes - OVERHEAD, sizes, firsts, frames, end_pts - spans, end_pts])


def _check_groups(part: np.ndarray, numbers: np.ndarray, limit: int, last: GroupEntry, before: int) -> None:
    """Raises DamagedError for the first impossible one of some columns. before: how many entries there were."""
    # Up to the first impossible entry no sum here can have overflowed, and in that one it gives something impossible.
    offsets, sizes, _, frames, starts, _ = part
    gaps, spans = numbers[:, 0], numbers[:, 4]
    earlier = np.concatenate([[last.start_pts], starts[:-1]])
    good = (gaps <= limit) & (sizes <= MAX_PAYLOAD) & (offsets >= 0) & (offsets + OVERHEAD + sizes <= limit)
    good &= (frames >= 1) & (frames <= np.minimum(MAX_FRAMES, sizes))
    good &= (earlier < starts) & (starts <= MAX_TIME) & (frames - 1 <= spans) & (spans <= 3 * MAX_TIME)
    if not good.all():
        raise DamagedError(f"entry {before + int(np.argmin(good))} of the index is impossible")


def pack_end(end: End) -> bytes:
    """The payload of the end chunk."""
    return _END.pack(*end)


def unpack_end(payload: bytes) -> End:
    """The end chunk in its payload. Raises DamagedError if that has another size."""
    if len(payload) != _END.size:
        raise DamagedError(f"an end chunk of {len(payload)} bytes, not {_END.size}")
    return End(*_END.unpack(payload))
