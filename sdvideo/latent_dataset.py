"""Windows of latents from many .sdv files, for training: a torch Dataset that needs no autoencoder."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from .errors import SettingError
from .reader import VideoReader

_OPEN = 8  # files that each process holds open at most


class LatentDataset(Dataset):
    """Windows of consecutive latents of one file each.

        dataset = sdvideo.LatentDataset("clips", frames=16)
        for batch in DataLoader(dataset, batch_size=4, shuffle=True, num_workers=2):
            train(batch["latents"])

    source: a folder, whose .sdv files are taken in order of name, or paths. frames: in a window. stride: from
    a window's first frame to the next one's, by default frames. Files shorter than a window have none. An item is
        latents  float32 tensor [frames, channels, h, w], see VideoReader.latents
        path     of the file, as given
        first    number of the window's first frame
    Items may differ in channels, h and w, for which see shape; a DataLoader that makes one batch of such items gets a
    SettingError. Nothing is decoded before an item is asked for; each process opens files for itself, a few at a time,
    so that workers may be forked or spawned. Raises SettingError where there is no window, or a file without latents
    of its own; SourceError, FormatError and DamagedError as opening and reading the files does.
    """

    def __init__(
        self, source: str | os.PathLike | Iterable[str | os.PathLike], *, frames: int = 16, stride: int | None = None
    ):
        self.frames, self.stride = frames, frames if stride is None else stride
        for name, value in (("frames", self.frames), ("stride", self.stride)):
            if value < 1:
                raise SettingError(f"{name} is {value}; it can be 1 and more")
        self.paths = _files(source)
        self._shapes, windows = [], []
        for path in self.paths:
            with VideoReader(path) as video:
                self._shapes.append(video.latents(0, 0).shape[1:])
                windows.append(max(0, (len(video) - frames) // self.stride + 1))
        self._ends = np.cumsum(windows)
        if not len(self):
            raise SettingError(f"none of {len(self.paths)} .sdv files has {frames} frames")
        self._videos = _Videos()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        file, first = self._find(index)
        latents = self._videos.open(self.paths[file]).latents(first, first + self.frames)
        return {"latents": torch.from_numpy(latents), "path": self.paths[file], "first": first}

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """The items of a batch. Raises SettingError where they differ in shape."""
        one, *others = indices
        for other in others:
            if self.shape(other) != self.shape(one):
                names = " and ".join(f"{self.paths[self._find(i)[0]]} {list(self.shape(i))}" for i in (one, other))
                raise SettingError(
                    f"latents of {names} make no batch: group them by shape(index), or take one at a time"
                )
        return [self[index] for index in indices]

    def shape(self, index: int) -> tuple[int, int, int, int]:
        """Of the latents of an item: (frames, channels, h, w); nothing is decoded for it."""
        return self.frames, *self._shapes[self._find(index)[0]]

    def _find(self, index: int) -> tuple[int, int]:
        """The number of an item's file, and that of its first frame."""
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        file = int(np.searchsorted(self._ends, number, side="right"))
        return file, self.stride * (number - int(self._ends[file - 1] if file else 0))


def _files(source: str | os.PathLike | Iterable[str | os.PathLike]) -> list[str]:
    if not isinstance(source, (str, os.PathLike)):
        return [os.fspath(path) for path in source]
    if not Path(source).is_dir():
        raise SettingError(f"{os.fspath(source)} is no folder; give a folder, or a list of .sdv files")
    return sorted(map(os.fspath, Path(source).glob("*.sdv")))


class _Videos:
    """Files held open, those not used for longest closed first; none of them in a process that it is sent to."""

    def __init__(self):
        self._process, self._open = os.getpid(), OrderedDict()

    def open(self, path: str) -> VideoReader:
        if self._process != os.getpid():  # forked: the place in each file is shared with the parent
            self._close()
            self._process = os.getpid()
        video = self._open.pop(path, None) or VideoReader(path)
        self._open[path] = video
        if len(self._open) > _OPEN:
            self._open.popitem(last=False)[1].close()
        return video

    def _close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def __reduce__(self):
        return _Videos, ()

    def __del__(self):
        self._close()
