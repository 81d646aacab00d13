"""The inputs of one call: which files they are, where each result goes, and one after another, whatever fails."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from sdvideo.errors import OutputExists, SettingError, SourceError
from sdvideo.runtime.output_files import is_folder, make_folder, placed

from .console import Progress, counted, print_json
from .errors import exit_code, is_closed_pipe, message, wants_traceback

log = logging.getLogger("sdvideo")

Done = tuple[str, dict[str, Any]]  # the result of an input: "OUT: in words", and as JSON values


def is_batch(inputs: Sequence[str]) -> bool:
    """Whether these are several inputs or a folder, not one file."""
    return len(inputs) > 1 or Path(inputs[0]).is_dir()


@dataclass(frozen=True, slots=True)
class Job:
    """One input. source: its name. output: where its result goes, as the option -o says it for one input."""

    source: str
    output: str | None


def jobs_of(
    inputs: Sequence[str], suffixes: frozenset[str], output: str | None, suffix: str, *, recursive: bool = False
) -> list[Job]:
    """The files to work on, after everything has been refused that can be refused at once.

    suffixes: of the files to take from folders. output: the option -o. suffix: of the results. recursive: take files
    from subfolders as well; in an output folder their results lie in subfolders of the same names. Raises SettingError,
    SourceError.
    """
    if "" in inputs:  # it would be the current folder
        raise SettingError("an input has an empty name")
    if output == "":
        raise SettingError("-o is empty; name a file or a folder")
    if is_batch(inputs) and output is not None and not is_folder(output):
        raise SettingError(f"-o {output} is not a folder, and several results do not fit into one file")
    jobs, skipped = [], []
    for one in inputs:
        inside, line = _jobs(one, suffixes, output, recursive)
        jobs += inside
        skipped += [line] * bool(line)
    if is_batch(inputs):
        jobs = _told_apart(jobs, suffix)
        _check_places(jobs, suffix)
    for folder in {job.output for job in jobs if job.output not in (None, "-") and is_folder(job.output)}:
        make_folder(folder)
    for line in skipped:
        log.info("%s", line)
    return jobs


def _jobs(name: str, suffixes: frozenset[str], output: str | None, recursive: bool) -> tuple[list[Job], str]:
    """One input, or the files in it that have these suffixes, by name; and a line that counts what else there is.

    Hidden files and links to folders are left out. Raises SourceError for a folder without any such file.
    """
    if not Path(name).is_dir():
        return [Job(name, output)], ""
    jobs, others, unseen = [], 0, 0
    for folder, folders, files in os.walk(name, onerror=_unreadable):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        taken = [one for one in sorted(files) if not one.startswith(".") and Path(one).suffix.lower() in suffixes]
        others += sum(not one.startswith(".") and one not in taken and Path(one).suffix != ".sdv" for one in files)
        place = output
        if output is not None:
            place = os.path.join(output, os.path.relpath(folder, name), "") if folder != name else output
        jobs += [Job(os.path.join(folder, one), place) for one in taken]
        if not recursive:
            unseen = len(folders)
            break
    if not jobs:
        where = " or its subfolders" if recursive else ""
        more = f"; it has {counted(unseen, 'subfolder')}: --recursive takes the files in them" if unseen else ""
        raise SourceError(
            f"{name}: no file in this folder{where} has one of the suffixes {' '.join(sorted(suffixes))}{more}"
        )
    skipped = [counted(others, "file") + " of other kinds"] * (others > 0)
    skipped += [counted(unseen, "subfolder") + " (--recursive takes them)"] * (unseen > 0)
    return jobs, f"{name}: skipped: {', '.join(skipped)}" if skipped else ""


def _unreadable(error: OSError) -> None:
    raise SourceError(f"{error.filename}: {error.strerror or error}") from error


def _told_apart(jobs: Sequence[Job], suffix: str) -> list[Job]:
    """Results that would have the same name keep the suffixes of their inputs in it: IMG_1.jpg.sdv, IMG_1.mov.sdv."""
    # As on file systems that do not tell upper from lower case.
    places = [_place(job, suffix).casefold() for job in jobs]
    uses = Counter(places)
    return [
        job if uses[place] == 1 else Job(job.source, str(_with_both(job, suffix)))
        for job, place in zip(jobs, places, strict=True)
    ]


def _place(job: Job, suffix: str) -> str:
    return os.path.abspath(placed(job.output, job.source, suffix))


def _with_both(job: Job, suffix: str) -> Path:
    path = placed(job.output, job.source, suffix)
    own = Path(job.source).suffix.lower()
    return path.with_name(path.name.removesuffix(suffix) + own + suffix)


def _check_places(jobs: Sequence[Job], suffix: str) -> None:
    """Refuse a batch that would lose a result or an input, before anything is done. Raises SettingError."""
    inputs = {os.path.abspath(job.source) for job in jobs}
    makers: dict[str, str] = {}
    for job in jobs:
        path, place = placed(job.output, job.source, suffix), _place(job, suffix)
        if place in makers:
            raise SettingError(f"{makers[place]} and {job.source} would both become {path}")
        if place in inputs:
            raise SettingError(f"{job.source} would become {path}, which is an input as well")
        makers[place] = job.source


def run_each(
    command: str,
    task: str,
    jobs: Sequence[Job],
    batch: bool,
    work: Callable[[Job, Progress], Done],
    skip_existing: bool,
    json: bool,
) -> None:
    """Do the work on every input. Of a batch, failures are listed at the end, and the exit code is 1.

    command: the type of JSON results. task: for the progress bar. skip_existing: an existing output is no failure.
    """
    failures = []
    for number, job in enumerate(jobs, 1):
        source = job.source
        try:
            with Progress(f"{task} {number}/{len(jobs)} {Path(source).name}" if batch else task) as progress:
                done, facts = work(job, progress)
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
        log.error("%d of %d failed:", len(failures), len(jobs))
        for line in failures:
            log.error("%s", line)
        raise typer.Exit(1)
