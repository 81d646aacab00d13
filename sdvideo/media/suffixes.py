"""TODO docstring."""

from __future__ import annotations

# What is taken of a folder: files that cameras, recorders, editors and the web make, and that nobody names by accident.
VIDEOS = frozenset(
    (
        ".3g2", ".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov",
        ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m",
    )
)  # fmt: skip

PICTURES = frozenset(
    (".apng", ".avif", ".bmp", ".gif", ".j2k", ".jp2", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
)

CODED = frozenset([".sdv"])
