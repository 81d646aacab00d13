"""Pictures: an sdvideo of one frame against JPEG, WebP and AVIF.

The foreign formats get the RGB of the same 4:2:0 picture, and what they decode to is judged in 4:2:0 again. Bits are
those of the whole file, for all.
"""

from __future__ import annotations

import io
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from PIL import __version__ as pillow_version

import sdvideo
from clips import psnr
from ours import DEFAULT_PRESET, Ours
from sdvideo.container import Reader
from sdvideo.frames import Colour, Frame, Picture, StreamInfo
from sdvideo.media.colour import from_rgb, to_rgb
from sdvideo.media.output import open_sink
from sdvideo.metrics.fidelity import structural_similarity

COLOUR = Colour(full_range=False, matrix=6)


@dataclass(frozen=True)
class Format:
    """A picture format of Pillow's with its ladder of qualities."""

    name: str
    title: str
    options: tuple[tuple[str, str | int | bool], ...]
    ladder: tuple[int, ...]

    @property
    def version(self) -> str:
        return f"{', '.join(f'{name} {value}' for name, value in self.options)}, Pillow {pillow_version}"

    def measure(self, picture: Picture) -> list[dict]:
        """A point per quality."""
        image = Image.fromarray(to_rgb(picture, COLOUR))
        rows = []
        for quality in self.ladder:
            file = io.BytesIO()
            image.save(file, self.name, quality=quality, **dict(self.options))
            shown = from_rgb(np.asarray(Image.open(file).convert("RGB")), COLOUR)
            rows.append({"quality": quality, "bits": 8 * len(file.getvalue()), **_distance(picture, shown)})
        return rows


FORMATS = (
    Format("jpeg", "JPEG", (("subsampling", "4:2:0"), ("optimize", True)), (2, 8, 20, 35, 50, 70, 85)),
    Format("webp", "WebP", (("method", 6),), (1, 15, 35, 55, 75, 90)),
    Format("avif", "AVIF", (("subsampling", "4:2:0"), ("speed", 6)), (10, 25, 40, 55, 70, 85)),
)


@dataclass(frozen=True)
class OurFormat:
    """A video of one frame."""

    codec: Ours
    ladder = (0, 15, 30, 45, 60, 75, 90)

    @property
    def name(self) -> str:
        return f"sdvideo-{self.codec.base}"

    @property
    def title(self) -> str:
        return f"sdvideo, base {self.codec.base}"

    @property
    def version(self) -> str:
        return self.codec.version

    def measure(self, picture: Picture) -> list[dict]:
        """A point per quality. data_bits: of the frame in the file."""
        info = StreamInfo(picture.width, picture.height, Fraction(1, 25), Fraction(25), 1, colour=COLOUR)
        rows = []
        with tempfile.TemporaryDirectory() as folder:
            source, coded = Path(folder, "still.y4m"), Path(folder, "still.sdv")
            with open_sink(source, info) as sink:
                sink.write(Frame(0, 1, picture))
            for quality in self.ladder:
                options = {"quality": quality, "base": self.codec.base, "preset": DEFAULT_PRESET, "device": "cpu"}
                bits = 8 * sdvideo.encode(source, coded, overwrite=True, **options).bytes
                with Reader(coded) as reader:
                    data = 8 * sum(len(frame.data) for frame in reader.read_group(0).frames)
                with sdvideo.open(coded, device="cpu") as video:
                    shown = video[0].picture
                rows.append({"quality": quality, "bits": bits, "data_bits": data, **_distance(picture, shown)})
        return rows


def read_still(path: Path) -> Picture:
    """Even sides: an odd last column or line is left out."""
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    height, width = (side // 2 * 2 for side in bgr.shape[:2])
    return from_rgb(np.ascontiguousarray(bgr[:height, :width, ::-1]), COLOUR)


def _distance(picture: Picture, shown: Picture) -> dict[str, float]:
    return {**psnr(picture, shown), "ms_ssim": structural_similarity(picture.y, shown.y)[1]}
