"""What base "av1" keeps of a group (a chapter of the .sdv specification), and how it is stored.

A group is one closed AV1 sequence of small pictures, the base: a key frame, then frames that refer to nothing outside
the group. The data of a frame is the temporal unit that shows it, with its headers compressed by
`header_compression.py`; exactly one picture comes of it. The step byte of the frame table is `pack_step` of the group's
CRF and scale. A base picture is 8-bit 4:2:0 of `base_size`. AV1 decodes to the same integers on every machine; how they
are restored at full size is specified in `restoration/network.py`.
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
_MIN_SIDE = 64  # pixels that SVT-AV1 needs; smaller pictures are scaled up to it


def base_size(width: int, height: int, scale: Fraction) -> tuple[int, int]:
    """Width and height of the base of a picture: even, and large enough for the AV1 encoder."""
    width, height = (max(_MIN_SIDE, 2 * round(side * scale / 2)) for side in (width, height))
    return width, height


def pack_step(crf: float, scale: Fraction) -> int:
    """The step byte in a file with an AV1 base: 80 times the index of the scale, plus the rounded CRF."""
    return _STEPS * SCALES.index(scale) + round(crf)


def unpack_step(step: int) -> tuple[int, Fraction]:
    """CRF and scale, the inverse of `pack_step`. Raises DamagedError for an unknown scale."""
    index, crf = divmod(step, _STEPS)
    if index >= len(SCALES):
        raise DamagedError(f"step {step} names a scale this version does not know")
    return crf, SCALES[index]


@dataclass(frozen=True, slots=True)
class EncodedGroup:
    """One closed group as the AV1 encoder made it. crf: in quarters; units: the temporal unit of each picture."""

    scale: Fraction
    crf: float
    units: tuple[bytes, ...]

    @property
    def bits(self) -> int:
        return 8 * sum(map(len, self.units))

    def packed(self) -> PackedGroup:
        return PackedGroup(self.scale, self.crf, pack_units(self.units))


@dataclass(frozen=True, slots=True)
class PackedGroup:
    """One closed group as it is stored in a file.

    crf: in quarters. data: of each frame, its headers compressed. last: the last decoded base picture, if known.
    """

    scale: Fraction
    crf: float
    data: tuple[bytes, ...]
    last: Picture | None = None

    @property
    def bits(self) -> int:
        return 8 * sum(map(len, self.data))

    def coded_frames(self, frames: Sequence[Frame]) -> tuple[CodedFrame, ...]:
        """The group as the container takes it. frames: those of the source, for their times."""
        step = pack_step(self.crf, self.scale)
        kinds = [KEY] + [PREDICTED] * (len(frames) - 1)
        return tuple(
            CodedFrame(frame.pts, frame.duration, kind, step, data)
            for frame, kind, data in zip(frames, kinds, self.data, strict=True)
        )
