"""Dense optical flow by the DIS method (Kroeger et al., ECCV 2016, in OpenCV), and sampling along it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from sdvideo.frames import extend_edges

_create: Any = getattr(cv2, "DISOpticalFlow_create")  # noqa: B009 - missing in OpenCV's type stubs
_ONE_MAP: Any = None  # for remap: the map holds both coordinates
_MIN_SIDE = 32  # pixels; DIS fails on smaller pictures
_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


class DenseFlow:
    """Estimates a motion vector for every pixel. preset: "ultrafast", "fast" or "medium".

    finest_scale: the pyramid level at which estimation stops, 0 is full size. patch_stride: pixels between the patches
    that are matched. None keeps the preset's own value.
    """

    def __init__(self, preset: str, *, finest_scale: int | None = None, patch_stride: int | None = None) -> None:
        self._dis: Any = _create(_PRESETS[preset])
        if finest_scale is not None:
            self._dis.setFinestScale(finest_scale)
        if patch_stride is not None:
            self._dis.setPatchStride(patch_stride)

    def estimate(self, current: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """The flow from `current` to `reference`, both luma, uint8 [H, W].

        Returns float32 [H, W, 2] (x, y) in pixels: the pixel at p is found at p + flow in the reference.
        """
        height, width = current.shape
        rows, columns = max(height, _MIN_SIDE), max(width, _MIN_SIDE)
        pair = (extend_edges(plane, rows, columns) for plane in (current, reference))
        return self._dis.calc(*pair, None)[:height, :width]


class HalfSizeFlow:
    """Flow between consecutive base pictures on the half-size grid, with the error of warping along it.

    The decoder runs this for every frame, so it is tuned for speed: one pyramid level coarser is as good at half size
    as the slower presets and takes a third of their time; a patch stride of 5 is as good as 4 and takes 0.7 of its.
    """

    def __init__(self) -> None:
        self._flow = DenseFlow("ultrafast", finest_scale=1, patch_stride=5)

    def estimate(self, previous: np.ndarray, current: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """previous, current: luma at half size (see `half_size`), uint8 [H/2, W/2].

        Returns the flow from `current` to `previous`, float32 [H/2, W/2, 2] (x, y) in samples of this grid, and the
        warp error, uint8 [H/2, W/2]: |current - warped previous|, 255 where the flow leaves the picture.
        """
        flow = self._flow.estimate(current, previous)
        positions = flow + sample_grid(*current.shape)
        inside = cv2.inRange(positions, (0, 0), (current.shape[1] - 1, current.shape[0] - 1))
        return flow, cv2.bitwise_or(cv2.absdiff(current, sample(previous, positions)), cv2.bitwise_not(inside))


def half_size(luma: np.ndarray) -> np.ndarray:
    """Means of 2x2 samples: uint8 [H, W] with even sides -> uint8 [H/2, W/2]."""
    return cv2.resize(luma, (luma.shape[1] // 2, luma.shape[0] // 2), interpolation=cv2.INTER_AREA)


@lru_cache(maxsize=4)
def sample_grid(height: int, width: int) -> np.ndarray:
    """The position of every sample, float32 [H, W, 2] (x, y), read-only."""
    positions = np.dstack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)))
    positions.setflags(write=False)
    return positions


def sample(plane: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Bilinear samples of a plane, uint8 or float32 [H, W] or [H, W, C], at float32 [h, w, 2] (x, y) positions.

    Positions outside the plane give its nearest border sample.
    """
    return cv2.remap(plane, positions, _ONE_MAP, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def warp_along(plane: np.ndarray, flow: np.ndarray, place: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Bicubic samples of a plane, uint8 [H, W], each at its own position + flow, float32 [h, w, 2] (x, y).

    place: the position (x, y) in the plane of the first of them.
    """
    if place == (0, 0) and flow.shape[:2] == plane.shape:
        how = cv2.INTER_CUBIC | cv2.WARP_RELATIVE_MAP
        return cv2.remap(plane, flow, _ONE_MAP, how, borderMode=cv2.BORDER_REPLICATE)
    positions = flow + sample_grid(*flow.shape[:2]) + np.array(place, np.float32)
    return cv2.remap(plane, positions, _ONE_MAP, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
