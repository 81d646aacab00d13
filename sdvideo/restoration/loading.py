"""The restoration network that comes with the package: its identity, which files name, and the engine that runs it.

    OpenVINO     on the CPU, where it is installed (the extra "fast"): imports no torch, so decoding starts sooner
    PyTorch      elsewhere, and on CUDA

Their pictures may differ by one or two levels; nothing that is coded depends on them.
"""

from __future__ import annotations

import hashlib
import os
import sys
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from safetensors import safe_open

from sdvideo.container.header import ModelId
from sdvideo.errors import ModelError
from sdvideo.runtime.device import choose_device, needs_torch
from sdvideo.weights import RESTORATION

from .engine import Engine
from .restorer import Restorer


@lru_cache(maxsize=1)
def restorer_id() -> ModelId:
    """Name, revision and SHA-256 of the network. Imports no torch."""
    with safe_open(RESTORATION, "np") as file:
        revision = (file.metadata() or {}).get("revision", "")
    return ModelId("restore", revision, hashlib.sha256(RESTORATION.read_bytes()).hexdigest())


def load_restorer(*, device: str = "auto", expected: ModelId | None = None) -> Restorer:
    """The network, ready to run. expected: what a file was made with. Raises ModelError if its weights are others."""
    if expected is not None:
        expected.require_same(restorer_id())
    return Restorer(_load_engine(RESTORATION, device))


def _load_engine(path: Path, device: str) -> Engine:
    """The engine for a device, "auto", "cpu" or "cuda". path: weights, safetensors. Raises ModelError."""
    if runs_openvino(device):
        from .openvino_engine import OpenvinoEngine

        return OpenvinoEngine(path)
    from .torch_engine import TorchEngine

    return TorchEngine(path, choose_device(device))


def runs_openvino(device: str) -> bool:
    """Whether networks run in OpenVINO on a device, "auto", "cpu" or "cuda"; else they run in PyTorch.

    Raises ModelError if neither engine is installed or can run.
    """
    inherited = _inherits_openvino()
    if find_spec("torch") and (needs_torch(device) or inherited or _has_limited_instructions()):
        return False
    if find_spec("openvino") and device != "cuda" and not inherited:
        return True
    if find_spec("torch"):
        return False
    if inherited:
        raise ModelError("OpenVINO cannot run in a forked process: start it by spawn, or install PyTorch")
    if device == "cuda":
        raise ModelError("device cuda needs PyTorch (pip install torch)")
    raise ModelError('running networks needs OpenVINO (pip install "sdvideo[fast]") or PyTorch')


def _inherits_openvino() -> bool:
    """Whether this process was forked from one that uses OpenVINO, and so lacks the threads that it waits for."""
    graph = sys.modules.get(f"{__package__}.openvino_graph")
    return graph is not None and os.getpid() != graph.PROCESS


def _has_limited_instructions() -> bool:
    """Whether oneDNN is told to use fewer instructions than the processor has: OpenVINO, whose oneDNN obeys and
    whose other parts do not, has crashed then."""
    return any(f"{name}_MAX_CPU_ISA" in os.environ for name in ("ONEDNN", "DNNL"))
