"""Measures what AV1's tools for screen content save on videos detected as such, see
sdvideo/codecs/av1/screen_content.py.

    python scripts/training/screen_content_gain.py FOLDER [FOLDER ...]

Every video in the folders is examined by at most --frames pictures from its middle. Screen content is coded as one
group at full size, at three CRFs, with the tools and without. Printed for each video, and as a median: the difference
of the bits in percent at equal PSNR-Y and at equal MS-SSIM of the AV1 picture (BD-rate), and how many times as long
coding takes.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from prepare_base import read
from sdvideo.codecs.av1 import base_layer
from sdvideo.codecs.av1.base_layer import PRESETS as SVT_PRESETS
from sdvideo.codecs.av1.base_layer import decode_base, encode_base
from sdvideo.codecs.av1.screen_content import is_screen_content
from sdvideo.container.header import SCALES
from sdvideo.frames import Picture
from sdvideo.metrics.fidelity import decibel, structural_similarity

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from curves import bits_ratio

CRFS = 34, 46, 58
PRESETS = "fast", "balanced"
SIZE = 864, 480


def point(pictures: list[Picture], crf: float, preset: str) -> tuple[float, float, float]:
    """Bits, PSNR-Y, MS-SSIM in decibels."""
    coded = encode_base(pictures, SCALES[0], crf, SVT_PRESETS[preset])
    shown = list(decode_base(coded, pictures[0].width, pictures[0].height))
    squared = np.mean([np.square(a.y.astype(np.float32) - b.y).mean() for a, b in zip(pictures, shown)])
    alike = np.mean([structural_similarity(a.y, b.y)[1] for a, b in zip(pictures, shown)])
    return coded.bits, decibel(squared), -10 * np.log10(1 - alike)


def gains(pictures: list[Picture], preset: str) -> tuple[float, float, float]:
    """Percent at equal PSNR-Y and at equal MS-SSIM, and times the time."""
    rows, seconds = [], []
    for answer in (True, False):
        base_layer.is_screen_content = lambda pictures, answer=answer: answer
        begin = time.perf_counter()
        rows.append([point(pictures, crf, preset) for crf in CRFS])
        seconds.append(time.perf_counter() - begin)
    curves = [[[(row[0], row[k]) for row in one] for one in rows] for k in (1, 2)]
    psnr, alike = (100 * ((bits_ratio(*pair, least=0.1) or np.nan) - 1) for pair in curves)
    return psnr, alike, seconds[0] / seconds[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--frames", type=int, default=32)
    options = parser.parse_args()
    print(f"{'':32}", *(f"{preset + ': PSNR-Y  MS-SSIM    time':>36}" for preset in PRESETS))
    found = []
    for path in (path for folder in options.folders for path in sorted(folder.glob("*.mp4"))):
        pictures = read(path, options.frames, *SIZE)
        if is_screen_content(pictures):
            row = [value for preset in PRESETS for value in gains(pictures, preset)]
            found.append(row)
            print(f"{path.stem:32}", *(f"{value:+12.1f}" for value in row), flush=True)
    print(f"{'median of ' + str(len(found)):32}", *(f"{value:+12.1f}" for value in np.nanmedian(found, 0)))


if __name__ == "__main__":
    main()
