"""The JSON header of an .sdv file (a chapter of the specification in `container/__init__.py`).

The words MUST, MUST NOT, SHOULD and MAY are those of RFC 2119.

Storage
    The header is one JSON object (RFC 8259) in UTF-8 without byte order mark; its first byte MUST be `{`. It is stored
    in one of two forms, and readers MUST accept both:
    * plain: the JSON text itself;
    * deflated: a byte 1, then one raw deflate stream (RFC 1951) of the JSON text, with the bytes of
      `HEADER_DICTIONARY` in `preamble.py` as preset dictionary: the stream may refer to them as if they stood directly
      before the text. The stream MUST end with the stored header.
    A reader MUST NOT inflate more than 1048576 bytes, and MUST reject a longer text.
    Rationale: as plain JSON the header would be 6 % of a clip of 5 kB.

Syntax
    Objects MUST NOT have a key twice. Numbers MUST be finite; a whole number has at most 20 characters. No value is
    nested more than 32 levels deep, where the header object itself is level 1. Strings MUST NOT hold lone surrogates.
    Lengths of strings count Unicode code points. A ratio is `[numerator, denominator]`, both 1 to 2^31 - 1.

Rules
    Readers MUST ignore keys that they do not know, and MUST reject a header that breaks a range below *before* they
    allocate anything by it. Keys marked with = MAY be absent and then have that value.

    "sdv"       {"writer": up to 256 characters ="sdvideo"} ={}: which program wrote the file; informative
    "video"     the video stream:
        "width", "height"   of the upright picture in pixels, 1 to 16384, width * height <= 2^26
        "time_base"         ratio: seconds per unit of pts and duration
        "rate"              ratio =null: average frames per second
        "frames"            =null: number of frames that the source announced, 0 to 2^40; it may be wrong
        "sar"               ratio =[1,1]: sample aspect ratio
        "colour"            ={}: {"full_range" =false: true or false, and code points of ITU-T H.273,
                            0 to 255: "matrix" =2, "primaries" =2, "transfer" =2}
        "icc"               =null: the ICC profile (ISO 15076-1) of a still whose RGB is not sRGB. An RGB profile of 1
                            to 49152 bytes, compressed as one zlib stream (RFC 1950) and then encoded as base64
                            (RFC 4648, padded) of 1 to 65536 characters. A reader need not interpret the profile, and
                            MUST NOT inflate more than 49152 bytes. A program that writes decoded stills SHOULD embed
                            it.
        "rotation"          =0: degrees counter-clockwise by which the source asked to be rotated, -360 to 360;
                            informative, for the coded pictures are upright
    "blobs"     =[]: the format of each track file, "mp4" or "matroska"; at most 256
    "tracks"    =[]: at most 256 of {"kind": "audio" or "subtitle", "codec": FFmpeg's name, up to 64
                characters, "language": ISO 639-2, up to 64 characters ="", "blob": number of its track file,
                "index": its place among the streams of that file, 0 to 1023}
    "chapters"  =[]: at most 10000 of {"start", "end": |t| < 2^60, start <= end, "time_base": ratio,
                "title": up to 65536 characters =""}
    "metadata"  ={}: at most 1000 strings of up to 65536 characters, under keys of up to 256
    "base"      name of the codec, 1 to 64 characters: "none" (see `sdvideo/codecs/latent/`) or "av1" (see
                `sdvideo/codecs/av1/bitstream.py`)
    "coder"     =the base: identifier of the entropy coder, 1 to 64 characters
    "model"     {"name": 1 to 1024 characters, "revision": up to 256 ="", "sha256": 64 lower-case hex digits}: the
                network that decoding needs, the latent model with base "none" and the restoration network with base
                "av1". A decoder MUST NOT use weights with another hash, and MUST NOT interpret the name as a path; a
                writer SHOULD NOT store a path in it.
    "latent"    =null, or {"channels": 1 to 65536, "block": 1 to 1024, ...}: number of channels of the latent, and how
                many pixels of the coded picture one latent position covers in each direction; other keys belong to the
                model
    "scale"     ratio =[1,1]: [1,1], [2,3] or [1,2], the sides of the coded pictures divided by those of the video. If
                it is not 1, a side of a coded picture is max(2, 2 * round(side * scale / 2)), where halves are rounded
                to even, and what is specified of the latent and its frames holds for the coded pictures.
    "restorer"  =null: the network, as in "model", that restores coded pictures at full size
    "look"      =0: a number, 0 to 1: which weights the restoration network has, those of "model" (with base "none" of
                "restorer") times 1 - look plus those of "painter" times look, in float32. A user MAY choose another
                look when decoding.
    "painter"   =null: the other weights, as in "model"; it MUST be an object if "look" is not 0
    "settings"  ={}: an object: encoder settings that differ from their defaults; informative

Rules of the codec
    The container accepts every "base" and "coder" within the ranges above. A decoder MUST look for the codec that
    "base" names and MUST reject the file if it has none. The codec then checks these rules (`Codec.check_header` in
    `sdvideo/codecs/interface.py`), and a decoder MUST reject a header that breaks one:
    * base "av1": "coder" MUST be "av1", and "scale" MUST be 1, because each group states its own scale (see
      `sdvideo/codecs/av1/bitstream.py`);
    * base "none": "latent" MUST be an object; "restorer" MUST be an object if "scale" is not 1.
    With base "none" the identifiers of "coder" are "context-1", "plain-1", "bytes-1" and "palette-1" (see "Frame data"
    in `container/__init__.py`). A decoder MUST reject others.
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
MAX_AREA = 2**26  # pixels
MAX_TRACKS = 256
MAX_CHAPTERS = 10_000
MAX_METADATA = 1000
MAX_TEXT, MAX_KEY = 65536, 256  # characters of metadata
MAX_DEPTH = 32  # levels of JSON values, the header object being the first
MAX_PROFILE = 49152  # bytes of an ICC profile
SCALES = (Fraction(1), Fraction(2, 3), Fraction(1, 2))  # sides of coded pictures divided by those of the video
BLOB_FORMS = ("mp4", "matroska")

_MAX_TIME = 2**60 - 1


@dataclass(frozen=True, slots=True)
class ModelId:
    """Identifies a network by its weights.

    name: "embedded", "restore", a Hub id or the name of a folder. revision: may be "". sha256: of the weights, 64
    lower-case hex digits.
    """

    name: str
    revision: str
    sha256: str

    def require_same(self, found: ModelId, hint: str = "") -> None:
        """Raises ModelError if `found` has other weights. hint: appended to the message, what the user can do."""
        if found.sha256 != self.sha256:
            raise ModelError(
                f"the file was made with model {self.name} of sha256 {self.sha256[:12]}...; "
                f"the model found here has {found.sha256[:12]}...{hint}"
            )


@dataclass(frozen=True, slots=True)
class Header:
    """Everything that is known before the first frame. The docstring of this module gives the ranges.

    info: the video stream. model: the network that decoding needs. base: name of the codec. coder: identifier of the
    entropy coder. latent: JSON object with "channels", "block" and keys of the model, or None. settings: JSON object of
    encoder settings, informative. blobs: the format of each track file, "mp4" or "matroska". writer: the program that
    writes the file, informative. scale: sides of the coded pictures divided by those of the video, one of SCALES.
    restorer: the network that restores coded pictures at full size, or None. look: how much it has of the weights of
    `painter`, 0 to 1; painter is None if look is 0.
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
    look: float = 0.0
    painter: ModelId | None = None


def pack_header(header: Header) -> bytes:
    """A header as JSON text. Raises FormatError for every header that `unpack_header` would reject."""
    try:
        text = _dump(_to_json(header))
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise FormatError(f"header: cannot be written as JSON: {error}") from error
    unpack_header(text)
    return text


def unpack_header(text: bytes) -> Header:
    """Read a header from its JSON text. Raises FormatError, with one line that names the invalid value."""
    if text[:1] != b"{":
        raise FormatError("header: the text does not start with {")
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
        **_painting(top),
    )


def _to_json(header: Header) -> dict[str, Any]:
    """The header as JSON values. Default values are left out, since in a short clip every byte counts."""
    info = header.info
    video = {
        "width": info.width,
        "height": info.height,
        "time_base": _pair(info.time_base),
        "rate": info.rate and _pair(info.rate),
        "frames": info.frames,
        "sar": _pair(info.sar) if info.sar != 1 else None,
        "colour": _non_default_colours(info.colour) or None,
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
        "look": header.look or None,
        "painter": header.painter and asdict(header.painter),
        "settings": header.settings or None,
    }
    return {key: value for key, value in top.items() if value is not None}


def _dump(value: Any) -> bytes:
    """JSON values as compact text. Raises ValueError for what JSON or UTF-8 cannot hold."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _pair(ratio: Fraction) -> list[int]:
    return [ratio.numerator, ratio.denominator]


def _non_default_colours(colour: Colour) -> dict[str, Any]:
    defaults = asdict(Colour())
    return {key: value for key, value in asdict(colour).items() if value != defaults[key]}


def _pack_profile(icc: bytes) -> str:
    return base64.b64encode(zlib.compress(icc, 9)).decode()


def _unpack_profile(value: Any) -> bytes:
    """The inverse of `_pack_profile`. The content of the profile is not checked."""
    text = _text(value, "video.icc", MAX_TEXT, least=1)
    unpack = zlib.decompressobj()
    try:
        icc = unpack.decompress(base64.b64decode(text, validate=True), MAX_PROFILE + 1)
    except (ValueError, zlib.error) as error:
        raise FormatError(f"header: video.icc cannot be inflated: {error}") from error
    if not unpack.eof or unpack.unused_data or not 1 <= len(icc) <= MAX_PROFILE:
        raise FormatError(f"header: video.icc is not one whole profile of up to {MAX_PROFILE} bytes")
    return icc


def _parse(text: bytes) -> dict[str, Any]:
    """JSON text to Python values. Raises FormatError for what Python's json accepts and the specification does not."""
    try:
        value: dict[str, Any] = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_reject_constant,
            parse_int=_bounded_int,
            parse_float=_finite_float,
        )
        _check_depth(value)
        _dump(value)  # raises for lone surrogates, which otherwise would fail only later, where they are printed
    except (ValueError, RecursionError) as error:
        raise FormatError(f"header: {error}") from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object has the same key twice")
    return result


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
    """Raises ValueError for values below level MAX_DEPTH. Not recursive, so no value exhausts the stack."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    if level:
        raise ValueError(f"values are nested more than {MAX_DEPTH} levels deep")


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
        raise FormatError("header: there is a track, but blobs is empty, so no track file holds it")
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
        _text(key, "a metadata key", MAX_KEY)
        _text(text, "metadata[]", MAX_TEXT)
    return value


def _painting(top: dict[str, Any]) -> dict[str, Any]:
    look = top.get("look", 0)
    if isinstance(look, bool) or not isinstance(look, int | float) or not 0 <= look <= 1:
        raise FormatError(f"header: look is {look!r:.40}, must be a number from 0 to 1")
    painter = _model(_object(top, "painter"), "painter") if top.get("painter") is not None else None
    if look and painter is None:
        raise FormatError("header: look is not 0, and there is no painter")
    return {"look": float(look), "painter": painter}


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
        raise _bad(value, name, f"a string of {least} to {most} characters")
    return value


def _choice(value: Any, name: str, known: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in known:
        raise _bad(value, name, "one of those that this version knows: " + ", ".join(known))
    return value


def _object(parent: dict[str, Any], name: str, default: dict[str, Any] | None = None) -> dict[str, Any]:
    value = parent.get(name, default)
    if not isinstance(value, dict):
        raise _bad(value, name, "an object")
    return value


def _list(parent: dict[str, Any], name: str, most: int) -> list[Any]:
    value = parent.get(name, [])
    if not isinstance(value, list) or len(value) > most:
        raise _bad(value, name, f"an array of at most {most} values")
    return value


def _bad(value: Any, name: str, wanted: str) -> FormatError:
    found = "missing" if value is None else json.dumps(value)[:60]
    return FormatError(f"header: {name} is {found}, must be {wanted}")
