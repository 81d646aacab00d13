"""Keeps glibc's heap small: it returns little of what was freed to the system, and less the longer a program runs.

Every function here does nothing where the C library is another one.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Any

_ARENA_MAX = -8  # M_ARENA_MAX of glibc's malloc.h
_libc: Any = None
with suppress(OSError, TypeError):  # Windows has no such library
    _libc = ctypes.CDLL(None)


def trim_heap() -> None:
    """Return freed memory to the system."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


def use_one_heap() -> None:
    """Let all threads share one heap: with one for each, glibc keeps more and more of what ended threads have freed.

    The encoders of every group start threads; without this, 360 s of video took a third more memory than 10 s.
    """
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_ARENA_MAX, 1)
