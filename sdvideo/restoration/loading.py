"""The restoration network that comes with the package: its identity, which files name, and its weights."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

from safetensors import safe_open

from sdvideo.container.header import ModelId
from sdvideo.weights import RESTORATION

if TYPE_CHECKING:
    from .restorer import Restorer


@lru_cache(maxsize=1)
def restorer_id() -> ModelId:
    """Name, revision and SHA-256 of the network. Imports no torch."""
    with safe_open(RESTORATION, "np") as file:
        revision = (file.metadata() or {}).get("revision", "")
    return ModelId("restore", revision, hashlib.sha256(RESTORATION.read_bytes()).hexdigest())


def load_restorer(*, device: str = "auto", expected: ModelId | None = None) -> Restorer:
    """The network, ready to run. expected: what a file was made with. Raises ModelError if its weights are others."""
    from .restorer import Restorer  # imports torch, which takes seconds

    if expected is not None:
        expected.require_same(restorer_id())
    return Restorer(RESTORATION, device)
