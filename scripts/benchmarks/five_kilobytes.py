"""Bühlmann's own contest: 512x512 pictures in about five kilobytes.

    python scripts/benchmarks/five_kilobytes.py PICTURE_OR_FOLDER [...] --model DIR [--bytes 4970] [--out FOLDER]

Prints a Markdown table: bytes, PSNR and SSIM (luma) of each way, means over the pictures, and the same picture by
picture. Of every picture the middle 512x512 is taken. Formats with a quality get the finest that takes no more than
--bytes; his palette has no quality, what it takes is what it takes. JPEG is progressive with optimised tables, as
mozjpeg makes it by default; WebP has method 6. With --out, a sheet of the pictures is written for each.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

import sdvideo
from clips import STILLS, files_in
from journal import number, row_of, say
from sdvideo.frames import Colour
from sdvideo.media.colour import from_rgb, to_rgb
from sdvideo.metrics.fidelity import psnr, structural_similarity

SIDE = 512
COLOUR = Colour(full_range=True, matrix=5)  # as in JPEG


class Shown(NamedTuple):
    """bytes: of the file; rgb: what it looks like, uint8 [SIDE, SIDE, 3]."""

    bytes: int
    rgb: np.ndarray


def foreign(form: str, **options) -> Callable[[np.ndarray, float], Shown]:
    def code(rgb: np.ndarray, quality: float) -> Shown:
        file = io.BytesIO()
        Image.fromarray(rgb).save(file, form, quality=round(quality), **options)
        return Shown(file.tell(), np.asarray(Image.open(file).convert("RGB")))

    return code


def our(**settings) -> Callable[[np.ndarray, float], Shown]:
    def code(rgb: np.ndarray, quality: float) -> Shown:
        with tempfile.TemporaryDirectory(prefix="five-") as folder:
            source, coded = Path(folder, "still.png"), Path(folder, "still.sdv")
            Image.fromarray(rgb).save(source)
            chosen = settings if "quantizer" in settings else {"quality": quality, **settings}
            size = sdvideo.encode(source, coded, device="cpu", **chosen).bytes
            with sdvideo.open(coded, model=settings.get("model"), device="cpu") as video:
                return Shown(size, to_rgb(video[0].picture, video.info.colour))

    return code


def ways(model: str) -> dict[str, Callable[[np.ndarray, float], Shown]]:
    return {
        "JPEG": foreign("jpeg", subsampling="4:2:0", optimize=True, progressive=True),
        "WebP": foreign("webp", method=6),
        "sdvideo": our(),
        "sdvideo, base none": our(base="none"),
        "latents of 4 channels, uniform": our(model=model),
        "the same, refined (best)": our(model=model, preset="best"),
        "the same in 256 colours, dithered (his)": our(model=model, quantizer="palette"),
    }


def within(code: Callable[[np.ndarray, float], Shown], rgb: np.ndarray, most: int) -> Shown:
    """The finest quality, in steps of one, that takes no more bytes; the coarsest if all take more."""
    low, high = 0, 100
    best = code(rgb, low)
    while high - low > 1:
        middle = (low + high) // 2
        shown = code(rgb, middle)
        if shown.bytes <= most:
            low, best = middle, shown
        else:
            high = middle
    return best


def middle(path: Path) -> np.ndarray:
    rgb = np.asarray(Image.open(path).convert("RGB"))
    top, left = ((side - SIDE) // 2 for side in rgb.shape[:2])
    if top < 0 or left < 0:
        raise SystemExit(f"{path} is smaller than {SIDE}x{SIDE}")
    return np.ascontiguousarray(rgb[top : top + SIDE, left : left + SIDE])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--model", required=True)
    parser.add_argument("--bytes", type=int, default=4970)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    paths = [path for given in options.pictures for path in (files_in(given, STILLS) if given.is_dir() else [given])]
    found: dict[str, list[tuple[float, float, float]]] = {}
    lines = []
    for path in paths:
        rgb = middle(path)
        sheet = [rgb]
        for title, code in ways(options.model).items():
            shown = code(rgb, 0) if title.endswith("(his)") else within(code, rgb, options.bytes)
            x, y = (from_rgb(pixels, COLOUR) for pixels in (rgb, shown.rgb))
            figures = shown.bytes, psnr(x, y)[1], structural_similarity(x.y, y.y)[0]
            found.setdefault(title, []).append(figures)
            lines.append(_row(path.stem, title, figures))
            say(lines[-1])
            sheet.append(shown.rgb)
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(options.out / f"{path.stem}.png"), np.hstack(sheet)[..., ::-1])
    means = [_row("mean", title, tuple(np.mean(rows, axis=0))) for title, rows in found.items()]
    print("\n".join([row_of("picture", "way", "bytes", "PSNR-Y, dB", "SSIM"), row_of(*["---"] * 5), *means, *lines]))


def _row(name: str, title: str, figures: tuple[float, float, float]) -> str:
    return row_of(name, title, *(number(value, form) for value, form in zip(figures, (",.0f", ".2f", ".4f"))))


if __name__ == "__main__":
    main()
