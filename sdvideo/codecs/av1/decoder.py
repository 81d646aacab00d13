"""Decodes base "av1": container -> AV1 -> upscale -> restore.

Restoration also sees the previous restored picture, warped along the optical flow of the base pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from sdvideo.codecs.interface import DecodeOptions
from sdvideo.container.group import KEY, CodedFrame
from sdvideo.container.header import Header
from sdvideo.frames import Frame, Picture
from sdvideo.restoration.loading import load_restorer
from sdvideo.restoration.restorer import FrameRestorer, PreparedFrame, Restorer

from .base_layer import BaseDecoder
from .bitstream import unpack_step


class Decoder:
    """A VideoDecoder, see `codecs/interface.py`."""

    concurrent = True

    def __init__(self, header: Header, options: DecodeOptions):
        self._header, self._options = header, options

    @cached_property
    def _restorer(self) -> Restorer:
        header, chosen = self._header, self._options.look
        expected = [header.model] if header.painter is None or chosen is not None else [header.model, header.painter]
        return load_restorer(
            device=self._options.device, expected=expected, look=header.look if chosen is None else chosen
        )

    def frame_decoder(self) -> Av1FrameDecoder:
        return Av1FrameDecoder(self._restorer, self._header.info.width, self._header.info.height)

    def parser(self) -> Callable[[CodedFrame], Picture]:
        return BaseDecoder(self._header.info.width, self._header.info.height).decode


class Av1FrameDecoder:
    """A FrameDecoder whose symbols are base pictures, ready to be restored. width, height: of the video."""

    def __init__(self, restorer: Restorer, width: int, height: int):
        self._decoder, self._restorer = BaseDecoder(width, height), FrameRestorer(restorer, width, height)

    def parse(self, coded: CodedFrame) -> PreparedFrame:
        return self._restorer.prepare(self._decoder.decode(coded), coded.kind == KEY)

    def reconstruct(self, coded: CodedFrame, symbols: PreparedFrame) -> Frame:
        crf, _ = unpack_step(coded.step)
        return Frame(coded.pts, coded.duration, self._restorer.restore(symbols, crf))

    def integers(self, symbols: PreparedFrame) -> Picture:
        """The base picture."""
        return symbols.base
