"""The .sdv file: write it without seeking, read it from anywhere, survive damage.

    with open("clip.sdv", "wb") as file:
        writer = Writer(file, header)
        writer.write_group(Group(0, (CodedFrame(pts=0, duration=1, kind=KEY, step=40, data=b"..."),)))
        writer.finish()
    with Reader("clip.sdv") as reader:
        frames = [frame for number in range(len(reader.groups)) for frame in reader.read_group(number).frames]

Specification, version 2.0
==========================
Two chapters stand in the modules that implement them: `header.py` (the JSON header) and `group.py` (groups of
pictures, and the numbers called varint and svarint). The words MUST, MUST NOT, SHOULD and MAY are those of
RFC 2119. All integers are little-endian and unsigned; u8, u16, u32, u64 have 1, 2, 4, 8 bytes. crc32 is that
of zlib and PNG (reflected polynomial 0xEDB88320, initial value and final xor 0xFFFFFFFF). Offsets count bytes
from the start of the file.

File
    u8[8]  magic     89 53 44 56 0D 0A 1A 0A: a byte with its high bit set, "SDV", and line ends that any
                     transfer in text mode changes
    u16    major     2. A reader MUST reject a major version it does not know
    u16    minor     0. A higher minor version only adds what readers skip: header keys, lower-case chunks
    u32    length    bytes of the header as it is stored, 2 to 1048576
    ...    header    JSON, usually deflated, see `header.py`
    u32    crc       crc32 of all bytes before it
    ...    chunks    one directly after the other, up to the end of the file

Chunk
    u8[4]  kind      four ASCII letters. If the first is upper-case, a reader that does not know the kind MUST
                     reject the file; if it is lower-case, it MUST skip the chunk.
    u32    size      bytes of the payload, 0 to 268435456
    ...    payload
    u32    crc       crc32 of kind, size and payload

    A reader MUST check every size against the real size of the file before it allocates anything by it.
    Rationale: 12 bytes per chunk, and damage ends with the chunk. The kinds of version 2.0 follow.

GRUP: a closed group of pictures
    The payload is described in `group.py`. Groups MUST follow each other in time: the first frame's number is
    the number of frames in all groups before, the first pts is above every pts before. A group MUST be
    decodable alone, with nothing but the header. Rationale for the number: after damage, what is left keeps
    its place.

TRAK: a piece of a track file
    u8     blob      number of the track file, an index into the header's "blobs"
    u64    position  of the piece in the track file: the sum of the sizes of its pieces before this one
    ...    piece     1 to 1048576 bytes
    The pieces of a blob, in file order, are a plain MP4 or Matroska file with the copied audio and subtitle
    streams. Pieces MAY stand anywhere before, between and after the groups.

indx: the seek index
    Optional; a scan can rebuild it. If there is one, it MUST be directly before ENDS. For each group:
    varint   gap     bytes from the end of the chunk of the group before (for the first group: of the header's
                     crc) to this group's chunk
    varint   size    bytes of the payload of the GRUP chunk
    varint   count   frames in the group
    svarint  pause   first pts minus the end of the group before (for the first group: minus 0)
    varint   span    the group's end minus its first pts, where its end is pts + duration of its last frame
    A reader that opens a file by its index MUST walk the chunks in the gaps (one there may have to be
    understood), and MUST compare every group it reads with its entry.

ENDS: the end chunk
    u64    frames    number of frames in the file
    u32    groups    number of GRUP chunks
    u32    check     crc32 of the crc fields (4 bytes each, as in the file) of all GRUP and TRAK chunks in
                     file order
    u64    index     offset of the indx chunk, 0 if there is none
    It MUST be the last chunk. Being 36 bytes long, it is found from the end of the file. A file without it is
    unfinished or cut short; readers SHOULD present its whole groups. So a writer never has to seek back.

Frame data
    Bytes, to the container. **What they mean is specified, with base "none", by the docstrings of `symbols.py` (what
    is coded in which order), `context.py` and `plain.py` (under which probability tables, by the header's "coder"),
    `eightbit.py` (coder "bytes-1"), `palette.py` (coder "palette-1") and `entropy.py` (the tables and the range coder);
    with base "av1" by those of `base.py` and `heads.py`.**
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
