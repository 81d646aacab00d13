"""Chunks: the pieces an .sdv file is made of; each can be checked, skipped, and found again after damage.

    kind[4]  u32 size  payload[size]  u32 crc32(kind, size, payload)

This module knows nothing of what is inside; the specification is in `container.py`.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from .errors import DamagedError, FormatError

GROUP, TRACK, INDEX, END = b"GRUP", b"TRAK", b"indx", b"ENDS"

MAX_PAYLOAD = 2**28
OVERHEAD = 12

_HEAD = struct.Struct("<4sI")
_CRC = struct.Struct("<I")
_KNOWN = re.compile(b"|".join((GROUP, TRACK, INDEX, END)))
_WINDOW = 2**20


@dataclass(frozen=True, slots=True)
class Damage:
    """What is wrong in a file, in words, and the byte offset where it begins."""

    offset: int
    what: str


class Chunk(NamedTuple):
    """Where a chunk lies: offset of its kind in the file, kind, size of its payload in bytes."""

    offset: int
    kind: bytes
    size: int

    @property
    def end(self) -> int:
        return self.offset + OVERHEAD + self.size

    @property
    def name(self) -> str:
        return self.kind.decode("latin-1")


class Found(NamedTuple):
    """A chunk whose CRC fits, with its payload and that CRC."""

    chunk: Chunk
    payload: bytes
    crc: int


def pack_chunk(kind: bytes, payload: bytes) -> bytes:
    """One chunk as bytes. Raises FormatError above 256 MiB."""
    if len(payload) > MAX_PAYLOAD:
        raise FormatError(f"a chunk of {len(payload)} bytes is larger than {MAX_PAYLOAD}")
    head = _HEAD.pack(kind, len(payload))
    return b"".join((head, payload, _CRC.pack(zlib.crc32(payload, zlib.crc32(head)))))


def chunk_crc(packed: bytes) -> int:
    """The CRC at the end of a packed chunk."""
    return _CRC.unpack(packed[-4:])[0]


def require_known(chunk: Chunk) -> None:
    """Raises FormatError for a chunk that must be understood (upper-case first letter) and is not known."""
    if chunk.kind not in (GROUP, TRACK, INDEX, END) and chunk.name[0].isupper():
        raise FormatError(f"needs a newer sdvideo: the {chunk.name} chunk at byte {chunk.offset} is unknown")


class ChunkFile:
    """The chunks of a seekable binary file; nothing is read before its size is known to be there."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, 2)
        # Bytes that may still be hashed in vain. Honest damage hashes every byte about twice; a file made of
        # nested false chunks would otherwise cost the square of its size.
        self._patience = 4 * self.size + _WINDOW

    def read(self, offset: int, size: int) -> bytes:
        """The bytes from `offset`, fewer than `size` at the end of the file."""
        self._file.seek(offset)
        return self._file.read(min(size, max(self.size - offset, 0)))

    def head(self, offset: int) -> Chunk | None:
        """What the eight bytes at `offset` say, if they can be the head of a chunk; it may end too far."""
        head = self.read(offset, _HEAD.size)
        if len(head) < _HEAD.size:
            return None
        kind, size = _HEAD.unpack(head)
        return Chunk(offset, kind, size) if kind.isalpha() and size <= MAX_PAYLOAD else None

    def load(self, chunk: Chunk) -> Found:
        """The chunk with its payload. Raises DamagedError if it is cut short or its CRC does not fit."""
        whole = chunk.end - chunk.offset
        data = self.read(chunk.offset, whole) if chunk.end <= self.size else b""
        if len(data) < whole:
            part = f"{self.size - chunk.offset} of {whole} bytes"
            raise DamagedError(f"the file ends within a {chunk.name} chunk ({part})")
        crc = zlib.crc32(memoryview(data)[:-4])
        if crc != chunk_crc(data):
            self._patience -= len(data)
            raise DamagedError(f"the CRC of a {chunk.name} chunk of {chunk.size} bytes does not fit")
        return Found(chunk, data[_HEAD.size : -4], crc)

    def walk(self, start: int, end: int) -> Iterator[Chunk]:
        """The chunks between two offsets, going by their sizes. Raises DamagedError if they do not fit."""
        while start < end:
            chunk = self.head(start)
            if chunk is None or chunk.end > end:
                raise DamagedError(f"no whole chunk at byte {start}")
            yield chunk
            start = chunk.end

    def scan(self, start: int) -> Iterator[Found | Damage]:
        """All good chunks from `start` to the end of the file and the damage between them, in file order."""
        while start < self.size:
            chunk = self.head(start)
            try:
                if chunk is None:
                    raise DamagedError(self._no_head(start))
                found = self.load(chunk)
            except DamagedError as error:
                good = self._recover(start, chunk)
                span = "" if good == self.size else f"; bytes {start} to {good - 1} are lost"
                yield Damage(start, f"{error}{span}")
                start = good
                continue
            yield found
            start = chunk.end

    def _no_head(self, offset: int) -> str:
        if self.size - offset < _HEAD.size:
            return "the file ends within the head of a chunk"
        return "there is no chunk where one should begin"

    def _recover(self, offset: int, chunk: Chunk | None) -> int:
        """Where the next good chunk after the bad one at `offset` begins, or the size of the file."""
        # First where the bad chunk says it ends: inside it there may be chunks of an .sdv carried as payload.
        if chunk is not None and (chunk.end == self.size or self._is_good(chunk.end)):
            return chunk.end
        for window in range(offset + 1, self.size, _WINDOW):
            # Three bytes more than a window, so that a kind lying across its end is found.
            for match in _KNOWN.finditer(self.read(window, _WINDOW + 3)):
                if self._patience < 0:
                    return self.size
                if self._is_good(window + match.start()):
                    return window + match.start()
        return self.size

    def _is_good(self, offset: int) -> bool:
        chunk = self.head(offset)
        try:
            return chunk is not None and chunk.end <= self.size and bool(self.load(chunk))
        except DamagedError:
            return False
