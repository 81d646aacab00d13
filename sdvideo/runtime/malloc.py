"""Memory that has been freed, back to the system: glibc keeps most of it, and more and more the longer it goes on."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_trim = None
with suppress(OSError, AttributeError, TypeError):  # another C library
    _trim = ctypes.CDLL(None).malloc_trim


def give_back() -> None:
    """Where the C library cannot do that, nothing happens."""
    if _trim is not None:
        _trim(0)
