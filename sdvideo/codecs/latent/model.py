"""Latent models: what turns pictures into latents and back, behind one small interface.

Two kinds fit it. The embedded model predicts in the picture: its references are decoded pictures, warped as such.
A frozen diffusers autoencoder predicts in the latent: its references are dequantised latents, and no network runs
inside the coding loop. Encoder and decoder only ever see the calls below.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from sdvideo.codecs.latent.coding.frame_syntax import FrameSymbols, LatentCoder
from sdvideo.container import ModelId
from sdvideo.frames import Colour, Picture
from sdvideo.motion.block_matching import BLOCK

from .latent_space import LatentSpace


class LatentModel(Protocol):
    """A latent model. References and predictions are its own affair; they are handed back to it as they came.

    id: name, revision and hash that go into the file. block: pixels of the picture per latent position and side.
    coder: how its latents become bits. description: what else is to be known of it, JSON values. colour: how the code
    values of the pictures mean colours, for models that see RGB.
    """

    id: ModelId
    block: int
    coder: LatentCoder
    description: dict[str, Any]
    colour: Colour

    def source(self, picture: Picture) -> Any:
        """Prepare a picture for analyse; padded as the model needs it."""

    def luma(self, source_or_reference: Any) -> np.ndarray | None:
        """The luma to search motion on, uint8 [H, W] padded to multiples of 16; None: search on the last source."""

    def blank(self, height: int, width: int) -> Any:
        """The prediction of key frames of a picture of this size."""

    def predict(self, reference: Any, motion: np.ndarray) -> Any:
        """Warp a reference by a motion field, int16 [2, ceil(H/16), ceil(W/16)], quarters of a pixel."""

    def analyse(self, source: Any, prediction: Any, step: float) -> np.ndarray:
        """The latent delta from prediction to source, float32 [h, w, channels], in the scale of the steps."""

    def synthesise(self, prediction: Any, latent: np.ndarray, coded: np.ndarray, step: float) -> Any:
        """The new reference from a prediction and a dequantised delta, float32 [h, w, channels].

        coded: bool [h, w]. Where it is False the prediction stays as it is.
        """

    def picture(self, reference: Any, height: int, width: int) -> Picture:
        """What a reference looks like, cropped to the picture's size."""


def blank_symbols(model: LatentModel | LatentSpace, height: int, width: int) -> FrameSymbols:
    """What stands before the first frame of a group: no motion, nothing coded."""
    rows, columns = -(-height // model.block), -(-width // model.block)
    return FrameSymbols(
        motion=np.zeros((2, -(-height // BLOCK), -(-width // BLOCK)), np.int16),
        coded=np.zeros((rows, columns), bool),
        latent=np.zeros((rows, columns, model.coder.channels), np.int32),
    )
