"""Bühlmann's quantizer: each value of a latent becomes a byte, and nothing more is lost.

He stored round(255 * clamp(z / (255 * 0.18215) + 0.5, 0, 1)) of the scaled latent z = 0.18215 * raw of Stable
Diffusion 1, so one step of a byte is 0.18215 standard deviations. Here z is the scaled latent of any model (see
`latent_space.py`). In the integers of a reference, which are UNITS_PER_STEP * STEPS_PER_DEVIATION = 1024 to a standard
deviation, a byte b stands for the value v; of any other value, b is the nearest byte, clipped to 0..255:
    v = (1865216 * (2 b - 255) + 10000) // 20000
    b = (10000 * v + 128 * 1865216) // 1865216              where // rounds down.

Files name this quantizer by the coder "bytes-1". Frame data is that of `coding/frame_syntax.py` with the adaptive coder
(`coding/adaptive_coder.py`); no words at all mean "as the previous frame". The coded latent holds differences: the
bytes of the frame minus those of its prediction, which is v = 0 everywhere in key frames, and otherwise the reference,
warped by the coded motion. The sums of both, clipped to 0..255, are the bytes of the new reference. The step index has
no meaning.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sdvideo.codecs.latent.coding.frame_syntax import FramePlan, FrameSymbols
from sdvideo.codecs.latent.coding.rdoq import ExactSymbolEncoder
from sdvideo.codecs.latent.latent_space import STEPS_PER_DEVIATION, LatentSpace

from .uniform import UniformQuantizer

STEP = 0.18215 * STEPS_PER_DEVIATION  # of a byte, in steps of size 1
_STEP = 1865216  # of a byte, in 10000ths of the integers of a reference


def in_bytes(latent: np.ndarray) -> np.ndarray:
    """Source latents in steps of size 1 -> in units of a byte, 0..255, not rounded; float32 both."""
    units: np.ndarray = 255 * np.clip(latent / (255 * STEP) + 0.5, 0, 1)
    return units


def values_of(numbers: np.ndarray) -> np.ndarray:
    """Bytes -> the integers of a reference, int32."""
    values: np.ndarray = (_STEP * (2 * numbers.astype(np.int64) - 255) + 10000) // 20000
    return values.astype(np.int32)


def bytes_of(values: np.ndarray) -> np.ndarray:
    """The inverse of values_of, int32; of other values the nearest byte."""
    numbers: np.ndarray = (10000 * values.astype(np.int64) + 128 * _STEP) // _STEP
    return numbers.clip(0, 255).astype(np.int32)


class ByteQuantizer(UniformQuantizer):
    """A Quantizer for latent spaces."""

    coder = "bytes-1"

    def __init__(self, model: LatentSpace):
        super().__init__(model)
        self.coder = ByteQuantizer.coder  # and not the model's

    def code(
        self,
        source: Any,
        prediction: Any,
        motion: np.ndarray,
        same: np.ndarray | None,
        previous: FrameSymbols,
        index: int,
    ) -> tuple[FrameSymbols, bytes]:
        delta = np.rint(in_bytes(source.latent)).astype(np.int32) - bytes_of(prediction.values)
        coded = np.ones_like(previous.coded) if same is None else delta.any(-1)
        return self._code(ExactSymbolEncoder(), same is None, FramePlan(motion, coded, delta), previous, index)

    def reference(self, prediction: Any, symbols: FrameSymbols, index: int) -> Any:
        if symbols.still:
            return prediction
        return prediction.successor(values_of((bytes_of(prediction.values) + symbols.latent).clip(0, 255)))
