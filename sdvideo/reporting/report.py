"""How close a coded video comes to its original and how steady it is, frame by frame and in all.

    result = sdvideo.report("clip.mp4", "clip.sdv", json="clip.json", csv="clip.csv", html="clip.html")
    print(result.summary["mcf"]["clip"], result.summary["worst"]["mcf"])

Pictures are compared as upright 8-bit 4:2:0 code values. What the measures are is said where they are made:
`fidelity.py`, `stability.py`, `vmaf.py`. Bytes are those of the video alone: in an .sdv the data of each frame (in the
summary: the groups), of which that of a key frame holds the heads of its whole group (see `heads.py`); elsewhere the
packets.

The JSON (schema 1; later versions may add keys, never change what these mean):
    schema, type, version   1, "report", and the sdvideo that wrote it
    info.reference          path, width, height, frames_per_second (null: not known)
    info.distorted          the same; of an .sdv also model, base and settings
    info.notes              what --align did, in words
    measures                name, title, unit and better ("higher", "lower" or "one") of every measure, in order
    summary                 frames, key_frames, seconds, bytes, kbit_per_second;
                            cuts: numbers of the frames after a cut, which are left out of the temporal measures;
                            kp: key-frame pop, null where no group starts inside the clip;
                            worst: by measure, the numbers of frames to look at, worst first;
                            for every measure clip, mean, min, p5, p50, p95, max. clip is what stands for the whole: of
                            mcf, phi and r_w taken from means over all frames, else the mean
    frames                  one object per frame: frame (number), seconds (after the first), type ("key" or
                            "predicted"), bytes, cut, then every measure; null where it cannot be measured
The CSV has the same columns as a frame's object; null is an empty cell, cut is 0 or 1.
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
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from sdvideo import __version__
from sdvideo.errors import SettingError
from sdvideo.frames import Picture
from sdvideo.metrics.fidelity import psnr, structure
from sdvideo.metrics.flicker import Flicker, flicker, key_frame_pop, whole
from sdvideo.metrics.vmaf import Scorer, can_score
from sdvideo.motion.source_motion import SourceMotion, source_motion
from sdvideo.runtime.output_files import check_output, standard_output, whole_file
from sdvideo.runtime.prefetch import ahead
from sdvideo.settings import ProgressCallback

from .html import Pair, write_page
from .pairing import Footage, Shown, footage, paired

log = logging.getLogger("sdvideo")

_WORST = 3  # frames named as the worst by each of two measures
_APART = 0.5  # seconds between two of them


@dataclass(frozen=True, slots=True)
class Measure:
    """name: its column; title: for people; unit: "" if it has none; better: "higher", "lower" or "one" (best at 1)."""

    name: str
    title: str
    unit: str
    better: str


MEASURES = (
    Measure("psnr", "PSNR", "dB", "higher"),
    Measure("psnr_y", "PSNR Y", "dB", "higher"),
    Measure("psnr_u", "PSNR U", "dB", "higher"),
    Measure("psnr_v", "PSNR V", "dB", "higher"),
    Measure("ssim", "SSIM", "", "higher"),
    Measure("ms_ssim", "MS-SSIM", "", "higher"),
    Measure("vmaf", "VMAF", "", "higher"),
    Measure("vmaf_neg", "VMAF NEG", "", "higher"),
    Measure("xpsnr", "XPSNR Y", "dB", "higher"),
    Measure("mcf", "MCF", "dB", "higher"),
    Measure("phi", "φ", "", "lower"),
    Measure("r_w", "R_w", "", "one"),
    Measure("delta_l", "ΔL", "grey levels", "lower"),
    Measure("coverage", "Coverage", "", "higher"),
)
_FIDELITY = ("psnr", "psnr_y", "psnr_u", "psnr_v", "ssim", "ms_ssim")
_STABILITY = ("mcf", "phi", "r_w", "delta_l", "coverage")
_PARTS = tuple(field.name for field in fields(Flicker))
_UNKNOWN = (math.nan,) * len(_PARTS)


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured.

    info: the two videos; summary: all frames together; columns: "seconds", "key", "bytes", "cut" and the measures, a
    number per frame each (NaN: not measured), in arrays because a film has many frames.
    """

    info: dict[str, Any]
    summary: dict[str, Any]
    columns: dict[str, array]

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Those that were taken, in order."""
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
        """All of it as JSON values, as specified in this module's docstring."""
        return self._head() | {"frames": list(self.frames())}

    def write_json(self, file: TextIO) -> None:
        """The document, as one object on one line."""
        file.write(json_format.dumps(self._head(), ensure_ascii=False)[:-1] + ', "frames": [')
        for row in self.frames():
            file.write((", " if row["frame"] else "") + json_format.dumps(row))
        file.write("]}\n")
        file.flush()

    def write_csv(self, file: TextIO) -> None:
        """A header line, then one line per frame (RFC 4180)."""
        names = ["frame", "seconds", "type", "bytes", "cut", *(measure.name for measure in self.measures)]
        rows = csv_format.DictWriter(file, names)
        rows.writeheader()
        rows.writerows(row | {"cut": int(row["cut"])} for row in self.frames())
        file.flush()

    def _head(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "type": "report",
            "version": __version__,
            "info": self.info,
            "measures": [asdict(measure) for measure in self.measures],
            "summary": self.summary,
        }


def report(
    reference: str | os.PathLike,
    distorted: str | os.PathLike,
    *,
    json: str | os.PathLike | None = None,
    csv: str | os.PathLike | None = None,
    html: str | os.PathLike | None = None,
    align: bool = False,
    model: str | None = None,
    device: str = "auto",
    progress: ProgressCallback = lambda done, total, size, rate: None,
) -> Report:
    """Compare a video with its original.

    reference, distorted: any video or .sdv file, of the same size, rate and number of frames. align: let them differ;
    frames are paired by time, and pictures scaled to the reference's size. json, csv, html: files to write the result
    to, written over if there; "-" is standard output. model: that an .sdv was made with, see VideoReader. progress:
    called after every frame with (frames done, frames in all or None, 0). VMAF and XPSNR are measured if the extra
    sdvideo[vmaf] is installed. Raises the errors of errors.py.
    """
    targets = [os.fspath(target) for target in (json, csv, html) if target is not None]
    if twice := next((target for target in targets if targets.count(target) > 1), None):
        raise SettingError(f"two results cannot both go to {twice}")
    for target in set(targets) - {"-"}:
        for source in (reference, distorted):
            check_output(Path(target), source, overwrite=True)
    with _both(reference, distorted, model, device) as (before, after):
        result = _compare(before, after, align, progress)
    for target, write in ((json, result.write_json), (csv, result.write_csv)):
        if target is not None:
            with _text_file(os.fspath(target)) as file:
                write(file)
    if html is not None:
        with (
            _both(reference, distorted, model, device) as (before, after),
            paired(before, after, align, notes=[]) as pairs,
            _text_file(os.fspath(html)) as file,
        ):
            pictures = (Pair(n, x.frame.picture, y.frame.picture) for n, (x, y) in enumerate(pairs))
            write_page(file, result.document(), pictures, before.info.colour)
    return result


@contextmanager
def _both(reference, distorted, model: str | None, device: str) -> Iterator[tuple[Footage, Footage]]:
    with footage(reference, model, device) as before, footage(distorted, model, device) as after:
        yield before, after


def _compare(before: Footage, after: Footage, align: bool, progress: ProgressCallback) -> Report:
    columns = {"seconds": array("d"), "key": array("b"), "bytes": array("q"), "cut": array("b")}
    columns |= {name: array("d") for name in (*_FIDELITY, *_STABILITY)}
    parts = [array("d") for _ in _PARTS]
    notes: list[str] = []
    info = before.info
    with ExitStack() as stack:
        scorer = stack.enter_context(Scorer(info)) if can_score(info) else None
        pairs = stack.enter_context(paired(before, after, align, notes))
        followed = stack.enter_context(ahead(_followed(pairs)))
        first = last = was = None
        for done, (x, y, motion) in enumerate(followed, 1):
            first, last = first or x.frame, x.frame
            now = last.picture, y.frame.picture
            temporal = _temporal(motion, was, now)
            row = (
                float((last.pts - first.pts) * info.time_base),
                y.key,
                y.bytes,
                motion is not None and motion.cut,
                *psnr(*now),
                *structure(now[0].y, now[1].y),
                *_stability(temporal),
            )
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
            for part, value in zip(parts, _UNKNOWN if temporal is None else astuple(temporal)):
                part.append(value)
            if scorer is not None:
                scorer.add(*now)
            was = now
            progress(done, before.total, 0, before.info.rate)
        if scorer is not None:
            columns |= {name: array("d", values) for name, values in scorer.finish().items()}
    length = (last.pts - first.pts) * info.time_base + (last.duration * info.time_base or 1 / (info.rate or 25))
    for line in notes:
        log.warning("%s", line)
    about = {"reference": before.about(), "distorted": after.about(), "notes": notes}
    return Report(about, _summary(columns, parts, float(length), after.video_bytes), columns)


def _followed(pairs: Iterable[tuple[Shown, Shown]]) -> Iterator[tuple[Shown, Shown, SourceMotion | None]]:
    """Each pair with the motion of its original since the one before."""
    before = None
    for x, y in pairs:
        luma = x.frame.picture.y
        yield x, y, None if before is None else source_motion(before, luma)
        before = luma


def _temporal(
    motion: SourceMotion | None, was: tuple[Picture, Picture] | None, now: tuple[Picture, Picture]
) -> Flicker | None:
    """What this pair and the one before tell; None of the first, after a cut, and where nothing can be followed."""
    if motion is None or motion.cut:
        return None
    return flicker(motion, was[0].y, now[0].y, was[1].y, now[1].y)


def _stability(found: Flicker | None) -> tuple[float, ...]:
    """In the order of _STABILITY."""
    if found is None:
        return (math.nan,) * len(_STABILITY)
    return found.mcf, found.phi, found.r_w, found.pump, found.coverage


# --- all frames together ------------------------------------------------------------------------------------


def _summary(columns: dict[str, array], parts: list[array], seconds: float, size: int) -> dict[str, Any]:
    statistics = {m.name: _statistics(np.array(columns[m.name])) for m in MEASURES if m.name in columns}
    known = [row for row in zip(*parts, columns["key"]) if not math.isnan(row[0])]
    kp = key_frame_pop([row[0] for row in known], [bool(row[-1]) for row in known])
    if known:
        clip = whole(Flicker(*row[:-1]) for row in known)
        for name, value in (("mcf", clip.mcf), ("phi", clip.phi), ("r_w", clip.r_w)):
            statistics[name]["clip"] = _rounded(value)
    return {
        "frames": len(columns["key"]),
        "key_frames": sum(columns["key"]),
        "seconds": round(seconds, 6),
        "bytes": size,
        "kbit_per_second": round(size * 8 / seconds / 1000, 3),
        "cuts": [number for number, cut in enumerate(columns["cut"]) if cut],
        "kp": _rounded(kp),
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


def _worst(columns: dict[str, array]) -> dict[str, list[int]]:
    """The frames that are furthest from the original, and those that flicker most, some distance apart."""
    detail = "psnr_y" if np.isnan(columns["ms_ssim"]).all() else "ms_ssim"
    return {name: _lowest(np.array(columns[name]), np.array(columns["seconds"])) for name in (detail, "mcf")}


def _lowest(values: np.ndarray, seconds: np.ndarray) -> list[int]:
    found: list[int] = []
    for number in np.argsort(values, kind="stable")[: np.count_nonzero(~np.isnan(values))]:
        if len(found) < _WORST and all(abs(seconds[number] - seconds[other]) >= _APART for other in found):
            found.append(int(number))
    return found


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 4)


@contextmanager
def _text_file(target: str) -> Iterator[TextIO]:
    if target == "-":
        with standard_output() as file:
            yield file
    else:
        with whole_file(Path(target)) as part, part.open("w", encoding="utf-8", newline="") as file:
            yield file
