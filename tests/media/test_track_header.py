"""What files say beside their streams: margins, encryption, Dolby Vision, panoramas; and what no video is."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from files import X264, ffmpeg, pattern, read, refused

import sdvideo
from sdvideo.errors import SourceError
from sdvideo.media.source import open_source


def with_boxes(path: Path, target: Path, boxes: bytes, name: bytes = b"") -> None:
    """Copy an MP4 with boxes at the end of its first sample entry; name: the new kind of the entry."""
    data, parents, at, end = bytearray(path.read_bytes()), [], 0, path.stat().st_size
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd"):
        while data[at + 4 : at + 8] != kind:
            at += struct.unpack_from(">I", data, at)[0]
        parents.append(at)
        at += 16 if kind == b"stsd" else 8
    parents.append(at)
    data[at + 4 : at + 8] = name or data[at + 4 : at + 8]
    end = at + struct.unpack_from(">I", data, at)[0]
    for parent in parents:
        struct.pack_into(">I", data, parent, struct.unpack_from(">I", data, parent)[0] + len(boxes))
    target.write_bytes(data[:end] + boxes + data[end:])


def box(kind: bytes, contents: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(contents), kind) + contents


def clap(width: int, height: int, right: int = 0, down: int = 0) -> bytes:
    return box(b"clap", struct.pack(">IIIIiIiI", width, 1, height, 1, right, 1, down, 1))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    ffmpeg(*pattern(0.4, "112x80"), *X264, tmp_path / "plain.mp4")
    return tmp_path / "plain.mp4"


@pytest.mark.parametrize(("right", "down", "left", "top"), [(0, 0, 8, 8), (4, -2, 12, 6)])
def test_a_clean_aperture_is_cut_out(plain: Path, tmp_path: Path, right: int, down: int, left: int, top: int) -> None:
    with_boxes(plain, tmp_path / "cropped.mp4", clap(96, 64, right, down))
    whole, (source, frames) = read(plain)[1], read(tmp_path / "cropped.mp4")
    assert (source.info.width, source.info.height) == (96, 64)
    for before, after in zip(whole, frames, strict=True):
        assert np.array_equal(after.picture.y, before.picture.y[top : top + 64, left : left + 96])
        assert np.array_equal(after.picture.u, before.picture.u[top // 2 : top // 2 + 32, left // 2 : left // 2 + 48])
    sdvideo.encode(tmp_path / "cropped.mp4", tmp_path / "a.sdv", preset="fast")
    with sdvideo.open(tmp_path / "a.sdv") as video:
        assert (video.info.width, video.info.height) == (96, 64)


@pytest.mark.parametrize(
    "aperture", [clap(200, 64), clap(96, 64, 60, 0), clap(0, 0), box(b"clap", bytes(32)), box(b"clap", b"")]
)
def test_an_aperture_outside_the_picture_cuts_nothing(plain: Path, tmp_path: Path, aperture: bytes) -> None:
    with_boxes(plain, tmp_path / "odd.mp4", aperture)
    source, frames = read(tmp_path / "odd.mp4")
    assert (source.info.width, source.info.height, frames[0].picture.width) == (112, 80, 112)


def ebml(kind: int, contents: bytes) -> bytes:
    return kind.to_bytes(2, "big") + (0x80 | len(contents)).to_bytes(1, "big") + contents


def test_the_margins_of_a_matroska_track_are_cut_off(tmp_path: Path) -> None:
    """PixelCrop elements in the place of a Void of the same length, which follows from a long title."""
    path = tmp_path / "a.mkv"
    ffmpeg(*pattern(0.4, "112x80"), *X264, "-metadata:s:v", "title=" + "x" * 40, path)
    data = bytearray(path.read_bytes())
    whole = read(path)[1]
    margins = b"".join(ebml(kind, bytes([n])) for kind, n in ((0x54CC, 10), (0x54BB, 4), (0x54DD, 6), (0x54AA, 12)))
    at = data.index(b"\x53\x6e\xa8" + b"x" * 40)  # the title: its id, its size of one byte
    video = data.index(b"\xe0", at)  # what follows the title, up to the video's description, moves to the front
    length = data[video + 1] & 0x7F if data[video + 1] & 0x80 else None
    if length is None:  # FFmpeg writes sizes in eight bytes
        size_at, width = video + 2, 7
        length = int.from_bytes(data[size_at : size_at + width], "big")
        end = size_at + width + length
        new = (length + len(margins)).to_bytes(width, "big")
        data[size_at : size_at + width] = new
    else:
        end = video + 2 + length
        data[video + 1] = 0x80 | (length + len(margins))
    data[end:end] = margins
    del data[at : at + 43]
    gap = 43 - len(margins)
    data[at:at] = b"\xec" + (0x80 | (gap - 2)).to_bytes(1, "big") + bytes(gap - 2)
    path.write_bytes(data)
    source, frames = read(path)
    assert (source.info.width, source.info.height) == (96, 64)
    for before, after in zip(whole, frames, strict=True):
        assert np.array_equal(after.picture.y, before.picture.y[4:68, 10:106])


def test_a_display_matrix_of_zeros_turns_nothing(plain: Path, tmp_path: Path) -> None:
    data = bytearray(plain.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = bytes(36)
    (tmp_path / "zero.mp4").write_bytes(data)
    source, frames = read(tmp_path / "zero.mp4")
    assert (source.info.width, source.info.height, source.info.rotation) == (112, 80, 0)
    assert np.array_equal(frames[0].picture.y, read(plain)[1][0].picture.y)


def dolby_vision(profile: int, compatible: int) -> bytes:
    return box(b"dvcC", struct.pack(">BBHB", 1, 0, profile << 9 | 5, compatible << 4) + bytes(19))


def test_dolby_vision_without_a_base_is_named(plain: Path, tmp_path: Path, said) -> None:
    with_boxes(
        plain, tmp_path / "vision.mp4", box(b"dvcC", struct.pack(">BBHB", 1, 0, 5 << 9 | 6 << 3 | 5, 0) + bytes(19))
    )
    read(tmp_path / "vision.mp4")
    assert said() == ["Dolby Vision of profile 5: its colours are wrong without a decoder for it"]
    assert "Dolby Vision" in refused(tmp_path / "vision.mp4", tmp_path)


def test_dolby_vision_with_a_base_is_a_plain_video(plain: Path, tmp_path: Path, said) -> None:
    with_boxes(plain, tmp_path / "vision.mp4", dolby_vision(8, 4))
    read(tmp_path / "vision.mp4")
    assert not said()


def test_panoramas_and_stereo_are_named(plain: Path, tmp_path: Path, said) -> None:
    sphere = box(b"sv3d", box(b"svhd", bytes(5)) + box(b"proj", box(b"prhd", bytes(16)) + box(b"equi", bytes(20))))
    with_boxes(plain, tmp_path / "wide.mp4", box(b"st3d", bytes(4) + b"\1") + sphere)
    read(tmp_path / "wide.mp4")
    assert said() == ["it is left out that the video is meant for 360 degrees and stereo: players will show it flat"]


def test_encrypted_pictures_are_refused_in_one_line(plain: Path, tmp_path: Path) -> None:
    scheme = box(b"frma", b"avc1") + box(b"schm", bytes(4) + b"cenc" + bytes(4))
    with_boxes(plain, tmp_path / "locked.mp4", box(b"sinf", scheme), b"encv")
    with pytest.raises(SourceError, match=r"locked\.mp4: its pictures are encrypted"):
        open_source(tmp_path / "locked.mp4")


NO_VIDEOS = {
    "empty.mp4": (b"", "is an empty file"),
    "page.mp4": (b"<!DOCTYPE html><html><body>404</body></html>", "is a web page"),
    "paper.pdf": (b"%PDF-1.7 and so on", "is a PDF document"),
    "pack.zip": (b"PK\3\4" + bytes(30), "is a ZIP archive"),
    "list.m3u8": (b"#EXTM3U\n#EXTINF:10,\nother.ts\n", "is a playlist"),
    "data.json": (b'{"a": [1, 2]}', "is JSON text"),
    "photo.jxl": (b"\xff\x0a" + bytes(50), "is a JPEG XL picture"),
    "photo.dng": (b"II*\0" + bytes(50), "is a raw photo"),
    "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "is an SVG drawing"),
    "clip.yuv": (bytes(96 * 64 * 3), "holds raw pictures without a header"),
    "random.mp4": (bytes(range(7, 200)) * 20, "not a video"),
}


@pytest.mark.parametrize("name", NO_VIDEOS)
def test_what_is_no_video_is_named(tmp_path: Path, name: str) -> None:
    data, words = NO_VIDEOS[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError) as info:
        open_source(tmp_path / name)
    assert str(info.value).startswith(f"{tmp_path / name}: {words}") and "\n" not in str(info.value)


def test_an_mp4_without_its_index_is_named(plain: Path, tmp_path: Path) -> None:
    data = plain.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: data.index(b"moov") - 4])
    with pytest.raises(SourceError, match="is an MP4 without its index"):
        open_source(tmp_path / "cut.mp4")
