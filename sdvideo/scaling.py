"""Pictures at another size: Lanczos, with as wide a window as going down needs (FFmpeg's swscale)."""

from __future__ import annotations

from av.video.reformatter import Interpolation

from .colour import planes_of, to_frame
from .picture import Colour, Picture

# Rounding that is the same on every CPU.
_LANCZOS = Interpolation.LANCZOS | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INP


def scaled(picture: Picture, width: int, height: int) -> Picture:
    """The picture at a size in pixels, code values as they are; itself if it has that size."""
    if (picture.width, picture.height) == (width, height):
        return picture
    frame = to_frame(picture, Colour())
    return planes_of(frame.reformat(width=width, height=height, format="yuv420p", interpolation=_LANCZOS, threads=1))
