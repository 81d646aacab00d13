"""TODO docstring."""

from __future__ import annotations

from os import PathLike
from typing import BinaryIO

from sdvideo.errors import FormatError, SinkError

from .chunk import END, GROUP, INDEX, MAX_PAYLOAD, TRACK, ChunkFile, Lost, _naming, chunk_crc, pack_chunk, require_known
from .group import Group, pack_group, unpack_group
from .header import Header
from .index import End, Piece, pack_end, pack_index, pack_piece, pack_preamble, read_preamble, unpack_piece
from .ledger import Tally

_PIECE = 2**16  # bytes of a track file that are lost together


class Writer:
    """Writes one .sdv file front to back into a buffered binary file, which it never seeks and never closes.

    Raises FormatError for values outside their ranges (then nothing is written), SinkError if writing fails.
    """

    def __init__(self, file: BinaryIO, header: Header) -> None:
        preamble = pack_preamble(header)
        self._begin(file, header, len(preamble))
        self._put(preamble)

    def _begin(self, file: BinaryIO, header: Header, start: int) -> None:
        self.file = file
        self.header = header
        self._start = start
        self._at = 0
        self._tally = Tally(len(header.blobs))

    def write_group(self, group: Group) -> int:
        """Append a group and flush it; returns how many bytes the file grew by.

        group.first must be the number of frames written so far, its pts above all before.
        """
        payload = pack_group(group)
        if group.first > self._tally.frames:
            raise FormatError(f"cannot write the group: it starts with {group.first}, not {self._tally.frames}")
        if fault := self._tally.fault(group):
            raise FormatError(f"cannot write the group: {fault}")
        packed, offset = pack_chunk(GROUP, payload), self._at
        self._put(packed)
        self._flush()
        self._tally.add_group(offset, len(payload), group, chunk_crc(packed))
        return len(packed)

    def write_track(self, blob: int, data: bytes) -> None:
        """Append the next bytes of track file `blob`, in pieces of up to 64 KiB; a call starts a new one."""
        sizes = self._tally.track_bytes
        if not 0 <= blob < len(sizes):
            raise FormatError(f"there is no track file {blob}, the header announces {len(sizes)}")
        for start in range(0, len(data), _PIECE):
            piece = Piece(blob, sizes[blob], bytes(data[start : start + _PIECE]))
            packed = pack_chunk(TRACK, pack_piece(piece))
            self._put(packed)
            self._tally.add_piece(blob, piece.end, chunk_crc(packed))

    def finish(self) -> None:
        """Append the index and the end chunk, and flush. Nothing may be written afterwards."""
        tally, offset = self._tally, 0
        index = pack_index(tally.entries, self._start)
        if 0 < len(index) <= MAX_PAYLOAD:
            offset = self._at
            self._put(pack_chunk(INDEX, index))
        self._put(pack_chunk(END, pack_end(End(tally.frames, len(tally.entries), tally.check, offset))))
        self._flush()

    @classmethod
    def resume(cls, path: str | PathLike[str]) -> tuple[Writer, int, tuple[int, ...]]:
        """Open an unfinished file to go on after its last whole group; everything behind that is cut off.

        Returns the writer, the number of frames the file has, and how many bytes of each track file it has.
        If the caller goes on from there with the same calls, the file becomes the same as without the
        interruption. Without a whole group, the file is cut off behind its header. A finished file loses its
        end, to be finished again. The file object is writer.file, to be closed by the caller. Raises
        FormatError or DamagedError, and leaves the file alone, if there is no whole header or a chunk that
        this version does not understand.
        """
        with _naming(path, SinkError):
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
        return writer, writer._tally.frames, tuple(writer._tally.track_bytes)

    def _replay(self, chunks: ChunkFile) -> None:
        """Take note of what is in the file up to the end of its last whole group, as if just written."""
        self._at = self._start
        pieces: list[tuple[int, int, int]] = []
        for found in chunks.scan(self._start):
            if isinstance(found, Lost):
                return
            chunk, payload, crc = found
            if chunk.kind == TRACK:
                # Pieces count once a group follows them; those behind the last group will be written again.
                piece = unpack_piece(payload, len(self.header.blobs))
                pieces.append((piece.blob, piece.end, crc))
            elif chunk.kind == GROUP:
                group = unpack_group(payload)
                if group.first != self._tally.frames or self._tally.fault(group):
                    return
                for piece_end in pieces:
                    self._tally.add_piece(*piece_end)
                pieces.clear()
                self._tally.add_group(chunk.offset, chunk.size, group, crc)
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
