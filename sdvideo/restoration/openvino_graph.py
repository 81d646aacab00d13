"""What the OpenVINO graphs of our networks share: their layers, built from the weights, and how they are compiled.

Activations are float32 or bfloat16, [1, C, H, W]; weights are float32 arrays under the names of `network.py`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import openvino as ov
from openvino import opset13 as op

from sdvideo.runtime.device import usable_cores

Weights: TypeAlias = dict[str, np.ndarray]

PROCESS = os.getpid()  # the one whose threads OpenVINO works with; it hangs in processes that are forked from it
_ANY = -1  # a side that is known only when the graph runs
_TO_NCHW, _TO_NHWC = np.array([0, 3, 1, 2]), np.array([0, 2, 3, 1])


class CompiledGraph:
    """A graph for pictures of any size. build: (rows, columns) -> the graph; either may be -1, unknown.

    It is compiled for the size of the first picture, and once more for all other sizes, which costs a tenth of the
    speed. Several threads may run it at the same time.
    """

    def __init__(self, build: Callable[[int, int], ov.Model]):
        self._build = build
        self._compiled: dict[tuple[int, int], Any] = {}
        self._lock = threading.Lock()  # compiling the same graph twice at the same time would only cost memory

    def run(self, pictures: Sequence[np.ndarray], bias: np.ndarray) -> np.ndarray:
        """pictures: [h, w, C] of one size, see pixels. bias: see first_bias. Returns [h, w, C]."""
        request = self._model(*pictures[0].shape[:2]).create_infer_request()
        inputs = [np.ascontiguousarray(picture)[None] for picture in pictures]
        request.infer([*inputs, bias], share_inputs=True)
        result: np.ndarray = request.get_output_tensor().data[0].copy()
        return result

    def _model(self, rows: int, columns: int) -> Any:
        with self._lock:
            size = (rows, columns)
            if self._compiled and size not in self._compiled:
                size = (_ANY, _ANY)
            if size not in self._compiled:
                self._compiled[size] = _compile(self._build(*size))
            return self._compiled[size]


def pixels(rows: int, columns: int, channels: int) -> tuple[Any, Any]:
    """An input, uint8 [1, rows, columns, channels], and its values as activations."""
    parameter = op.parameter([1, rows, columns, channels], ov.Type.u8)
    return parameter, op.transpose(op.convert(parameter, "f32"), op.constant(_TO_NCHW))


def output(x: Any) -> Any:
    """Activations as a result, [1, rows, columns, channels]."""
    return op.transpose(x, op.constant(_TO_NHWC))


def first_bias(weights: Weights, setting: tuple[float, float]) -> np.ndarray:
    """The bias of the first layer under a conditioning, float32 [1, C, 1, 1]; the graph's last input."""
    hidden = weights["setting.0.weight"] @ np.array(setting, np.float32) + weights["setting.0.bias"]
    hidden /= 1 + np.exp(-hidden)  # SiLU
    bias = weights["setting.2.weight"] @ hidden + weights["setting.2.bias"] + weights["enter.bias"]
    return bias.astype(np.float32).reshape(1, -1, 1, 1)


def residual_blocks(x: Any, weights: Weights, count: int) -> Any:
    """The blocks of `network.py`, `count` in a row."""
    for number in range(count):
        look, widen, narrow = (
            (weights[f"blocks.{number}.{part}.weight"], weights[f"blocks.{number}.{part}.bias"])
            for part in ("look", "widen", "narrow")
        )
        wide = op.hswish(convolution(_depthwise(x, *look), *widen))
        x = op.add(x, convolution(wide, *narrow))
    return x


def convolution(x: Any, weight: np.ndarray, bias: np.ndarray | None = None) -> Any:
    """A 1x1 convolution. weight: [out, in, 1, 1]."""
    found = op.convolution(x, op.constant(weight), [1, 1], [0, 0], [0, 0], [1, 1])
    return found if bias is None else op.add(found, op.constant(bias.reshape(1, -1, 1, 1)))


def _depthwise(x: Any, weight: np.ndarray, bias: np.ndarray) -> Any:
    """A 3x3 convolution of each channel by itself. weight: [C, 1, 3, 3]."""
    found = op.group_convolution(x, op.constant(weight[:, None]), [1, 1], [1, 1], [1, 1], [1, 1])
    return op.add(found, op.constant(bias.reshape(1, -1, 1, 1)))


@lru_cache(maxsize=1)
def _core() -> Any:
    """The one Core of the process, never freed.

    Loading its CPU plugin gives the thread an alternate signal stack of the plugin's, and freeing it in another thread
    unmaps that memory: the next signal then overwrites other data or kills the process.
    """
    return ov.Core()


def _compile(graph: ov.Model) -> Any:
    bfloat16 = "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")  # elsewhere float32 is faster
    options = {
        "NUM_STREAMS": 1,  # all cores work on one picture
        "INFERENCE_NUM_THREADS": usable_cores(),
        "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
    }
    return _core().compile_model(graph, "CPU", options)
