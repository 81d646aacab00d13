"""The .sdv file of an encoding: a new one, or what an interrupted encoding of the same video left."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from sdvideo.errors import FormatError

from .group import CodedFrame, Group
from .header import Header
from .reader import Reader
from .writer import Writer

log = logging.getLogger("sdvideo")

_PIECE = 1 << 20


class ResumableFile:
    """Writes an .sdv file, after the last whole group of `path` if that was made with the same header.

    frames, groups: how many are in the file. video_size: bytes of all groups. earlier: the frames that were there
    already. resume: False starts a new file in any case.
    """

    def __init__(self, path: Path, header: Header, resume: bool):
        self.earlier: list[CodedFrame] = []
        self.frames = self.groups = self.video_size = 0
        self._track_bytes: tuple[int, ...] = ()
        if resume and self._read(path, header):
            self._writer, self.frames, self._track_bytes = Writer.resume(path)
            log.info("resuming after %d frames", self.frames)
        else:
            if resume and path.stat().st_size:
                log.warning("the interrupted file does not fit this input and these settings: starting again")
            self._writer = Writer(path.open("wb"), header)

    def _read(self, path: Path, header: Header) -> bool:
        """Take note of the groups in an interrupted file; False if it was made with another header."""
        try:
            with Reader(path) as reader:
                if reader.header != header:
                    return False
                self.groups = len(reader.groups)
                self.video_size = sum(entry.end - entry.offset for entry in reader.groups)
                self.earlier = [frame for i in range(self.groups) for frame in reader.read_group(i).frames]
                return True
        except FormatError:
            return False

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._writer.file.tell()

    def write_tracks(self, files: Sequence[Path]) -> None:
        """Append what is not there yet of each track file."""
        for blob, path in enumerate(files):
            with path.open("rb") as file:
                file.seek(self._track_bytes[blob] if blob < len(self._track_bytes) else 0)
                while piece := file.read(_PIECE):
                    self._writer.write_track(blob, piece)

    def write_group(self, group: Group) -> None:
        self.video_size += self._writer.write_group(group)
        self.frames += len(group.frames)
        self.groups += 1

    def finish(self) -> None:
        self._writer.finish()

    def __enter__(self) -> ResumableFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.file.close()
