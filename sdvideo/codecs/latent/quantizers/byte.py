"""Bühlmann's quantizer: each value of a latent becomes a byte, and nothing more is lost.

He stored round(255 * clamp(z / (255 * 0.18215) + 0.5, 0, 1)) of the scaled latent z = 0.18215 * raw of Stable
Diffusion 1, so one step of a byte is 0.18215 standard deviations. Here z is the scaled latent of any model (see
`latent_space.py`). In the integers of a reference, which are UNITS_PER_STEP * STEPS_PER_DEVIATION = 1024 to a standard
deviation, a byte b stands for a value v, and the byte closest to a value, clipped to 0..255, is b:
    v = (1865216 * (2 b - 255) + 10000) // 20000
    b = (10000 * v + 128 * 1865216) // 1865216              where // rounds down.

Files name this quantizer by the coder "bytes-1". Frame data is that of `coding/frame_syntax.py` with the adaptive coder
(`coding/adaptive_coder.py`); no words at all mean "as the previous frame". The coded latent holds differences: the
bytes of the frame minus those of its prediction, which is v = 0 everywhere in key frames, and otherwise the reference,
warped by the coded motion. The sums of both, clipped to 0..255, are the bytes of the new reference. The step index has
no meaning.
"""

from __future__ import annotations

import numpy as np

from sdvideo.codecs.latent.coding.frame_syntax import FramePlan, FrameSymbols
from sdvideo.codecs.latent.coding.rdoq import ExactSymbolEncoder
from sdvideo.codecs.latent.latent_space import STEPS_PER_DEVIATION, Reference

from .uniform import UniformQuantizer

STEP = 0.18215 * STEPS_PER_DEVIATION  # of a byte, in steps of size 1
_STEP = 1865216  # of a byte, in 10000ths of the integers of a reference


def in_bytes(latent: np.ndarray) -> np.ndarray:
    """Source latents in steps of size 1 -> in units of a byte, 0..255, not rounded; float32 both."""
    return 255 * np.clip(latent / (255 * STEP) + 0.5, 0, 1)


def values_of(numbers: np.ndarray) -> np.ndarray:
    """Bytes -> the integers of a reference, int32."""
    return ((_STEP * (2 * numbers.astype(np.int64) - 255) + 10000) // 20000).astype(np.int32)


def bytes_of(values: np.ndarray) -> np.ndarray:
    """The inverse of values_of, int32; of other values the nearest byte."""
    return ((10000 * values.astype(np.int64) + 128 * _STEP) // _STEP).clip(0, 255).astype(np.int32)


class ByteQuantizer(UniformQuantizer):
    """A Quantizer for latent spaces."""

    name = "bytes-1"

    def __init__(self, model):
        super().__init__(model)
        self.coder = self.name

    def code(self, source, prediction, motion, same, before, index):
        delta = np.rint(in_bytes(source.latent)).astype(np.int32) - bytes_of(prediction.values)
        coded = np.ones_like(before.coded) if same is None else delta.any(-1)
        return self._code(ExactSymbolEncoder(), same is None, FramePlan(motion, coded, delta), before, index)

    def reference(self, prediction: Reference, symbols: FrameSymbols, index: int) -> Reference:
        if symbols.still:
            return prediction
        return prediction.successor(values_of((bytes_of(prediction.values) + symbols.latent).clip(0, 255)))
