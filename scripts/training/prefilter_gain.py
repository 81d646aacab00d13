"""What the network before `--base av1` gains with AV1 itself, on the shots that its training does not see.

    python scripts/training/prefilter_gain.py FOLDER [FOLDER ...] [--weights run/average.safetensors] [--strength 1]

Each of those shots (see prepare_base.py), at most --frames of it, is coded as one group of preset balanced at two
scales and four CRFs each, with the filter and without, and restored. Printed per shot and scale, and as means: by how
many percent the bits at equal CRF differ, and those at equal PSNR-Y, MS-SSIM and MCF (BD-rate; less than nothing is a
gain).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch

from prepare_base import held_back, read
from sdvideo.codecs.av1.base_layer import PRESETS, Filter, decode_base, encode_base
from sdvideo.codecs.av1.prefilter import Prefilter
from sdvideo.frames import Picture
from sdvideo.metrics.fidelity import decibel, structural_similarity
from sdvideo.motion.optical_flow import sample
from sdvideo.motion.source_motion import SourceMotion, source_motion
from sdvideo.restoration.loading import load_restorer
from sdvideo.restoration.restorer import FrameRestorer
from sdvideo.weights import PREFILTER

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from curves import bits_ratio

LADDERS = {Fraction(1): (42, 49, 56, 63), Fraction(2, 3): (54, 57, 60, 63)}
SIZE = 864, 480
MEASURES = "PSNR-Y", "MS-SSIM", "MCF"


def stronger(prefilter: Filter, strength: float) -> Filter:
    """With its change so many times as large."""

    def apply(pictures: Sequence[Picture], crf: float, scale: Fraction) -> list[Picture]:
        pairs = zip(pictures, prefilter(pictures, crf, scale), strict=True)
        lumas = [picture.y + strength * (readied.y.astype(np.float32) - picture.y) for picture, readied in pairs]
        lumas = [np.clip(np.rint(y), 0, 255).astype(np.uint8) for y in lumas]
        return [replace(picture, y=y) for picture, y in zip(pictures, lumas, strict=True)]

    return prefilter if strength == 1 else apply


def point(
    pictures: list[Picture], motions: list[SourceMotion], scale: Fraction, crf: float, prefilter: Filter | None
) -> tuple[float, ...]:
    """Bits, PSNR-Y, MS-SSIM in decibels, MCF."""
    width, height = pictures[0].width, pictures[0].height
    base = encode_base(pictures, scale, crf, PRESETS["balanced"], prefilter=prefilter)
    canvas, shown = FrameRestorer(load_restorer(), width, height), []
    for number, picture in enumerate(decode_base(base, width, height)):
        shown.append(canvas.restore(canvas.prepare(picture, number == 0), round(crf)))
    errors = [s.y.astype(np.float32) - p.y for s, p in zip(shown, pictures)]
    moved = []
    for (before, now), motion in zip(pairwise(errors), motions):
        carried = sample(before, motion.positions)
        moved.append(np.square(now - carried)[motion.visible].mean())
    alike = np.mean([structural_similarity(p.y, s.y)[1] for p, s in zip(pictures, shown)])
    squared = np.mean([np.square(e).mean() for e in errors])
    return base.bits, decibel(squared), -10 * np.log10(1 - alike), decibel(np.mean(moved))


def gains(path: Path, frames: int, weights: Path, strength: float) -> dict[Fraction, list[float]]:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    pictures = read(path, frames, *SIZE)
    motions = [source_motion(a.y, b.y) for a, b in pairwise(pictures)]
    prefilter = stronger(Prefilter(weights), strength)
    found = {}
    for scale, crfs in LADDERS.items():
        without, with_it = ([point(pictures, motions, scale, crf, one) for crf in crfs] for one in (None, prefilter))
        at_crf = np.exp(np.mean([np.log(a[0] / b[0]) for a, b in zip(with_it, without)]))
        curves = [[[(row[0], row[k]) for row in rows] for rows in (with_it, without)] for k in (1, 2, 3)]
        ratios = [at_crf, *(bits_ratio(*pair, least=0.1) or np.nan for pair in curves)]
        found[scale] = [100 * (ratio - 1) for ratio in ratios]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--weights", type=Path, default=PREFILTER)
    parser.add_argument("--strength", type=float, default=1.0)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    paths = [path for folder in options.folders for path in sorted(folder.glob("video/*.mp4")) if held_back(path)]
    work = partial(gains, frames=options.frames, weights=options.weights, strength=options.strength)
    print(f"{'percent':32}{'scale':>6}{'at CRF':>9}", *(f"{name:>8}" for name in MEASURES))
    rows: dict[Fraction, list[list[float]]] = {scale: [] for scale in LADDERS}
    with ProcessPoolExecutor(options.processes) as pool:
        for path, found in zip(paths, pool.map(work, paths)):
            for scale, row in found.items():
                rows[scale].append(row)
                print(f"{path.stem:32}{scale!s:>6}", *(f"{value:+8.2f}" for value in row), flush=True)
    for scale, all_rows in rows.items():
        print(f"{'mean':32}{scale!s:>6}", *(f"{value:+8.2f}" for value in np.nanmean(all_rows, 0)))


if __name__ == "__main__":
    main()
