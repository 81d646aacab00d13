"""Writes .sdv files front to back, and resumes unfinished ones. The specification is in `container/__init__.py`."""

from __future__ import annotations

from os import PathLike
from typing import BinaryIO

from sdvideo.errors import FormatError, SinkError

from .chunk import (
    END,
    GROUP,
    INDEX,
    MAX_PAYLOAD,
    TRACK,
    ChunkFile,
    DamagedRange,
    chunk_crc,
    name_file_in_errors,
    pack_chunk,
    require_known,
)
from .group import Group, pack_group, unpack_group
from .header import Header
from .index import EndChunk, pack_end, pack_index
from .ledger import Ledger
from .preamble import pack_preamble, read_preamble
from .track_piece import TrackPiece, pack_piece, unpack_piece

_PIECE = 2**16  # bytes of a track file in one chunk: what one damaged byte costs


class Writer:
    """Writes one .sdv file front to back into a buffered binary file, which it never seeks and never closes.

    Raises FormatError for values outside their ranges (then nothing is written), SinkError if writing fails.
    """

    def __init__(self, file: BinaryIO, header: Header) -> None:
        preamble = pack_preamble(header)
        self._begin(file, header, len(preamble))
        self._put(preamble)

    def _begin(self, file: BinaryIO, header: Header, start: int) -> None:
        """Set up the state before the first chunk, which begins at offset `start`."""
        self.file = file
        self.header = header
        self._start = start
        self._at = 0
        self._ledger = Ledger(len(header.blobs))

    def write_group(self, group: Group) -> int:
        """Append a group and flush the file. Returns how many bytes were written.

        group.first must be the number of frames written so far, and its pts must be above all earlier ones.
        """
        payload = pack_group(group)
        if group.first > self._ledger.frames:
            raise FormatError(
                f"cannot write the group: it starts with frame {group.first}, must be {self._ledger.frames}"
            )
        if conflict := self._ledger.conflict(group):
            raise FormatError(f"cannot write the group: {conflict}")
        packed, offset = pack_chunk(GROUP, payload), self._at
        self._put(packed)
        self._flush()
        self._ledger.add_group(offset, len(payload), group, chunk_crc(packed))
        return len(packed)

    def write_track(self, blob: int, data: bytes) -> None:
        """Append the next bytes of track file `blob`, in pieces of up to 64 KiB. Every call starts a new piece."""
        sizes = self._ledger.track_bytes
        if not 0 <= blob < len(sizes):
            raise FormatError(f"there is no track file {blob}, the header announces {len(sizes)}")
        for start in range(0, len(data), _PIECE):
            piece = TrackPiece(blob, sizes[blob], bytes(data[start : start + _PIECE]))
            packed = pack_chunk(TRACK, pack_piece(piece))
            self._put(packed)
            self._ledger.add_piece(blob, piece.end, chunk_crc(packed))

    def finish(self) -> None:
        """Append the index and the end chunk, and flush the file. Nothing may be written afterwards."""
        ledger, index_offset = self._ledger, 0
        index = pack_index(ledger.entries, self._start)
        if 0 < len(index) <= MAX_PAYLOAD:
            index_offset = self._at
            self._put(pack_chunk(INDEX, index))
        end = EndChunk(ledger.frames, len(ledger.entries), ledger.check, index_offset)
        self._put(pack_chunk(END, pack_end(end)))
        self._flush()

    @classmethod
    def resume(cls, path: str | PathLike[str]) -> tuple[Writer, int, tuple[int, ...]]:
        """Open an unfinished file, to continue after its last whole group. Everything behind that group is cut off.

        Returns the writer, the number of frames in the file, and how many bytes of each track file are in it. If the
        caller continues from there with the same calls, the finished file is the same as without the interruption.
        If there is no whole group, the file is cut off behind its header. A finished file loses its index and its end
        chunk, and has to be finished again. The caller closes the file object, `writer.file`.

        Raises SinkError if the file cannot be opened for writing. Raises FormatError or DamagedError, and leaves the
        file as it is, if its header is damaged, if a chunk must be understood and is of an unknown kind, or if the
        payload of an intact chunk is invalid.
        """
        with name_file_in_errors(path, SinkError):
            file = open(path, "r+b")  # noqa: SIM115 - the caller closes it
            try:
                chunks = ChunkFile(file)
                header, start = read_preamble(chunks)
                writer = cls.__new__(cls)
                writer._begin(file, header, start)
                writer._replay(chunks)
                file.truncate(writer._at)
                file.seek(writer._at)
            except BaseException:
                file.close()
                raise
        return writer, writer._ledger.frames, tuple(writer._ledger.track_bytes)

    def _replay(self, chunks: ChunkFile) -> None:
        """Enter everything up to the end of the last whole group into the ledger, as if it had just been written."""
        self._at = self._start
        pieces: list[tuple[int, int, int]] = []
        for found in chunks.scan(self._start):
            if isinstance(found, DamagedRange):
                return
            chunk, payload, crc = found
            if chunk.kind == TRACK:
                # Pieces count once a group follows them. Those behind the last group will be written again.
                piece = unpack_piece(payload, len(self.header.blobs))
                pieces.append((piece.blob, piece.end, crc))
            elif chunk.kind == GROUP:
                group = unpack_group(payload)
                if group.first != self._ledger.frames or self._ledger.conflict(group):
                    return
                for piece_end in pieces:
                    self._ledger.add_piece(*piece_end)
                pieces.clear()
                self._ledger.add_group(chunk.offset, chunk.size, group, crc)
                self._at = chunk.end
            else:
                require_known(chunk)
                return

    def _put(self, data: bytes) -> None:
        try:
            self.file.write(data)
        except OSError as error:
            raise SinkError(f"cannot write the file: {error.strerror or error}") from error
        self._at += len(data)

    def _flush(self) -> None:
        try:
            self.file.flush()
        except OSError as error:
            raise SinkError(f"cannot write the file: {error.strerror or error}") from error
