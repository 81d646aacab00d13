"""The files that come with the package: weights of its networks and tables of its coders.

The .md files beside them say how each was made. This module is the only one that knows where they lie.
"""

from pathlib import Path

_FOLDER = Path(__file__).parent

EMBEDDED = _FOLDER / "embedded.safetensors"  # the latent model of base "none"
HEADER_PLANS = _FOLDER / "plans.bin"  # values that AV1 frame headers usually hold
HEADER_PRIORS = _FOLDER / "priors.bin"  # first probabilities of the bytes and bits of AV1 frame headers
PREFILTER = _FOLDER / "prefilter.safetensors"  # the network before the AV1 encoder
RESTORATION = _FOLDER / "restore.safetensors"  # the network that paints decoded pictures at full size
TINY = _FOLDER / "tiny"  # a diffusers autoencoder of Stable Diffusion's shape
