"""Files that appear under their name only when they are whole."""

from __future__ import annotations

import atexit
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, TextIO

from sdvideo.errors import OutputExists, SettingError, SinkError

try:
    import fcntl
except ImportError:  # Windows, which does not let a file go that somebody writes
    fcntl = None


def is_folder(name: str | os.PathLike) -> bool:
    """Is an output a folder for results, because it is one or ends with a slash?"""
    return os.path.isdir(name) or os.fspath(name).endswith(("/", os.sep))


def named(source: str | os.PathLike, suffix: str) -> Path:
    """What a result is called if no name is given: as its source, with another suffix. Raises SettingError."""
    if os.fspath(source) == "-":
        raise SettingError("input from a pipe has no name to call the output by; give one with -o")
    return Path(source).with_suffix(suffix)


def placed(output: str | os.PathLike | None, source: str | os.PathLike, suffix: str) -> Path:
    """Where a result goes: by default beside its source, into a folder under the same name."""
    if output is not None and not is_folder(output):
        return Path(output)
    usual = named(source, suffix)
    return usual if output is None else Path(output) / usual.name


def make_folder(output: str) -> None:
    """Make the folder for results, if it is not there. Raises SinkError."""
    try:
        Path(output).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SinkError(f"{output}: {error.strerror or error}") from error


def check_output(path: Path, source: str | os.PathLike, overwrite: bool) -> None:
    """Refuse to write over the source, over a file that is there, or into nowhere."""
    try:
        path.lstat()
    except FileNotFoundError:
        pass  # as it should be
    except (OSError, ValueError) as error:  # too long, or no name at all
        raise SinkError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if path.exists() and os.path.exists(source) and os.path.samefile(path, source):
        raise SettingError(f"{path} is the input itself; name another output")
    if path.is_dir():
        raise SinkError(f"{path} is a folder")
    if path.exists() and not path.is_file():
        raise SinkError(f"{path} is no regular file, and a file is made whole before it gets its name")
    if path.exists() and not overwrite:
        raise OutputExists(f"{path} exists; writing over it has to be asked for (-y)")
    if not path.parent.is_dir():
        raise SinkError(f"{path.parent} is no folder")


@contextmanager
def standard_output() -> Iterator[TextIO]:
    """Standard output, for results; what is written is seen at once. Raises SinkError where it takes no more."""
    try:
        yield sys.stdout
        sys.stdout.flush()
    except OSError as error:
        raise SinkError(f"standard output: {error.strerror or error}") from error


def part_of(path: Path) -> Path:
    """Where a file is while it is not whole: hidden, beside its final place, which is where a link leads."""
    path = Path(os.path.realpath(path))
    return path.with_name(f".{path.name}.part")


@contextmanager
def whole_file(path: Path, *, keep_interrupted: bool = False) -> Iterator[Path]:
    """Yield the place to write to; it takes the final name when the block ends well and is removed when it does not.

    Raises SinkError where that fails, and if another call is writing the same file.

    keep_interrupted: leave it where it is on KeyboardInterrupt, for resuming.
    """
    part = part_of(path)
    lock = _lock(path, part)
    remove = partial(part.unlink, missing_ok=True)
    if not keep_interrupted:
        atexit.register(remove)  # for an end that passes by here
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, os.path.realpath(path))
    except BaseException as error:
        if not (keep_interrupted and isinstance(error, KeyboardInterrupt)):
            remove()
        if isinstance(error, OSError):
            other = error.filename not in (None, str(part))  # not every file that is missing is this one
            raise SinkError(f"{error.filename if other else path}: {error.strerror or error}") from error
        raise
    finally:
        atexit.unregister(remove)
        lock.close()


def _lock(path: Path, part: Path) -> BinaryIO:
    """The part, open and held against other processes until it is closed. Raises SinkError if it is held already."""
    try:
        file = part.open("ab")
    except OSError as error:
        raise SinkError(f"{path}: {error.strerror or error}") from error
    if fcntl is None:
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), part.stat()):  # it may have become whole in between
            return file
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.ENOENT):
            return file  # a file system without locks
    file.close()
    raise SinkError(f"{path}: another call is writing it just now")
