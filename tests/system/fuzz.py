"""Hostile files: small ones, changed where a format can be attacked, and what must hold whatever comes of it.

    python tests/system/fuzz.py --executions 1000000 --seed 1  # container, header, groups, range coder: no network
    python tests/system/fuzz.py --guided --executions 1000000  # the same by coverage; needs `pip install atheris`
    python tests/system/fuzz.py --surface av1 --executions 100000  # AV1 data through the base's decoder
    python tests/system/fuzz.py --surface decode --executions 5000  # verify, decode and preview, with both bases

Whatever is in the file: nothing but an SdvError is raised, no input takes more than two seconds or more memory than
its surface's limit, and nothing but the input (and, where something is written, its own folder) is opened, nothing
imported, compiled or run, no process started, no socket made. What breaks this is kept under --out with its traceback.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import logging
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import numpy as np

if __name__ == "__main__" and "--guided" in sys.argv:
    import atheris

    with atheris.instrument_imports(include=["sdvideo"]):
        import sdvideo.codecs.latent.coding.adaptive_coder
        import sdvideo.codecs.latent.frame_codec
        import sdvideo.container

import sdvideo
from sdvideo.codecs.av1.base_layer import BaseDecoder, encode_base
from sdvideo.codecs.av1.bitstream import pack_step
from sdvideo.codecs.latent.coding.adaptive_coder import AdaptiveCoder
from sdvideo.codecs.latent.coding.frame_syntax import FramePlan, FrameSymbols, code_frame
from sdvideo.codecs.latent.coding.rdoq import SymbolEncoder
from sdvideo.codecs.latent.frame_codec import FrameDecoder
from sdvideo.container import KEY, PREDICTED, CodedFrame, Group, Header, ModelId, Reader, Writer, unpack_group
from sdvideo.container.preamble import MAJOR, MAX_HEADER, deflate_header, inflate_header
from sdvideo.container.varint import put_svarint, put_varint, take_svarint, take_varint
from sdvideo.errors import FormatError, SdvError
from sdvideo.frames import Chapter, Picture, StreamInfo, Track

SECONDS = 2.0  # of the processor's time that one input may take
PATIENCE = 60.0  # seconds by the clock, on a busy machine, after which it hangs
LARGEST = 100_000  # bytes of an input
_PREAMBLE = struct.Struct("<8sHHI")
_MAGIC = bytes.fromhex("895344560D0A1A0A")


class Broken(Exception):
    """What must hold does not."""


# --- files to start from ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlainModel:
    """As much of a latent model as parsing needs, with the coder that has no network."""

    channels: int = 2
    block: int = 8
    coder: AdaptiveCoder = field(default_factory=lambda: AdaptiveCoder(2))


def plain_file(seed: int = 0, count: int = 6, keyint: int = 3) -> bytes:
    """A file of base none, 32x24, of random integers, with two track files and everything in its header."""
    rng, model = np.random.default_rng(seed), PlainModel()
    info = StreamInfo(
        width=32,
        height=24,
        time_base=Fraction(1, 25),
        rate=Fraction(25),
        frames=count,
        tracks=(Track("audio", "aac", "eng", 0, 0), Track("subtitle", "ass", "", 1, 0)),
        chapters=(Chapter(0, 3, Fraction(1, 25), "one"),),
        metadata={"title": "a title"},
    )
    latent = {"channels": model.channels, "block": model.block}
    header = Header(info, ModelId("embedded", "1", "0" * 64), "none", "plain-1", latent, blobs=("mp4", "matroska"))
    writer = Writer(file := BytesIO(), header)
    writer.write_track(0, rng.bytes(60))
    for first in range(0, count, keyint):
        before = FrameSymbols(np.zeros((2, 2, 2), np.int16), np.zeros((3, 4), bool), np.zeros((3, 4, 2), np.int32))
        frames = []
        for number in range(first, min(first + keyint, count)):
            key = number == first
            motion = np.zeros_like(before.motion) if key else rng.integers(-9, 9, before.motion.shape).astype(np.int16)
            coded = np.ones((3, 4), bool) if key else rng.random((3, 4)) < 0.5
            units = rng.laplace(0, 6, before.latent.shape).astype(np.float32)
            stream = SymbolEncoder()
            before = code_frame(stream, model.coder, before, key, 40, FramePlan(motion, coded, units))
            frames.append(CodedFrame(number, 1, KEY if key else PREDICTED, 40 + number, stream.finish()))
        writer.write_group(Group(first, tuple(frames)))
        writer.write_track(1, rng.bytes(20))
    writer.finish()
    return file.getvalue()


def av1_units(seed: int = 0, count: int = 6) -> tuple[CodedFrame, ...]:
    """A group of 64x64 pictures of noise as AV1."""
    rng = np.random.default_rng(seed)
    small = [
        Picture(*(rng.integers(0, 256, size, np.uint8) for size in ((64, 64), (32, 32), (32, 32))))
        for _ in range(count)
    ]
    frames = [sdvideo.Frame(number, 1, picture) for number, picture in enumerate(small)]
    return encode_base(small, Fraction(1), 45.0, 8).packed().coded_frames(frames)


def real_files(folder: Path) -> list[bytes]:
    """Small encodings with sound, subtitles and chapters, with both bases."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from conftest import BUILDERS

    files, settings = [], {"preset": "fast", "quality": 15, "keyint": 6, "device": "cpu", "overwrite": True}
    for name in ("cfr", "rich"):
        clip = BUILDERS[name](folder)
        for base in ("av1", "none"):
            path = folder / "real.sdv"
            sdvideo.encode(clip.path, path, base=base, **settings)
            files.append(path.read_bytes())
    return files


# --- mutations ----------------------------------------------------------------------------------------------

_NUMBERS = (0, 1, 2, 3, 7, 8, 15, 16, 63, 64, 127, 128, 255, 256, 1023, 65535, 65536, 2**20, 2**24, 2**28, 2**31 - 1,
            2**31, 2**32 - 1, 2**40, 2**53, 2**59, 2**60 - 1, 2**60, 2**62, 2**63 - 1)  # fmt: skip
_VALUES = (None, True, False, 0, 1, -1, 0.5, 1e308, "", "a", "av1", "none", "plain-1", "mp4", "matroska", "/etc/passwd",
           "../../etc/passwd", "\x00", "\ud800", "é" * 70, "x" * 1100, [], {}, [0, 1], [1, 0], [2**31 - 1, 1], [[]],
           {"a": {}}, *_NUMBERS, *(-number for number in _NUMBERS))  # fmt: skip
_KINDS = (b"GRUP", b"TRAK", b"indx", b"ENDS", b"note", b"NEWS", b"\xff\x00aa", b"grup")


@dataclass
class Parts:
    """A file taken apart: its header's text, and its chunks as [kind, payload]."""

    header: bytes
    chunks: list[list[bytes]]
    major: int = MAJOR
    packed: bool = False

    @classmethod
    def of(cls, data: bytes) -> Parts:
        """Take apart whatever it is; what cannot be a chunk is left out."""
        fixed = data[: _PREAMBLE.size].ljust(_PREAMBLE.size, b"\0")
        _, major, _, length = _PREAMBLE.unpack(fixed)
        at = _PREAMBLE.size + min(length, len(data)) + 4
        stored, chunks = data[_PREAMBLE.size : at - 4], []
        header = stored
        with suppress(FormatError):
            header = inflate_header(stored)
        while at + 8 <= len(data):
            kind, size = struct.unpack_from("<4sI", data, at)
            chunks.append([kind, data[at + 8 : at + 8 + size]])
            at += size + 12
        return cls(header, chunks, major, header != stored)

    def join(self) -> bytes:
        """The file with sizes and checksums that fit."""
        stored = deflate_header(self.header) if self.packed and len(self.header) <= MAX_HEADER else self.header
        start = _PREAMBLE.pack(_MAGIC, self.major & 0xFFFF, 0, len(stored)) + stored
        parts = [start, struct.pack("<I", zlib.crc32(start))]
        for kind, payload in self.chunks:
            body = kind + struct.pack("<I", len(payload)) + payload
            parts += [body, struct.pack("<I", zlib.crc32(body))]
        return b"".join(parts)


class Mutator:
    """Changes a file in one to four places; the same seed makes the same changes."""

    def __init__(self, seed: int):
        self.rng = random.Random(seed)

    def __call__(self, data: bytes, largest: int = LARGEST) -> bytes:
        rng, parts = self.rng, Parts.of(data)
        for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
            rng.choice(_MUTATIONS)(self, parts)
        out = parts.join()
        if rng.random() < 0.1:  # past the checksums, and not
            out = self.bytes(out)
        return out[:largest]

    # of bytes and numbers

    def bytes(self, data: bytes) -> bytes:
        """Flip, set, drop, repeat or insert a few bytes, or cut."""
        rng, out = self.rng, bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 4, 16))):
            at, size = rng.randrange(len(out) + 1), rng.choice((1, 1, 2, 4, 9))
            how = rng.randrange(6)
            if how == 0 and at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            elif how == 1:
                out[at : at + size] = rng.choice((b"\0", b"\xff", b"\x80", b"\x7f", bytes([rng.randrange(256)]))) * size
            elif how == 2:
                del out[at : at + size]
            elif how == 3:
                out[at:at] = out[at : at + size * rng.choice((1, 8, 64))]
            elif how == 4:
                out[at:at] = rng.randbytes(size)
            elif rng.random() < 0.3:
                del out[at:]
        return bytes(out)

    def number(self, value: int) -> int:
        rng = self.rng
        return rng.choice(
            (value + rng.randint(-2, 2), rng.choice(_NUMBERS), rng.choice(_NUMBERS) + value, rng.getrandbits(63))
        )

    # of the parts of a file

    def header(self, parts: Parts) -> None:
        rng = self.rng
        try:
            top = json.loads(parts.header)
        except (ValueError, RecursionError):
            top = None
        if not isinstance(top, dict) or rng.random() < 0.1:
            parts.header = self.bytes(parts.header)
            return
        place, path = top, []
        while isinstance(place, (dict, list)) and place and (not path or rng.random() < 0.7):
            path.append((place, rng.choice(list(place) if isinstance(place, dict) else range(len(place)))))
            place = path[-1][0][path[-1][1]]
        if not path:
            return
        inside, key = path[-1]
        how = rng.randrange(5)
        if how == 0:
            del inside[key]
        elif how == 1 and isinstance(inside, list):
            inside += copy.deepcopy(inside) * rng.choice((1, 1, 1, 1, 300))
        elif how == 2 and isinstance(inside[key], int) and not isinstance(inside[key], bool):
            inside[key] = self.number(inside[key])
        elif how == 3 and isinstance(inside, dict):
            inside[rng.choice(("", "later", "width", "latent", "x" * 300))] = rng.choice(_VALUES)
        else:
            inside[key] = rng.choice(_VALUES)
        parts.header = json.dumps(top, separators=(",", ":")).encode()

    def chunks(self, parts: Parts) -> None:
        rng, chunks = self.rng, parts.chunks
        if not chunks:
            return
        at, other = rng.randrange(len(chunks)), rng.randrange(len(chunks))
        how = rng.randrange(6)
        if how == 0:
            del chunks[at]
        elif how == 1:
            chunks.insert(other, list(chunks[at]))
        elif how == 2:
            chunks[at], chunks[other] = chunks[other], chunks[at]
        elif how == 3:
            chunks[at][0] = rng.choice(_KINDS)
        elif how == 4:
            chunks[at][1] = chunks[other][1][: rng.randrange(200)] + chunks[at][1]
        else:
            chunks.insert(at, [rng.choice(_KINDS), rng.randbytes(rng.randrange(40))])

    def payload(self, parts: Parts) -> None:
        if parts.chunks:
            chunk = self.rng.choice(parts.chunks)
            chunk[1] = self.bytes(chunk[1])

    def _one(self, parts: Parts, kind: bytes) -> list[bytes] | None:
        found = [chunk for chunk in parts.chunks if chunk[0] == kind]
        return self.rng.choice(found) if found else None

    def frame_table(self, parts: Parts) -> None:
        """A number of a group's table that is another one, its length as the format has it."""
        if not (chunk := self._one(parts, b"GRUP")):
            return
        with suppress(SdvError):
            payload, at, numbers = chunk[1], 0, []
            for take in (take_varint, take_svarint, take_varint, take_varint, take_svarint):
                value, at = take(payload, at)
                numbers.append(value)
            for _ in range(min(numbers[2], 200)):
                value, at = take_varint(payload, at)
                numbers.append(value)
                bytes_after = 0 if not value & 1 else 2 if payload[at : at + 1] > b"\x07" else 1  # flags, and a step
                numbers += [None] * bytes_after
                at += bytes_after
            place = self.rng.randrange(len(numbers))
            changed = self.number(numbers[place] or 0)
            if place not in (1, 4):
                changed = abs(changed) % 2**63
            numbers[place] = changed
            out = bytearray()
            for place, value in enumerate(numbers):
                if value is None:
                    out.append(self.rng.randrange(256))
                elif place in (1, 4):
                    put_svarint(out, max(-(2**62), min(value, 2**62 - 1)))
                else:
                    put_varint(out, value)
            chunk[1] = bytes(out) + payload[at:]

    def frames(self, parts: Parts) -> None:
        """Frames that are valid to the container and hold other words: of the range coder, or AV1."""
        if not (chunk := self._one(parts, b"GRUP")):
            return
        with suppress(SdvError):
            group = unpack_group(chunk[1])
            frames = list(group.frames)
            at = self.rng.randrange(len(frames))
            frame = frames[at]
            how = self.rng.randrange(6)
            if how == 0:
                frame = replace(frame, step=self.rng.randrange(256))
            elif how == 1:
                frame = replace(frame, data=self.rng.choice(frames).data)
            elif how == 2:
                words = np.frombuffer(frame.data[: len(frame.data) // 4 * 4], "<u4").copy()
                for place in self.rng.choices(range(len(words)), k=2) if len(words) else ():
                    words[place] = self.rng.choice((0, 2**32 - 1, 2**31, self.rng.getrandbits(32)))
                frame = replace(frame, data=words.tobytes())
            elif how == 3 and at:
                frame = replace(frame, kind=1 - frame.kind)
            else:
                frame = replace(frame, data=self.bytes(frame.data))
            frames[at] = frame
            chunk[1] = sdvideo.container.pack_group(replace(group, frames=tuple(frames)))

    def index(self, parts: Parts) -> None:
        if not (chunk := self._one(parts, b"indx")):
            return
        numbers, at = [], 0
        with suppress(SdvError):
            while at < len(chunk[1]):
                value, at = take_varint(chunk[1], at)
                numbers.append(value)
        if numbers:
            place = self.rng.randrange(len(numbers))
            numbers[place] = abs(self.number(numbers[place])) % 2**63
            out = bytearray()
            for value in numbers:
                put_varint(out, value)
            chunk[1] = bytes(out) * self.rng.choice((1, 1, 1, 1, 1, 2, 50))

    def end(self, parts: Parts) -> None:
        chunk = self._one(parts, b"ENDS")
        if chunk and len(chunk[1]) == 24:
            fields = list(struct.unpack("<QIIQ", chunk[1]))
            place = self.rng.randrange(4)
            fields[place] = abs(self.number(fields[place])) % (2**64 if place in (0, 3) else 2**32)
            chunk[1] = struct.pack("<QIIQ", *fields)

    def track(self, parts: Parts) -> None:
        chunk = self._one(parts, b"TRAK")
        if chunk and len(chunk[1]) > 9:
            blob, position = struct.unpack_from("<BQ", chunk[1])
            if self.rng.random() < 0.5:
                blob = self.rng.randrange(256)
            else:
                position = abs(self.number(position)) % 2**64
            chunk[1] = struct.pack("<BQ", blob, position) + chunk[1][9:]


_MUTATIONS: tuple[Callable[[Mutator, Parts], None], ...] = (
    Mutator.header, Mutator.header, Mutator.chunks, Mutator.payload, Mutator.frame_table, Mutator.frame_table,
    *[Mutator.frames] * 6, Mutator.index, Mutator.end, Mutator.track,
)  # fmt: skip


# --- what must hold -----------------------------------------------------------------------------------------

_FORBIDDEN = (
    *("exec", "compile", "import", "pickle.", "marshal.", "subprocess.", "socket.", "ctypes.dlopen", "urllib."),
    *("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "webbrowser."),
)


class Guard:
    """Watches what Python does while an input is looked at, and for how long."""

    def __init__(self, folder: Path):
        weights = Path(sdvideo.__file__).parent / "weights"
        self._folders, self._on = (os.path.realpath(folder), os.path.realpath(weights)), False
        self._seen: list[str] = []
        sys.addaudithook(self._see)
        signal.signal(signal.SIGALRM, self._late)

    def _see(self, event: str, arguments: tuple) -> None:
        if not self._on:
            return
        if event == "open" and not isinstance(arguments[0], int):
            if not os.path.realpath(os.fsdecode(arguments[0])).startswith(self._folders):
                self._seen.append(f"open {arguments[0]!r}")
        elif event.startswith(_FORBIDDEN) and arguments[:1] != (b"_getframe()",):  # Cython's, for a traceback
            self._seen.append(f"{event} {str(arguments)[:200]}")

    def _late(self, *_: object) -> None:
        raise Broken(f"still at it after {PATIENCE} s")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Raises Broken for what must not happen; SdvError is as it should be."""
        self._seen.clear()
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        begin, self._on = time.process_time(), True
        try:
            with suppress(SdvError):
                yield
        finally:
            self._on = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        if self._seen:
            raise Broken("; ".join(self._seen))
        if (took := time.process_time() - begin) > SECONDS:
            raise Broken(f"took {took:.2f} s")


def limit_memory(more: int) -> None:
    """From now on the process may take so many bytes more than it has; beyond, a MemoryError is a finding."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


class ParseSurface:
    """Everything that is read of a file without a network: container, header, groups, and frames of the plain coder."""

    memory = 2**28

    def __init__(self, folder: Path):
        self._path = folder / "input.sdv"
        self.seeds = [plain_file(0, 4, 2), plain_file(1, 3, 1), plain_file(2, 2, 2)]
        self._parsed: set[bytes] = set()
        self.groups = 0

    def __call__(self, data: bytes) -> None:
        self._path.write_bytes(data)
        for tolerant in (True, False):
            with suppress(SdvError), Reader(self._path, tolerant=tolerant) as reader:
                for number in range(len(reader.groups)):
                    with suppress(SdvError):
                        self._parse(reader.header, reader.read_group(number))
                lost = (time for number in range(len(reader.lost)) for time in reader.lost_times(number))
                if sum(1 for _ in lost) > len(data):
                    raise Broken("more frames are lost than the file has bytes")
                for blob in range(len(reader.header.blobs)):
                    with suppress(SdvError):
                        list(reader.track_data(blob))
                    parts = list(reader.track_parts(blob))
                    if parts and parts[-1][0].end > 2 * len(data):
                        raise Broken("a track file is larger than the file")

    def _parse(self, header: Header, group: Group) -> None:
        """The integers of a group not seen before, where the header's sizes are those of a small picture."""
        info, model = header.info, PlainModel()
        fits = header.latent and (header.latent["channels"], header.latent["block"]) == (model.channels, model.block)
        if not fits or info.width * info.height > 2**14 or len(group.frames) > 100:
            return
        key = repr((info.width, info.height, [(frame.kind, frame.step, frame.data) for frame in group.frames])).encode()
        if key in self._parsed:
            return
        if len(self._parsed) > 10_000:
            self._parsed.clear()
        self._parsed.add(key)
        self.groups += 1
        decoder = FrameDecoder(model, info.height, info.width)
        for frame in group.frames:
            decoder.parse(frame)


class Av1Surface:
    """A group's AV1 data through dav1d."""

    memory = 2**29

    def __init__(self, folder: Path):
        groups = [av1_units(seed) for seed in range(3)]
        self.seeds = []
        for group in groups:
            info = StreamInfo(64, 64, Fraction(1, 25))
            writer = Writer(file := BytesIO(), Header(info, ModelId("restore", "", "0" * 64), "av1", "av1", None))
            writer.write_group(Group(0, group))
            writer.finish()
            self.seeds.append(file.getvalue())

    def __call__(self, data: bytes) -> None:
        for kind, payload in Parts.of(data).chunks:
            if kind == b"GRUP":
                decoder = BaseDecoder(64, 64)
                for frame in unpack_group(payload).frames[:100]:
                    with suppress(SdvError):
                        shown = decoder.decode(replace(frame, step=pack_step(40, Fraction(1))))
                        if (shown.width, shown.height) != (64, 64):
                            raise Broken(f"a picture of {shown.width}x{shown.height}")


class DecodeSurface:
    """verify, decode and preview of a whole file, with the networks."""

    memory = 2**31

    def __init__(self, folder: Path):
        (made := folder / "made").mkdir()
        self.seeds = real_files(made)
        shutil.rmtree(made)
        self._folder, self._count = folder, 0

    def __call__(self, data: bytes) -> None:
        path = self._folder / "input.sdv"
        path.write_bytes(data)
        with Reader(path, tolerant=True) as reader:
            info = reader.header.info
            frames = sum(entry.frames for entry in (*reader.groups, *reader.lost))
            if info.width * info.height * max(frames, 1) > 2**18:
                return  # so many pictures take their time
        self._count += 1
        target = self._folder / f"out.{('mp4', 'mkv', 'y4m')[self._count % 3]}"
        with suppress(SdvError):
            sdvideo.verify(path, device="cpu")
        for work in (
            lambda: sdvideo.decode(path, target, device="cpu", tolerant=True),
            lambda: sdvideo.decode(path, target, device="cpu"),
            lambda: sdvideo.preview(path, target),
        ):
            done = False
            with suppress(SdvError):
                work()
                done = True
            left = sorted(file.name for file in self._folder.iterdir())
            if left != sorted(["input.sdv", *[target.name] * done]):
                raise Broken(f"left behind: {left}")
            target.unlink(missing_ok=True)


SURFACES = {"parse": ParseSurface, "av1": Av1Surface, "decode": DecodeSurface}


# --- runs ---------------------------------------------------------------------------------------------------


@contextmanager
def surface(name: str, place: Path | None = None) -> Iterator[tuple[Callable[[bytes], None], Guard]]:
    """A surface that has seen its seeds once, so that all is imported, and the guard that goes with it.

    place: where to put its folder; by default in memory if the machine has such a place.
    """
    if place is None and os.access("/dev/shm", os.W_OK):
        place = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="sdvideo-fuzz-", dir=place) as folder:
        under, temporary = Path(folder, "f"), Path(folder, "t")
        under.mkdir()
        temporary.mkdir()
        tempfile.tempdir = str(temporary)
        os.chdir(folder)  # where relative paths lead to
        try:
            look = SURFACES[name](under)
            for seed in look.seeds:
                look(seed)
                with suppress(SdvError):
                    look(seed[:-40])
            yield look, Guard(Path(folder))
        finally:
            tempfile.tempdir = None


def run(
    name: str, executions: int, seed: int, out: Path | None = None, told: Callable[[str], None] = print
) -> list[str]:
    """So many inputs; returns the tracebacks of what was found, one for each place in the code."""
    found: dict[str, str] = {}
    logging.getLogger("sdvideo").setLevel(logging.CRITICAL)
    with surface(name) as (look, guard), warnings.catch_warnings():
        warnings.filterwarnings("error", module="sdvideo")
        limit_memory(look.memory)
        mutate, begin, told_at = Mutator(seed), time.monotonic(), time.monotonic()
        pool = list(look.seeds)
        for number in range(executions):
            data = mutate(mutate.rng.choice(look.seeds if mutate.rng.random() < 0.7 else pool))
            try:
                with guard.watching():
                    look(data)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                place = traceback.extract_tb(error.__traceback__)[-1]
                key = f"{type(error).__name__} in {place.name}, line {place.lineno}"
                if isinstance(error, Broken):
                    key = f"Broken: {str(error)[:60]}"
                if key not in found:
                    found[key] = traceback.format_exc()
                    told(f"FOUND after {number + 1} executions: {key}: {error}")
                    if out is not None:
                        out.mkdir(parents=True, exist_ok=True)
                        stem = out / f"{name}-{seed}-{number}"
                        stem.with_suffix(".sdv").write_bytes(data)
                        stem.with_suffix(".txt").write_text(found[key])
            # Steps away from what was valid: some inputs are changed again.
            if mutate.rng.random() < 0.02 and len(data) < LARGEST // 2:
                pool[len(look.seeds) :] = [*pool[len(look.seeds) :], data][-50:]
            if time.monotonic() - told_at > 30:
                told_at = time.monotonic()
                told(f"{number + 1} executions, {(number + 1) / (told_at - begin):.0f} a second, {len(found)} found")
        told(
            f"{name}: {executions} executions in {time.monotonic() - begin:.0f} s, seed {seed}, {len(found)} found"
            + (f", {look.groups} groups through the range coder" if name == "parse" else "")
        )
    return list(found.values())


def run_guided(executions: int, seed: int, out: Path) -> None:
    """The same, chosen by which branches of our code an input reaches; ends the process."""
    import atheris

    out.mkdir(parents=True, exist_ok=True)
    with surface("parse", out) as (look, guard):
        corpus = out / "corpus"
        corpus.mkdir(exist_ok=True)
        for number, data in enumerate(look.seeds):
            (corpus / f"seed{number}").write_bytes(data)
        runs = itertools.count()

        def mutate(data: bytes, largest: int, seed: int) -> bytes:
            if seed % 3:
                return Mutator(seed)(data, largest)
            return Parts.of(atheris.Mutate(data, largest)).join()[:largest]

        def one(data: bytes) -> None:
            if next(runs) % 1000 == 0:  # what libFuzzer keeps grows and grows
                limit_memory(look.memory)
            with guard.watching():
                look(data)

        arguments = [sys.argv[0], f"-runs={executions}", f"-seed={seed}", f"-max_len={LARGEST // 10}", "-timeout=120"]
        arguments += [f"-artifact_prefix={out}/", "-rss_limit_mb=0", "-print_final_stats=1", str(corpus)]
        atheris.Setup(arguments, one, custom_mutator=mutate)
        atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--surface", choices=SURFACES, default="parse")
    parser.add_argument("--executions", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--guided", action="store_true", help="by coverage, with atheris; the parse surface only")
    parser.add_argument("--out", type=Path, default=Path("fuzz-out"), help="where to store what is found")
    wanted = parser.parse_args()
    wanted.out = wanted.out.resolve()
    if wanted.guided:
        run_guided(wanted.executions, wanted.seed, wanted.out)
    elif run(wanted.surface, wanted.executions, wanted.seed, wanted.out, lambda line: print(line, flush=True)):
        sys.exit(1)


if __name__ == "__main__":
    main()
