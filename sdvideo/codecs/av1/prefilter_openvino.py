"""The network of the prefilter in OpenVINO, on the CPU; the graph of `prefilter_network.py`, built from the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as op

from sdvideo.restoration.openvino_graph import (
    CompiledGraph,
    Weights,
    convolution,
    first_bias,
    output,
    pixels,
    residual_blocks,
)
from sdvideo.weights import read_weights

from .prefilter_engine import BLOCKS, CHANNELS, SAMPLES


class OpenvinoPrefilter:
    """A PrefilterEngine, see `prefilter.py`. path: weights, safetensors."""

    def __init__(self, path: Path):
        self._weights = read_weights(path)
        self._graph = CompiledGraph(lambda rows, columns: _graph(self._weights, rows, columns))

    def change(self, luma: np.ndarray, setting: tuple[float, float]) -> np.ndarray:
        return self._graph.run([luma], first_bias(self._weights, setting))


def _graph(weights: Weights, rows: int, columns: int) -> ov.Model:
    """The network for a size in squares."""
    parameter, luma = pixels(rows, columns, SAMPLES)
    bias = op.parameter([1, CHANNELS, 1, 1], ov.Type.f32)
    seen = op.subtract(luma, op.constant(np.float32(128)))
    x = op.add(convolution(seen, weights["enter.weight"] / 64), bias)
    x = residual_blocks(x, weights, BLOCKS)
    change = op.multiply(convolution(x, weights["leave.weight"], weights["leave.bias"]), op.constant(np.float32(8)))
    return ov.Model([output(op.convert(change, "f32"))], [parameter, bias], "prefilter")
