"""The inputs of one call: which files they are, where each result goes, and one after another, whatever fails."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer

from sdvideo.errors import OutputExists, SettingError, SourceError
from sdvideo.runtime.output_files import is_folder, make_folder, placed

from .console import Progress, print_json
from .errors import exit_code, is_closed_pipe, message, wants_traceback

log = logging.getLogger("sdvideo")

Done = tuple[str, dict[str, Any]]  # the result of an input: "OUT: in words", and as JSON values


def is_batch(inputs: Sequence[str]) -> bool:
    """Whether these are several inputs or a folder, not one file."""
    return len(inputs) > 1 or Path(inputs[0]).is_dir()


def sources_of(inputs: Sequence[str], suffixes: frozenset[str], output: str | None, suffix: str) -> list[str]:
    """The files to work on, after everything has been refused that can be refused at once.

    suffixes: of the files to take from folders. output: the option -o. suffix: of the results. Raises SettingError,
    SourceError.
    """
    sources = gather(inputs, suffixes)
    if output == "":
        raise SettingError("-o is empty; name a file or a folder")
    if is_batch(inputs):
        check_places(sources, output, suffix)
    if output is not None and output != "-" and is_folder(output):
        make_folder(output)
    return sources


def gather(inputs: Sequence[str], suffixes: frozenset[str]) -> list[str]:
    """The files in the order of the inputs, those of a folder by name.

    Of a folder only visible files with these suffixes are taken, not those in its subfolders. Raises SourceError for a
    folder that cannot be read or has no such file, SettingError for an empty name, which would be the current folder.
    """
    if "" in inputs:
        raise SettingError("an input has an empty name")
    return [source for one in inputs for source in (_inside(one, suffixes) if Path(one).is_dir() else [one])]


def _inside(folder: str, suffixes: frozenset[str]) -> list[str]:
    try:
        found = [path for path in Path(folder).iterdir() if path.suffix.lower() in suffixes and path.is_file()]
    except OSError as error:
        raise SourceError(f"{folder}: {error.strerror or error}") from error
    files = sorted(str(path) for path in found if not path.name.startswith("."))
    if not files:
        raise SourceError(f"{folder}: no file in this folder has one of the suffixes {' '.join(sorted(suffixes))}")
    return files


def check_places(sources: Sequence[str], output: str | None, suffix: str) -> None:
    """Refuse a batch that would lose a result or an input, before anything is done.

    suffix: of the results. Raises SettingError.
    """
    if output is not None and not is_folder(output):
        raise SettingError(f"-o {output} is not a folder, and several results do not fit into one file")
    inputs = {os.path.abspath(source) for source in sources}
    makers: dict[str, str] = {}
    for source in sources:
        path = placed(output, source, suffix)
        place = os.path.abspath(path)
        if place in makers:
            raise SettingError(f"{makers[place]} and {source} would both become {path}")
        if place in inputs:
            raise SettingError(f"{source} would become {path}, which is an input as well")
        makers[place] = source


def run_each(
    command: str,
    task: str,
    sources: Sequence[str],
    batch: bool,
    work: Callable[[str, Progress], Done],
    skip_existing: bool,
    json: bool,
) -> None:
    """Do the work on every source. Of a batch, failures are listed at the end, and the exit code is 1.

    command: the type of JSON results. task: for the progress bar. skip_existing: an existing output is no failure.
    """
    failures = []
    for number, source in enumerate(sources, 1):
        try:
            with Progress(f"{task} {number}/{len(sources)} {Path(source).name}" if batch else task) as progress:
                done, facts = work(source, progress)
        except Exception as error:
            if skip_existing and isinstance(error, OutputExists):
                log.info("%s: skipped, its output exists", source)
                if json:
                    print_json("skipped", source=source)
                continue
            if is_closed_pipe(error) or wants_traceback():
                raise
            why = message(error).removeprefix(f"{source}: ")
            if json:
                print_json("failed", source=source, error=why, exit_code=exit_code(error))
            if not batch:
                raise
            failures.append(f"{source}: {why}")
            if not isinstance(error, OutputExists):  # those are listed at the end, which comes soon enough
                log.info("%s; going on with the next input", failures[-1])
            continue
        log.info("%s -> %s", source, done)
        if json:
            print_json(command, source=source, **facts)
    if failures:
        log.error("%d of %d failed:", len(failures), len(sources))
        for line in failures:
            log.error("%s", line)
        raise typer.Exit(1)
