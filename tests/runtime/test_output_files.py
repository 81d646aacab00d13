"""Output files under the rules of Windows, faked here: open files are neither renamed nor removed, and only files that
are open for writing can be flushed to disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sdvideo.errors import SinkError
from sdvideo.runtime import output_files
from sdvideo.runtime.output_files import part_of, whole_file

fcntl = pytest.importorskip("fcntl")
FDS = Path("/proc/self/fd")
pytestmark = pytest.mark.skipif(not FDS.is_dir(), reason="needs /proc to see which files are open")


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    replace, unlink, fsync = os.replace, Path.unlink, os.fsync

    def refuse_open(path: str | os.PathLike[str]) -> None:
        for fd in FDS.iterdir():
            if os.path.realpath(fd) == os.path.realpath(path):
                raise PermissionError(errno.EACCES, "the file is in use", str(path))

    def windows_replace(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
        refuse_open(source)
        refuse_open(target)
        replace(source, target)

    def windows_unlink(path: Path, missing_ok: bool = False) -> None:
        refuse_open(path)
        unlink(path, missing_ok)

    def windows_fsync(fd: int) -> None:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "bad file descriptor")
        fsync(fd)

    monkeypatch.setattr(output_files, "_WINDOWS", True)
    monkeypatch.setattr(os, "replace", windows_replace)
    monkeypatch.setattr(Path, "unlink", windows_unlink)
    monkeypatch.setattr(os, "fsync", windows_fsync)


def test_a_whole_file_gets_its_name(windows: None, tmp_path: Path) -> None:
    path = tmp_path / "a.sdv"
    with whole_file(path) as part:
        part.write_bytes(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole" and list(tmp_path.iterdir()) == [path]


def test_an_existing_file_is_replaced(windows: None, tmp_path: Path) -> None:
    path = tmp_path / "a.sdv"
    path.write_bytes(b"old")
    with whole_file(path) as part:
        part.write_bytes(b"new")
    assert path.read_bytes() == b"new"


def test_a_file_that_fails_is_removed(windows: None, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), whole_file(tmp_path / "a.sdv") as part:
        part.write_bytes(b"half")
        raise RuntimeError
    assert not any(tmp_path.iterdir())


def test_an_interrupted_file_is_kept(windows: None, tmp_path: Path) -> None:
    path = tmp_path / "a.sdv"
    with pytest.raises(KeyboardInterrupt), whole_file(path, keep_interrupted=True) as part:
        part.write_bytes(b"half")
        raise KeyboardInterrupt
    assert part_of(path).read_bytes() == b"half"


def test_two_writers_of_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.sdv"
    with whole_file(path) as part:
        part.write_bytes(b"first")
        with pytest.raises(SinkError, match="another process is writing it"), whole_file(path):
            pass
    assert path.read_bytes() == b"first"
