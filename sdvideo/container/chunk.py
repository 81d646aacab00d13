"""Chunks, the units of an .sdv file after its header: packing, checking, skipping, and finding them after damage.

    kind[4]  u32 size  payload[size]  u32 crc32(kind, size, payload)

Kind and size are the chunk header. This module does not look into payloads. `container/__init__.py` has the
specification.
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

MAX_PAYLOAD = 2**28  # bytes
OVERHEAD = 12  # bytes of a chunk beside its payload
CHUNK_HEADER_SIZE = 8  # bytes of kind and size

_HEADER = struct.Struct("<4sI")
_CRC = struct.Struct("<I")
_KNOWN_KIND = re.compile(b"|".join((GROUP, TRACK, INDEX, END)))
_WINDOW = 2**20  # bytes searched for a chunk at a time


class Chunk(NamedTuple):
    """Position and kind of a chunk.

    offset: of its first byte in the file. kind: four ASCII letters. size: bytes of its payload.
    """

    offset: int
    kind: bytes
    size: int

    @property
    def end(self) -> int:
        """Offset of the first byte after the chunk."""
        return self.offset + OVERHEAD + self.size

    @property
    def name(self) -> str:
        """The kind as text, for messages."""
        return self.kind.decode("latin-1")


class IntactChunk(NamedTuple):
    """A chunk whose CRC matches, with its payload and that CRC."""

    chunk: Chunk
    payload: bytes
    crc: int


class DamagedRange(NamedTuple):
    """A byte range of the file, from `offset` up to but not including `end`, that holds no intact chunk.

    kind: "cut" (a chunk cut short by the end of the file), "checksum" (a chunk whose CRC does not match) or "structure"
    (no chunk). what: the damage in words, for messages. chunk: the chunk that the chunk header at `offset` announces,
    None if there is no chunk header.
    """

    offset: int
    end: int
    kind: str
    what: str
    chunk: Chunk | None


def pack_chunk(kind: bytes, payload: bytes) -> bytes:
    """One chunk as bytes. Raises FormatError if the payload is larger than 256 MiB."""
    if len(payload) > MAX_PAYLOAD:
        raise FormatError(f"a chunk has {len(payload)} bytes; at most {MAX_PAYLOAD} are possible")
    header = _HEADER.pack(kind, len(payload))
    return b"".join((header, payload, _CRC.pack(zlib.crc32(payload, zlib.crc32(header)))))


def chunk_crc(packed: bytes) -> int:
    """The CRC at the end of a packed chunk."""
    crc: int = _CRC.unpack(packed[-4:])[0]
    return crc


def require_known(chunk: Chunk) -> None:
    """Raises FormatError if the chunk is of an unknown kind that must be understood: its first letter is upper-case."""
    if chunk.kind not in (GROUP, TRACK, INDEX, END) and chunk.name[0].isupper():
        raise FormatError(f"needs a newer sdvideo: the {chunk.name} chunk at byte {chunk.offset} is of an unknown kind")


class ChunkFile:
    """The chunks of a seekable binary file. Sizes are compared with the size of the file before anything is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, 2)
        # Bytes of chunks with a wrong CRC that may still be hashed. In a damaged file every byte is hashed about twice;
        # without this limit a file made of nested false chunks would cost time by the square of its size.
        self._hash_budget = 4 * self.size + _WINDOW

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on, fewer at the end of the file. Raises SettingError if the file is closed."""
        if self._file.closed:
            raise SettingError(f"{self._file.name} has been closed")
        offset = min(offset, self.size)  # operating systems do not seek to every offset that a file can name
        self._file.seek(offset)
        return self._file.read(min(size, self.size - offset))

    def chunk_at(self, offset: int) -> Chunk | None:
        """The chunk announced by the eight bytes at `offset`, None if they cannot be a chunk header.

        The chunk may extend beyond the end of the file.
        """
        header = self.read(offset, CHUNK_HEADER_SIZE)
        if len(header) < CHUNK_HEADER_SIZE:
            return None
        kind, size = _HEADER.unpack(header)
        return Chunk(offset, kind, size) if kind.isalpha() and size <= MAX_PAYLOAD else None

    def load(self, chunk: Chunk) -> IntactChunk:
        """Read a chunk with its payload. Raises DamagedError if it is cut short or its CRC does not match."""
        whole = chunk.end - chunk.offset
        data = self.read(chunk.offset, whole) if chunk.end <= self.size else b""
        if len(data) < whole:
            raise DamagedError(_cut_short(chunk, self.size))
        crc = zlib.crc32(memoryview(data)[:-4])
        if crc != chunk_crc(data):
            self._hash_budget -= len(data)
            raise DamagedError(_wrong_crc(chunk))
        return IntactChunk(chunk, data[CHUNK_HEADER_SIZE:-4], crc)

    def walk(self, start: int, end: int) -> Iterator[Chunk]:
        """The chunks from offset `start` to `end`, by their sizes alone. Raises DamagedError if they do not add up."""
        while start < end:
            chunk = self.chunk_at(start)
            if chunk is None or chunk.end > end:
                raise DamagedError(f"there is no whole chunk at byte {start}")
            yield chunk
            start = chunk.end

    def scan(self, start: int) -> Iterator[IntactChunk | DamagedRange]:
        """All intact chunks from offset `start` to the end of the file and the damage between them, in file order."""
        while start < self.size:
            chunk = self.chunk_at(start)
            try:
                intact = self.load(chunk) if chunk else None
            except DamagedError:
                intact = None
            if intact:
                yield intact
                start = intact.chunk.end
            else:
                following = self._find_intact(start, chunk)
                yield self._damaged_range(start, following, chunk)
                start = following

    def _damaged_range(self, offset: int, following: int, chunk: Chunk | None) -> DamagedRange:
        """Describe the damage from `offset` to the next intact chunk at `following`. chunk: see DamagedRange."""
        cut = following == self.size
        if chunk is None and cut and self.size - offset < CHUNK_HEADER_SIZE:
            kind, what = "cut", "the file ends within a chunk header"
        elif chunk is None:
            kind, what = "structure", "there is no chunk where one should begin"
        elif chunk.end <= self.size:
            kind, what = "checksum", _wrong_crc(chunk)
        elif cut:
            kind, what = "cut", _cut_short(chunk, self.size)
        else:
            kind, what = "structure", f"a {chunk.name} chunk has the impossible size of {chunk.size} bytes"
        span = "" if cut else f"; bytes {offset} to {following - 1} are lost"
        return DamagedRange(offset, following, kind, what + span, chunk)

    def _find_intact(self, offset: int, chunk: Chunk | None) -> int:
        """Offset of the next intact chunk after the damaged one at `offset`; the size of the file if there is none."""
        # First where the damaged chunk says that it ends: its payload may hold chunks of another .sdv file.
        if chunk is not None and (chunk.end == self.size or self._is_intact(chunk.end)):
            return chunk.end
        for window in range(offset + 1, self.size, _WINDOW):
            # Three bytes more than a window, so that a kind that lies across its end is found.
            for match in _KNOWN_KIND.finditer(self.read(window, _WINDOW + 3)):
                if self._hash_budget < 0:
                    return self.size
                if self._is_intact(window + match.start()):
                    return window + match.start()
        return self.size

    def _is_intact(self, offset: int) -> bool:
        """Whether there is an intact chunk at `offset`."""
        chunk = self.chunk_at(offset)
        try:
            return chunk is not None and chunk.end <= self.size and bool(self.load(chunk))
        except DamagedError:
            return False


def _wrong_crc(chunk: Chunk) -> str:
    return f"the CRC of a {chunk.name} chunk of {chunk.size} bytes does not match"


def _cut_short(chunk: Chunk, file_size: int) -> str:
    return f"the file ends within a {chunk.name} chunk ({file_size - chunk.offset} of {chunk.end - chunk.offset} bytes)"


@contextmanager
def name_file_in_errors(path: str | PathLike[str], system_error: type[SdvError] = SourceError) -> Iterator[None]:
    """Put the file's path in front of every FormatError, and raise every OSError as a `system_error` with the path."""
    try:
        yield
    except FormatError as error:
        raise type(error)(f"{fspath(path)}: {error}") from error
    except OSError as error:
        raise system_error(f"{fspath(path)}: {error.strerror or error}") from error
