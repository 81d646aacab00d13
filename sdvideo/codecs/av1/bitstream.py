"""How base "av1" stores a group: a chapter of the .sdv specification.

A group is one closed AV1 sequence of base pictures: a key frame, then frames that refer to nothing outside the group.
The data of a frame is the temporal unit that shows it, with its headers compressed as specified in
`header_compression.py`; it decodes to exactly one picture. The step byte of the frame table is `pack_step` of the
group's CRF and scale. A base picture is 8-bit 4:2:0 and has the size `base_size`. AV1 decodes to the same integers on
every machine; how pictures of full size are restored from them is specified in `restoration/network.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from sdvideo.container.group import KEY, PREDICTED, CodedFrame
from sdvideo.container.header import SCALES
from sdvideo.errors import DamagedError
from sdvideo.frames import Frame, Picture

from .header_compression import pack_units

LOWEST_CRF, HIGHEST_CRF = 1.0, 70.0
_STEPS = 80  # values of the step byte for each scale
_MIN_SIDE = 64  # pixels; SVT-AV1 takes no less, so smaller pictures are scaled up to it


def base_size(width: int, height: int, scale: Fraction) -> tuple[int, int]:
    """Width and height of the base picture of a picture: even, and large enough for SVT-AV1."""
    width, height = (max(_MIN_SIDE, 2 * round(side * scale / 2)) for side in (width, height))
    return width, height


def pack_step(crf: float, scale: Fraction) -> int:
    """The step byte of frames in base "av1": 80 times the index of the scale in SCALES, plus the rounded CRF."""
    return _STEPS * SCALES.index(scale) + round(crf)


def unpack_step(step: int) -> tuple[int, Fraction]:
    """CRF and scale of a step byte, the inverse of `pack_step`. Raises DamagedError for an unknown scale."""
    index, crf = divmod(step, _STEPS)
    if index >= len(SCALES):
        raise DamagedError(f"step {step} names a scale this version does not know")
    return crf, SCALES[index]


@dataclass(frozen=True, slots=True)
class EncodedGroup:
    """One closed group as SVT-AV1 made it. crf: a multiple of 1/4; units: the temporal unit of each picture."""

    scale: Fraction
    crf: float
    units: tuple[bytes, ...]

    @property
    def bits(self) -> int:
        return 8 * sum(map(len, self.units))

    def packed(self) -> PackedGroup:
        """The group with compressed headers."""
        return PackedGroup(self.scale, self.crf, pack_units(self.units))


@dataclass(frozen=True, slots=True)
class PackedGroup:
    """One closed group as it is stored in a file.

    crf: a multiple of 1/4. data: of each frame, with compressed headers. last: the last decoded base picture, if known.
    """

    scale: Fraction
    crf: float
    data: tuple[bytes, ...]
    last: Picture | None = None

    @property
    def bits(self) -> int:
        return 8 * sum(map(len, self.data))

    def coded_frames(self, frames: Sequence[Frame]) -> tuple[CodedFrame, ...]:
        """The frames as the container stores them. frames: those of the source, for their times."""
        step = pack_step(self.crf, self.scale)
        kinds = [KEY] + [PREDICTED] * (len(frames) - 1)
        return tuple(
            CodedFrame(frame.pts, frame.duration, kind, step, data)
            for frame, kind, data in zip(frames, kinds, self.data, strict=True)
        )
