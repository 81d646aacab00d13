"""Several inputs in one call: which files they are, where each result goes, and one after another, whatever fails."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from sdvideo.errors import SettingError, SourceError
from sdvideo.runtime.output_files import is_folder, placed


def is_batch(inputs: Sequence[str]) -> bool:
    """Is it several inputs, or a folder, rather than the one file that most calls have?"""
    return len(inputs) > 1 or Path(inputs[0]).is_dir()


def gather(inputs: Sequence[str], suffixes: frozenset[str]) -> list[str]:
    """The files in the order of the inputs, a folder's by name; only those with the suffixes, none that is hidden.

    Folders in folders are left alone. Raises SourceError for a folder with nothing to take or that cannot be read,
    SettingError for an empty name, which would be the folder one is in.
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
        raise SourceError(f"{folder}: nothing in this folder to take, neither {' nor '.join(sorted(suffixes))}")
    return files


def check_places(sources: Sequence[str], output: str | None, suffix: str) -> None:
    """Refuse, before anything is done, what would lose a result or an input.

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
