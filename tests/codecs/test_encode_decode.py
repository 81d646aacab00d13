"""The whole codec through its Python interface: what goes in comes out, the same everywhere.

The golden stream lies in tests/golden. After a change of weights or format that is meant:
SDV_REGEN_GOLDEN=1 python -m pytest tests/codecs/test_encode_decode.py -k golden
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import Clip, Clips, Recipe, synthesise, write_clip

import sdvideo
from sdvideo.codecs import registry
from sdvideo.codecs.latent.coding.frame_syntax import FramePlan, FrameSymbols, code_frame
from sdvideo.codecs.latent.coding.range_coder import SymbolReader, SymbolWriter
from sdvideo.codecs.latent.coding.rdoq import SymbolEncoder
from sdvideo.codecs.latent.frame_codec import FrameDecoder, FrameEncoder
from sdvideo.codecs.latent.model import blank_symbols
from sdvideo.codecs.latent.model_loading import load_model
from sdvideo.codecs.latent.rate_control import ConstantQuality
from sdvideo.container import KEY, PREDICTED, CodedFrame, Reader
from sdvideo.errors import DamagedError, FormatError
from sdvideo.frames import Frame, Picture
from sdvideo.media.source import open_source
from sdvideo.metrics.fidelity import psnr

GOLDEN = Path(__file__).parents[1] / "golden"
SAMPLE = Path(__file__).parents[2] / "samples" / "walk.mp4"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model():
    return load_model(device="cpu")


@dataclass
class Encoder:
    """Encodes synthetic clips, each once per choice of settings."""

    clips: Clips
    folder: Path
    base: str

    def __call__(self, name: str, **settings) -> Path:
        label = "-".join([name, *(f"{key}{value}" for key, value in sorted(settings.items()))])
        path = self.folder / f"{label}.sdv"
        if not path.exists():
            sdvideo.encode(self.clips[name].path, path, device="cpu", base=self.base, **settings)
        return path


@pytest.fixture(scope="module", params=registry.names())
def encoded(request, clips, tmp_path_factory) -> Encoder:
    """On every base in turn."""
    return Encoder(clips, tmp_path_factory.mktemp("encoded"), request.param)


@pytest.fixture(scope="module")
def latents(clips, tmp_path_factory) -> Encoder:
    """Without a base."""
    return Encoder(clips, tmp_path_factory.mktemp("latents"), "none")


def same(a: Picture, b: Picture) -> bool:
    return all(np.array_equal(getattr(a, plane), getattr(b, plane)) for plane in "yuv")


def decode_next(decoder: FrameDecoder, coded: CodedFrame) -> tuple[Frame, FrameSymbols]:
    symbols = decoder.parse(coded)
    return decoder.reconstruct(coded, symbols), symbols


def digest(symbols: FrameSymbols | Picture) -> str:
    """A hash of all integers of a frame."""
    found = hashlib.sha256()
    if isinstance(symbols, Picture):
        arrays = [(plane, "u1") for plane in (symbols.y, symbols.u, symbols.v)]
    else:
        arrays = [(symbols.motion, "<i2"), (symbols.coded, "u1"), (symbols.latent, "<i4")]
    for values, kind in arrays:
        found.update(np.ascontiguousarray(values).astype(kind).tobytes())
    return found.hexdigest()


def digests(path: Path) -> list[str]:
    with sdvideo.open(path, device="cpu") as video:
        return [digest(video.symbols()) for _ in video]


def audio_packets(path: Path) -> list[list[bytes]]:
    with av.open(str(path)) as file:
        streams = file.streams.audio
        found = {stream.index: [] for stream in streams}
        for packet in file.demux(*streams) if streams else ():
            if packet.size:
                found[packet.stream_index].append(bytes(packet))
        return list(found.values())


# --- what goes in comes out ---------------------------------------------------------------------------------


def test_clip_comes_back(clip: Clip, encoded: Encoder, tmp_path: Path):
    path = encoded(clip.path.stem, keyint=5)
    with sdvideo.open(path, device="cpu") as video:
        frames, info = list(video), video.info
        assert len(video) == len(frames) == clip.frames
    assert (info.width, info.height, info.sar) == (clip.width, clip.height, clip.sar)
    assert tuple(frame.pts * info.time_base for frame in frames) == clip.times
    assert all((f.picture.width, f.picture.height) == (clip.width, clip.height) for f in frames)
    if clip.planes is not None:
        assert min(psnr(Picture(*planes), f.picture)[0] for planes, f in zip(clip.planes, frames)) > 28

    decoded = tmp_path / f"decoded{clip.path.suffix}"
    assert sdvideo.decode(path, decoded, lossless=True, device="cpu").frames == clip.frames
    with open_source(decoded) as again:
        assert again.info.width == clip.width + clip.width % 2  # 4:2:0 in H.264 has even sizes only
        assert again.info.height == clip.height + clip.height % 2
        back = list(again.frames())
        times = tuple(frame.pts * again.info.time_base for frame in back)
    assert times == clip.times
    for before, after in zip(frames, back, strict=True):
        y = after.picture.y[: clip.height, : clip.width]
        assert same(before.picture, Picture(y, after.picture.u, after.picture.v))
    assert audio_packets(decoded) == audio_packets(clip.path)


def test_y4m_keeps_odd_sizes(encoded: Encoder, tmp_path: Path):
    path = tmp_path / "odd.y4m"
    sdvideo.decode(encoded("odd", keyint=5), path, device="cpu")
    with sdvideo.open(encoded("odd", keyint=5), device="cpu") as video, open_source(path) as again:
        assert (again.info.width, again.info.height) == (65, 47)
        assert all(same(a.picture, b.picture) for a, b in zip(video, again.frames(), strict=True))


def test_any_frame_by_its_number(encoded: Encoder):
    with sdvideo.open(encoded("cfr", keyint=5), device="cpu") as video:
        whole = list(video)
        numbers = list(range(len(whole)))
        random.Random(1).shuffle(numbers)
        for number in [*numbers, *range(len(whole)), -1, 15, 14, 15, 0]:
            frame = video[number]
            assert frame.pts == whole[number].pts and same(frame.picture, whole[number].picture), number
        for number in (16, -17):
            with pytest.raises(IndexError):
                _ = video[number]


def test_decoding_twice_is_decoding_once(encoded: Encoder):
    with sdvideo.open(encoded("vfr", keyint=5)) as a, sdvideo.open(encoded("vfr", keyint=5)) as b:
        assert all(same(x.picture, y.picture) for x, y in zip(a, b, strict=True))


HASHES = """
import sys, torch
from pathlib import Path
sys.path[:0] = [sys.argv[3], str(Path(sys.argv[3]).parent)]
torch.set_num_threads(int(sys.argv[1]))
import test_encode_decode
print(*test_encode_decode.digests(Path(sys.argv[2])))
"""


def test_symbols_do_not_depend_on_threads(encoded: Encoder):
    path = encoded("cfr", keyint=5, quality=80)
    arguments = [str(path), str(Path(__file__).parent)]
    found = [
        subprocess.run(
            [sys.executable, "-c", HASHES, threads, *arguments], capture_output=True, text=True, check=True
        ).stdout.split()
        for threads in ("1", "2")
    ]
    assert found[0] == found[1] == digests(path)


# --- groups -------------------------------------------------------------------------------------------------


def test_groups_are_no_longer_than_asked(encoded: Encoder):
    with Reader(encoded("cfr", keyint=5)) as reader:
        assert [entry.frames for entry in reader.groups] == [5, 5, 5, 1]
    with Reader(encoded("cfr", keyint=1, quality=20)) as reader:
        assert [entry.frames for entry in reader.groups] == [1] * 16
        assert all(frame.kind == KEY for i in range(16) for frame in reader.read_group(i).frames)


def test_a_cut_begins_a_group(clips: Clips, encoded: Encoder):
    with Reader(encoded("cut")) as reader:
        assert [entry.first for entry in reader.groups] == [0, clips["cut"].cut]


def test_a_still_picture_stays_still(latents: Encoder):
    """Once nothing is coded any more, nothing changes, bit for bit, and a frame costs no bytes."""
    with Reader(latents("still", keyint=8)) as reader:
        coded = [frame for number in range(2) for frame in reader.read_group(number).frames]
    with sdvideo.open(latents("still", keyint=8), device="cpu") as video:
        frames = list(video)
    silent = [number for number, frame in enumerate(coded) if not frame.data]
    assert {7, 15} <= set(silent) and len(silent) >= 8
    for number in silent:
        assert same(frames[number].picture, frames[number - 1].picture)


def test_a_frame_without_a_delta_is_its_prediction(clips: Clips, model):
    clip = clips["cfr"]
    first = Frame(0, 1, Picture(*clip.planes[0]))
    key = FrameEncoder(model, clip.height, clip.width, ConstantQuality(120)).encode(first)
    decoder = FrameDecoder(model, clip.height, clip.width)
    before, symbols = decode_next(decoder, key)
    reference = model.source(before.picture)
    motion = np.zeros_like(symbols.motion)
    motion[:, 1:3, 1:4] = [[[5]], [[-3]]]
    blank = blank_symbols(model, clip.height, clip.width)
    stream = SymbolEncoder()
    plan = FramePlan(motion, blank.coded, blank.latent.astype(np.float32))
    code_frame(stream, model.coder, symbols, False, 120, plan)

    frame, symbols = decode_next(decoder, CodedFrame(1, 1, PREDICTED, 120, stream.finish()))
    assert np.array_equal(symbols.motion, motion) and not symbols.coded.any()
    expected = model.picture(model.predict(reference, motion), clip.height, clip.width)
    assert same(frame.picture, expected) and not same(frame.picture, before.picture)


def test_both_sides_have_the_same_integers(clips: Clips, model):
    clip = clips["vfr"]
    decoder, rate = FrameDecoder(model, clip.height, clip.width), ConstantQuality(100)
    for number, planes in enumerate(clip.planes):
        if number % 5 == 0:
            encoder = FrameEncoder(model, clip.height, clip.width, rate)
        coded = encoder.encode(Frame(number, 1, Picture(*planes)))
        assert digest(decoder.parse(coded)) == digest(encoder.symbols)


# --- bits and quality ---------------------------------------------------------------------------------------


def test_more_quality_takes_more_bits_and_gives_it(clips: Clips, encoded: Encoder):
    found = []
    for quality in (10, 40, 70, 100):
        path = encoded("cfr", quality=quality)
        result = sdvideo.report(clips["cfr"].path, path, device="cpu").summary
        found.append((result["bytes"], result["psnr"]["mean"]))
    assert found == sorted(found) and len(set(found)) == 4
    assert found[0][0] * 4 < found[-1][0] and found[0][1] + 6 < found[-1][1]


@pytest.mark.slow
def test_a_size_is_hit(tmp_path: Path):
    size = 120_000
    result = sdvideo.encode(SAMPLE, tmp_path / "walk.sdv", size=size)
    assert abs(result.bytes - size) < 0.05 * size


# --- interruption and damage --------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"quality": 50}, {"size": 9000}], ids=["quality", "size"])
@pytest.mark.parametrize("name", ["cfr", "cut"])
def test_resuming_makes_the_same_file(clips: Clips, encoded: Encoder, tmp_path: Path, name: str, settings):
    def stop(done, *_):
        if done >= 14:
            raise KeyboardInterrupt

    path = tmp_path / "a.sdv"
    with pytest.raises(KeyboardInterrupt):
        sdvideo.encode(clips[name].path, path, keyint=6, device="cpu", base=encoded.base, progress=stop, **settings)
    assert not path.exists()
    seen = []
    sdvideo.encode(
        clips[name].path,
        path,
        keyint=6,
        device="cpu",
        base=encoded.base,
        resume=True,
        progress=lambda done, *_: seen.append(done),
        **settings,
    )
    assert seen[0] > 6
    assert path.read_bytes() == encoded(name, keyint=6, **settings).read_bytes()


def test_wherever_a_file_is_cut_it_is_noticed(encoded: Encoder, tmp_path: Path):
    data = encoded("silent", keyint=8).read_bytes()
    broken, out = tmp_path / "broken.sdv", tmp_path / "out.mp4"
    for keep in [0, 1, 7, 8, 20, 200, *range(500, len(data), 431), len(data) - 1]:
        broken.write_bytes(data[:keep])
        with pytest.raises(FormatError):
            sdvideo.decode(broken, out, device="cpu")
        assert list(tmp_path.iterdir()) == [broken]


def test_what_is_whole_of_a_cut_file_plays(encoded: Encoder, tmp_path: Path):
    path = encoded("silent", keyint=8)
    broken = tmp_path / "broken.sdv"
    with Reader(path) as reader:
        broken.write_bytes(path.read_bytes()[: reader.groups[2].end - 1])
    with sdvideo.open(broken, device="cpu") as video, sdvideo.open(path, device="cpu") as whole:
        assert len(video) == 16 and not video.complete
        assert all(same(a.picture, b.picture) for a, b in zip(video, islice(whole, 16), strict=True))


def test_frame_data_of_another_frame_is_damage_or_a_picture(encoded: Encoder, model):
    """What gets past the checksums must not crash or hang the decoder."""
    with Reader(encoded("silent", keyint=8)) as reader:
        frames = reader.read_group(0).frames
    rng = np.random.default_rng(0)
    for _ in range(40):
        data = bytearray(frames[0].data)
        for place in rng.integers(0, len(data), 3):
            data[place] ^= int(rng.integers(1, 256))
        decoder = FrameDecoder(model, 64, 96)
        try:
            decode_next(decoder, replace(frames[0], data=bytes(data)))
            decode_next(decoder, replace(frames[1], data=bytes(data)))
        except DamagedError:
            continue


# --- the golden stream --------------------------------------------------------------------------------------


class Echo:
    """A SymbolStream that decodes frame data and encodes the same integers again."""

    def __init__(self, data: bytes):
        self._reader, self._writer = SymbolReader(data), SymbolWriter()

    def values(self, tables, expected, units=None):
        values = self._reader.values(tables)
        self._writer.values(tables, values)
        return values + expected

    exactly = values

    def bits(self, tables, bits=None):
        bits = self._reader.bits(tables)
        self._writer.bits(tables, bits)
        return bits

    def finish(self) -> bytes:
        self._reader.finish()
        return self._writer.finish()


@pytest.fixture(scope="module")
def golden(tmp_path_factory) -> Path:
    path = GOLDEN / "tiny.sdv"
    if os.environ.get("SDV_REGEN_GOLDEN") == "1":
        source = tmp_path_factory.mktemp("golden") / "tiny.mp4"
        write_clip(source, synthesise(64, 48, 6, seed=20), Recipe(ticks=tuple(range(0, 6 * 512, 512))))
        sdvideo.encode(source, path, base="none", keyint=4, quality=60, device="cpu", overwrite=True)
        (GOLDEN / "tiny.json").write_text(json.dumps({"integers": digests(path)}, indent=1) + "\n")
    return path


def test_golden_stream_decodes_to_the_same_integers(golden: Path):
    assert digests(golden) == json.loads((GOLDEN / "tiny.json").read_text())["integers"]


def test_golden_integers_code_to_the_same_bytes(golden: Path, model):
    with Reader(golden) as reader:
        info = reader.header.info
        groups = [reader.read_group(number) for number in range(len(reader.groups))]
    for group in groups:
        before = blank_symbols(model, info.height, info.width)
        for frame in group.frames:
            stream = Echo(frame.data)
            before = code_frame(stream, model.coder, before, frame.kind == KEY, frame.step)
            assert stream.finish() == frame.data
