"""The AV1 base: a small picture of every frame, carried by SVT-AV1 and brought back by dav1d, both through FFmpeg.

Each group is one closed AV1 sequence: a key frame, then frames that refer to nothing outside it. The data of a frame
is what `heads.py` makes of the temporal unit that shows it. One picture comes of it. The step byte of the frame table
is `pack_step` of the group's CRF and scale. A base picture is 8-bit 4:2:0, of `base_size`. AV1 decodes to the same
integers on every machine; what is made of them at full size is `restore.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import av

from sdvideo.container.group import KEY, PREDICTED, CodedFrame
from sdvideo.container.header import SCALES
from sdvideo.errors import DamagedError, SettingError, SinkError
from sdvideo.frames import Frame, Picture
from sdvideo.media.colour import planes_of
from sdvideo.media.scaling import scaled

from . import svt_process as svt
from .header_compression import Unpacker, pack_units
from .screen_content import is_drawn

Result = TypeVar("Result")
# Of a group of the base's size, by CRF and scale.
Filter = Callable[[Sequence[Picture], float, Fraction], list[Picture]]

LOWEST_CRF, HIGHEST_CRF = 1.0, 70.0
EFFORT = {"fast": 6, "balanced": 3, "best": 1}  # SVT-AV1's own presets
PROBE = 10  # and the one to find out with how groups behave

_STEPS = 80  # values of the step byte for each scale
_MOST_LINES = 8704  # that SVT-AV1 takes; 16384 wide is no trouble
_LEAST_SIDE = 64  # pixels that SVT-AV1 needs; smaller pictures are scaled up to it
# Key frames only where groups begin. Quality that differs less between the layers of a mini-GOP flickers less (8 % less
# flicker at equal bits on 14 training shots), and costs nothing.
GROUP_OPTIONS = "keyint=-1:scd=0:qp-scale-compress-strength=2"
# How carefully SVT-AV1 looks goes by the CRF it is given, not by what an offset for the start leaves of it, and to it a
# closed group is all start. So it is given a coarser one and an offset back: 4 % fewer bits for a third more time.
_DETOUR, _PER_OFFSET, _COARSEST_CRF = 8, 1.1, 63
# What is drawn takes the tools for it, whatever SVT-AV1 thinks of it. In key frames they look for copies, which takes
# up to 100 us a pixel; pictures that are larger than this are left to its own opinion.
_DRAWN, _MOST_SEARCHED = "scm=1", 1920 * 1088
# Preset 6 would take three to four times as long as 7, which is not fast any more, for a fifth fewer bits.
_DRAWN_EFFORT = {6: 7}
_TRIES = 3  # at a group whose AV1 does not decode


def base_size(width: int, height: int, scale: Fraction) -> tuple[int, int]:
    """Width and height of the base of a picture: even, and large enough for AV1's encoder."""
    return tuple(max(_LEAST_SIDE, 2 * round(side * scale / 2)) for side in (width, height))


def pack_step(crf: float, scale: Fraction) -> int:
    """What a step byte says in a file with an AV1 base: 80 times the scale's place, plus the rounded CRF."""
    return _STEPS * SCALES.index(scale) + round(crf)


def unpack_step(step: int) -> tuple[int, Fraction]:
    """CRF and scale, the inverse of `pack_step`. Raises DamagedError for a scale that there is not."""
    place, crf = divmod(step, _STEPS)
    if place >= len(SCALES):
        raise DamagedError(f"step {step} names a scale this version does not know")
    return crf, SCALES[place]


@dataclass(frozen=True, slots=True)
class Draft:
    """One closed group as AV1. crf: in quarters; units: the temporal unit that shows each picture."""

    scale: Fraction
    crf: float
    units: tuple[bytes, ...]

    @property
    def bits(self) -> int:
        return 8 * sum(map(len, self.units))

    def packed(self) -> Base:
        return Base(self.scale, self.crf, pack_units(self.units))


@dataclass(frozen=True, slots=True)
class Base:
    """One closed group as it is in a file. crf: in quarters; data: of each frame; shown: the last picture decoded, of
    the base's size, if it has been looked at."""

    scale: Fraction
    crf: float
    data: tuple[bytes, ...]
    shown: Picture | None = None

    @property
    def bits(self) -> int:
        return 8 * sum(map(len, self.data))

    def coded(self, frames: Sequence[Frame]) -> tuple[CodedFrame, ...]:
        """The group's frames as the container takes them."""
        step = pack_step(self.crf, self.scale)
        kinds = [KEY] + [PREDICTED] * (len(frames) - 1)
        return tuple(
            CodedFrame(frame.pts, frame.duration, kind, step, data)
            for frame, kind, data in zip(frames, kinds, self.data, strict=True)
        )


def encode_base(
    pictures: Sequence[Picture],
    scale: Fraction,
    crf: float,
    effort: int,
    progress: svt.Progress = svt.silently,
    prefilter: Filter | None = None,
) -> Draft:
    """Code one closed group. crf: LOWEST_CRF to HIGHEST_CRF, in quarters; effort: a preset of SVT-AV1; prefilter: what
    the pictures go through before, see prefilter.py.

    Raises SettingError for pictures that are higher than it takes.
    """
    width, height = base_size(pictures[0].width, pictures[0].height, scale)
    if height > _MOST_LINES:
        size = f"{pictures[0].width}x{pictures[0].height}"
        raise SettingError(f"{size} is too high for an AV1 base, of {_MOST_LINES} lines at most; give base none")
    params = f"{_params(crf)}:{GROUP_OPTIONS}"
    if effort != PROBE and width * height <= _MOST_SEARCHED and is_drawn(pictures):
        params += f":{_DRAWN}"
        effort = _DRAWN_EFFORT.get(effort, effort)
    options = {"preset": str(effort), "svtav1-params": params}
    small = [scaled(picture, width, height) for picture in pictures]
    if prefilter is not None:
        small = prefilter(small, crf, scale)
    packets = svt.encode(small, options, progress)
    if sorted(packets) != list(range(len(pictures))):
        raise SinkError(f"SVT-AV1 gave {len(packets)} packets for {len(pictures)} pictures")
    return Draft(scale, crf, tuple(packets[number] for number in range(len(pictures))))


def _params(crf: float) -> str:
    """The CRF as SVT-AV1 is told of it, about as many bits as without the detour."""
    finer = int(min(_DETOUR, max(0, (_COARSEST_CRF - crf) / _PER_OFFSET)))
    given = round(4 * (crf + _PER_OFFSET * finer)) / 4
    return f"crf={given:g}:startup-qp-offset={-finer}"


class BaseDecoder:
    """Decodes the frames of one group after another. width, height: of the video, in pixels."""

    def __init__(self, width: int, height: int):
        self._width, self._height = width, height
        self._unpacker = Unpacker()
        self._decoder: UnitDecoder | None = None

    def decode(self, coded: CodedFrame) -> Picture:
        """The base picture of the next frame. Raises DamagedError where its data does not decode to one."""
        _, scale = unpack_step(coded.step)
        size = base_size(self._width, self._height, scale)
        if coded.kind == KEY:
            self._decoder = UnitDecoder(*size)
        if self._decoder is None or self._decoder.size != size:
            raise DamagedError("a group does not begin with a key frame")
        return self._decoder.decode(self._unpacker.obus(coded.data, coded.kind == KEY))


class UnitDecoder:
    """Decodes the temporal units of one group. width, height: of the base, in pixels."""

    def __init__(self, width: int, height: int):
        self.size = width, height
        self._decoder = av.CodecContext.create("libdav1d", "r")
        # A picture for every unit at once; and no more memory than a picture of the announced size may take.
        self._decoder.options = {"max_frame_delay": "1", "max_pixels": str(width * height)}

    def decode(self, unit: Iterable[bytes]) -> Picture:
        """The picture of the next unit, given in pieces of whole OBUs. Raises DamagedError where it is not one."""
        frames = []
        # One by one, so that a unit of thousands of pictures is refused at the second one.
        for piece in unit:
            try:
                frames += self._decoder.decode(av.Packet(piece))
            except (av.FFmpegError, ValueError) as error:
                raise DamagedError("its AV1 data does not decode") from error
            if len(frames) > 1:
                break
        if len(frames) != 1:
            raise DamagedError(f"its AV1 data gives {len(frames) or 'no'} pictures instead of one")
        (frame,) = frames
        if (frame.width, frame.height, frame.format.name) != (*self.size, "yuv420p"):
            found = f"{frame.width}x{frame.height} {frame.format.name}"
            raise DamagedError(f"its AV1 data is {found} instead of {self.size[0]}x{self.size[1]} yuv420p")
        return planes_of(frame)


class _Undecodable(SinkError):
    """Nothing is wrong with a file: the encoder is to blame."""


def decode_draft(draft: Draft, width: int, height: int) -> Iterator[Picture]:
    """The base pictures of a group that was just coded, of a video of width x height.

    Raises SinkError where they do not decode.
    """
    decoder = UnitDecoder(*base_size(width, height, draft.scale))
    try:
        for unit in draft.units:
            yield decoder.decode([unit])
    except DamagedError as error:
        raise _Undecodable(f"SVT-AV1 made what does not decode: {error}") from error


def decodable(work: Callable[[], Result]) -> Result:
    """What `work` gives, which codes a group and decodes it.

    Rarely, on a busy machine, SVT-AV1 makes what does not decode. Then it is coded again, by another process.
    """
    for _ in range(_TRIES - 1):
        with suppress(_Undecodable):
            return work()
        svt.renew()
    return work()
