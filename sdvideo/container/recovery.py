"""Scans a whole .sdv file: which groups are intact, which are lost and when they were, and all damage.

    scan -> ledger of intact groups, damaged ranges -> lost groups by the index, or else by frame numbers -> Damage

`container/__init__.py` has the specification of the file. An intact index names every lost group, because it was
written when all groups were there. Without it, gaps in the frame numbers show what is lost.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from sdvideo.errors import DamagedError

from .chunk import END, GROUP, INDEX, TRACK, Chunk, ChunkFile, DamagedRange, IntactChunk, require_known
from .group import unpack_group
from .header import Header
from .index import NO_LIMIT, EndChunk, GroupEntry, pack_index, unpack_end, unpack_index
from .ledger import Ledger
from .track_piece import unpack_piece

_ABSENT = "its chunk is not in the file"


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that is wrong in a file. offset: the byte at which it begins. what: the damage in words.

    kind: "cut" (the file ends too early), "checksum" (bytes were changed), "missing" (bytes were removed), "structure"
    (the bytes are intact but impossible there) or "decode" (the checksum matches but the data does not decode).
    group, frames, seconds: the number of the group that is lost, its first and last frame, and when it begins and ends.
    All are None if no group is lost; the last of a pair is None if the group's end is not known.
    """

    offset: int
    kind: str
    what: str
    group: int | None = None
    frames: tuple[int, int | None] | None = None
    seconds: tuple[float, float | None] | None = None


@dataclass(frozen=True, slots=True)
class RecoveredFile:
    """The result of scanning a file.

    groups: the intact groups in order. lost: the lost groups. They have as many frames as are missing, and lie in time
    between the intact groups around them. With an intact index they are those of the index; without one, everything
    that is missing between two intact groups is one lost group. `offset` and `size` of a lost group are those of what
    may be its damaged chunk; size is 0 if there is none. pieces: the TRAK chunks, including those whose CRC does not
    match. complete: whether there is an end chunk that agrees with the rest. damage: all damage, by offset.
    """

    groups: tuple[GroupEntry, ...]
    lost: tuple[GroupEntry, ...]
    pieces: tuple[Chunk, ...]
    complete: bool
    damage: tuple[Damage, ...]


def scan_file(file: ChunkFile, header: Header, start: int) -> RecoveredFile:
    """Read and check everything from the first chunk, at offset `start`, to the end of the file.

    Raises FormatError for a chunk of an unknown kind that must be understood.
    """
    scan = _Scan(file.size, header)
    for found in file.scan(start):
        if isinstance(found, DamagedRange):
            scan.add_damaged(found)
        else:
            scan.add_intact(found)
        if scan.end:
            break
    ledger, damage = scan.ledger, scan.damage
    indexed = _lost_by_index(ledger, scan.index, start, file.size)
    lost = _lost_by_numbers(ledger, scan.end, file.size) if indexed is None else indexed
    matched = list(_match_losses(scan, lost, indexed is not None, header.info.time_base))
    damage.extend(one for _, one in matched)
    damage.extend(_end_damage(ledger, scan.end, file.size))
    complete = scan.end is not None and scan.end.agrees_with(ledger)
    if scan.end and complete and not damage:
        damage.extend(_index_damage(ledger, scan.index, scan.end, start))
    damage.sort(key=lambda one: one.offset)
    return RecoveredFile(
        groups=tuple(ledger.entries),
        lost=tuple(entry for entry, _ in matched if entry),
        pieces=tuple(scan.pieces),
        complete=complete,
        damage=tuple(damage),
    )


@dataclass(frozen=True, slots=True)
class _End:
    """An intact end chunk. content: what it says."""

    chunk: Chunk
    content: EndChunk

    def agrees_with(self, ledger: Ledger) -> bool:
        """Whether it announces exactly the groups and pieces that are there."""
        there = (sum(entry.frames for entry in ledger.entries), len(ledger.entries), ledger.check)
        return self.content[:3] == there


@dataclass(slots=True)
class _Scan:
    """What a scan has found so far.

    pieces: TRAK chunks, intact or not. damage: what costs no group. losses: damage that may have cost a group, by how
    many intact groups come before it. index, end: the intact index and end chunk.
    """

    file_size: int
    header: Header
    ledger: Ledger = field(init=False)
    pieces: list[Chunk] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)
    losses: dict[int, list[DamagedRange]] = field(default_factory=dict)
    index: IntactChunk | None = None
    end: _End | None = None

    def __post_init__(self) -> None:
        self.ledger = Ledger(len(self.header.blobs))

    def add_damaged(self, damaged: DamagedRange) -> None:
        """Take a byte range without an intact chunk."""
        chunk = damaged.chunk
        if chunk is None or chunk.kind not in (TRACK, INDEX, END):
            self._add_loss(damaged)
            return
        self.damage.append(Damage(damaged.offset, damaged.kind, damaged.what))
        if chunk.kind == TRACK and damaged.end == chunk.end:
            self.pieces.append(chunk)

    def add_intact(self, found: IntactChunk) -> None:
        """Take a chunk whose CRC matches. Raises FormatError if it must be understood and is of an unknown kind."""
        chunk = found.chunk
        require_known(chunk)
        try:
            if chunk.kind == GROUP:
                self._add_group(found)
            elif chunk.kind == TRACK:
                self._add_piece(found)
            elif chunk.kind == INDEX:
                self.index = found
            elif chunk.kind == END:
                self.end = _End(chunk, unpack_end(found.payload))
        except DamagedError as error:
            what = f"{chunk.name} chunk: {error}"
            if chunk.kind == GROUP:
                self._add_loss(DamagedRange(chunk.offset, chunk.end, "structure", what, chunk))
            else:
                self.damage.append(Damage(chunk.offset, "structure", what))

    def _add_loss(self, damaged: DamagedRange) -> None:
        self.losses.setdefault(len(self.ledger.entries), []).append(damaged)

    def _add_group(self, found: IntactChunk) -> None:
        """Raises DamagedError if the group is invalid or cannot be at this place."""
        group = unpack_group(found.payload)
        if conflict := self.ledger.conflict(group):
            raise DamagedError(conflict)
        # A frame takes at least a byte. Without this check the number would make up any number of lost frames.
        if group.first + len(group.frames) > self.file_size:
            raise DamagedError(f"the group starts with frame {group.first}, in a file of {self.file_size} bytes")
        self.ledger.add_group(found.chunk.offset, found.chunk.size, group, found.crc)

    def _add_piece(self, found: IntactChunk) -> None:
        """Raises DamagedError if the piece is invalid. One that does not continue its track file is damage."""
        piece = unpack_piece(found.payload, len(self.ledger.track_bytes))
        expected = self.ledger.track_bytes[piece.blob]
        if piece.position != expected:
            what = f"track file {piece.blob} continues at byte {piece.position}, not {expected}"
            self.damage.append(Damage(found.chunk.offset, "missing", what))
        self.ledger.add_piece(piece.blob, piece.end, found.crc)
        self.pieces.append(found.chunk)


def time_range(start: int, end: int, time_base: Fraction) -> str:
    """Two pts in seconds, as text for messages."""
    return f"{float(start * time_base):.2f} s to {float(end * time_base):.2f} s"


def _lost_by_index(ledger: Ledger, index: IntactChunk | None, start: int, file_size: int) -> list[GroupEntry] | None:
    """The groups that are in the index and not in the file; None if there is no index that fits the intact groups."""
    try:
        entries = list(unpack_index(index.payload, start, NO_LIMIT)) if index else []
    except DamagedError:
        return None
    intact = {entry[2:]: last for entry, last in zip(ledger.entries, ledger.last_pts)}
    if len(intact.keys() & {entry[2:] for entry in entries}) < len(intact):
        return None
    if not entries or entries[-1].first + entries[-1].frames > file_size:
        return None
    lost, last_pts = [], entries[0].start_pts - 1
    for entry, following in zip(entries, [*entries[1:], None]):
        if entry.start_pts <= last_pts:
            return None
        last_pts = intact.get(entry[2:], entry.start_pts + entry.frames - 1)
        if entry[2:] not in intact:
            end_pts = max(entry.end_pts, last_pts + 1)
            lost.append(entry._replace(end_pts=min(end_pts, following.start_pts) if following else end_pts))
    return lost


def _lost_by_numbers(ledger: Ledger, end: _End | None, file_size: int) -> list[GroupEntry]:
    """The frames that are missing before and between the intact groups, and behind them according to the end chunk.

    One entry for each hole.
    """
    lost: list[GroupEntry] = []
    frames, last_pts, end_pts, usual = 0, None, 0, 1  # usual: pts from one frame to the next
    for entry, last in zip(ledger.entries, ledger.last_pts):
        usual = max(1, (entry.end_pts - entry.start_pts) // entry.frames)
        if missing := entry.first - frames:
            since = entry.start_pts - missing * usual if last_pts is None else max(end_pts, last_pts + 1)
            since = min(since, entry.start_pts - missing)
            lost.append(GroupEntry(entry.offset, 0, frames, missing, since, entry.start_pts))
        frames, last_pts, end_pts = entry.first + entry.frames, last, entry.end_pts
    if end and last_pts is not None and (missing := min(end.content.frames, file_size) - frames) > 0:
        since = max(end_pts, last_pts + 1)
        lost.append(GroupEntry(end.chunk.offset, 0, frames, missing, since, since + missing * usual))
    return lost


def _match_losses(
    scan: _Scan, lost: list[GroupEntry], indexed: bool, time_base: Fraction
) -> Iterator[tuple[GroupEntry | None, Damage]]:
    """Match lost groups with the damaged ranges between the same two intact groups.

    indexed: every entry of `lost` is one group, not everything between two intact groups. Yields every lost group, with
    the place where its chunk may be, and its damage; and None with all damage that is left over.
    """
    ledger, losses = scan.ledger, scan.losses
    firsts = [entry.first for entry in ledger.entries]
    holes: dict[int, list[GroupEntry]] = {}  # lost groups, by how many intact groups come before
    for entry in lost:
        holes.setdefault(bisect(firsts, entry.first), []).append(entry)
    number, sure = 0, True  # of the group; whether all groups before it are known
    for place in range(len(firsts) + 1):
        here, ranges = holes.get(place, []), losses.get(place, [])
        for at, entry in enumerate(here):
            # One damaged range may have held several groups.
            one = _absent(entry) if not ranges else ranges[min(at, len(ranges) - 1)]
            entry = _locate(entry, one)
            yield entry, group_damage(one.kind, one.what, number if sure else None, entry, time_base)
            number, sure = number + 1, sure and indexed
        for one in ranges[len(here) :]:
            # In a file without an end chunk, the last damage stands where the next group would be.
            if place == len(firsts) and not (scan.end or here):
                last = ledger.entries[-1].end_pts if firsts else 0
                rest = GroupEntry(one.offset, 0, ledger.frames, 0, last, last)
                yield None, group_damage(one.kind, one.what, number if sure else None, rest, time_base)
            else:
                yield None, Damage(one.offset, one.kind, one.what)
        number += 1


def _absent(entry: GroupEntry) -> DamagedRange:
    """The damage of a lost group between two intact chunks that are next to each other."""
    return DamagedRange(entry.offset, entry.offset, "missing", _ABSENT, None)


def _locate(entry: GroupEntry, damaged: DamagedRange) -> GroupEntry:
    """The entry of a lost group, at the offset and size of what may be its chunk; of size 0 if nothing may be.

    That is where the index says, if it is within the damaged range; else what the range itself claims to be.
    """
    if entry.size and damaged.offset <= entry.offset < damaged.end:
        return entry
    chunk = damaged.chunk
    return entry._replace(offset=damaged.offset, size=chunk.size if chunk and chunk.kind == GROUP else 0)


def group_damage(kind: str, what: str, number: int | None, entry: GroupEntry, time_base: Fraction) -> Damage:
    """The Damage of a lost group. number: of the group, None if not known. An entry of no frames has an unknown end."""
    start, end = float(entry.start_pts * time_base), float(entry.end_pts * time_base)
    name = "a group" if number is None else f"group {number}"
    if not entry.frames:
        what = f"{name} (from frame {entry.first}, {start:.2f} s, on): {what}"
        return Damage(entry.offset, kind, what, number, (entry.first, None), (start, None))
    last = entry.first + entry.frames - 1
    times = time_range(entry.start_pts, entry.end_pts, time_base)
    what = f"{name} (frames {entry.first} to {last}, {times}): {what}"
    return Damage(entry.offset, kind, what, number, (entry.first, last), (start, end))


def _end_damage(ledger: Ledger, end: _End | None, file_size: int) -> Iterator[Damage]:
    """What is wrong with the end chunk and behind it."""
    frames, groups = sum(entry.frames for entry in ledger.entries), len(ledger.entries)
    if end is None:
        what = f"there is no end chunk: the file is unfinished or cut short, after {frames} frames"
        yield Damage(file_size, "cut", what)
        return
    if not end.agrees_with(ledger):
        if end.content[:2] == (frames, groups):
            what = "the checksum in the end chunk does not match the CRCs of the chunks"
        else:
            what = f"the end chunk announces {end.content.frames} frames in {end.content.groups} groups"
            what += f", but the file has {frames} frames in {groups} groups"
        yield Damage(end.chunk.offset, "structure", what)
    if end.chunk.end != file_size:
        yield Damage(end.chunk.end, "structure", f"{file_size - end.chunk.end} bytes follow the end chunk")


def _index_damage(ledger: Ledger, index: IntactChunk | None, end: _End, start: int) -> Iterator[Damage]:
    """What is wrong with the index, given that the groups and the end chunk agree."""
    announced, offset = end.content.index_offset, index.chunk.offset if index else 0
    if announced != offset or (index and index.chunk.end != end.chunk.offset):
        yield Damage(offset, "structure", f"the index is at byte {offset}, but the end chunk says {announced}")
    if index and index.payload != pack_index(ledger.entries, start):
        yield Damage(offset, "structure", "the index does not match the groups in the file")
