"""Compare the looks of base av1 on the same coded files: LPIPS, DISTS, PSNR, MS-SSIM, steadiness.

    python scripts/benchmarks/looks.py CLIP... --perceptual DIR [--frames 48] [--quality 20 35 50] [--looks 0 0.5 1]

Each clip is coded once at each quality, and decoded in every look; so the bytes are the same. DIR holds perceptual.py,
which has LPIPS (AlexNet) and DISTS; it is no part of this repository. They are taken of every eighth frame. Prints one
JSON object per line, and at the end the mean difference of each look from the first one.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sdvideo
from sdvideo.frames import Frame, StreamInfo
from sdvideo.media.colour import to_rgb
from sdvideo.media.output import open_sink
from sdvideo.media.source import open_source

MEASURES = ("psnr_y", "ms_ssim", "mcf", "tpsnr", "phi", "r_w")
EVERY = 8


def first_frames(clip: Path, count: int, target: Path) -> None:
    """The first frames of a clip, without loss."""
    with open_source(clip) as source, open_sink(target, source.info, lossless=True) as sink:
        for frame in islice(source.frames(), count):
            sink.write(frame)


def rgb(frame: Frame, info: StreamInfo) -> torch.Tensor:
    return torch.from_numpy(to_rgb(frame.picture, info.colour)).permute(2, 0, 1)[None].float() / 255


def looks_of(source: Path, coded: Path, look: float, lpips: Any, dists: Any) -> dict[str, float]:
    summary = sdvideo.report(source, coded, look=look).document()["summary"]
    found = {name: summary[name]["clip"] for name in MEASURES if name in summary}
    distances = []
    with open_source(source) as one, sdvideo.open(coded, look=look) as other, torch.inference_mode():
        for number, (a, b) in enumerate(zip(one.frames(), other, strict=True)):
            if number % EVERY == EVERY - 1:
                pair = rgb(a, one.info), rgb(b, other.info)
                distances.append([float(lpips(*pair)), float(dists(*pair))])
    found["lpips_alex"], found["dists"] = np.mean(distances, 0).tolist()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--perceptual", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--quality", nargs="+", type=float, default=[20, 35, 50])
    parser.add_argument("--looks", nargs="+", type=float, default=[0, 0.5, 1])
    options = parser.parse_args()
    sys.path.insert(0, str(options.perceptual))
    from perceptual import DISTS, LPIPS

    lpips, dists = LPIPS("alex"), DISTS()
    apart: dict[float, list[dict[str, float]]] = {look: [] for look in options.looks}
    with tempfile.TemporaryDirectory() as folder:
        for clip in options.clips:
            source = Path(folder) / f"{clip.stem}.mp4"
            first_frames(clip, options.frames, source)
            for quality in options.quality:
                coded = Path(folder) / "a.sdv"
                size = sdvideo.encode(source, coded, quality=quality, overwrite=True).bytes
                found = {look: looks_of(source, coded, look, lpips, dists) for look in options.looks}
                for look, values in found.items():
                    print(json.dumps({"clip": clip.stem, "quality": quality, "bytes": size, "look": look} | values))
                    first = found[options.looks[0]]
                    ratios = ("lpips_alex", "dists")
                    apart[look].append(
                        {k: v / first[k] - 1 if k in ratios else v - first[k] for k, v in values.items()}
                    )
                sys.stdout.flush()
    for look, rows in apart.items():
        means = {name: round(float(np.mean([row[name] for row in rows])), 4) for name in rows[0]}
        print(json.dumps({"look": look, "mean difference": means}))


if __name__ == "__main__":
    main()
