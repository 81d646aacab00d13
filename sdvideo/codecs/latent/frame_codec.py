"""The coding loop of base "none": frame after frame against the decoded one before, the same on both sides.

    predict (motion, warp of the reference) -> analyse -> quantize -> frame data
                      ^                                       |
                      +---- reference <---- synthesise <------+

Both sides run the same walk through a frame's syntax (`coding/frame_syntax.py`). The encoder's quantizer chooses the
symbols, the decoder reads them.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from sdvideo.codecs.latent.coding.frame_syntax import FrameSymbols
from sdvideo.codecs.latent.coding.rdoq import LAMBDA, step_size
from sdvideo.codecs.latent.quantizers.uniform import UniformQuantizer
from sdvideo.container.group import KEY, PREDICTED, CodedFrame
from sdvideo.errors import DamagedError
from sdvideo.frames import Frame, Picture, grey
from sdvideo.motion.block_matching import BLOCK, Estimator, compensate, unchanged
from sdvideo.motion.scene_cuts import is_cut

from .latent_space import LatentSpace
from .model import LatentModel, blank_symbols
from .quantizers import Quantizer
from .rate_control import RateControl

_LOOKAHEAD = 8  # frames of a group that are looked at before its first one is coded
# Squared steps that a bit of motion is worth where it is searched in decoded pictures: a vector also serves the frames
# after this one. With LAMBDA instead, held-back shots take 1 % more bits at equal PSNR and 2 % at equal SSIM.
_MOTION_LAMBDA = 0.05


class FrameEncoder:
    """Codes the frames of one group, each against the one before as the decoder will have it.

    rate: chooses the quantizer steps, and learns what each frame took. quantizer: for the model; uniform if not given.
    """

    def __init__(
        self,
        model: LatentModel,
        height: int,
        width: int,
        rate: RateControl,
        preset: str = "balanced",
        quantizer: Quantizer | None = None,
    ):
        self._model, self._rate = model, rate
        self._quantizer = quantizer or UniformQuantizer(model)
        self._height, self._width = height, width
        self.symbols = self._blank = blank_symbols(model, height, width)
        self._estimator = Estimator(self._blank.motion.shape[1], self._blank.motion.shape[2], preset)
        self._reference: Any = None
        self._previous: tuple[Any, Picture] = (None, grey(1, 1))  # source and picture of the frame before
        self._first = True
        self._whole_group = False

    def look_ahead(self, group: list[Frame]) -> None:
        """Show the encoder all frames of the group beforehand, for a quantizer that chooses by them."""
        self._whole_group = True
        others = group[1:][:: -(-len(group) // _LOOKAHEAD)]
        self._quantizer.look_ahead([self._model.source(frame.picture) for frame in others])

    def encode(self, frame: Frame) -> CodedFrame | None:
        """Code the next frame, the first one as a key frame. None, and nothing coded, if it begins a new scene.

        After look_ahead every frame is coded.
        """
        model, source, key = self._model, self._model.source(frame.picture), self._first
        index = self._rate.index(key)
        if key:
            motion, prediction = self._blank.motion, model.blank(self._height, self._width)
            same = None
        else:
            motion, prediction, cut = self._predict(frame.picture, source, step_size(index))
            if cut and not self._whole_group:
                return None
            same = unchanged(frame.picture, self._previous[1], model.block)

        symbols, data = self._quantizer.code(source, prediction, motion, same, self.symbols, index)
        self._reference = self._quantizer.reference(prediction, symbols, index)

        self.symbols, self._previous, self._first = symbols, (source, frame.picture), False
        self._rate.record(key, index, len(data))
        return CodedFrame(frame.pts, frame.duration, KEY if key else PREDICTED, index, data)

    def _predict(self, picture: Picture, source: Any, step: float) -> tuple[np.ndarray, Any, bool]:
        """Motion, prediction, and whether the prediction is of no use at all."""
        previous_source, previous_picture = self._previous
        decoded, luma = self._model.luma(self._reference), self._model.luma(source)
        reference, worth = (
            (decoded, _MOTION_LAMBDA) if decoded is not None else (self._model.luma(previous_source), LAMBDA)
        )
        assert luma is not None and reference is not None  # every model knows the luma of a source
        motion = self._estimator.estimate(luma, reference, penalty=worth * step**2)
        motion[:, unchanged(picture, previous_picture, BLOCK)] = 0
        prediction = self._model.predict(self._reference, motion)
        predicted = self._model.luma(prediction)
        return motion, prediction, is_cut(luma, compensate(reference, motion) if predicted is None else predicted)


class FrameDecoder:
    """A FrameDecoder, see `codecs/interface.py`. For `advance` alone a LatentSpace will do as the model.

    quantizer: the file's, for the model; uniform if not given.
    """

    def __init__(self, model: LatentModel | LatentSpace, height: int, width: int, quantizer: Quantizer | None = None):
        self._model, self._quantizer = model, quantizer or UniformQuantizer(cast(LatentModel, model))
        self._height, self._width = height, width
        self._parsed = self._blank = blank_symbols(model, height, width)
        self._reference: Any = None

    def parse(self, coded: CodedFrame) -> FrameSymbols:
        key = coded.kind == KEY
        if coded.data:
            before = self._blank if key else self._parsed
            self._parsed = self._quantizer.parse(coded.data, before, key, coded.step)
        elif key:
            raise DamagedError("a key frame has no data")
        else:
            self._parsed = self._parsed.still_after()
        return self._parsed

    def reconstruct(self, coded: CodedFrame, symbols: FrameSymbols) -> Frame:
        reference = self.advance(coded, symbols)
        model = cast(LatentModel, self._model)  # a LatentSpace has no pictures
        return Frame(coded.pts, coded.duration, model.picture(reference, self._height, self._width))

    def integers(self, symbols: FrameSymbols) -> FrameSymbols:
        return symbols

    def advance(self, coded: CodedFrame, symbols: FrameSymbols) -> Any:
        """The reference that the next frame is predicted from, given its integers: reconstruct without a picture."""
        if coded.kind == KEY:
            prediction = self._model.blank(self._height, self._width)
        else:
            prediction = self._model.predict(self._reference, symbols.motion)
        self._reference = self._quantizer.reference(prediction, symbols, coded.step)
        return self._reference
