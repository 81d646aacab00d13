"""Quantizers of base "none": from a source and its prediction to integers and bytes, and from integers to a reference.

`uniform.py` has steps chosen by quality. `byte.py` and `palette.py` are Bühlmann's, for models that predict in the
latent domain. The header's "coder" names the one that a file needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from sdvideo.codecs.latent.coding.frame_syntax import FrameSymbols
from sdvideo.codecs.latent.latent_space import LatentSpace
from sdvideo.codecs.latent.model import LatentModel
from sdvideo.errors import FormatError

from .byte import ByteQuantizer
from .palette import PaletteQuantizer
from .uniform import UniformQuantizer


class Quantizer(Protocol):
    """A quantizer for one video.

    coder: the header's name for what the bytes of a frame mean. `parse` and `reference` may run in two threads: only
    `look_ahead` and `code` keep state. In all methods index is the step index of the frame; sources, predictions and
    references are those of the model.
    """

    coder: str

    def look_ahead(self, sources: list[Any]) -> None:
        """Take other frames of the next group into account when its key frame is coded."""

    def code(
        self,
        source: Any,
        prediction: Any,
        motion: np.ndarray,
        same: np.ndarray | None,
        previous: FrameSymbols,
        index: int,
    ) -> tuple[FrameSymbols, bytes]:
        """Choose and code the integers of a frame. No bytes mean "as the previous frame".

        motion: as in FrameSymbols. same: blocks whose source equals that of the previous frame, bool [h, w]; None makes
        a key frame. previous: the symbols of the previous frame, or model.blank_symbols before the first.
        """

    def parse(self, data: bytes, previous: FrameSymbols, key: bool, index: int) -> FrameSymbols:
        """The inverse of code. data: at least one byte. Raises DamagedError if it does not decode."""

    def reference(self, prediction: Any, symbols: FrameSymbols, index: int) -> Any:
        """The reference that the next frame is predicted from."""


_Factory = Callable[[Any], Quantizer]
_BY_SETTING: dict[str, _Factory] = {"uniform": UniformQuantizer, "8bit": ByteQuantizer, "palette": PaletteQuantizer}
_OF_LATENT_SPACES: dict[str, _Factory] = {kind.coder: kind for kind in (ByteQuantizer, PaletteQuantizer)}


def quantizer_named(name: str, model: LatentModel) -> Quantizer:
    """The quantizer of a name in settings.QUANTIZERS."""
    return _BY_SETTING[name](model)


def quantizer_for(coder: str, model: LatentModel | LatentSpace) -> Quantizer:
    """The quantizer of a file. Raises FormatError for a coder that this version or the model does not have.

    model: for `parse` and `reference` alone a LatentSpace will do.
    """
    found: dict[str, _Factory] = {model.coder.name: UniformQuantizer}
    if isinstance(model, LatentSpace):
        found |= _OF_LATENT_SPACES
    if coder not in found:
        raise FormatError(f"the file is coded by {coder!r}; this version has {', '.join(map(repr, found))}")
    return found[coder](model)
