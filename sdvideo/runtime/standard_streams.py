"""Standard streams that can be written to wherever the program runs: closed by a service, or in an old encoding."""

from __future__ import annotations

import codecs
import os
import sys
from typing import TextIO

# What is printed and is not ASCII, in words for terminals that lack it.
_IN_ASCII = {"φ": "phi", "Δ": "d", "²": "2", "−": "-", "…": "..."}


def prepare_standard_streams() -> None:
    """Open closed streams onto the null device, and let no character make printing fail.

    Without it, the first file that is opened would take the place of a closed standard output, and text that libraries
    print would go into it.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    codecs.register_error("sdvideo.ascii", _replace)
    sys.stdout = _printable(sys.stdout, 1)
    sys.stderr = _printable(sys.stderr, 2)


def _printable(stream: TextIO | None, fd: int) -> TextIO:
    if stream is None:  # Python gives none for a stream that was closed at its start
        return open(fd, "w", encoding="utf-8", errors="sdvideo.ascii", closefd=False)
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="sdvideo.ascii")
    return stream


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_IN_ASCII.get(char, "?") for char in error.object[error.start : error.end]), error.end


def valid_text(text: str) -> str:
    """A file name as text that can be written in UTF-8: undecodable bytes become U+FFFD."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
