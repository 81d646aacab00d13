"""Hostile files: made to be believed. The long runs of the same are `python tests/system/fuzz.py`."""

from __future__ import annotations

import json
import os
import random
import re
import struct
import subprocess
import sys
import time
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from fuzz import Mutator, Parts, av1_units, plain_file

import sdvideo
from sdvideo.codecs.av1 import header_compression as heads
from sdvideo.codecs.av1.base_layer import BaseDecoder
from sdvideo.codecs.av1.bitstream import pack_step
from sdvideo.codecs.av1.header_compression import pack_units
from sdvideo.codecs.latent.model_loading import load_model
from sdvideo.container import KEY, PREDICTED, CodedFrame, Group, Header, ModelId, Reader, Writer, pack_group
from sdvideo.container.varint import put_svarint, put_varint
from sdvideo.errors import DamagedError, FormatError, ModelError, SdvError, SinkError
from sdvideo.frames import Picture, StreamInfo
from sdvideo.media.output import open_sink
from sdvideo.restoration.loading import restorer_id

TESTS = Path(__file__).parent
PATHS = TESTS.parents[1], TESTS.parent, TESTS
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, PATHS))}
INFO = StreamInfo(64, 64, Fraction(1, 25))
STEP = pack_step(40, Fraction(1))


def python(*arguments: object, **environment: str) -> str:
    """Run Python in a process of its own; its standard output and error."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def av1_file(groups: list[Group], info: StreamInfo = INFO, blobs: dict[str, bytes] | None = None) -> bytes:
    header = Header(info, restorer_id(), "av1", "av1", None, blobs=tuple(blobs or ()))
    writer = Writer(file := BytesIO(), header)
    for number, data in enumerate((blobs or {}).values()):
        writer.write_track(number, data)
    for group in groups:
        writer.write_group(group)
    writer.finish()
    return file.getvalue()


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "hostile.sdv"


# --- fuzzing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("surface, executions", [("parse", 2000), ("av1", 500), ("decode", 12)])
def test_fuzzing_finds_nothing(surface, executions, tmp_path):
    command = [TESTS / "fuzz.py", "--surface", surface, "--executions", executions, "--seed", 11, "--out", tmp_path]
    assert f"{surface}: {executions} executions" in python(*command)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("surface, executions", [("parse", 200_000), ("av1", 100_000), ("decode", 3000)])
def test_long_fuzzing_finds_nothing(surface, executions, tmp_path):
    command = [TESTS / "fuzz.py", "--surface", surface, "--executions", executions, "--out", tmp_path]
    subprocess.run([sys.executable, *map(str, command)], env=ENVIRONMENT, check=True)


DEEDS = {
    "{}['x']": "KeyError",
    "open('/etc/hostname').close()": "open '/etc/hostname'",
    "__import__('this')": "import ('this'",
    "eval('1')": "compile",
    "subprocess.run(['true'])": "subprocess.Popen",
    "socket.socket().close()": "socket.__new__",
    "any(time.process_time() > start + 3 for _ in iter(int, 1))": "took ",
    "bytearray(2**30)": "MemoryError",
}


def test_fuzzing_would_find_what_must_not_happen():
    script = f"""
import socket, subprocess, time
import fuzz

class Surface(fuzz.ParseSurface):
    def __init__(self, folder):
        self.seeds, self.groups, self.ready = [fuzz.plain_file()], 0, 0
        self.deeds = iter([{", ".join(f"lambda: {deed}" for deed in DEEDS)}])

    def __call__(self, data):
        self.ready += 1
        if self.ready > 2:  # the seed, whole and cut
            global start
            start = time.process_time()
            next(self.deeds)()

fuzz.SURFACES["parse"] = Surface
print(*fuzz.run("parse", {len(DEEDS)}, 0), sep="=====")
"""
    found = python("-c", script)
    assert all(said in found for said in DEEDS.values()), found


def test_mutations_get_past_the_checksums():
    """Or fuzzing would try the same refusal a million times."""
    mutate, whole = Mutator(0), plain_file()
    assert Parts.of(whole).join() == whole
    parts = [Parts.of(mutate(whole)) for _ in range(300)]
    opened = sum(part.header[:1] == b"{" and len(part.chunks) >= 4 for part in parts)
    assert opened > 200
    assert len({part.join() for part in parts}) > 280


# --- AV1 ----------------------------------------------------------------------------------------------------


def stream(width: int, height: int, form: str = "yuv420p", count: int = 1) -> list[bytes]:
    """Temporal units of a flat picture."""
    os.environ.setdefault("SVT_LOG", "0")
    encoder = av.CodecContext.create("libsvtav1", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, form
    encoder.time_base, encoder.framerate, encoder.options = Fraction(1, 25), Fraction(25), {"preset": "10"}
    packets = []
    for number in range(count):
        frame = av.VideoFrame(width, height, form)
        frame.pts = number
        for plane in frame.planes:
            plane.update(bytes([number + 90]) * plane.buffer_size)
        packets += encoder.encode(frame)
    return [bytes(packet) for packet in (*packets, *encoder.encode(None))]


def decode_units(*units: bytes) -> list[Picture]:
    return decode_data(*pack_units(units))


def decode_data(*data: bytes) -> list[Picture]:
    decoder = BaseDecoder(64, 64)
    kinds = [KEY] + [PREDICTED] * (len(data) - 1)
    return [decoder.decode(CodedFrame(n, 1, kind, STEP, one)) for n, (kind, one) in enumerate(zip(kinds, data))]


@pytest.mark.parametrize("size", [(66, 64), (64, 128), (128, 64), (4096, 2176)])
def test_av1_of_another_size_is_refused(size):
    with pytest.raises(DamagedError, match="AV1 data"):
        decode_units(*stream(*size))


def test_av1_of_more_bits_is_refused():
    with pytest.raises(DamagedError, match="yuv420p10le instead of 64x64 yuv420p"):
        decode_units(*stream(64, 64, "yuv420p10le"))


def test_av1_of_a_huge_size_takes_no_memory(tmp_path):
    """8192x4352 pictures would take 53 MB each; the file says 64x64."""
    (tmp_path / "unit").write_bytes(pack_units(stream(8192, 4352))[0])
    script = f"""
import resource
from test_hostile import *
with suppress(DamagedError): decode_units(*stream(64, 64))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode_data(Path({str(tmp_path / "unit")!r}).read_bytes())
except DamagedError as error:
    print("refused", error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, "KiB")
"""
    said = python("-c", "from contextlib import suppress" + script)
    assert "refused its AV1 data does not decode" in said
    assert int(re.search(r"(\d+) KiB", said)[1]) < 8000


def test_a_sequence_header_of_any_bits_is_refused_or_harmless():
    """Profiles, bit depths, monochrome, 4:4:4, sizes up to 65536x65536, operating points, film grain ..."""
    (unit,) = stream(64, 64)
    assert unit[:2] == b"\x12\x00" and unit[2] >> 3 & 15 == 1
    size = unit[3]
    assert size < 20
    rng, refused = random.Random(0), 0
    for number in range(8 * size + 1500):
        data = bytearray(unit)
        flipped = [number] if number < 8 * size else rng.sample(range(8 * size), rng.randint(2, 6))
        for bit in flipped:
            data[4 + bit // 8] ^= 128 >> bit % 8
        try:
            (picture,) = decode_units(bytes(data))
            assert (picture.width, picture.height) == (64, 64)
        except DamagedError:
            refused += 1
    assert refused > 100


def test_units_of_more_or_fewer_pictures_are_refused():
    units = stream(64, 64, count=8)
    assert len(decode_units(*units)) == 8
    with pytest.raises(DamagedError, match="gives 2 pictures"):
        decode_units(units[0] + units[1])
    with pytest.raises(DamagedError, match="gives no pictures"):
        decode_units(units[0], b"\x7a\x01\x00")  # padding
    with pytest.raises(DamagedError, match="gives no pictures"):
        decode_units(units[0][: 4 + units[0][3]])  # the sequence header alone


def test_units_of_many_obus_are_refused_at_the_second_picture_or_the_seventeenth(monkeypatch):
    units = stream(64, 64, count=2)
    monkeypatch.setattr(heads, "MAX_OBUS", 4000)
    many, padding = heads.pack_units([units[0] + 3000 * units[1]]), heads.pack_units([b"\x7a\x00" * 3000])
    monkeypatch.undo()
    begin = time.process_time()
    with pytest.raises(DamagedError, match="gives 2 pictures"):
        decode_data(*many)
    with pytest.raises(DamagedError, match="more than 16 OBUs"):
        decode_data(*padding)
    assert time.process_time() - begin < 1


def test_heads_of_any_bytes_are_refused_or_pictures():
    """Random bytes are heads of something: it ends, with an error of ours or a picture of the announced size."""
    rng = random.Random(0)
    data = pack_units(stream(64, 64, count=8))
    for _ in range(300):
        first = bytearray(data[0])
        for _ in range(rng.randint(1, 4)):
            first[rng.randrange(len(first))] = rng.randrange(256)
        begin = time.process_time()
        with suppress(DamagedError):
            assert all((one.width, one.height) == (64, 64) for one in decode_data(bytes(first), *data[1:]))
        assert time.process_time() - begin < 2


# --- names and places in a file -----------------------------------------------------------------------------

WATCH = """
import sys
from contextlib import suppress
from sdvideo.container import ModelId
from sdvideo.errors import ModelError
from sdvideo.codecs.latent.model_loading import load_model
import huggingface_hub, sdvideo.codecs.latent.autoencoder
canary = sys.argv[1]
sys.addaudithook(lambda event, found: canary in str(found) and print("touched", event, found))
commit, climbing = "0" * 40, "../../../canary/config.json"
for name, revision in (
    (canary, ""), (canary, commit), (canary + "/x", commit),
    ("a/b", canary), ("a/b", climbing), ("a/b@" + climbing, commit),
):
    with suppress(ModelError):
        load_model(device="cpu", expected=ModelId(name, revision, "0" * 64))
    print("asked")
"""


def test_a_model_named_by_a_file_leads_to_no_path(tmp_path):
    """Neither as a folder, nor as a revision that climbs out of the cache of the Hub."""
    (canary := tmp_path / "canary").mkdir()
    (canary / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    (tmp_path / "hub" / "models--a--b" / "refs").mkdir(parents=True)
    said = python("-c", WATCH, canary, HF_HUB_CACHE=str(tmp_path / "hub"))
    assert said.count("asked") == 6 and "touched" not in said


def test_a_folder_beside_is_not_the_model_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "owner" / "name" / "config.json").write_text("{")
    with pytest.raises(ModelError, match="in the cache"):
        load_model(device="cpu", expected=ModelId("owner/name", "0" * 40, "0" * 64))
    with pytest.raises(ModelError, match="say where it is"):
        load_model(device="cpu", expected=ModelId(str(tmp_path / "owner"), "", "0" * 64))


@pytest.fixture
def sound(clips) -> bytes:
    """A track file as an honest encoder makes it."""
    from sdvideo.media.source import open_source

    with open_source(clips["cfr"].path) as source:
        return source.track_files()[0].read_bytes()


@pytest.mark.parametrize("form", ["mp4", "matroska"])
@pytest.mark.parametrize("what", ["HLS", "concat", "mp4 as matroska", "noise", "nothing"])
def test_a_track_file_is_its_form_and_no_list_of_others(what, form, sound, clips, path, tmp_path):
    (victim := tmp_path / "victim.mp4").write_bytes(sound)
    blob = {
        "HLS": f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfile:{victim}\n#EXT-X-ENDLIST\n".encode(),
        "concat": f"ffconcat version 1.0\nfile '{victim.name}'\n".encode(),
        "mp4 as matroska": sound if form == "matroska" else b"\x1a\x45\xdf\xa3" + bytes(200),
        "noise": random.Random(0).randbytes(5000),
        "nothing": b"\0",
    }[what]
    path.write_bytes(av1_file([Group(0, av1_units())], blobs={form: blob}))
    with pytest.raises(SinkError, match="its tracks cannot be read"):
        sdvideo.decode(path, tmp_path / "out.mp4", device="cpu")
    sdvideo.decode(path, tmp_path / "out.mp4", device="cpu", tolerant=True)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert not container.streams.audio and container.streams.video[0].frames == 6


def test_a_track_file_that_refers_to_another_opens_nothing(sound, tmp_path):
    """An MP4 whose samples are, by its data reference, in another file."""
    (victim := tmp_path / "victim.bin").write_bytes(bytes(100_000))
    box = struct.pack(">I4sI", 12 + len(str(victim)) + 1, b"url ", 0) + str(victim).encode() + b"\0"
    assert sound.count(b"dref") == 1
    at = sound.index(b"dref") - 4
    old = struct.unpack_from(">I", sound, at)[0]
    new = struct.pack(">I4sII", 16 + len(box), b"dref", 0, 1) + box
    data = bytearray(sound[:at] + new + sound[at + old :])
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        place = data.index(kind) - 4
        struct.pack_into(">I", data, place, struct.unpack_from(">I", data, place)[0] + len(new) - old)
    (tracks := tmp_path / "tracks0.mp4").write_bytes(data)
    os.chmod(victim, 0)
    before = os.stat(victim).st_atime_ns
    with open_sink(tmp_path / "out.mp4", INFO, track_files=[tracks]) as sink:
        grey = Picture(*(np.full(size, 128, np.uint8) for size in ((64, 64), (32, 32), (32, 32))))
        sink.write(sdvideo.Frame(0, 1, grey))
    assert os.stat(victim).st_atime_ns == before


# --- numbers ------------------------------------------------------------------------------------------------


def refuses_soon(path: Path, data: bytes, most: int = 2**26) -> None:
    """Opening, reading and verifying raise only what they may, within two seconds and `most` bytes."""
    assert len(data) <= 110_000
    path.write_bytes(data)
    begin = time.process_time()
    look(path)
    assert time.process_time() - begin < 2
    tracemalloc.start()
    look(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < most


def look(path: Path) -> None:
    for tolerant in (False, True):
        try:
            with Reader(path, tolerant=tolerant) as reader:
                for number in range(len(reader.groups)):
                    reader.read_group(number)
                for number in range(len(reader.lost)):
                    assert all(one[0] < other[0] for one, other in pairwise(reader.lost_times(number)))
                for blob in range(len(reader.header.blobs)):
                    assert sum(len(piece.data) for piece, _ in reader.track_parts(blob)) < 2**20
        except SdvError:
            pass


def one_frame(first: int, pts: int | None = None) -> bytes:
    return pack_group(Group(first, (CodedFrame(first if pts is None else pts, 1, KEY, 0, b""),)))


def plain_with(*chunks: tuple[bytes, bytes]) -> bytes:
    parts = Parts.of(plain_file())
    parts.chunks = [list(chunk) for chunk in chunks]
    return parts.join()


def index_of(*entries: tuple[int, int, int, int, int]) -> bytes:
    out = bytearray()
    for gap, size, count, pause, span in entries:
        for value in (gap, size, count):
            put_varint(out, value)
        put_svarint(out, pause)
        put_varint(out, span)
    return bytes(out)


HOSTILE = {
    "4000 groups": plain_with(*((b"GRUP", one_frame(number)) for number in range(4000))),
    "4000 groups with holes": plain_with(*((b"GRUP", one_frame(20 * number)) for number in range(4000))),
    "a group numbered 2^40": plain_with((b"GRUP", one_frame(2**40 - 1))),
    "holes of 2^39 frames": plain_with(*((b"GRUP", one_frame(number * 2**38)) for number in range(1, 4))),
    "65535 frames": plain_with((b"GRUP", b"\0\0\xff\xff\x03\x01\0" + b"\0" + b"\1" * 65534)),
    "an index of 65535 frames an entry": plain_with(
        (b"indx", index_of(*[(0, 1, 65535, 0, 65535)] * 10_000)), (b"ENDS", struct.pack("<QIIQ", 2**63, 2**31, 0, 0))
    ),
    "an index of huge groups": plain_with((b"indx", index_of(*[(0, 2**28, 65535, 0, 2**40)] * 5000))),
    "an index of a group at 2^53": plain_with((b"indx", index_of((2**53, 27, 1, 0, 1)))),
    "an end of 2^64 frames": plain_with((b"GRUP", one_frame(0)), (b"ENDS", struct.pack("<QIIQ", 2**64 - 1, 1, 0, 0))),
    "a piece at 2^64": plain_with((b"TRAK", struct.pack("<BQ", 0, 2**64 - 1) + b"x")),
    "pieces far apart": plain_with(
        *((b"TRAK", struct.pack("<BQ", 0, number * 2**40) + b"x") for number in range(3000))
    ),
    "no room between": plain_with((b"GRUP", one_frame(0, 0)), (b"GRUP", one_frame(50, 10))),
    "8000 empty chunks": plain_with(*[(b"note", b"")] * 8000),
    "8000 broken chunks": plain_with()[:-4]
    + b"".join(b"GRUP\0\0\0\0abcdnote\0\0\0\0\x17\xcb\xd3\xe2" for _ in range(4000)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_file_promises_costs_neither_time_nor_memory(name, path):
    refuses_soon(path, HOSTILE[name])


def test_frames_are_not_lost_that_the_file_has_no_bytes_for(path):
    for name in ("a group numbered 2^40", "holes of 2^39 frames", "an end of 2^64 frames", "an index of huge groups"):
        path.write_bytes(HOSTILE[name])
        with Reader(path, tolerant=True) as reader:
            assert sum(entry.frames for entry in reader.lost) <= len(HOSTILE[name])


def test_an_index_is_not_believed_where_lost_groups_leave_no_time(path):
    """Two frames between pts 4 and 5: the index says so, and the groups around are right."""
    groups = [one_frame(0, 4), one_frame(3, 5)]
    index = index_of((0, len(groups[0]), 1, 4, 1), (0, 5, 2, -1, 2), (0, len(groups[1]), 1, -2, 1))
    end = struct.pack("<QIIQ", 4, 3, 0, 0)
    path.write_bytes(plain_with((b"GRUP", groups[0]), (b"GRUP", groups[1]), (b"indx", index), (b"ENDS", end)))
    with Reader(path, tolerant=True) as reader:
        pts = [pts for number in range(len(reader.lost)) for pts, _ in reader.lost_times(number)]
        assert [entry.first for entry in reader.groups] == [0]
        assert pts == sorted(set(pts)) and pts[0] > 4


def test_huge_pictures_in_a_small_file_are_a_clear_line(path, tmp_path):
    """A header of 16384x4096 around AV1 of 64x64."""
    path.write_bytes(av1_file([Group(0, av1_units())], replace(INFO, width=16384, height=4096)))
    begin = time.process_time()
    (damage,) = sdvideo.verify(path)
    assert damage.kind == "decode" and "64x64 yuv420p instead of 16384x4096" in damage.what
    with pytest.raises(DamagedError, match="instead of 16384x4096"):
        sdvideo.decode(path, tmp_path / "out.mp4", device="cpu")
    assert time.process_time() - begin < 10


def test_a_file_of_a_newer_version_is_refused_whatever_follows(path):
    parts = Parts.of(plain_file())
    parts.major += 1
    path.write_bytes(parts.join())
    for tolerant in (False, True):
        with pytest.raises(FormatError, match="newer sdvideo"):
            sdvideo.open(path, tolerant=tolerant)
