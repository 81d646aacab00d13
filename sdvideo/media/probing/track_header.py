"""Reads what an MP4, QuickTime or Matroska file says of its video track and PyAV does not show.

    VideoHeader        the margins to cut off, encryption, Dolby Vision, panoramas and stereo
    read_video_header  from the sample entry of a box file, or the track entry of an EBML file

It is a help for whole files: in what cannot be parsed, nothing is found.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

from .boxes import boxes, top_boxes

_MAX_HEADER = 2**26  # bytes of the part of the file that describes its tracks
_VIDEO_ENTRY = 78  # bytes of a video's sample entry before the boxes in it
_GOOGLE_SPHERICAL = bytes.fromhex("ffcc8263f8554a938814587a02521fdd")  # the uuid of a box with XML
_ENCRYPTED = frozenset((b"encv", b"drmi"))

_SEGMENT, _TRACKS, _TRACK = 0x18538067, 0x1654AE6B, 0xAE
_TRACK_TYPE, _VIDEO, _ENCODINGS, _ENCODING, _ENCRYPTION = 0x83, 0xE0, 0x6D80, 0x6240, 0x5035
_WIDTH, _HEIGHT, _SHOWN_WIDTH, _SHOWN_HEIGHT = 0xB0, 0xBA, 0x54B0, 0x54BA
_CROP_LEFT, _CROP_TOP, _CROP_RIGHT, _CROP_BOTTOM = 0x54CC, 0x54BB, 0x54DD, 0x54AA
_STEREO, _PROJECTION, _PROJECTION_TYPE = 0x53B8, 0x7670, 0x7671
_ADDITION, _ADDITION_TYPE, _ADDITION_DATA = 0x41E4, 0x41E7, 0x41ED
_MASTERS = frozenset((_VIDEO, _ENCODINGS, _ENCODING, _PROJECTION, _ADDITION))


@dataclass(frozen=True, slots=True)
class VideoHeader:
    """What a file says of its video track.

    margins: left, top, right, bottom: columns and lines of the decoded pictures that are not shown. sar: pixel aspect
    ratio of what is left, if the file says it in that way. encrypted: whether the pictures are. dolby_vision: the
    profile, if they show wrong colours without its decoder. views: how they are meant to be seen, in words, such as
    "360 degrees" and "stereo".
    """

    margins: tuple[int, int, int, int] = (0, 0, 0, 0)
    sar: Fraction | None = None
    encrypted: bool = False
    dolby_vision: int | None = None
    views: tuple[str, ...] = ()


def read_video_header(file: BinaryIO, form: str, track: int, position: int) -> VideoHeader:
    """form: FFmpeg's name of the format. track: the stream's id. position: which of the videos it is, from 0."""
    try:
        if "mp4" in form:
            return _from_boxes(file, track)
        if "matroska" in form:
            return _from_ebml(file, position)
    except (OSError, ValueError, IndexError, KeyError, ZeroDivisionError, struct.error):
        pass
    return VideoHeader()


# --- boxes --------------------------------------------------------------------------------------------------


def _from_boxes(file: BinaryIO, track: int) -> VideoHeader:
    start, end = next((start, end) for kind, start, end in top_boxes(file) if kind == b"moov")
    if end - start > _MAX_HEADER:
        return VideoHeader()
    file.seek(start)
    for kind, trak in boxes(file.read(end - start)):
        if kind == b"trak":
            parts = dict(_safe_boxes(trak))
            head = parts[b"tkhd"]
            (number,) = struct.unpack_from(">I", head, 20 if head[0] else 12)
            if number == track:
                return _of_trak(trak, parts)
    return VideoHeader()


def _of_trak(trak: bytes, parts: dict[bytes, bytes]) -> VideoHeader:
    inside = parts
    for kind in (b"mdia", b"minf", b"stbl"):
        inside = dict(_safe_boxes(inside[kind]))
    name, entry = next(boxes(inside[b"stsd"], 8))
    said = dict(_safe_boxes(entry, _VIDEO_ENTRY))
    vision = said.get(b"dvcC") or said.get(b"dvvC")
    views = []
    if b"sv3d" in said or any(k == b"uuid" and d.startswith(_GOOGLE_SPHERICAL) for k, d in _safe_boxes(trak)):
        views.append("360 degrees")
    if said.get(b"st3d", bytes(5))[4:5] not in (b"", b"\0"):
        views.append("stereo")
    return VideoHeader(
        margins=_margins(said[b"clap"], *struct.unpack_from(">HH", entry, 24)) if b"clap" in said else (0, 0, 0, 0),
        encrypted=name in _ENCRYPTED,
        dolby_vision=None if vision is None else _profile(vision),
        views=tuple(views),
    )


def _margins(clap: bytes, width: int, height: int) -> tuple[int, int, int, int]:
    """A clean aperture: size and offset of its centre from that of the picture, as fractions."""
    numbers = struct.unpack_from(">IIIIiIiI", clap)
    shown_width, shown_height, right, down = (Fraction(*numbers[i : i + 2]) for i in (0, 2, 4, 6))
    left = round((width - shown_width) / 2 + right)
    top = round((height - shown_height) / 2 + down)
    return left, top, width - left - round(shown_width), height - top - round(shown_height)


def _profile(configuration: bytes) -> int | None:
    """The Dolby Vision profile, if its base shows wrong colours by itself (compatibility 0)."""
    (word,) = struct.unpack_from(">H", configuration, 2)
    profile = word >> 9
    return profile if profile in (5, 10, 20) and configuration[4] >> 4 == 0 else None


def _safe_boxes(data: bytes, at: int = 0) -> Iterator[tuple[bytes, bytes]]:
    """The boxes up to the first one that does not fit: QuickTime ends lists of them with four zero bytes."""
    try:
        yield from boxes(data, at)
    except ValueError:
        return


# --- EBML ---------------------------------------------------------------------------------------------------


def _from_ebml(file: BinaryIO, position: int) -> VideoHeader:
    for kind, data in _elements(_tracks(file)):
        if kind == _TRACK:
            said = dict(_leaves(data))
            if _number(said, _TRACK_TYPE) == 1:
                if not position:
                    return _of_track(said, data)
                position -= 1
    return VideoHeader()


def _of_track(said: dict[int, bytes], track: bytes) -> VideoHeader:
    left, top, right, bottom = (_number(said, key) for key in (_CROP_LEFT, _CROP_TOP, _CROP_RIGHT, _CROP_BOTTOM))
    sar = None
    if any((left, top, right, bottom)):
        width, height = _number(said, _WIDTH) - left - right, _number(said, _HEIGHT) - top - bottom
        shown = said.get(_SHOWN_WIDTH), said.get(_SHOWN_HEIGHT)
        sar = Fraction(1)
        if None not in shown:
            sar = Fraction(_number(said, _SHOWN_WIDTH), width) / Fraction(_number(said, _SHOWN_HEIGHT), height)
    views = ["360 degrees"] * (_number(said, _PROJECTION_TYPE) > 0) + ["stereo"] * (_number(said, _STEREO) > 0)
    kinds = [dict(_elements(data)) for kind, data in _elements(track) if kind == _ADDITION]
    visions = [one[_ADDITION_DATA] for one in kinds if one.get(_ADDITION_TYPE, b"")[-4:] in (b"dvcC", b"dvvC")]
    return VideoHeader(
        (left, top, right, bottom), sar, _ENCRYPTION in said, _profile(visions[0]) if visions else None, tuple(views)
    )


def _tracks(file: BinaryIO) -> bytes:
    """The contents of the first list of tracks. Raises ValueError if there is none."""
    file.seek(0)
    while True:
        kind, size = _head(file)
        if kind == _TRACKS:
            return file.read(min(size, _MAX_HEADER))
        if kind != _SEGMENT:
            file.seek(size, 1)


def _head(file: BinaryIO) -> tuple[int, int]:
    """Id and size of the next element of a file. Raises ValueError at its end."""
    numbers = []
    for keep_mark in (True, False):
        first = file.read(1)
        length = 9 - first[0].bit_length() if first else 9
        if length > 8:
            raise ValueError("no element")
        numbers.append(_variable(first + file.read(length - 1), keep_mark))
    return numbers[0], numbers[1]


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Id and contents of each element in the contents of another one."""
    at = 0
    while at < len(data):
        numbers = []
        for keep_mark in (True, False):
            length = 9 - data[at].bit_length()
            numbers.append(_variable(data[at : at + length], keep_mark))
            at += length
        yield numbers[0], data[at : at + numbers[1]]
        at += numbers[1]


def _leaves(data: bytes) -> Iterator[tuple[int, bytes]]:
    """All elements that hold values, at any depth, and encryption."""
    for kind, contents in _elements(data):
        if kind in _MASTERS:
            yield from _leaves(contents)
        else:
            yield kind, contents


def _variable(data: bytes, keep_mark: bool) -> int:
    """A number of variable length; its first one bit marks the length, and belongs to ids only."""
    value = int.from_bytes(data, "big")
    return value if keep_mark else value & ~(1 << 7 * len(data))


def _number(said: dict[int, bytes], kind: int) -> int:
    return int.from_bytes(said.get(kind, b""), "big")
