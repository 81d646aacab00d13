"""The file format: round trips, detection of damage, resuming, and rejection of hostile files at little cost."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from contextlib import suppress
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sdvideo
from sdvideo.container import (
    KEY,
    PREDICTED,
    CodedFrame,
    Group,
    Header,
    ModelId,
    Reader,
    Writer,
    pack_group,
    unpack_group,
    verify,
)
from sdvideo.container.preamble import HEADER_DICTIONARY, MAJOR, deflate_header, inflate_header
from sdvideo.errors import DamagedError, FormatError, SinkError, SourceError
from sdvideo.frames import Chapter, Colour, StreamInfo, Track

MODEL = ModelId("embedded", "3", "0123456789abcdef" * 4)
INFO = StreamInfo(
    width=641,
    height=359,
    time_base=Fraction(1, 90000),
    rate=Fraction(30000, 1001),
    frames=11,
    sar=Fraction(4, 3),
    colour=Colour(True, 1, 9, 16),
    rotation=-90,
    tracks=(Track("audio", "aac", "ger", 0, 0), Track("subtitle", "ass", "", 1, 0)),
    chapters=(Chapter(0, 3003, Fraction(1, 1000), "Anfang – 始"),),
    metadata={"title": "a “clip”", "": ""},
)
HEADER = Header(
    info=INFO,
    model=MODEL,
    base="none",
    coder="context-1",
    latent={"channels": 64, "block": 16, "scale": [0.5, 1.25]},
    settings={"quality": 50, "keyint": 4, "note": None},
    blobs=("mp4", "matroska"),
)
PLAIN = Header(StreamInfo(16, 16, Fraction(1, 25)), MODEL, "none", "context-1", {"channels": 4, "block": 8})


def make_group(first: int, count: int, size: int = 5) -> Group:
    frames = (
        CodedFrame(3003 * n + 7, 3003, KEY if n == first else PREDICTED, 40, bytes([n % 251]) * size)
        for n in range(first, first + count)
    )
    return Group(first, tuple(frames))


GROUPS = [make_group(0, 4), make_group(4, 4), make_group(8, 3)]


def write_clip(writer: Writer, frames: int = 0, tracks: tuple[int, ...] = (0, 0)) -> None:
    """Write the clip of most tests, with track pieces before, between and after the groups.

    frames, tracks: what a resumed writer already has, which is not written again.
    """

    def track(blob: int, data: bytes, start: int) -> None:
        if tracks[blob] < start + len(data):
            writer.write_track(blob, data)

    track(0, b"moov", 0)
    track(1, b"matroska", 0)
    for number, group in enumerate(GROUPS):
        if group.first >= frames:
            writer.write_group(group)
        if number == 1:
            track(0, b"sound" * 4, 4)
    track(0, b"the end", 24)
    writer.finish()


def to_bytes(header: Header, groups: list[Group]) -> bytes:
    file = io.BytesIO()
    writer = Writer(file, header)
    for group in groups:
        writer.write_group(group)
    writer.finish()
    return file.getvalue()


def clip_bytes() -> bytes:
    file = io.BytesIO()
    write_clip(Writer(file, HEADER))
    return file.getvalue()


CLIP = clip_bytes()
TRACKS = [b"moov" + b"sound" * 4 + b"the end", b"matroska"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "clip.sdv"


def read_all(reader: Reader) -> list[Group]:
    return [reader.read_group(number) for number in range(len(reader.groups))]


def preamble_end(data: bytes) -> int:
    return 16 + struct.unpack_from("<I", data, 12)[0] + 4


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    at, found = preamble_end(data), []
    while at < len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        found.append((kind, data[at + 8 : at + 8 + size]))
        at += size + 12
    return found


def chunk(kind: bytes, payload: bytes) -> bytes:
    body = kind + struct.pack("<I", len(payload)) + payload
    return body + struct.pack("<I", zlib.crc32(body))


def file_of_chunks(chunks: list[tuple[bytes, bytes]], start: bytes = CLIP) -> bytes:
    return start[: preamble_end(start)] + b"".join(chunk(*one) for one in chunks)


def preamble(text: bytes, major: int = MAJOR, minor: int = 0) -> bytes:
    data = bytes.fromhex("895344560D0A1A0A") + struct.pack("<HHI", major, minor, len(text)) + text
    return data + struct.pack("<I", zlib.crc32(data))


# ---- round trips


@pytest.mark.parametrize("tolerant", [False, True])
def test_round_trip_of_a_file(path, tolerant):
    path.write_bytes(CLIP)
    with Reader(path, tolerant=tolerant) as reader:
        assert reader.header == HEADER
        assert read_all(reader) == GROUPS
        assert [b"".join(reader.track_data(blob)) for blob in (0, 1)] == TRACKS
        assert (reader.complete, reader.frame_count, reader.damage) == (True, 11, ())
        assert [(entry.first, entry.frames, entry.start_pts, entry.end_pts) for entry in reader.groups] == [
            (0, 4, 7, 12019),
            (4, 4, 12019, 24031),
            (8, 3, 24031, 33040),
        ]
        assert reader.read_group(-1) == GROUPS[-1]
    assert verify(path) == []


def test_a_header_of_default_values_is_small(path):
    path.write_bytes(to_bytes(PLAIN, []))
    with Reader(path) as reader:
        assert reader.header == PLAIN
        assert (reader.groups, reader.complete) == ((), True)
    assert preamble_end(path.read_bytes()) < 150
    assert verify(path) == []


def test_headers_may_be_plain_or_deflated_and_inflating_them_is_bounded(path):
    text = json.dumps(json.loads(inflate_header(CLIP[16 : preamble_end(CLIP) - 4])), indent=1).encode()
    for stored in (text, deflate_header(text)):
        path.write_bytes(preamble(stored) + CLIP[preamble_end(CLIP) :])
        with Reader(path) as reader:
            assert reader.header == HEADER
    bomb = zlib.compressobj(9, wbits=-15)
    large = b"\x01" + bomb.compress(b"{" + b" " * 2**24) + bomb.flush()
    packed = deflate_header(text)
    for stored in (large, packed[:-3], packed + b"\0", b"\x01", b"\x01" + bytes(20), b"\x02" + text, text[1:]):
        path.write_bytes(preamble(stored) + CLIP[preamble_end(CLIP) :])
        for use in (Reader, verify, Writer.resume):
            tracemalloc.start()
            with pytest.raises(FormatError, match="header: "):
                use(path)
            assert tracemalloc.get_traced_memory()[1] < 2**23
            tracemalloc.stop()


def test_the_header_dictionary_never_changes():
    """It is part of the format: with any other bytes, existing files cannot be read."""
    assert hashlib.sha256(HEADER_DICTIONARY).hexdigest() == (
        "1253d0a6a7dc7dd8d899699e053ba1386908f8fee29c2aef1aa4f0825e95fe3f"
    )


def test_a_frame_with_default_times_costs_two_bytes():
    assert len(pack_group(make_group(0, 50, 75))) - 50 * 75 <= 2 * 50 + 10


def test_the_writer_only_ever_appends(path):
    class Pipe(io.RawIOBase):
        def __init__(self):
            self.data = b""

        def writable(self):
            return True

        def write(self, data):
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    write_clip(Writer(io.BufferedWriter(pipe), HEADER))
    assert pipe.data == CLIP


def test_a_large_track_file_is_split_into_pieces(path):
    sound = bytes(range(256)) * 10_000
    with path.open("wb") as file:
        writer = Writer(file, HEADER)
        writer.write_track(1, sound)
        writer.write_group(GROUPS[0])
        writer.finish()
    with Reader(path) as reader:
        sizes = [len(piece) for piece in reader.track_data(1)]
        assert max(sizes) == 2**16 and sum(sizes) == len(sound)
        assert b"".join(reader.track_data(1)) == sound
        assert list(reader.track_data(0)) == []


frame_lists = st.lists(
    st.tuples(
        st.integers(1, 2**40) | st.just(1),
        st.integers(0, 2**60 - 1) | st.just(1),
        st.integers(0, 1),
        st.integers(0, 255) | st.just(40),
        st.binary(max_size=20),
    ),
    min_size=1,
    max_size=12,
)


@st.composite
def coded_groups(draw, first=None):
    rows, pts = draw(frame_lists), draw(st.integers(-(2**59), 2**59))
    frames = []
    for delta, duration, kind, step, data in rows:
        pts += delta
        frames.append(CodedFrame(pts, duration, kind if frames else KEY, step, data))
    return Group(draw(st.integers(0, 2**40 - 1)) if first is None else first, tuple(frames))


@given(coded_groups())
def test_round_trip_of_any_group(group):
    assert unpack_group(pack_group(group)) == group


@given(coded_groups(), st.data())
def test_a_changed_group_is_valid_or_rejected(group, data):
    packed = bytearray(pack_group(group))
    for _ in range(data.draw(st.integers(1, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    packed = packed[: data.draw(st.integers(0, len(packed)))]
    with suppress(DamagedError):
        again = unpack_group(bytes(packed))
        assert unpack_group(pack_group(again)) == again


@given(st.binary(max_size=60))
def test_random_bytes_are_rejected_as_a_group(noise):
    with suppress(DamagedError):
        unpack_group(noise)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ratios = st.builds(Fraction, st.integers(1, 2**31 - 1), st.integers(1, 2**31 - 1))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
code_points = st.integers(0, 255)
infos = st.builds(
    StreamInfo,
    width=st.integers(1, 16384),
    height=st.integers(1, 4096),
    time_base=ratios,
    rate=st.none() | ratios,
    frames=st.none() | st.integers(0, 2**40),
    sar=ratios,
    colour=st.builds(Colour, st.booleans(), code_points, code_points, code_points),
    rotation=st.integers(-360, 360),
    tracks=st.lists(
        st.builds(Track, st.sampled_from(["audio", "subtitle"]), texts, texts, st.just(0), st.integers(0, 1023)),
        max_size=3,
    ).map(tuple),
    chapters=st.lists(
        st.builds(Chapter, st.integers(-(2**60) + 1, 0), st.integers(0, 9), ratios, texts), max_size=3
    ).map(tuple),
    metadata=st.dictionaries(texts, texts, max_size=3),
    icc=st.binary(max_size=60),
)
headers = st.builds(
    Header,
    info=infos,
    model=st.builds(ModelId, texts.filter(bool), texts, st.just(MODEL.sha256)),
    base=st.just("none"),
    coder=texts.filter(bool),
    latent=st.dictionaries(texts, json_values, max_size=3).map(lambda extra: extra | {"channels": 4, "block": 8}),
    settings=st.dictionaries(texts, json_values, max_size=3),
    blobs=st.lists(st.sampled_from(["mp4", "matroska"]), min_size=1, max_size=3).map(tuple),
    writer=texts,
)


@given(headers)
def test_round_trip_of_any_header(tmp_path_factory, header):
    path = tmp_path_factory.getbasetemp() / "header.sdv"
    path.write_bytes(to_bytes(header, []))
    with Reader(path) as reader:
        assert reader.header == header


# ---- truncation, damage, resume


def test_a_file_cut_anywhere_has_the_groups_up_to_its_last_whole_one(path):
    ends, at = [], preamble_end(CLIP)
    for kind, payload in chunks_of(CLIP):
        at += len(payload) + 12
        if kind == b"GRUP":
            ends.append(at)
    for size in range(len(CLIP)):
        path.write_bytes(CLIP[:size])
        if size < preamble_end(CLIP):
            with pytest.raises(FormatError):
                Reader(path)
            continue
        for tolerant in (False, True):
            with Reader(path, tolerant=tolerant) as reader:
                assert read_all(reader) == GROUPS[: sum(end <= size for end in ends)]
                assert not reader.complete
                assert "cut short" in reader.damage[-1].what
                for blob in (0, 1):
                    assert TRACKS[blob].startswith(b"".join(reader.track_data(blob)))


@pytest.mark.parametrize("mask", [0x20, 0xFF])
def test_every_changed_byte_is_detected_and_changes_no_frame(path, mask):
    for offset in range(len(CLIP)):
        data = bytearray(CLIP)
        data[offset] ^= mask
        path.write_bytes(data)
        try:
            assert verify(path) != []
        except FormatError:
            assert offset < preamble_end(CLIP)
            continue
        with Reader(path, tolerant=True) as reader:
            found = read_all(reader)
            assert all(group in GROUPS for group in found)
            assert len(found) >= len(GROUPS) - 1
        with Reader(path) as reader:
            for number, group in enumerate(GROUPS[: len(reader.groups)]):
                with suppress(DamagedError):
                    assert reader.read_group(number) == group
            for blob in (0, 1):
                with suppress(DamagedError):
                    track = b"".join(reader.track_data(blob))
                    assert track == TRACKS[blob] or (not reader.complete and TRACKS[blob].startswith(track))


def test_errors_of_a_damaged_group_name_its_frames_and_time(path):
    data = bytearray(CLIP)
    data[data.index(bytes([5]) * 5)] ^= 1
    path.write_bytes(data)
    with Reader(path) as reader:
        assert reader.read_group(0) == GROUPS[0]
        with pytest.raises(DamagedError, match=r"group 1 \(frames 4 to 7, 0\.13 s to 0\.27 s\) is damaged"):
            reader.read_group(1)
        assert reader.read_group(2) == GROUPS[2]
    with Reader(path, tolerant=True) as reader:
        assert read_all(reader) == [GROUPS[0], GROUPS[2]]
        assert (reader.frame_count, reader.complete) == (7, False)
        damage = reader.damage[0]
        assert damage.what.startswith("group 1 (frames 4 to 7, 0.13 s to 0.27 s): the CRC of a GRUP chunk")
        assert (damage.kind, damage.group, damage.frames) == ("checksum", 1, (4, 7))


def test_reading_continues_behind_damage_of_unknown_size(path):
    start = CLIP.index(b"GRUP", CLIP.index(b"GRUP") + 1)
    path.write_bytes(CLIP[: start - 3] + b"garbage GRUP and more" + CLIP[start:])
    with Reader(path, tolerant=True) as reader:
        assert read_all(reader) == GROUPS[1:]
    with Reader(path) as reader:
        assert read_all(reader) == []
        assert not reader.complete


def test_groups_of_an_sdv_file_inside_a_damaged_track_piece_are_ignored(path):
    file = io.BytesIO()
    writer = Writer(file, HEADER)
    writer.write_track(0, to_bytes(PLAIN, [make_group(0, 2, 9)]))
    for group in GROUPS:
        writer.write_group(group)
    writer.finish()
    data = bytearray(file.getvalue())
    data[data.index(b"TRAK") + 30] ^= 4
    path.write_bytes(data)
    with Reader(path, tolerant=True) as reader:
        assert read_all(reader) == GROUPS
    with Reader(path) as reader, pytest.raises(DamagedError):
        list(reader.track_data(0))


def test_a_missing_track_piece_is_detected(path):
    chunks = chunks_of(CLIP)
    lost = next(n for n, (kind, payload) in enumerate(chunks) if kind == b"TRAK" and b"sound" in payload)
    path.write_bytes(file_of_chunks(chunks[:lost] + chunks[lost + 1 :]))
    assert verify(path)
    with Reader(path) as reader:
        assert read_all(reader) == GROUPS
        assert not reader.complete
        with pytest.raises(DamagedError, match="continues at byte 24, not 4"):
            list(reader.track_data(0))


def test_bytes_behind_the_end_chunk_are_detected(path):
    for extra in (b"\0", CLIP, chunk(b"GRUP", pack_group(make_group(11, 1)))):
        path.write_bytes(CLIP + extra)
        assert any("follow the end chunk" in damage.what for damage in verify(path))
        with Reader(path) as reader:
            assert read_all(reader) == GROUPS


def test_resuming_at_every_offset_gives_the_same_file(path):
    for size in range(len(CLIP) + 1):
        path.write_bytes(CLIP[:size])
        if size < preamble_end(CLIP):
            with pytest.raises(FormatError):
                Writer.resume(path)
            assert path.read_bytes() == CLIP[:size]
            continue
        writer, frames, tracks = Writer.resume(path)
        with writer.file:
            assert writer.header == HEADER
            write_clip(writer, frames, tracks)
        assert path.read_bytes() == CLIP


def test_resuming_cuts_off_zeros_behind_a_cut_group(path):
    start = CLIP.index(b"GRUP", CLIP.index(b"GRUP") + 1)
    path.write_bytes(CLIP[: start + 20] + bytes(500))
    writer, frames, tracks = Writer.resume(path)
    with writer.file:
        assert (frames, tracks) == (4, (4, 8))
        write_clip(writer, frames, tracks)
    assert path.read_bytes() == CLIP


@settings(max_examples=200)
@given(st.data())
def test_a_mangled_file_is_rejected_or_has_only_intact_groups(tmp_path_factory, data):
    mangled = CLIP
    for _ in range(data.draw(st.integers(1, 3))):
        low = data.draw(st.integers(0, len(mangled)))
        high = data.draw(st.integers(low, min(low + 200, len(mangled))))
        piece = data.draw(st.sampled_from([b"", mangled[low:high] * 2, b"GRUP"]) | st.binary(max_size=20))
        mangled = mangled[:low] + piece + mangled[high:]
    path = tmp_path_factory.getbasetemp() / "mangled.sdv"
    path.write_bytes(mangled)
    for tolerant in (False, True):
        with suppress(FormatError), Reader(path, tolerant=tolerant) as reader:
            for number in range(len(reader.groups)):
                assert reader.read_group(number) in GROUPS
            for blob in (0, 1):
                list(reader.track_data(blob))
    with suppress(FormatError):
        assert verify(path) != [] or mangled == CLIP


# ---- hostile files


def header_with(**changes) -> bytes:
    top = json.loads(inflate_header(CLIP[16 : preamble_end(CLIP) - 4]))
    for key, value in changes.items():
        outer, _, inner = key.partition("__")
        if inner:
            top[outer][inner] = value
        else:
            top[outer] = value
    return json.dumps(top).encode()


BAD_HEADERS = {
    "not JSON": b"{",
    "not an object": b"[1]",
    "spaces first": b" {}",
    "empty object": b"{}",
    "not UTF-8": b'{"a":"\xff"}',
    "lone surrogate": b'{"a":"\\ud800"}',
    "deep arrays": b'{"a":' + b"[" * 300_000 + b"]" * 300_000 + b"}",
    "40 deep": header_with(settings={"a": json.loads("[" * 40 + "]" * 40)}),
    "huge integer": b'{"a":' + b"9" * 500_000 + b"}",
    "huge float": b'{"a":1e999}',
    "NaN": header_with(settings={"a": float("nan")}),
    "Infinity": header_with(latent={"channels": float("inf"), "block": 8}),
    "key twice": b'{"a":1,"a":2}',
    "no width": header_with(video__width=None),
    "no height": header_with(video__height=0),
    "too wide": header_with(video__width=16385),
    "too large": header_with(video__width=16384, video__height=16384),
    "width is a boolean": header_with(video__width=True),
    "width is a fraction": header_with(video__width=1.0),
    "time base of zero": header_with(video__time_base=[0, 1]),
    "time base over zero": header_with(video__time_base=[1, 0]),
    "huge time base": header_with(video__time_base=[1, 2**31]),
    "time base of three": header_with(video__time_base=[1, 2, 3]),
    "negative frames": header_with(video__frames=-1),
    "range is a number": header_with(video__colour={"full_range": 1}),
    "unknown code point": header_with(video__colour={"matrix": 256}),
    "no base": header_with(base=""),
    "long base": header_with(base="a" * 65),
    "base is a number": header_with(base=1),
    "unknown blob": header_with(blobs=["avi"]),
    "unhashable blob": header_with(blobs=[[]]),
    "too many blobs": header_with(blobs=["mp4"] * 257),
    "track without a blob": header_with(blobs=[]),
    "too many tracks": header_with(tracks=[{}] * 257),
    "track is null": header_with(tracks=[None]),
    "too many chapters": header_with(chapters=[0] * 10001),
    "chapter ends before it starts": header_with(chapters=[{"start": 2, "end": 1, "time_base": [1, 1]}]),
    "metadata of numbers": header_with(metadata={"a": 1}),
    "too much metadata": header_with(metadata={str(n): "" for n in range(1001)}),
    "long metadata": header_with(metadata={"a": "x" * 65537}),
    "no hash": header_with(model__sha256="0" * 63),
    "upper-case hash": header_with(model__sha256="A" * 64),
    "no channels": header_with(latent={"block": 8}),
    "no coder": header_with(coder=""),
    "settings is a list": header_with(settings=[]),
}


@pytest.mark.parametrize("text", BAD_HEADERS.values(), ids=BAD_HEADERS.keys())
def test_an_invalid_header_is_rejected_with_one_line(path, text):
    path.write_bytes(preamble(text) + CLIP[preamble_end(CLIP) :])
    with pytest.raises(FormatError, match="header: ") as caught:
        Reader(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_the_codec_checks_its_own_part_of_the_header(path):
    """The container accepts headers that only a codec can judge; opening the video rejects them."""
    for changes, text in (
        ({"base": "av2"}, 'base is "av2", must be one of those this version knows'),
        ({"latent": None}, "latent is missing"),
        ({"scale": [1, 2]}, "restorer is missing"),
        ({"base": "av1"}, 'coder is "context-1", must be "av1"'),
        ({"base": "av1", "coder": "av1", "scale": [1, 2]}, "scale is 1/2, must be 1"),
    ):
        path.write_bytes(preamble(header_with(**changes)) + CLIP[preamble_end(CLIP) :])
        with Reader(path) as reader:
            assert read_all(reader) == GROUPS
        with pytest.raises(FormatError, match=f"header: {text}") as caught:
            sdvideo.open(path)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_values_of_the_header_nest_at_most_32_levels_deep():
    def nested(level: int) -> Header:
        """A header whose deepest value is at this level; the value of settings["a"] is at level 3."""
        value: object = 0
        for _ in range(level - 3):
            value = [value]
        return dataclasses.replace(HEADER, settings={"a": value})

    Writer(io.BytesIO(), nested(32))
    with pytest.raises(FormatError, match="more than 32 levels deep"):
        Writer(io.BytesIO(), nested(33))


def test_unknown_header_keys_and_higher_minor_versions_are_accepted(path):
    path.write_bytes(preamble(header_with(later=1, video__later={"a": []}), minor=7))
    with Reader(path) as reader:
        assert reader.header == HEADER


@pytest.mark.parametrize(
    "data, error, text",
    [
        (b"", FormatError, "not an .sdv"),
        (b"RIFF" + bytes(100), FormatError, "not an .sdv"),
        (CLIP[:4], DamagedError, "within its header"),
        (CLIP.replace(b"\r\n", b"\n"), DamagedError, "text mode"),
        (preamble(b"{}", major=3), FormatError, r"made by a newer sdvideo \(format 3.0\)"),
        (preamble(b"{}", major=0), FormatError, r"unknown sdvideo \(format 0.0\)"),
        (CLIP[:12] + struct.pack("<I", 2**20 + 1) + bytes(99), FormatError, "1048577 bytes"),
        (CLIP[:12] + struct.pack("<I", 2**20) + bytes(99), DamagedError, "within its header"),
    ],
)
def test_other_files_and_versions_are_rejected(path, data, error, text):
    path.write_bytes(data)
    with pytest.raises(error, match=text) as caught:
        Reader(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"base": ""},
        {"base": "a" * 65},
        {"info": dataclasses.replace(INFO, width=0)},
        {"info": dataclasses.replace(INFO, metadata={"a": "\ud800"})},
        {"info": dataclasses.replace(INFO, metadata={"a" * n: "x" * 65536 for n in range(17)})},
        {"settings": {"a": float("nan")}},
        {"settings": {"a": object()}},
        {"blobs": ()},
    ],
)
def test_an_invalid_header_is_not_written(changes):
    file = io.BytesIO()
    with pytest.raises(FormatError, match="header: "):
        Writer(file, dataclasses.replace(HEADER, **changes))
    assert file.getvalue() == b""


def frame(**changes) -> CodedFrame:
    return dataclasses.replace(CodedFrame(0, 1, KEY, 0, b""), **changes)


@pytest.mark.parametrize(
    "group",
    [
        Group(0, ()),
        Group(0, (frame(),) * 65536),
        Group(-1, (frame(),)),
        Group(2**40, (frame(),)),
        Group(0, (frame(kind=PREDICTED),)),
        Group(0, (frame(), frame(pts=1, kind=2))),
        Group(0, (frame(step=256),)),
        Group(0, (frame(duration=-1),)),
        Group(0, (frame(pts=2**60),)),
        Group(0, (frame(pts=5), frame(pts=5))),
    ],
)
def test_an_invalid_group_is_not_written(group):
    with pytest.raises(FormatError, match="cannot write the group"):
        pack_group(group)


def test_groups_out_of_order_are_not_written():
    file = io.BytesIO()
    writer = Writer(file, HEADER)
    writer.write_group(GROUPS[0])
    size = len(file.getvalue())
    for group in (GROUPS[0], GROUPS[2], Group(4, (frame(),))):
        with pytest.raises(FormatError, match="cannot write the group"):
            writer.write_group(group)
    with pytest.raises(FormatError, match="no track file 2"):
        writer.write_track(2, b"x")
    assert len(file.getvalue()) == size


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x00\x00\x00\x00\x00",  # no frames
        b"\x00\x00\x01\x01\x00\x00",  # starts with a predicted frame
        b"\x00\x00\x01\x01\x00\x01\x02",  # kind 2
        b"\x00\x00\x01\x01\x00\x01\x10",  # a reserved flag
        b"\x00\x00\x01\x01\x00\x01\x00\x00",  # a byte too many
        b"\x00\x00\x01\x01\x00\x03\x00",  # a byte too few
        b"\x00\x00\x01\x01\x00\x01",  # the flags are cut off
        b"\x00\x00\x01\x01\x00\x01\x08",  # the step is cut off
        b"\x00\x00\x02\x00\x02\x01\x00\x00",  # pts do not increase
        b"\x00\x00\x01\x01\x03\x01\x00",  # negative duration
        b"\x80\x00\x00\x01\x01\x00\x01\x00",  # not the shortest form
        b"\xff" * 12,  # a number of more than 9 bytes
        b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x00\x01\x01\x00\x01\x00",  # first frame 2^63 - 1
        b"\x00\x00\xff\xff\x03\x01\x00\x00",  # 65535 frames in three bytes
    ],
)
def test_an_invalid_group_is_rejected(payload):
    with pytest.raises(DamagedError):
        unpack_group(payload)


def test_the_smallest_group():
    assert unpack_group(b"\x00\x00\x01\x01\x00\x01\x00") == Group(0, (CodedFrame(0, 1, KEY, 0, b""),))


def test_unknown_chunks_are_skipped_or_rejected_by_their_first_letter(path):
    chunks = chunks_of(CLIP)
    for place in range(len(chunks) - 1):
        path.write_bytes(file_of_chunks([*chunks[:place], (b"note", b"hello"), *chunks[place:]]))
        with Reader(path) as reader:
            assert read_all(reader) == GROUPS
            assert [b"".join(reader.track_data(blob)) for blob in (0, 1)] == TRACKS
        path.write_bytes(file_of_chunks([*chunks[:place], (b"BASE", b"hello"), *chunks[place:]]))
        for use in (Reader, verify, Writer.resume):
            with pytest.raises(FormatError, match="needs a newer sdvideo: the BASE chunk"):
                use(path)


def test_a_must_understand_chunk_cannot_hide_behind_the_index(path):
    """The index is right about all groups and the file is opened by it, but the chunks in its gaps must be read."""
    start, chunks = preamble_end(CLIP), chunks_of(CLIP)
    entries, gap = bytearray(chunks[-2][1]), len(chunk(b"BASE", b"hello"))
    entries[0] += gap
    chunks = [(b"BASE", b"hello"), *chunks[:-2], (b"indx", bytes(entries)), chunks[-1]]
    frames, groups, check, index = struct.unpack("<QIIQ", chunks[-1][1])
    chunks[-1] = (b"ENDS", struct.pack("<QIIQ", frames, groups, check, index + gap))
    path.write_bytes(file_of_chunks(chunks))
    assert start == CLIP.index(b"TRAK")
    with pytest.raises(FormatError, match="BASE"):
        Reader(path)


def write_false_index(path, payload: bytes, **changes) -> None:
    """Write the clip with another index. changes: fields of the end chunk."""
    chunks = chunks_of(CLIP)
    end = dict(zip(("frames", "groups", "check", "index"), struct.unpack("<QIIQ", chunks[-1][1]))) | changes
    chunks[-2:] = [(b"indx", payload), (b"ENDS", struct.pack("<QIIQ", *end.values()))]
    path.write_bytes(file_of_chunks(chunks))


def test_a_false_index_is_detected(path):
    honest = chunks_of(CLIP)[-2][1]
    for place in range(len(honest)):
        for value in {0, 1, 127, honest[place] ^ 1, honest[place] ^ 2, (honest[place] + 12) & 127} - {honest[place]}:
            write_false_index(path, honest[:place] + bytes([value]) + honest[place + 1 :])
            assert verify(path)
            with Reader(path) as reader:
                for number, entry in enumerate(reader.groups):
                    try:
                        assert reader.read_group(number) == GROUPS[number]
                        assert (entry.first, entry.start_pts) == (
                            GROUPS[number].first,
                            GROUPS[number].start_pts,
                        )
                    except DamagedError:
                        pass


@pytest.mark.parametrize("changes", [{"frames": 2**64 - 1}, {"groups": 4}, {"check": 0}, {"index": 2**64 - 1}])
def test_a_false_end_chunk_is_detected(path, changes):
    write_false_index(path, chunks_of(CLIP)[-2][1], **changes)
    assert verify(path)
    with Reader(path) as reader:
        assert read_all(reader) == GROUPS


def test_repeated_and_overlapping_groups_are_left_out(path):
    first, second = pack_group(GROUPS[0]), pack_group(GROUPS[1])
    late = pack_group(Group(4, (frame(pts=8),)))
    path.write_bytes(file_of_chunks([(b"GRUP", first), (b"GRUP", first), (b"GRUP", late), (b"GRUP", second)]))
    with Reader(path) as reader:
        assert read_all(reader) == GROUPS[:2]
        assert sum("the group starts" in damage.what for damage in reader.damage) == 2


def test_a_file_without_an_index_is_complete(path):
    chunks = chunks_of(CLIP)
    frames, groups, check, _ = struct.unpack("<QIIQ", chunks[-1][1])
    path.write_bytes(file_of_chunks([*chunks[:-2], (b"ENDS", struct.pack("<QIIQ", frames, groups, check, 0))]))
    assert verify(path) == []
    with Reader(path) as reader:
        assert reader.complete
        assert read_all(reader) == GROUPS


def test_false_sizes_allocate_nothing(path):
    huge = struct.pack("<4sI", b"GRUP", 2**28) + b"x"
    many = b"\x00\x00\xff\xff\x03\x01\x00" + bytes(20)
    for tail in (
        huge,
        struct.pack("<4sI", b"GRUP", 2**32 - 1),
        chunk(b"GRUP", many),
        chunk(b"TRAK", b"\xff" * 9),
    ):
        path.write_bytes(CLIP[: preamble_end(CLIP)] + tail)
        tracemalloc.start()
        with Reader(path, tolerant=True) as reader:
            assert reader.groups == ()
            assert reader.damage
        assert tracemalloc.get_traced_memory()[1] < 2**20
        tracemalloc.stop()


def test_false_chunks_cost_at_most_linear_time(path):
    """Each of 50,000 chunk headers claims everything behind it; intact chunks behind them restart the search."""
    start = CLIP[: preamble_end(CLIP)]
    unit = chunk(b"note", b"")
    for heads in (b"", unit):
        count = 50_000
        size = count * (8 + len(heads))
        parts = (struct.pack("<4sI", b"GRUP", size - n * (8 + len(heads))) + heads for n in range(count))
        path.write_bytes(start + b"".join(parts) + bytes(8))
        since = time.perf_counter()
        with Reader(path, tolerant=True) as reader:
            assert reader.groups == ()
        assert time.perf_counter() - since < 5


def test_a_file_of_100000_frames_opens_in_50_ms(path):
    with path.open("wb") as file:
        writer = Writer(file, HEADER)
        for number in range(2000):
            writer.write_group(make_group(50 * number, 50, 1))
        writer.finish()
    took = []
    for _ in range(5):
        since = time.perf_counter()
        with Reader(path) as reader:
            assert reader.frame_count == 100_000
        took.append(time.perf_counter() - since)
    assert min(took) < 0.05
    with Reader(path) as reader:
        assert reader.read_group(1234) == make_group(61700, 50, 1)


def test_errors_of_the_operating_system_become_our_errors(tmp_path, path):
    with pytest.raises(SourceError, match="No such file"):
        Reader(path)
    with pytest.raises(SourceError):
        Reader(tmp_path)
    with pytest.raises(SinkError):
        Writer.resume(path)

    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    with pytest.raises(SinkError, match="No space left"):
        Writer(Full(), HEADER)


def test_torch_is_not_imported():
    code = "import sys, sdvideo.container; sys.exit('torch' in sys.modules or 'av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
