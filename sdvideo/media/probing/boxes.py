"""The boxes that MP4, QuickTime and HEIF files consist of (ISO/IEC 14496-12): a size, a kind, contents."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO


def boxes(data: bytes, at: int = 0) -> Iterator[tuple[bytes, bytes]]:
    """Kind and contents of each box in the contents of another one. Raises ValueError for one that does not fit."""
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if size == 1 and at + 16 <= len(data):
            (size,), head = struct.unpack_from(">Q", data, at + 8), 16
        size = size or len(data) - at
        if size < head or at + size > len(data):
            raise ValueError("a box does not fit into the one around it")
        yield kind, data[at + head : at + size]
        at += size


def top_boxes(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the contents of each box of a file; the last one may be cut short."""
    whole, at = os.fstat(file.fileno()).st_size, 0
    while at + 8 <= whole:
        file.seek(at)
        size, kind = struct.unpack(">I4s", file.read(8))
        head = 8
        if size == 1 and at + 16 <= whole:
            (size,), head = struct.unpack(">Q", file.read(8)), 16
        end = at + size if size else whole
        if size and size < head:
            return  # bytes after the last box, which some cameras append
        yield kind, at + head, min(end, whole)
        at = end
