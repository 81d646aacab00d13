"""A prepared clip on disk, which every codec codes and every coded video is measured against."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from clips import Clip, without_tracks
from sdvideo.frames import Picture, StreamInfo
from sdvideo.media.output import open_sink
from sdvideo.motion.source_motion import SourceMotion, source_motion


class Hole(Exception):
    """A codec that cannot do this point of its ladder: worth telling, no reason to stop."""


@dataclass(frozen=True)
class Material:
    """Frames without sound, in `folder`, as raw planes and as YUV4MPEG2; light enough to be sent to workers.

    Sides are even. rate: frames per second.
    """

    name: str
    folder: Path
    width: int
    height: int
    frames: int
    rate: Fraction

    @property
    def raw(self) -> Path:
        """8-bit 4:2:0 planes, frame after frame."""
        return self.folder / f"{self.name}.yuv"

    @property
    def y4m(self) -> Path:
        return self.folder / f"{self.name}.y4m"

    @property
    def info(self) -> StreamInfo:
        return StreamInfo(self.width, self.height, 1 / self.rate, self.rate, self.frames)

    @property
    def picture_size(self) -> int:
        """Samples of one picture."""
        return self.width * self.height * 3 // 2

    def picture(self, samples: np.ndarray) -> Picture:
        """uint8 [picture_size] as planes."""
        luma, chroma = self.width * self.height, self.width * self.height // 4
        half = self.height // 2, self.width // 2
        y, u, v = np.split(samples, (luma, luma + chroma))
        return Picture(y.reshape(self.height, self.width), u.reshape(half), v.reshape(half))

    def pictures(self) -> Iterator[Picture]:
        for samples in np.asarray(np.memmap(self.raw, np.uint8, "r")).reshape(-1, self.picture_size):
            yield self.picture(samples)

    def motions(self) -> Iterator[SourceMotion | None]:
        """Of each frame against the one before, None for the first."""
        yield None
        places, visible = np.load(self._places, mmap_mode="r"), np.load(self._visible, mmap_mode="r")
        for positions, seen, cut in zip(places, visible, np.load(self._cuts), strict=True):
            yield SourceMotion(np.asarray(positions), np.asarray(seen), bool(cut))

    def prepare_motions(self) -> None:
        """Follow the source's motion once, for all that is measured against it."""
        pictures = list(self.pictures())
        shape = len(pictures) - 1, self.height, self.width
        places = np.lib.format.open_memmap(self._places, "w+", np.float32, (*shape, 2))
        visible = np.lib.format.open_memmap(self._visible, "w+", bool, shape)
        cuts = np.zeros(shape[0], bool)
        for index in range(shape[0]):
            motion = source_motion(pictures[index].y, pictures[index + 1].y)
            places[index], visible[index], cuts[index] = motion.positions, motion.visible, motion.cut
        np.save(self._cuts, cuts)

    @property
    def _places(self) -> Path:
        return self.folder / f"{self.name}-places.npy"

    @property
    def _visible(self) -> Path:
        return self.folder / f"{self.name}-visible.npy"

    @property
    def _cuts(self) -> Path:
        return self.folder / f"{self.name}-cuts.npy"


def write_material(clip: Clip, folder: Path) -> Material:
    info = clip.info
    material = Material(clip.name, folder, info.width, info.height, info.frames, info.rate or Fraction(25))
    with material.raw.open("wb") as raw, open_sink(material.y4m, without_tracks(info)) as y4m:
        for frame in clip.cut():
            y4m.write(frame)
            for plane in (frame.picture.y, frame.picture.u, frame.picture.v):
                raw.write(np.ascontiguousarray(plane).data)
    return material
