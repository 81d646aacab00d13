"""TODO docstring."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import pairwise
from os import PathLike, fspath

from sdvideo.errors import DamagedError

from .chunk import END, GROUP, HEAD_SIZE, INDEX, TRACK, Chunk, ChunkFile, _naming, require_known
from .group import Group, unpack_group
from .index import END_SIZE, GroupEntry, GroupTable, Piece, read_preamble, unpack_end, unpack_index, unpack_piece
from .recovery import Damage, survey, time_range


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
