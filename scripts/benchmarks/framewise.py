"""Frame by frame, as Bühlmann coded stills, against latents that are carried along the motion: at equal bits.

    python scripts/benchmarks/framewise.py CLIP [CLIP ...] --model DIR [--frames 48] [--short 288] [--out FOLDER]

Prints a Markdown table. For every clip: his 8-bit latents and his palette, each frame alone (`--keyint 1`); latents
quantized uniformly at as many bits as each of the two, in groups, also of pictures stored at two thirds of their size;
and the palette in groups, whose dither stays where the picture does. Bits are those of whole files. "At equal bits"
means the finest quality that takes no more; where the finest there is takes less, the row shows how much less. With
--out, a strip of each clip's pictures is written there: three frames in a row, and below each how its error differs
from the one before, along the motion of the source.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np

import sdvideo
from clips import Clip
from journal import number, row_of, say
from material import Material, write_material
from sdvideo.frames import Colour, Picture
from sdvideo.media.colour import to_rgb
from sdvideo.motion.optical_flow import sample

KEYINT = 48
CLOSE = 0.01  # of the bits aimed at
_COLUMNS = (("psnr_y", "clip", ".2f"), ("ms_ssim", "clip", ".4f"), ("mcf", "clip", ".2f"), ("phi", "clip", ".3f"))
_GAIN = 8  # of the new error in the strips


class Contest:
    """One clip and what has been made of it. lines: cells of the table."""

    def __init__(self, clip: Path, folder: Path, options: argparse.Namespace):
        self.material: Material = write_material(Clip(clip, folder, options.frames, options.short), folder)
        self._folder, self.model = folder, options.model
        self.lines: list[str] = []
        self.coded: dict[str, Path] = {}

    def add(self, title: str, **settings) -> int:
        """Code, measure, write a line; returns the bytes."""
        path = self._folder / f"{len(self.coded)}.sdv"
        size = self._encode(path, **settings)
        summary = sdvideo.report(self.material.y4m, path, model=self.model, device="cpu").summary
        cells = [number(summary[name][what], form) for name, what, form in _COLUMNS]
        seconds = float(self.material.frames / self.material.rate)
        cells += [number(summary["r_w"]["clip"], ".2f"), number(size * 8 / seconds / 1000, ".0f")]
        self.lines.append(row_of(self.material.name, title, *cells))
        self.coded[title] = path
        say(self.lines[-1])
        return size

    def add_equal(self, title: str, size: int, **settings) -> None:
        """Uniform latents in groups, in no more bytes than size."""
        low, high = 0.0, 100.0
        path = self._folder / "try.sdv"
        while high - low > 0.5:
            quality = high if high == 100 and low == 0 else (low + high) / 2
            taken = self._encode(path, quality=quality, keyint=KEYINT, **settings)
            if taken <= size:
                low = quality
                if taken > (1 - CLOSE) * size or quality == 100:
                    break
            else:
                high = min(quality, 99.9)
        self.add(title, quality=low, keyint=KEYINT, **settings)

    def _encode(self, path: Path, **settings) -> int:
        settings = {"model": self.model, "base": "none", "device": "cpu", **settings}
        return sdvideo.encode(self.material.y4m, path, overwrite=True, **settings).bytes


def strip(contest: Contest, titles: list[str], first: int) -> np.ndarray:
    """BGR: a row of three frames of the source, then for each title a row of frames and one of their new error."""
    originals = list(contest.material.pictures())[first : first + 3]
    motions = list(contest.material.motions())[first : first + 3]
    rows = [np.hstack([_bgr(picture) for picture in originals])]
    for title in titles:
        with sdvideo.open(contest.coded[title], model=contest.model, device="cpu") as video:
            shown = [video[first + place].picture for place in range(3)]
        errors = [y.y.astype(np.float32) - x.y for x, y in zip(originals, shown)]
        rows.append(np.hstack([_bgr(picture) for picture in shown]))
        new = [np.full_like(originals[0].y, 128)]
        for before, after, motion in zip(errors, errors[1:], motions[1:]):
            fresh = after - sample(before, motion.positions)
            new.append(np.clip(128 + _GAIN * fresh * motion.visible, 0, 255).astype(np.uint8))
        rows.append(np.hstack([cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR) for grey in new]))
    return np.vstack(rows)


def _bgr(picture: Picture) -> np.ndarray:
    return to_rgb(picture, Colour())[..., ::-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--model", required=True)
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--short", type=int, default=288)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = [
        row_of("clip", "way", "PSNR-Y", "MS-SSIM", "MCF", "φ", "R_w", "kbit/s"),
        row_of(*["---"] * 8),
    ]
    for clip in options.clips:
        with tempfile.TemporaryDirectory(prefix="framewise-") as folder:
            contest = Contest(clip, Path(folder), options)
            bits = contest.add("8 bit, each frame alone", quantizer="8bit", keyint=1)
            contest.add_equal("carried along, as many bits", bits)
            bits = contest.add("palette, each frame alone", quantizer="palette", keyint=1)
            contest.add_equal("carried along, as many bits as the palette", bits)
            contest.add_equal("the same, pictures stored at two thirds", bits, scale="2/3")
            contest.add("palette, in groups", quantizer="palette", keyint=KEYINT)
            lines += contest.lines
            if options.out:
                options.out.mkdir(parents=True, exist_ok=True)
                contest.material.prepare_motions()
                titles = [*contest.coded]
                picture = strip(contest, [titles[0], titles[2], titles[3]], options.frames // 2)
                cv2.imwrite(str(options.out / f"{clip.stem}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 85])
    print("\n".join(lines))


if __name__ == "__main__":
    main()
