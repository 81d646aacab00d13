"""Encodes base "none": frames -> predict -> analyse -> quantize -> entropy coding -> container.

                                    ^ motion, warp of the decoded reference

`encode_group` is the unit of work: a plain function of picklable data, which can run on another machine. What one group
needs of the one before, its first frame and the state of the rate control, is in GroupResult and nowhere else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from itertools import chain, islice

from sdvideo.codecs.interface import EncodedSoFar, HeaderFields
from sdvideo.container.group import KEY, CodedFrame, Group
from sdvideo.container.header import ModelId
from sdvideo.frames import Colour, Frame, StreamInfo
from sdvideo.media.scaling import scaled, scaled_size
from sdvideo.motion.scene_cuts import split_into_groups
from sdvideo.restoration.loading import restorer_id
from sdvideo.settings import DEFAULT_MODEL, EncodeSettings, ProgressCallback, bit_budget

from .frame_codec import FrameEncoder
from .model import LatentModel
from .model_loading import load_model
from .quantizers import Quantizer, quantizer_named
from .rate_control import ConstantQuality, FixedStep, RateControl, TargetSize, best_scale, step_index

_KEYINT = 64  # the most frames of a group if the user gives none; the number of bits hardly depends on it


@dataclass(frozen=True, slots=True)
class GroupJob:
    """All that coding one group needs.

    frames: of the coded size; those of the group, and perhaps more: the group ends at a cut. whole_group: they
    are exactly those of the group, and the encoder looks at all of them first. model: the one that must be used.
    """

    frames: Iterable[Frame]
    whole_group: bool
    settings: EncodeSettings
    colour: Colour
    model: ModelId
    rate: RateControl


@dataclass(frozen=True, slots=True)
class GroupResult:
    """A coded group, and what the next one needs of it. first: the frame after a cut, taken but not coded."""

    frames: tuple[CodedFrame, ...]
    rate: RateControl
    first: Frame | None


@dataclass(frozen=True, slots=True)
class Tools:
    """A latent model and the quantizer for it, loaded."""

    model: LatentModel
    quantizer: Quantizer

    @classmethod
    def load(cls, settings: EncodeSettings, colour: Colour) -> Tools:
        model = load_model(settings.model, device=settings.device, colour=colour, refine=settings.preset == "best")
        return cls(model, quantizer_named(settings.quantizer, model))


@lru_cache(maxsize=1)
def _tools_of_worker(settings: EncodeSettings, colour: Colour, model: ModelId) -> Tools:
    """Loaded once by each worker process. Raises ModelError if its model is another one than the job's."""
    tools = Tools.load(settings, colour)
    model.require_same(tools.model.id)
    return tools


def encode_group(
    job: GroupJob, tools: Tools | None = None, progress: Callable[[int, int], None] = lambda frames, size: None
) -> GroupResult:
    """Code one group. tools: loaded if None. progress: told of frames and bytes done so far."""
    tools = tools or _tools_of_worker(job.settings, job.colour, job.model)
    frames, size = iter(job.frames), 0
    coded: list[CodedFrame] = []
    first = next(frames)
    height, width = first.picture.height, first.picture.width
    encoder = FrameEncoder(tools.model, height, width, job.rate, job.settings.preset, tools.quantizer)
    if job.whole_group:
        group = [first, *frames]
        encoder.look_ahead(group)
        first, frames = group[0], iter(group[1:])
    for frame in chain([first], frames):
        following = encoder.encode(frame)
        if following is None:
            return GroupResult(tuple(coded), job.rate, frame)
        coded.append(following)
        size += len(following.data)
        progress(len(coded), size)
    return GroupResult(tuple(coded), job.rate, None)


class Encoder:
    """A GroupEncoder, see `codecs/interface.py`."""

    lookback = 0

    def __init__(self, info: StreamInfo, settings: EncodeSettings, total: int | None):
        self._info, self._settings, self._keyint = info, settings, settings.keyint or _KEYINT
        self._tools = Tools.load(settings, info.colour)
        model = self._tools.model
        sizes = {"channels": model.coder.channels, "block": model.block}
        scale = _scale(settings, info, total)
        restorer = None if scale == 1 else restorer_id()
        coder = self._tools.quantizer.coder
        self.fields = HeaderFields(model.id, coder, {**sizes, **model.description}, scale, restorer)

    def groups(
        self,
        frames: Iterable[Frame],
        file: EncodedSoFar,
        bits: float | None,
        total: int | None,
        progress: ProgressCallback,
        executor: Executor | None,
    ) -> Iterator[Group]:
        width, height = scaled_size(self._info.width, self._info.height, self.fields.scale)
        rate = self._rate(bits, total, width * height)
        for frame in file.earlier:
            rate.record(frame.kind == KEY, frame.step, len(frame.data))

        def report(done: int, size: int) -> None:
            progress(file.frames + done, total, file.video_size + size, self._info.rate)

        small = (replace(frame, picture=scaled(frame.picture, width, height)) for frame in frames)
        source, whole_group = _Rewindable(small), self._settings.quantizer == "palette"
        for part in split_into_groups(source, self._keyint) if whole_group else _parts(source, self._keyint):
            job = GroupJob(part, whole_group, self._settings, self._info.colour, self.fields.model, rate)
            if executor is None:
                result = encode_group(job, self._tools, report)
                source.put_back([result.first] if result.first else [])
            else:
                given = tuple(part)
                result = executor.submit(encode_group, replace(job, frames=given)).result()
                report(len(result.frames), sum(len(frame.data) for frame in result.frames))
                source.put_back(given[len(result.frames) :])
            rate = result.rate  # this and where the group ended is all that the next one needs of it
            yield Group(file.frames, result.frames)

    def _rate(self, bits: float | None, total: int | None, pixels: int) -> RateControl:
        if self._settings.quantizer != "uniform":
            return FixedStep()
        if self._settings.quality is not None:
            return ConstantQuality(step_index(self._settings.quality, self.fields.scale))
        assert bits is not None and total is not None  # see bit_budget
        return TargetSize(bits, total, self._keyint, pixels)


class _Rewindable:
    """An iterator that takes frames back."""

    def __init__(self, frames: Iterable[Frame]):
        self._frames, self._waiting = iter(frames), deque[Frame]()

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        return self._waiting.popleft() if self._waiting else next(self._frames)

    def put_back(self, frames: Sequence[Frame]) -> None:
        self._waiting.extendleft(reversed(frames))


def _parts(source: _Rewindable, keyint: int) -> Iterator[Iterator[Frame]]:
    """The next `keyint` frames, again and again, as long as there are any."""
    for first in source:
        source.put_back([first])
        yield islice(source, keyint)


def _scale(settings: EncodeSettings, info: StreamInfo, total: int | None) -> Fraction:
    """The scale at which latents are coded: the one given, else the best one for the embedded model."""
    if settings.scale is not None or settings.model != DEFAULT_MODEL:
        return Fraction(settings.scale or 1)
    bits = None
    if settings.quality is None:
        budget = bit_budget(settings, info, total)
        assert budget is not None and total is not None  # see bit_budget
        bits = budget / total / (info.width * info.height)
    return best_scale(settings.quality, bits, (info.width, info.height))
