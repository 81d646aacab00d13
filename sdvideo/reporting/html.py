"""Writes a report as one HTML page that loads nothing else: curves, worst frames, and synchronous playback.

The page holds re-encoded pictures. Playback is one VP9 stream in which each frame holds the source and the decoded
picture side by side, so that the two cannot get out of step. The worst frames are still pictures of higher quality.

The page draws its curves itself. A plotting library that can be embedded, such as plotly, adds over 3 MB of script,
which is most of what a page may weigh, and would have to be vendored to draw a dozen lines.
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

from sdvideo.frames import Colour, Picture, extend_edges
from sdvideo.media.colour import apply_tags, to_frame, to_rgb, usual_matrix
from sdvideo.metrics import MEASURES
from sdvideo.metrics.flicker import flicker_map
from sdvideo.motion.source_motion import source_motion

# Bytes before base64, which adds a third: a page for ten seconds of video stays under 5 MB.
_PLAYBACK_BYTES = 2_350_000  # for every ten seconds of playback, and for anything shorter
_STILL_BYTES = 1_150_000  # for all still pictures together

_MAX_FRAMES = 600  # in the playback; of a longer video it shows a selection
_MAX_PIXELS = 854 * 480  # of a picture in the playback; larger ones are scaled down
_KEY_INTERVAL = 24  # frames between key frames of the playback: the most that the browser decodes to show one
# The playback is encoded at this CRF, and again if it is too large. A row is a scale of its sides, a CRF, and the share
# of the first size that these leave: the least of three clips, so for others the row after may be needed as well.
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

# WebP quality and scale of a still picture: the first row that fits is used.
_STILLS = ((90, 1.0), (82, 1.0), (74, 1.0), (66, 1.0), (66, 0.75), (66, 0.5), (50, 0.5))
_SAMPLES = 24  # frames from which the flicker map of the whole clip is made
_MAP_WINDOW = 9  # side in pixels of the squares over which a flicker map is averaged
_TOPS = (4, 8, 16, 32, 64)  # grey levels at which the scale of a map may end
# Colours of a map from 0 to the top: red, green, blue, opacity. Where nothing flickers the picture shows through.
_RAMP = ((40, 20, 110, 0), (110, 30, 150, 120), (210, 60, 100, 200), (250, 150, 50, 235), (255, 245, 180, 255))


@dataclass(frozen=True, slots=True)
class Pair:
    """A frame of both videos. number: from 0. source, decoded: of the same size."""

    number: int
    source: Picture
    decoded: Picture


def write_page(file: TextIO, document: dict[str, Any], pairs: Iterable[Pair], colour: Colour) -> None:
    """Write the page.

    document: of Report.document(). pairs: all frames in order, from a second pass over both videos. colour: the meaning
    of their code values.
    """
    count, rate = document["summary"]["frames"], _rate(document)
    worst = sorted({number for numbers in document["summary"]["worst"].values() for number in numbers})
    kept = select_frames(count, worst, rate)
    chosen, stills = set(kept), _Stills(worst, count, colour)
    pairs = iter(pairs)
    first = next(pairs)
    size, tags = _playback_size(first.source), _playback_colour(first.source, colour)
    with tempfile.TemporaryFile() as film:
        with _webm(film, size, rate, _FIRST_CRF, tags) as encode:
            for pair in chain((first,), pairs):
                stills.add(pair)
                if pair.number in chosen:
                    encode(to_frame(_side_by_side(pair, size), tags))
        size, video = _fit(film, int(_PLAYBACK_BYTES * max(Fraction(1), len(kept) / rate / 10)), size, rate, tags)
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


def select_frames(count: int, worst: Collection[int], rate: Fraction, most: int = _MAX_FRAMES) -> list[int]:
    """The numbers, rising, of the frames of a video of `count` frames that the playback shows: at most `most`.

    All of them if they are few enough. Else every k-th, and every frame up to a second before and after each of the
    worst frames, or less if that would be more than half of `most`.
    """
    if count <= most:
        return list(range(count))
    step = -(-count // (most // 2))
    reach = min(math.ceil(rate), (most // 2 // max(1, len(worst)) - 1) // 2)
    around = {number for place in worst for number in range(place - reach, place + reach + 1)}
    return sorted({number for number in around if 0 <= number < count} | set(range(0, count, step)))


# --- data for the page's script -----------------------------------------------------------------------------


def _data(document: dict[str, Any]) -> dict[str, Any]:
    """The report with its frames as columns of rounded numbers, which is a third of the size."""
    frames = document["frames"]
    names = ("seconds", "bytes", *(measure["name"] for measure in document["measures"]))
    columns = {name: [_rounded(row.get(name)) for row in frames] for name in names}
    keys = [row["frame"] for row in frames if row["type"] == "key"]
    meanings = {measure.name: measure.meaning for measure in MEASURES}
    rest = {name: value for name, value in document.items() if name != "frames"}
    return rest | {"columns": columns, "keys": keys, "meanings": meanings}


def _rounded(value: float | None) -> float | None:
    return value if value is None or isinstance(value, int) else round(value, 4)


def _json(value: object) -> str:
    """JSON without "<", so that nothing in it can end the script element that holds it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _rate(document: dict[str, Any]) -> Fraction:
    """Frames per second of the playback, 1 to 240."""
    summary = document["summary"]
    rate = document["info"]["reference"].get("frames_per_second") or summary["frames"] / (summary["seconds"] or 1)
    return Fraction(min(max(rate, 1), 240)).limit_denominator(1001)  # WebM counts in milliseconds


# --- playback -----------------------------------------------------------------------------------------------


def _playback_size(picture: Picture) -> tuple[int, int]:
    """Width and height of one picture in the playback, both even."""
    scale = min(1.0, math.sqrt(_MAX_PIXELS / (picture.width * picture.height)))
    return _even(picture.width * scale), _even(picture.height * scale)


def _even(side: float) -> int:
    return max(2, math.ceil(side / 2) * 2)


def _playback_colour(picture: Picture, colour: Colour) -> Colour:
    """Range and matrix. An unspecified matrix depends on the height, which may change, so it becomes a named one."""
    return Colour(colour.full_range, colour.matrix if colour.matrix != 2 else usual_matrix(picture.height))


def _side_by_side(pair: Pair, size: tuple[int, int]) -> Picture:
    """Source (left) and decoded picture (right), each of this width and height."""
    width, height = size
    sizes = {"y": (width, height), "u": (width // 2, height // 2), "v": (width // 2, height // 2)}
    sides = (pair.source, pair.decoded)
    return Picture(**{n: np.hstack([_resized(getattr(side, n), *sizes[n]) for side in sides]) for n in sizes})


def _resized(plane: np.ndarray, width: int, height: int) -> np.ndarray:
    """The plane scaled, or with its last row or column repeated if only that is missing."""
    below, right = height - plane.shape[0], width - plane.shape[1]
    if below in (0, 1) and right in (0, 1):
        return extend_edges(plane, height, width)
    return cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA)


@contextmanager
def _webm(
    file: IO[bytes], size: tuple[int, int], rate: Fraction, crf: int, colour: Colour
) -> Iterator[Callable[[av.VideoFrame], None]]:
    """Yield a function that encodes the next frame, two pictures of this size, into a VP9 stream in a WebM file.

    The file is complete after the block.
    """
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
    """Encode a stream again until it has at most `most` bytes, as far as _SMALLER goes.

    Returns the size of one picture in it, and the stream.
    """
    length = film.seek(0, 2)
    tries = [(scale, crf) for scale, crf, share in _SMALLER if share * length <= most]
    with tempfile.TemporaryFile() as smaller:
        result, best = film, size
        while length > most and tries:
            scale, crf = tries.pop(0)
            result, best = smaller, (_even(size[0] * scale), _even(size[1] * scale))
            smaller.truncate(smaller.seek(0))
            film.seek(0)
            with av.open(film, "r") as container, _webm(smaller, best, rate, crf, colour) as encode:
                container.streams.video[0].thread_type = "AUTO"
                for frame in container.decode(video=0):
                    encode(frame.reformat(2 * best[0], best[1], interpolation="AREA"))
            length = smaller.seek(0, 2)
        result.seek(0)
        return best, result.read()


# --- still pictures and flicker maps ------------------------------------------------------------------------


class _Stills:
    """The worst frames as still pictures, each with a map of where it flickers, and such a map of the whole clip."""

    def __init__(self, worst: list[int], count: int, colour: Colour) -> None:
        self._worst, self._middle, self._colour = worst, count // 2, colour
        self._samples = {count * (2 * i + 1) // (2 * _SAMPLES) for i in range(_SAMPLES)}
        self._bytes = _STILL_BYTES // (len(worst) + 1)  # for one frame
        self._pictures: dict[int, tuple[float, list[bytes]]] = {}
        self._maps: dict[int, np.ndarray] = {}
        self._previous: Pair | None = None
        self._sampled = 0
        self._sums: np.ndarray | None = None  # of d_t² and of visibility, over the samples: float32 [2, H, W]

    def add(self, pair: Pair) -> None:
        """Take the next frame."""
        number, previous, self._previous = pair.number, self._previous, pair
        if number in self._worst or number == self._middle:
            pictures = [to_rgb(picture, self._colour)[..., ::-1] for picture in (pair.source, pair.decoded)]
            self._pictures[number] = _compressed(pictures, self._bytes * 5 // 6)  # the rest is for the map
        if previous is None or not (number in self._worst or number in self._samples):
            return
        motion = source_motion(previous.source.y, pair.source.y)
        if motion.cut:
            return
        new_error = flicker_map(motion, previous.source.y, pair.source.y, previous.decoded.y, pair.decoded.y)
        squares, visible = np.square(np.nan_to_num(new_error)), motion.visible.astype(np.float32)
        if number in self._worst:
            self._maps[number] = _local_rms(squares, visible)
        if number in self._samples:
            self._sampled += 1
            self._sums = np.stack((squares, visible)) + (0 if self._sums is None else self._sums)

    def document(self) -> dict[str, Any]:
        """For the page's script: pictures and maps as data URLs. The maps of single frames have one scale."""
        top = _top(self._maps.values())
        whole = None
        if self._sums is not None:
            levels = _local_rms(*self._sums)
            whole = self._still(self._middle, levels, _top([levels]))
        stills = [self._still(number, self._maps.get(number), top) for number in self._worst]
        return {"ramp": _RAMP, "samples": self._sampled, "whole": whole, "frames": stills}

    def _still(self, number: int, levels: np.ndarray | None, top: int) -> dict[str, Any]:
        scale, (source, decoded) = self._pictures[number]
        heat = None if levels is None else _url(_webp(_coloured(levels, top), 75))
        pictures = {"source": _url(source), "coded": _url(decoded), "heat": heat}
        return {"frame": number, "scale": scale, "top": top, **pictures}


def _top(maps: Iterable[np.ndarray]) -> int:
    """The grey levels at which the scale of these maps ends: above all values but the highest half percent."""
    known = [levels[~np.isnan(levels)] for levels in maps]
    high = np.percentile(np.concatenate(known), 99.5) if any(map(len, known)) else 0
    return next((top for top in _TOPS if top >= high), _TOPS[-1])


def _compressed(pictures: list[np.ndarray], most: int) -> tuple[float, list[bytes]]:
    """Pictures as WebP, all at the best row of _STILLS at which they take at most `most` bytes, or at the last row.

    Returns the scale and the files.
    """
    for quality, scale in _STILLS:
        scaled = [cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for picture in pictures]
        coded = [_webp(picture, quality) for picture in scaled]
        if sum(map(len, coded)) <= most:
            break
    return scale, coded


def _local_rms(squares: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Root of the local mean of d_t², float32 [H / 2, W / 2] in grey levels; NaN for pixels that were never visible.

    squares, visible: float32 [H, W], the sum of d_t² and in how many frames the pixel was visible.
    """
    window = (_MAP_WINDOW, _MAP_WINDOW)
    total, times = (cv2.blur(plane, window, borderType=cv2.BORDER_REFLECT) for plane in (squares, visible))
    mean = np.full_like(total, np.nan)
    np.divide(total, times, out=mean, where=(times > 1e-3) & (visible > 0))
    return np.sqrt(np.maximum(mean, 0))[::2, ::2]


def _coloured(levels: np.ndarray, top: float) -> np.ndarray:
    """A map as a picture to lay over a frame: uint8 [H, W, 4] (blue, green, red, opacity); hatched where it is NaN."""
    share = np.clip(np.nan_to_num(levels) / top, 0, 1)
    places = np.linspace(0, 1, len(_RAMP))
    picture = np.stack([np.interp(share, places, band) for band in zip(*_RAMP)], -1)
    stripes = np.indices(levels.shape).sum(0) % 8 < 2
    hatch = stripes[..., None] * np.array([150, 150, 150, 170])
    return np.where(np.isnan(levels)[..., None], hatch, picture).round().astype(np.uint8)[..., [2, 1, 0, 3]]


def _webp(picture: np.ndarray, quality: int) -> bytes:
    return cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()


def _url(webp: bytes) -> str:
    return "data:image/webp;base64," + b64encode(webp).decode()
