"""The interface of latent models, which turn pictures into latents and back.

There are two implementations. The embedded model (`embedded.py`) predicts in the picture domain: its references are
decoded pictures, and motion compensation warps those. A frozen diffusers autoencoder (`autoencoder.py`) predicts in the
latent domain: its references are dequantized latents, and no network runs inside the coding loop. The encoder and the
decoder of frames use nothing but this interface.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from sdvideo.codecs.latent.coding.frame_syntax import FrameSymbols, LatentCoder
from sdvideo.container import ModelId
from sdvideo.frames import Colour, Picture
from sdvideo.motion.block_matching import BLOCK

from .latent_space import LatentSpace, grid_size


class LatentModel(Protocol):
    """A latent model. Sources, references and predictions are opaque: callers only hand them back to the model.

    id: name, revision and hash, for the file header. block: pixels per latent position along each side. coder: the
    entropy coder of its latents. description: further JSON values about the latents, for the file header. colour: how
    code values of pictures map to colours, for models that work on RGB.
    """

    id: ModelId
    block: int
    coder: LatentCoder
    description: dict[str, Any]
    colour: Colour

    def source(self, picture: Picture) -> Any:
        """Prepare a picture for `analyse`, padded as the model needs it."""

    def luma(self, source_or_reference: Any) -> np.ndarray | None:
        """The luma to search motion in, uint8 [H, W], sides padded to multiples of 16.

        None if a reference has no picture: motion is then searched in the previous source.
        """

    def blank(self, height: int, width: int) -> Any:
        """The prediction of key frames, for a picture of this size."""

    def predict(self, reference: Any, motion: np.ndarray) -> Any:
        """Warp a reference by a motion field, int16 [2, ceil(H/16), ceil(W/16)], quarters of a pixel."""

    def analyse(self, source: Any, prediction: Any, step: float) -> np.ndarray:
        """The latent delta from prediction to source, float32 [h, w, channels], in units of a step of size 1."""

    def synthesise(self, prediction: Any, latent: np.ndarray, coded: np.ndarray, step: float) -> Any:
        """The new reference, from a prediction and a dequantized delta.

        latent: the delta, float32 [h, w, channels]. coded: bool [h, w]; where it is False, the prediction stays as it
        is.
        """

    def picture(self, reference: Any, height: int, width: int) -> Picture:
        """The picture of a reference, cropped to this size."""


def blank_symbols(model: LatentModel | LatentSpace, height: int, width: int) -> FrameSymbols:
    """The symbols assumed before the first frame of a group: no motion, nothing coded."""
    rows, columns = grid_size(height, width, model.block)
    return FrameSymbols(
        motion=np.zeros((2, *grid_size(height, width, BLOCK)), np.int16),
        coded=np.zeros((rows, columns), bool),
        latent=np.zeros((rows, columns, model.coder.channels), np.int32),
    )
