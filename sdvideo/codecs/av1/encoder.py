"""Encodes base "av1": frames -> groups -> scale -> GOP boundary -> prefilter -> AV1 -> frame headers -> container.

`encode_group` is the unit of work: a plain function of picklable data, which can run on another machine. What one group
needs of the one before, the end of its last picture and the bits that are left, is in GroupResult and nowhere else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache, partial

from sdvideo.codecs.interface import EncodedSoFar, HeaderFields
from sdvideo.container.group import KEY, CodedFrame, Group
from sdvideo.frames import Frame, Picture, StreamInfo
from sdvideo.media.scaling import scaled
from sdvideo.motion.scene_cuts import split_into_groups
from sdvideo.restoration.loading import painter_id, restorer_id
from sdvideo.runtime.device import usable_cores
from sdvideo.runtime.executor import map_ahead
from sdvideo.runtime.malloc import trim_heap
from sdvideo.settings import EncodeSettings, ProgressCallback

from .base_layer import BaseDecoder, Filter, decode_base, retry_undecodable
from .bitstream import PackedGroup, unpack_step
from .gop_boundary import Error, add_error, boundary_error, error_share
from .rate_control import ConstantQuality, RateControl, TargetSize, encode_at_level, level_of
from .svt_process import Progress, no_progress

# Frames of a group if the user gives no keyint: a key frame and ten of SVT-AV1's mini-GOPs of 16, if their pictures fit
# into so many bytes. At half that length a video takes some 15 % more bits.
_KEYINT, _GROUP_BYTES = 161, 400_000_000
_AHEAD_BYTES = 600_000_000  # for the pictures of all groups in work


@dataclass(frozen=True, slots=True)
class GroupEnd:
    """The end of a group, as the first picture of the next one needs it, see gop_boundary.py.

    source: the last picture of the source. decoded: the last base picture. step: its step byte.
    """

    source: Picture
    decoded: Picture
    step: int

    def error(self, first: Picture, prefilter: Filter | None) -> Error | None:
        """The last error, moved to where the next group's first picture has the same content; None at a scene cut."""
        size = self.source.width, self.source.height
        target = self.source
        if prefilter is not None:
            small = scaled(self.source, self.decoded.width, self.decoded.height)
            (filtered,) = prefilter([small], *unpack_step(self.step))
            target = scaled(filtered, *size)
        return boundary_error(self.source, target, scaled(self.decoded, *size), first)


@dataclass(frozen=True, slots=True)
class GroupJob:
    """All that coding one group needs. frames: all of the group. scale: if it was chosen ahead. previous: None where no
    group comes before."""

    frames: Sequence[Frame]
    settings: EncodeSettings
    rate: RateControl
    scale: Fraction | None
    previous: GroupEnd | None


@dataclass(frozen=True, slots=True)
class GroupResult:
    """A coded group, and what the next one needs of it."""

    frames: tuple[CodedFrame, ...]
    rate: RateControl
    end: GroupEnd


def encode_group(job: GroupJob, progress: Progress = no_progress) -> GroupResult:
    """Code one group. progress: told of frames and bytes done so far; a group may be coded several times."""
    pictures = _pictures(job.frames)
    prefilter = _prefilter(job.settings.preset, job.settings.device)
    error = None if job.previous is None else job.previous.error(pictures[0], prefilter)

    def encode(level: float, scale: Fraction) -> PackedGroup:
        first = pictures[0] if error is None else add_error(pictures[0], error, error_share(level))
        return retry_undecodable(lambda: encode_and_look([first, *pictures[1:]], level, scale))

    def encode_and_look(coded: list[Picture], level: float, scale: Fraction) -> PackedGroup:
        group = encode_at_level(coded, level, job.settings.preset, scale, progress, prefilter)
        return replace(group.packed(), last=_last(decode_base(group, coded[0].width, coded[0].height)))

    group, rate = job.rate.code(pictures, encode, job.scale)
    assert group.last is not None  # encode_and_look sets it
    frames = group.coded_frames(job.frames)
    return GroupResult(frames, rate, GroupEnd(pictures[-1], group.last, frames[-1].step))


def choose_scale(rate: RateControl, frames: Sequence[Frame]) -> Fraction | None:
    """The scale of a group, if it does not depend on the groups before it; the other job that can run elsewhere."""
    return rate.scale_ahead(_pictures(frames))


class Encoder:
    """A GroupEncoder, see `codecs/interface.py`."""

    lookback = 1

    def __init__(self, info: StreamInfo, settings: EncodeSettings):
        self._info, self._settings = info, settings
        self._keyint = settings.keyint or min(_KEYINT, max(1, _GROUP_BYTES // _picture_bytes(info)))
        painter = painter_id() if settings.look else None
        # Each group has a scale of its own.
        self.fields = HeaderFields(restorer_id(), "av1", look=settings.look, painter=painter)

    def groups(
        self,
        frames: Iterable[Frame],
        file: EncodedSoFar,
        bits: float | None,
        total: int | None,
        progress: ProgressCallback,
        executor: Executor | None,
    ) -> Iterator[Group]:
        rate, frames = self._rate(file, bits, total), iter(frames)
        previous = self._end_of(file, frames)
        prepared = map_ahead(
            partial(choose_scale, rate),
            split_into_groups(frames, self._keyint),
            _groups_ahead(self._info, self._keyint) if self._settings.workers is None else self._settings.workers,
            executor,
            meanwhile=partial(
                _prefilter, self._settings.preset, self._settings.device
            ),  # it may import torch, which takes seconds
        )
        for group, scale in prepared:
            job = GroupJob(group, self._settings, rate, scale, previous)
            if executor is None:
                report = _monotonic(partial(_report, progress, file, total, self._info), len(group))
                result = encode_group(job, report)
            else:
                result = executor.submit(encode_group, job).result()
            rate, previous = result.rate, result.end  # all that the next group needs of this one
            size = sum(len(frame.data) for frame in result.frames)
            _report(progress, file, total, self._info, len(group), size)
            trim_heap()  # decoding leaves memory scattered among the pictures of other groups
            yield Group(file.frames, result.frames)

    def _rate(self, file: EncodedSoFar, bits: float | None, total: int | None) -> RateControl:
        scale = Fraction(self._settings.scale) if self._settings.scale else None
        if self._settings.quality is not None:
            return ConstantQuality(level_of(self._settings.quality), scale)
        assert bits is not None and total is not None  # see bit_budget
        left = bits - sum(8 * len(frame.data) for frame in file.earlier)
        step = file.earlier[-1].step if file.earlier else None
        return TargetSize.start(left, total - file.frames, self._info.width * self._info.height, scale, step)

    def _end_of(self, file: EncodedSoFar, frames: Iterator[Frame]) -> GroupEnd | None:
        """The end of the last group in the file. Takes the last frame that is in it from the source."""
        if not file.earlier or (last := next(frames, None)) is None:
            return None
        start = max(number for number, frame in enumerate(file.earlier) if frame.kind == KEY)
        decoder = BaseDecoder(self._info.width, self._info.height)
        return GroupEnd(last.picture, _last(map(decoder.decode, file.earlier[start:])), file.earlier[-1].step)


@lru_cache(maxsize=1)
def _prefilter(preset: str, device: str) -> Filter | None:
    """The prefilter of a preset, loaded once in each process; None for presets that have none."""
    if preset == "fast":
        return None
    from sdvideo.weights import PREFILTER

    from .prefilter import Prefilter

    return Prefilter(PREFILTER, device)


def _pictures(frames: Sequence[Frame]) -> list[Picture]:
    return [frame.picture for frame in frames]


def _last(pictures: Iterable[Picture]) -> Picture:
    return deque(pictures, maxlen=1).pop()  # keeps only one of them in memory


def _report(
    progress: ProgressCallback, file: EncodedSoFar, total: int | None, info: StreamInfo, frames: int, size: int
) -> None:
    progress(file.frames + frames, total, file.video_size + size, info.rate)


def _monotonic(progress: Progress, end: int) -> Progress:
    """Progress that never moves back when a group is coded again, and leaves its last frame to the caller."""
    furthest = 0

    def report(frames: int, size: int) -> None:
        nonlocal furthest
        if furthest < frames < end:
            furthest = frames
            progress(frames, size)

    return report


def _picture_bytes(info: StreamInfo) -> int:
    return info.width * info.height * 3 // 2


def _groups_ahead(info: StreamInfo, keyint: int) -> int:
    """How many groups to prepare while one is coded: together one for each core, as far as their pictures fit."""
    return max(0, min(max(1, usable_cores() - 1), _AHEAD_BYTES // (keyint * _picture_bytes(info)) - 1))
