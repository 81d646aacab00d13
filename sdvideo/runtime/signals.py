"""Ctrl-C or SIGTERM ends a command soon, whatever it is in the middle of, and leaves nothing lying about."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .prefetch import stop_all

log = logging.getLogger("sdvideo")

_PATIENCE = 1.5  # seconds for what is being done to come to its end
_ending = threading.Lock()


@contextmanager
def ends_soon(line: str) -> Iterator[None]:
    """End the process with this line and exit code 130 when the block is interrupted, with 143 when it is terminated.

    The block is left by KeyboardInterrupt, so that files are closed. Where that takes too long, because a thread has to
    be waited for that is in the middle of something, the process ends all the same. For the main thread. Not where
    interrupts are ignored, as in the background of a shell script.
    """
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    usual = {number: handler for number, handler in usual.items() if signal.getsignal(number) is handler}
    code = 128 + signal.SIGINT

    def interrupted(number: int, _: object) -> None:
        nonlocal code
        code = 128 + number
        for each in usual:
            signal.signal(each, signal.SIG_IGN)  # it is ending already
        if _is_loading("torch"):  # whose C++ aborts where an exception comes through it
            _end(line, code)
        patience = threading.Timer(_PATIENCE, _end, [line, code])
        patience.daemon = True
        patience.start()
        raise KeyboardInterrupt

    for number in usual:
        signal.signal(number, interrupted)
    try:
        yield
    except KeyboardInterrupt:
        _end(line, code)
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


def _is_loading(module: str) -> bool:
    """Is it being imported just now?"""
    return getattr(getattr(sys.modules.get(module), "__spec__", None), "_initializing", False)


def _end(line: str, code: int) -> None:
    """Say it, remove what is temporary, and do not wait for threads."""
    _ending.acquire()  # once only; whoever comes second waits here for the end
    log.error("%s", line)
    atexit.unregister(stop_all)
    atexit._run_exitfuncs()
    os._exit(code)
