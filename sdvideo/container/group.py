"""One closed group of pictures as the payload of a `GRUP` chunk (a chapter of the .sdv specification).

The words MUST, SHOULD and MAY are those of RFC 2119. `container/__init__.py` has the rest of the specification, and
`varint.py` implements the numbers.

Numbers
    varint   unsigned LEB128: 7 bits per byte, least significant first, top bit set on all bytes but the last.
             1 to 9 bytes, so 0 to 2^63 - 1; the shortest form MUST be used (its last byte is
             not 0x00, unless it is the only one).
    svarint  a signed number n as the varint 2n (n >= 0) or -2n - 1 (n < 0): "zig-zag".

Payload of a group
    varint   first      number of the group's first frame in the file, from 0; up to 2^40 - 1
    svarint  start      pts of the first frame, in units of the header's time_base, |pts| < 2^60
    varint   count      number of frames, 1 to 65535
    varint   delta      default pts distance from one frame to the next
    svarint  surplus    default duration of a frame, minus delta
    count times an entry of the frame table, in order of pts:
        varint  2 * length + marked        length: bytes of frame data; marked: 0 or 1
        u8      flags                      only if marked is 1, otherwise flags are 1:
            bits 0-1  kind                 0 key frame, 1 predicted from earlier frames of this group;
                                           2 and 3 are reserved
            bit 2     own time             the frame does not have the default delta and duration; its own follow
            bit 3     own step             the step byte differs from that of the frame before (for the first
                                           frame: from 0) and follows
            bits 4-7                       reserved, MUST be 0
        varint  delta                      only with bit 2, not for the first frame: pts minus that of the frame before
        varint  duration                   only with bit 2
        u8      step                       only with bit 3: step index of the quantizer, 0 to 255; without bit 3 that
                                           of the frame before (for the first frame: 0)
    the frame data of all frames, in the same order, back to back, up to the end of the payload

    The first frame MUST be a key frame, pts MUST increase strictly, durations are 0 (not known) to 2^60 - 1.
    A reader MUST reject a group that breaks any of this, whose lengths do not add up to exactly the remaining
    bytes of the payload, or that uses reserved values. Rationale: a frame of a steady group costs one or two bytes
    beside its data; at 15 kbit/s and 25 frames per second, 16 bytes would be a fifth of the file.

Frame data
    The coded form of one frame: bytes to the container. The header's "base" and "coder" tell which codec they are
    for; "Frame data" in `container/__init__.py` tells where that codec is specified.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from sdvideo.errors import DamagedError, FormatError

from .varint import put_svarint, put_varint, take_svarint, take_varint

KEY, PREDICTED = 0, 1

MAX_FRAMES = 65535
MAX_FIRST = 2**40 - 1
MAX_TIME = 2**60 - 1

_OWN_TIME, _OWN_STEP = 4, 8


@dataclass(frozen=True, slots=True)
class CodedFrame:
    """One coded frame.

    pts, duration: in units of the stream's time_base; |pts| < 2^60, duration 0 (not known) to 2^60 - 1.
    kind: KEY or PREDICTED. step: step index of the quantizer, 0 to 255. data: frame data, opaque to the container.
    """

    pts: int
    duration: int
    kind: int
    step: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Group:
    """A closed group of 1 to 65535 frames. first: number of its first frame in the file, 0 to 2^40 - 1."""

    first: int
    frames: tuple[CodedFrame, ...]

    @property
    def start_pts(self) -> int:
        """pts of the first frame."""
        return self.frames[0].pts

    @property
    def end_pts(self) -> int:
        """pts + duration of the last frame: its pts if its duration is not known."""
        return self.frames[-1].pts + self.frames[-1].duration


def pack_group(group: Group) -> bytes:
    """A group as the payload of a GRUP chunk. Raises FormatError if the group breaks a rule of the format."""
    if fault := _fault(group):
        raise FormatError(f"cannot write the group: {fault}")
    frames = group.frames
    deltas = [current.pts - previous.pts for previous, current in pairwise(frames)]
    default_delta, default_duration = _default_time(frames, deltas)
    table = bytearray()
    put_varint(table, group.first)
    put_svarint(table, group.start_pts)
    put_varint(table, len(frames))
    put_varint(table, default_delta)
    put_svarint(table, default_duration - default_delta)
    step = 0
    for frame, delta in zip(frames, [None, *deltas]):
        own_time = frame.duration != default_duration or delta not in (None, default_delta)
        own_step = frame.step != step
        flags = frame.kind | _OWN_TIME * own_time | _OWN_STEP * own_step
        marked = flags != PREDICTED
        put_varint(table, 2 * len(frame.data) + marked)
        if marked:
            table.append(flags)
        if own_time:
            if delta is not None:
                put_varint(table, delta)
            put_varint(table, frame.duration)
        if own_step:
            table.append(frame.step)
            step = frame.step
    return b"".join([table, *(frame.data for frame in frames)])


def unpack_group(payload: bytes) -> Group:
    """Read a group from the payload of a GRUP chunk. Raises DamagedError if it is not exactly one valid group."""
    first, at = take_varint(payload, 0)
    pts, at = take_svarint(payload, at)
    count, at = take_varint(payload, at)
    default_delta, at = take_varint(payload, at)
    surplus, at = take_svarint(payload, at)
    if not 1 <= count <= min(MAX_FRAMES, len(payload)):
        raise DamagedError(f"a group announces {count} frames in {len(payload)} bytes")
    step, total, table = 0, 0, []
    for number in range(count):
        delta, duration = default_delta, default_delta + surplus
        word, at = take_varint(payload, at)
        length, flags = word >> 1, PREDICTED
        if word & 1:
            flags, at = _take_byte(payload, at)
        if flags & _OWN_TIME:
            if number:
                delta, at = take_varint(payload, at)
            duration, at = take_varint(payload, at)
        if flags & _OWN_STEP:
            step, at = _take_byte(payload, at)
        pts += delta if number else 0
        total += length
        if flags >= 2 * _OWN_STEP:
            raise DamagedError(f"frame {first + number} has unknown flags ({flags})")
        table.append((pts, duration, flags & 3, step, length))
    if total != len(payload) - at:
        raise DamagedError(f"the frame table announces {total} bytes of frame data, but {len(payload) - at} follow")
    frames = []
    for pts, duration, kind, step, length in table:
        frames.append(CodedFrame(pts, duration, kind, step, bytes(payload[at : at + length])))
        at += length
    group = Group(first, tuple(frames))
    if fault := _fault(group):
        raise DamagedError(fault)
    return group


def _take_byte(payload: bytes, at: int) -> tuple[int, int]:
    if at >= len(payload):
        raise DamagedError("the frame table is cut off by the end of its group")
    return payload[at], at + 1


def _default_time(frames: tuple[CodedFrame, ...], deltas: list[int]) -> tuple[int, int]:
    """The most common (delta, duration) of a group; the first one of equally common pairs."""
    if not deltas:
        return frames[0].duration, frames[0].duration
    return Counter(zip(deltas, (frame.duration for frame in frames[1:]))).most_common(1)[0][0]


def _fault(group: Group) -> str | None:
    """Which rule of the format a group breaks, in words; None if it is valid."""
    if not 0 <= group.first <= MAX_FIRST:
        return f"its first frame has number {group.first}, not 0 to {MAX_FIRST}"
    if not 1 <= len(group.frames) <= MAX_FRAMES:
        return f"it has {len(group.frames)} frames, not 1 to {MAX_FRAMES}"
    if group.frames[0].kind != KEY:
        return "its first frame is not a key frame"
    last = -MAX_TIME - 1
    for number, frame in enumerate(group.frames, group.first):
        if frame.kind not in (KEY, PREDICTED):
            return f"frame {number} has the unknown kind {frame.kind}"
        if not 0 <= frame.step <= 255:
            return f"frame {number} has step {frame.step}, not 0 to 255"
        if not (-MAX_TIME <= frame.pts <= MAX_TIME and 0 <= frame.duration <= MAX_TIME):
            return f"frame {number} has pts {frame.pts} and duration {frame.duration}: out of range"
        if frame.pts <= last:
            return f"frame {number} has pts {frame.pts}, not above that of the frame before, {last}"
        last = frame.pts
    return None
