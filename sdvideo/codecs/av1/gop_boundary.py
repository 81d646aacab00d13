"""Where one closed group ends and the next begins: the new key frame keeps a share of the error before it.

A key frame knows nothing of the group before it. Its error, mostly detail that was not worth its bits, is another one
than that of the picture shown last, and where one takes the place of the other the video pops. So the encoder carries
the last error along the motion of the source and codes the key frame as if a share of it belonged there:

    coded instead of x:   x + share * visible * W(shown before - meant before)

What was meant is the source, or what the prefilter made of it: that will be made of the key frame, too, and is no
error. The decoder knows nothing of all this, and each group still decodes alone. At a cut nothing is carried.
"""

from __future__ import annotations

import cv2
import numpy as np

from sdvideo.frames import Picture
from sdvideo.metrics.flicker import SourceMotion, source_motion

Error = tuple[np.ndarray, np.ndarray, np.ndarray]

_SOFT = 2.0  # pixels over which what is carried fades out where the picture before shows something else


def last_error(was: Picture, meant: Picture, shown: Picture, first: Picture) -> Error | None:
    """What of the error of the picture before belongs to the first one of a group.

    was, meant, shown: the picture before in the source, as it was to be coded, and as decoded; first: in the source;
    all of one size. Returns the error of each plane, float32 like y, u and v of a Picture; None where the two have
    nothing to do with each other.
    """
    motion = source_motion(was.y, first.y)
    if motion.cut:
        return None
    visible = motion.visible.astype(np.float32)
    visible *= cv2.GaussianBlur(visible, (0, 0), _SOFT)
    half = _halved(motion)
    places = (motion.x, motion.y), half, half
    pairs = (meant.y, shown.y), (meant.u, shown.u), (meant.v, shown.v)
    return tuple(_carried(*pair, place, visible) for pair, place in zip(pairs, places))


def joined(first: Picture, error: Error, share: float) -> Picture:
    """The first picture of a group as it is to be coded. error: see last_error; share: 0..1."""
    planes = zip((first.y, first.u, first.v), error)
    return Picture(*(np.clip(np.rint(plane + share * e), 0, 255).astype(np.uint8) for plane, e in planes))


def _carried(meant: np.ndarray, shown: np.ndarray, place: tuple[np.ndarray, ...], visible: np.ndarray) -> np.ndarray:
    error = shown.astype(np.float32) - meant
    error = cv2.remap(error, *place, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return error * cv2.resize(visible, error.shape[::-1], interpolation=cv2.INTER_AREA)


def _halved(motion: SourceMotion) -> tuple[np.ndarray, np.ndarray]:
    """The places of a motion on the grid of the chroma samples."""
    height, width = ((side + 1) // 2 for side in motion.x.shape)
    return tuple(cv2.resize(p, (width, height), interpolation=cv2.INTER_AREA) / 2 - 0.25 for p in (motion.x, motion.y))
