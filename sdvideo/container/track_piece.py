"""The payload of a TRAK chunk: a piece of a track file, specified in `container/__init__.py`."""

from __future__ import annotations

import struct
from typing import NamedTuple

from sdvideo.errors import DamagedError

MAX_PIECE = 2**20  # bytes

_PIECE = struct.Struct("<BQ")


class TrackPiece(NamedTuple):
    """A piece of a track file. blob: number of the track file; position: offset of the piece in it; data: its bytes."""

    blob: int
    position: int
    data: bytes

    @property
    def end(self) -> int:
        """Offset of the first byte after the piece, in the track file."""
        return self.position + len(self.data)


def pack_piece(piece: TrackPiece) -> bytes:
    """A piece as the payload of a TRAK chunk."""
    return _PIECE.pack(piece.blob, piece.position) + piece.data


def unpack_piece(payload: bytes, blobs: int) -> TrackPiece:
    """The piece in the payload of a TRAK chunk. blobs: number of track files that the header announces.

    Raises DamagedError if the piece is empty, larger than 1 MiB, or of a track file that the header does not announce.
    """
    if not _PIECE.size < len(payload) <= _PIECE.size + MAX_PIECE:
        raise DamagedError(f"a track piece has a payload of {len(payload)} bytes")
    blob, position = _PIECE.unpack_from(payload)
    if blob >= blobs:
        raise DamagedError(f"a piece belongs to track file {blob}, but the header announces {blobs}")
    return TrackPiece(blob, position, payload[_PIECE.size :])
