"""Decodes the primary picture of a HEIF file: its coded pictures by FFmpeg, joined, cropped and turned upright.

The result is a picture of Pillow with what it needs of the file: `info["icc_profile"]`, and `info["colour"]` with the
tags of its colours. EXIF data has no say in how a HEIF picture is turned.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image

from sdvideo.errors import SourceError
from sdvideo.frames import Colour
from sdvideo.media import colour
from sdvideo.media.losses import lost

from .heif import Grid, HeifFile, Item, NotUnderstood

# By type of item: FFmpeg's decoder, and the property that configures it.
_CODECS = {
    "hvc1": ("hevc", "hvcC"),
    "hev1": ("hevc", "hvcC"),
    "av01": ("libdav1d", "av1C"),
    "avc1": ("h264", "avcC"),
    "jpeg": ("mjpeg", ""),
}
_TRANSFORMS = ("clap", "irot", "imir")
_KNOWN = frozenset(("hvcC", "av1C", "avcC", "ispe", "pixi", "colr", "auxC", "pasp", *_TRANSFORMS))
_ALPHA, _DEPTH = (
    (f"urn:mpeg:mpegB:cicp:systems:auxiliary:{name}", f"urn:mpeg:hevc:2015:auxid:{n}", f"urn:mpeg:avc:2015:auxid:{n}")
    for n, name in ((1, "alpha"), (2, "depth"))
)
_MARGIN = 128  # pixels by which a coded picture may be wider or higher than what is shown of it
_STILL = Colour(full_range=True, matrix=6)  # as in JPEG; what a file without tags is taken for
_HIGH_BIT_DEPTH = 0x40  # in the third byte of an av1C property
# H.273 code points of what is shown like sRGB, or not known.
_SRGB_PRIMARIES, _SRGB_TRANSFERS = (1, 2), (1, 2, 6, 13, 14, 15)
_IDENTITY = 0  # the matrix of RGB
_TURNS = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
_MIRRORS = (Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.FLIP_LEFT_RIGHT)


def decode_heif(heif: HeifFile) -> Image.Image:
    """The primary picture, "RGB", "RGBA" or, without colours, "L".

    What is lost of it is logged. Raises SourceError for a damaged one, NotUnderstood for one that is not read here.
    """
    frame = _frame(heif, heif.primary)
    for line in colour.losses(frame):
        lost("%s", line)
    image = _upright(frame, heif.primary)
    alpha = next((one for one in heif.auxiliaries(heif.primary) if one.auxiliary in _ALPHA), None)
    if alpha is not None:
        image = _with_alpha(image, _upright(_frame(heif, alpha), alpha), ("prem", alpha.number) in heif.primary.refers)
    tags = colour.read_colour(frame)
    image.info["colour"] = replace(_STILL, primaries=tags.primaries, transfer=tags.transfer)
    image.info["icc_profile"] = next((p[4:] for p in _colours(heif, heif.primary) if p[:4] in (b"prof", b"rICC")), None)
    return image


def pillow_reads(heif: HeifFile) -> bool:
    """Whether Pillow shows the primary picture as it is meant: an AVIF of 8 bits in sRGB, shown in full."""
    parts = (heif.primary, *(heif.item(number) for number in heif.primary.inputs[:1]))
    configuration = parts[-1].find("av1C")
    if configuration is None or any(part.find("clap") is not None for part in parts):
        return False
    tags = (struct.unpack_from(">HH", data, 4) for data in _colours(heif, heif.primary) if data[:4] == b"nclx")
    primaries, transfer = next(tags, (2, 2))
    return not configuration[2] & _HIGH_BIT_DEPTH and primaries in _SRGB_PRIMARIES and transfer in _SRGB_TRANSFERS


def left_out(heif: HeifFile) -> list[str]:
    """What is not kept of the file beside its primary picture, in words; often nothing."""
    found = [_name(one.auxiliary) for one in heif.auxiliaries(heif.primary) if one.auxiliary not in _ALPHA]
    if any(item.kind == "tmap" for item in heif.items.values()):
        found.append("gain map")
    if further := heif.further():
        found.append(f"{further} further picture{'s' if further > 1 else ''}")
    if heif.has_video:
        found.append("video of a motion photo")
    return list(dict.fromkeys(found))


def _name(urn: str) -> str:
    """What an auxiliary picture is; phones have names of their own for them."""
    words = urn.lower()
    if urn in _DEPTH or "disparity" in words or "depth" in words:
        return "depth map"
    return "gain map" if "gainmap" in words else "matte" if "matte" in words else "auxiliary picture"


# --- coded pictures -----------------------------------------------------------------------------------------


def _frame(heif: HeifFile, item: Item) -> av.VideoFrame:
    """An item's picture before its transformations, with the tags that the file gives it."""
    try:
        frame = _joined(heif, item) if item.kind == "grid" else _coded(heif, item)
    except av.FFmpegError as error:
        raise SourceError("its picture cannot be decoded") from error
    for data in _colours(heif, item):
        if data[:4] == b"nclx":
            frame.color_primaries, frame.color_trc, frame.colorspace, full = struct.unpack_from(">HHHB", data, 4)
            frame.color_range = 2 if full & 0x80 else 1
            break
    if frame.colorspace == _IDENTITY and "444p" in frame.format.name:
        return _cut(frame, frame.width, frame.height, re.sub("yuvj?444p", "gbrp", frame.format.name))
    if frame.colorspace == 2 and not frame.format.is_rgb:
        frame.colorspace = _STILL.matrix
    return frame


def _colours(heif: HeifFile, item: Item) -> Iterator[bytes]:
    """The colour properties of an item, then those of the first one that it is made of."""
    for one in (item, *(heif.item(number) for number in item.inputs[:1])):
        yield from (found.data for found in one.properties if found.kind == "colr")


def _joined(heif: HeifFile, item: Item) -> av.VideoFrame:
    """The tiles of a grid side by side, cut to its size."""
    grid = heif.grid(item)
    tiles = [heif.item(number) for number in item.inputs]
    if any(one.kind in _TRANSFORMS for tile in tiles for one in tile.properties):
        raise NotUnderstood("its tiles are turned or cropped one by one, which is not read here")
    _refuse_unknown(item)
    first = _coded(heif, tiles[0])
    _check_layout(grid, first)
    joined = _like(first, grid.width, grid.height)
    for number, tile in enumerate(tiles):
        frame = _coded(heif, tile) if number else first
        if (frame.width, frame.height, frame.format.name) != (first.width, first.height, first.format.name):
            raise SourceError("its tiles differ in size or format")
        _paste(frame, joined, *divmod(number, grid.columns))
    return joined


def _check_layout(grid: Grid, tile: av.VideoFrame) -> None:
    width, height = grid.columns * tile.width, grid.rows * tile.height
    if not (width - tile.width < grid.width <= width and height - tile.height < grid.height <= height):
        raise SourceError("the layout of its tiles is damaged")
    # Chroma of half the size must begin at a sample of its own in each tile.
    for plane in tile.planes:
        if (grid.columns > 1 and tile.width % plane.width) or (grid.rows > 1 and tile.height % plane.height):
            raise NotUnderstood("its tiles have odd sizes")


def _coded(heif: HeifFile, item: Item) -> av.VideoFrame:
    """The picture of an item that FFmpeg decodes, cut to its size."""
    _refuse_unknown(item)
    if item.kind not in _CODECS or item.size is None:
        raise NotUnderstood(f'its picture is of type "{item.kind}", which is not read here')
    name, configuration = _CODECS[item.kind]
    width, height = item.size
    decoder: Any = av.CodecContext.create(name, "r")
    decoder.extradata = item.find(configuration)
    decoder.options = {"max_pixels": str((width + _MARGIN) * (height + _MARGIN))}
    frames = [*decoder.decode(av.Packet(heif.data(item))), *decoder.decode(None)]
    if not frames or frames[-1].width < width or frames[-1].height < height:
        raise SourceError("its picture cannot be decoded, or is smaller than the file says")
    return _cut(frames[-1], width, height, frames[-1].format.name)


def _refuse_unknown(item: Item) -> None:
    unknown = next((one.kind for one in item.properties if one.essential and one.kind not in _KNOWN), None)
    if unknown is not None:
        raise NotUnderstood(f'its picture has the property "{unknown}", which is not understood here')


# --- planes -------------------------------------------------------------------------------------------------


def _cut(frame: av.VideoFrame, width: int, height: int, pixel_format: str) -> av.VideoFrame:
    """The top left part of a frame, its planes named anew; itself if nothing changes."""
    if (width, height, pixel_format) == (frame.width, frame.height, frame.format.name):
        return frame
    part = _like(frame, width, height, pixel_format)
    _paste(frame, part, 0, 0)
    return part


def _like(frame: av.VideoFrame, width: int, height: int, pixel_format: str | None = None) -> av.VideoFrame:
    """A frame of another size with the same tags, its samples undefined."""
    made = av.VideoFrame(width, height, pixel_format or frame.format.name)
    made.color_range, made.colorspace = frame.color_range, frame.colorspace
    made.color_primaries, made.color_trc = frame.color_primaries, frame.color_trc
    return made


def _paste(tile: av.VideoFrame, joined: av.VideoFrame, row: int, column: int) -> None:
    size = 2 if tile.format.components[0].bits > 8 else 1  # bytes of a sample
    for source, target in zip(tile.planes, joined.planes):
        left, top = column * source.width, row * source.height
        width, height = min(source.width, target.width - left), min(source.height, target.height - top)
        samples, place = _lines(source), _lines(target)
        place[top : top + height, left * size : (left + width) * size] = samples[:height, : width * size]


def _lines(plane: Any) -> np.ndarray:
    """A view of a plane as bytes, [lines, bytes of a line]."""
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)


# --- transformations ----------------------------------------------------------------------------------------


def _upright(frame: av.VideoFrame, item: Item) -> Image.Image:
    """The frame as a picture after the item's transformations, in the order in which the file lists them."""
    image = Image.fromarray(colour.frame_to_rgb(frame))
    if frame.format.name.startswith("gray"):
        image = image.getchannel(0)
    for one in item.properties:
        if one.kind == "clap":
            image = _clean_aperture(image, one.data)
        turn = None
        if one.kind == "irot":
            turn = _TURNS[one.data[0] & 3]
        elif one.kind == "imir":
            turn = _MIRRORS[one.data[0] & 1]
        image = image if turn is None else image.transpose(turn)
    return image


def _clean_aperture(image: Image.Image, data: bytes) -> Image.Image:
    """The part that is to be shown: its size, and how far its centre is from that of the picture, as fractions."""
    try:
        width, height, *offset = (Fraction(*struct.unpack_from(">ii", data, at)) for at in range(0, 32, 8))
        x, y = (image.width - width) / 2 + offset[0], (image.height - height) / 2 + offset[1]
    except (struct.error, ZeroDivisionError) as error:
        raise SourceError("its clean aperture is damaged") from error
    left, top, right, bottom = map(round, (x, y, x + width, y + height))
    if not (0 <= left < right <= image.width and 0 <= top < bottom <= image.height):
        lost("its clean aperture lies outside the picture and is left out")
        return image
    return image.crop((left, top, right, bottom))


def _with_alpha(image: Image.Image, alpha: Image.Image, premultiplied: bool) -> Image.Image:
    layers = image.convert("RGB")
    layers.putalpha(alpha.convert("L").resize(image.size))
    if not premultiplied:
        return layers
    return Image.frombytes("RGBa", layers.size, layers.tobytes()).convert("RGBA")
