"""Quantizers of base "none": from a source and its prediction to integers and bytes, and from integers to a reference.

`uniform.py` has steps chosen by quality. `byte.py` and `palette.py` are Bühlmann's, for models that predict in the
latent. The header's "coder" names the one that a file needs.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from sdvideo.codecs.latent.coding.frame_syntax import FrameSymbols
from sdvideo.codecs.latent.latent_space import LatentSpace
from sdvideo.codecs.latent.model import LatentModel
from sdvideo.errors import FormatError

from .byte import ByteQuantizer
from .palette import PaletteQuantizer
from .uniform import UniformQuantizer

_KINDS = {"uniform": UniformQuantizer, "8bit": ByteQuantizer, "palette": PaletteQuantizer}


class Quantizer(Protocol):
    """One of them, for one video. Only `code` may remember what it did: parse and reference may run in two threads.

    coder: the header's name for what the bytes of a frame mean.
    """

    coder: str

    def code(
        self,
        source: Any,
        prediction: Any,
        motion: np.ndarray,
        same: np.ndarray | None,
        before: FrameSymbols,
        index: int,
    ) -> tuple[FrameSymbols, bytes]:
        """Choose the integers of a frame; no bytes say "as the frame before".

        source, prediction: the model's; motion: as in FrameSymbols. same: blocks whose source equals that of the frame
        before, bool [h, w]; None makes a key frame. before: the frame before, or what stands before the first.
        """

    def parse(self, data: bytes, before: FrameSymbols, key: bool, index: int) -> FrameSymbols:
        """The inverse of code, of at least one byte. Raises DamagedError where the data does not decode."""

    def reference(self, prediction: Any, symbols: FrameSymbols, index: int) -> Any:
        """What the next frame is predicted from, of the model's kind."""


def quantizer_named(name: str, model: LatentModel) -> Quantizer:
    """The quantizer of a name in settings.QUANTIZERS."""
    return _KINDS[name](model)


def quantizer_for(coder: str, model: LatentModel) -> Quantizer:
    """The quantizer of a file. Raises FormatError for a coder that this version or the model does not have."""
    found = {model.coder.name: UniformQuantizer}
    if isinstance(model, LatentSpace):
        found |= {kind.name: kind for kind in (ByteQuantizer, PaletteQuantizer)}
    if coder not in found:
        raise FormatError(f"the file is coded by {coder!r}; this version has {', '.join(map(repr, found))}")
    return found[coder](model)
