"""The coding loop of base "none": frame after frame against the one before, on both sides the same.

Where sides differ is in what end the symbols come from: the encoder's quantiser chooses them, the decoder's takes them.
"""

from __future__ import annotations

from typing import Any

from sdvideo.codecs.latent.coding.frame_syntax import FrameSymbols
from sdvideo.codecs.latent.coding.rdoq import LAMBDA, step_size
from sdvideo.codecs.latent.quantizers.uniform import Uniform
from sdvideo.container import KEY, PREDICTED, CodedFrame
from sdvideo.errors import DamagedError
from sdvideo.frames import Frame, Picture
from sdvideo.motion.block_matching import BLOCK, Estimator, compensate
from sdvideo.motion.predict import is_cut, unchanged

from .latent_space import LatentSpace
from .model import LatentModel, blank_symbols
from .quantizers import Quantiser
from .rate_control import RateControl

_GLIMPSES = 8  # frames of a group that are looked at beforehand
# Squared steps that a bit of motion is worth where it is looked for in decoded pictures: a vector serves the frames
# after this one, too. Than with LAMBDA, 1 % fewer bits at equal PSNR and 2 % at equal SSIM, on held-back shots.
_VECTORS = 0.05


class FrameEncoder:
    """Codes frame after frame, each against the one before as the decoder will have it."""

    def __init__(
        self,
        model: LatentModel,
        height: int,
        width: int,
        rate: RateControl,
        keyint: int,
        preset: str = "balanced",
        quantiser: Quantiser | None = None,
    ):
        """quantiser: for the model, a new one; the uniform one if not given."""
        self._model, self._rate, self._keyint, self._preset = model, rate, keyint, preset
        self._quantiser = quantiser or Uniform(model)
        self._height, self._width = height, width
        self._blank = blank_symbols(model, height, width)
        self._in_group, self._foreseen = 0, False

    def foresee(self, shot: list[Frame]) -> None:
        """Begin a group with the next frame. These are all of its frames, for a quantiser that chooses by them."""
        self._in_group, self._foreseen = 0, True
        others = shot[1:][:: -(-len(shot) // _GLIMPSES)]
        self._quantiser.foresee([self._model.source(frame.picture) for frame in others])

    def encode(self, frame: Frame) -> CodedFrame:
        """The next frame of the video; a key frame where a group has to begin."""
        model, source = self._model, self._model.source(frame.picture)
        key = self._in_group in (0, self._keyint)
        if not key:
            index = self._rate.index(key=False)
            motion, prediction, cut = self._predict(frame.picture, source, step_size(index))
            key = cut and not self._foreseen
        if key:
            index = self._rate.index(key=True)
            self._begin_group()
            motion, prediction = self._blank.motion, model.blank(self._height, self._width)
        same = None if key else unchanged(frame.picture, self._last_picture, model.block)

        symbols, data = self._quantiser.code(source, prediction, motion, same, self.symbols, index)
        self._reference = self._quantiser.reference(prediction, symbols, index)

        self.symbols, self._last_source, self._last_picture = symbols, source, frame.picture
        self._in_group += 1
        self._rate.spent(key, index, len(data))
        return CodedFrame(frame.pts, frame.duration, KEY if key else PREDICTED, index, data)

    def _begin_group(self) -> None:
        self._in_group = 0
        self.symbols = self._blank
        self._estimator = Estimator(*self._blank.motion.shape[1:], self._preset)

    def _predict(self, picture: Picture, source, step: float):
        """Motion, prediction, and whether the prediction is no good at all."""
        seen, worth = self._model.luma(self._reference), _VECTORS
        if seen is None:
            seen, worth = self._model.luma(self._last_source), LAMBDA
        luma = self._model.luma(source)
        motion = self._estimator.estimate(luma, seen, penalty=worth * step**2)
        motion[:, unchanged(picture, self._last_picture, BLOCK)] = 0
        prediction = self._model.predict(self._reference, motion)
        warped = self._model.luma(prediction)
        return motion, prediction, is_cut(luma, compensate(seen, motion) if warped is None else warped)


class FrameDecoder:
    """Decodes frame after frame, from a key frame on, in two steps that may run in two threads.

    parse needs no picture and reconstruct no bits, so one may be some frames ahead of the other. For advance alone a
    LatentSpace will do as the model.
    """

    def __init__(self, model: LatentModel | LatentSpace, height: int, width: int, quantiser: Quantiser | None = None):
        """quantiser: the file's, for the model; the uniform one if not given."""
        self._model, self._quantiser = model, quantiser or Uniform(model)
        self._height, self._width = height, width
        self._parsed = self._blank = blank_symbols(model, height, width)
        self._reference = None

    def parse(self, coded: CodedFrame) -> FrameSymbols:
        """The integers of the next frame. Raises DamagedError where its data does not decode."""
        key = coded.kind == KEY
        if coded.data:
            before = self._blank if key else self._parsed
            self._parsed = self._quantiser.parse(coded.data, before, key, coded.step)
        elif key:
            raise DamagedError("a key frame has no data")
        else:
            self._parsed = self._parsed.still_after()
        return self._parsed

    def reconstruct(self, coded: CodedFrame, symbols: FrameSymbols) -> Frame:
        """The picture of the next frame, given its integers."""
        reference = self.advance(coded, symbols)
        return Frame(coded.pts, coded.duration, self._model.picture(reference, self._height, self._width))

    def advance(self, coded: CodedFrame, symbols: FrameSymbols) -> Any:
        """The reference that the next frame leaves, given its integers; reconstruct without painting it."""
        if coded.kind == KEY:
            prediction = self._model.blank(self._height, self._width)
        else:
            prediction = self._model.predict(self._reference, symbols.motion)
        self._reference = self._quantiser.reference(prediction, symbols, coded.step)
        return self._reference
