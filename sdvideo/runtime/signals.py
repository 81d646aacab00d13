"""Ctrl-C and SIGTERM end a command soon, whatever it is doing, and leave no temporary files behind."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .prefetch import stop_all

log = logging.getLogger("sdvideo")

_GRACE_SECONDS = 1.5  # for what is being done to come to its end
_ending = threading.Lock()


@contextmanager
def ends_soon(line: str) -> Iterator[None]:
    """End the process with this line and exit code 130 when the block is interrupted, with 143 when it is terminated.

    The block is left by KeyboardInterrupt, so that files are closed. If that takes too long, because a thread is busy
    and must be waited for, the process ends all the same. For the main thread. Signals that are ignored already, as in
    the background of a shell script, stay ignored.
    """
    defaults: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    handled = {number: handler for number, handler in defaults.items() if signal.getsignal(number) is handler}
    code = 128 + signal.SIGINT

    def interrupted(number: int, _: object) -> None:
        nonlocal code
        code = 128 + number
        for each in handled:
            signal.signal(each, signal.SIG_IGN)  # the process is ending already
        if _is_importing("torch"):  # its C++ aborts when an exception passes through it
            _exit(line, code)
        timer = threading.Timer(_GRACE_SECONDS, _exit, [line, code])
        timer.daemon = True
        timer.start()
        raise KeyboardInterrupt

    for number in handled:
        signal.signal(number, interrupted)
    try:
        yield
    except KeyboardInterrupt:
        _exit(line, code)
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)


def _is_importing(module: str) -> bool:
    """Whether a module is being imported at this moment."""
    return bool(getattr(getattr(sys.modules.get(module), "__spec__", None), "_initializing", False))


def _exit(line: str, code: int) -> None:
    """Log the line, run exit handlers, which remove temporary files, and end without waiting for threads."""
    _ending.acquire()  # only once: whoever comes second waits here for the end
    log.error("%s", line)
    atexit.unregister(stop_all)
    atexit._run_exitfuncs()
    os._exit(code)
