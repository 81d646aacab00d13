"""GOP boundaries: a key frame keeps a share of the error of the frame before it, so that it does not pop.

A key frame is coded without knowledge of the previous group. Its error, mostly detail that was not worth its bits,
differs from the error of the frame shown just before, and the change from one error to the other is visible. So the
encoder carries the last error along the motion of the source, and codes the key frame as if a share of it were part of
the source:

    coded instead of x:   x + share * visible * warp(decoded before - target before)

The target is what the encoder was meant to code: the source, or the prefiltered source. What the prefilter changes is
no error, for it will change the key frame in the same way. The decoder does not take part in this, and each group still
decodes alone. Nothing is carried across a scene cut.
"""

from __future__ import annotations

import cv2
import numpy as np

from sdvideo.frames import Picture
from sdvideo.motion.optical_flow import sample
from sdvideo.motion.source_motion import source_motion

Error = tuple[np.ndarray, np.ndarray, np.ndarray]  # of a picture's planes y, u, v: float32

_FADE = 2.0  # pixels, standard deviation: the carried error fades out towards what was not visible before


def error_share(level: float) -> float:
    """The share of the last error that a key frame keeps, 0.5 to 1: more in coarser video, where changes show more."""
    return float(np.interp(level, (30, 60), (0.5, 1.0)))


def boundary_error(source: Picture, target: Picture, decoded: Picture, first: Picture) -> Error | None:
    """The error of a group's last picture, moved to where the next group's first picture has the same content.

    source, target, decoded: the last picture in the source, as it was to be coded, and as decoded. first: the next
    picture in the source. All of one size. Returns None if there is a scene cut between the two.
    """
    motion = source_motion(source.y, first.y)
    if motion.cut:
        return None
    visible = motion.visible.astype(np.float32)
    visible *= cv2.GaussianBlur(visible, (0, 0), _FADE)
    chroma = _on_chroma_grid(motion.positions)
    return (
        _carried(target.y, decoded.y, motion.positions, visible),
        _carried(target.u, decoded.u, chroma, visible),
        _carried(target.v, decoded.v, chroma, visible),
    )


def add_error(first: Picture, error: Error, share: float) -> Picture:
    """The first picture of a group as it is to be coded. error: see boundary_error; share: 0..1."""
    planes = zip((first.y, first.u, first.v), error)
    return Picture(*(np.clip(np.rint(plane + share * e), 0, 255).astype(np.uint8) for plane, e in planes))


def _carried(target: np.ndarray, decoded: np.ndarray, positions: np.ndarray, visible: np.ndarray) -> np.ndarray:
    error = sample(decoded.astype(np.float32) - target, positions)
    return error * cv2.resize(visible, error.shape[::-1], interpolation=cv2.INTER_AREA)


def _on_chroma_grid(positions: np.ndarray) -> np.ndarray:
    """Positions of luma samples -> positions of 4:2:0 chroma samples, in samples of the chroma grid."""
    height, width = ((side + 1) // 2 for side in positions.shape[:2])
    return cv2.resize(positions, (width, height), interpolation=cv2.INTER_AREA) / 2 - 0.25
