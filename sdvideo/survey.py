"""Reading an .sdv file from end to end: what is in it, what is wrong with it. Specified in `container.py`."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from .chunk import END, GROUP, INDEX, TRACK, Chunk, ChunkFile, Damage, Found, require_known
from .errors import DamagedError
from .group import Group, unpack_group
from .header import Header
from .layout import GroupEntry, pack_index, unpack_end, unpack_piece

_CRC = struct.Struct("<I")


class Tally:
    """What has gone by so far of a file's groups and track pieces: what the next ones must fit to.

    entries: the groups; frames: number the next frame should have; track_bytes: size of each track file so
    far; check: crc32 over the chunks' CRCs.
    """

    def __init__(self, blobs: int) -> None:
        self.entries: list[GroupEntry] = []
        self.frames = 0
        self.track_bytes = [0] * blobs
        self.check = 0
        self._last_pts: int | None = None

    def fault(self, group: Group) -> str | None:
        """Why the group cannot come next, or None. One that leaves out frames can."""
        if group.first < self.frames:
            return f"the group starts with frame {group.first}, but there are {self.frames} frames before it"
        if self._last_pts is not None and group.start_pts <= self._last_pts:
            return f"the group starts at pts {group.start_pts}, the one before ends with {self._last_pts}"
        return None

    def add_group(self, offset: int, size: int, group: Group, crc: int) -> None:
        """Count the group whose chunk is at `offset` and has a payload of `size` bytes."""
        count = len(group.frames)
        self.entries.append(GroupEntry(offset, size, group.first, count, group.start_pts, group.end_pts))
        self.frames = group.first + count
        self._last_pts = group.frames[-1].pts
        self.check = zlib.crc32(_CRC.pack(crc), self.check)

    def add_piece(self, blob: int, end: int, crc: int) -> None:
        """Count a piece that ends at byte `end` of track file `blob`."""
        self.track_bytes[blob] = end
        self.check = zlib.crc32(_CRC.pack(crc), self.check)


@dataclass(frozen=True, slots=True)
class Survey:
    """What a scan found: readable groups, TRAK chunks, whether the end chunk agrees, and all damage."""

    groups: tuple[GroupEntry, ...]
    pieces: tuple[Chunk, ...]
    complete: bool
    damage: tuple[Damage, ...]


def survey(file: ChunkFile, header: Header, start: int, tolerant: bool) -> Survey:
    """Read and check everything from the first chunk at offset `start`.

    tolerant: keep groups after missing frames; otherwise the groups found are the first ones without a gap.
    Raises FormatError for a chunk that must be understood and is not known.
    """
    tally, pieces, damage = Tally(len(header.blobs)), [], []
    index: Found | None = None
    end: Found | None = None
    for found in file.scan(start):
        if isinstance(found, Damage):
            damage.append(found)
            continue
        chunk = found.chunk
        require_known(chunk)
        try:
            if chunk.kind == GROUP:
                damage.extend(_take_group(found, tally, tolerant, header.info.time_base))
            elif chunk.kind == TRACK:
                damage.extend(_take_piece(found, tally))
                pieces.append(chunk)
            elif chunk.kind == INDEX:
                index = found
            elif chunk.kind == END:
                unpack_end(found.payload)
                end = found
                break
        except DamagedError as error:
            damage.append(Damage(chunk.offset, f"{chunk.name} chunk: {error}"))
    complete = end is not None and _agrees(tally, end)
    damage.extend(_judge_end(tally, end, file.size))
    if complete and not damage:
        damage.extend(_judge_index(tally, index, end, start))
    return Survey(tuple(tally.entries), tuple(pieces), complete, tuple(damage))


def time_range(start: int, end: int, time_base: Fraction) -> str:
    """Two pts in words."""
    return f"{float(start * time_base):.2f} s to {float(end * time_base):.2f} s"


def _take_group(found: Found, tally: Tally, tolerant: bool, time_base: Fraction) -> Iterator[Damage]:
    """Count a group, unless it cannot be where it is; tells which frames are missing before it."""
    group = unpack_group(found.payload)
    if fault := tally.fault(group):
        raise DamagedError(fault)
    if group.first > tally.frames:
        since = tally.entries[-1].end_pts if tally.entries else group.start_pts
        time = time_range(since, group.start_pts, time_base)
        yield Damage(found.chunk.offset, f"frames {tally.frames} to {group.first - 1} are missing ({time})")
        if not tolerant:
            return
    tally.add_group(found.chunk.offset, found.chunk.size, group, found.crc)


def _take_piece(found: Found, tally: Tally) -> Iterator[Damage]:
    """Count a piece of a track file; tells what is missing before it."""
    piece = unpack_piece(found.payload, len(tally.track_bytes))
    expected = tally.track_bytes[piece.blob]
    if piece.position != expected:
        what = f"track file {piece.blob} goes on at byte {piece.position} instead of {expected}"
        yield Damage(found.chunk.offset, what)
    tally.add_piece(piece.blob, piece.end, found.crc)


def _agrees(tally: Tally, end: Found) -> bool:
    """Whether the end chunk promises just what is there."""
    there = (sum(entry.frames for entry in tally.entries), len(tally.entries), tally.check)
    return unpack_end(end.payload)[:3] == there


def _judge_end(tally: Tally, end: Found | None, size: int) -> Iterator[Damage]:
    """What is wrong with the end chunk and behind it."""
    frames, groups = sum(entry.frames for entry in tally.entries), len(tally.entries)
    if end is None:
        what = f"there is no end chunk: the file is unfinished or cut short, after {frames} frames"
        yield Damage(size, what)
        return
    if not _agrees(tally, end):
        promise = unpack_end(end.payload)
        what = f"the end chunk promises {promise.frames} frames in {promise.groups} groups, with certain CRCs"
        yield Damage(end.chunk.offset, f"{what}; found are {frames} frames in {groups} groups")
    if end.chunk.end != size:
        yield Damage(end.chunk.end, f"{size - end.chunk.end} bytes follow the end chunk")


def _judge_index(tally: Tally, index: Found | None, end: Found, start: int) -> Iterator[Damage]:
    """What is wrong with the index, given that the groups and the end chunk agree."""
    promised, offset = unpack_end(end.payload).index, index.chunk.offset if index else 0
    if promised != offset or (index and index.chunk.end != end.chunk.offset):
        yield Damage(offset, f"the index is at byte {offset}; the end chunk says {promised}")
    if index and index.payload != pack_index(tally.entries, start):
        yield Damage(offset, "the index is not that of the groups in the file")
