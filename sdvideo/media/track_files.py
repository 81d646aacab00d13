"""The track files of an .sdv file, copied out of it; what is left of them if the file is damaged."""

from __future__ import annotations

from pathlib import Path

from sdvideo.container import Reader
from sdvideo.errors import SinkError

from .tracks import SUFFIXES, mend, readable


def extract_tracks(reader: Reader, folder: Path) -> list[Path]:
    """Write all track files of an intact file into a folder; one path for each of the header's blobs.

    Raises DamagedError if a piece is damaged, SinkError if the folder takes no more.
    """
    paths = []
    for blob, form in enumerate(reader.header.blobs):
        path = folder / f"tracks{blob}.{SUFFIXES[form]}"
        try:
            with path.open("wb") as file:
                for piece in reader.track_data(blob):
                    file.write(piece)
        except OSError as error:
            raise SinkError(f"{folder}: {error.strerror or error}") from error
        paths.append(path)
    return paths


def recover_tracks(reader: Reader, folder: Path) -> tuple[list[Path], list[str]]:
    """Write what is left of the track files into a folder. Returns their paths, and in words what is lost."""
    paths: list[Path] = []
    losses: list[str] = []
    for blob, form in enumerate(reader.header.blobs):
        path = folder / f"tracks{blob}.{SUFFIXES[form]}"
        holes, intact = _write_pieces(reader, blob, path)
        if intact and readable(path):
            paths.append(path)
            continue
        files, left_out = mend(path, holes, folder / f"mended{blob}")
        paths += files
        if files:
            losses.append(f"track file {blob} is damaged, {left_out} of its packets are left out")
        else:
            losses.append(f"track file {blob} cannot be read and is left out")
    return paths, losses


def _write_pieces(reader: Reader, blob: int, path: Path) -> tuple[list[range], bool]:
    """Write what is left of a track file, each piece at its position.

    Returns the byte ranges that are missing, and whether everything is there and unchanged.
    """
    end, intact = 0, True
    holes: list[range] = []
    with path.open("wb") as file:
        for piece, whole in reader.track_parts(blob):
            if piece.position > end:
                holes.append(range(end, piece.position))
            file.seek(piece.position)
            file.write(piece.data)
            end, intact = piece.end, intact and whole
    return holes, intact and not holes
