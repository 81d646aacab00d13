"""The JSON header of an .sdv file (a chapter of the specification in `container.py`).

The words MUST, MUST NOT, SHOULD and MAY are those of RFC 2119.

The header is one JSON object (RFC 8259) in UTF-8 without byte order mark; its first byte MUST be `{`. It is stored as
it is, or as a byte 1 and then deflated (RFC 1951), with `layout._USUAL` as what is thought to come before it; readers
MUST take either, and MUST NOT unpack more than 1048576 bytes. Rationale: of a clip of 5 kB it would be 6 %. Objects
MUST NOT have a key twice; numbers MUST be finite, whole numbers have at most 20 characters; objects and
arrays nest at most 32 deep; strings MUST NOT hold lone surrogates. Readers MUST ignore keys they do not know,
and MUST reject a header that breaks a range below *before* they allocate anything by it. A ratio is
`[numerator, denominator]`, both 1 to 2^31 - 1. Keys marked with = MAY be absent and then have that value.

    "sdv"       {"writer": text up to 256 ="sdvideo"}: who wrote the file, for the record
    "video"     the video stream:
        "width", "height"   of the upright picture, 1 to 16384, width * height <= 2^26
        "time_base"         ratio: seconds per unit of pts and duration
        "rate"              ratio =null: average frames per second
        "frames"            =null: number of frames the source announced, 0 to 2^40; may be wrong
        "sar"               ratio =[1,1]: sample aspect ratio
        "colour"            ={}: {"full_range" =false: true or false, and code points of ITU-T H.273,
                            0 to 255: "matrix" =2, "primaries" =2, "transfer" =2}
        "icc"               =null: what the RGB of a still means where that is not sRGB: an ICC profile for RGB
                            (ISO 15076-1) of up to 49152 bytes, as base64 (RFC 4648, padded) of a zlib stream
                            (RFC 1950), 1 to 65536 characters. A reader need not look into the profile, and MUST NOT
                            unpack more than its 49152 bytes. A writer of pictures SHOULD embed it.
        "rotation"          =0: degrees counter-clockwise the source asked for, -360 to 360; for the record,
                            the pictures are upright
    "blobs"     =[]: the form of each track file, "mp4" or "matroska"; at most 256
    "tracks"    =[]: at most 256 of {"kind": "audio" or "subtitle", "codec": FFmpeg's name, up to 64
                characters, "language": ISO 639-2, up to 64 characters ="", "blob": number of its track file,
                "index": its place among that file's streams, 0 to 1023}
    "chapters"  =[]: at most 10000 of {"start", "end": |t| < 2^60, start <= end, "time_base": ratio,
                "title": up to 65536 characters =""}
    "metadata"  ={}: at most 1000 texts of up to 65536 characters, under keys of up to 256
    "base"      the codec, 1 to 64 characters: "none", latent deltas alone (see `codecs/latent/`), or "av1", an AV1 base
                (see `codecs/av1/bitstream.py`). A reader MUST reject others.
    "coder"     =the base: identifier of the entropy coder, 1 to 64 characters. With base "av1" it MUST be "av1"; for
                base "none" see `codecs/latent/coding/range_coder.py`. A decoder MUST know it.
    "model"     {"name": 1 to 1024 characters, "revision": up to 256 ="", "sha256": 64 lower-case hex digits}:
                the latent model, or the network that restores an AV1 base. A decoder MUST NOT use weights with
                another hash, and MUST NOT take the name for a path; a writer SHOULD NOT tell a path in it.
    "latent"    =null; with base "none" it MUST be {"channels": 1 to 65536, "block": 1 to 1024, ...}: the latent's channels,
                and how many pixels one latent sample covers in each direction; the other keys are the model's own
    "scale"     ratio =[1,1]; [1,1], [2,3] or [1,2], with base "av1" it MUST be [1,1]: of the coded pictures' sides to the video's. If it
                is not 1, they are max(2, 2 * round(side * scale / 2)) wide and high, halves rounded to even, and
                what is said of the latent and its frames is said of them.
    "restorer"  =null: the network, as in "model", that paints coded pictures at full size; MUST be there if "scale" is
                not 1.
    "settings"  ={}: an object, how the file was made where that was not the default, for the record
"""

from __future__ import annotations

import base64
import json
import math
import re
import zlib
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

from sdvideo.errors import FormatError, ModelError
from sdvideo.frames import Chapter, Colour, StreamInfo, Track

MAX_SIDE = 16384
MAX_AREA = 2**26
MAX_TRACKS = 256
MAX_CHAPTERS = 10_000
MAX_METADATA = 1000
MAX_TEXT = 65536
MAX_DEPTH = 32
MAX_PROFILE = 49152
SCALES = (Fraction(1), Fraction(2, 3), Fraction(1, 2))  # of both sides, at which pictures may be stored
BLOB_FORMS = ("mp4", "matroska")

_MAX_TIME = 2**60 - 1
_JSON = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}


@dataclass(frozen=True, slots=True)
class ModelId:
    """Which network. name: "embedded", "restore", a Hub id or the name of a folder; revision: may be ""; sha256: of its
    weights, 64 hex digits."""

    name: str
    revision: str
    sha256: str

    def require_same(self, found: ModelId, hint: str = "") -> None:
        """Raises ModelError if the network that was found has other weights. hint: what the user can do then."""
        if found.sha256 != self.sha256:
            raise ModelError(
                f"the file was made with model {self.name} of sha256 {self.sha256[:12]}...; "
                f"the one here has {found.sha256[:12]}...{hint}"
            )


@dataclass(frozen=True, slots=True)
class Header:
    """Everything known before the first frame; ranges in the docstring of this module.

    base: name of the codec. coder: id of the entropy coder. latent: JSON object with
    "channels", "block" and what the model wants to remember, or None. settings: JSON object, for the record.
    blobs: the form of each track file, "mp4" or "matroska". writer: who writes the file, for the record. scale: of the
    coded pictures, one of SCALES, 1 with a base; restorer: the network that paints them at full size, if it is not 1.
    """

    info: StreamInfo
    model: ModelId
    base: str
    coder: str
    latent: dict[str, Any] | None
    settings: dict[str, Any] = field(default_factory=dict)
    blobs: tuple[str, ...] = ()
    writer: str = "sdvideo"
    scale: Fraction = Fraction(1)
    restorer: ModelId | None = None


def pack_header(header: Header) -> bytes:
    """A header as JSON. Raises FormatError for whatever a reader would reject: no such file is made."""
    try:
        text = json.dumps(_to_json(header), **_JSON).encode()
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise FormatError(f"header: cannot be written as JSON: {error}") from error
    unpack_header(text)
    return text


def unpack_header(text: bytes) -> Header:
    """The header in a JSON text. Raises FormatError, with one line that names the offending value."""
    if text[:1] != b"{":
        raise FormatError("header: does not start with {")
    top = _parse(text)
    video = _object(top, "video")
    blobs = tuple(_choice(blob, "blobs", BLOB_FORMS) for blob in _list(top, "blobs", 256))
    info = StreamInfo(
        **_size(video),
        time_base=_ratio(video.get("time_base"), "video.time_base"),
        rate=_ratio(video["rate"], "video.rate") if video.get("rate") is not None else None,
        frames=_int(video["frames"], "video.frames", 0, 2**40) if video.get("frames") is not None else None,
        sar=_ratio(video.get("sar", [1, 1]), "video.sar"),
        colour=_colour(_object(video, "colour", {})),
        rotation=_int(video.get("rotation", 0), "video.rotation", -360, 360),
        tracks=tuple(_track(track, len(blobs)) for track in _list(top, "tracks", MAX_TRACKS)),
        chapters=tuple(_chapter(chapter) for chapter in _list(top, "chapters", MAX_CHAPTERS)),
        metadata=_metadata(_object(top, "metadata", {})),
        icc=_unpack_profile(video["icc"]) if video.get("icc") is not None else b"",
    )
    base = _text(top.get("base"), "base", 64, least=1)
    return Header(
        info=info,
        model=_model(_object(top, "model"), "model"),
        base=base,
        coder=_text(top.get("coder", base), "coder", 64, least=1),
        latent=_latent(_object(top, "latent")) if top.get("latent") is not None else None,
        settings=_object(top, "settings", {}),
        blobs=blobs,
        writer=_text(_object(top, "sdv", {}).get("writer", "sdvideo"), "sdv.writer", 256),
        scale=_scale(top),
        restorer=_model(_object(top, "restorer"), "restorer") if top.get("restorer") is not None else None,
    )


def _to_json(header: Header) -> dict[str, Any]:
    """The header as JSON values, without what has its default value: on a short clip every byte shows."""
    info = header.info
    video = {
        "width": info.width,
        "height": info.height,
        "time_base": _pair(info.time_base),
        "rate": info.rate and _pair(info.rate),
        "frames": info.frames,
        "sar": _pair(info.sar) if info.sar != 1 else None,
        "colour": _set_colours(info.colour) or None,
        "rotation": info.rotation or None,
        "icc": _pack_profile(info.icc) if info.icc else None,
    }
    chapters = [asdict(chapter) | {"time_base": _pair(chapter.time_base)} for chapter in info.chapters]
    top = {
        "sdv": {"writer": header.writer},
        "video": {key: value for key, value in video.items() if value is not None},
        "blobs": list(header.blobs) or None,
        "tracks": [asdict(track) for track in info.tracks] or None,
        "chapters": chapters or None,
        "metadata": info.metadata or None,
        "base": header.base,
        "coder": header.coder if header.coder != header.base else None,
        "model": asdict(header.model),
        "latent": header.latent,
        "scale": _pair(header.scale) if header.scale != 1 else None,
        "restorer": header.restorer and asdict(header.restorer),
        "settings": header.settings or None,
    }
    return {key: value for key, value in top.items() if value is not None}


def _pair(ratio: Fraction) -> list[int]:
    return [ratio.numerator, ratio.denominator]


def _set_colours(colour: Colour) -> dict[str, Any]:
    usual = asdict(Colour())
    return {key: value for key, value in asdict(colour).items() if value != usual[key]}


def _pack_profile(icc: bytes) -> str:
    return base64.b64encode(zlib.compress(icc, 9)).decode()


def _unpack_profile(value: Any) -> bytes:
    """The inverse of _pack_profile. What is in the profile is not looked at."""
    text = _text(value, "video.icc", MAX_TEXT, least=1)
    unpack = zlib.decompressobj()
    try:
        icc = unpack.decompress(base64.b64decode(text, validate=True), MAX_PROFILE + 1)
    except (ValueError, zlib.error) as error:
        raise FormatError(f"header: video.icc cannot be unpacked: {error}") from error
    if not unpack.eof or unpack.unused_data or not 1 <= len(icc) <= MAX_PROFILE:
        raise FormatError(f"header: video.icc is not one whole profile of up to {MAX_PROFILE} bytes")
    return icc


def _parse(text: bytes) -> dict[str, Any]:
    """JSON text to Python values, without the liberties json takes by default."""
    try:
        value = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_reject_constant,
            parse_int=_bounded_int,
            parse_float=_finite_float,
        )
        _check_depth(value)
        json.dumps(value, **_JSON).encode()  # lone surrogates would fail only later, where they are printed
    except (ValueError, RecursionError) as error:
        raise FormatError(f"header: {error}") from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same key twice")
    return found


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not allowed")


def _bounded_int(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _finite_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:20]} is too large")
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    if level:
        raise ValueError(f"objects and arrays nest more than {MAX_DEPTH} deep")


def _size(video: dict[str, Any]) -> dict[str, int]:
    width = _int(video.get("width"), "video.width", 1, MAX_SIDE)
    height = _int(video.get("height"), "video.height", 1, MAX_SIDE)
    if width * height > MAX_AREA:
        raise FormatError(f"header: a picture of {width}x{height} has more than {MAX_AREA} pixels")
    return {"width": width, "height": height}


def _colour(value: dict[str, Any]) -> Colour:
    full_range = value.get("full_range", False)
    if not isinstance(full_range, bool):
        raise _bad(full_range, "video.colour.full_range", "true or false")
    keys = ("matrix", "primaries", "transfer")
    return Colour(full_range, *(_int(value.get(key, 2), f"video.colour.{key}", 0, 255) for key in keys))


def _track(value: Any, blobs: int) -> Track:
    value = _object({"tracks[]": value}, "tracks[]")
    if not blobs:
        raise FormatError("header: there is a track, but no blob to hold it")
    return Track(
        kind=_choice(value.get("kind"), "tracks[].kind", ("audio", "subtitle")),
        codec=_text(value.get("codec"), "tracks[].codec", 64),
        language=_text(value.get("language", ""), "tracks[].language", 64),
        blob=_int(value.get("blob"), "tracks[].blob", 0, blobs - 1),
        index=_int(value.get("index"), "tracks[].index", 0, 1023),
    )


def _chapter(value: Any) -> Chapter:
    value = _object({"chapters[]": value}, "chapters[]")
    start = _int(value.get("start"), "chapters[].start", -_MAX_TIME, _MAX_TIME)
    return Chapter(
        start=start,
        end=_int(value.get("end"), "chapters[].end", start, _MAX_TIME),
        time_base=_ratio(value.get("time_base"), "chapters[].time_base"),
        title=_text(value.get("title", ""), "chapters[].title", MAX_TEXT),
    )


def _metadata(value: dict[str, Any]) -> dict[str, str]:
    if len(value) > MAX_METADATA:
        raise FormatError(f"header: metadata has {len(value)} entries, more than {MAX_METADATA}")
    for key, text in value.items():
        _text(key, "a metadata key", 256)
        _text(text, "metadata[]", MAX_TEXT)
    return value


def _model(value: dict[str, Any], key: str) -> ModelId:
    sha256 = _text(value.get("sha256"), f"{key}.sha256", 64)
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise _bad(sha256, f"{key}.sha256", "64 lower-case hex digits")
    name = _text(value.get("name"), f"{key}.name", 1024, least=1)
    return ModelId(name, _text(value.get("revision", ""), f"{key}.revision", 256), sha256)


def _scale(top: dict[str, Any]) -> Fraction:
    scale = _ratio(top.get("scale", [1, 1]), "scale")
    if scale not in SCALES:
        raise _bad(top["scale"], "scale", "[1,1], [2,3] or [1,2]")
    return scale


def _latent(value: dict[str, Any]) -> dict[str, Any]:
    _int(value.get("channels"), "latent.channels", 1, 65536)
    _int(value.get("block"), "latent.block", 1, 1024)
    return value


def _int(value: Any, name: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _bad(value, name, f"a whole number {low} to {high}")
    return value


def _ratio(value: Any, name: str) -> Fraction:
    if not isinstance(value, list) or len(value) != 2:
        raise _bad(value, name, "[numerator, denominator]")
    return Fraction(*(_int(part, name, 1, 2**31 - 1) for part in value))


def _text(value: Any, name: str, most: int, least: int = 0) -> str:
    if not isinstance(value, str) or not least <= len(value) <= most:
        raise _bad(value, name, f"a text of {least} to {most} characters")
    return value


def _choice(value: Any, name: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise _bad(value, name, "one of those this version knows: " + ", ".join(known))
    return value


def _object(parent: dict[str, Any], name: str, default: dict[str, Any] | None = None) -> dict[str, Any]:
    value = parent.get(name, default)
    if not isinstance(value, dict):
        raise _bad(value, name, "an object")
    return value


def _list(parent: dict[str, Any], name: str, most: int) -> list[Any]:
    value = parent.get(name, [])
    if not isinstance(value, list) or len(value) > most:
        raise _bad(value, name, f"an array of at most {most}")
    return value


def _bad(value: Any, name: str, wanted: str) -> FormatError:
    found = "missing" if value is None else json.dumps(value)[:60]
    return FormatError(f"header: {name} is {found}, must be {wanted}")
