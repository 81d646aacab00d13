"""The preamble of an .sdv file: magic, version, stored header, CRC. `container/__init__.py` has the specification.

`HEADER_DICTIONARY` is part of the format: it is the preset dictionary of deflated headers, see `header.py`.
"""

from __future__ import annotations

import os
import struct
import zlib

from sdvideo.errors import DamagedError, FormatError

from .chunk import ChunkFile
from .header import Header, pack_header, unpack_header

MAGIC = bytes.fromhex("89 53 44 56 0D 0A 1A 0A")
MAJOR, MINOR = 2, 0
MAX_HEADER = 2**20  # bytes, both as it is stored and as JSON

_PREAMBLE = struct.Struct("<8sHHI")
_CRC = struct.Struct("<I")
_DEFLATED = b"\x01"  # first byte of a deflated header

# Normative: changing one byte makes all existing files unreadable. Deflate encodes near matches in fewer bits, so the
# texts that are most common in headers stand at the end.
HEADER_DICTIONARY = (
    b'"frames":1,"icc":"eJx","rotation":-90,"full_range":true,"sar":[4,3],[16,11],[1001,[1,16000],[1,15360],[1,90000],'
    b'"subtitle","codec":"mov_text","language":"eng","blob":1,"index":1},"subrip","opus","flac","ac3","mp3","vorbis",'
    b'"matroska"],"chapters":[{"start":0,"end":1000,"time_base":[1,1000],"title":"Chapter 1"},'
    b'"metadata":{"title":"","artist":"","comment":"","date":"","timecode":"creation_time":"description":"copyright":'
    b'"keyint":"scale":"size":"bitrate":"quantizer":"palette","quality":null,"best","fast"},"base":"none",'
    b'"coder":"context-1","model":{"name":"embedded","revision":"2026-11-28",'
    b'"sha256":"c1596305c469895e12f9e49c14e9128ad5bb6a29755cba0eda7d3cce3bcef89b"},'
    b'"latent":{"channels":384,"block":16},"scale":[2,3],"scale":[1,2],"restorer":{"name":"restore"'
    b'{"sdv":{"writer":"sdvideo 0.1.0"},"video":{"width":1920,"height":1080,"time_base":[1,12800],"rate":[30000,1001],'
    b'"rate":[30,1],"rate":[25,1],"frames":250,"colour":{"matrix":6,"primaries":6,"transfer":6}},'
    b'"colour":{"matrix":1,"primaries":1,"transfer":1}},"blobs":["mp4"],"tracks":[{"kind":"audio","codec":"aac",'
    b'"language":"und","blob":0,"index":0}],"base":"av1","model":{"name":"restore","revision":"2026-11-28b",'
    b'"sha256":"fad14cc29baef8306e45b4ca7dc5a0491e62ae9a5efd7ad3d2a8bf169a955b07"},'
    b'"settings":{"preset":"fast"}}"settings":{"quality":40.0}}'
)


def is_sdv(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins like an .sdv file. Raises OSError if it cannot be read."""
    with open(path, "rb") as file:
        return file.read(4) == MAGIC[:4]


def pack_preamble(header: Header) -> bytes:
    """Everything before the first chunk. Raises FormatError if the header is not valid or longer than 1 MiB."""
    text = deflate_header(pack_header(header))
    data = _PREAMBLE.pack(MAGIC, MAJOR, MINOR, len(text)) + text
    return data + _CRC.pack(zlib.crc32(data))


def deflate_header(text: bytes) -> bytes:
    """A JSON header in its deflated form. Raises FormatError if the text is longer than 1 MiB."""
    if len(text) > MAX_HEADER:
        raise FormatError(f"header: it has {len(text)} bytes, more than {MAX_HEADER}")
    pack = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, zdict=HEADER_DICTIONARY)
    return _DEFLATED + pack.compress(text) + pack.flush()


def inflate_header(data: bytes) -> bytes:
    """The JSON text of a stored header, whether it is deflated or plain.

    Raises FormatError if it is deflated and is not one whole deflate stream of up to 1 MiB of text.
    """
    if data[:1] != _DEFLATED:
        return data
    unpack = zlib.decompressobj(-zlib.MAX_WBITS, zdict=HEADER_DICTIONARY)
    try:
        text = unpack.decompress(data[1:], MAX_HEADER + 1)
    except zlib.error as error:
        raise FormatError(f"header: cannot be inflated: {error}") from error
    if not unpack.eof or unpack.unused_data or len(text) > MAX_HEADER:
        raise FormatError(f"header: is not one whole deflate stream of up to {MAX_HEADER} bytes of text")
    return text


def read_preamble(file: ChunkFile) -> tuple[Header, int]:
    """The header of a file, and the offset of its first chunk.

    Raises FormatError if this is not an .sdv file that this version reads, DamagedError if it is cut short or changed.
    """
    fixed = file.read(0, _PREAMBLE.size)
    if fixed[:4] != MAGIC[:4]:
        raise FormatError("not an .sdv file")
    if len(fixed) < _PREAMBLE.size:
        raise DamagedError(f"the file ends after {len(fixed)} bytes, within its header")
    magic, major, minor, length = _PREAMBLE.unpack(fixed)
    if magic != MAGIC:
        raise DamagedError("the line ends in the first 8 bytes were changed, as by a transfer in text mode")
    if major != MAJOR:
        age = "a newer" if major > MAJOR else "an unknown"
        raise FormatError(f"made by {age} sdvideo (format {major}.{minor}); this version reads {MAJOR}.x")
    if not 2 <= length <= MAX_HEADER:
        raise FormatError(f"header: its length is {length} bytes, must be 2 to {MAX_HEADER}")
    data = file.read(0, _PREAMBLE.size + length + _CRC.size)
    if len(data) < _PREAMBLE.size + length + _CRC.size:
        raise DamagedError(f"the file ends after {len(data)} bytes, within its header")
    if _CRC.pack(zlib.crc32(data[:-4])) != data[-4:]:
        raise DamagedError("the CRC of the header does not match")
    return unpack_header(inflate_header(data[_PREAMBLE.size : -4])), len(data)
