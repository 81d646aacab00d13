"""Latents of small pictures: what was coded at a scale below 1 is painted at full size by the network of the AV1 base.

The network is told a CRF; of latents it is told that of an AV1 base about as coarse. Where a small picture has not
changed, nothing changes at full size, bit for bit, whatever the network thinks of it the second time.
"""

from __future__ import annotations

import cv2
import numpy as np

from sdvideo.codecs.latent.coding.frame_syntax import FrameSymbols
from sdvideo.codecs.latent.coding.rdoq import step_size
from sdvideo.container import KEY, CodedFrame
from sdvideo.frames import Frame, Picture
from sdvideo.restoration.restorer import Canvas, Restorer

from .frame_codec import FrameDecoder

_REACH = 12  # small pixels around a change within which the network may paint anew


class SmallFrameDecoder:
    """A FrameDecoder of small pictures whose frames come out at full size. width, height: of those."""

    def __init__(self, decoder: FrameDecoder, restorer: Restorer, height: int, width: int):
        self._decoder, self._canvas = decoder, Canvas(restorer, width, height)
        self._last: Picture | None = None

    def parse(self, coded: CodedFrame) -> FrameSymbols:
        return self._decoder.parse(coded)

    def reconstruct(self, coded: CodedFrame, symbols: FrameSymbols) -> Frame:
        small = self._decoder.reconstruct(coded, symbols).picture
        first = coded.kind == KEY or self._last is None
        still = None if first else _still(self._last, small)
        self._last = small
        traced = self._canvas.trace(small, first)
        return Frame(coded.pts, coded.duration, self._canvas.paint(traced, _crf(coded.step), still))


def _crf(step: int) -> float:
    """The CRF of an AV1 base that is about as coarse as latents with this step index."""
    return float(np.clip(30 + 6 * np.log2(step_size(step)), 20, 63))


def _still(before: Picture, now: Picture) -> np.ndarray:
    """Where nothing has changed near by, bool [H, W]."""
    changed = (before.y != now.y).astype(np.uint8)
    colours = ((before.u != now.u) | (before.v != now.v)).astype(np.uint8)
    changed |= cv2.resize(colours, changed.shape[::-1], interpolation=cv2.INTER_NEAREST)
    return cv2.dilate(changed, np.ones((2 * _REACH + 1, 2 * _REACH + 1), np.uint8)) == 0
