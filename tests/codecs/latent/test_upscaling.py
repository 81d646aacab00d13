"""Pictures coded at a smaller scale, and restored at full size by the network when they are decoded."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import Clips

import sdvideo
from sdvideo.codecs.av1.bitstream import unpack_step
from sdvideo.codecs.registry import codec_for_header
from sdvideo.container import Header, Reader
from sdvideo.container.header import pack_header, unpack_header
from sdvideo.container.preamble import pack_preamble
from sdvideo.errors import FormatError, ModelError, SettingError
from sdvideo.frames import Picture
from sdvideo.media.source import open_source
from sdvideo.metrics.fidelity import psnr

pytestmark = pytest.mark.usefixtures("one_thread")


def pictures(path: Path) -> list[Picture]:
    with sdvideo.open(path, device="cpu") as video:
        return [frame.picture for frame in video]


def planes(picture: Picture) -> tuple[bytes, ...]:
    return picture.y.tobytes(), picture.u.tobytes(), picture.v.tobytes()


@pytest.fixture(scope="module")
def half(clips: Clips, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("scale") / "half.sdv"
    sdvideo.encode(clips["cfr"].path, path, base="none", scale="1/2", quality=70, keyint=8, device="cpu")
    return path


@pytest.mark.parametrize("scale", ["2/3", "1/2"])
@pytest.mark.parametrize("name", ["cfr", "odd"])
def test_pictures_come_back_at_full_size(clips, tmp_path, name, scale):
    path = tmp_path / "small.sdv"
    sdvideo.encode(clips[name].path, path, base="none", scale=scale, quality=90, device="cpu")
    with open_source(clips[name].path) as source, sdvideo.open(path, device="cpu") as video:
        for before, after in zip(source.frames(), video, strict=True):
            assert after.picture.y.shape == before.picture.y.shape
            assert after.picture.u.shape == before.picture.u.shape
            assert after.pts == before.pts
            assert psnr(before.picture, after.picture)[0] > 24


def test_coded_pictures_are_small(clips, half):
    with Reader(half) as reader:
        assert reader.header.scale == Fraction(1, 2)
        assert reader.header.restorer.name == "restore"
    with sdvideo.open(half, device="cpu") as video:
        list(video)
        height, width = -(-clips["cfr"].height // 2), -(-clips["cfr"].width // 2)
        assert video.symbols().coded.shape == (-(-height // 16), -(-width // 16))


def test_access_by_number_gives_the_same_pictures_as_playing(half):
    played = pictures(half)
    with sdvideo.open(half, device="cpu") as video:
        for number in (13, 5, 0, 9):
            assert planes(video[number].picture) == planes(played[number])


def test_pictures_without_motion_stay_identical(clips, tmp_path):
    path = tmp_path / "still.sdv"
    sdvideo.encode(clips["still"].path, path, base="none", scale="1/2", quality=60, device="cpu")
    with open_source(clips["still"].path) as source:
        originals = [frame.picture for frame in source.frames()]
    stays = [planes(a) == planes(b) for a, b in pairwise(originals)]
    assert any(stays)
    for still, (before, after) in zip(stays, pairwise(pictures(path)), strict=True):
        if still:
            assert planes(before) == planes(after)


def test_only_the_surroundings_of_a_change_are_restored_again(tmp_path):
    """A square moves in one corner of a still picture: the far corner keeps every sample."""
    rng = np.random.default_rng(1)
    y = np.kron(rng.integers(40, 200, (24, 40), np.uint8), np.ones((8, 8), np.uint8))
    clip = tmp_path / "corner.y4m"
    with clip.open("wb") as file:
        file.write(b"YUV4MPEG2 W320 H192 F25:1 C420jpeg\n")
        for number in range(4):
            shown = y.copy()
            shown[8:40, 8 + 4 * number : 40 + 4 * number] = 250
            file.write(b"FRAME\n" + shown.tobytes() + bytes([128]) * (2 * 160 * 96))
    sdvideo.encode(clip, tmp_path / "corner.sdv", base="none", scale="1/2", quality=60, device="cpu")
    shown = pictures(tmp_path / "corner.sdv")
    for before, after in pairwise(shown):
        assert np.array_equal(before.y[120:, 200:], after.y[120:, 200:])
        assert not np.array_equal(before.y[:64, :96], after.y[:64, :96])


def test_smaller_pictures_take_fewer_bits(clips, half, tmp_path):
    sdvideo.encode(clips["cfr"].path, tmp_path / "full.sdv", base="none", quality=70, keyint=8, scale="1", device="cpu")
    assert half.stat().st_size < 0.7 * (tmp_path / "full.sdv").stat().st_size


def test_base_av1_uses_the_given_scale(clips, tmp_path):
    for scale in ("1", "2/3", "1/2"):
        path = tmp_path / f"{scale.replace('/', '_')}.sdv"
        sdvideo.encode(clips["cut"].path, path, scale=scale, quality=40, preset="fast")
        with Reader(path) as reader:
            steps = {frame.step for group in range(len(reader.groups)) for frame in reader.read_group(group).frames}
            assert {unpack_step(step)[1] for step in steps} == {Fraction(scale)}
            assert reader.header.settings["scale"] == scale


def test_an_unknown_scale_is_refused(clips, tmp_path):
    with pytest.raises(SettingError, match="scale is '1/3'"):
        sdvideo.encode(clips["cfr"].path, tmp_path / "x.sdv", scale="1/3")
    command = [sys.executable, "-m", "sdvideo", "encode", str(clips["cfr"].path), "-o", str(tmp_path / "x.sdv")]
    done = subprocess.run([*command, "--scale", "half"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "it can be 1, 2/3, 1/2" in done.stderr
    assert not (tmp_path / "x.sdv").exists()


def header_of(path: Path) -> Header:
    with Reader(path) as reader:
        return reader.header


def test_headers_without_a_restorer_or_with_another_scale_are_refused(half):
    text = pack_header(header_of(half))
    assert unpack_header(text) == header_of(half)
    for wrong in (b'"scale":[1,3]', b'"scale":[2,1]', b'"scale":[1,0]', b'"scale":null', b'"scale":0.5'):
        with pytest.raises(FormatError, match="scale"):
            unpack_header(text.replace(b'"scale":[1,2]', wrong))
    with pytest.raises(FormatError, match="restorer"):
        codec_for_header(unpack_header(text.replace(b'"restorer"', b'"other"')))
    with pytest.raises(FormatError, match="scale"):
        codec_for_header(unpack_header(text.replace(b'"base":"none","coder"', b'"base":"av1","was"')))


def test_another_network_than_that_of_the_file_is_refused(half, tmp_path):
    header = header_of(half)
    other = replace(header, restorer=replace(header.restorer, sha256="0" * 64))
    path = tmp_path / "other.sdv"
    path.write_bytes(half.read_bytes().replace(pack_preamble(header), pack_preamble(other)))
    with pytest.raises(ModelError, match="the file was made with model restore"), sdvideo.open(path) as video:
        video[0]
