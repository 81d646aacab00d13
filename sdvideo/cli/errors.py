"""Errors of a command: one line on standard error and an exit code; a traceback with SDVIDEO_DEBUG=1."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from sdvideo.errors import SdvError
from sdvideo.runtime.signals import ends_soon

log = logging.getLogger("sdvideo")

_PACKAGES = ("torch", "diffusers", "constriction", "huggingface_hub")  # of base none and other latent models


@contextmanager
def reported_errors(interrupted: str = "interrupted") -> Iterator[None]:
    """Turn errors into one line and an exit code. interrupted: the line for Ctrl-C and SIGTERM."""
    try:
        with ends_soon(interrupted):
            yield
    except (typer.Exit, SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        if wants_traceback():
            raise
        _discard_output()
        if is_closed_pipe(error):  # whoever read our output has seen enough
            raise typer.Exit(1) from None
        log.error("%s", message(error))
        raise typer.Exit(exit_code(error)) from None


def wants_traceback() -> bool:
    return os.environ.get("SDVIDEO_DEBUG") == "1"


def message(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, MemoryError) or "out of memory" in str(error) or "not enough memory" in str(error):
        return "out of memory; a smaller video, --device cpu or a lighter model may fit"
    if isinstance(error, ModuleNotFoundError) and error.name in _PACKAGES:
        return f"this needs the package {error.name}, which the light installation leaves out: pip install sdvideo"
    text = (
        str(error) if isinstance(error, SdvError) else f"{type(error).__name__}: {error} (SDVIDEO_DEBUG=1 shows where)"
    )
    return " ".join(text.split())


def exit_code(error: BaseException) -> int:
    return error.exit_code if isinstance(error, SdvError) else 1


def is_closed_pipe(error: BaseException | None) -> bool:
    """Whether an error comes of a reader that closed our output."""
    while error is not None and not isinstance(error, BrokenPipeError):
        error = error.__cause__
    return error is not None


def _discard_output() -> None:
    """Drop what standard output does not take: Python would try again at exit, and print a traceback."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
