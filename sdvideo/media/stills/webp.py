"""Cut WebP animations: what is whole of a file that ends early, since Pillow's reader takes whole files only."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

_HEAD = struct.Struct("<4sI4s")  # "RIFF", the bytes that follow the size, "WEBP"
_CHUNK = struct.Struct("<4sI")


def whole_webp(file: BinaryIO) -> bytes | None:
    """The file without the frame in which it ends; None if it is whole, or has no whole frame. file: at its start."""
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size or (head[:4], head[8:]) != (b"RIFF", b"WEBP"):
        return None
    promised = _HEAD.unpack(head)[1] + 8
    if os.fstat(file.fileno()).st_size >= promised:
        return None
    data = head + file.read()
    at, frames = _HEAD.size, 0
    while at + _CHUNK.size <= len(data):
        kind, size = _CHUNK.unpack_from(data, at)
        end = at + _CHUNK.size + size + size % 2
        if end > len(data):
            break
        frames += kind == b"ANMF"
        at = end
    return _HEAD.pack(b"RIFF", at - 8, b"WEBP") + data[_HEAD.size : at] if frames else None
