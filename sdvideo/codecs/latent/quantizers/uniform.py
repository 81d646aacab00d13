"""The uniform quantizer: the latent delta to the prediction, in steps chosen by quality, where it is worth its bits.

Files name it by the coder of their model, "context-1" or "plain-1". Frame data is that of `coding/frame_syntax.py`.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from sdvideo.codecs.latent.coding.frame_syntax import FramePlan, FrameSymbols, code_frame
from sdvideo.codecs.latent.coding.rdoq import SymbolDecoder, SymbolEncoder, dequantize, step_size, worth_coding
from sdvideo.codecs.latent.latent_space import LatentSpace
from sdvideo.codecs.latent.model import LatentModel


class UniformQuantizer:
    """A Quantizer for any model. For `parse` and `reference` alone a LatentSpace will do."""

    coder: str

    def __init__(self, model: LatentModel | LatentSpace):
        self._model = model
        self.coder = model.coder.name

    def look_ahead(self, sources: list[Any]) -> None:
        """Changes nothing: each frame is quantized by itself."""

    def code(
        self,
        source: Any,
        prediction: Any,
        motion: np.ndarray,
        same: np.ndarray | None,
        previous: FrameSymbols,
        index: int,
    ) -> tuple[FrameSymbols, bytes]:
        step, model = step_size(index), cast(LatentModel, self._model)
        units = model.analyse(source, prediction, step) / np.float32(step)
        coded = np.ones_like(previous.coded) if same is None else worth_coding(units) & ~same
        return self._code(SymbolEncoder(), same is None, FramePlan(motion, coded, units), previous, index)

    def _code(
        self, stream: SymbolEncoder, key: bool, plan: FramePlan, previous: FrameSymbols, index: int
    ) -> tuple[FrameSymbols, bytes]:
        symbols = code_frame(stream, self._model.coder, previous, key, index, plan)
        return symbols, b"" if symbols.still else stream.finish()

    def parse(self, data: bytes, previous: FrameSymbols, key: bool, index: int) -> FrameSymbols:
        stream = SymbolDecoder(data)
        symbols = code_frame(stream, self._model.coder, previous, key, index)
        stream.finish()
        return symbols

    def reference(self, prediction: Any, symbols: FrameSymbols, index: int) -> Any:
        step = step_size(index)
        return self._model.synthesise(prediction, dequantize(symbols.latent, step), symbols.coded, step)
