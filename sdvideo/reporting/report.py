"""Compares a video with its source, frame by frame and as a whole: how close it is, and how steady.

    result = sdvideo.report("clip.mp4", "clip.sdv", json="clip.json", csv="clip.csv", html="clip.html")
    print(result.summary["mcf"]["clip"], result.summary["worst"]["mcf"])

What is compared are upright 8-bit 4:2:0 code values. The measures are listed in `metrics/__init__.py` and defined in
`metrics/fidelity.py`, `metrics/flicker.py` and `metrics/vmaf.py`. Bytes are those of the video alone. For an .sdv they
are the data of each frame, and in the summary the groups; the data of a key frame holds the frame headers of its whole
group (see `codecs/av1/header_compression.py`). For other files they are the packets.

The JSON (schema 1; later versions may add keys, but never change the meaning of these):
    schema, type, version   1, "report", and the version of sdvideo that wrote it
    info.reference          path, width, height, frames_per_second (null: not known)
    info.distorted          the same; for an .sdv also model, base and settings
    info.notes              what --align did, or how times differ, in words
    measures                name, title, unit and better ("higher", "lower" or "one") of every measure, in order
    summary                 frames, key_frames, seconds, bytes, kbit_per_second;
                            cuts: the numbers of the frames after a scene cut, which the temporal measures leave out;
                            kp: key-frame pop, null if no group starts inside the clip;
                            worst: by measure, the numbers of the frames to look at, worst first;
                            for every measure clip, mean, min, p5, p50, p95, max. clip is the value of the whole video:
                            for mcf, phi and r_w it is computed from means over all frames, for others it is the mean
    frames                  one object per frame: frame (number), seconds (after the first), type ("key" or
                            "predicted"), bytes, cut, then every measure; null if it cannot be measured
The columns of the CSV are the keys of a frame's object; null is an empty cell, cut is 0 or 1.
"""

from __future__ import annotations

import csv as csv_format
import json as json_format
import logging
import math
import os
from array import array
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from sdvideo.errors import SettingError
from sdvideo.metrics import MEASURES, Measure, new_meters
from sdvideo.motion.source_motion import SourceMotion, source_motion
from sdvideo.runtime.output_files import check_output, standard_output, whole_file
from sdvideo.runtime.prefetch import prefetch
from sdvideo.settings import ProgressCallback
from sdvideo.version import __version__

from .html import Pair, write_page
from .pairing import ComparedVideo, SizedFrame, open_video, pair_frames

log = logging.getLogger("sdvideo")

_WORST = 3  # frames that are named as the worst, for each of two measures
_WORST_APART = 0.5  # seconds between any two of them


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a comparison.

    info: the two videos. summary: all frames together. Both are specified in this module's docstring. columns:
    "seconds", "key", "bytes", "cut" and the measures, each an array with a number per frame (NaN: not measured); a film
    has too many frames for lists.
    """

    info: dict[str, Any]
    summary: dict[str, Any]
    columns: dict[str, array[Any]]

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The measures that were taken, in order."""
        return tuple(measure for measure in MEASURES if measure.name in self.columns)

    def frames(self) -> Iterator[dict[str, Any]]:
        """One row per frame, as in the JSON and the CSV."""
        columns, names = self.columns, [measure.name for measure in self.measures]
        for number in range(len(columns["key"])):
            yield {
                "frame": number,
                "seconds": round(columns["seconds"][number], 6),
                "type": "key" if columns["key"][number] else "predicted",
                "bytes": columns["bytes"][number],
                "cut": bool(columns["cut"][number]),
                **{name: _rounded(columns[name][number]) for name in names},
            }

    def document(self) -> dict[str, Any]:
        """The whole report as JSON values, as specified in this module's docstring."""
        return self._without_frames() | {"frames": list(self.frames())}

    def write_json(self, file: TextIO) -> None:
        """Write the document as one object on one line."""
        file.write(json_format.dumps(self._without_frames(), ensure_ascii=False)[:-1] + ', "frames": [')
        for row in self.frames():
            file.write((", " if row["frame"] else "") + json_format.dumps(row))
        file.write("]}\n")
        file.flush()

    def write_csv(self, file: TextIO) -> None:
        """Write a header line, then one line per frame (RFC 4180)."""
        names = ["frame", "seconds", "type", "bytes", "cut", *(measure.name for measure in self.measures)]
        rows = csv_format.DictWriter(file, names)
        rows.writeheader()
        rows.writerows(row | {"cut": int(row["cut"])} for row in self.frames())
        file.flush()

    def _without_frames(self) -> dict[str, Any]:
        keys = ("name", "title", "unit", "better")
        return {
            "schema": 1,
            "type": "report",
            "version": __version__,
            "info": self.info,
            "measures": [{key: getattr(measure, key) for key in keys} for measure in self.measures],
            "summary": self.summary,
        }


def report(
    reference: str | os.PathLike[str],
    distorted: str | os.PathLike[str],
    *,
    json: str | os.PathLike[str] | None = None,
    csv: str | os.PathLike[str] | None = None,
    html: str | os.PathLike[str] | None = None,
    align: bool = False,
    model: str | None = None,
    device: str = "auto",
    look: float | str | None = None,
    progress: ProgressCallback = lambda done, total, size, rate: None,
) -> Report:
    """Compare a video with its source.

    reference, distorted: any video or .sdv file, of the same size, frame rate and number of frames. align: accept
    videos that differ in these; frames are paired by time, and pictures are scaled to the size of the reference. json,
    csv, html: files to write the result to, replaced if they exist; "-" is standard output. model, device, look: for
    an .sdv, see VideoReader. progress: see settings.py; called after every frame. VMAF and XPSNR are measured if the
    extra sdvideo[vmaf] is installed. Raises the errors of errors.py.
    """
    targets = [os.fspath(target) for target in (json, csv, html) if target is not None]
    if twice := next((target for target in targets if targets.count(target) > 1), None):
        raise SettingError(f"two results cannot both go to {twice}")
    for target in set(targets) - {"-"}:
        for source in (reference, distorted):
            check_output(Path(target), source, overwrite=True)
    with open_video(reference, model, device, look) as original, open_video(distorted, model, device, look) as decoded:
        result = _compare(original, decoded, align, progress)
        for output, write in ((json, result.write_json), (csv, result.write_csv)):
            if output is not None:
                with _text_file(os.fspath(output)) as file:
                    write(file)
        if html is not None:
            with pair_frames(original, decoded, align, notes=[]) as pairs, _text_file(os.fspath(html)) as file:
                pictures = (Pair(n, x.frame.picture, y.frame.picture) for n, (x, y) in enumerate(pairs))
                write_page(file, result.document(), pictures, original.info.colour)
    return result


def _compare(reference: ComparedVideo, distorted: ComparedVideo, align: bool, progress: ProgressCallback) -> Report:
    columns: dict[str, array[Any]] = {"seconds": array("d"), "key": array("b"), "bytes": array("q"), "cut": array("b")}
    clip: dict[str, float] = {}
    notes: list[str] = []
    info = reference.info
    first = last = None
    with ExitStack() as stack:
        meters = [stack.enter_context(meter) for meter in new_meters(info)]
        pairs = stack.enter_context(pair_frames(reference, distorted, align, notes))
        followed = stack.enter_context(prefetch(_with_motion(pairs)))
        for done, (source, decoded, motion) in enumerate(followed, 1):
            first, last = first or source.frame, source.frame
            cut = motion is not None and motion.cut
            seconds = float((last.pts - first.pts) * info.time_base)
            for name, value in (("seconds", seconds), ("key", decoded.key), ("bytes", decoded.bytes), ("cut", cut)):
                columns[name].append(value)
            for meter in meters:
                meter.add(source.frame.picture, decoded.frame.picture, None if cut else motion)
            progress(done, reference.total, 0, info.rate)
        for meter in meters:
            columns |= {name: array("d", values) for name, values in meter.finish().items()}
            clip |= meter.clip(columns["key"])
    assert first is not None and last is not None, "open_video refuses videos without frames"
    length = (last.pts - first.pts) * info.time_base + (last.duration * info.time_base or 1 / (info.rate or 25))
    for line in notes:
        log.warning("%s", line)
    about = {"reference": reference.about(), "distorted": distorted.about(), "notes": notes}
    return Report(about, _summary(columns, clip, float(length), distorted.video_bytes), columns)


def _with_motion(
    pairs: Iterable[tuple[SizedFrame, SizedFrame]],
) -> Iterator[tuple[SizedFrame, SizedFrame, SourceMotion | None]]:
    """Each pair with the motion of its source since the previous frame, None for the first pair."""
    previous = None
    for source, decoded in pairs:
        luma = source.frame.picture.y
        yield source, decoded, None if previous is None else source_motion(previous, luma)
        previous = luma


# --- all frames together ------------------------------------------------------------------------------------


def _summary(columns: dict[str, array[Any]], clip: dict[str, float], seconds: float, size: int) -> dict[str, Any]:
    """clip: the values of the whole video that are not means over its frames, see Meter.clip."""
    statistics = {m.name: _statistics(np.array(columns[m.name])) for m in MEASURES if m.name in columns}
    for name in statistics.keys() & clip.keys():
        statistics[name]["clip"] = _rounded(clip[name])
    return {
        "frames": len(columns["key"]),
        "key_frames": sum(columns["key"]),
        "seconds": round(seconds, 6),
        "bytes": size,
        "kbit_per_second": round(size * 8 / seconds / 1000, 3),
        "cuts": [number for number, cut in enumerate(columns["cut"]) if cut],
        "kp": _rounded(clip["kp"]),
        "worst": _worst(columns),
        **statistics,
    }


def _statistics(values: np.ndarray) -> dict[str, float | None]:
    known = values[~np.isnan(values)]
    if not known.size:
        return dict.fromkeys(("clip", "mean", "min", "p5", "p50", "p95", "max"))
    mean = known.mean()
    found = (mean, mean, *np.percentile(known, (0, 5, 50, 95, 100)))
    return {name: _rounded(value) for name, value in zip(("clip", "mean", "min", "p5", "p50", "p95", "max"), found)}


def _worst(columns: dict[str, array[Any]]) -> dict[str, list[int]]:
    """The frames that are furthest from their source, and those that flicker most."""
    detail = "psnr_y" if np.isnan(columns["ms_ssim"]).all() else "ms_ssim"
    return {name: _lowest(np.array(columns[name]), np.array(columns["seconds"])) for name in (detail, "mcf")}


def _lowest(values: np.ndarray, seconds: np.ndarray) -> list[int]:
    """The numbers of up to _WORST frames with the lowest values, lowest first, _WORST_APART from each other."""
    found: list[int] = []
    for number in np.argsort(values, kind="stable")[: np.count_nonzero(~np.isnan(values))]:
        if len(found) < _WORST and all(abs(seconds[number] - seconds[other]) >= _WORST_APART for other in found):
            found.append(int(number))
    return found


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 4)


@contextmanager
def _text_file(target: str) -> Iterator[TextIO]:
    """Standard output for "-", else a file that appears when it is complete."""
    if target == "-":
        with standard_output() as file:
            yield file
    else:
        with whole_file(Path(target)) as part, part.open("w", encoding="utf-8", newline="") as file:
            yield file
