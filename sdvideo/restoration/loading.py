"""The restoration network that comes with the package: its identities, which files name, and the engine that runs it.

There are two sets of weights for the one network: "restore" is faithful, "natural" is trained for how pictures look. A
look between them, 0 to 1, has weights between theirs: "natural" was trained from "restore" on, so they mix.

    OpenVINO     on the CPU, where it is installed (the extra "fast"): imports no torch, so decoding starts sooner
    PyTorch      elsewhere, and on CUDA

Their pictures may differ by one or two levels; nothing that is coded depends on them.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from safetensors import safe_open

from sdvideo.container.header import ModelId
from sdvideo.errors import ModelError
from sdvideo.runtime.device import choose_device, needs_torch
from sdvideo.weights import NATURAL, RESTORATION, read_weights

from .engine import Engine
from .restorer import Restorer


def restorer_id() -> ModelId:
    """Name, revision and SHA-256 of the faithful weights. Imports no torch."""
    return _identity("restore", RESTORATION)


def painter_id() -> ModelId:
    """Name, revision and SHA-256 of the natural weights. Imports no torch."""
    return _identity("natural", NATURAL)


@lru_cache(maxsize=2)
def _identity(name: str, path: Path) -> ModelId:
    with safe_open(path, "np") as file:
        revision = (file.metadata() or {}).get("revision", "")
    return ModelId(name, revision, hashlib.sha256(path.read_bytes()).hexdigest())


def load_restorer(*, device: str = "auto", expected: Sequence[ModelId] = (), look: float = 0.0) -> Restorer:
    """The network, ready to run. look: 0 (faithful) to 1 (natural).

    expected: the weights that a file was made with. Raises ModelError if they are not those of this package.
    """
    found = {one.name: one for one in (restorer_id(), painter_id())}
    for one in expected:
        one.require_same(found.get(one.name, restorer_id()))
    return Restorer(_load_engine(mixed_weights(look), device))


def mixed_weights(look: float) -> dict[str, np.ndarray]:
    """The weights for a look, 0 to 1, float32 by name."""
    faithful = read_weights(RESTORATION)
    if not look:
        return faithful
    natural = read_weights(NATURAL)
    return {name: np.float32(1 - look) * value + np.float32(look) * natural[name] for name, value in faithful.items()}


def _load_engine(weights: dict[str, np.ndarray], device: str) -> Engine:
    """The engine for a device, "auto", "cpu" or "cuda". weights: float32, by name. Raises ModelError."""
    if runs_openvino(device):
        from .openvino_engine import OpenvinoEngine

        return OpenvinoEngine(weights)
    from .torch_engine import TorchEngine

    return TorchEngine(weights, choose_device(device))


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
