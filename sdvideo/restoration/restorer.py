"""Restores full-size pictures from small decoded ones, frame after frame, with the network of `network.py`.

The first picture of a group has no history: there the upscaled picture stands in for the warped one, and the warp error
is 255 everywhere. Flow is estimated from what the decoder has, so it costs no bits.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from sdvideo.frames import Picture, extend_edges, grey
from sdvideo.media.scaling import scaled
from sdvideo.motion.optical_flow import HalfSizeFlow, half_size, warp_along

from .engine import NO_HISTORY, Engine, conditioning
from .patches import patches_to_picture, picture_to_patches, space_to_depth

_MIN_SIDE = 64  # pixels; optical flow needs half of that


class PreparedFrame(NamedTuple):
    """A base picture, ready to be restored.

    base: as decoded. upscaled: at full size, sides extended to multiples of 4. flow: float32 [H/2, W/2, 2] towards the
    previous base picture, None for the first of a group. warp_error: uint8 [H/2, W/2].
    """

    base: Picture
    upscaled: Picture
    flow: np.ndarray | None
    warp_error: np.ndarray


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

    def prepare(self, base: Picture, first: bool) -> PreparedFrame:
        """Upscale the next base picture and find its motion. first: whether it begins a group."""
        upscaled = _extended(scaled(base, self._width, self._height))
        previous, self._half = self._half, half_size(upscaled.y)
        if first or previous is None:
            return PreparedFrame(base, upscaled, None, np.full_like(self._half, NO_HISTORY))
        return PreparedFrame(base, upscaled, *self._flow.estimate(previous, self._half))

    def restore(self, frame: PreparedFrame, crf: float, unchanged: np.ndarray | None = None) -> Picture:
        """The next picture. crf: with which the base was coded, 20..63.

        unchanged: bool, of the base picture's size; where it is True the previous picture stays as it is.
        """
        warped = frame.upscaled if frame.flow is None else _warp(self._previous, frame.flow)
        scale = math.sqrt(frame.base.width * frame.base.height / (self._width * self._height))
        picture = self._restorer.restore(frame.upscaled, warped, frame.warp_error, conditioning(crf, scale))
        if unchanged is not None:
            picture = _keep(self._previous, picture, unchanged, self._width, self._height)
        self._previous = picture
        h, w = (self._height + 1) // 2, (self._width + 1) // 2
        planes = picture.y[: self._height, : self._width], picture.u[:h, :w], picture.v[:h, :w]
        return Picture(*map(np.ascontiguousarray, planes))


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


def _extended(picture: Picture) -> Picture:
    """The picture with its last row and column repeated up to multiples of 4, and at least _MIN_SIDE."""
    height, width = (max(_MIN_SIDE, -(-side // 4) * 4) for side in (picture.height, picture.width))
    chroma = (extend_edges(plane, height // 2, width // 2) for plane in (picture.u, picture.v))
    return Picture(extend_edges(picture.y, height, width), *chroma)


def _warp(previous: Picture, flow: np.ndarray) -> Picture:
    """Sample a picture along a flow of the half-size grid, which is the grid of its chroma samples."""
    fine = cv2.resize(2 * flow, previous.y.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return Picture(*(warp_along(*pair) for pair in ((previous.y, fine), (previous.u, flow), (previous.v, flow))))


def _keep(previous: Picture, current: Picture, unchanged: np.ndarray, width: int, height: int) -> Picture:
    """The previous samples where `unchanged` is True, the current ones elsewhere.

    unchanged: bool, of any size; it stands for the width x height pixels that are not extension.
    """
    half = (width + 1) // 2, (height + 1) // 2
    keep = cv2.resize(unchanged.astype(np.uint8), half, interpolation=cv2.INTER_NEAREST)
    keep = extend_edges(keep, *current.u.shape).astype(bool)
    y = np.where(keep.repeat(2, 0).repeat(2, 1), previous.y, current.y)
    return Picture(y, np.where(keep, previous.u, current.u), np.where(keep, previous.v, current.v))
