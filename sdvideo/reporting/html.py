"""The report as one HTML page that needs nothing else: curves, worst frames, and both videos playing in step.

The pictures are coded again for the page. Playback is one VP9 stream in which each frame holds source and coded side
by side, so that the two cannot get out of step; the worst frames are stills of their own, nearer to the truth.

A plotting library that can be put inside a page (plotly) brings over 3 MB of script, most of what a page may weigh,
and would have to be vendored to draw a dozen lines: the page draws its curves itself.
"""

from __future__ import annotations

import html
import json
import math
import re
import tempfile
from base64 import b64encode
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from importlib.resources import files
from itertools import chain
from typing import IO, Any, TextIO

import av
import cv2
import numpy as np

from sdvideo.frames import Colour, Picture
from sdvideo.media.colour import apply_tags, to_frame, to_rgb, usual_matrix
from sdvideo.metrics.flicker import flicker_map
from sdvideo.motion.source_motion import source_motion

# Bytes before base64, which adds a third: a page of ten seconds stays under 5 MB.
_FILM_BYTES = 2_350_000  # for each ten seconds of playback, and for anything shorter
_STILL_BYTES = 1_150_000  # for all stills together

_MOST_FRAMES = 600  # in the playback; of longer videos it shows a selection
_MOST_PIXELS = 854 * 480  # of a picture in the playback; larger ones are scaled down
_KEY_INTERVAL = 24  # frames from one key frame of the playback to the next: showing one decodes no more than these
# How the playback is coded at first, and again where that turns out too large: scale of a side, quantiser, and the
# share of the first size that comes out (of three clips, the least: where it is more, the next one is tried).
_FIRST_CRF = 20
_SMALLER = (
    (1, 25, 0.78),
    (1, 30, 0.53),
    (1, 34, 0.39),
    (0.75, 31, 0.27),
    (0.75, 35, 0.20),
    (0.75, 40, 0.13),
    (0.75, 44, 0.10),
    (0.5, 42, 0.07),
    (0.5, 47, 0.045),
    (0.5, 56, 0),
)

# Quality of WebP and scale of a still: the first that fits.
_STILLS = ((90, 1.0), (82, 1.0), (74, 1.0), (66, 1.0), (66, 0.75), (66, 0.5), (50, 0.5))
_SAMPLES = 24  # frames that the map of the whole clip is made from
_NEAR = 9  # side, in pixels, of the squares in which a map of flicker takes its means
_TOPS = (4, 8, 16, 32, 64)  # grey levels that the scale of a map may end at
# Colours of a map from 0 to the top: red, green, blue, opacity. Where nothing flickers the picture shines through.
_RAMP = ((40, 20, 110, 0), (110, 30, 150, 120), (210, 60, 100, 200), (250, 150, 50, 235), (255, 245, 180, 255))


@dataclass(frozen=True, slots=True)
class Pair:
    """A frame of both videos. number: from 0; original, coded: of one size."""

    number: int
    original: Picture
    coded: Picture


def write_page(file: TextIO, document: dict[str, Any], pairs: Iterable[Pair], colour: Colour) -> None:
    """Write the page.

    document: of Report.document(). pairs: all frames in order, a second pass over both videos; colour: what their code
    values mean.
    """
    count, rate = document["summary"]["frames"], _rate(document)
    worst = sorted({number for numbers in document["summary"]["worst"].values() for number in numbers})
    kept = select(count, worst, rate)
    chosen, stills = set(kept), _Stills(worst, count, colour)
    pairs = iter(pairs)
    first = next(pairs)
    size, tags = _playback_size(first.original), _playback_colour(first.original, colour)
    with tempfile.TemporaryFile() as film:
        with _webm(film, size, rate, _FIRST_CRF, tags) as encode:
            for pair in chain((first,), pairs):
                stills.add(pair)
                if pair.number in chosen:
                    encode(to_frame(_beside(pair, size), tags))
        size, video = _fit(film, int(_FILM_BYTES * max(1.0, len(kept) / rate / 10)), size, rate, tags)
    playback = {"rate": float(rate), "kept": kept, "width": size[0], "height": size[1]}
    fields = {
        "title": html.escape(re.split(r"[/\\]", document["info"]["distorted"]["path"])[-1]),
        "data": _json(_data(document) | {"playback": playback}),
        "stills": _json(stills.document()),
        "film": b64encode(video).decode(),
    }
    template = files("sdvideo").joinpath("templates", "report.html").read_text(encoding="utf-8")
    for i, part in enumerate(re.split(r"\{\{(\w+)\}\}", template)):
        file.write(fields[part] if i % 2 else part)
    file.flush()


def select(count: int, worst: Collection[int], rate: Fraction, most: int = _MOST_FRAMES) -> list[int]:
    """The numbers, rising, of the frames that the playback keeps of a video of count frames: at most `most`.

    All of them where they are few enough; else every k-th, and around each of the worst frames (as far as half of
    `most` goes) every frame up to a second before and after it.
    """
    if count <= most:
        return list(range(count))
    step = -(-count // (most // 2))
    reach = min(math.ceil(rate), (most // 2 // max(1, len(worst)) - 1) // 2)
    around = {number for place in worst for number in range(place - reach, place + reach + 1)}
    return sorted({number for number in around if 0 <= number < count} | set(range(0, count, step)))


# --- what the page's script reads ---------------------------------------------------------------------------


def _data(document: dict[str, Any]) -> dict[str, Any]:
    """The report with its frames turned into columns and rounded, which is a third of the size."""
    frames = document["frames"]
    names = ("seconds", "bytes", *(measure["name"] for measure in document["measures"]))
    columns = {name: [_rounded(row.get(name)) for row in frames] for name in names}
    keys = [row["frame"] for row in frames if row["type"] == "key"]
    return {name: value for name, value in document.items() if name != "frames"} | {"columns": columns, "keys": keys}


def _rounded(value: float | None) -> float | None:
    return value if value is None or isinstance(value, int) else round(value, 4)


def _json(value: object) -> str:
    """JSON without a "<", so that nothing in it can end the script element it stands in."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _rate(document: dict[str, Any]) -> Fraction:
    """Frames per second to play at."""
    summary = document["summary"]
    rate = document["info"]["reference"].get("frames_per_second") or summary["frames"] / (summary["seconds"] or 1)
    return Fraction(min(max(rate, 1), 240)).limit_denominator(1001)  # WebM counts in milliseconds


# --- playback -----------------------------------------------------------------------------------------------


def _playback_size(picture: Picture) -> tuple[int, int]:
    """Width and height of one picture in the playback, both even."""
    scale = min(1.0, math.sqrt(_MOST_PIXELS / (picture.width * picture.height)))
    return _even(picture.width * scale), _even(picture.height * scale)


def _even(side: float) -> int:
    return max(2, math.ceil(side / 2) * 2)


def _playback_colour(picture: Picture, colour: Colour) -> Colour:
    """With the matrix named: what unspecified means goes by the source's height, which the playback may not have."""
    return Colour(colour.full_range, colour.matrix if colour.matrix != 2 else usual_matrix(picture.height))


def _beside(pair: Pair, size: tuple[int, int]) -> Picture:
    """Source (left) and coded (right), each of that width and height."""
    width, height = size
    sizes = {"y": (width, height), "u": (width // 2, height // 2), "v": (width // 2, height // 2)}
    sides = (pair.original, pair.coded)
    return Picture(**{n: np.hstack([_fitted(getattr(side, n), *sizes[n]) for side in sides]) for n in sizes})


def _fitted(plane: np.ndarray, width: int, height: int) -> np.ndarray:
    """The plane with its last row and column repeated where an odd one lacks one, else scaled."""
    down, right = height - plane.shape[0], width - plane.shape[1]
    if down in (0, 1) and right in (0, 1):
        return cv2.copyMakeBorder(plane, 0, down, 0, right, cv2.BORDER_REPLICATE)
    return cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA)


@contextmanager
def _webm(
    file: IO[bytes], size: tuple[int, int], rate: Fraction, crf: int, colour: Colour
) -> Iterator[Callable[[av.VideoFrame], None]]:
    """Yield what takes the frames, two pictures of that size each, of a VP9 stream that ends with the block."""
    options = {"crf": str(crf), "deadline": "realtime", "cpu-used": "7", "row-mt": "1"}
    with av.open(file, "w", format="webm") as container:
        stream = container.add_stream("libvpx-vp9", rate=rate, options=options)
        encoder = stream.codec_context
        encoder.width, encoder.height, encoder.pix_fmt = 2 * size[0], size[1], "yuv420p"
        encoder.bit_rate, encoder.gop_size = 0, _KEY_INTERVAL
        apply_tags(encoder, colour)
        count = 0

        def encode(frame: av.VideoFrame) -> None:
            nonlocal count
            frame.pts, frame.time_base = count, 1 / rate
            count += 1
            container.mux(stream.encode(frame))

        yield encode
        container.mux(stream.encode(None))


def _fit(
    film: IO[bytes], most: int, size: tuple[int, int], rate: Fraction, colour: Colour
) -> tuple[tuple[int, int], bytes]:
    """The stream, coded again until it has at most so many bytes, and the size of one picture in it."""
    length = film.seek(0, 2)
    tries = [(scale, crf) for scale, crf, share in _SMALLER if share * length <= most]
    with tempfile.TemporaryFile() as smaller:
        result, best = film, size
        while length > most and tries:
            scale, crf = tries.pop(0)
            result, best = smaller, (_even(size[0] * scale), _even(size[1] * scale))
            smaller.truncate(smaller.seek(0))
            film.seek(0)
            with av.open(film) as container, _webm(smaller, best, rate, crf, colour) as encode:
                container.streams.video[0].thread_type = "AUTO"
                for frame in container.decode(video=0):
                    encode(frame.reformat(2 * best[0], best[1], interpolation="AREA"))
            length = smaller.seek(0, 2)
        result.seek(0)
        return best, result.read()


# --- stills and maps ----------------------------------------------------------------------------------------


class _Stills:
    """The worst frames as pictures, each with a map of where it flickers, and such a map of the whole clip."""

    def __init__(self, worst: list[int], count: int, colour: Colour) -> None:
        self._worst, self._middle, self._colour = worst, count // 2, colour
        self._samples = {count * (2 * i + 1) // (2 * _SAMPLES) for i in range(_SAMPLES)}
        self._room = _STILL_BYTES // (len(worst) + 1)
        self._pictures: dict[int, tuple[float, list[bytes]]] = {}
        self._maps: dict[int, np.ndarray] = {}
        self._before: Pair | None = None
        self._sampled = 0
        self._squares: np.ndarray | None = None  # sums of d_t² and how often it was seen: float32 [2, H, W]

    def add(self, pair: Pair) -> None:
        """The next frame."""
        number, before, self._before = pair.number, self._before, pair
        if number in self._worst or number == self._middle:
            pictures = [to_rgb(picture, self._colour)[..., ::-1] for picture in (pair.original, pair.coded)]
            self._pictures[number] = _shrunk(pictures, self._room * 5 // 6)  # the rest is for the map
        if before is None or not (number in self._worst or number in self._samples):
            return
        motion = source_motion(before.original.y, pair.original.y)
        if motion.cut:
            return
        change = flicker_map(motion, before.original.y, pair.original.y, before.coded.y, pair.coded.y)
        squares, seen = np.square(np.nan_to_num(change)), motion.visible.astype(np.float32)
        if number in self._worst:
            self._maps[number] = _nearby(squares, seen)
        if number in self._samples:
            self._sampled += 1
            self._squares = np.stack((squares, seen)) + (0 if self._squares is None else self._squares)

    def document(self) -> dict[str, Any]:
        """For the page's script: pictures and maps as data URLs. The maps of all frames have one scale."""
        top = _top(self._maps.values())
        whole = None
        if self._squares is not None:
            levels = _nearby(*self._squares)
            whole = self._still(self._middle, levels, _top([levels]))
        stills = [self._still(number, self._maps.get(number), top) for number in self._worst]
        return {"ramp": _RAMP, "samples": self._sampled, "whole": whole, "frames": stills}

    def _still(self, number: int, levels: np.ndarray | None, top: int) -> dict[str, Any]:
        scale, (source, coded) = self._pictures[number]
        heat = None if levels is None else _url(_webp(_coloured(levels, top), 75))
        pictures = {"source": _url(source), "coded": _url(coded), "heat": heat}
        return {"frame": number, "scale": scale, "top": top, **pictures}


def _top(maps: Iterable[np.ndarray]) -> int:
    """Grey levels that the scale of these maps ends at: all but the uppermost half percent are below."""
    known = [levels[~np.isnan(levels)] for levels in maps]
    high = np.percentile(np.concatenate(known), 99.5) if any(map(len, known)) else 0
    return next((top for top in _TOPS if top >= high), _TOPS[-1])


def _shrunk(pictures: list[np.ndarray], most: int) -> tuple[float, list[bytes]]:
    """Scale, and the pictures as WebP, coded alike: in `most` bytes together if that can be."""
    for quality, scale in _STILLS:
        scaled = [cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for picture in pictures]
        coded = [_webp(picture, quality) for picture in scaled]
        if sum(map(len, coded)) <= most:
            break
    return scale, coded


def _nearby(squares: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Root of the local mean of d_t², float32 [H / 2, W / 2] in grey levels; NaN where none was seen.

    squares, seen: float32 [H, W], sums of d_t² and how often it was seen.
    """
    total, times = (cv2.blur(plane, (_NEAR, _NEAR), borderType=cv2.BORDER_REFLECT) for plane in (squares, seen))
    mean = np.full_like(total, np.nan)
    np.divide(total, times, out=mean, where=(times > 1e-3) & (seen > 0))
    return np.sqrt(np.maximum(mean, 0))[::2, ::2]


def _coloured(levels: np.ndarray, top: float) -> np.ndarray:
    """A map as a picture to lay over a frame: uint8 [H, W, 4], blue first; hatched where levels are NaN."""
    share = np.clip(np.nan_to_num(levels) / top, 0, 1)
    places = np.linspace(0, 1, len(_RAMP))
    picture = np.stack([np.interp(share, places, band) for band in zip(*_RAMP)], -1)
    rows, columns = np.indices(levels.shape)
    hatch = ((rows + columns) % 8 < 2)[..., None] * np.array([150, 150, 150, 170])
    return np.where(np.isnan(levels)[..., None], hatch, picture).round().astype(np.uint8)[..., [2, 1, 0, 3]]


def _webp(picture: np.ndarray, quality: int) -> bytes:
    return cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()


def _url(webp: bytes) -> str:
    return "data:image/webp;base64," + b64encode(webp).decode()
