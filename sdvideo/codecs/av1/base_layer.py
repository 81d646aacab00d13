"""The base layer: a group of pictures through SVT-AV1, and back through dav1d, both through FFmpeg."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from typing import Any, TypeVar

import av

from sdvideo.container.group import KEY, CodedFrame
from sdvideo.errors import DamagedError, SettingError, SinkError
from sdvideo.frames import Picture
from sdvideo.media.colour import planes_of
from sdvideo.media.scaling import scaled

from . import svt_process
from .bitstream import EncodedGroup, base_size, unpack_step
from .header_compression import Unpacker
from .screen_content import is_screen_content

Result = TypeVar("Result")
# (pictures of the base's size, CRF, scale) -> the pictures that the encoder gets instead
Filter = Callable[[Sequence[Picture], float, Fraction], list[Picture]]

PRESETS = {"fast": 6, "balanced": 3, "best": 1}  # our presets -> SVT-AV1's
TRIAL_PRESET = 10  # of trial encodes, which only find out how a group behaves

_MAX_LINES = 8704  # of SVT-AV1; a width of 16384 is possible
# Key frames at the start of a group only. A smaller quality difference between the layers of a mini-GOP flickers less
# (8 % less flicker at equal bits on 14 training shots) and costs nothing.
GROUP_OPTIONS = "keyint=-1:scd=0:qp-scale-compress-strength=2"
# SVT-AV1 sets the effort of its search by the CRF it is given, not by what startup-qp-offset makes of it; and a closed
# group is all start-up. So it gets a coarser CRF and an offset back: 4 % fewer bits for a third more time.
_MAX_OFFSET, _CRF_PER_OFFSET, _COARSEST_CRF = 8, 1.1, 63
# Screen content gets AV1's tools for it, and nothing else does, whatever SVT-AV1's own detector says: it takes noise of
# few colours for a screen, too. In key frames the tools search for copies, which takes up to 100 us a pixel, so larger
# pictures of screen content are left to the detector.
_SCREEN_CONTENT, _OTHER_CONTENT, _MAX_SEARCHED = "scm=1", "scm=0", 1920 * 1088
# On screen content preset 6 takes three to four times as long as 7, for a fifth fewer bits: too slow for "fast".
_SCREEN_PRESET = {6: 7}
_TRIES = 3  # at a group whose AV1 does not decode


def encode_base(
    pictures: Sequence[Picture],
    scale: Fraction,
    crf: float,
    preset: int,
    progress: svt_process.Progress = svt_process.no_progress,
    prefilter: Filter | None = None,
) -> EncodedGroup:
    """Code one closed group. crf: LOWEST_CRF to HIGHEST_CRF, in quarters; preset: SVT-AV1's.

    prefilter: applied to the scaled pictures, see prefilter.py. Raises SettingError for pictures with more lines than
    SVT-AV1 takes.
    """
    width, height = base_size(pictures[0].width, pictures[0].height, scale)
    if height > _MAX_LINES:
        size = f"{pictures[0].width}x{pictures[0].height}"
        raise SettingError(f"{size} is too high for base av1, which takes at most {_MAX_LINES} lines; use base none")
    params = f"{_crf_params(crf)}:{GROUP_OPTIONS}"
    if preset != TRIAL_PRESET:
        if not is_screen_content(pictures):
            params += f":{_OTHER_CONTENT}"
        elif width * height <= _MAX_SEARCHED:
            params += f":{_SCREEN_CONTENT}"
            preset = _SCREEN_PRESET.get(preset, preset)
    options = {"preset": str(preset), "svtav1-params": params}
    small = [scaled(picture, width, height) for picture in pictures]
    if prefilter is not None:
        small = prefilter(small, crf, scale)
    packets = svt_process.encode(small, options, progress)
    if sorted(packets) != list(range(len(pictures))):
        raise SinkError(f"SVT-AV1 gave {len(packets)} packets for {len(pictures)} pictures")
    return EncodedGroup(scale, crf, tuple(packets[number] for number in range(len(pictures))))


def _crf_params(crf: float) -> str:
    """The CRF and its offset as SVT-AV1's parameters, for about as many bits as the plain CRF would give."""
    offset = int(min(_MAX_OFFSET, max(0, (_COARSEST_CRF - crf) / _CRF_PER_OFFSET)))
    coarser = round(4 * (crf + _CRF_PER_OFFSET * offset)) / 4
    return f"crf={coarser:g}:startup-qp-offset={-offset}"


class BaseDecoder:
    """Decodes the frames of one group after another. width, height: of the video, in pixels."""

    def __init__(self, width: int, height: int):
        self._width, self._height = width, height
        self._unpacker = Unpacker()
        self._decoder: UnitDecoder | None = None

    def decode(self, coded: CodedFrame) -> Picture:
        """The base picture of the next frame. Raises DamagedError if its data does not decode to one."""
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
        self._decoder: Any = av.CodecContext.create("libdav1d", "r")
        # One picture for each unit, without delay; and no more memory than a picture of the announced size may take.
        self._decoder.options = {"max_frame_delay": "1", "max_pixels": str(width * height)}

    def decode(self, unit: Iterable[bytes]) -> Picture:
        """The picture of the next unit, given in pieces of whole OBUs. Raises DamagedError if it is not one picture."""
        frames: list[av.VideoFrame] = []
        # Piece by piece, so that a unit of thousands of pictures is refused at the second one.
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
    """SVT-AV1 made a group that does not decode."""


def decode_base(group: EncodedGroup, width: int, height: int) -> Iterator[Picture]:
    """The base pictures of a group that was just coded, of a video of width x height; the inverse of encode_base.

    Raises SinkError where they do not decode: then the encoder is to blame, not a file.
    """
    decoder = UnitDecoder(*base_size(width, height, group.scale))
    try:
        for unit in group.units:
            yield decoder.decode([unit])
    except DamagedError as error:
        raise _Undecodable(f"SVT-AV1 made a group that does not decode: {error}") from error


def retry_undecodable(work: Callable[[], Result]) -> Result:
    """The result of `work`, which codes a group and decodes it.

    Rarely, on a busy machine, SVT-AV1 makes a group that does not decode. Then it is coded again, by a new process.
    """
    for _ in range(_TRIES - 1):
        with suppress(_Undecodable):
            return work()
        svt_process.end_idle_processes()
    return work()
