"""The restoration network in OpenVINO, on the CPU. The graph is built from the weights, without a model converter.

upscaled, warped, warp error (uint8) -> network of `network.py` -> restored squares (uint8)
"""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset13 as op

from .engine import BLOCKS, CHANNELS
from .openvino_graph import CompiledGraph, Weights, convolution, first_bias, output, pixels, residual_blocks
from .patches import SAMPLES, WARP_ERRORS


class OpenvinoEngine:
    """An Engine, see `engine.py`. weights: float32, by name."""

    def __init__(self, weights: Weights):
        self._weights = weights
        self._graph = CompiledGraph(lambda rows, columns: _graph(self._weights, rows, columns))

    def restore(
        self, upscaled: np.ndarray, warped: np.ndarray, warp_error: np.ndarray, setting: tuple[float, float]
    ) -> np.ndarray:
        return self._graph.run([upscaled, warped, warp_error], first_bias(self._weights, setting))


def _graph(weights: Weights, rows: int, columns: int) -> ov.Model:
    """The network of `network.py` for a size in squares."""
    (first, current), (second, previous) = (pixels(rows, columns, SAMPLES) for _ in range(2))
    third, error = pixels(rows, columns, WARP_ERRORS)
    bias = op.parameter([1, CHANNELS, 1, 1], ov.Type.f32)

    difference = op.subtract(previous, current)
    seen = op.concat([op.subtract(current, op.constant(np.float32(128))), difference, error], 1)
    x = op.add(convolution(seen, weights["enter.weight"] / 64), bias)
    x = residual_blocks(x, weights, BLOCKS)
    weight, offset = weights["leave.weight"], weights["leave.bias"]
    change = op.multiply(convolution(x, weight[:SAMPLES], offset[:SAMPLES]), op.constant(np.float32(8)))
    blend = op.sigmoid(convolution(x, weight[SAMPLES:], offset[SAMPLES:]))
    restored = op.add(current, op.add(change, op.multiply(blend, difference)))
    rounded = op.convert(op.round(op.clamp(restored, 0.0, 255.0), "half_to_even"), "u8")
    return ov.Model([output(rounded)], [first, second, third, bias], "restoration")
