"""Makes HEIF files box by box: items of any kind, with any properties, at any place."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import av
import numpy as np
from av.video.reformatter import Interpolation
from PIL import Image


def box(kind: str, *parts: bytes) -> bytes:
    data = b"".join(parts)
    return struct.pack(">I4s", len(data) + 8, kind.encode()) + data


def full(kind: str, *parts: bytes, version: int = 0, flags: int = 0) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), *parts)


@dataclass(frozen=True)
class Item:
    """kind: such as "hvc1". properties: boxes, in the order in which they apply. refers: (kind, numbers from 1)."""

    kind: str
    data: bytes
    properties: Sequence[bytes] = ()
    refers: Sequence[tuple[str, Sequence[int]]] = ()
    hidden: bool = False
    in_idat: bool = False


def heif(
    items: Sequence[Item],
    primary: int,
    *,
    brands: str = "heicmif1heic",
    version: int = 1,
    pieces: int = 1,
    essential: Sequence[str] = ("hvcC", "av1C"),
    after: bytes = b"",
) -> bytes:
    """A file of these items, numbered from 1.

    version: 2 is with numbers of 32 bits and more than 127 properties, 0 without an idat box. pieces: in how many the
    data of an item lies.
    """
    wide = version == 2
    number = ">I" if wide else ">H"
    ipco = list(dict.fromkeys(one for item in items for one in item.properties))
    filler = [box("free")] * 128 if wide else []
    ipma = b""
    for n, item in enumerate(items, 1):
        ipma += struct.pack(number, n) + bytes([len(item.properties)])
        for one in item.properties:
            index, needed = len(filler) + ipco.index(one) + 1, one[4:8].decode() in essential
            ipma += struct.pack(">H", needed << 15 | index) if wide else bytes([needed << 7 | index])
    iprp = box(
        "iprp",
        box("ipco", *filler, *ipco),
        full("ipma", struct.pack(">I", len(items)), ipma, version=int(wide), flags=int(wide)),
    )
    infe = [
        full(
            "infe", struct.pack(number, n), bytes(2), one.kind.encode(), b"\0", version=2 + wide, flags=int(one.hidden)
        )
        for n, one in enumerate(items, 1)
    ]
    iinf = full("iinf", struct.pack(">I" if wide else ">H", len(items)), *infe, version=int(wide))
    references = [
        box(kind, struct.pack(number, n), struct.pack(">H", len(to)), *(struct.pack(number, one) for one in to))
        for n, item in enumerate(items, 1)
        for kind, to in item.refers
    ]
    iref = full("iref", *references, version=int(wide)) if references else b""
    idat = b"".join(item.data for item in items if item.in_idat and version)
    ftyp = box("ftyp", brands[:4].encode(), bytes(4), brands[4:].encode())
    hdlr = full("hdlr", bytes(4), b"pict", bytes(13))

    def meta(start: int) -> bytes:
        places, ends = b"", {False: start, True: 0}
        for n, item in enumerate(items, 1):
            inside = item.in_idat and version > 0
            step = max(1, -(-len(item.data) // pieces))
            cuts = [item.data[at : at + step] for at in range(0, len(item.data), step)]
            places += struct.pack(number, n) + (struct.pack(">H", inside) if version else b"") + bytes(2)
            base = ends[inside] if wide else 0
            places += (struct.pack(">I", base) if wide else b"") + struct.pack(">H", len(cuts))
            for cut in cuts:
                places += (struct.pack(">I", 7) if wide else b"") + struct.pack(">II", ends[inside] - base, len(cut))
                ends[inside] += len(cut)
        sizes = b"\x44\x44" if wide else b"\x44\0"
        iloc = full("iloc", sizes, struct.pack(number, len(items)), places, version=version)
        parts = [hdlr, full("pitm", struct.pack(number, primary), version=int(wide)), iloc, iinf, iprp, iref]
        return full("meta", *parts, *([box("idat", idat)] if idat else []))

    start = len(ftyp) + len(meta(0)) + 8
    return ftyp + meta(start) + box("mdat", *(one.data for one in items if not (one.in_idat and version))) + after


# --- properties ---------------------------------------------------------------------------------------------


def ispe(width: int, height: int) -> bytes:
    return full("ispe", struct.pack(">II", width, height))


def nclx(primaries: int, transfer: int, matrix: int, full_range: bool = True) -> bytes:
    return box("colr", b"nclx", struct.pack(">HHHB", primaries, transfer, matrix, full_range << 7))


def clap(width: int, height: int, right: tuple[int, int] = (0, 1), down: tuple[int, int] = (0, 1)) -> bytes:
    return box("clap", struct.pack(">8i", width, 1, height, 1, *right, *down))


def irot(quarters: int) -> bytes:
    return box("irot", bytes([quarters]))


def imir(axis: int) -> bytes:
    return box("imir", bytes([axis]))


def auxc(urn: str) -> bytes:
    return full("auxC", urn.encode() + b"\0")


def grid(rows: int, columns: int, width: int, height: int, wide: bool = False) -> bytes:
    return bytes([0, wide, rows - 1, columns - 1]) + struct.pack(">II" if wide else ">HH", width, height)


# --- coded pictures -----------------------------------------------------------------------------------------


@cache
def _coded(rgb: bytes, size: tuple[int, int], codec: str, pixel_format: str, matrix: int) -> tuple[bytes, bytes]:
    """The configuration box and the data of one picture, taken out of an MP4 of it."""
    image = Image.frombytes("RGB", size, rgb)
    quality = {
        "libx265": {"x265-params": "qp=4:log-level=none:keyint=1:pools=none:frame-threads=1"},
        "libx264": {"qp": "4"},
    }
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=25, options=quality.get(codec, {"crf": "4", "preset": "10"}))
        stream.width, stream.height, stream.pix_fmt = *size, pixel_format
        stream.codec_context.color_range = 2
        stream.codec_context.colorspace = matrix or 2
        if matrix:
            exact = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
            frame = av.VideoFrame.from_image(image)
            frame = frame.reformat(format=pixel_format, dst_colorspace=matrix, dst_color_range=2, interpolation=exact)
        else:  # that of RGB
            frame = av.VideoFrame.from_ndarray(np.stack([np.asarray(image.getchannel(c)) for c in "GBR"]), "yuv444p")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    name = {"libx265": b"hvcC", "libx264": b"avcC"}.get(codec, b"av1C")
    whole = file.getvalue()
    at = whole.index(name) - 4
    configuration = whole[at : at + int.from_bytes(whole[at : at + 4], "big")]
    with av.open(io.BytesIO(whole)) as container:
        return configuration, b"".join(bytes(packet) for packet in container.demux(video=0))


KINDS = {"libx265": "hvc1", "libsvtav1": "av01", "libx264": "avc1"}


def coded(
    image: Image.Image,
    properties: Sequence[bytes] = (),
    *,
    codec: str = "libx265",
    pixel_format: str = "yuv420p",
    matrix: int = 5,
    **more: object,
) -> Item:
    """An item with this picture in full range. properties: beside its size and configuration."""
    configuration, data = _coded(image.convert("RGB").tobytes(), image.size, codec, pixel_format, matrix)
    return Item(KINDS[codec], data, (configuration, ispe(*image.size), *properties), **more)


def tiled(
    image: Image.Image, columns: int, rows: int, properties: Sequence[bytes] = (), wide: bool = False, **options: object
) -> list[Item]:
    """The picture in tiles, and as the last item the grid of them; the size must not be a multiple of the tiles'."""
    width, height = (2 * (-(-side // count // 2)) for side, count in zip(image.size, (columns, rows)))
    padded = Image.new("RGB", (columns * width, rows * height), "magenta")
    padded.paste(image)
    tiles = [
        coded(padded.crop((x, y, x + width, y + height)), hidden=True, **options)
        for y in range(0, rows * height, height)
        for x in range(0, columns * width, width)
    ]
    layout = grid(rows, columns, *image.size, wide=wide)
    parts = ("dimg", range(1, len(tiles) + 1))
    return [*tiles, Item("grid", layout, (ispe(*image.size), *properties), [parts], in_idat=True)]
