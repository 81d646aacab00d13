"""Chunks: the pieces an .sdv file is made of; each can be checked, skipped, and found again after damage.

    kind[4]  u32 size  payload[size]  u32 crc32(kind, size, payload)

This module knows nothing of what is inside; the specification is in `container.py`.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike, fspath
from typing import BinaryIO, NamedTuple

from sdvideo.errors import DamagedError, FormatError, SdvError, SettingError, SourceError

GROUP, TRACK, INDEX, END = b"GRUP", b"TRAK", b"indx", b"ENDS"

MAX_PAYLOAD = 2**28
OVERHEAD = 12
HEAD_SIZE = 8

_HEAD = struct.Struct("<4sI")
_CRC = struct.Struct("<I")
_KNOWN = re.compile(b"|".join((GROUP, TRACK, INDEX, END)))
_WINDOW = 2**20


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


class Lost(NamedTuple):
    """Bytes from `offset` to before `end` in which there is no good chunk.

    kind: "cut" short by the end of the file, "checksum" of a chunk, or "structure", no chunk at all; what: in words;
    chunk: what its head says is there, None where there is no head.
    """

    offset: int
    end: int
    kind: str
    what: str
    chunk: Chunk | None


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
        """The bytes from `offset`, fewer than `size` at the end of the file. Raises SettingError if it is closed."""
        if self._file.closed:
            raise SettingError(f"{self._file.name} has been closed")
        offset = min(offset, self.size)  # no system goes to every offset that a file may name
        self._file.seek(offset)
        return self._file.read(min(size, self.size - offset))

    def head(self, offset: int) -> Chunk | None:
        """What the eight bytes at `offset` say, if they can be the head of a chunk; it may end too far."""
        head = self.read(offset, HEAD_SIZE)
        if len(head) < HEAD_SIZE:
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
        return Found(chunk, data[HEAD_SIZE:-4], crc)

    def walk(self, start: int, end: int) -> Iterator[Chunk]:
        """The chunks between two offsets, going by their sizes. Raises DamagedError if they do not fit."""
        while start < end:
            chunk = self.head(start)
            if chunk is None or chunk.end > end:
                raise DamagedError(f"no whole chunk at byte {start}")
            yield chunk
            start = chunk.end

    def scan(self, start: int) -> Iterator[Found | Lost]:
        """All good chunks from `start` to the end of the file and the damage between them, in file order."""
        while start < self.size:
            chunk = self.head(start)
            try:
                found = self.load(chunk) if chunk else None
            except DamagedError:
                found = None
            if found:
                yield found
                start = chunk.end
            else:
                good = self._recover(start, chunk)
                yield self._lost(start, good, chunk)
                start = good

    def _lost(self, offset: int, good: int, chunk: Chunk | None) -> Lost:
        """What is between `offset` and the next good chunk at `good`, where only a head may be whole."""
        cut, span = good == self.size, "" if good == self.size else f"; bytes {offset} to {good - 1} are lost"
        if chunk is None and cut and self.size - offset < HEAD_SIZE:
            kind, what = "cut", "the file ends within the head of a chunk"
        elif chunk is None:
            kind, what = "structure", "there is no chunk where one should begin"
        elif chunk.end <= self.size:
            kind, what = "checksum", f"the CRC of a {chunk.name} chunk of {chunk.size} bytes does not fit"
        elif cut:
            part = f"{self.size - offset} of {chunk.end - offset} bytes"
            kind, what = "cut", f"the file ends within a {chunk.name} chunk ({part})"
        else:
            kind, what = "structure", f"a {chunk.name} chunk has the impossible size of {chunk.size} bytes"
        return Lost(offset, good, kind, what + span, chunk)

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


@contextmanager
def _naming(path: str | PathLike[str], cannot: type[SdvError] = SourceError) -> Iterator[None]:
    """Put the file's name in front of every error, and make ours of the system's."""
    try:
        yield
    except FormatError as error:
        raise type(error)(f"{fspath(path)}: {error}") from error
    except OSError as error:
        raise cannot(f"{fspath(path)}: {error.strerror or error}") from error
