"""The payloads of the last two chunks of an .sdv file: `indx`, the seek index, and `ENDS`, the end chunk.

`container/__init__.py` has the specification. An index of n groups is read with array operations, since a long video
has thousands of groups and opening a file must take no time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple, overload

import numpy as np
import numpy.typing as npt

from sdvideo.errors import DamagedError

from .chunk import MAX_PAYLOAD, OVERHEAD
from .group import MAX_FRAMES, MAX_TIME
from .varint import put_svarint, put_varint

NO_LIMIT = 2**62  # as `limit` of unpack_index: accept groups beyond the end of the file, which may have lost bytes

_FIELDS = 5  # numbers in an entry of the index
_WINDOW = 2**18  # bytes of the index that are decoded together

_END = struct.Struct("<QIIQ")

END_SIZE = OVERHEAD + _END.size  # bytes of the whole end chunk


class GroupEntry(NamedTuple):
    """Where a group is, in the file and in time.

    offset: of its chunk in the file. size: bytes of the chunk's payload. first: number of its first frame. frames: how
    many. start_pts: pts of its first frame. end_pts: pts + duration of its last frame.
    """

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


class EndChunk(NamedTuple):
    """The content of the end chunk.

    frames, groups: how many are in the file. check: crc32 of the CRCs of the GRUP and TRAK chunks. index_offset: of the
    index chunk, 0 if there is none.
    """

    frames: int
    groups: int
    check: int
    index_offset: int


class GroupTable(Sequence[GroupEntry]):
    """A sequence of GroupEntry, stored as columns. Entries are made when they are asked for, so opening a file is fast.

    columns: int64 [6, groups], the fields of GroupEntry in their order.
    """

    def __init__(self, columns: npt.NDArray[np.int64]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return int(self.columns.shape[1])

    @overload
    def __getitem__(self, number: int) -> GroupEntry: ...

    @overload
    def __getitem__(self, number: slice) -> GroupTable: ...

    def __getitem__(self, number: int | slice) -> GroupEntry | GroupTable:
        if isinstance(number, slice):
            return GroupTable(self.columns[:, number])
        return GroupEntry(*self.columns[:, number].tolist())

    def __iter__(self) -> Iterator[GroupEntry]:
        return map(GroupEntry._make, zip(*self.columns.tolist()))

    def gaps(self, start: int, end: int) -> list[tuple[int, int]]:
        """The byte ranges from offset `start` to `end` that no group covers, as pairs of offsets."""
        offsets, sizes = self.columns[:2]
        begins, ends = np.concatenate([[start], offsets + OVERHEAD + sizes]), np.concatenate([offsets, [end]])
        apart = begins < ends
        return list(zip(begins[apart].tolist(), ends[apart].tolist()))


def pack_index(entries: Sequence[GroupEntry], start: int) -> bytes:
    """The payload of the index chunk. entries: all groups, with no frame missing. start: offset of the first chunk."""
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


def unpack_index(payload: bytes, start: int, limit: int) -> GroupTable:
    """The entries of an index. start: offset of the first chunk; limit: offset at which the last group ends at most.

    Raises DamagedError if an entry is impossible. Each entry takes at least OVERHEAD bytes between `start` and `limit`,
    so there are no more entries than fit in the file.
    """
    data, at = np.frombuffer(payload, np.uint8), 0
    parts: list[npt.NDArray[np.int64]] = []
    last = GroupEntry(0, 0, 0, 0, -MAX_TIME - 1, 0)
    while at < len(data):
        numbers, size = _take_numbers(data[at : at + _WINDOW])
        part = _to_columns(numbers, start, last)
        _check_groups(part, numbers, limit, last, sum(done.shape[1] for done in parts))
        parts.append(part)
        last, at = GroupEntry(*part[:, -1].tolist()), at + size
        start = last.end
    return GroupTable(np.concatenate(parts, axis=1) if parts else np.empty((6, 0), np.int64))


def _take_numbers(data: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int64], int]:
    """Read whole entries, five varints each, from the start of some bytes.

    Returns int64 [entries, 5], with svarints still in their unsigned form, and how many bytes these entries take.
    """
    ends = np.flatnonzero(data < 128) + 1
    ends = ends[: len(ends) // _FIELDS * _FIELDS]
    starts = np.concatenate([[0], ends[:-1]])
    sizes = ends - starts
    if not len(ends) or sizes.max() > 9:
        raise DamagedError("a number of the index is cut off or longer than 9 bytes")
    if ((data[ends - 1] == 0) & (sizes > 1)).any():
        raise DamagedError("a number of the index is not in its shortest form")
    numbers = (data[starts] & 127).astype(np.int64)
    for place in range(1, int(sizes.max())):
        longer = np.flatnonzero(sizes > place)
        numbers[longer] |= (data[starts[longer] + place] & 127).astype(np.int64) << 7 * place
    return numbers.reshape(-1, _FIELDS), int(ends[-1])


def _to_columns(numbers: npt.NDArray[np.int64], start: int, last: GroupEntry) -> npt.NDArray[np.int64]:
    """Stored entries, int64 [entries, 5] -> columns of a GroupTable.

    last: the entry before these. start: offset at which its group ends.
    """
    gaps, sizes, frames, pauses, spans = numbers.T
    pauses = (pauses >> 1) ^ -(pauses & 1)
    ends = start + np.cumsum(gaps + OVERHEAD + sizes)
    firsts = last.first + last.frames + np.cumsum(frames) - frames
    end_pts = last.end_pts + np.cumsum(pauses + spans)
    return np.stack([ends - sizes - OVERHEAD, sizes, firsts, frames, end_pts - spans, end_pts])


def _check_groups(
    part: npt.NDArray[np.int64], numbers: npt.NDArray[np.int64], limit: int, last: GroupEntry, before: int
) -> None:
    """Raises DamagedError for the first impossible entry of some columns.

    numbers: the same entries as they are stored. last: the entry before these. before: how many entries come before.
    """
    # No sum overflows before the first impossible entry. If one overflows there, its result is impossible as well.
    offsets, sizes, _, frames, starts, _ = part
    gaps, spans = numbers[:, 0], numbers[:, 4]
    earlier = np.concatenate([[last.start_pts], starts[:-1]])
    good = (gaps <= limit) & (sizes <= MAX_PAYLOAD) & (offsets >= 0) & (offsets + OVERHEAD + sizes <= limit)
    good &= (frames >= 1) & (frames <= np.minimum(MAX_FRAMES, sizes))
    good &= (earlier < starts) & (starts <= MAX_TIME) & (frames - 1 <= spans) & (spans <= 3 * MAX_TIME)
    if not good.all():
        raise DamagedError(f"entry {before + int(np.argmin(good))} of the index is impossible")


def pack_end(end: EndChunk) -> bytes:
    """The payload of the end chunk."""
    return _END.pack(*end)


def unpack_end(payload: bytes) -> EndChunk:
    """The content of the end chunk. Raises DamagedError if the payload has a wrong size."""
    if len(payload) != _END.size:
        raise DamagedError(f"an end chunk has a payload of {len(payload)} bytes, not {_END.size}")
    return EndChunk(*_END.unpack(payload))
