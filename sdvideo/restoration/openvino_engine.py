"""The restoration network in OpenVINO, on the CPU. The graph is built from the weights, without a model converter.

upscaled, warped, warp error (uint8) -> network of `network.py` -> restored squares (uint8)
"""

from __future__ import annotations

import os
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as op
from safetensors.numpy import load_file

from sdvideo.runtime.device import usable_cores

from .engine import BLOCKS, CHANNELS
from .patches import SAMPLES, WARP_ERRORS

_TO_NCHW, _TO_NHWC = np.array([0, 3, 1, 2]), np.array([0, 2, 3, 1])
PROCESS = os.getpid()  # the one whose threads OpenVINO works with; it hangs in processes that are forked from it
_ANY = -1  # a side that is known only when the graph runs


class OpenvinoEngine:
    """An Engine, see `engine.py`. path: weights, safetensors.

    The graph is compiled for the size of the first picture, and once more for parts of any size, which costs a tenth
    of the speed.
    """

    def __init__(self, path: Path):
        self._weights = {name: value.astype(np.float32) for name, value in load_file(path).items()}
        self._compiled: dict[tuple[int, int], Any] = {}
        self._lock = threading.Lock()  # compiling the same graph twice at the same time would only cost memory

    def restore(
        self, upscaled: np.ndarray, warped: np.ndarray, warp_error: np.ndarray, setting: tuple[float, float]
    ) -> np.ndarray:
        request = self._model(*upscaled.shape[:2]).create_infer_request()
        inputs = [part[None] for part in (upscaled, warped, np.ascontiguousarray(warp_error))]
        request.infer([*inputs, self._bias(setting)], share_inputs=True)
        restored: np.ndarray = request.get_output_tensor().data[0].copy()
        return restored

    def _model(self, rows: int, columns: int) -> Any:
        with self._lock:
            size = (rows, columns)
            if self._compiled and size not in self._compiled:
                size = (_ANY, _ANY)
            if size not in self._compiled:
                self._compiled[size] = _compile(_graph(self._weights, *size))
            return self._compiled[size]

    def _bias(self, setting: tuple[float, float]) -> np.ndarray:
        """The bias of the first layer under a conditioning, float32 [1, CHANNELS, 1, 1]."""
        w = self._weights
        hidden = w["setting.0.weight"] @ np.array(setting, np.float32) + w["setting.0.bias"]
        hidden /= 1 + np.exp(-hidden)  # SiLU
        bias = w["setting.2.weight"] @ hidden + w["setting.2.bias"] + w["enter.bias"]
        return bias.astype(np.float32).reshape(1, CHANNELS, 1, 1)


@lru_cache(maxsize=1)
def _core() -> Any:
    """The one Core of the process, never freed.

    Loading its CPU plugin gives the thread an alternate signal stack of the plugin's, and freeing it in another thread
    unmaps that memory: the next signal then overwrites other data or kills the process.
    """
    return ov.Core()


def _compile(graph: Any) -> Any:
    bfloat16 = "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")  # elsewhere float32 is faster
    options = {
        "NUM_STREAMS": 1,  # all cores work on one picture
        "INFERENCE_NUM_THREADS": usable_cores(),
        "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
    }
    return _core().compile_model(graph, "CPU", options)


def _graph(weights: dict[str, np.ndarray], rows: int, columns: int) -> Any:
    """The network of `network.py` for a size in squares, which may be _ANY. Activations are [1, C, H, W]."""
    upscaled, warped = (op.parameter([1, rows, columns, SAMPLES], ov.Type.u8) for _ in range(2))
    warp_error = op.parameter([1, rows, columns, WARP_ERRORS], ov.Type.u8)
    bias = op.parameter([1, CHANNELS, 1, 1], ov.Type.f32)

    current, previous, error = (
        op.transpose(op.convert(part, "f32"), op.constant(_TO_NCHW)) for part in (upscaled, warped, warp_error)
    )
    difference = op.subtract(previous, current)
    seen = op.concat([op.subtract(current, op.constant(np.float32(128))), difference, error], 1)
    x = op.add(_convolution(seen, weights["enter.weight"] / 64), bias)
    for number in range(BLOCKS):
        look, widen, narrow = (
            (weights[f"blocks.{number}.{part}.weight"], weights[f"blocks.{number}.{part}.bias"])
            for part in ("look", "widen", "narrow")
        )
        wide = op.hswish(_convolution(_depthwise(x, *look), *widen))
        x = op.add(x, _convolution(wide, *narrow))
    weight, offset = weights["leave.weight"], weights["leave.bias"]
    change = op.multiply(_convolution(x, weight[:SAMPLES], offset[:SAMPLES]), op.constant(np.float32(8)))
    blend = op.sigmoid(_convolution(x, weight[SAMPLES:], offset[SAMPLES:]))
    restored = op.add(current, op.add(change, op.multiply(blend, difference)))
    rounded = op.convert(op.round(op.clamp(restored, 0.0, 255.0), "half_to_even"), "u8")
    return ov.Model([op.transpose(rounded, op.constant(_TO_NHWC))], [upscaled, warped, warp_error, bias], "restoration")


def _convolution(x: Any, weight: np.ndarray, bias: np.ndarray | None = None) -> Any:
    """A 1x1 convolution."""
    found = op.convolution(x, op.constant(weight), [1, 1], [0, 0], [0, 0], [1, 1])
    return found if bias is None else op.add(found, op.constant(bias.reshape(1, -1, 1, 1)))


def _depthwise(x: Any, weight: np.ndarray, bias: np.ndarray) -> Any:
    """A 3x3 convolution of each channel by itself. weight: [C, 1, 3, 3]."""
    found = op.group_convolution(x, op.constant(weight[:, None]), [1, 1], [1, 1], [1, 1], [1, 1])
    return op.add(found, op.constant(bias.reshape(1, -1, 1, 1)))
