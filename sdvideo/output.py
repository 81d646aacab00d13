"""Files that appear under their name only when they are whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputExists, SettingError, SinkError


def check_output(path: Path, source: str | os.PathLike, overwrite: bool) -> None:
    """Refuse to write over the source, over a file that is there, or into nowhere."""
    if path.exists() and os.path.exists(source) and os.path.samefile(path, source):
        raise SettingError(f"{path} is the input itself; name another output")
    if path.is_dir():
        raise SinkError(f"{path} is a folder")
    if path.exists() and not overwrite:
        raise OutputExists(f"{path} exists; -y writes over it, -n leaves it")
    if not path.parent.is_dir():
        raise SinkError(f"{path.parent} is no folder")


def part_of(path: Path) -> Path:
    """Where a file is while it is not whole: hidden, beside its final place."""
    return path.with_name(f".{path.name}.part")


@contextmanager
def whole_file(path: Path, *, keep_interrupted: bool = False) -> Iterator[Path]:
    """Yield the place to write to; it takes the final name when the block ends well and is removed when it does not.

    keep_interrupted: leave it where it is on KeyboardInterrupt, for resuming.
    """
    part = part_of(path)
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        if not (keep_interrupted and isinstance(error, KeyboardInterrupt)):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise SinkError(f"{path}: {error.strerror or error}") from error
        raise
