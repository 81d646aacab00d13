"""The restoration network in OpenVINO, on the CPU. The graph is built from the weights, without a model converter.

    upscaled, warped, warp error (uint8) -> network of `network.py` -> restored squares (uint8)

A picture is cut into strips of equal height, one for each thread, which run at the same time: all cores work on one
picture, without waiting for each other after every layer.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as op
from safetensors.numpy import load_file

from sdvideo.runtime.device import usable_cores

from .engine import BLOCKS, CHANNELS
from .patches import SAMPLES, WARP_ERRORS

_CONTEXT = BLOCKS  # rows of squares around a strip that the network looks at
_SIZES = 8  # picture sizes whose compiled graphs are kept: a video has three scales at most
_TO_NCHW, _TO_NHWC = np.array([0, 3, 1, 2]), np.array([0, 2, 3, 1])


class OpenvinoEngine:
    """An Engine, see `engine.py`. path: weights, safetensors. threads: all cores if None."""

    def __init__(self, path: Path, threads: int | None = None):
        self._weights = {name: value.astype(np.float32) for name, value in load_file(path).items()}
        self._threads = threads or usable_cores()
        self._compiled = lru_cache(maxsize=_SIZES)(self._compile)
        self._lock = threading.Lock()  # compiling the same graph twice at the same time would only cost memory

    def restore(
        self, upscaled: np.ndarray, warped: np.ndarray, warp_error: np.ndarray, setting: tuple[float, float]
    ) -> np.ndarray:
        rows, columns = upscaled.shape[:2]
        height = _strip_height(rows, self._threads)
        with self._lock:
            model = self._compiled(height, columns)
        bias = self._bias(setting)
        restored = np.empty_like(upscaled)
        requests = []
        for top, skip, count in _strips(rows, height, self._threads):
            request = model.create_infer_request()
            inputs = (part[None, top : top + height] for part in (upscaled, warped, warp_error))
            request.start_async([*inputs, bias], share_inputs=True)
            requests.append((request, top, skip, count))
        for request, top, skip, count in requests:
            request.wait()
            restored[top + skip : top + skip + count] = request.get_output_tensor().data[0, skip : skip + count]
        return restored

    def _bias(self, setting: tuple[float, float]) -> np.ndarray:
        """The bias of the first layer under a conditioning, float32 [1, CHANNELS, 1, 1]."""
        w = self._weights
        hidden = w["setting.0.weight"] @ np.array(setting, np.float32) + w["setting.0.bias"]
        hidden /= 1 + np.exp(-hidden)  # SiLU
        bias = w["setting.2.weight"] @ hidden + w["setting.2.bias"] + w["enter.bias"]
        return bias.astype(np.float32).reshape(1, CHANNELS, 1, 1)

    def _compile(self, rows: int, columns: int) -> Any:
        options = {
            "NUM_STREAMS": self._threads,  # a stream runs one strip on one thread
            "INFERENCE_NUM_THREADS": self._threads,
            "INFERENCE_PRECISION_HINT": "bf16" if "BF16" in _capabilities() else "f32",
        }
        return _core().compile_model(_graph(self._weights, rows, columns), "CPU", options)


@lru_cache(maxsize=1)
def _core() -> Any:
    """The one Core of the process, never freed.

    Loading its CPU plugin gives the thread an alternate signal stack of the plugin's, and freeing it in another thread
    unmaps that memory: the next signal then overwrites other data or kills the process.
    """
    return ov.Core()


def _capabilities() -> list[str]:
    """What the CPU computes in hardware; elsewhere float32 is faster than bfloat16."""
    found: list[str] = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return found


def _graph(weights: dict[str, np.ndarray], rows: int, columns: int) -> Any:
    """The network of `network.py` for one size, in squares. Activations are float32 or bfloat16, [1, C, H, W]."""
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


def _strip_height(rows: int, threads: int) -> int:
    """Rows of squares of a strip with its context, at most those of the picture."""
    return min(rows, -(-rows // threads) + 2 * _CONTEXT * (threads > 1))


def _strips(rows: int, height: int, threads: int) -> list[tuple[int, int, int]]:
    """(first row that a strip sees, rows of it to skip, rows to keep); together they keep every row once."""
    if height == rows:
        return [(0, 0, rows)]
    edges = [rows * n // threads for n in range(threads + 1)]
    found = []
    for start, stop in pairwise(edges):
        top = min(max(0, start - _CONTEXT), rows - height)
        found.append((top, start - top, stop - start))
    return found
