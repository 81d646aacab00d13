"""Restores full-size pictures from small decoded ones, frame after frame, with the network of `network.py`.

The first picture of a group has no history: there the upscaled picture stands in for the warped one, and the warp error
is 255 everywhere. Flow is estimated from what the decoder has, so it costs no bits.

Where the base picture is at rest, the shown picture stays as it is, and the network does not run there: in a screen
recording that is most of the picture. See `at_rest.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from sdvideo.frames import Picture, extend_edges, grey
from sdvideo.media.scaling import scaled
from sdvideo.motion.optical_flow import HalfSizeFlow, half_size, warp_along

from .at_rest import CONTEXT, Rectangle, RestDetector
from .engine import NO_HISTORY, Engine, conditioning
from .patches import patches_to_picture, picture_to_patches, space_to_depth

_MIN_SIDE = 64  # pixels; optical flow needs half of that
_SQUARE = (4, 2, 2)  # samples a side of a square in each plane


class PreparedFrame(NamedTuple):
    """A base picture, ready to be restored.

    base: as decoded. upscaled: at full size, sides extended to multiples of 4. flow: float32 [H/2, W/2, 2] towards the
    previous base picture, None for the first of a group. warp_error: uint8 [H/2, W/2]. moving: the parts to restore, in
    4x4 squares; elsewhere the previous picture stays.
    """

    base: Picture
    upscaled: Picture
    flow: np.ndarray | None
    warp_error: np.ndarray
    moving: Sequence[Rectangle]


class FrameRestorer:
    """Restores the pictures of one video in order, in two steps that may run in two threads.

    `prepare` needs no restored picture, and `restore` no earlier base picture, so one may run some frames ahead of the
    other. width, height: of the restored pictures.
    """

    def __init__(self, restorer: Restorer, width: int, height: int):
        self._restorer, self._width, self._height = restorer, width, height
        self._flow = HalfSizeFlow()
        self._half: np.ndarray | None = None
        self._previous: Picture = grey(1, 1)  # never seen: the first picture of a group has no flow
        rows, columns = (side // 4 for side in _extended_size(height, width))
        self._detector = RestDetector(rows, columns, width, height)

    def prepare(self, base: Picture, first: bool) -> PreparedFrame:
        """Upscale the next base picture and find its motion. first: whether it begins a group."""
        upscaled = _extended(scaled(base, self._width, self._height))
        previous, self._half = self._half, half_size(upscaled.y)
        first = first or previous is None
        moving = self._detector.moving(base, first)
        if first or previous is None:
            return PreparedFrame(base, upscaled, None, np.full_like(self._half, NO_HISTORY), moving)
        flow = self._flow.estimate(previous, self._half) if moving else _no_motion(self._half.shape)
        return PreparedFrame(base, upscaled, *flow, moving)

    def restore(self, frame: PreparedFrame, crf: float, unchanged: np.ndarray | None = None) -> Picture:
        """The next picture. crf: with which the base was coded, 20..63.

        unchanged: bool, of the base picture's size; where it is True the previous picture stays as it is.
        """
        scale = math.sqrt(frame.base.width * frame.base.height / (self._width * self._height))
        setting = conditioning(crf, scale)
        if frame.flow is None or [part.area * 16 for part in frame.moving] == [frame.upscaled.y.size]:
            warped = frame.upscaled if frame.flow is None else _warp(self._previous, frame.flow)
            picture = self._restorer.restore(frame.upscaled, warped, frame.warp_error, setting)
        else:
            picture = self._restored_parts(frame, frame.flow, setting)
        if unchanged is not None:
            picture = _keep(self._previous, picture, unchanged, self._width, self._height)
        self._previous = picture
        h, w = (self._height + 1) // 2, (self._width + 1) // 2
        y, u, v = _planes(picture)
        planes = y[: self._height, : self._width], u[:h, :w], v[:h, :w]
        return Picture(*map(np.ascontiguousarray, planes))

    def _restored_parts(self, frame: PreparedFrame, flow: np.ndarray, setting: tuple[float, float]) -> Picture:
        """The previous picture, with the moving parts restored."""
        if not frame.moving:
            return self._previous
        picture = Picture(*(plane.copy() for plane in _planes(self._previous)))
        rows, columns = (side // 4 for side in picture.y.shape)
        for part in frame.moving:
            seen = part.grown(CONTEXT, rows, columns)
            upscaled = _part_of(frame.upscaled, seen)
            warped = _warp_part(self._previous, seen.of(flow, 2), seen)
            restored = self._restorer.restore(upscaled, warped, seen.of(frame.warp_error, 2), setting)
            for plane, values, size in zip(_planes(picture), _planes(restored), _SQUARE):
                part.of(plane, size)[:] = part.of(values, size, seen)
        return picture


class Restorer:
    """The network with its weights, run by an engine."""

    def __init__(self, engine: Engine):
        self._engine = engine

    def restore(
        self, upscaled: Picture, warped: Picture, warp_error: np.ndarray, setting: tuple[float, float]
    ) -> Picture:
        """One picture, see `network.py`. The sides of all pictures are multiples of 4."""
        patches = picture_to_patches(upscaled), picture_to_patches(warped)
        return patches_to_picture(self._engine.restore(*patches, space_to_depth(warp_error, 2, 2), setting))


def _planes(picture: Picture) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return picture.y, picture.u, picture.v


def _no_motion(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """What HalfSizeFlow.estimate returns of two equal pictures."""
    return np.zeros((*shape, 2), np.float32), np.zeros(shape, np.uint8)


def _part_of(picture: Picture, part: Rectangle) -> Picture:
    return Picture(*(part.of(plane, size) for plane, size in zip(_planes(picture), _SQUARE)))


def _extended_size(height: int, width: int) -> tuple[int, int]:
    """Multiples of 4, and at least _MIN_SIDE."""
    return max(_MIN_SIDE, -(-height // 4) * 4), max(_MIN_SIDE, -(-width // 4) * 4)


def _extended(picture: Picture) -> Picture:
    """The picture with its last row and column repeated up to _extended_size."""
    height, width = _extended_size(picture.height, picture.width)
    chroma = (extend_edges(plane, height // 2, width // 2) for plane in (picture.u, picture.v))
    return Picture(extend_edges(picture.y, height, width), *chroma)


def _warp(previous: Picture, flow: np.ndarray) -> Picture:
    """Sample a picture along a flow of the half-size grid, which is the grid of its chroma samples."""
    fine = cv2.resize(2 * flow, previous.y.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return Picture(*(warp_along(*pair) for pair in ((previous.y, fine), (previous.u, flow), (previous.v, flow))))


def _warp_part(previous: Picture, flow: np.ndarray, part: Rectangle) -> Picture:
    """A part of _warp: what lies at it comes from anywhere in the picture. flow: of the part."""
    height, width = flow.shape[:2]
    fine = cv2.resize(2 * flow, (2 * width, 2 * height), interpolation=cv2.INTER_LINEAR)
    planes = zip(_planes(previous), (fine, flow, flow), _SQUARE)
    return Picture(*(warp_along(plane, field, (part.left * size, part.top * size)) for plane, field, size in planes))


def _keep(previous: Picture, current: Picture, unchanged: np.ndarray, width: int, height: int) -> Picture:
    """The previous samples where `unchanged` is True, the current ones elsewhere.

    unchanged: bool, of any size; it stands for the width x height pixels that are not extension.
    """
    half = (width + 1) // 2, (height + 1) // 2
    keep = cv2.resize(unchanged.astype(np.uint8), half, interpolation=cv2.INTER_NEAREST)
    keep = extend_edges(keep, *current.u.shape).astype(bool)
    y = np.where(keep.repeat(2, 0).repeat(2, 1), previous.y, current.y)
    return Picture(y, np.where(keep, previous.u, current.u), np.where(keep, previous.v, current.v))
