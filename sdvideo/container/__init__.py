"""The .sdv file format: written without seeking, read at random, readable after damage.

    with open("clip.sdv", "wb") as file:
        writer = Writer(file, header)
        writer.write_group(Group(0, (CodedFrame(pts=0, duration=1, kind=KEY, step=40, data=b"..."),)))
        writer.finish()
    with Reader("clip.sdv") as reader:
        frames = [frame for number in range(len(reader.groups)) for frame in reader.read_group(number).frames]

Specification, version 2.0
==========================
Two chapters are the docstrings of the modules that implement them: `header.py` (the JSON header) and `group.py`
(groups of pictures, and the variable-length integers varint and svarint). The words MUST, MUST NOT, SHOULD and MAY are
those of RFC 2119. All fixed-length integers are little-endian and unsigned; u8, u16, u32, u64 have 1, 2, 4, 8 bytes.
crc32 is that of zlib and PNG (reflected polynomial 0xEDB88320, initial value and final xor 0xFFFFFFFF). Offsets are in
bytes from the start of the file.

File (implemented in `preamble.py` up to the crc)
    u8[8]  magic     89 53 44 56 0D 0A 1A 0A: a byte with its high bit set, "SDV", and line ends that any
                     transfer in text mode changes
    u16    major     2. A reader MUST reject a major version that it does not know.
    u16    minor     0. A higher minor version only adds what readers skip: header keys and lower-case chunks.
    u32    length    bytes of the header as it is stored, 2 to 1048576
    ...    header    JSON, usually deflated, see `header.py`
    u32    crc       crc32 of all bytes before it
    ...    chunks    directly one after another, up to the end of the file

Chunk (`chunk.py`)
    u8[4]  kind      four ASCII letters. If the first is upper-case, a reader that does not know the kind MUST
                     reject the file; if it is lower-case, the reader MUST skip the chunk.
    u32    size      bytes of the payload, 0 to 268435456
    ...    payload
    u32    crc       crc32 of kind, size and payload

    A reader MUST compare every size with the real size of the file before it allocates anything by it.
    Rationale: a chunk costs 12 bytes, and limits damage to itself. The kinds of version 2.0 follow.

GRUP: a closed group of pictures (`group.py`)
    The payload is specified in `group.py`. Groups MUST follow each other in time: the number of the first frame is
    the number of frames in all groups before, and the first pts is above every pts before. A group MUST be
    decodable alone, with nothing but the header. Rationale for the number: after damage, the remaining groups keep
    their places.

TRAK: a piece of a track file (`track_piece.py`)
    u8     blob      number of the track file, an index into the header's "blobs"
    u64    position  of the piece in the track file: the total size of its pieces before this one
    ...    piece     1 to 1048576 bytes
    The pieces of a blob, in file order, are a plain MP4 or Matroska file with the copied audio and subtitle
    streams. Pieces MAY be anywhere before, between and after the groups.

indx: the seek index (`index.py`)
    Optional, because a scan can rebuild it. If it is present, it MUST be directly before ENDS. For each group:
    varint   gap     bytes from the end of the previous group's chunk (for the first group: of the header's crc)
                     to this group's chunk
    varint   size    bytes of the payload of the GRUP chunk
    varint   count   frames in the group
    svarint  pause   first pts minus the end of the previous group (for the first group: minus 0)
    varint   span    end of the group minus its first pts; the end is pts + duration of its last frame
    A reader that opens a file by its index MUST walk the chunks in the gaps, because one of them may have to be
    understood, and MUST compare every group that it reads with its entry.

ENDS: the end chunk (`index.py`)
    u64    frames    number of frames in the file
    u32    groups    number of GRUP chunks
    u32    check     crc32 of the crc fields (4 bytes each, as in the file) of all GRUP and TRAK chunks in
                     file order
    u64    index     offset of the indx chunk, 0 if there is none
    It MUST be the last chunk. With a fixed length of 36 bytes, it is found from the end of the file. A file without it
    is unfinished or cut short; readers SHOULD present its whole groups. Rationale: a writer never has to seek back.

Frame data
    Opaque to the container. The header's "base" names the codec; the docstrings of its modules specify the data.
    * Base "none", in `sdvideo/codecs/latent/`: `coding/frame_syntax.py` (which values are coded, in which order) and
      `coding/range_coder.py` (the probability tables and the range coder). The header's "coder" tells which table each
      value has and what the values are: "context-1" `coding/context_model.py` and `quantizers/uniform.py`, "plain-1"
      `coding/adaptive_coder.py` and `quantizers/uniform.py`, "bytes-1" `quantizers/byte.py`, "palette-1"
      `quantizers/palette.py`. `frame_codec.py` has the prediction loop, `upscaling.py` what a "scale" below 1 adds.
    * Base "av1", in `sdvideo/codecs/av1/`: `bitstream.py`, `header_compression.py` and `arithmetic_coder.py`. The
      restoration network is specified in `sdvideo/restoration/network.py`.
"""

from .group import KEY, PREDICTED, CodedFrame, Group, pack_group, unpack_group
from .header import Header, ModelId
from .index import GroupEntry
from .reader import Reader, verify
from .recovery import Damage
from .writer import Writer

__all__ = [
    "KEY",
    "PREDICTED",
    "CodedFrame",
    "Damage",
    "Group",
    "GroupEntry",
    "Header",
    "ModelId",
    "Reader",
    "Writer",
    "pack_group",
    "unpack_group",
    "verify",
]
