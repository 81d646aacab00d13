"""Reading an .sdv file from end to end: what is in it, what is lost, what is wrong. Specified in `container.py`."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from sdvideo.errors import DamagedError

from .chunk import END, GROUP, INDEX, TRACK, Chunk, ChunkFile, Found, Lost, require_known
from .group import unpack_group
from .header import Header
from .index import ANYWHERE, GroupEntry, pack_index, unpack_end, unpack_index, unpack_piece
from .ledger import Tally

_ABSENT = "its chunk is not in the file"


@dataclass(frozen=True, slots=True)
class Damage:
    """What is wrong in a file. offset: the byte where it begins; what: in words.

    kind: "cut" (the file ends too early), "checksum" (changed bytes), "missing" (not there any more), "structure" (what
    is there cannot be), "decode" (the checksum fits, but no picture comes of it).
    group, frames, seconds: which group is lost by it, its first and last frame, when it begins and ends; all None where
    no group is concerned, the last of a pair where the end is not known.
    """

    offset: int
    kind: str
    what: str
    group: int | None = None
    frames: tuple[int, int | None] | None = None
    seconds: tuple[float, float | None] | None = None


@dataclass(frozen=True, slots=True)
class Survey:
    """What a scan found: readable groups, lost ones, TRAK chunks, whether the end chunk agrees, and all damage.

    lost: as many frames as are missing, in times that lie between those of the groups around. As the index has them;
    without it all that is missing between two groups is one. Where the chunk of a lost group seems to be, offset and
    size tell; a size of 0 means that there is none. pieces: with chunks whose CRC does not fit among them.
    """

    groups: tuple[GroupEntry, ...]
    lost: tuple[GroupEntry, ...]
    pieces: tuple[Chunk, ...]
    complete: bool
    damage: tuple[Damage, ...]


def survey(file: ChunkFile, header: Header, start: int) -> Survey:
    """Read and check everything from the first chunk at offset `start`.

    Raises FormatError for a chunk that must be understood and is not known.
    """
    tally, pieces, damage = Tally(len(header.blobs)), [], []
    losses: dict[int, list[Lost]] = {}  # by how many groups came before
    index: Found | None = None
    end: Found | None = None
    for found in file.scan(start):
        if isinstance(found, Lost):
            if found.chunk is None or found.chunk.kind not in (TRACK, INDEX, END):
                losses.setdefault(len(tally.entries), []).append(found)
            else:
                damage.append(Damage(found.offset, found.kind, found.what))
                if found.chunk.kind == TRACK and found.end == found.chunk.end:
                    pieces.append(found.chunk)
            continue
        chunk = found.chunk
        require_known(chunk)
        try:
            if chunk.kind == GROUP:
                _take_group(found, tally, file.size)
            elif chunk.kind == TRACK:
                damage.extend(_take_piece(found, tally))
                pieces.append(chunk)
            elif chunk.kind == INDEX:
                index = found
            elif chunk.kind == END:
                unpack_end(found.payload)
                end = found
                break
        except DamagedError as error:
            bad = Lost(chunk.offset, chunk.end, "structure", f"{chunk.name} chunk: {error}", chunk)
            if chunk.kind == GROUP:
                losses.setdefault(len(tally.entries), []).append(bad)
            else:
                damage.append(Damage(bad.offset, bad.kind, bad.what))
    lost = _indexed(tally, index, start, file.size)
    indexed = lost is not None
    if not indexed:
        lost = _between(tally, end, file.size)
    named = list(_with_losses(tally, lost, losses, indexed, end is not None, header.info.time_base))
    damage.extend(what for _, what in named)
    lost = tuple(entry for entry, _ in named if entry)
    complete = end is not None and _agrees(tally, end)
    damage.extend(_judge_end(tally, end, file.size))
    if complete and not damage:
        damage.extend(_judge_index(tally, index, end, start))
    damage.sort(key=lambda one: one.offset)
    return Survey(tuple(tally.entries), lost, tuple(pieces), complete, tuple(damage))


def time_range(start: int, end: int, time_base: Fraction) -> str:
    """Two pts in words."""
    return f"{float(start * time_base):.2f} s to {float(end * time_base):.2f} s"


def _take_group(found: Found, tally: Tally, file_size: int) -> None:
    """Count a group. Raises DamagedError if it cannot be where it is."""
    group = unpack_group(found.payload)
    if fault := tally.fault(group):
        raise DamagedError(fault)
    if group.first + len(group.frames) > file_size:  # each frame takes a byte, and lost ones will be made up for
        raise DamagedError(f"the group starts with frame {group.first}, in a file of {file_size} bytes")
    tally.add_group(found.chunk.offset, found.chunk.size, group, found.crc)


def _take_piece(found: Found, tally: Tally) -> Iterator[Damage]:
    """Count a piece of a track file; tells what is missing before it."""
    piece = unpack_piece(found.payload, len(tally.track_bytes))
    expected = tally.track_bytes[piece.blob]
    if piece.position != expected:
        what = f"track file {piece.blob} goes on at byte {piece.position} instead of {expected}"
        yield Damage(found.chunk.offset, "missing", what)
    tally.add_piece(piece.blob, piece.end, found.crc)


def _indexed(tally: Tally, index: Found | None, start: int, file_size: int) -> list[GroupEntry] | None:
    """The groups in the index that are not in the file, or None if there is no index that fits to what is."""
    try:
        entries = list(unpack_index(index.payload, start, ANYWHERE)) if index else []
    except DamagedError:
        return None
    there = {entry[2:]: last for entry, last in zip(tally.entries, tally.last_pts)}
    if len(there.keys() & {entry[2:] for entry in entries}) < len(there):
        return None
    if not entries or entries[-1].first + entries[-1].frames > file_size:
        return None
    lost, last_pts = [], entries[0].start_pts - 1
    for entry, following in zip(entries, [*entries[1:], None]):
        if entry.start_pts <= last_pts:
            return None
        last_pts = there.get(entry[2:], entry.start_pts + entry.frames - 1)
        if entry[2:] not in there:
            end_pts = max(entry.end_pts, last_pts + 1)
            lost.append(entry._replace(end_pts=min(end_pts, following.start_pts) if following else end_pts))
    return lost


def _between(tally: Tally, end: Found | None, file_size: int) -> list[GroupEntry]:
    """What is missing before, between and, by the end chunk, behind the groups: one entry for each hole."""
    lost, frames, last_pts, end_pts, usual = [], 0, None, 0, 1
    for entry, last in zip(tally.entries, tally.last_pts):
        usual = max(1, (entry.end_pts - entry.start_pts) // entry.frames)
        if missing := entry.first - frames:
            since = entry.start_pts - missing * usual if last_pts is None else max(end_pts, last_pts + 1)
            since = min(since, entry.start_pts - missing)
            lost.append(GroupEntry(entry.offset, 0, frames, missing, since, entry.start_pts))
        frames, last_pts, end_pts = entry.first + entry.frames, last, entry.end_pts
    behind = min(unpack_end(end.payload).frames, file_size) - frames if end else 0
    if behind > 0 and tally.entries:
        since = max(end_pts, last_pts + 1)
        lost.append(GroupEntry(end.chunk.offset, 0, frames, behind, since, since + behind * usual))
    return lost


def _with_losses(
    tally: Tally, lost: list[GroupEntry], losses: dict[int, list[Lost]], indexed: bool, ended: bool, time_base: Fraction
) -> Iterator[tuple[GroupEntry | None, Damage]]:
    """Bring together the lost groups with the bytes that were lost between the same two readable ones.

    losses: by how many groups came before. indexed: every entry of `lost` is one group, not all between two others;
    ended: there is an end chunk. Gives each lost group, where its chunk may be, and all damage.
    """
    firsts, holes = [entry.first for entry in tally.entries], {}
    for entry in lost:
        holes.setdefault(bisect(firsts, entry.first), []).append(entry)
    number, sure = 0, True
    for place in range(len(firsts) + 1):
        here, seen = holes.get(place, []), losses.get(place, [])
        for at, entry in enumerate(here):
            # Bytes that are lost in one piece may have held several groups.
            one = seen[min(at, len(seen) - 1)] if seen else Lost(entry.offset, entry.offset, "missing", _ABSENT, None)
            entry = _placed(entry, one)
            yield entry, group_damage(one.kind, one.what, number if sure else None, entry, time_base)
            number, sure = number + 1, sure and indexed
        for one in seen[len(here) :]:
            # What comes last in a file without an end is where the next group would be.
            if place == len(firsts) and not (ended or here):
                last = tally.entries[-1].end_pts if firsts else 0
                rest = GroupEntry(one.offset, 0, tally.frames, 0, last, last)
                yield None, group_damage(one.kind, one.what, number if sure else None, rest, time_base)
            else:
                yield None, Damage(one.offset, one.kind, one.what)
        number += 1


def _placed(entry: GroupEntry, lost: Lost) -> GroupEntry:
    """Where the chunk of a lost group may be: as the index says, or what those bytes claim; of size 0 if nowhere."""
    if entry.size and lost.offset <= entry.offset < lost.end:
        return entry
    group = lost.chunk is not None and lost.chunk.kind == GROUP
    return entry._replace(offset=lost.offset, size=lost.chunk.size if group else 0)


def group_damage(kind: str, what: str, number: int | None, entry: GroupEntry, time_base: Fraction) -> Damage:
    """Damage that costs a group; an entry of no frames is one whose end is not known."""
    start, end = float(entry.start_pts * time_base), float(entry.end_pts * time_base)
    name = "a group" if number is None else f"group {number}"
    if entry.frames:
        frames, seconds = (entry.first, entry.first + entry.frames - 1), (start, end)
        where = f"frames {frames[0]} to {frames[1]}, {time_range(entry.start_pts, entry.end_pts, time_base)}"
    else:
        frames, seconds = (entry.first, None), (start, None)
        where = f"from frame {entry.first}, {start:.2f} s, on"
    return Damage(entry.offset, kind, f"{name} ({where}): {what}", number, frames, seconds)


def _agrees(tally: Tally, end: Found) -> bool:
    """Whether the end chunk promises just what is there."""
    there = (sum(entry.frames for entry in tally.entries), len(tally.entries), tally.check)
    return unpack_end(end.payload)[:3] == there


def _judge_end(tally: Tally, end: Found | None, size: int) -> Iterator[Damage]:
    """What is wrong with the end chunk and behind it."""
    frames, groups = sum(entry.frames for entry in tally.entries), len(tally.entries)
    if end is None:
        what = f"there is no end chunk: the file is unfinished or cut short, after {frames} frames"
        yield Damage(size, "cut", what)
        return
    if not _agrees(tally, end):
        promise = unpack_end(end.payload)
        what = f"the end chunk promises {promise.frames} frames in {promise.groups} groups, with certain CRCs"
        what += f"; found are {frames} frames in {groups} groups"
        yield Damage(end.chunk.offset, "structure", what)
    if end.chunk.end != size:
        yield Damage(end.chunk.end, "structure", f"{size - end.chunk.end} bytes follow the end chunk")


def _judge_index(tally: Tally, index: Found | None, end: Found, start: int) -> Iterator[Damage]:
    """What is wrong with the index, given that the groups and the end chunk agree."""
    promised, offset = unpack_end(end.payload).index, index.chunk.offset if index else 0
    if promised != offset or (index and index.chunk.end != end.chunk.offset):
        yield Damage(offset, "structure", f"the index is at byte {offset}; the end chunk says {promised}")
    if index and index.payload != pack_index(tally.entries, start):
        yield Damage(offset, "structure", "the index is not that of the groups in the file")
