"""Random access to .sdv files, whole or damaged. The specification is in `container/__init__.py`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from os import PathLike, fspath

from sdvideo.errors import DamagedError

from .chunk import CHUNK_HEADER_SIZE, END, GROUP, INDEX, TRACK, Chunk, ChunkFile, name_file_in_errors, require_known
from .group import Group, unpack_group
from .index import END_SIZE, GroupEntry, GroupTable, unpack_end, unpack_index
from .preamble import read_preamble
from .recovery import Damage, scan_file, time_range
from .track_piece import TrackPiece, unpack_piece


class Reader:
    """Random access to the groups and track files of an .sdv file. A context manager, for one thread.

    A finished file is opened by its index, without reading its groups; each group is checked when it is read. Without
    an intact index, or with tolerant=True, the whole file is read and checked when it is opened.

    tolerant: take all intact groups of a damaged file. Otherwise a damaged file has only the groups before the first
    lost one, and a file that was cut short has the groups up to the last whole one.

    header: the Header. groups: a GroupEntry for each group that can be read, in order. frame_count: how many frames
    these groups have. lost: with tolerant, a GroupEntry for each lost group, as far as that is known, see
    recovery.RecoveredFile. complete: whether there is an end chunk that agrees with the rest of the file (if the file
    was opened by its index: with the index). damage: a Damage for everything that was found when the file was opened.

    Raises SourceError if the file cannot be read, FormatError if it is not an .sdv file that this version understands,
    DamagedError if its header is damaged.
    """

    def __init__(self, path: str | PathLike[str], *, tolerant: bool = False) -> None:
        self.path = fspath(path)
        with name_file_in_errors(path):
            self._file = open(path, "rb")  # noqa: SIM115 - close() does
            try:
                self._chunks = ChunkFile(self._file)
                self.header, self._start = read_preamble(self._chunks)
                self.groups: Sequence[GroupEntry] = ()
                self.lost: tuple[GroupEntry, ...] = ()
                self.damage: tuple[Damage, ...] = ()
                if tolerant or not self._open_by_index():
                    self._open_by_scan(tolerant)
            except BaseException:
                self._file.close()
                raise

    def _open_by_scan(self, tolerant: bool) -> None:
        """Take groups and pieces from a scan of the whole file."""
        found = scan_file(self._chunks, self.header, self._start)
        groups = found.groups
        if tolerant:
            self.lost = found.lost
        elif found.lost:
            groups = tuple(entry for entry in groups if entry.first < found.lost[0].first)
        self.groups, self._pieces, self.complete, self.damage = groups, found.pieces, found.complete, found.damage
        self.frame_count = sum(entry.frames for entry in groups)

    def _open_by_index(self) -> bool:
        """Take groups and pieces from the index. Returns False, and takes nothing, if no index can be trusted."""
        chunks = self._chunks
        last = chunks.chunk_at(max(chunks.size - END_SIZE, self._start))
        if last is None or last.kind != END:
            return False
        try:
            end = unpack_end(chunks.load(last).payload)
            index = chunks.chunk_at(min(max(end.index_offset, self._start), last.offset))
            if index is None or index.kind != INDEX or index.end != last.offset:
                return False
            groups = unpack_index(chunks.load(index).payload, self._start, index.offset)
            if (end.frames, end.groups) != (groups[-1].first + groups[-1].frames if groups else 0, len(groups)):
                return False
            self._pieces = self._walk_gaps(groups, index.offset)
        except DamagedError:
            return False
        self.groups, self.complete, self.frame_count = groups, True, end.frames
        return True

    def _walk_gaps(self, groups: GroupTable, end: int) -> tuple[Chunk, ...]:
        """The TRAK chunks between the groups, up to offset `end`.

        Raises DamagedError if the chunks there are damaged or of a kind that does not belong there, FormatError if one
        must be understood and is of an unknown kind.
        """
        pieces = []
        for start, stop in groups.gaps(self._start, end):
            for chunk in self._chunks.walk(start, stop):
                if chunk.kind == TRACK:
                    pieces.append(chunk)
                    continue
                self._chunks.load(chunk)  # a kind that seems unknown may be a known one with a changed byte
                require_known(chunk)
                if chunk.kind in (GROUP, INDEX, END):
                    raise DamagedError(f"the index leaves out a {chunk.name} chunk")
        return tuple(pieces)

    def read_group(self, number: int) -> Group:
        """Read a group by its place in `groups`; negative numbers count from the end.

        Raises DamagedError, which names its frames and time, if it is damaged; IndexError if there is no such group.
        """
        number = range(len(self.groups))[number]
        entry = self.groups[number]
        chunk = Chunk(entry.offset, GROUP, entry.size)
        following = self.groups[number + 1 : number + 2]
        with name_file_in_errors(self.path):
            try:
                if self._chunks.chunk_at(entry.offset) != chunk:
                    raise DamagedError("its chunk is not where it should be")
                group = unpack_group(self._chunks.load(chunk).payload)
                if (group.first, len(group.frames), group.start_pts, group.end_pts) != entry[2:]:
                    raise DamagedError("it is not the one that the index describes")
                if any(group.frames[-1].pts >= after.start_pts for after in following):
                    raise DamagedError("its time overlaps that of the next group")
            except DamagedError as error:
                frames = f"frames {entry.first} to {entry.first + entry.frames - 1}"
                time = time_range(entry.start_pts, entry.end_pts, self.header.info.time_base)
                raise DamagedError(f"group {number} ({frames}, {time}) is damaged: {error}") from error
        return group

    def track_data(self, blob: int) -> Iterator[bytes]:
        """The pieces of track file `blob`, in order. In an incomplete file they may end early.

        Raises DamagedError at a piece that is damaged or does not continue the one before.
        """
        position = 0
        for chunk in self._pieces:
            with name_file_in_errors(self.path):
                piece = unpack_piece(self._chunks.load(chunk).payload, len(self.header.blobs))
                if piece.blob != blob:
                    continue
                if piece.position != position:
                    raise DamagedError(f"track file {blob} continues at byte {piece.position}, not {position}")
            yield piece.data
            position = piece.end

    def lost_times(self, number: int) -> Iterable[tuple[int, int]]:
        """pts and duration of each frame of lost group `number`, a place in `lost`.

        They come from the group's frame table if that is readable and plausible. Otherwise the frames share the group's
        time evenly. The pts increase, and lie between those of the groups around.
        """
        entry = self.lost[number]
        with suppress(DamagedError):
            group = unpack_group(self._chunks.read(entry.offset + CHUNK_HEADER_SIZE, entry.size))
            starts = not entry.first or entry.start_pts <= group.start_pts
            ends = group.frames[-1].pts < entry.end_pts
            if (group.first, len(group.frames)) == (entry.first, entry.frames) and starts and ends:
                return [(frame.pts, frame.duration) for frame in group.frames]
        span, count = entry.end_pts - entry.start_pts, entry.frames
        times = (entry.start_pts + span * place // count for place in range(count + 1))
        return ((pts, following - pts) for pts, following in pairwise(times))

    def track_parts(self, blob: int) -> Iterator[tuple[TrackPiece, bool]]:
        """What is left of track file `blob` in a damaged file: its pieces in order, and whether each one is intact.

        There may be holes between the pieces. Their total size is at most that of the file.
        """
        position = 0
        for chunk in self._pieces:
            try:
                payload, intact = self._chunks.load(chunk).payload, True
            except DamagedError:
                payload, intact = self._chunks.read(chunk.offset + CHUNK_HEADER_SIZE, chunk.size), False
            with suppress(DamagedError):
                piece = unpack_piece(payload, len(self.header.blobs))
                # The position in a damaged piece is trusted only if it is the expected one.
                if piece.blob == blob and position <= piece.position <= (self._chunks.size if intact else position):
                    yield piece, intact
                    position = piece.end

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def verify(path: str | PathLike[str]) -> list[Damage]:
    """Read a whole file and return everything that is wrong with it; an empty list if it is complete and intact.

    Raises SourceError, FormatError or DamagedError as `Reader` does: nothing behind a damaged header can be checked.
    """
    with Reader(path, tolerant=True) as reader:
        return list(reader.damage)
