"""The arithmetic of scripts/benchmarks/bench.py, and one small run of it."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from sdvideo.frames import Frame, Picture, StreamInfo
from sdvideo.media.output import open_sink

SCRIPTS = Path(__file__).parents[2] / "scripts" / "benchmarks"


@pytest.fixture(scope="module")
def curves():
    pytest.importorskip("scipy")
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield importlib.import_module("curves")
    finally:
        sys.path.remove(str(SCRIPTS))


LADDER = [(0.01, 30.0), (0.02, 32.5), (0.04, 35.5), (0.08, 38.0)]


def times(factor: float, points):
    return [(factor * rate, value) for rate, value in points]


def test_the_same_curve_is_no_change_and_twice_the_bits_are_one_hundred_per_cent(curves):
    assert curves.bd_rate(LADDER, LADDER, least=0.5) == pytest.approx(0)
    assert curves.bd_rate(times(2, LADDER), LADDER, least=0.5) == pytest.approx(1)
    assert curves.bd_rate(LADDER, times(2, LADDER), least=0.5) == pytest.approx(-0.5)
    # Sampled elsewhere, a curve that is straight in log rate is the same curve.
    line, between = ([(math.exp(x / 4), x) for x in values] for values in ((0, 2, 4, 6), (1, 2.5, 5)))
    assert curves.bd_rate(line, between, least=0.5) == pytest.approx(0, abs=1e-9)


def test_curves_that_do_not_overlap_are_not_compared(curves):
    above = [(rate, value + 9) for rate, value in LADDER]
    assert curves.bd_rate(above, LADDER, least=0.0) is None
    barely = [(rate, value + 7.9) for rate, value in LADDER]
    assert curves.bd_rate(barely, LADDER, least=0.5) is None
    assert curves.bd_rate(LADDER, [], least=0.5) is None
    assert curves.bd_rate(LADDER, LADDER[:1], least=0.5) is None


def test_points_that_cost_more_for_less_do_not_count(curves):
    worse = [*LADDER, (0.05, 35.0)]
    assert curves.bd_rate(worse, LADDER, least=0.5) == pytest.approx(0)


def test_of_several_ladders_the_cheapest_counts_at_each_value(curves):
    low, high = LADDER[:3], LADDER[1:]
    assert curves.bd_rate(times(2, LADDER), LADDER, times(3, LADDER), least=0.5) == pytest.approx(1)
    assert curves.bd_rate(LADDER, times(2, low), times(2, high), least=0.5) == pytest.approx(-0.5, abs=0.01)
    # A better ladder that begins in the middle serves what lies below, too, where that is the cheaper way.
    late = [(0.001, 34.0), (0.002, 38.0)]
    at_once = curves.bits_ratio(LADDER, LADDER, late, least=0.5)
    at_its_own = curves.bits_ratio(LADDER, late, least=0.5)
    assert 1 < at_once < at_its_own


def test_values_at_equal_rate(curves):
    steady = [(rate, 0.2) for rate, _ in LADDER]
    shaky = [(rate * 2, 0.6) for rate, _ in LADDER]
    assert curves.at_equal_rate(steady, shaky) == pytest.approx((0.2, 0.6))
    assert curves.at_equal_rate(steady, times(100, shaky)) is None
    assert curves.at_equal_rate(steady, shaky[:1]) is None


@pytest.mark.slow
def test_a_small_run_measures_resumes_and_makes_tables(tmp_path):
    for module in ("scipy", "matplotlib", "imageio_ffmpeg"):
        pytest.importorskip(module)
    (tmp_path / "clips").mkdir()
    for seed in (1, 2):
        write_clip(tmp_path / "clips" / f"clip{seed}.y4m", seed)
    out = tmp_path / "out"
    codecs = "sdvideo-none-balanced,x264,av1-half"
    arguments = [tmp_path / "clips", "--out", out, "--frames", "8", "--codecs", codecs, "--jobs", "1"]
    command = [sys.executable, str(SCRIPTS / "bench.py"), *map(str, arguments)]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    results = json.loads((out / "results.json").read_text())
    assert len(results["quality"]) == 2 * 3 * 6
    for row in results["quality"].values():
        assert row["bits"] > 0 and 5 < row["psnr_y"] <= 100 and 0 <= row["vmaf"] <= 100 and 0 <= row["phi"] <= 2
    assert "+" in (out / "tables.md").read_text()
    assert (out / "rd-vmaf.png").stat().st_size > 10_000

    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0 and not again.stderr, again.stderr


def write_clip(path: Path, seed: int) -> None:
    """Eight frames of smooth noise that moves by two pixels a frame, 208x192."""
    rng = np.random.default_rng(seed)
    wide = rng.integers(0, 256, (24, 30)).repeat(8, 0).repeat(8, 1)
    wide = (wide + np.roll(wide, 4, 0) + np.roll(wide, 4, 1) + np.roll(wide, 4, (0, 1))) // 4
    grey = np.full((96, 104), 128, np.uint8)
    info = StreamInfo(208, 192, Fraction(1, 25), Fraction(25))
    with open_sink(path, info) as sink:
        for index in range(8):
            luma = wide[:, 2 * index : 2 * index + 208].astype(np.uint8)
            sink.write(Frame(index, 1, Picture(luma, grey, grey)))
