"""The .sdv file that an encoding writes: a new file, or the continuation of an interrupted one."""

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

_BLOCK = 1 << 20  # bytes of a track file that are copied at a time


class ResumableFile:
    """Writes an .sdv file. A context manager that closes it.

    If `resume` is true and `path` is an interrupted file with the same header, writing continues after its last whole
    group. Otherwise, the file is started anew; if it was not empty and `resume` is true, a warning is logged.

    frames, groups: how many are in the file. video_size: bytes of the chunks of all groups. earlier: the frames that
    the interrupted encoding left in the file.

    Raises SinkError if the file cannot be opened for writing, OSError if a new one cannot be created.
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
        """Read the groups of an interrupted file. Returns False if it is no .sdv file with this header."""
        try:
            with Reader(path) as reader:
                if reader.header != header:
                    return False
                earlier = [frame for i in range(len(reader.groups)) for frame in reader.read_group(i).frames]
                self.earlier, self.groups = earlier, len(reader.groups)
                self.video_size = sum(entry.end - entry.offset for entry in reader.groups)
                return True
        except FormatError:
            return False

    @property
    def size(self) -> int:
        """Bytes written so far, from the beginning of the file."""
        return self._writer.file.tell()

    def write_tracks(self, files: Sequence[Path]) -> None:
        """Append each track file, without the bytes that are already in the file."""
        for blob, path in enumerate(files):
            with path.open("rb") as file:
                file.seek(self._track_bytes[blob] if blob < len(self._track_bytes) else 0)
                while data := file.read(_BLOCK):
                    self._writer.write_track(blob, data)

    def write_group(self, group: Group) -> None:
        """Append a group and flush the file. Raises SinkError if writing fails."""
        self.video_size += self._writer.write_group(group)
        self.frames += len(group.frames)
        self.groups += 1

    def finish(self) -> None:
        """Append the index and the end chunk. Raises SinkError if writing fails."""
        self._writer.finish()

    def __enter__(self) -> ResumableFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.file.close()
