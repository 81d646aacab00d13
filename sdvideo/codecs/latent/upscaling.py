"""Latents of small pictures: what was coded at a scale below 1 is restored at full size by the network of base "av1".

The network is conditioned on a CRF: here on that of an AV1 base that is about as coarse. Where a small picture has not
changed, nothing changes at full size, bit for bit, whatever the network would make of it the second time.
"""

from __future__ import annotations

import cv2
import numpy as np

from sdvideo.codecs.latent.coding.frame_syntax import FrameSymbols
from sdvideo.codecs.latent.coding.rdoq import step_size
from sdvideo.container.group import KEY, CodedFrame
from sdvideo.frames import Frame, Picture, grey
from sdvideo.restoration.restorer import FrameRestorer, Restorer

from .frame_codec import FrameDecoder

_REACH = 12  # small pixels around a change within which the network may change the picture


class SmallFrameDecoder:
    """A FrameDecoder of small pictures whose frames come out at full size. width, height: of those."""

    def __init__(self, decoder: FrameDecoder, restorer: Restorer, height: int, width: int):
        self._decoder, self._restorer = decoder, FrameRestorer(restorer, width, height)
        self._previous = grey(1, 1)  # never compared: the first frame has none before it
        self._first = True

    def parse(self, coded: CodedFrame) -> FrameSymbols:
        return self._decoder.parse(coded)

    def reconstruct(self, coded: CodedFrame, symbols: FrameSymbols) -> Frame:
        small = self._decoder.reconstruct(coded, symbols).picture
        first = coded.kind == KEY or self._first
        unchanged = None if first else _unchanged(self._previous, small)
        self._previous, self._first = small, False
        prepared = self._restorer.prepare(small, first)
        return Frame(coded.pts, coded.duration, self._restorer.restore(prepared, _crf(coded.step), unchanged))

    def integers(self, symbols: FrameSymbols) -> FrameSymbols:
        return symbols


def _crf(step: int) -> float:
    """The CRF of an AV1 base that is about as coarse as latents with this step index."""
    return float(np.clip(30 + 6 * np.log2(step_size(step)), 20, 63))


def _unchanged(previous: Picture, current: Picture) -> np.ndarray:
    """Where nothing has changed within _REACH, bool [H, W]."""
    changed = (previous.y != current.y).astype(np.uint8)
    chroma = ((previous.u != current.u) | (previous.v != current.v)).astype(np.uint8)
    changed |= cv2.resize(chroma, changed.shape[::-1], interpolation=cv2.INTER_NEAREST)
    return cv2.dilate(changed, np.ones((2 * _REACH + 1, 2 * _REACH + 1), np.uint8)) == 0
