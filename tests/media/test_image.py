"""Pictures and animations: what they look like after encoding and decoding, and how long each frame is shown."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import logging
import os
import struct
import subprocess
import sys
import time
import zlib
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageDraw, ImageOps
from test_cli import ENVIRONMENT, error, objects, run
from test_container import file_of_chunks, header_with, preamble

import sdvideo
from sdvideo.container import Reader, Writer
from sdvideo.errors import FormatError, SettingError, SinkError, SourceError
from sdvideo.media import colour
from sdvideo.media.source import open_source

SAMPLE = Path(__file__).parents[2] / "samples" / "walk.mp4"


def photo(width: int = 192, height: int = 128, mode: str = "RGB") -> Image.Image:
    """Smooth colours, no two corners alike, so that 4:2:0 loses hardly anything."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    rgb = np.stack([30 + 200 * x, 220 - 180 * y, 60 + 90 * x + 80 * y], axis=-1)
    return Image.fromarray(np.round(rgb).astype(np.uint8)).convert(mode)


def through(source: Path, suffix: str = ".png", *, lossless: bool = False, **settings) -> Image.Image:
    """The picture, encoded at the best quality and decoded again."""
    coded, target = source.with_suffix(".sdv"), source.with_suffix(f".out{suffix}")
    sdvideo.encode(source, coded, overwrite=True, **{"quality": 100, "device": "cpu", **settings})
    sdvideo.decode(coded, target, overwrite=True, device="cpu", lossless=lossless)
    image = Image.open(target)
    image.load()
    return image


def assert_alike(found: Image.Image, expected: Image.Image, most: float = 2) -> None:
    """The same size and colours: the means are equal, and 95 of 100 samples differ by at most this many levels."""
    assert found.size == expected.size and found.mode == "RGB"
    apart = np.asarray(found).astype(int) - np.asarray(expected.convert("RGB"))
    assert np.abs(apart.mean(axis=(0, 1))).max() <= most / 2, apart.mean(axis=(0, 1))
    assert np.percentile(np.abs(apart), 95) <= most, np.percentile(np.abs(apart), (50, 90, 95, 99, 100))


def as_read(source: Path) -> Image.Image:
    """The picture as it goes into the codec: upright RGB, still in 4:2:0."""
    from sdvideo.media.colour import to_rgb

    with open_source(source) as video:
        return Image.fromarray(to_rgb(next(video.frames()).picture, video.info.colour))


def lines(caplog) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


# --- profiles -----------------------------------------------------------------------------------------------


def _fixed(*numbers: float) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def profile(space: bytes, tags: dict[bytes, bytes], pcs: bytes = b"XYZ ", kind: bytes = b"mntr") -> bytes:
    """An ICC profile of version 2."""
    tags = {b"desc": b"desc\0\0\0\0\0\0\0\x05test\0" + bytes(78), b"wtpt": _xyz(0.9642, 1, 0.8249), **tags}
    table, data, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, tag in tags.items():
        table += struct.pack(">4sII", name, start + len(data), len(tag))
        data += tag + bytes(-len(tag) % 4)
    size = start + len(data)
    head = struct.pack(">I4sI4s4s4s12s4s", size, bytes(4), 0x02400000, kind, space, pcs, bytes(12), b"acsp")
    head = (head + bytes(28) + _fixed(0.9642, 1, 0.8249)).ljust(128, b"\0")
    return head + struct.pack(">I", len(tags)) + table + data


def _xyz(*numbers: float) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*numbers)


def _gamma(number: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(256 * number)) + b"\0\0"


# Display P3, but for its curve.
P3 = {
    b"rXYZ": _xyz(0.5151, 0.2412, -0.0011),
    b"gXYZ": _xyz(0.2919, 0.6922, 0.0419),
    b"bXYZ": _xyz(0.1572, 0.0666, 0.7841),
    **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _gamma(2.2)),
}
WIDE = profile(b"RGB ", P3)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def cmyk_profile() -> bytes:
    """The profile of a printer without colours: the more ink, the darker."""
    grid = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), axis=-1).reshape(16, 4)
    lightness = 255 * np.clip(1 - grid @ [0.25, 0.25, 0.25, 0.8], 0, 1)
    lab = np.stack([lightness, np.full(16, 128), np.full(16, 128)], axis=-1).round().astype(np.uint8)
    straight = bytes(range(256))
    lut = b"mft1\0\0\0\0\x04\x03\x02\0" + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    return profile(b"CMYK", {b"A2B0": lut + 4 * straight + lab.tobytes() + 3 * straight}, b"Lab ", b"prtr")


def in_srgb(image: Image.Image, icc: bytes) -> Image.Image:
    return ImageCms.profileToProfile(image, ImageCms.ImageCmsProfile(io.BytesIO(icc)), SRGB_PROFILE, 1, "RGB")


SRGB_PROFILE = ImageCms.ImageCmsProfile(io.BytesIO(SRGB))


# --- round trips --------------------------------------------------------------------------------------------


def test_the_command_line(tmp_path):
    source = tmp_path / "photo.png"
    photo().save(source)
    said = run("encode", source, "-q", 100).stderr.decode()
    assert f"-> {tmp_path / 'photo.sdv'}: 1 frame, " in said
    (facts,) = objects(run("info", tmp_path / "photo.sdv", "--json"))
    assert (facts["width"], facts["height"], facts["frames"], facts["frames_per_second"]) == (192, 128, 1, None)
    assert facts["kbit_per_second"] is None
    assert facts["colour"] == {"full_range": True, "matrix": 6, "primaries": 2, "transfer": 2, "icc_bytes": 0}
    text = run("info", tmp_path / "photo.sdv").stdout.decode()
    assert f"picture   192x128, {facts['video_bytes']:,} bytes, " in text and "fps" not in text and "kbit" not in text
    run("verify", tmp_path / "photo.sdv")

    (decoded,) = objects(run("decode", tmp_path / "photo.sdv", "--json"))
    assert (decoded["path"], decoded["frames"]) == (str(tmp_path / "photo.decoded.png"), 1)
    assert_alike(Image.open(decoded["path"]), photo())
    run("decode", tmp_path / "photo.sdv", "-o", tmp_path / "photo.webp", "--lossless")
    assert_alike(Image.open(tmp_path / "photo.webp"), Image.open(decoded["path"]), most=0)
    assert "exists" in error("decode", tmp_path / "photo.sdv", code=4)


@pytest.mark.parametrize("base", ["av1", "none"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp"])
def test_colours_are_kept(tmp_path, base, suffix):
    source = tmp_path / "photo.png"
    photo().save(source)
    exact = suffix == ".png" and base == "av1"
    assert_alike(through(source, suffix, base=base), photo(), most=2 if exact else 4)


def test_python(tmp_path):
    photo().save(tmp_path / "photo.png")
    result = sdvideo.encode(tmp_path / "photo.png")
    assert (result.path, result.frames) == (tmp_path / "photo.sdv", 1)
    sdvideo.decode(tmp_path / "photo.sdv", tmp_path / "photo.webp")
    assert Image.open(tmp_path / "photo.webp").format == "WEBP"
    with sdvideo.open(tmp_path / "photo.sdv") as video:
        assert len(video) == 1 and video[0].picture.y.shape == (128, 192)


@pytest.mark.parametrize("base", ["av1", "none"])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (17, 3), (65, 47)])
def test_small_and_odd_sizes(tmp_path, base, size):
    source = tmp_path / "photo.png"
    plain = Image.new("RGB", size, (200, 90, 40))
    plain.save(source)
    assert_alike(through(source, base=base), plain, most=12)  # it only has to work


def test_a_still_becomes_a_video_if_the_output_is_one(tmp_path):
    source = tmp_path / "photo.png"
    photo().save(source)
    sdvideo.encode(source, quality=100)
    sdvideo.decode(tmp_path / "photo.sdv", tmp_path / "photo.mp4", lossless=True)
    with open_source(tmp_path / "photo.mp4") as video:
        assert video.info.colour.full_range and video.info.colour.matrix == 6
        (frame,) = video.frames()
        assert frame.duration * video.info.time_base == Fraction(1, 25)


def test_a_video_of_one_frame_becomes_a_picture(clips, tmp_path):
    with av.open(str(clips["silent"].path)) as video, av.open(str(tmp_path / "one.mp4"), "w") as target:
        stream = target.add_stream_from_template(video.streams.video[0])
        packet = next(video.demux(video.streams.video[0]))
        packet.stream = stream
        target.mux(packet)
    sdvideo.encode(tmp_path / "one.mp4")
    assert sdvideo.decode(tmp_path / "one.sdv").path == tmp_path / "one.decoded.png"
    assert Image.open(tmp_path / "one.decoded.png").size == (96, 64)


# --- what pictures can hold ---------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_pictures_are_upright(tmp_path, orientation, suffix):
    source = tmp_path / f"photo{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo(90, 64).save(source, exif=exif, **{} if suffix in (".png", ".tif") else {"quality": 95})
    expected = Image.open(source)
    expected.load()
    expected = ImageOps.exif_transpose(expected)
    assert expected.size == ((90, 64) if orientation < 5 else (64, 90))
    assert_alike(as_read(source), expected)


def test_a_rotated_photo_stays_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(90, 64).save(tmp_path / "photo.jpg", exif=exif, quality=98)
    found = through(tmp_path / "photo.jpg", ".jpg")
    assert 0x0112 not in found.getexif()
    assert_alike(found, photo(90, 64).transpose(Image.Transpose.ROTATE_270), most=5)


def test_damaged_exif_does_not_matter(tmp_path, caplog):
    photo().save(tmp_path / "photo.jpg", exif=b"Exif\0\0nothing that means anything", quality=95)
    assert_alike(as_read(tmp_path / "photo.jpg"), photo(), most=4)


def test_exif_that_pillow_cannot_write_still_turns_the_picture(tmp_path, caplog):
    """Here the tag of the camera's maker, which is a text, holds a fraction."""
    tags = struct.pack("<H", 2) + struct.pack("<HHII", 0x010F, 5, 1, 38) + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + tags + bytes(4) + struct.pack("<II", 1, 3)
    photo(90, 64).save(tmp_path / "photo.jpg", exif=exif, quality=98)
    with pytest.raises(AttributeError):
        ImageOps.exif_transpose(Image.open(tmp_path / "photo.jpg"))
    with caplog.at_level(logging.WARNING, "sdvideo"):
        assert as_read(tmp_path / "photo.jpg").size == (64, 90)
    assert not caplog.records


def test_grey_palette_and_one_bit(tmp_path):
    grey = photo(mode="L")
    grey.save(tmp_path / "grey.png")
    assert_alike(through(tmp_path / "grey.png"), grey)
    palette = photo().quantize(16, dither=Image.Dither.NONE)
    palette.save(tmp_path / "palette.png")
    assert_alike(as_read(tmp_path / "palette.png"), palette, most=12)  # 4:2:0 is visible at the edges
    black = Image.new("1", (32, 32))
    ImageDraw.Draw(black).rectangle((8, 8, 23, 23), fill=1)
    black.save(tmp_path / "black.png")
    assert_alike(as_read(tmp_path / "black.png"), black, most=1)


@pytest.mark.parametrize("name", ["grey.png", "rgb.png", "grey.tif", "rgb.tif"])
def test_sixteen_bits(tmp_path, name, caplog):
    eight = np.asarray(photo(mode="L" if "grey" in name else "RGB"))
    bgr = eight if "grey" in name else eight[..., ::-1]
    assert cv2.imwrite(str(tmp_path / name), bgr.astype(np.uint16) * 257)
    with caplog.at_level(logging.WARNING, "sdvideo"):
        assert_alike(as_read(tmp_path / name), Image.fromarray(eight))
    assert lines(caplog) == "16-bit input is converted to 8 bit"


def test_transparency_is_put_on_white(tmp_path, caplog):
    alpha = Image.fromarray(np.tile(np.linspace(0, 255, 192).astype(np.uint8), (128, 1)))
    for mode in ("RGB", "L"):
        layers = photo(mode=mode)
        layers.putalpha(alpha)
        layers.save(tmp_path / "layers.png")
        expected = Image.composite(photo(mode=mode), Image.new(mode, (192, 128), "white"), alpha)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "sdvideo"):
            assert_alike(as_read(tmp_path / "layers.png"), expected, most=3)
        assert lines(caplog) == "transparent parts are put on white"
    opaque = photo(mode="RGBA")
    opaque.save(tmp_path / "opaque.png")
    caplog.clear()
    with caplog.at_level(logging.WARNING, "sdvideo"):
        assert_alike(as_read(tmp_path / "opaque.png"), photo())
    assert not caplog.records


def test_a_palette_with_a_transparent_colour(tmp_path):
    image = Image.new("P", (32, 32), 1)
    image.putpalette([0, 0, 0, 10, 200, 30, 200, 10, 30])
    ImageDraw.Draw(image).rectangle((0, 0, 15, 31), fill=0)
    image.save(tmp_path / "hole.png", transparency=0)
    found = np.asarray(as_read(tmp_path / "hole.png")).astype(int)
    assert np.abs(found[:, :12] - 255).max() <= 2 and np.abs(found[:, 20:] - (10, 200, 30)).max() <= 2


def test_the_name_does_not_matter(tmp_path):
    photo().save(tmp_path / "photo.mp4", "PNG")
    assert_alike(through(tmp_path / "photo.mp4"), photo())
    photo().save(tmp_path / "photo.jpg", "WEBP", lossless=True)
    assert_alike(as_read(tmp_path / "photo.jpg"), photo())


@pytest.mark.parametrize("form", ["BMP", "AVIF", "JPEG2000"])
def test_further_formats(tmp_path, form):
    photo().save(tmp_path / "photo", form, **{"quality": 95} if form == "AVIF" else {})
    assert_alike(as_read(tmp_path / "photo"), photo(), most=5)


def test_only_the_first_page(tmp_path, caplog):
    photo().save(tmp_path / "pages.tif", save_all=True, append_images=[Image.new("RGB", (20, 20))])
    with caplog.at_level(logging.WARNING, "sdvideo"):
        assert_alike(as_read(tmp_path / "pages.tif"), photo())
    assert lines(caplog) == "1 further pages are left out"
    caplog.clear()
    photo().save(tmp_path / "depth.jpg", "MPO", save_all=True, append_images=[photo(mode="L")], quality=95)
    with caplog.at_level(logging.WARNING, "sdvideo"):
        assert_alike(as_read(tmp_path / "depth.jpg"), photo(), most=4)
    assert not caplog.records  # the depth map that a camera adds to a photo is no page


# --- colours that are not sRGB ------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["av1", "none"])
def test_an_rgb_profile_is_kept(tmp_path, base):
    source = tmp_path / "photo.png"
    photo().save(source, icc_profile=WIDE)
    for suffix in (".png", ".jpg", ".webp"):
        found = through(source, suffix, base=base)
        assert found.info["icc_profile"] == WIDE
        assert_alike(found, photo(), most=4)  # neither the values nor their meaning change
    text = run("info", tmp_path / "photo.sdv").stdout.decode()
    assert f"ICC profile of {len(WIDE)} bytes" in text


def test_a_video_cannot_hold_a_profile(tmp_path, caplog):
    photo().save(tmp_path / "photo.png", icc_profile=WIDE)
    sdvideo.encode(tmp_path / "photo.png")
    with caplog.at_level(logging.WARNING, "sdvideo"):
        sdvideo.decode(tmp_path / "photo.sdv", tmp_path / "photo.mp4")
    assert "profile" in lines(caplog)


def test_an_srgb_profile_costs_no_bytes(tmp_path):
    photo().save(tmp_path / "plain.png")
    photo().save(tmp_path / "said.png", icc_profile=SRGB)
    files = [sdvideo.encode(tmp_path / name).path.read_bytes() for name in ("plain.png", "said.png")]
    assert files[0] == files[1]
    sdvideo.decode(tmp_path / "said.sdv", tmp_path / "again.png")
    assert "icc_profile" not in Image.open(tmp_path / "again.png").info


def test_a_profile_too_large_to_keep_is_applied(tmp_path, caplog):
    icc = profile(b"RGB ", P3 | {b"junk": b"data" + np.random.default_rng(0).bytes(60_000)})
    photo().save(tmp_path / "photo.png", icc_profile=icc)
    with caplog.at_level(logging.WARNING, "sdvideo"):
        found = through(tmp_path / "photo.png")
    assert "icc_profile" not in found.info and "become sRGB" in lines(caplog)
    assert_alike(found, in_srgb(photo(), icc), most=3)


def test_grey_profiles_are_applied(tmp_path):
    icc = profile(b"GRAY", {b"kTRC": _gamma(1.0)})
    photo(mode="L").save(tmp_path / "grey.png", icc_profile=icc)
    found = as_read(tmp_path / "grey.png")
    expected = in_srgb(photo(mode="L"), icc)
    assert_alike(found, expected)
    assert np.asarray(expected).mean() > np.asarray(photo(mode="L")).mean() + 20  # the profile has an effect


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk(tmp_path, suffix, caplog):
    inks = photo(mode="CMYK")
    source = tmp_path / f"print{suffix}"
    options = {"quality": 98} if suffix == ".jpg" else {}
    inks.save(source, icc_profile=cmyk_profile(), **options)
    expected = in_srgb(inks, cmyk_profile())
    assert_alike(as_read(source), expected, most=4)
    assert np.ptp(np.asarray(expected), axis=-1).max() <= 2  # this printer has no colours
    inks.save(source, **options)
    with caplog.at_level(logging.WARNING, "sdvideo"):
        assert_alike(as_read(source), photo(), most=4)
    assert "a guess" in lines(caplog)


def test_lab(tmp_path):
    lab = ImageCms.profileToProfile(photo(), SRGB_PROFILE, ImageCms.createProfile("LAB"), 1, "LAB")
    lab.save(tmp_path / "lab.tif")
    assert_alike(as_read(tmp_path / "lab.tif"), photo(), most=5)


@pytest.mark.parametrize(
    "icc",
    [b"x", b"no profile " * 100, WIDE[:200], WIDE[:128] + b"\xff" * 400, cmyk_profile(), profile(b"RGB ", {})],
    ids=["byte", "text", "cut", "tags", "other colours", "empty"],
)
def test_a_broken_profile_is_left_out(tmp_path, icc, caplog):
    photo().save(tmp_path / "photo.png", icc_profile=icc)
    with caplog.at_level(logging.WARNING, "sdvideo"):
        found = as_read(tmp_path / "photo.png")
    assert "its ICC profile is left out" in lines(caplog)
    assert_alike(found, photo())
    with open_source(tmp_path / "photo.png") as source:
        assert source.info.icc == b""


@pytest.mark.parametrize("mode", ["CMYK", "L"])
def test_a_profile_without_a_conversion_is_left_out(tmp_path, mode, caplog):
    icc = profile({"CMYK": b"CMYK", "L": b"GRAY"}[mode], {})
    photo(mode=mode).save(tmp_path / "photo.tif", icc_profile=icc)
    with caplog.at_level(logging.WARNING, "sdvideo"):
        assert_alike(as_read(tmp_path / "photo.tif"), photo(mode=mode))
    assert "its ICC profile is left out" in lines(caplog)


def packed(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    "text",
    [
        7,
        "",
        "not base64!",
        packed(b"not zlib"),
        packed(zlib.compress(b"")),
        packed(zlib.compress(WIDE)[:-5]),
        packed(zlib.compress(WIDE) + b"more"),
        packed(zlib.compress(bytes(2**25))),
        "A" * 65540,
    ],
    ids=["number", "empty", "letters", "not zlib", "nothing", "cut", "more", "bomb", "long"],
)
def test_a_file_with_a_hostile_profile_is_refused(tmp_path, text):
    path = tmp_path / "bad.sdv"
    path.write_bytes(file_of_chunks([], preamble(header_with(video__icc=text))))
    with pytest.raises(FormatError, match=r"video\.icc"):
        sdvideo.open(path)


def test_decoding_copies_a_profile_without_reading_it(tmp_path):
    """Random bytes as a profile are written unchanged; viewers may interpret them."""
    nonsense = np.random.default_rng(1).bytes(20_000)
    photo().save(tmp_path / "photo.png")
    with Reader(sdvideo.encode(tmp_path / "photo.png").path) as reader, (tmp_path / "odd.sdv").open("wb") as file:
        info = dataclasses.replace(reader.header.info, icc=nonsense)
        writer = Writer(file, dataclasses.replace(reader.header, info=info))
        writer.write_group(reader.read_group(0))
        writer.finish()
    for suffix in (".png", ".jpg", ".webp"):
        sdvideo.decode(tmp_path / "odd.sdv", tmp_path / f"odd{suffix}")
        assert Image.open(tmp_path / f"odd{suffix}").info["icc_profile"] == nonsense


# --- animations ---------------------------------------------------------------------------------------------

SHOWN = (120, 70, 0, 250, 40)  # ms; a frame without a duration is shown as long as browsers show it
ENDS = (Fraction(12, 100), Fraction(19, 100), Fraction(29, 100), Fraction(54, 100), Fraction(58, 100))


def animate(path: Path, disposal: int, holes: bool) -> None:
    """Rectangles that appear and vanish, without or with a background; grey, since 4:2:0 blurs coloured edges."""
    frames = []
    for number in range(len(SHOWN)):
        frame = Image.new("RGBA", (48, 32), (0, 0, 0, 0) if holes else (60, 60, 60, 255))
        ImageDraw.Draw(frame).rectangle((8 * number, 8, 8 * number + 15, 23), fill=(50 * number,) * 3 + (255,))
        frames.append(frame)
    options = {
        ".gif": {"disposal": disposal},
        ".png": {"disposal": disposal - 1, "blend": 1 if disposal == 1 and holes else 0},
        ".webp": {"lossless": True},
    }[path.suffix]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=list(SHOWN), loop=0, **options)


def on_white(path: Path) -> list[Image.Image]:
    """Every frame as Pillow decodes it, on white."""
    shown = []
    with Image.open(path) as image:
        for number in range(image.n_frames):
            image.seek(number)
            frame = image.convert("RGBA")
            shown.append(Image.alpha_composite(Image.new("RGBA", frame.size, "white"), frame).convert("RGB"))
    return shown


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
@pytest.mark.parametrize(("disposal", "holes"), [(1, False), (1, True), (2, True)])
def test_animations(tmp_path, suffix, disposal, holes):
    from sdvideo.media.colour import to_rgb

    source = tmp_path / f"moving{suffix}"
    animate(source, disposal, holes)
    expected = on_white(source)
    with open_source(source) as video:
        assert video.count_frames() == len(expected) == len(SHOWN)
        assert video.info.rate == Fraction(len(SHOWN)) / ENDS[-1]
        frames = list(video.frames())
        unit = video.info.time_base
        assert [frame.pts * unit for frame in frames] == [0, *ENDS[:-1]]
        assert [(frame.pts + frame.duration) * unit for frame in frames] == list(ENDS)
        for frame, picture in zip(frames, expected, strict=True):
            assert_alike(Image.fromarray(to_rgb(frame.picture, video.info.colour)), picture, most=3)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_animations_become_videos(tmp_path, suffix):
    source = tmp_path / f"moving{suffix}"
    animate(source, 2, True)
    assert sdvideo.encode(source, quality=90).frames == len(SHOWN)
    result = sdvideo.decode(tmp_path / "moving.sdv")
    assert result.path == tmp_path / "moving.decoded.mp4"
    with open_source(result.path) as video:
        frames = list(video.frames())
        assert [(frame.pts + frame.duration) * video.info.time_base for frame in frames] == list(ENDS)
        assert not video.info.colour.full_range


def test_an_animation_at_a_bitrate(tmp_path):
    animate(tmp_path / "moving.gif", 1, False)
    run("encode", tmp_path / "moving.gif", "--bitrate", "20k")
    assert "5 frames" in run("info", tmp_path / "moving.sdv").stdout.decode()


def test_fractions_of_a_second_in_an_apng(tmp_path):
    frames = [photo(32, 32), photo(32, 32).rotate(90), photo(32, 32).rotate(180)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:], duration=1001 / 30)
    with open_source(tmp_path / "a.png") as video:
        times = [float(frame.pts * video.info.time_base) for frame in video.frames()]
    assert times == pytest.approx([0, 1001 / 30000, 2002 / 30000], abs=1e-5)


def test_the_default_image_of_an_apng_is_no_frame(tmp_path):
    frames = [photo(32, 32).rotate(angle) for angle in (90, 180, 270)]
    photo(32, 32).save(
        tmp_path / "a.png", save_all=True, append_images=frames, default_image=True, duration=[100, 50, 200]
    )
    with open_source(tmp_path / "a.png") as video:
        found = [frame.duration * video.info.time_base for frame in video.frames()]
    assert found == [Fraction(1, 10), Fraction(1, 20), Fraction(1, 5)]
    assert_alike(as_read(tmp_path / "a.png"), frames[0], most=3)


def test_a_gif_of_one_frame_is_a_still(tmp_path):
    photo().quantize(32).save(tmp_path / "one.gif")
    sdvideo.encode(tmp_path / "one.gif")
    assert sdvideo.decode(tmp_path / "one.sdv").path.suffix == ".png"


def test_an_animation_with_a_profile_becomes_srgb(tmp_path):
    frames = [photo(), photo().transpose(Image.Transpose.ROTATE_180)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], icc_profile=WIDE, lossless=True)
    with open_source(tmp_path / "a.webp") as video:
        assert video.info.icc == b"" and video.count_frames() == 2
    assert_alike(as_read(tmp_path / "a.webp"), in_srgb(photo(), WIDE), most=3)


def test_an_animation_that_was_cut_short(tmp_path, caplog):
    animate(tmp_path / "whole.gif", 1, False)
    data = (tmp_path / "whole.gif").read_bytes()
    (tmp_path / "cut.gif").write_bytes(data[: len(data) * 3 // 4])
    with caplog.at_level(logging.WARNING, "sdvideo"), open_source(tmp_path / "cut.gif") as video:
        assert 1 < sum(1 for _ in video.frames()) == video.count_frames() < len(SHOWN)


# --- what is refused ----------------------------------------------------------------------------------------


def test_a_video_cannot_be_written_as_a_picture(tmp_path, clips):
    sdvideo.encode(clips["silent"].path, tmp_path / "clip.sdv", preset="fast")
    for suffix in (".png", ".jpg", ".webp"):
        line = error("decode", tmp_path / "clip.sdv", "-o", tmp_path / f"x{suffix}", code=2)
        assert "holds one picture, and there are 24" in line and ".mp4" in line
    assert [path.name for path in tmp_path.iterdir()] == ["clip.sdv"]


def test_settings_that_a_picture_does_not_have(tmp_path):
    photo(32, 32).save(tmp_path / "photo.png")
    sdvideo.encode(tmp_path / "photo.png")
    with pytest.raises(SettingError, match="cannot be lossless"):
        sdvideo.decode(tmp_path / "photo.sdv", tmp_path / "x.jpg", lossless=True)
    for suffix in (".png", ".jpg", ".webp"):
        with pytest.raises(SettingError, match="crf"):
            sdvideo.decode(tmp_path / "photo.sdv", tmp_path / f"x{suffix}", crf=20)
    assert "a size" in error("encode", tmp_path / "photo.png", "-y", "--bitrate", "20k", code=2)
    assert "does not hold AV1" in error("decode", tmp_path / "photo.sdv", "--preview", "-o", tmp_path / "x.png", code=1)
    assert not list(tmp_path.glob("*x.*"))


def test_what_a_format_cannot_hold(tmp_path):
    Image.new("RGB", (16384, 2)).save(tmp_path / "wide.png")
    sdvideo.encode(tmp_path / "wide.png", preset="fast")
    with pytest.raises(SinkError, match="WebP"):
        sdvideo.decode(tmp_path / "wide.sdv", tmp_path / "wide.webp")
    assert not list(tmp_path.glob("*.webp*"))


def png_of(width: int, height: int) -> bytes:
    """A PNG that announces this size and holds hardly any data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("size", [(20_000, 10), (9000, 9000), (16_000, 16_000), (2**31 - 1, 2**31 - 1)])
def test_pictures_larger_than_the_format_allows_are_refused(tmp_path, size):
    (tmp_path / "huge.png").write_bytes(png_of(*size))
    line = error("encode", tmp_path / "huge.png", code=1)
    assert "16,384 pixels a side" in line and "make it smaller" in line
    assert [path.name for path in tmp_path.iterdir()] == ["huge.png"]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000"])
def test_damaged_pictures_are_refused_in_one_line(tmp_path, form):
    """Cut short, or with changed bytes: a picture or a SourceError, and nothing else."""
    file = io.BytesIO()
    photo(40, 30).save(file, form)
    data = file.getvalue()
    path = tmp_path / ("photo.tif" if form == "TIFF" else "photo")
    rng = np.random.default_rng(2)
    refused = 0
    for trial in range(60):
        hurt = bytearray(data[: len(data) * 2 // 3] if trial % 3 == 0 else data)
        for place in rng.integers(12, len(hurt), trial % 7):
            hurt[place] = rng.integers(256)
        path.write_bytes(hurt)
        try:
            with open_source(path) as source:
                list(source.frames())
        except SourceError as found:
            refused += 1
            assert str(found).startswith(str(path)) and "\n" not in str(found)
    assert refused > 5


# --- reports, and what is not a still -----------------------------------------------------------------------


def test_reports_of_stills(tmp_path):
    source = tmp_path / "photo.png"
    photo(192, 180).save(source)
    run("encode", source, "-q", 60)
    run("decode", tmp_path / "photo.sdv")
    for other in (tmp_path / "photo.sdv", tmp_path / "photo.decoded.png"):
        found = json.loads(run("report", source, other, "--json", "-").stdout)
        (row,) = found["frames"]
        assert row["psnr"] > 35 and row["ssim"] > 0.9 and row["ms_ssim"] > 0.9 and row["mcf"] is None
        assert row["type"] == "key" and 0 < row["bytes"] <= other.stat().st_size
    text = run("report", source, tmp_path / "photo.decoded.png", "--html", tmp_path / "r.html").stdout.decode()
    assert text == "" and (tmp_path / "r.html").stat().st_size > 10_000
    text = run("report", source, tmp_path / "photo.decoded.png").stdout.decode()
    assert "picture   192x180, " in text and "bits per pixel" in text and "worst" not in text


def test_an_animation_against_its_copy(tmp_path):
    animate(tmp_path / "moving.gif", 2, True)
    sdvideo.encode(tmp_path / "moving.gif", quality=80)
    found = sdvideo.report(tmp_path / "moving.gif", tmp_path / "moving.sdv")
    assert found.summary["frames"] == len(SHOWN) and found.summary["psnr"]["clip"] > 30
    size = sdvideo.report(tmp_path / "moving.gif", tmp_path / "moving.gif").summary["bytes"]
    assert size == (tmp_path / "moving.gif").stat().st_size


def test_reading_videos_does_not_import_pillow(clips):
    code = f"""
import sys
from sdvideo.media.source import open_source
from sdvideo.media.output import open_sink
with open_source({str(clips["cfr"].path)!r}) as video:
    assert sum(1 for _ in video.frames()) == 16
print("PIL" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert found.stdout == "False\n"


def test_a_video_of_jpegs_is_a_video(tmp_path):
    jpeg = io.BytesIO()
    photo().save(jpeg, "JPEG")
    (tmp_path / "film.mjpeg").write_bytes(3 * jpeg.getvalue())
    assert sdvideo.encode(tmp_path / "film.mjpeg", preset="fast").frames == 3


# --- animations that are cut, pictures that Pillow does not read ---------------------------------------------


ANIMATIONS = [("GIF", {"disposal": 2}), ("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})]


@pytest.mark.parametrize(("form", "options"), ANIMATIONS)
def test_every_whole_frame_of_a_cut_animation_is_read(tmp_path, form, options):
    pictures = [Image.effect_noise((24, 16), 60 + 20 * n).convert("RGB") for n in range(5)]
    file = io.BytesIO()
    pictures[0].save(file, form, save_all=True, append_images=pictures[1:], duration=100, **options)
    data, path = file.getvalue(), tmp_path / f"cut.{form.lower()}"
    counts = []
    for part in np.linspace(0.3, 0.99, 40):
        path.write_bytes(data[: int(len(data) * part)])
        with open_source(path) as source:
            counts.append(len(list(source.frames())))
    assert counts == sorted(counts) and counts[0] >= 1 and counts[-1] >= 4


def test_an_avif_sequence_is_an_animation(tmp_path):
    pictures = [Image.new("RGB", (64, 48), (40 * n, 90, 200 - 40 * n)) for n in range(5)]
    pictures[0].save(tmp_path / "a.avif", save_all=True, append_images=pictures[1:], duration=80, quality=90)
    with open_source(tmp_path / "a.avif") as source:
        frames = list(source.frames())
        times = [float(frame.pts * source.info.time_base) for frame in frames]
    assert times == pytest.approx([0, 0.08, 0.16, 0.24, 0.32])
    found = [colour.to_rgb(frame.picture, source.info.colour).mean((0, 1)) for frame in frames]
    assert np.abs(np.array(found) - [(40 * n, 90, 200 - 40 * n) for n in range(5)]).max() < 6


def test_ffmpeg_reads_what_pillow_does_not(tmp_path):
    """A TIFF of floating-point samples, and Motion JPEG 2000."""
    ramp = np.linspace(0, 1, 64, dtype=np.float32)[None, :, None].repeat(48, 0).repeat(3, 2)
    cv2.imwrite(str(tmp_path / "a.tiff"), ramp, [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    with open_source(tmp_path / "a.tiff") as source:
        (frame,) = source.frames()
    assert abs(int(frame.picture.y[:, :4].mean()) - 2) < 20 and frame.picture.y[:, -4:].mean() > 215

    fragments = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    with av.open(str(tmp_path / "part.mp4"), "w", options=fragments) as out:
        stream = out.add_stream("jpeg2000", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(3):
            out.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        out.mux(stream.encode(None))
    data = (tmp_path / "part.mp4").read_bytes()
    size = int.from_bytes(data[:4], "big")
    signature = b"\0\0\0\x0cjP  \r\n\x87\n"
    (tmp_path / "a.mj2").write_bytes(signature + b"\0\0\0\x14ftypmjp2\0\0\0\0mjp2" + data[size:])
    with open_source(tmp_path / "a.mj2") as source:
        assert len(list(source.frames())) == 3


def test_stills_that_only_look_like_a_screen_are_not_searched_for_copies(tmp_path):
    """Noise with few colours takes a third of a minute for each megapixel with the tools for screens."""
    rng = np.random.default_rng(1)
    noise = cv2.GaussianBlur(rng.integers(0, 256, (240, 320, 3)).astype(np.float32), (0, 0), 1.2)
    noise = np.clip((noise - 128) * 3 + 128, 0, 255).astype(np.uint8)
    noise[:48] = np.where(rng.random((48, 320, 1)) < 0.5, 40, 200)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    Image.fromarray(cv2.GaussianBlur(noise, (0, 0), 1)).save(tmp_path / "smooth.png")
    seconds = []
    for name in ("smooth", "noise"):
        begin = time.process_time() + children()
        sdvideo.encode(tmp_path / f"{name}.png", tmp_path / f"{name}.sdv", workers=0)
        seconds.append(time.process_time() + children() - begin)
    assert seconds[1] < 3 * seconds[0] + 1


def children() -> float:
    """Processor seconds of processes that have ended."""
    used = os.times()
    return used.children_user + used.children_system
