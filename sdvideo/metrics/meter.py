"""The interface of what measures a video frame by frame."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from sdvideo.frames import Picture

if TYPE_CHECKING:
    from sdvideo.motion.source_motion import SourceMotion

Own = TypeVar("Own", bound="Meter")


class Meter(ABC):
    """Measures the frames of a decoded video against those of its source, in order. A context manager."""

    @abstractmethod
    def add(self, source: Picture, decoded: Picture, motion: SourceMotion | None = None) -> None:
        """Measure the next frame; both pictures have the same size.

        motion: of the source since the previous frame; None for the first frame, and for a frame after a scene cut.
        """

    @abstractmethod
    def finish(self) -> Mapping[str, Sequence[float]]:
        """The values of all frames, in order, by the name of the measure. NaN where a frame cannot be measured."""

    def clip(self, keys: Sequence[bool]) -> Mapping[str, float]:
        """The values of the whole video that are not the mean over its frames, by the name of the measure.

        keys: for each frame, whether it is a key frame of the decoded video.
        """
        return {}

    def __enter__(self: Own) -> Own:
        return self

    def __exit__(self, *_: object) -> None:  # noqa: B027 - most meters hold nothing open
        pass
