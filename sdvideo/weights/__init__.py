"""The files that come with the package: weights of its networks and tables of its coders; and their reader.

The .md files beside them say how each was made. This module is the only one that knows where they lie.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_FOLDER = Path(__file__).parent

EMBEDDED = _FOLDER / "embedded.safetensors"  # the latent model of base "none"
HEADER_PLANS = _FOLDER / "plans.bin"  # values that AV1 frame headers usually hold
HEADER_PRIORS = _FOLDER / "priors.bin"  # first probabilities of the bytes and bits of AV1 frame headers
PREFILTER = _FOLDER / "prefilter.safetensors"  # the network before the AV1 encoder
RESTORATION = _FOLDER / "restore.safetensors"  # the network that paints decoded pictures at full size, faithfully
NATURAL = _FOLDER / "natural.safetensors"  # the same network, trained for how pictures look
TINY = _FOLDER / "tiny"  # a diffusers autoencoder of Stable Diffusion's shape


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """The weights of a network by name, as float32. path: safetensors."""
    import numpy as np
    from safetensors.numpy import load_file

    return {name: value.astype(np.float32) for name, value in load_file(path).items()}
