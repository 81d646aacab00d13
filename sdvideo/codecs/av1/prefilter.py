"""The prefilter of base "av1": a network that changes luma before it is coded. Decoders know nothing of it.

    coded = x + change

It weakens what costs many bits and is lost in any case, and sharpens what will be seen after restoration. It looks at
one picture, conditioned on CRF and scale, and starts as no change. It was trained through a differentiable stand-in for
the codec, and is used where it gains with real AV1, see `weights/PREFILTER.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from sdvideo.container.header import SCALES
from sdvideo.frames import Picture, extend_edges
from sdvideo.restoration.engine import conditioning
from sdvideo.restoration.loading import runs_openvino
from sdvideo.restoration.patches import add_rounded, depth_to_space, space_to_depth
from sdvideo.runtime.device import choose_device

from .prefilter_engine import SQUARE, PrefilterEngine

# The network may change at most this share of the usual squared error. In natural pictures it changes a twentieth at
# most; on rendered text, which was not in its training set, a third, and makes it worse.
_MAX_SHARE = 0.1
_COARSE = 54  # the CRF from which on it gains at two thirds; at full size it always does, at half size never


class Prefilter:
    """The network with its weights. path: safetensors; device: "auto", "cpu" or "cuda"."""

    def __init__(self, path: Path, device: str = "auto"):
        self._engine = _load_engine(path, device)

    def __call__(self, pictures: Sequence[Picture], crf: float, scale: Fraction) -> list[Picture]:
        """The pictures of a group as the AV1 encoder gets them: unchanged where the network does not gain.

        pictures: of the base's size. crf, scale: those of the base.
        """
        if scale < 1 and (scale != SCALES[1] or crf < _COARSE):
            return list(pictures)
        filtered = [self._filter(picture, crf, scale) for picture in pictures]
        changed = [cv2.norm(a.y, b.y, cv2.NORM_L2SQR) / a.y.size for a, b in zip(pictures, filtered, strict=True)]
        return filtered if sum(changed) / len(changed) <= _MAX_SHARE * usual_error(crf) else list(pictures)

    def _filter(self, picture: Picture, crf: float, scale: Fraction) -> Picture:
        luma = extend_edges(picture.y, *(-(-side // SQUARE) * SQUARE for side in picture.y.shape))
        patches = space_to_depth(luma, SQUARE, SQUARE)
        filtered = add_rounded(patches, self._engine.change(patches, conditioning(crf, float(scale))))
        y = depth_to_space(filtered, SQUARE, SQUARE)[: picture.height, : picture.width]
        return replace(picture, y=np.ascontiguousarray(y))


def _load_engine(path: Path, device: str) -> PrefilterEngine:
    if runs_openvino(device):
        from .prefilter_openvino import OpenvinoPrefilter

        return OpenvinoPrefilter(path)
    from .prefilter_network import TorchPrefilter

    return TorchPrefilter(path, choose_device(device))


def usual_error(crf: float) -> float:
    """The squared error of luma that natural video has at a CRF: held-back shots at full size, restored."""
    return 255**2 / 10 ** ((37.5 - 0.24 * (crf - 40)) / 10)
