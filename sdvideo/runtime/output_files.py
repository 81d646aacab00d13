"""Output files: what they are called, and that they appear under their name only when they are complete."""

from __future__ import annotations

import atexit
import errno
import hashlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from sdvideo.errors import OutputExists, SettingError, SinkError

_SUFFIX = re.compile(r"\.(?=.*[A-Za-z])[A-Za-z0-9]{1,5}")  # of files: short, with a letter in it
_MAX_NAME = 255  # bytes of a file name, on all usual file systems
_WINDOWS = sys.platform == "win32"
_LOCKED_BYTE = 2**62  # on Windows a lock keeps everybody from the bytes it covers, so it covers one that is never used


def is_folder(name: str | os.PathLike[str]) -> bool:
    """Whether an output names a folder for results: one that exists, or a name that ends with a slash."""
    return os.path.isdir(name) or os.fspath(name).endswith(("/", os.sep))


def with_suffix(source: str | os.PathLike[str], suffix: str) -> Path:
    """The default name of a result: its source's, with another suffix. Raises SettingError for standard input.

    What follows the last dot of a name is taken for a suffix if it looks like one: "Mr. Robot" has none.
    """
    if os.fspath(source) == "-":
        raise SettingError("input from a pipe has no name to derive the output's from; give one with -o")
    path = Path(source)
    return path.with_suffix(suffix) if _SUFFIX.fullmatch(path.suffix) else path.with_name(path.name + suffix)


def placed(output: str | os.PathLike[str] | None, source: str | os.PathLike[str], suffix: str) -> Path:
    """The path of a result: `output`, or the default name beside the source or in the folder `output`."""
    if output is not None and not is_folder(output):
        return Path(output)
    default = with_suffix(source, suffix)
    return default if output is None else Path(output) / default.name


def make_folder(output: str) -> None:
    """Create a folder for results, unless it exists. Raises SinkError."""
    try:
        Path(output).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SinkError(f"{output}: {error.strerror or error}") from error


def check_output(path: Path, source: str | os.PathLike[str], overwrite: bool) -> None:
    """Raises an error for an output that is the source itself, exists already, or cannot be written.

    SettingError for the source itself, OutputExists for an existing file without `overwrite`, SinkError otherwise.
    """
    try:
        path.lstat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # the name is too long, or not valid
        raise SinkError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if path.exists() and os.path.exists(source) and os.path.samefile(path, source):
        raise SettingError(f"{path} is the input itself; name another output")
    if path.is_dir():
        raise SinkError(f"{path} is a folder")
    if path.exists() and not path.is_file():
        raise SinkError(f"{path} is not a regular file; output is written beside its name and renamed when complete")
    if path.exists() and not overwrite:
        raise OutputExists(f"{path} exists; use -y to overwrite it")
    if not path.parent.is_dir():
        raise SinkError(f"{path.parent} is not a folder")


@contextmanager
def standard_output() -> Iterator[TextIO]:
    """Standard output, flushed at the end of the block. Raises SinkError if it takes no more."""
    try:
        yield sys.stdout
        sys.stdout.flush()
    except OSError as error:
        raise SinkError(f"standard output: {error.strerror or error}") from error


def part_of(path: Path) -> Path:
    """The hidden file that holds an output while it is not complete, beside its final place; links are followed."""
    path = Path(os.path.realpath(path))
    name = f".{path.name}.part"
    if len(os.fsencode(name)) > _MAX_NAME:
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()}.part"
    return path.with_name(name)


@contextmanager
def whole_file(path: Path, *, keep_interrupted: bool = False) -> Iterator[Path]:
    """Yield the path to write to. It gets its final name when the block ends, and is removed if the block fails.

    keep_interrupted: keep it on KeyboardInterrupt, for resuming. Raises SinkError if that fails, or if another process
    is writing the same file.
    """
    part = part_of(path)
    lock = _lock(path, part)
    remove = partial(_remove, part, lock)
    if not keep_interrupted:
        atexit.register(remove)  # for an exit that skips the except clause below
    try:
        yield part
        with part.open("r+b") as file:  # Windows flushes only files that are open for writing
            os.fsync(file.fileno())
        if _WINDOWS:  # which neither renames nor removes open files
            lock.close()
        os.replace(part, os.path.realpath(path))
    except BaseException as error:
        if not (keep_interrupted and isinstance(error, KeyboardInterrupt)):
            remove()
        if isinstance(error, OSError):
            other = error.filename not in (None, str(part))  # the error may concern a file other than this one
            raise SinkError(f"{error.filename if other else path}: {error.strerror or error}") from error
        raise
    finally:
        atexit.unregister(remove)
        lock.close()


def _remove(part: Path, lock: BinaryIO) -> None:
    if _WINDOWS:
        lock.close()
    part.unlink(missing_ok=True)


def _lock(path: Path, part: Path) -> BinaryIO:
    """The part file, open, and locked against other processes until it is closed. Raises SinkError if it is locked."""
    try:
        file = part.open("ab")
    except OSError as error:
        raise SinkError(f"{path}: {error.strerror or error}") from error
    try:
        _lock_exclusively(file)
        # Another process may have renamed it since it was opened; on Windows it cannot while it is open.
        if _WINDOWS or os.path.samestat(os.fstat(file.fileno()), part.stat()):
            return file
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK, errno.ENOENT):
            return file  # a file system without locks
    file.close()
    raise SinkError(f"{path}: another process is writing it")


if _WINDOWS:
    import msvcrt as _msvcrt

    msvcrt: Any = _msvcrt  # whose functions type checkers know on Windows only

    def _lock_exclusively(file: BinaryIO) -> None:
        """Raises OSError if another process holds the lock."""
        file.seek(_LOCKED_BYTE)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        finally:
            file.seek(0, os.SEEK_END)

else:
    import fcntl

    def _lock_exclusively(file: BinaryIO) -> None:
        """Raises OSError if another process holds the lock."""
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
