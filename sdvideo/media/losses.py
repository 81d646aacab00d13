"""What is lost of an input, or mended in it: a warning, or, where nothing may be lost, an error.

`refuse_losses` holds for the code that is called inside it, and for the threads of `runtime/prefetch.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sdvideo.errors import SourceError

log = logging.getLogger("sdvideo")

_refused: ContextVar[str] = ContextVar("_refused", default="")  # the input of which nothing may be lost


@contextmanager
def refuse_losses(name: str) -> Iterator[None]:
    """Within this context, an input is refused if something of it would be lost. name: of the input."""
    token = _refused.set(name)
    try:
        yield
    finally:
        _refused.reset(token)


def lost(line: str, *values: object) -> None:
    """Warn of what is lost or mended; line and values: as for logging. Raises SourceError within `refuse_losses`."""
    if name := _refused.get():
        text = (line % values if values else line).removeprefix(f"{name}: ")
        raise SourceError(f"{name}: {text}; refused, as --strict asks")
    log.warning(line, *values)
