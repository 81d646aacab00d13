"""TODO docstring."""

from __future__ import annotations

import struct
import zlib

from .group import Group
from .index import GroupEntry

_CRC = struct.Struct("<I")


class Tally:
    """What has gone by so far of a file's groups and track pieces: what the next ones must fit to.

    entries: the groups; last_pts: of each; frames: number the next frame should have; track_bytes: size of each track
    file so far; check: crc32 over the chunks' CRCs.
    """

    def __init__(self, blobs: int) -> None:
        self.entries: list[GroupEntry] = []
        self.last_pts: list[int] = []
        self.frames = 0
        self.track_bytes = [0] * blobs
        self.check = 0

    def fault(self, group: Group) -> str | None:
        """Why the group cannot come next, or None. One that leaves out frames can."""
        missing = group.first - self.frames
        if missing < 0:
            return f"the group starts with frame {group.first}, but there are {self.frames} frames before it"
        if self.last_pts and group.start_pts <= self.last_pts[-1] + missing:
            room = f" with {missing} frames between" if missing else ""
            return f"the group starts at pts {group.start_pts}, the one before ends with {self.last_pts[-1]}{room}"
        return None

    def add_group(self, offset: int, size: int, group: Group, crc: int) -> None:
        """Count the group whose chunk is at `offset` and has a payload of `size` bytes."""
        count = len(group.frames)
        self.entries.append(GroupEntry(offset, size, group.first, count, group.start_pts, group.end_pts))
        self.last_pts.append(group.frames[-1].pts)
        self.frames = group.first + count
        self.check = zlib.crc32(_CRC.pack(crc), self.check)

    def add_piece(self, blob: int, end: int, crc: int) -> None:
        """Count a piece that ends at byte `end` of track file `blob`."""
        self.track_bytes[blob] = end
        self.check = zlib.crc32(_CRC.pack(crc), self.check)
