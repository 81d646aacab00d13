"""The .sdv file: write it without seeking, read it from anywhere, survive damage.

    with open("clip.sdv", "wb") as file:
        writer = Writer(file, header)
        writer.write_group(Group(0, (CodedFrame(pts=0, duration=1, kind=KEY, step=40, data=b"..."),)))
        writer.finish()
    with Reader("clip.sdv") as reader:
        frames = [frame for number in range(len(reader.groups)) for frame in reader.read_group(number).frames]

Specification, version 2.0
==========================
Two chapters stand in the modules that implement them: `header.py` (the JSON header) and `group.py` (groups of
pictures, and the numbers called varint and svarint). The words MUST, MUST NOT, SHOULD and MAY are those of
RFC 2119. All integers are little-endian and unsigned; u8, u16, u32, u64 have 1, 2, 4, 8 bytes. crc32 is that
of zlib and PNG (reflected polynomial 0xEDB88320, initial value and final xor 0xFFFFFFFF). Offsets count bytes
from the start of the file.

File
    u8[8]  magic     89 53 44 56 0D 0A 1A 0A: a byte with its high bit set, "SDV", and line ends that any
                     transfer in text mode changes
    u16    major     2. A reader MUST reject a major version it does not know
    u16    minor     0. A higher minor version only adds what readers skip: header keys, lower-case chunks
    u32    length    bytes of the header as it is stored, 2 to 1048576
    ...    header    JSON, usually deflated, see `header.py`
    u32    crc       crc32 of all bytes before it
    ...    chunks    one directly after the other, up to the end of the file

Chunk
    u8[4]  kind      four ASCII letters. If the first is upper-case, a reader that does not know the kind MUST
                     reject the file; if it is lower-case, it MUST skip the chunk.
    u32    size      bytes of the payload, 0 to 268435456
    ...    payload
    u32    crc       crc32 of kind, size and payload

    A reader MUST check every size against the real size of the file before it allocates anything by it.
    Rationale: 12 bytes per chunk, and damage ends with the chunk. The kinds of version 2.0 follow.

GRUP: a closed group of pictures
    The payload is described in `group.py`. Groups MUST follow each other in time: the first frame's number is
    the number of frames in all groups before, the first pts is above every pts before. A group MUST be
    decodable alone, with nothing but the header. Rationale for the number: after damage, what is left keeps
    its place.

TRAK: a piece of a track file
    u8     blob      number of the track file, an index into the header's "blobs"
    u64    position  of the piece in the track file: the sum of the sizes of its pieces before this one
    ...    piece     1 to 1048576 bytes
    The pieces of a blob, in file order, are a plain MP4 or Matroska file with the copied audio and subtitle
    streams. Pieces MAY stand anywhere before, between and after the groups.

indx: the seek index
    Optional; a scan can rebuild it. If there is one, it MUST be directly before ENDS. For each group:
    varint   gap     bytes from the end of the chunk of the group before (for the first group: of the header's
                     crc) to this group's chunk
    varint   size    bytes of the payload of the GRUP chunk
    varint   count   frames in the group
    svarint  pause   first pts minus the end of the group before (for the first group: minus 0)
    varint   span    the group's end minus its first pts, where its end is pts + duration of its last frame
    A reader that opens a file by its index MUST walk the chunks in the gaps (one there may have to be
    understood), and MUST compare every group it reads with its entry.

ENDS: the end chunk
    u64    frames    number of frames in the file
    u32    groups    number of GRUP chunks
    u32    check     crc32 of the crc fields (4 bytes each, as in the file) of all GRUP and TRAK chunks in
                     file order
    u64    index     offset of the indx chunk, 0 if there is none
    It MUST be the last chunk. Being 36 bytes long, it is found from the end of the file. A file without it is
    unfinished or cut short; readers SHOULD present its whole groups. So a writer never has to seek back.

Frame data
    Bytes, to the container. **What they mean is specified, with base "none", by the docstrings of `symbols.py` (what
    is coded in which order), `context.py` and `plain.py` (under which probability tables, by the header's "coder"),
    `eightbit.py` (coder "bytes-1"), `palette.py` (coder "palette-1") and `entropy.py` (the tables and the range coder);
    with base "av1" by those of `base.py` and `heads.py`.**
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from os import PathLike, fspath
from typing import BinaryIO

from sdvideo.errors import DamagedError, FormatError, SdvError, SinkError, SourceError

from .chunk import (
    END,
    GROUP,
    HEAD_SIZE,
    INDEX,
    MAX_PAYLOAD,
    TRACK,
    Chunk,
    ChunkFile,
    Lost,
    chunk_crc,
    pack_chunk,
    require_known,
)
from .group import KEY, PREDICTED, CodedFrame, Group, pack_group, unpack_group
from .header import Header, ModelId
from .index import (
    END_SIZE,
    End,
    GroupEntry,
    GroupTable,
    Piece,
    pack_end,
    pack_index,
    pack_piece,
    pack_preamble,
    read_preamble,
    unpack_end,
    unpack_index,
    unpack_piece,
)
from .recovery import Damage, Tally, survey, time_range

_PIECE = 2**16  # bytes of a track file that are lost together

__all__ = [
    "KEY",
    "PREDICTED",
    "CodedFrame",
    "Damage",
    "Group",
    "GroupEntry",
    "Header",
    "ModelId",
    "Reader",
    "Writer",
    "pack_group",
    "unpack_group",
    "verify",
]


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


class Reader:
    """Random access to the groups and track files of an .sdv file; a context manager, for one thread.

    A finished file opens by its index, without reading its groups: those are checked when they are read.
    Without an index, or with tolerant=True, the whole file is read and checked first. A file that is cut
    short opens with the groups up to the last whole one; tolerant also takes those behind damage.

    header: Header. groups: a GroupEntry for each group that can be read, in order. frame_count: their frames.
    lost: with tolerant, a GroupEntry for each group that was between those, as far as that is known; see survey.Survey.
    complete: the end chunk is there and agrees with the rest of the file (opened by index: with the index).
    damage: a Damage for everything found to be wrong on opening.

    Raises SourceError if the file cannot be read, FormatError if it is not an .sdv this version understands,
    DamagedError if its header is damaged.
    """

    def __init__(self, path: str | PathLike[str], *, tolerant: bool = False) -> None:
        self.path = fspath(path)
        with _naming(path):
            self._file = open(path, "rb")  # noqa: SIM115 - close() does
            try:
                self._chunks = ChunkFile(self._file)
                self.header, self._start = read_preamble(self._chunks)
                self.lost: tuple[GroupEntry, ...] = ()
                if tolerant or not self._open_by_index():
                    found = survey(self._chunks, self.header, self._start)
                    self.groups, self._pieces = found.groups, found.pieces
                    self.complete, self.damage = found.complete, found.damage
                    if tolerant:
                        self.lost = found.lost
                    elif found.lost:
                        self.groups = tuple(entry for entry in self.groups if entry.first < found.lost[0].first)
                    self.frame_count = sum(entry.frames for entry in self.groups)
            except BaseException:
                self._file.close()
                raise

    def _open_by_index(self) -> bool:
        """Take groups and pieces from the index; False, and nothing taken, if there is none to be trusted."""
        chunks = self._chunks
        last = chunks.head(max(chunks.size - END_SIZE, self._start))
        if last is None or last.kind != END:
            return False
        try:
            end = unpack_end(chunks.load(last).payload)
            index = chunks.head(min(max(end.index, self._start), last.offset))
            if index is None or index.kind != INDEX or index.end != last.offset:
                return False
            groups = unpack_index(chunks.load(index).payload, self._start, index.offset)
            if (end.frames, end.groups) != (groups[-1].first + groups[-1].frames if groups else 0, len(groups)):
                return False
            self._pieces = self._walk_gaps(groups, index.offset)
        except DamagedError:
            return False
        self.groups, self.complete, self.damage, self.frame_count = groups, True, (), end.frames
        return True

    def _walk_gaps(self, groups: GroupTable, end: int) -> tuple[Chunk, ...]:
        """The track pieces between the groups. Raises DamagedError if something else hides there."""
        pieces = []
        for start, stop in groups.gaps(self._start, end):
            for chunk in self._chunks.walk(start, stop):
                if chunk.kind == TRACK:
                    pieces.append(chunk)
                    continue
                self._chunks.load(chunk)  # what seems unknown may be a known kind, damaged
                require_known(chunk)
                if chunk.kind in (GROUP, INDEX, END):
                    raise DamagedError(f"the index leaves out a {chunk.name} chunk")
        return tuple(pieces)

    def read_group(self, number: int) -> Group:
        """The group number `number`. Raises DamagedError, naming its frames and time, if not intact."""
        number = range(len(self.groups))[number]
        entry = self.groups[number]
        chunk = Chunk(entry.offset, GROUP, entry.size)
        following = self.groups[number + 1 : number + 2]
        with _naming(self.path):
            try:
                if self._chunks.head(entry.offset) != chunk:
                    raise DamagedError("its chunk is not where it should be")
                group = unpack_group(self._chunks.load(chunk).payload)
                if (group.first, len(group.frames), group.start_pts, group.end_pts) != entry[2:]:
                    raise DamagedError("it is not the one the index describes")
                if any(group.frames[-1].pts >= after.start_pts for after in following):
                    raise DamagedError("its time overlaps that of the next group")
            except DamagedError as error:
                frames = f"frames {entry.first} to {entry.first + entry.frames - 1}"
                time = time_range(entry.start_pts, entry.end_pts, self.header.info.time_base)
                raise DamagedError(f"group {number} ({frames}, {time}) is damaged: {error}") from error
        return group

    def track_data(self, blob: int) -> Iterator[bytes]:
        """The pieces of track file `blob`, in order; in an incomplete file it may end early.

        Raises DamagedError at a piece that is damaged or does not continue the one before.
        """
        position = 0
        for chunk in self._pieces:
            with _naming(self.path):
                piece = unpack_piece(self._chunks.load(chunk).payload, len(self.header.blobs))
                if piece.blob != blob:
                    continue
                if piece.position != position:
                    raise DamagedError(f"track file {blob} goes on at byte {piece.position}, not {position}")
            yield piece.data
            position = piece.end

    def lost_times(self, number: int) -> Iterable[tuple[int, int]]:
        """pts and duration of the frames of lost group `number`: from its frame table, where that seems to be left.

        Otherwise they share the group's time evenly. The pts increase, and lie between those of the groups around.
        """
        entry = self.lost[number]
        with suppress(DamagedError):
            group = unpack_group(self._chunks.read(entry.offset + HEAD_SIZE, entry.size))
            starts = not entry.first or entry.start_pts <= group.start_pts
            ends = group.frames[-1].pts < entry.end_pts
            if (group.first, len(group.frames)) == (entry.first, entry.frames) and starts and ends:
                return [(frame.pts, frame.duration) for frame in group.frames]
        span, count = entry.end_pts - entry.start_pts, entry.frames
        times = (entry.start_pts + span * place // count for place in range(count + 1))
        return ((pts, following - pts) for pts, following in pairwise(times))

    def track_parts(self, blob: int) -> Iterator[tuple[Piece, bool]]:
        """What is left of track file `blob`, in order: pieces, and whether they are as they were written.

        Between them there may be holes, no larger together than the file.
        """
        position = 0
        for chunk in self._pieces:
            try:
                payload, whole = self._chunks.load(chunk).payload, True
            except DamagedError:
                payload, whole = self._chunks.read(chunk.offset + HEAD_SIZE, chunk.size), False
            with suppress(DamagedError):
                piece = unpack_piece(payload, len(self.header.blobs))
                # What a changed piece says of its place is believed where it is what should be there.
                if piece.blob == blob and position <= piece.position <= (self._chunks.size if whole else position):
                    yield piece, whole
                    position = piece.end

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def verify(path: str | PathLike[str]) -> list[Damage]:
    """Everything that is wrong with a file, by reading all of it; empty if it is complete and intact.

    Raises what opening a Reader raises: behind a damaged header nothing can be judged.
    """
    with Reader(path, tolerant=True) as reader:
        return list(reader.damage)


@contextmanager
def _naming(path: str | PathLike[str], cannot: type[SdvError] = SourceError) -> Iterator[None]:
    """Put the file's name in front of every error, and make ours of the system's."""
    try:
        yield
    except FormatError as error:
        raise type(error)(f"{fspath(path)}: {error}") from error
    except OSError as error:
        raise cannot(f"{fspath(path)}: {error.strerror or error}") from error
