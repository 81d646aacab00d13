"""Damaged files: intact groups decode, damage is named, and tolerant reading conceals it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

import sdvideo
from sdvideo.container import Reader, Writer
from sdvideo.errors import DamagedError, FormatError
from sdvideo.frames import Picture

COMMAND = [sys.executable, "-m", "sdvideo"]
KINDS = {"cut", "checksum", "missing", "structure", "decode"}


@dataclass(frozen=True)
class Whole:
    """An intact file. data: its bytes; groups: its index; coded: the coded frames of each group; frames: decoded."""

    data: bytes
    groups: tuple
    coded: tuple
    frames: tuple

    @property
    def header(self) -> int:
        """Offset of the first chunk."""
        return 20 + int.from_bytes(self.data[12:16], "little")


def opened(path: Path) -> Whole:
    with Reader(path) as reader, sdvideo.open(path, device="cpu") as video:
        coded = tuple(reader.read_group(number).frames for number in range(len(reader.groups)))
        return Whole(path.read_bytes(), reader.groups, coded, tuple(video))


@pytest.fixture(scope="module", params=["av1", "none"])
def whole(request, clips, tmp_path_factory) -> Whole:
    """A clip with sound in four groups, with each base."""
    path = tmp_path_factory.mktemp("damage") / "whole.sdv"
    settings = {"base": request.param, "preset": "fast", "quality": 20, "keyint": 4, "device": "cpu"}
    sdvideo.encode(clips["cfr"].path, path, **settings)
    return opened(path)


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Whole:
    """The sample video, two seconds in ten groups."""
    path = tmp_path_factory.mktemp("damage") / "large.sdv"
    sample = Path(__file__).parents[2] / "samples" / "walk.mp4"
    sdvideo.encode(sample, path, base="av1", preset="fast", quality=40, keyint=12)
    return opened(path)


@pytest.fixture
def broken(tmp_path) -> Path:
    return tmp_path / "broken.sdv"


def same(one: Picture, other: Picture) -> bool:
    return all(np.array_equal(getattr(one, plane), getattr(other, plane)) for plane in "yuv")


def damaged(data: bytes, seed: int) -> tuple[bytes, set[int]]:
    """Flip, drop or repeat 1 to 16 bytes. Returns the result and the offsets of these bytes."""
    rng = random.Random(seed)
    touched = set(rng.sample(range(len(data)), rng.randint(1, 16)))
    changes = {place: rng.choice(("flip", "drop", "repeat")) for place in touched}
    out = bytearray()
    for place, byte in enumerate(data):
        change = changes.get(place)
        if change is None:
            out.append(byte)
        elif change == "flip":
            out.append(byte ^ rng.randint(1, 255))
        elif change == "repeat":
            out += bytes([byte, byte])
    return bytes(out), touched


def untouched(whole: Whole, touched: set[int]) -> list[int]:
    """The numbers of the groups in which no byte was touched."""
    inside = (not any(entry.offset <= place < entry.end for place in touched) for entry in whole.groups)
    return [number for number, good in enumerate(inside) if good]


def check_damaged(whole: Whole, broken: Path, touched: set[int]) -> None:
    """Check what must hold for every damaged file whose header is intact."""
    good = untouched(whole, touched)
    firsts = [entry.first for entry in whole.groups]
    with Reader(broken, tolerant=True) as reader:
        found = {firsts.index(entry.first): reader.read_group(n) for n, entry in enumerate(reader.groups)}
        times = [time for n in range(len(reader.lost)) for time in reader.lost_times(n)]
    assert set(good) <= set(found)
    assert all(group.frames == whole.coded[number] for number, group in found.items())
    damage = sdvideo.verify(broken)
    assert damage and {one.kind for one in damage} <= KINDS
    named = {n for one in damage if one.frames for n, f in enumerate(firsts) if _within(f, one.frames)}
    assert set(range(len(firsts))) - set(found) <= named
    assert not named & set(found)
    for _, (start, end) in pairwise([(None, None), *(one.seconds for one in damage if one.seconds)]):
        assert end is None or start < end
    with sdvideo.open(broken, tolerant=True) as video:
        shown = [(frame.pts, frame.duration) for group in found.values() for frame in group.frames]
        assert len(video) in (len(whole.frames), len(shown) + len(times))
        pts = sorted(pts for pts, _ in shown + times)
        assert all(a < b for a, b in pairwise(pts))


def _within(number: int, frames: tuple[int, int | None]) -> bool:
    return frames[0] <= number and (frames[1] is None or number <= frames[1])


# --- cut short ----------------------------------------------------------------------------------------------


def check_cut(whole: Whole, broken: Path, size: int) -> None:
    broken.write_bytes(whole.data[:size])
    if size < whole.header:
        with pytest.raises(FormatError):
            sdvideo.open(broken)
        return
    expected = [frame for entry, group in zip(whole.groups, whole.coded) if entry.end <= size for frame in group]
    for tolerant in (False, True)[: 1 + (size % 5 == 0)]:
        with sdvideo.open(broken, device="cpu", tolerant=tolerant) as video:
            assert list(video.coded_frames()) == expected
            assert len(video) == len(expected) and not video.complete


def test_a_file_cut_at_any_byte_has_all_whole_groups_before_the_cut(whole: Whole, broken: Path):
    for size in range(len(whole.data)):
        check_cut(whole, broken, size)


def test_whole_groups_before_a_cut_decode_to_the_same_pictures(whole: Whole, broken: Path):
    for entry in whole.groups:
        for size in (entry.end - 1, entry.end):
            broken.write_bytes(whole.data[:size])
            count = entry.first + entry.frames * (size == entry.end)
            with sdvideo.open(broken, device="cpu", tolerant=True) as video:
                shown = list(video)
            assert len(shown) == count
            assert all(same(a.picture, b.picture) for a, b in zip(shown, whole.frames))


def test_a_cut_is_reported_with_the_group_that_it_goes_through(whole: Whole, broken: Path):
    entry = whole.groups[2]
    for size in (entry.offset + 3, entry.offset + 40, entry.end - 1):
        broken.write_bytes(whole.data[:size])
        cut = [one for one in sdvideo.verify(broken, device="cpu") if one.frames]
        assert [(one.kind, one.group, one.frames) for one in cut] == [("cut", 2, (8, None))]
        assert cut[0].seconds == (pytest.approx(8 / 25), None)


@pytest.mark.slow
@pytest.mark.long
def test_a_larger_file_cut_at_2000_random_bytes(large: Whole, broken: Path):
    for size in random.Random(0).sample(range(len(large.data)), 2000):
        check_cut(large, broken, size)


# --- changed bytes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_changed_bytes_cost_only_the_groups_that_they_are_in(whole: Whole, broken: Path, seed: int):
    for number in range(seed * 4, seed * 4 + 4):
        data, touched = damaged(whole.data[whole.header :], number)
        broken.write_bytes(whole.data[: whole.header] + data)
        check_damaged(whole, broken, {place + whole.header for place in touched})


@pytest.mark.slow
@pytest.mark.long
def test_changed_bytes_in_a_larger_file_2000_times(large: Whole, broken: Path):
    for seed in range(2000):
        data, touched = damaged(large.data[large.header :], seed)
        broken.write_bytes(large.data[: large.header] + data)
        check_damaged(large, broken, {place + large.header for place in touched})


def test_a_file_with_a_damaged_header_is_rejected(whole: Whole, broken: Path):
    for seed in range(200):
        data, _ = damaged(whole.data[: whole.header], seed)
        broken.write_bytes(data + whole.data[whole.header :])
        with pytest.raises(FormatError):
            sdvideo.open(broken, tolerant=True)


# --- concealed frames ---------------------------------------------------------------------------------------


def without(whole: Whole, *numbers: int) -> bytes:
    """The bytes of the file with one byte changed in each of these groups."""
    data = bytearray(whole.data)
    for number in numbers:
        data[whole.groups[number].end - 30] ^= 1
    return bytes(data)


def check_shown(whole: Whole, broken: Path, lost: set[int], stand_in: dict[int, int | None]) -> None:
    """Check the frames of a file with lost groups, which must keep their number and times.

    stand_in: for each lost group the frame whose picture it shows, None for grey.
    """
    with sdvideo.open(broken, device="cpu", tolerant=True) as video:
        shown = list(video)
        at_random = [video[number] for number in (3, 14, 9, 0)]
        assert video.concealed == [range(4 * number, 4 * number + 4) for number in sorted(lost)]
        assert len(video) == len(whole.frames)
    assert [(frame.pts, frame.duration) for frame in shown] == [(f.pts, f.duration) for f in whole.frames]
    for number, frame in enumerate(shown):
        instead = stand_in.get(number // 4, number)
        if instead is None:
            assert (frame.picture.y == 128).all() and (frame.picture.u == 128).all()
        else:
            assert same(frame.picture, whole.frames[instead].picture)
    assert all(same(frame.picture, shown[number].picture) for frame, number in zip(at_random, (3, 14, 9, 0)))


@pytest.mark.parametrize(
    "lost, stand_in",
    [
        ({1}, {1: 3}),
        ({0}, {0: 4}),
        ({3}, {3: 11}),
        ({1, 2}, {1: 3, 2: 3}),
        ({0, 1, 3}, {0: 8, 1: 8, 3: 11}),
        ({0, 1, 2, 3}, {0: None, 1: None, 2: None, 3: None}),
    ],
)
def test_lost_groups_show_the_last_intact_picture(whole: Whole, broken: Path, lost, stand_in):
    broken.write_bytes(without(whole, *lost))
    check_shown(whole, broken, lost, stand_in)


def test_a_removed_group_is_detected_and_concealed(whole: Whole, broken: Path):
    entry = whole.groups[1]
    broken.write_bytes(whole.data[: entry.offset] + whole.data[entry.end :])
    check_shown(whole, broken, {1}, {1: 3})
    (missing,) = (one for one in sdvideo.verify(broken, device="cpu") if one.frames)
    assert (missing.kind, missing.group, missing.frames) == ("missing", 1, (4, 7))


def test_without_an_index_frame_numbers_show_what_is_lost(whole: Whole, broken: Path):
    """Groups are lost between others, and behind the last one according to the end chunk."""
    for lost, stand_in in (({1}, {1: 3}), ({0}, {0: 4}), ({1, 2}, {1: 3, 2: 3}), ({3}, {3: 11})):
        data = bytearray(without(whole, *lost))
        data[data.rindex(b"indx") + 9] ^= 1
        broken.write_bytes(data)
        with sdvideo.open(broken, device="cpu", tolerant=True) as video:
            shown = list(video)
            assert [n for frames in video.concealed for n in frames] == [
                4 * n + i for n in sorted(lost) for i in range(4)
            ]
        assert [(frame.pts, frame.duration) for frame in shown] == [(f.pts, f.duration) for f in whole.frames]
        for number, frame in enumerate(shown):
            assert same(frame.picture, whole.frames[stand_in.get(number // 4, number)].picture)


def test_the_times_of_a_lost_group_come_from_its_frame_table(clips, tmp_path, broken: Path):
    """With a variable frame rate, evenly spread times would be wrong."""
    path = tmp_path / "vfr.sdv"
    sdvideo.encode(clips["vfr"].path, path, preset="fast", keyint=4)
    whole = opened(path)
    broken.write_bytes(without(whole, 0, 1))
    with sdvideo.open(broken, tolerant=True) as video:
        assert [(frame.pts, frame.duration) for frame in video] == [(f.pts, f.duration) for f in whole.frames]
    table = bytearray(whole.data)
    table[whole.groups[1].offset + 20] ^= 255
    broken.write_bytes(table)
    with sdvideo.open(broken, tolerant=True) as video:
        pts = [frame.pts for frame in video]
    assert pts[:4] + pts[8:] == [frame.pts for frame in (*whole.frames[:4], *whole.frames[8:])]
    assert all(a < b for a, b in pairwise(pts))


def test_frames_that_do_not_decode_are_concealed_and_reported(whole: Whole, broken: Path):
    """The checksums match, but the step and the data of one frame are invalid."""
    with broken.open("wb") as file:
        (source := broken.with_suffix(".whole")).write_bytes(whole.data)
        with Reader(source) as reader:
            writer = Writer(file, reader.header)
            for blob in range(len(reader.header.blobs)):
                for piece in reader.track_data(blob):
                    writer.write_track(blob, piece)
            for number in range(len(reader.groups)):
                group = reader.read_group(number)
                if number == 2:
                    first, second, third, *rest = group.frames
                    third = sdvideo.container.CodedFrame(third.pts, third.duration, third.kind, 255, b"\xff" * 9)
                    group = sdvideo.container.Group(group.first, (first, second, third, *rest))
                writer.write_group(group)
        writer.finish()
    (damage,) = sdvideo.verify(broken, device="cpu")
    assert (damage.kind, damage.group, damage.frames) == ("decode", 2, (8, 11))
    with pytest.raises(DamagedError, match="group 2, frame 10"), sdvideo.open(broken, device="cpu") as video:
        list(video)
    with sdvideo.open(broken, device="cpu", tolerant=True) as video:
        shown = list(video)
        assert video.concealed == [range(10, 12)]
        assert same(video[11].picture, shown[11].picture)
    for number, frame in enumerate(shown):
        assert same(frame.picture, whole.frames[{10: 9, 11: 9}.get(number, number)].picture)


# --- the command line ---------------------------------------------------------------------------------------


def run(*arguments: object, code: int) -> tuple[str, list[str]]:
    """Returns standard output, and the lines on standard error that are not progress."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [*COMMAND, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == code, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if not line.startswith("Decoding: ")]


def packets(path: Path) -> tuple[list[int], list[bytes]]:
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio
        found = [packet for packet in container.demux() if packet.size]
        times = [float(packet.pts * packet.time_base) for packet in found if packet.stream is video]
        sound = [(packet.pts, bytes(packet)) for packet in found if audio and packet.stream is audio[0]]
        return times, sound


@pytest.mark.parametrize("whole", ["av1"], indirect=True)
def test_tolerant_decoding_keeps_frame_count_times_and_sound(whole: Whole, broken: Path, tmp_path: Path):
    (good := tmp_path / "good.sdv").write_bytes(whole.data)
    broken.write_bytes(without(whole, 1))
    sdvideo.decode(good, tmp_path / "good.mp4", device="cpu")
    before = sorted(tmp_path.iterdir())
    _, (line,) = run("decode", broken, "-o", tmp_path / "out.mp4", code=3)
    assert line.startswith("Error: ") and "group 1 (frames 4 to 7, 0.16 s to 0.32 s)" in line
    assert sorted(tmp_path.iterdir()) == before
    out, lines = run("decode", broken, "-o", tmp_path / "out.mp4", "--tolerant", "--json", code=0)
    warning, done = lines
    concealed = "the nearest intact picture replaces frames 4 to 7 (4 in all)"
    assert warning == f"Warning: {broken} is damaged: {concealed}"
    assert "16 frames" in done and json.loads(out)["concealed"] == 4
    assert packets(tmp_path / "out.mp4") == packets(tmp_path / "good.mp4")


@pytest.mark.parametrize("whole", ["av1"], indirect=True)
def test_verify_reports_damage_as_json(whole: Whole, broken: Path):
    broken.write_bytes(without(whole, 1))
    out, _ = run("verify", broken, "--json", code=3)
    damage, *_, verdict = map(json.loads, out.splitlines())
    named = {"kind": "checksum", "group": 1, "frames": [4, 7], "seconds": [0.16, 0.32]}
    assert {key: damage[key] for key in named} == named and damage["offset"] == whole.groups[1].offset
    assert verdict["damage"] > 0
    out, _ = run("verify", broken, code=3)
    assert "group 1 (frames 4 to 7, 0.16 s to 0.32 s): the CRC of a GRUP chunk" in out


@pytest.mark.parametrize("whole", ["av1"], indirect=True)
@pytest.mark.parametrize("options", [(), ("--tolerant",)])
def test_a_damaged_header_is_an_error_even_with_tolerant(whole: Whole, broken: Path, tmp_path: Path, options):
    data = bytearray(whole.data)
    data[40] ^= 1
    broken.write_bytes(data)
    _, (line,) = run("decode", broken, "-o", tmp_path / "out.mp4", *options, code=3)
    assert "the CRC of the header does not match" in line
    assert list(tmp_path.iterdir()) == [broken]


# --- sound --------------------------------------------------------------------------------------------------


def track_chunks(whole: Whole) -> Iterator[int]:
    at = whole.data.find(b"TRAK", whole.header)
    while at >= 0:
        yield at
        at = whole.data.find(b"TRAK", at + 1)


def decoded(whole: Whole, broken: Path, data: bytes, caplog) -> tuple[list, list, str]:
    broken.write_bytes(data)
    target = broken.with_suffix(".mp4")
    caplog.clear()
    sdvideo.decode(broken, target, device="cpu", tolerant=True, overwrite=True)
    return *packets(target), "\n".join(record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("whole", ["av1"], indirect=True)
def test_a_changed_byte_of_sound_changes_one_packet(whole: Whole, broken: Path, tmp_path: Path, caplog):
    (good := tmp_path / "good.sdv").write_bytes(whole.data)
    sdvideo.decode(good, tmp_path / "good.mp4", device="cpu")
    times, sound = packets(tmp_path / "good.mp4")
    (start,) = track_chunks(whole)
    data = bytearray(whole.data)
    data[start + 8 + 9 + 300] ^= 1
    with pytest.raises(DamagedError):
        broken.write_bytes(data)
        sdvideo.decode(broken, tmp_path / "no.mp4", device="cpu")
    times_now, sound_now, log = decoded(whole, broken, bytes(data), caplog)
    assert times_now == times and [pts for pts, _ in sound_now] == [pts for pts, _ in sound]
    assert sum(a != b for a, b in zip(sound, sound_now)) == 1
    assert "track file 0 is damaged" in log


@pytest.mark.parametrize("whole", ["av1"], indirect=True)
def test_a_file_that_lost_its_sound_keeps_its_pictures(whole: Whole, broken: Path, tmp_path: Path, caplog):
    (start,) = track_chunks(whole)
    size = int.from_bytes(whole.data[start + 4 : start + 8], "little")
    times, sound, log = decoded(whole, broken, whole.data[:start] + whole.data[start + 12 + size :], caplog)
    assert len(times) == 16 and not sound
    assert "track file 0 cannot be read and is left out" in log


@pytest.mark.parametrize("name", ["cfr", "rich"])
def test_a_hole_in_the_sound_moves_no_other_packet(clips, name, tmp_path: Path, broken: Path, caplog):
    """A piece from the middle of a track file is lost; the packets outside keep their bytes and their times."""
    path = tmp_path / "whole.sdv"
    sdvideo.encode(clips[name].path, path, preset="fast", keyint=4)
    with Reader(path) as reader, (tmp_path / "pieces.sdv").open("wb") as file:
        sound = b"".join(reader.track_data(0))
        writer = Writer(file, reader.header)
        for start in range(0, len(sound), 500):
            writer.write_track(0, sound[start : start + 500])
        for number in range(len(reader.groups)):
            writer.write_group(reader.read_group(number))
        writer.finish()
    data = (tmp_path / "pieces.sdv").read_bytes()
    suffix = ".mkv" if name == "rich" else ".mp4"
    sdvideo.decode(tmp_path / "pieces.sdv", tmp_path / f"good{suffix}")
    times, expected = packets(tmp_path / f"good{suffix}")
    chunk = data.index(b"TRAK")
    for _ in range(4):
        chunk = data.index(b"TRAK", chunk + 1)
    broken.write_bytes(data[:chunk] + data[chunk + 12 + 9 + 500 :])
    sdvideo.decode(broken, target := tmp_path / f"out{suffix}", tolerant=True)
    times_now, sound_now = packets(target)
    assert times_now == times
    assert sound_now and set(sound_now) < set(expected)
    if name == "cfr":  # Matroska continues at its next cluster
        assert len(expected) - len(sound_now) <= 5
    assert "of its packets are left out" in caplog.text
