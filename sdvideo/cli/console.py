"""What the command line prints: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import logging
import sys
import time
from fractions import Fraction
from typing import Any

from sdvideo.runtime.output_files import standard_output
from sdvideo.runtime.standard_streams import valid_text

log = logging.getLogger("sdvideo")

SCHEMA = 1
PROGRESS_SECONDS = 10.0  # between two lines of progress, where there is no terminal
_PREFIX = {logging.WARNING: "Warning: ", logging.ERROR: "Error: ", logging.CRITICAL: "Error: "}
_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n}/{total} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"
_bar: Any = None  # the tqdm bar on the screen, if there is one


class _StandardError(logging.Handler):
    """Log records as lines on standard error, above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        _write_line(_PREFIX.get(record.levelno, "") + record.getMessage())


def set_log_level(level: int = logging.INFO) -> None:
    """Show what the package logs from this level on: ERROR with --quiet, DEBUG with --verbose."""
    if not any(isinstance(handler, _StandardError) for handler in log.handlers):
        log.addHandler(_StandardError())
    log.propagate = False
    log.setLevel(level)


def print_result(line: str) -> None:
    """Print a line of a result. Raises SinkError if standard output takes no more."""
    with standard_output() as file:
        print(line, file=file)


def print_json(type: str, **fields: object) -> None:
    """Print a result for programs: one JSON object per line, with the schema number and its type."""
    text = json.dumps({"schema": SCHEMA, "type": type, **fields}, ensure_ascii=False)
    if (sys.stdout.encoding or "").lower().replace("-", "") != "utf8":
        text = json.dumps(json.loads(text))  # in ASCII, which every encoding has
    print_result(valid_text(text))


def _write_line(line: str) -> None:
    if _bar is None:
        print(line, file=sys.stderr, flush=True)
    else:
        _bar.write(line, file=sys.stderr)


class Progress:
    """Shows the progress of encode, decode and report; a context manager, and the callback they take.

    On a terminal it is a bar with frames per second, the time left and the bit rate so far; elsewhere a line every
    ten seconds; nothing with --quiet.
    """

    def __init__(self, task: str):
        self._task = task
        self._quiet = not log.isEnabledFor(logging.INFO)
        self._begin = self._last_line = time.monotonic()
        self._earlier: int | None = None  # frames that were done before the first call

    def __call__(self, done: int, total: int | None, size: int = 0, rate: Fraction | None = None) -> None:
        """done, total: frames; size: bytes so far; rate: average frames per second of the video; None: unknown."""
        if self._quiet:
            return
        if self._earlier is None:
            self._earlier = done - 1  # frames from before a --resume do not count towards the speed
        bits = f"{size * 8 * float(rate) / done / 1000:.0f} kbit/s" if size and rate else ""
        if sys.stderr.isatty():
            self._draw(done, total, bits, self._earlier)
        elif time.monotonic() - self._last_line >= PROGRESS_SECONDS:
            self._last_line = time.monotonic()
            _write_line(self._line(done, total, bits, self._earlier))

    def _draw(self, done: int, total: int | None, bits: str, earlier: int) -> None:
        global _bar
        if _bar is None:
            from tqdm import tqdm

            _bar = tqdm(
                desc=self._task,
                total=total,
                initial=earlier,
                unit=" frames",
                file=sys.stderr,
                dynamic_ncols=True,
                bar_format=None if total is None else _FORMAT,
            )
        _bar.set_postfix_str(bits, refresh=False)
        _bar.update(done - _bar.n)

    def _line(self, done: int, total: int | None, bits: str, earlier: int) -> str:
        seconds = time.monotonic() - self._begin
        speed = (done - earlier) / max(seconds, 1e-9)
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
    """3723.4 -> "1:02:03"; hours only if there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def counted(count: int, thing: str) -> str:
    """3, "frame" -> "3 frames"."""
    return f"{count:,} {thing}{'s' * (count != 1)}"
