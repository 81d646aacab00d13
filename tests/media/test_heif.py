"""HEIC and AVIF pictures: the whole primary picture, upright, in its colours, however the file stores it."""

from __future__ import annotations

import dataclasses
import io
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from heif_files import Item, auxc, box, clap, coded, full, heif, imir, irot, ispe, nclx, tiled
from PIL import Image
from test_cli import error, objects, run
from test_image import WIDE, as_read, assert_alike, lines, photo, through

from sdvideo.errors import SourceError
from sdvideo.media.source import open_source

CODECS = {"libx265": "heicmif1heic", "libsvtav1": "avifmif1avifmiaf"}


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def whole(tmp_path: Path, items: list[Item], **options: object) -> Image.Image:
    """The picture as it is read whose primary item is the last one."""
    return as_read(written(tmp_path / "photo.heic", heif(items, len(items), **options)))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("columns, rows", [(1, 1), (3, 2), (1, 3), (4, 1)])
def test_tiles_are_joined(tmp_path, codec, columns, rows):
    items = tiled(photo(250, 190), columns, rows, codec=codec)
    assert_alike(whole(tmp_path, items, brands=CODECS[codec]), photo(250, 190), most=4)


def test_the_command_line_takes_a_folder_of_photos(tmp_path):
    items = tiled(photo(250, 190), 2, 2)
    written(tmp_path / "IMG_0001.HEIC", heif(items, len(items)))
    run("encode", tmp_path, "-q", 100)
    (decoded,) = objects(run("decode", tmp_path / "IMG_0001.sdv", "--json"))
    assert decoded["path"].endswith(".png")
    assert_alike(Image.open(decoded["path"]), photo(250, 190), most=5)


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("pieces", [1, 3])
def test_every_way_to_store_the_data(tmp_path, version, pieces):
    items = tiled(photo(200, 150), 2, 2, wide=version == 2)
    assert_alike(whole(tmp_path, items, version=version, pieces=pieces), photo(200, 150), most=4)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuv444p", "gray", "yuv420p10le", "yuv422p10le"])
def test_sampling_and_depth(tmp_path, pixel_format, caplog):
    expected = photo(200, 150, "L" if pixel_format == "gray" else "RGB")
    with caplog.at_level(logging.WARNING, "sdvideo"):
        found = whole(tmp_path, tiled(photo(200, 150), 2, 2, pixel_format=pixel_format))
    assert_alike(found, expected, most=4)
    assert ("10-bit input is converted to 8 bit" in lines(caplog)) == ("10" in pixel_format)


@pytest.mark.parametrize("in_tiles", [False, True])
@pytest.mark.parametrize(
    "properties, expected",
    [
        ([irot(1)], lambda image: image.transpose(Image.Transpose.ROTATE_90)),
        ([irot(2)], lambda image: image.transpose(Image.Transpose.ROTATE_180)),
        ([irot(3)], lambda image: image.transpose(Image.Transpose.ROTATE_270)),
        ([imir(0)], lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)),
        ([imir(1)], lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
        ([irot(3), imir(1)], lambda image: image.transpose(Image.Transpose.TRANSVERSE).rotate(180)),
        ([clap(120, 90)], lambda image: image.crop((40, 30, 160, 120))),
        ([clap(120, 90, (-21, 1), (10, 1))], lambda image: image.crop((19, 40, 139, 130))),
        ([clap(101, 71, (1, 2), (1, 2)), irot(1)], lambda i: i.crop((50, 40, 151, 111)).transpose(2)),
    ],
)
def test_cropped_and_turned(tmp_path, properties, expected, in_tiles):
    image = photo(200, 150)
    items = tiled(image, 2, 2, properties) if in_tiles else [coded(image, properties)]
    essential = ("hvcC", "irot", "imir", "clap")
    assert_alike(whole(tmp_path, items, essential=essential), expected(image), most=4)


def test_a_clean_aperture_of_an_avif(tmp_path):
    """Pillow does not crop."""
    items = [coded(photo(200, 150), [clap(120, 90)], codec="libsvtav1")]
    found = whole(tmp_path, items, brands=CODECS["libsvtav1"])
    assert_alike(found, photo(200, 150).crop((40, 30, 160, 120)), most=4)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("turned", [False, True])
def test_exif_has_no_say(tmp_path, codec, turned):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = coded(photo(200, 150), [irot(3)] if turned else [], codec=codec)
    items = [Item("Exif", bytes(4) + exif.tobytes()[6:], refers=[("cdsc", [2])]), picture]
    expected = photo(200, 150).transpose(Image.Transpose.ROTATE_270) if turned else photo(200, 150)
    assert_alike(whole(tmp_path, items, brands=CODECS[codec]), expected, most=4)


def test_the_primary_picture_is_taken_and_the_others_are_named(tmp_path, caplog):
    """A thumbnail, a gain map and a depth map of other sizes come first, and there is one picture more."""
    small = Image.new("RGB", (96, 64), "magenta")
    main = tiled(photo(250, 190), 2, 2)
    others = [
        coded(small, refers=[("thmb", [5])]),
        coded(small, [auxc("urn:com:apple:photo:2020:aux:hdrgainmap")], refers=[("auxl", [5])]),
        coded(small, [auxc("urn:mpeg:hevc:2015:auxid:2")], refers=[("auxl", [5])]),
        coded(small),
    ]
    data = heif([*main, *others], 5, after=box("mpvd", bytes(9)) + b"\0\0\0\1trailing")
    with caplog.at_level(logging.WARNING, "sdvideo"):
        assert_alike(as_read(written(tmp_path / "a.heic", data)), photo(250, 190), most=4)
    expected = "gain map, depth map, 1 further picture, video of a motion photo"
    assert lines(caplog) == f"left out, an .sdv cannot hold them: {expected}; keep the original for them"


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("premultiplied", [False, True])
def test_transparency_is_put_on_white(tmp_path, codec, premultiplied, caplog):
    alpha = np.full((150, 200), 255, np.uint8)
    alpha[:, :64] = 128
    urn = auxc("urn:mpeg:mpegB:cicp:systems:auxiliary:alpha")
    colours, weight = np.asarray(photo(200, 150)).astype(float), alpha[..., None] / 255
    stored = Image.fromarray(np.round(colours * weight if premultiplied else colours).astype(np.uint8))
    picture = coded(stored, codec=codec, refers=[("prem", [1])] if premultiplied else [])
    mask = coded(Image.fromarray(alpha), [urn], codec=codec, refers=[("auxl", [2])], hidden=True)
    with caplog.at_level(logging.WARNING, "sdvideo"):
        found = whole(tmp_path, [mask, picture], brands=CODECS[codec])
    on_white = Image.fromarray(np.round(colours * weight + 255 * (1 - weight)).astype(np.uint8))
    assert_alike(found, on_white, most=6)
    assert lines(caplog) == "transparent parts are put on white"


@pytest.mark.parametrize("matrix", [1, 5, 9])
def test_the_files_colours_win_over_those_of_the_stream(tmp_path, matrix):
    picture = coded(photo(200, 150), [nclx(1, 13, matrix)], matrix=matrix)
    assert_alike(whole(tmp_path, [picture]), photo(200, 150), most=4)


def test_a_profile_is_kept(tmp_path):
    for items in ([coded(photo(), [box("colr", b"prof", WIDE)])], tiled(photo(), 2, 2, [box("colr", b"prof", WIDE)])):
        assert through(written(tmp_path / "p3.heic", heif(items, len(items)))).info["icc_profile"] == WIDE


@pytest.mark.parametrize("codec", CODECS)
def test_hdr_keeps_its_tags_and_is_named(tmp_path, codec, caplog):
    items = [coded(photo(), [nclx(9, 16, 9)], codec=codec, pixel_format="yuv420p10le", matrix=9)]
    with caplog.at_level(logging.WARNING, "sdvideo"):
        path = written(tmp_path / "hdr.hif", heif(items, 1, brands=CODECS[codec]))
        with open_source(path) as video:
            assert (video.info.colour.primaries, video.info.colour.transfer) == (9, 16)
    assert "10-bit input" in lines(caplog) and "HDR (PQ)" in lines(caplog)


def test_other_codecs_and_the_identity_matrix(tmp_path):
    assert_alike(whole(tmp_path, [coded(photo(), codec="libx264")], brands="avcimif1"), photo(), most=4)
    file = io.BytesIO()
    photo().save(file, "JPEG", quality=98)
    assert_alike(whole(tmp_path, [Item("jpeg", file.getvalue(), [ispe(192, 128)])], brands="jpegmif1"), photo(), most=4)
    rgb = coded(photo(), [nclx(1, 13, 0)], pixel_format="yuv444p", matrix=0)
    assert_alike(whole(tmp_path, [rgb]), photo(), most=4)


# --- what is refused ----------------------------------------------------------------------------------------


def overlay() -> bytes:
    canvas = bytes([0, 0]) + bytes(8) + (192).to_bytes(2, "big") + (128).to_bytes(2, "big") + bytes(4)
    items = [coded(photo(), hidden=True), Item("iovl", canvas, [ispe(192, 128)], [("dimg", [1])])]
    return heif(items, 2)


def test_an_overlay_is_refused_or_read_by_pi_heif(tmp_path, monkeypatch):
    path = written(tmp_path / "a.heic", overlay())
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    with pytest.raises(SourceError, match=r'"iovl".*pip install "sdvideo\[heif\]"'):
        open_source(path)

    class Read:
        def to_pillow(self) -> Image.Image:
            return photo()

    module = type("pi_heif", (), {"open_heif": lambda _: Read()})
    monkeypatch.setitem(sys.modules, "pi_heif", module)
    assert_alike(as_read(path), photo())


def test_what_is_not_understood_is_never_a_part_of_the_picture(tmp_path):
    picture, four = coded(photo()), tiled(photo(250, 190), 2, 2)
    last = four[-1]
    cases = {
        "of type": [dataclasses.replace(picture, kind="zzz1")],
        '"newp"': [coded(photo(), [box("newp", bytes(4))])],
        "layout": [*four[:4], dataclasses.replace(last, refers=[("dimg", [1, 2])])],
        "differ": [four[0], coded(Image.new("RGB", (96, 64))), *four[2:]],
        "cannot be decoded": [dataclasses.replace(picture, data=bytes(9))],
        "damaged": [*four[:4], dataclasses.replace(last, refers=[("dimg", [1, 2, 3, 77])])],
        "16,384 pixels": [*four[:4], dataclasses.replace(last, properties=[], data=grid_of(40_000))],
        "one by one": [dataclasses.replace(one, properties=[*one.properties, irot(1)]) for one in four[:4]] + [last],
        "smaller": [dataclasses.replace(picture, properties=[picture.properties[0], ispe(400, 300)])],
    }
    for words, items in cases.items():
        data = heif(items, len(items), essential=("hvcC", "newp"))
        line = error("encode", written(tmp_path / "a.heic", data), code=1)
        assert words in line, line
    data = heif(four, 5)
    assert "ends before" in error("encode", written(tmp_path / "cut.heic", data[: len(data) - 40]), code=1)


def grid_of(side: int) -> bytes:
    return bytes([0, 1, 1, 1]) + 2 * side.to_bytes(4, "big")


def test_damaged_files_are_refused_in_one_line(tmp_path):
    """Changed bytes in the list of pictures: a picture or a SourceError, and nothing else."""
    data = heif(tiled(photo(120, 90), 2, 2), 5)
    rng = np.random.default_rng(3)
    refused = 0
    for trial in range(150):
        hurt = bytearray(data)
        for place in rng.integers(12, data.index(b"mdat"), 1 + trial % 4):
            hurt[place] = rng.integers(256)
        path = written(tmp_path / "a.heic", bytes(hurt))
        try:
            with open_source(path) as source:
                list(source.frames())
        except SourceError as found:
            refused += 1
            assert str(found).startswith(str(path)) and "\n" not in str(found)
    assert 20 < refused < 150


def test_a_later_version_of_the_format_is_not_taken_for_a_video(tmp_path):
    data = box("ftyp", b"mif3", bytes(4)) + full("mini", bytes(30))
    assert "video" in error("encode", written(tmp_path / "a.avif", data), code=1)
