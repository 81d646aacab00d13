"""Variable-length integers: varint (unsigned) and svarint (signed), as specified in `group.py`."""

from __future__ import annotations

from sdvideo.errors import DamagedError


def put_varint(out: bytearray, value: int) -> None:
    """Append `value`, 0 to 2^63 - 1, as a varint."""
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)


def take_varint(data: bytes, at: int) -> tuple[int, int]:
    """Read the varint at offset `at`. Returns its value and the offset of the byte after it.

    Raises DamagedError if it is cut off, longer than 9 bytes or not in its shortest form.
    """
    if at < len(data) and data[at] < 128:  # fast path: nearly all varints have one byte, and reading them takes time
        return data[at], at + 1
    value = shift = 0
    for end in range(at, min(at + 9, len(data))):
        byte = data[end]
        value |= (byte & 127) << shift
        if byte < 128:
            if byte == 0 and shift:
                raise DamagedError("a number is not in its shortest form")
            return value, end + 1
        shift += 7
    raise DamagedError("a number is cut off or longer than 9 bytes")


def put_svarint(out: bytearray, value: int) -> None:
    """Append `value`, -2^62 to 2^62 - 1, as a svarint."""
    put_varint(out, 2 * value if value >= 0 else -2 * value - 1)


def take_svarint(data: bytes, at: int) -> tuple[int, int]:
    """Read the svarint at offset `at`. Returns and raises as `take_varint`."""
    value, at = take_varint(data, at)
    return (value >> 1) ^ -(value & 1), at
