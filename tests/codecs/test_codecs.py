"""The codec interface: a third codec in one file and one row, and groups coded on an executor."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from conftest import Clips, Recipe, synthesise, write_clip

import sdvideo
from sdvideo.codecs import registry
from sdvideo.codecs.interface import Codec, DecodeOptions, EncodedSoFar, HeaderFields
from sdvideo.container import KEY, PREDICTED, CodedFrame, Group, Header, ModelId, Reader
from sdvideo.errors import DamagedError, FormatError, SettingError
from sdvideo.frames import Frame, Picture, StreamInfo
from sdvideo.runtime.output_files import part_of
from sdvideo.settings import EncodeSettings, ProgressCallback

# --- a toy codec: every frame is deflated -------------------------------------------------------------------


class ToyCodec(Codec):
    name = "toy"
    summary = "every frame deflated"

    def check_settings(self, settings: EncodeSettings) -> None:
        if settings.scale is not None:
            raise SettingError("base toy has no scale")

    def encoder(self, info: StreamInfo, settings: EncodeSettings, total: int | None) -> ToyEncoder:
        return ToyEncoder(info, settings.keyint or 4)

    def check_header(self, header: Header) -> None:
        if header.coder != "deflate":
            raise FormatError(f'header: coder is "{header.coder}", must be "deflate" with base toy')

    def decoder(self, header: Header, options: DecodeOptions) -> ToyDecoder:
        return ToyDecoder(header)


class ToyEncoder:
    lookback = 0

    def __init__(self, info: StreamInfo, keyint: int):
        self._info, self._keyint = info, keyint
        self.fields = HeaderFields(ModelId("deflate", "", "0" * 64), "deflate")

    def groups(
        self,
        frames: Iterable[Frame],
        file: EncodedSoFar,
        bits: float | None,
        total: int | None,
        progress: ProgressCallback,
        executor: Executor | None,
    ) -> Iterator[Group]:
        coded: list[CodedFrame] = []
        for frame in frames:
            planes = b"".join(plane.tobytes() for plane in (frame.picture.y, frame.picture.u, frame.picture.v))
            kind = PREDICTED if coded else KEY
            coded.append(CodedFrame(frame.pts, frame.duration, kind, 0, zlib.compress(planes)))
            progress(file.frames + len(coded), total, file.video_size, self._info.rate)
            if len(coded) == self._keyint:
                yield Group(file.frames, tuple(coded))
                coded = []
        if coded:
            yield Group(file.frames, tuple(coded))


class ToyDecoder:
    concurrent = True

    def __init__(self, header: Header):
        self._size = header.info.height, header.info.width

    def frame_decoder(self) -> ToyFrameDecoder:
        return ToyFrameDecoder(*self._size)

    def parser(self) -> Callable[[CodedFrame], object]:
        return self.frame_decoder().parse


class ToyFrameDecoder:
    def __init__(self, height: int, width: int):
        self._luma, self._chroma = (height, width), ((height + 1) // 2, (width + 1) // 2)

    def parse(self, coded: CodedFrame) -> bytes:
        try:
            return zlib.decompress(coded.data)
        except zlib.error as error:
            raise DamagedError("its data does not inflate") from error

    def reconstruct(self, coded: CodedFrame, symbols: bytes) -> Frame:
        luma, chroma = np.prod(self._luma), np.prod(self._chroma)
        y, u, v = np.split(np.frombuffer(symbols, np.uint8), [luma, luma + chroma])
        planes = y.reshape(self._luma), u.reshape(self._chroma), v.reshape(self._chroma)
        return Frame(coded.pts, coded.duration, Picture(*planes))

    def integers(self, symbols: bytes) -> bytes:
        return symbols


TOY = ToyCodec()


@pytest.fixture
def toy() -> Iterator[None]:
    registry.register("toy", f"{__name__}:TOY")
    yield
    del registry._ROWS["toy"]


def test_a_third_codec_is_one_row(toy: None, clips: Clips, tmp_path: Path) -> None:
    clip, path = clips["cfr"], tmp_path / "a.sdv"
    result = sdvideo.encode(clip.path, path, base="toy", keyint=5)
    assert (result.frames, result.groups) == (clip.frames, -(-clip.frames // 5))
    assert sdvideo.verify(path) == []
    with sdvideo.open(path) as video:
        assert video.base == "toy" and video.features == frozenset()
        frames = list(video)
        assert [frame.pts * video.info.time_base for frame in frames] == list(clip.times)
        for number in (7, 2, 11, 3):  # seeking
            assert np.array_equal(video[number].picture.y, frames[number].picture.y)
        with pytest.raises(SettingError, match="no latents"):
            video.latents()
    sdvideo.decode(path, tmp_path / "a.y4m")
    with pytest.raises(SettingError, match="no AV1 base"):
        sdvideo.preview(path)
    report = sdvideo.report(clip.path, path)
    assert report.summary["psnr"]["clip"] == 100  # lossless
    assert registry.names() == ("av1", "none", "toy")


def test_a_third_codec_resumes(toy: None, clips: Clips, tmp_path: Path) -> None:
    clip, path = clips["cfr"], tmp_path / "a.sdv"
    sdvideo.encode(clip.path, path, base="toy")
    whole = path.read_bytes()

    def stop(done: int, total: int | None, size: int, rate: Fraction | None) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sdvideo.encode(clip.path, path, base="toy", overwrite=True, progress=stop)
    with Reader(part_of(path)) as reader:
        assert reader.frame_count == 8
    again = sdvideo.encode(clip.path, path, base="toy", overwrite=True, resume=True)
    assert path.read_bytes() == whole and again.frames == clip.frames


def test_a_damaged_frame_of_a_third_codec(toy: None, clips: Clips, tmp_path: Path) -> None:
    path = tmp_path / "a.sdv"
    sdvideo.encode(clips["cfr"].path, path, base="toy")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert [damage.group for damage in sdvideo.verify(path) if damage.kind == "checksum"] == [1]
    with sdvideo.open(path, tolerant=True) as video:
        assert len(list(video)) == clips["cfr"].frames and video.concealed


def test_settings_and_headers_are_the_codecs_own(toy: None, clips: Clips, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="toy has no scale"):
        sdvideo.encode(clips["cfr"].path, tmp_path / "a.sdv", base="toy", scale="1/2")
    with pytest.raises(SettingError, match="base is 'nonsense'; it can be av1, none, toy"):
        sdvideo.encode(clips["cfr"].path, tmp_path / "a.sdv", base="nonsense")


def test_a_file_of_an_unknown_codec_is_refused(toy: None, clips: Clips, tmp_path: Path) -> None:
    path = tmp_path / "a.sdv"
    sdvideo.encode(clips["cfr"].path, path, base="toy")
    for command in ("info", "verify", "decode"):
        ran = subprocess.run([sys.executable, "-m", "sdvideo", command, path], capture_output=True, text=True)
        assert ran.returncode == 3
        assert 'base is "toy", must be one of those this version knows: av1, none' in ran.stderr


# --- groups on an executor ----------------------------------------------------------------------------------

SETTINGS = {
    "av1": {"preset": "balanced", "keyint": 8},
    "av1-size": {"size": 5000, "preset": "fast", "keyint": 8},
    "none": {"base": "none", "keyint": 8},
    "none-size": {"base": "none", "size": 8000, "keyint": 8},
    "tiny-palette": {"model": "tiny", "quantizer": "palette", "keyint": 8},
}


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes, the second one starting in the middle of a group."""
    path = tmp_path_factory.mktemp("executor") / "long.mp4"
    pictures = synthesise(192, 128, 11, seed=1) + synthesise(192, 128, 9, seed=2)
    write_clip(path, pictures, Recipe(ticks=tuple(512 * n for n in range(20))))
    return path


@pytest.fixture(scope="module")
def processes() -> Iterator[Executor]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.mark.parametrize("name", SETTINGS)
def test_an_executor_makes_the_same_file(name: str, long_clip: Path, processes: Executor, tmp_path: Path) -> None:
    here, there = tmp_path / "here.sdv", tmp_path / "there.sdv"
    seen: list[int] = []
    sdvideo.encode(long_clip, here, device="cpu", **SETTINGS[name])
    sdvideo.encode(
        long_clip,
        there,
        device="cpu",
        executor=processes,
        progress=lambda done, total, size, rate: seen.append(done),
        **SETTINGS[name],
    )
    assert there.read_bytes() == here.read_bytes()
    assert seen == sorted(seen) and seen[-1] == 20


def test_an_executor_of_threads(long_clip: Path, tmp_path: Path) -> None:
    here, there = tmp_path / "here.sdv", tmp_path / "there.sdv"
    sdvideo.encode(long_clip, here, preset="fast", keyint=6)
    with ThreadPoolExecutor(2) as threads:
        sdvideo.encode(long_clip, there, preset="fast", keyint=6, executor=threads)
    assert there.read_bytes() == here.read_bytes()


def test_an_error_on_an_executor_is_raised_here(long_clip: Path, processes: Executor, tmp_path: Path) -> None:
    class Broken(Executor):
        def submit(self, function, /, *args, **kwargs):  # type: ignore[no-untyped-def]
            return processes.submit(json.loads, "{")

    with pytest.raises(json.JSONDecodeError):
        sdvideo.encode(long_clip, tmp_path / "a.sdv", executor=Broken(), preset="fast")
    assert not any(tmp_path.iterdir())
