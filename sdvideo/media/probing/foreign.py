"""Says what files are that cannot be read, by their first bytes or their suffix, instead of FFmpeg's "invalid data"."""

from __future__ import annotations

import re
from pathlib import Path

from sdvideo.container.preamble import MAGIC

from .boxes import top_boxes

_RAW_VIDEO = frozenset((".yuv", ".i420", ".nv12", ".rgb", ".bgr", ".rgba", ".raw", ".v210", ".uyvy", ".gray"))
_RAW_PHOTO = frozenset(
    (".arw", ".cr2", ".cr3", ".dng", ".erf", ".iiq", ".kdc", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2")
)
_KINDS = (
    (re.escape(MAGIC[:4]), "an .sdv file already, not a video to encode"),
    (rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture, for which there is no decoder here; convert it to PNG"),
    (rb"(?i)\s*<(!doctype html|html|head)", "a web page, perhaps the error of a download"),
    (rb"\s*(<\?xml[^>]*>)?\s*(<!--.*?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg", "an SVG drawing; convert it to PNG"),
    (rb"%PDF", "a PDF document"),
    (rb"PK\x03\x04", "a ZIP archive; unpack it first"),
    (rb"Rar!|7z\xbc\xaf|\x1f\x8b", "an archive; unpack it first"),
    (rb"#EXTM3U", "a playlist, not the videos that it names"),
    (rb"\s*[{\[]\s*[\"{\[\]}]", "JSON text"),
)
_HEAD = 512  # bytes that tell


def foreign_kind(path: Path) -> str:
    """What a file is that is not to be given to FFmpeg, in words; or "".

    FFmpeg would read the preview in a raw photo, the text of a page, the other files of a playlist. Raises OSError.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        return "is an empty file"
    if path.suffix.lower() in _RAW_PHOTO:
        return f"is a raw photo ({path.suffix}), which has to be developed first; export it as a picture"
    return next((f"is {words}" for pattern, words in _KINDS if re.match(pattern, head, re.DOTALL)), "")


def unread_kind(path: Path) -> str:
    """What a file is that FFmpeg could not read, in words. Raises OSError."""
    if path.suffix.lower() in _RAW_VIDEO:
        return "holds raw pictures without a header: their size is not known; convert them to .y4m first"
    with path.open("rb") as file:
        kinds = {kind for kind, _, _ in top_boxes(file)}
    if b"mdat" in kinds and not kinds & {b"moov", b"moof", b"meta"}:
        return "is an MP4 without its index (moov): it is cut short, or its recording was not finished"
    return "not a video"
