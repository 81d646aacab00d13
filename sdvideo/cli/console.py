"""What the command line says: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import logging
import sys
import time
from fractions import Fraction

from sdvideo.runtime.output_files import standard_output

log = logging.getLogger("sdvideo")

SCHEMA = 1
EVERY = 10.0  # seconds between two lines of progress where there is no terminal
_PREFIX = {logging.WARNING: "Warning: ", logging.ERROR: "Error: ", logging.CRITICAL: "Error: "}
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n}/{total} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"
_bar = None  # the progress bar on the screen, if any


class _Talk(logging.Handler):
    """Log records as lines on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        _write_line(_PREFIX.get(record.levelno, "") + record.getMessage())


def set_up(level: int = logging.INFO) -> None:
    """Show what the package logs from this level on: ERROR when quiet, DEBUG when verbose."""
    if not any(isinstance(handler, _Talk) for handler in log.handlers):
        log.addHandler(_Talk())
    log.propagate = False
    log.setLevel(level)


def say(line: str) -> None:
    """A line for whoever watches; not when quiet."""
    log.info("%s", line)


def put(line: str) -> None:
    """A line of a result. Raises SinkError."""
    with standard_output() as file:
        print(line, file=file)


def put_json(type: str, **fields: object) -> None:
    """A result for programs: one object per line, with the schema's number and its type."""
    put(json.dumps({"schema": SCHEMA, "type": type, **fields}, ensure_ascii=False))


def _write_line(line: str) -> None:
    if _bar is None:
        print(line, file=sys.stderr, flush=True)
    else:
        _bar.write(line, file=sys.stderr)


class Progress:
    """The progress callback of encode, decode and report; a context manager.

    On a terminal it is a bar with frames per second, the time left and the bit rate so far; elsewhere a line
    every ten seconds; nothing when quiet.
    """

    def __init__(self, task: str):
        self._task = task
        self._quiet = not log.isEnabledFor(logging.INFO)
        self._begin = self._told = time.monotonic()
        self._earlier: int | None = None

    def __call__(self, done: int, total: int | None, size: int = 0, rate: Fraction | None = None) -> None:
        """Frames done and in all, bytes so far, average frames per second of the video; None: unknown."""
        if self._quiet:
            return
        if self._earlier is None:
            self._earlier = done - 1  # what an interrupted encoding had done is no speed of this one
        bits = f"{size * 8 * float(rate) / done / 1000:.0f} kbit/s" if size and rate else ""
        if sys.stderr.isatty():
            self._draw(done, total, bits)
        elif time.monotonic() - self._told >= EVERY:
            self._told = time.monotonic()
            _write_line(self._line(done, total, bits))

    def _draw(self, done: int, total: int | None, bits: str) -> None:
        global _bar
        if _bar is None:
            from tqdm import tqdm

            _bar = tqdm(
                desc=self._task,
                total=total,
                initial=self._earlier,
                unit=" frames",
                file=sys.stderr,
                dynamic_ncols=True,
                bar_format=None if total is None else _BAR,
            )
        _bar.set_postfix_str(bits, refresh=False)
        _bar.update(done - _bar.n)

    def _line(self, done: int, total: int | None, bits: str) -> str:
        seconds = time.monotonic() - self._begin
        speed = (done - self._earlier) / max(seconds, 1e-9)
        parts = [f"{self._task}: {done}" + (f" of {total}" if total else "") + " frames", f"{speed:.2f} fps"]
        if total:
            parts.append(f"{clock(max(0, total - done) / speed)} left")
        return ", ".join([*parts, bits] if bits else parts)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        global _bar
        if _bar is not None:
            _bar.close()
            _bar = None


def clock(seconds: float) -> str:
    """3723.4 -> "1:02:03"; hours only where there are some."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
