"""A running account of the groups and track pieces of a file, kept by the writer and by the recovery scan."""

from __future__ import annotations

import struct
import zlib

from .group import Group
from .index import GroupEntry

_CRC = struct.Struct("<I")


class Ledger:
    """The groups and track pieces of a file up to some point, against which the next ones are checked.

    entries: an entry for each group. last_pts: pts of the last frame of each group. frames: the number that the next
    frame should have. track_bytes: size of each track file so far. check: crc32 of the CRCs of the chunks, as in ENDS.
    """

    def __init__(self, blobs: int) -> None:
        self.entries: list[GroupEntry] = []
        self.last_pts: list[int] = []
        self.frames = 0
        self.track_bytes = [0] * blobs
        self.check = 0

    def conflict(self, group: Group) -> str | None:
        """Why a group cannot come next, in words; None if it can. Frames may be missing before the group."""
        missing = group.first - self.frames
        if missing < 0:
            return f"the group starts with frame {group.first}, but there are {self.frames} frames before it"
        if self.last_pts and group.start_pts <= self.last_pts[-1] + missing:
            room = f", and {missing} frames are missing between them" if missing else ""
            return f"the group starts at pts {group.start_pts}, but the one before ends at {self.last_pts[-1]}{room}"
        return None

    def add_group(self, offset: int, size: int, group: Group, crc: int) -> None:
        """Add a group. offset: of its chunk; size: bytes of the chunk's payload; crc: of the chunk."""
        count = len(group.frames)
        self.entries.append(GroupEntry(offset, size, group.first, count, group.start_pts, group.end_pts))
        self.last_pts.append(group.frames[-1].pts)
        self.frames = group.first + count
        self.check = zlib.crc32(_CRC.pack(crc), self.check)

    def add_piece(self, blob: int, end: int, crc: int) -> None:
        """Add a piece of track file `blob`. end: offset of its end in the track file; crc: of the chunk."""
        self.track_bytes[blob] = end
        self.check = zlib.crc32(_CRC.pack(crc), self.check)
