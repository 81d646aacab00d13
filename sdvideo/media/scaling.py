"""Scaling: Lanczos by FFmpeg's swscale, with a window that widens when scaling down."""

from __future__ import annotations

from fractions import Fraction

from av.video.reformatter import Interpolation

from sdvideo.frames import Colour, Picture

from .colour import planes_of, to_frame

# With rounding that is the same on every CPU.
_LANCZOS = Interpolation.LANCZOS | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INP


def scaled_size(width: int, height: int, scale: Fraction) -> tuple[int, int]:
    """Width and height in pixels of a picture scaled by at most 1; even unless the scale is 1."""
    if scale == 1:
        return width, height
    return max(2, 2 * round(width * scale / 2)), max(2, 2 * round(height * scale / 2))


def scaled(picture: Picture, width: int, height: int) -> Picture:
    """The picture at a size in pixels, its code values not converted; itself if it has that size."""
    if (picture.width, picture.height) == (width, height):
        return picture
    frame = to_frame(picture, Colour())
    return planes_of(frame.reformat(width=width, height=height, format="yuv420p", interpolation=_LANCZOS, threads=1))
