"""Reads the structure of HEIF files (HEIC and AVIF stills, ISO/IEC 23008-12): which items make up the primary picture.

    heif = HeifFile(file)
    heif.primary            the item to show: a coded picture, or a grid of them
    heif.data(item)         its coded data

A HEIF file is a tree of boxes. Its `meta` box lists items, which are coded pictures, pictures derived from others, and
metadata; gives each of them properties, such as its size, colours and rotation; and says where its data is.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from sdvideo.errors import SourceError
from sdvideo.media.probing.boxes import boxes, top_boxes

_MAX_META = 2**26  # bytes; that of a photo with a thousand tiles has 50,000, but it may hold a small picture
_PICTURES = frozenset(
    ("hvc1", "hev1", "lhv1", "av01", "avc1", "vvc1", "evc1", "jpeg", "j2k1", "unci", "grid", "iovl", "iden")
)


# Major brands of files to be shown as one picture. Those of sequences are not among them: they are videos.
_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2", b"avif", b"avci", b"jpeg", b"MiHE", b"MiHB"))


def is_heif(head: bytes) -> bool:
    """Whether a file that begins with these 12 bytes is a HEIF file whose primary picture is to be shown."""
    return head[4:8] == b"ftyp" and head[8:12] in _BRANDS


class NotUnderstood(SourceError):
    """The file may be sound, but shows its picture in a way that is not read here."""


@dataclass(frozen=True, slots=True)
class Property:
    """One property of an item. kind: of its box, such as "irot"; data: the box without its head."""

    kind: str
    data: bytes
    essential: bool


@dataclass(frozen=True, slots=True)
class Grid:
    """The picture of a "grid" item: tiles in rows from the top left, cut to a size in pixels."""

    rows: int
    columns: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Item:
    """One item. kind: such as "hvc1" or "grid"; properties: in the order in which they apply.

    inputs: the items that a derived picture is made of. refers: (kind, item) of all other references from this item.
    """

    number: int
    kind: str
    hidden: bool
    properties: tuple[Property, ...]
    inputs: tuple[int, ...]
    refers: tuple[tuple[str, int], ...]

    def find(self, kind: str) -> bytes | None:
        """The data of the first property of this kind."""
        return next((one.data for one in self.properties if one.kind == kind), None)

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height before the item's transformations."""
        found = self.find("ispe")
        return None if found is None else struct.unpack_from(">II", found, 4)

    @property
    def auxiliary(self) -> str:
        """The URN that says what an auxiliary picture is, or ""."""
        return (self.find("auxC") or b"")[4:].split(b"\0")[0].decode("latin-1")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an item's data is: in the file, or in the `idat` box.

    extents: offset and length of its pieces, in bytes; length 0 is up to the end.
    """

    in_idat: bool
    extents: tuple[tuple[int, int], ...]


class HeifFile:
    """The items of a HEIF file.

    primary: the item to show. items: all, by number. has_video: whether a video is stored beside the picture (a motion
    photo). Raises SourceError for a file that is damaged, NotUnderstood for one whose structure is not read here.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._end = os.fstat(file.fileno()).st_size
        meta = self._read_meta()
        try:
            parts = dict(boxes(meta, 4))
            self._places = dict(_places(parts[b"iloc"]))
            self._idat = parts.get(b"idat", b"")
            self.items = _items(parts)
            (number,) = struct.unpack_from(">I" if parts[b"pitm"][0] else ">H", parts[b"pitm"], 4)
            self.primary = self.items[number]
        except (KeyError, IndexError, ValueError, struct.error) as error:
            raise SourceError("its list of pictures is damaged") from error

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the primary picture before its transformations."""
        if self.primary.kind == "grid":
            grid = self.grid(self.primary)
            return grid.width, grid.height
        if self.primary.size is None:
            raise NotUnderstood(f'its picture of type "{self.primary.kind}" has no size')
        return self.primary.size

    def item(self, number: int) -> Item:
        if number not in self.items:
            raise SourceError("its list of pictures is damaged")
        return self.items[number]

    def data(self, item: Item) -> bytes:
        """The item's data. Raises SourceError if the file ends before it, NotUnderstood if it is in another file."""
        place = self._places.get(item.number)
        if place is None:
            raise NotUnderstood(f'its picture of type "{item.kind}" has no data that can be found')
        return b"".join(self._piece(place.in_idat, *extent) for extent in place.extents)

    def grid(self, item: Item) -> Grid:
        """How the tiles of a "grid" item are laid out."""
        data = self.data(item)
        try:
            _, flags, rows, columns = struct.unpack_from(">4B", data)
            width, height = struct.unpack_from(">II" if flags & 1 else ">HH", data, 4)
        except struct.error as error:
            raise SourceError("the layout of its tiles is damaged") from error
        if len(item.inputs) != (rows + 1) * (columns + 1) or not width or not height:
            raise SourceError("the layout of its tiles is damaged")
        return Grid(rows + 1, columns + 1, width, height)

    def auxiliaries(self, item: Item) -> list[Item]:
        """The auxiliary pictures of an item: transparency, depth, gain maps."""
        return [other for other in self.items.values() if ("auxl", item.number) in other.refers]

    def further(self) -> int:
        """How many pictures the file has beside the primary one, its parts, thumbnails and auxiliary pictures."""
        parts = {number for item in self.items.values() for number in item.inputs}
        return sum(
            item.kind in _PICTURES
            and not item.hidden
            and item.number not in parts
            and item is not self.primary
            and not any(kind in ("thmb", "auxl") for kind, _ in item.refers)
            for item in self.items.values()
        )

    def _read_meta(self) -> bytes:
        found, self.has_video = None, False
        for kind, start, end in top_boxes(self._file):
            if kind == b"meta" and found is None:
                if end - start > _MAX_META:
                    raise SourceError("its list of pictures is damaged")
                found = self._at(start, end - start)
            self.has_video |= kind == b"mpvd"
        if found is None:
            raise SourceError("has no list of pictures, or ends before it")
        return found

    def _at(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(length)

    def _piece(self, in_idat: bool, offset: int, length: int) -> bytes:
        whole = len(self._idat) if in_idat else self._end
        length = length or whole - offset
        if length < 0 or offset + length > whole:
            raise SourceError("ends before its picture does")
        return self._idat[offset : offset + length] if in_idat else self._at(offset, length)


class _Numbers:
    """Reads big-endian numbers of any size one after another, after the version and flags of a full box."""

    def __init__(self, box: bytes) -> None:
        self.version, self.flags = box[0], int.from_bytes(box[1:4], "big")
        self._box, self._at = box, 4

    def next(self, size: int) -> int:
        """The number of the next `size` bytes, 0 for none. Raises IndexError after the end."""
        self._at += size
        if self._at > len(self._box):
            raise IndexError("a box ends early")
        return int.from_bytes(self._box[self._at - size : self._at], "big")

    def rest(self) -> bytes:
        return self._box[self._at :]


def _items(parts: dict[bytes, bytes]) -> dict[int, Item]:
    properties = _properties(parts.get(b"iprp", b""))
    inputs: dict[int, tuple[int, ...]] = {}
    refers: dict[int, list[tuple[str, int]]] = {}
    for kind, source, targets in _references(parts[b"iref"]) if b"iref" in parts else ():
        if kind == "dimg":
            inputs[source] = targets
        else:
            refers.setdefault(source, []).extend((kind, target) for target in targets)
    return {
        number: Item(
            number,
            kind,
            hidden,
            tuple(properties.get(number, ())),
            inputs.get(number, ()),
            tuple(refers.get(number, ())),
        )
        for number, kind, hidden in _infos(parts[b"iinf"])
    }


def _infos(box: bytes) -> Iterator[tuple[int, str, bool]]:
    """Number, kind, and whether it is hidden, of each item; older entries (version 0 and 1) are no pictures."""
    numbers = _Numbers(box)
    numbers.next(4 if numbers.version else 2)
    for kind, entry in boxes(numbers.rest()):
        if kind == b"infe" and entry[0] >= 2:
            one = _Numbers(entry)
            number = one.next(4 if one.version > 2 else 2)
            one.next(2)  # protection
            yield number, one.next(4).to_bytes(4, "big").decode("latin-1"), bool(one.flags & 1)


def _references(box: bytes) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """Kind, source and targets of each group of references."""
    size = 4 if box[0] else 2
    for kind, data in boxes(box, 4):
        numbers = _Numbers(bytes(4) + data)
        source, count = numbers.next(size), numbers.next(2)
        yield kind.decode("latin-1"), source, tuple(numbers.next(size) for _ in range(count))


def _properties(box: bytes) -> dict[int, list[Property]]:
    """The properties of each item."""
    parts = list(boxes(box))
    kept = [one for kind, contents in parts if kind == b"ipco" for one in boxes(contents)]
    found: dict[int, list[Property]] = {}
    for _, contents in (part for part in parts if part[0] == b"ipma"):
        numbers = _Numbers(contents)
        wide = numbers.flags & 1
        for _ in range(numbers.next(4)):
            item = numbers.next(4 if numbers.version else 2)
            for _ in range(numbers.next(1)):
                word = numbers.next(2 if wide else 1)
                essential, index = divmod(word, 0x8000 if wide else 0x80)
                if index:
                    kind, data = kept[index - 1]
                    one = Property(kind.decode("latin-1"), data, bool(essential))
                    found.setdefault(item, []).append(one)
    return found


def _places(box: bytes) -> Iterator[tuple[int, _Place]]:
    """Number and place of each item whose data is in the file itself, at offsets of the file or of the `idat` box."""
    numbers = _Numbers(box)
    sizes = numbers.next(2)
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    for _ in range(numbers.next(4 if numbers.version > 1 else 2)):
        item = numbers.next(4 if numbers.version > 1 else 2)
        method = numbers.next(2) & 15 if numbers.version else 0
        elsewhere = numbers.next(2)
        base = numbers.next(base_size)
        extents = []
        for _ in range(numbers.next(2)):
            if numbers.version:
                numbers.next(index_size)
            extents.append((base + numbers.next(offset_size), numbers.next(length_size)))
        if method <= 1 and not elsewhere:
            yield item, _Place(method == 1, tuple(extents))
