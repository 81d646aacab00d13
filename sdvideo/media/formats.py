"""File formats by suffix: what outputs can be, and which files are taken from folders that are given as inputs.

It imports neither PyAV nor Pillow, since the command line starts with it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, TypeAlias, Union

from sdvideo.errors import SinkError

# Where an output goes: a file name, "-" for standard output, or an open binary file.
Destination: TypeAlias = Union[str, "os.PathLike[str]", BinaryIO]

# Videos that can be written. The values are FFmpeg's muxers, except that sink.py writes y4m.
VIDEO_OUTPUTS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".y4m": "y4m"}
MUXERS = frozenset(VIDEO_OUTPUTS.values()) - {"y4m"}
# Pictures that can be written. The values are Pillow's names.
PICTURE_OUTPUTS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
_OUTPUTS = VIDEO_OUTPUTS | PICTURE_OUTPUTS

# Made by cameras, recorders, editors and the web, and hardly used for anything else.
VIDEO_SUFFIXES = frozenset(VIDEO_OUTPUTS) | frozenset(
    (
        ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".h264", ".h265", ".hevc", ".ivf", ".m2ts",
        ".m2v", ".mj2", ".mjpeg", ".mjpg", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".rm", ".rmvb", ".ts",
        ".vob", ".webm", ".wmv",
    )
)  # fmt: skip
PICTURE_SUFFIXES = frozenset(PICTURE_OUTPUTS) | frozenset(
    (
        ".apng", ".avif", ".bmp", ".dpx", ".exr", ".gif", ".heic", ".heif", ".hif", ".j2k", ".jfif", ".jp2", ".pgm",
        ".pnm", ".ppm", ".psd", ".tga", ".tif", ".tiff",
    )
)  # fmt: skip
SDV_SUFFIXES = frozenset([".sdv"])


def file_name(destination: Destination) -> str | None:
    """The name of an output file; None for standard output and for an open file."""
    if not isinstance(destination, (str, os.PathLike)):
        return None
    name = os.fspath(destination)
    return None if name == "-" else name


def output_format(destination: Destination, suffix: str | None) -> str:
    """The format of an output, a value of VIDEO_OUTPUTS or PICTURE_OUTPUTS. Raises SinkError if it is unknown.

    suffix: the one to use instead of that of the name, without its dot. Without either, the format is MP4.
    """
    name = file_name(destination)
    if suffix is not None:
        found = f".{suffix}" if suffix else ""
    else:
        found = ".mp4" if name is None else Path(name).suffix.lower()
    if found not in _OUTPUTS:
        raise SinkError(f"{found or 'no suffix'}: the output must be one of {' '.join(_OUTPUTS)}")
    return _OUTPUTS[found]
