"""The strip of pictures that scripts/benchmarks/framewise.py writes."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import numpy as np
from conftest import Clips

SCRIPTS = Path(__file__).parents[2] / "scripts" / "benchmarks"


def test_a_strip_shows_three_frames_and_how_their_error_changes(clips: Clips, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    framewise = importlib.import_module("framewise")
    options = argparse.Namespace(model="tiny", frames=5, short=32)
    contest = framewise.Contest(clips["cfr"].path, tmp_path, options)
    contest.add("8 bit", quantizer="8bit", keyint=1)
    contest.material.prepare_motions()
    strip = framewise.strip(contest, ["8 bit"], 1)
    height, width = (side // 3 for side in strip.shape[:2])
    assert strip.shape == (3 * height, 3 * width, 3)
    source, decoded, change = np.split(strip.astype(float), 3)
    assert np.abs(source - decoded).mean() < 40  # the same scene
    assert (change[:, :width] == 128).all()  # the first frame has no previous one
    assert change[:, width:].std() > 0
