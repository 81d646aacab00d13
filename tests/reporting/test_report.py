"""Reports: the measures of damage of a known kind, the outputs, and videos that differ.

The calibration pins the definitions in `sdvideo/metrics/flicker.py`: damage of a known kind is put into the sample
clip, which is stored without loss and reported on like any video.
"""

from __future__ import annotations

import csv
import gc
import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from conftest import Clips, Recipe, synthesise, write_clip

import sdvideo
from sdvideo.cli.describe import describe_report
from sdvideo.container import Reader
from sdvideo.errors import SourceError
from sdvideo.frames import Colour, Picture, StreamInfo
from sdvideo.media.colour import to_frame
from sdvideo.media.output import open_sink
from sdvideo.media.source import open_source
from sdvideo.metrics import MEASURES, Measure
from sdvideo.metrics.meter import Meter
from sdvideo.metrics.vmaf import find_ffmpeg
from sdvideo.motion.source_motion import SourceMotion

SAMPLE = Path(__file__).parents[2] / "samples" / "walk.mp4"
COUNT = 25  # frames of the sample: before its cut

needs_ffmpeg = pytest.mark.skipif(find_ffmpeg() is None, reason="imageio-ffmpeg is not installed")


def store(path: Path, pictures: list[Picture], options: dict[str, str]) -> Path:
    """Store pictures as H.264 with 25 frames per second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = pictures[0].width, pictures[0].height, "yuv420p"
        for number, picture in enumerate(pictures):
            frame = to_frame(picture, Colour())
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


LOSSLESS = {"qp": "0", "preset": "ultrafast"}


@pytest.fixture(scope="module")
def sample() -> list[Picture]:
    with open_source(SAMPLE) as video:
        return [frame.picture for frame in islice(video.frames(), COUNT)]


def plane_by_plane(change: Callable[[np.ndarray], np.ndarray], picture: Picture) -> Picture:
    return replace(picture, y=np.clip(np.round(change(picture.y)), 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def damaged(sample, tmp_path_factory) -> Iterator[Callable[[str], dict]]:
    """A function: the kind of damage -> the summary of the report on the sample with that damage."""
    folder = tmp_path_factory.mktemp("calibration")
    source = store(folder / "source.mkv", sample, LOSSLESS)
    noise = np.random.default_rng(7)
    changes = {
        "none": lambda number, y: y,
        "noise": lambda number, y: y + noise.normal(0, 5, y.shape),
        "pumping": lambda number, y: y.astype(int) + (4 if number % 2 else -4),
        "blur": lambda number, y: cv2.GaussianBlur(y, (0, 0), 1.2),
        "popping": lambda number, y: y if number % 8 == 0 else cv2.GaussianBlur(y, (0, 0), 1.2),
    }
    options = {"popping": LOSSLESS | {"g": "8", "keyint_min": "8", "sc_threshold": "0"}}
    coded = {"x264": {"crf": "32"}, "x264 intra": {"crf": "32", "g": "1"}}
    made: dict[str, dict] = {}

    def summary(kind: str) -> dict:
        if kind not in made:
            pictures = sample
            if kind in changes:
                pictures = [plane_by_plane(lambda y, n=n: changes[kind](n, y), p) for n, p in enumerate(sample)]
            target = store(folder / f"{kind}.mkv", pictures, coded.get(kind) or options.get(kind, LOSSLESS))
            made[kind] = sdvideo.report(source, target).summary
        return made[kind]

    yield summary


# --- calibration --------------------------------------------------------------------------------------------


def test_new_noise_in_every_frame_has_phi_one(damaged):
    assert 0.9 < damaged("noise")["phi"]["clip"] < 1.1


def test_alternating_luminance_flickers_more_than_noise(damaged):
    found = damaged("pumping")
    assert found["phi"]["clip"] > 1.8
    assert 7 < found["delta_l"]["clip"] < 9


def test_blur_is_steady_and_smoothing(damaged):
    found = damaged("blur")
    assert found["phi"]["clip"] < 0.15
    assert found["r_w"]["clip"] < 0.7


def test_a_clean_frame_at_every_group_start_pops(damaged):
    found = damaged("popping")
    assert found["key_frames"] == 4
    assert found["kp"] > 2


def test_an_identical_video_has_no_error_and_no_nan(damaged):
    found = damaged("none")
    assert (found["mcf"]["clip"], found["phi"]["clip"], found["r_w"]["clip"]) == (100, 0, 1)
    assert (found["psnr"]["min"], found["ms_ssim"]["min"], found["delta_l"]["max"]) == (100, 1, 0)
    assert "NaN" not in json.dumps(found) and "Infinity" not in json.dumps(found)


def test_intra_coding_flickers_more_than_inter_coding(damaged):
    inter, intra = damaged("x264"), damaged("x264 intra")
    assert intra["phi"]["clip"] > inter["phi"]["clip"]
    assert intra["r_w"]["clip"] > inter["r_w"]["clip"]
    assert inter["key_frames"] == 1 and intra["key_frames"] == COUNT


@needs_ffmpeg
def test_vmaf_and_xpsnr_prefer_the_better_video(damaged):
    none, coded, blur = damaged("none"), damaged("x264"), damaged("blur")
    for name in ("vmaf", "vmaf_neg", "xpsnr"):
        assert none[name]["p50"] >= 99 and none[name]["clip"] > coded[name]["clip"] > 20
    assert blur["vmaf"]["clip"] < 90


# --- reports ------------------------------------------------------------------------------------------------


def test_frames_at_cuts_are_listed_and_left_out(clips: Clips, tmp_path):
    clip = clips["cut"]
    result = sdvideo.report(clip.path, clip.path, json=tmp_path / "r.json")
    assert result.summary["cuts"] == [clip.cut]
    rows = json.loads((tmp_path / "r.json").read_text())["frames"]
    assert [row["frame"] for row in rows if row["cut"]] == [clip.cut]
    assert [row["frame"] for row in rows if row["mcf"] is None] == [0, clip.cut]


def test_the_worst_frames_are_found_and_some_distance_apart(sample, tmp_path):
    source = store(tmp_path / "source.mkv", sample, LOSSLESS)
    bad = {3: 30, 4: 31, 20: 20}
    rng = np.random.default_rng(0)
    pictures = [
        plane_by_plane(lambda y, n=n: y + rng.normal(0, bad.get(n, 0.1), y.shape), p) for n, p in enumerate(sample)
    ]
    result = sdvideo.report(source, store(tmp_path / "bad.mkv", pictures, LOSSLESS))
    assert result.summary["worst"]["ms_ssim"][:2] == [4, 20]
    assert result.summary["worst"]["mcf"][0] in (4, 5)


def test_all_outputs_agree(clips: Clips, tmp_path):
    clip = clips["cfr"].path
    result = sdvideo.report(clip, clip, json=tmp_path / "r.json", csv=tmp_path / "r.csv", html=tmp_path / "r.html")
    document = json.loads((tmp_path / "r.json").read_text())
    assert document == json.loads(json.dumps(result.document()))
    names = [measure["name"] for measure in document["measures"]]
    assert all(measure["better"] in ("higher", "lower", "one") for measure in document["measures"])
    assert set(names) < set(document["summary"])
    with (tmp_path / "r.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(document["frames"][0]) == ["frame", "seconds", "type", "bytes", "cut", *names]
    for row, wanted in zip(rows, document["frames"], strict=True):
        for name in names:
            assert row[name] == ("" if wanted[name] is None else str(wanted[name]))
    assert "<html" in (tmp_path / "r.html").read_text(encoding="utf-8")


class EdgeMeter(Meter):
    """A measure for the test below: the brightness of the first sample of every decoded picture."""

    def __init__(self, info: StreamInfo) -> None:
        self._values: list[float] = []

    def add(self, source: Picture, decoded: Picture, motion: SourceMotion | None = None) -> None:
        self._values.append(float(decoded.y[0, 0]))

    def finish(self) -> dict[str, list[float]]:
        return {"edge": self._values}


def test_a_measure_is_added_by_one_row(clips: Clips, tmp_path, monkeypatch):
    row = Measure("edge", "Edge", "grey levels", "lower", f"{__name__}:EdgeMeter", "Brightness at the edge.")
    for module in ("sdvideo.metrics", "sdvideo.reporting.report", "sdvideo.reporting.html"):
        monkeypatch.setattr(f"{module}.MEASURES", (*MEASURES, row))
    clip = clips["cfr"]
    result = sdvideo.report(clip.path, clip.path, csv=tmp_path / "r.csv", html=tmp_path / "r.html")
    document = result.document()
    assert document["measures"][-1] == {"name": "edge", "title": "Edge", "unit": "grey levels", "better": "lower"}
    values = [float(planes[0][0, 0]) for planes in clip.planes]
    assert [frame["edge"] for frame in document["frames"]] == pytest.approx(values, abs=3)
    assert document["summary"]["edge"]["max"] == pytest.approx(max(values), abs=3)
    assert (tmp_path / "r.csv").read_text().splitlines()[0].endswith(",coverage,edge")
    assert "Brightness at the edge." in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert any(line.startswith("Edge") for line in describe_report(result))


def test_an_sdv_is_opened_once(clips: Clips, tmp_path, monkeypatch):
    """Also with a page, which needs all pictures a second time."""
    coded, opened = tmp_path / "a.sdv", []
    sdvideo.encode(clips["cfr"].path, coded, preset="fast")
    open_reader = Reader.__init__
    monkeypatch.setattr(Reader, "__init__", lambda self, *args, **kw: opened.append(open_reader(self, *args, **kw)))
    sdvideo.report(clips["cfr"].path, coded, html=tmp_path / "r.html")
    assert len(opened) == 1


@pytest.mark.slow
def test_memory_does_not_grow_with_length(tmp_path):
    """400 more frames of 320x240 would be 46 MB; their rows are some 100 kB."""
    pictures = [Picture(*planes) for planes in synthesise(320, 240, 40)]
    peaks = []
    for times in (1, 11):
        path = store(tmp_path / f"{times}.mkv", pictures * times, {"qp": "20", "preset": "ultrafast"})
        script = (
            "import resource, sdvideo; "
            f"sdvideo.report({str(path)!r}, {str(path)!r}); "
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        peaks.append(int(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True).stdout))
    assert peaks[1] - peaks[0] < 16_000  # KiB


# --- videos that differ -------------------------------------------------------------------------------------


def shorter(folder: Path, name: str, ticks: tuple[int, ...], size=(96, 64)) -> Path:
    """The clip "cfr" of conftest with only the frames at these times."""
    pictures = synthesise(*size, 16)
    chosen = [pictures[tick // 512] for tick in ticks]
    write_clip(folder / name, chosen, Recipe(ticks=ticks, last_duration=ticks[-1] - ticks[-2]))
    return folder / name


def test_videos_that_differ_are_refused(clips: Clips, tmp_path):
    half = shorter(tmp_path, "half.mp4", tuple(range(0, 16 * 512, 1024)))
    with pytest.raises(SourceError, match=r"has 25 fps, .* 12\.5: .*--align"):
        sdvideo.report(clips["cfr"].path, half)
    with pytest.raises(SourceError, match=r"is 96x64, .* 128x72: .*--align"):
        sdvideo.report(clips["cfr"].path, clips["vfr"].path)
    begun = shorter(tmp_path, "begun.mp4", tuple(range(0, 10 * 512, 512)))
    with pytest.raises(SourceError, match=r"begun\.mp4 ends after 10 frames, .*--align"):
        sdvideo.report(clips["cfr"].path, begun)


def test_align_by_time(clips: Clips, tmp_path):
    """At half the rate every frame is used twice, the second time for the next frame of the source."""
    half = shorter(tmp_path, "half.mp4", tuple(range(0, 16 * 512, 1024)))
    result = sdvideo.report(clips["cfr"].path, half, align=True)
    exact = [row["frame"] for row in result.frames() if row["psnr"] > 40]
    assert exact == list(range(0, 16, 2))
    assert any("paired by time" in note for note in result.info["notes"])
    repeated = next(note for note in result.info["notes"] if "repeated" in note)
    assert int(re.match(r"\d+", repeated).group()) in (7, 8)
    with av.open(str(half)) as video:
        sizes = [packet.size for packet in video.demux(video=0) if packet.size]
    assert sum(row["bytes"] for row in result.frames()) == sum(sizes)


def test_align_of_lengths_and_sizes(clips: Clips, tmp_path):
    begun = shorter(tmp_path, "begun.mp4", tuple(range(0, 10 * 512, 512)))
    result = sdvideo.report(clips["cfr"].path, begun, align=True)
    assert result.summary["frames"] == 10 and result.summary["psnr"]["min"] > 40
    assert "6 frames of" in result.info["notes"][0] and "after the end" in result.info["notes"][0]
    swapped = sdvideo.report(begun, clips["cfr"].path, align=True)
    assert swapped.summary["frames"] == 10
    assert "6 frames of" in swapped.info["notes"][0] and "left out" in swapped.info["notes"][0]
    small = shorter(tmp_path, "small.mp4", tuple(range(0, 16 * 512, 512)), size=(48, 32))
    scaled = sdvideo.report(clips["cfr"].path, small, align=True)
    assert "scaled from 48x32 to 96x64" in scaled.info["notes"][0]
    assert scaled.summary["frames"] == 16


def test_videos_of_different_range_are_converted_only_with_align(tmp_path):
    """The same pictures in limited and in full range look the same, but their code values differ."""
    limited = [tuple(np.clip(plane, 16, 235) for plane in planes) for planes in synthesise(96, 64, 6)]
    stretch = (16, 0, 255 / 219), (128, 128, 255 / 224), (128, 128, 255 / 224)
    full = [
        tuple(
            np.clip(np.rint((plane.astype(float) - zero) * gain + to), 0, 255).astype(np.uint8)
            for plane, (zero, to, gain) in zip(planes, stretch, strict=True)
        )
        for planes in limited
    ]
    for name, pictures, span in (("limited", limited, 1), ("full", full, 2)):
        ticks = tuple(range(0, 6 * 512, 512))
        write_clip(tmp_path / f"{name}.mp4", pictures, Recipe(ticks=ticks), color_range=span, colorspace=1)
    paths = tmp_path / "limited.mp4", tmp_path / "full.mp4"
    with pytest.raises(SourceError, match=r"limited range, matrix 1 .* full range, matrix 1 .*--align"):
        sdvideo.report(*paths)
    for pair in (paths, paths[::-1]):
        result = sdvideo.report(*pair, align=True)
        assert result.summary["psnr_y"]["min"] > 50
        assert "was converted from" in result.info["notes"][0]


def test_align_changes_nothing_where_nothing_differs(clips: Clips):
    clip = clips["vfr"].path
    plain, with_align = (sdvideo.report(clip, clip, align=align) for align in (False, True))
    assert with_align.info["notes"] == []
    assert list(plain.frames()) == list(with_align.frames())


# --- ffmpeg -------------------------------------------------------------------------------------------------


@needs_ffmpeg
def test_a_report_that_ends_early_leaves_nothing_open(clips: Clips, tmp_path):
    begun = shorter(tmp_path, "begun.mp4", tuple(range(0, 10 * 512, 512)))
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(SourceError):
            sdvideo.report(clips["cfr"].path, begun)
        gc.collect()
    assert not [warning.message for warning in caught if warning.category is ResourceWarning]


def test_without_the_extra_the_report_has_no_vmaf(clips: Clips, monkeypatch):
    monkeypatch.setattr("sdvideo.metrics.vmaf.find_ffmpeg", lambda: None)
    result = sdvideo.report(clips["cfr"].path, clips["cfr"].path)
    assert "vmaf" not in result.summary and "mcf" in result.summary


def test_a_frame_that_is_missing_is_told(clips, tmp_path, caplog):
    """Frame 5 of the distorted video is gone, and its last one is doubled: as many frames, other times."""
    source = clips["silent"].path
    with open_source(source) as video:
        frames, info = list(video.frames()), video.info
    step = frames[1].pts
    kept = [frame for number, frame in enumerate(frames) if number != 5]
    kept.append(replace(kept[-1], pts=kept[-1].pts + step))
    with open_sink(tmp_path / "b.mp4", info, lossless=True) as sink:
        for frame in kept:
            sink.write(frame)
    sdvideo.report(source, tmp_path / "b.mp4")
    assert "paired by number, though the times" in caplog.text and "+0.04 s apart from frame 5 on" in caplog.text
    caplog.clear()
    sdvideo.report(source, source)
    assert not caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux only")
def test_names_that_are_no_text(clips, tmp_path):
    source = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    os.link(clips["silent"].path, source)
    for name in ("json", "csv", "html"):
        sdvideo.report(source, source, **{name: tmp_path / f"a.{name}"})
        assert (tmp_path / f"a.{name}").read_text("utf-8")
    assert "caf\ufffd.mp4" in (tmp_path / "a.json").read_text("utf-8")
