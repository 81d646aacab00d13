"""Colours: FFmpeg frames to 8-bit 4:2:0 pictures and back, colour tags, orientation, RGB."""

from __future__ import annotations

from dataclasses import dataclass

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from sdvideo.frames import Colour, Picture

from .probing.side_data import SideDataReader

# Bicubic chroma in both directions, and rounding that is the same on every CPU.
_SCALING = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)

# H.273 matrix code points that swscale can convert to RGB.
_SWS_MATRIX = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}

# H.273 code points that are defined; the others are reserved, or FFmpeg's own, and are read as unspecified (2).
_MATRICES = frozenset((1, *range(4, 15)))
_PRIMARIES = frozenset((1, *range(4, 13), 22))
_TRANSFERS = frozenset((1, *range(4, 19)))

_HDR = {16: "PQ", 18: "HLG"}


# --- tags ---------------------------------------------------------------------------------------------------


def read_colour(frame: av.VideoFrame) -> Colour:
    """The colour tags of `to_picture(frame)`.

    YUV keeps the source's tags. RGB and palettes, which `to_picture` converts to YUV, become limited range, BT.709 from
    720 lines on and BT.601 (SMPTE 170M) below.
    """
    primaries = _known(frame.color_primaries, _PRIMARIES)
    transfer = _known(frame.color_trc, _TRANSFERS)
    if _is_rgb(frame):
        return Colour(False, usual_matrix(frame.height), primaries, transfer)
    return Colour(_is_full_range(frame), _known(frame.colorspace, _MATRICES), primaries, transfer)


def apply_tags(encoder: av.VideoCodecContext, colour: Colour) -> None:
    """Set the tags of an encoder that is not open yet; code values are not converted."""
    encoder.color_range = _span(colour.full_range)
    encoder.colorspace = _known(colour.matrix, _MATRICES)
    encoder.color_primaries = _known(colour.primaries, _PRIMARIES)
    encoder.color_trc = _known(colour.transfer, _TRANSFERS)


def losses(frame: av.VideoFrame, transparent: bool = False) -> list[str]:
    """What this frame loses as an opaque, progressive 8-bit picture: lines for the log, often none.

    transparent: whether the video has transparency that this frame's pixel format does not show.
    """
    lines = []
    bits = max(component.bits for component in frame.format.components)
    if bits > 8:
        lines.append(f"{bits}-bit input is converted to 8 bit")
    if frame.color_trc in _HDR:
        lines.append(f"HDR ({_HDR[frame.color_trc]}) input keeps its tags but only 8 bits: gradients may band")
    if transparent or any(component.is_alpha for component in frame.format.components):
        lines.append("transparency is left out: the colours below it are visible")
    if frame.interlaced_frame:
        lines.append("interlaced input is treated as progressive pictures")
    return lines


def _span(full: bool) -> ColorRange:
    return ColorRange.JPEG if full else ColorRange.MPEG


def _known(code: int, known: frozenset[int]) -> int:
    return int(code) if code in known else 2


def usual_matrix(height: int) -> int:
    """The H.273 matrix assumed for an unspecified one: BT.709 from 720 lines on, BT.601 below."""
    return 1 if height >= 720 else 6


def _is_rgb(frame: av.VideoFrame) -> bool:
    return frame.format.is_rgb or frame.format.has_palette


def _is_grey(frame: av.VideoFrame) -> bool:
    return frame.format.name.startswith(("gray", "ya8", "ya16", "mono"))


def _is_full_range(frame: av.VideoFrame) -> bool:
    # Untagged grey comes from still-picture codecs, which are full range.
    if frame.format.name.startswith("yuvj") or (_is_grey(frame) and frame.color_range != ColorRange.MPEG):
        return True
    return frame.color_range == ColorRange.JPEG


# --- FFmpeg frames and pictures -----------------------------------------------------------------------------


def to_picture(frame: av.VideoFrame) -> Picture:
    """A copy of the frame as an 8-bit 4:2:0 picture, not yet turned upright.

    4:2:0 planes are copied. Everything else is converted by swscale with matrix and range given on both sides, so that
    only depth and subsampling change (and RGB becomes YUV, see `read_colour`).

    Raises:
        av.FFmpegError: swscale cannot read the pixel format.
    """
    if _is_grey(frame):
        return _grey_picture(frame)
    if frame.format.name not in ("yuv420p", "yuvj420p", "yuva420p"):
        frame = _to_420(frame)
    return planes_of(frame)


def planes_of(frame: av.VideoFrame) -> Picture:
    """The planes of an 8-bit 4:2:0 frame, copied."""
    height, width = frame.height, frame.width
    half = (height + 1) // 2, (width + 1) // 2
    y, u, v = (_plane(frame, i, *size).copy() for i, size in enumerate(((height, width), half, half)))
    return Picture(y, u, v)


def to_frame(picture: Picture, colour: Colour) -> av.VideoFrame:
    """The picture as a yuv420p frame with its tags; the caller sets pts and time base."""
    frame = av.VideoFrame(picture.width, picture.height, "yuv420p")
    for i, plane in enumerate((picture.y, picture.u, picture.v)):
        _plane(frame, i, *plane.shape)[:] = plane
    frame.color_range = _span(colour.full_range)
    frame.colorspace = _known(colour.matrix, _MATRICES)
    return frame


def _plane(frame: av.VideoFrame, index: int, height: int, width: int) -> np.ndarray:
    """A view of one 8-bit plane without the padding of its lines: uint8 [height, width]."""
    plane = frame.planes[index]
    samples: np.ndarray = np.frombuffer(plane, np.uint8)  # type: ignore[call-overload]  # PyAV types no buffers
    return samples.reshape(-1, plane.line_size)[:height, :width]


def _to_420(frame: av.VideoFrame) -> av.VideoFrame:
    if _is_rgb(frame):
        matrix = _SWS_MATRIX[usual_matrix(frame.height)]
        if max(component.bits for component in frame.format.components) < 8:  # else white would become grey
            frame = frame.reformat(format="rgb24")
        return _reformat(frame, "yuv420p", matrix, matrix, ColorRange.JPEG, ColorRange.MPEG)
    # Between YUV formats the matrix has no effect; swscale only demands a supported one on both sides.
    code_range = _span(_is_full_range(frame))
    return _reformat(frame, "yuv420p", Colorspace.ITU709, Colorspace.ITU709, code_range, code_range)


def _grey_picture(frame: av.VideoFrame) -> Picture:
    if frame.format.name != "gray":
        code_range = _span(_is_full_range(frame))
        frame = _reformat(frame, "gray", Colorspace.ITU709, Colorspace.ITU709, code_range, code_range)
    y = _plane(frame, 0, frame.height, frame.width).copy()
    u, v = (np.full(((y.shape[0] + 1) // 2, (y.shape[1] + 1) // 2), 128, np.uint8) for _ in range(2))
    return Picture(y, u, v)


def _reformat(
    frame: av.VideoFrame,
    name: str,
    src_matrix: Colorspace,
    dst_matrix: Colorspace,
    src_range: ColorRange,
    dst_range: ColorRange,
) -> av.VideoFrame:
    return frame.reformat(
        format=name,
        src_colorspace=src_matrix,
        dst_colorspace=dst_matrix,
        src_color_range=src_range,
        dst_color_range=dst_range,
        interpolation=_SCALING,
        threads=1,  # with sliced threads swscale gives different samples from run to run for some formats
    )


def scaled(frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
    """The frame in another size, with its time and colour tags. Raises av.FFmpegError for unknown pixel formats."""
    resized = frame.reformat(width, height, interpolation=_SCALING, threads=1)
    resized.color_range, resized.colorspace = frame.color_range, frame.colorspace
    return resized


def means_the_same(one: Colour, other: Colour) -> bool:
    """Whether the same code values stand for the same colours, as far as range and matrix are known."""
    unknown = 2 in (one.matrix, other.matrix)
    same_matrix = unknown or _SWS_MATRIX.get(one.matrix, one.matrix) == _SWS_MATRIX.get(other.matrix, other.matrix)
    return one.full_range == other.full_range and same_matrix


def converted(picture: Picture, given: Colour, wanted: Colour) -> Picture:
    """A picture converted to another range and matrix. An unknown matrix is taken to be the other one."""
    of_given, of_wanted = _SWS_MATRIX.get(given.matrix), _SWS_MATRIX.get(wanted.matrix)
    frame = _reformat(
        to_frame(picture, given),
        "yuv420p",
        of_given or of_wanted or Colorspace.ITU709,
        of_wanted or of_given or Colorspace.ITU709,
        _span(given.full_range),
        _span(wanted.full_range),
    )
    return planes_of(frame)


# --- cropping and orientation -----------------------------------------------------------------------------------------


def cropped(picture: Picture, margins: tuple[int, int, int, int]) -> Picture:
    """The picture without margins: left, top, right, bottom, in luma samples. Odd ones move chroma by half a sample."""
    if not any(margins):
        return picture
    left, top, right, bottom = margins
    width, height = picture.width - left - right, picture.height - top - bottom
    luma = slice(top, top + height), slice(left, left + width)
    chroma = tuple(slice(first // 2, first // 2 + (size + 1) // 2) for first, size in ((top, height), (left, width)))
    return Picture(*map(np.ascontiguousarray, (picture.y[luma], picture.u[chroma], picture.v[chroma])))


@dataclass(frozen=True, slots=True)
class Orientation:
    """How a stored picture becomes an upright one: axes are swapped first, then x and y are flipped."""

    swap: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @property
    def turns(self) -> bool:
        """Whether an upright picture differs from the stored one."""
        return self != Orientation()

    def apply(self, picture: Picture) -> Picture:
        """The upright picture; its width and height are swapped if `swap` is set."""
        if not self.turns:
            return picture
        return Picture(*(self._turn(plane) for plane in (picture.y, picture.u, picture.v)))

    def _turn(self, plane: np.ndarray) -> np.ndarray:
        plane = plane.T if self.swap else plane
        plane = plane[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]
        return np.ascontiguousarray(plane)


def read_orientation(frame: av.VideoFrame) -> Orientation:
    """The frame's display matrix (x' = a x + c y, y' = b x + d y), as the nearest of the eight orientations."""
    matrix = SideDataReader("DISPLAYMATRIX").read(frame)
    if matrix is None:
        return Orientation()
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    if abs(c) + abs(b) > abs(a) + abs(d):
        return Orientation(True, c < 0, b < 0)
    return Orientation(False, a < 0, d < 0)


# --- RGB ----------------------------------------------------------------------------------------------------


def to_rgb(picture: Picture, colour: Colour) -> np.ndarray:
    """The picture as full-range RGB, uint8 [H, W, 3], with its primaries and transfer unchanged.

    A matrix that is unspecified or unsupported is taken for BT.709 from 720 lines on, and BT.601 below.
    """
    return frame_to_rgb(to_frame(picture, colour))


def frame_to_rgb(frame: av.VideoFrame) -> np.ndarray:
    """The same for a frame of any pixel format, by its own tags."""
    matrix = _SWS_MATRIX.get(frame.colorspace) or _SWS_MATRIX[usual_matrix(frame.height)]
    code_range = ColorRange.JPEG if _is_rgb(frame) else _span(_is_full_range(frame))
    rgb = _reformat(frame, "rgb24", matrix, matrix, code_range, ColorRange.JPEG)
    return _plane(rgb, 0, rgb.height, rgb.width * 3).reshape(rgb.height, rgb.width, 3).copy()


def from_rgb(rgb: np.ndarray, colour: Colour) -> Picture:
    """The inverse of `to_rgb`, up to rounding and chroma subsampling; rgb: uint8 [H, W, 3].

    Raises:
        ValueError: rgb has another shape or type.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"an RGB picture is uint8 [H, W, 3], got {rgb.dtype} {list(rgb.shape)}")
    matrix = _SWS_MATRIX.get(colour.matrix) or _SWS_MATRIX[usual_matrix(rgb.shape[0])]
    code_range = _span(colour.full_range)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), "rgb24")
    return to_picture(_reformat(frame, "yuv420p", matrix, matrix, ColorRange.JPEG, code_range))
