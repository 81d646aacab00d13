"""A torch Dataset of windows of latents from many .sdv files, for training. It needs no autoencoder."""

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

_MAX_OPEN = 8  # files that each process keeps open

PathOrStr = str | os.PathLike[str]


class LatentDataset(Dataset[dict[str, Any]]):
    """Windows of consecutive latents, each from one file.

        dataset = sdvideo.LatentDataset("clips", frames=16)
        for batch in DataLoader(dataset, batch_size=4, shuffle=True, num_workers=2):
            train(batch["latents"])

    source: a folder, whose .sdv files are taken in the order of their names, or paths. frames: per window. stride:
    frames from the start of one window to the start of the next, by default `frames`. Files shorter than a window have
    none. An item is a dict:
        latents  float32 tensor [frames, channels, h, w], see VideoReader.latents
        path     of the file, as given
        first    number of the window's first frame
    Items may differ in channels, h and w (see `shape`); a DataLoader that makes one batch of such items gets a
    SettingError. Nothing is decoded until an item is asked for. Each process opens files for itself, a few at a time,
    so workers may be forked or spawned.

    Raises SettingError if there is no window, or a file has no latents that mean something by themselves. Opening and
    reading the files raises SourceError, FormatError and DamagedError.
    """

    def __init__(self, source: PathOrStr | Iterable[PathOrStr], *, frames: int = 16, stride: int | None = None):
        self.frames, self.stride = frames, frames if stride is None else stride
        for name, value in (("frames", self.frames), ("stride", self.stride)):
            if value < 1:
                raise SettingError(f"{name} is {value}; it must be at least 1")
        self.paths = _files(source)
        self._shapes: list[tuple[int, ...]] = []
        windows = []
        for path in self.paths:
            with VideoReader(path) as video:
                self._shapes.append(video.latents(0, 0).shape[1:])
                windows.append(max(0, (len(video) - frames) // self.stride + 1))
        self._ends = np.cumsum(windows)
        if not len(self):
            raise SettingError(f"none of {len(self.paths)} .sdv files has {frames} frames")
        self._readers = _OpenReaders()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        file, first = self._find(index)
        latents = self._readers.open(self.paths[file]).latents(first, first + self.frames)
        return {"latents": torch.from_numpy(latents), "path": self.paths[file], "first": first}

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """The items of a batch. Raises SettingError if their shapes differ."""
        first, *others = indices
        for other in others:
            if self.shape(other) != self.shape(first):
                names = " and ".join(f"{self.paths[self._find(i)[0]]} {list(self.shape(i))}" for i in (first, other))
                raise SettingError(
                    f"latents of {names} differ in shape, so they make no batch: "
                    "group them by shape(index), or take one at a time"
                )
        return [self[index] for index in indices]

    def shape(self, index: int) -> tuple[int, int, int, int]:
        """The shape of an item's latents, (frames, channels, h, w). Decodes nothing."""
        channels, height, width = self._shapes[self._find(index)[0]]
        return self.frames, channels, height, width

    def _find(self, index: int) -> tuple[int, int]:
        """The number of an item's file, and of its first frame. Raises IndexError if there is no such item."""
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        file = int(np.searchsorted(self._ends, number, side="right"))
        return file, self.stride * (number - int(self._ends[file - 1] if file else 0))


def _files(source: PathOrStr | Iterable[PathOrStr]) -> list[str]:
    if not isinstance(source, (str, os.PathLike)):
        return [os.fspath(path) for path in source]
    if not Path(source).is_dir():
        raise SettingError(f"{os.fspath(source)} is no folder; give a folder, or a list of .sdv files")
    return sorted(map(os.fspath, Path(source).glob("*.sdv")))


class _OpenReaders:
    """Readers of files, kept open. The least recently used is closed first. A copy in another process has none open."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._readers: OrderedDict[str, VideoReader] = OrderedDict()

    def open(self, path: str) -> VideoReader:
        if self._process != os.getpid():  # after a fork, file positions are shared with the parent process
            self._close()
            self._process = os.getpid()
        reader = self._readers.pop(path, None) or VideoReader(path)
        self._readers[path] = reader
        if len(self._readers) > _MAX_OPEN:
            self._readers.popitem(last=False)[1].close()
        return reader

    def _close(self) -> None:
        while self._readers:
            self._readers.popitem()[1].close()

    def __reduce__(self) -> tuple[type[_OpenReaders], tuple[()]]:
        return _OpenReaders, ()

    def __del__(self) -> None:
        self._close()
