"""One closed group of pictures as the payload of a `GRUP` chunk (a chapter of the .sdv specification).

The words MUST, SHOULD and MAY are those of RFC 2119. `container.py` holds the rest of the specification.

Numbers
    varint   unsigned LEB128: 7 bits per byte, least significant first, top bit set on all bytes but the last.
             1 to 9 bytes, so 0 to 2^63 - 1; the shortest form MUST be used (its last byte is
             not 0x00, unless it is the only one).
    svarint  a signed number n as the varint 2n (n >= 0) or -2n - 1 (n < 0): "zig-zag".

Payload of a group
    varint   first      number of the group's first frame in the file, from 0; up to 2^40 - 1
    svarint  start      pts of the first frame, in units of the header's time_base, |pts| < 2^60
    varint   count      number of frames, 1 to 65535
    varint   delta      the usual pts distance from one frame to the next
    svarint  surplus    the usual duration of a frame, minus delta
    count times an entry of the frame table, in order of pts:
        varint  2 * length + marked        length: bytes of frame data; marked: 0 or 1
        u8      flags                      only if marked, else they are 1:
            bits 0-1  kind                 0 key frame, 1 predicted from earlier frames of this group;
                                           2 and 3 are reserved
            bit 2     own time             the frame's time is not the usual one and follows
            bit 3     own step             the quantiser step is not that of the frame before (for the first
                                           frame: not 0)
            bits 4-7                       0, others are reserved
        varint  delta                      only with bit 2, not for the first frame: pts minus the pts before
        varint  duration                   only with bit 2
        u8      step                       only with bit 3: index of the quantiser step, 0 to 255
    the frame data of all frames, in the same order, back to back, up to the end of the payload

    The first frame MUST be a key frame, pts MUST increase strictly, durations are 0 (not known) to 2^60 - 1.
    A reader MUST reject a group that breaks any of this, whose lengths do not add up to exactly the bytes
    that are there, or that uses reserved bits. Rationale: a frame of a steady group costs one or two bytes
    beside its data; at 15 kbit/s and 25 frames per second, 16 bytes would be a fifth of the file.

Frame data
    The coded words of one frame. **Their meaning is specified by the docstring of `sdvideo/entropy.py`** and
    named by the header's "coder"; to the container they are bytes.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass

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
    kind: KEY or PREDICTED. step: index of the quantiser step, 0 to 255. data: the coded words, opaque here.
    """

    pts: int
    duration: int
    kind: int
    step: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Group:
    """A closed group of 1 to 65535 pictures. first: number of its first frame in the file, 0 to 2^40 - 1."""

    first: int
    frames: tuple[CodedFrame, ...]

    @property
    def start_pts(self) -> int:
        return self.frames[0].pts

    @property
    def end_pts(self) -> int:
        """Where the last frame ends; its own pts if its duration is not known."""
        return self.frames[-1].pts + self.frames[-1].duration


def pack_group(group: Group) -> bytes:
    """A group as the payload of a GRUP chunk. Raises FormatError if a field is outside its range."""
    if fault := _fault(group):
        raise FormatError(f"cannot write the group: {fault}")
    frames = group.frames
    deltas = [after.pts - before.pts for before, after in itertools.pairwise(frames)]
    usual_delta, usual_duration = _usual_time(frames, deltas)
    table = bytearray()
    put_varint(table, group.first)
    put_svarint(table, group.start_pts)
    put_varint(table, len(frames))
    put_varint(table, usual_delta)
    put_svarint(table, usual_duration - usual_delta)
    step = 0
    for frame, delta in zip(frames, [None, *deltas]):
        own_time = frame.duration != usual_duration or delta not in (None, usual_delta)
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
    """The group in the payload of a GRUP chunk. Raises DamagedError if it is not exactly one valid group."""
    first, at = take_varint(payload, 0)
    pts, at = take_svarint(payload, at)
    count, at = take_varint(payload, at)
    usual_delta, at = take_varint(payload, at)
    surplus, at = take_svarint(payload, at)
    if not 1 <= count <= min(MAX_FRAMES, len(payload)):
        raise DamagedError(f"a group of {count} frames, in {len(payload)} bytes")
    step, total, table = 0, 0, []
    for number in range(count):
        delta, duration = usual_delta, usual_delta + surplus
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
            raise DamagedError(f"frame {first + number} has the unknown flags {flags}")
        table.append((pts, duration, flags & 3, step, length))
    if total != len(payload) - at:
        raise DamagedError(f"the frame table promises {total} bytes of data, but {len(payload) - at} follow")
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
        raise DamagedError("the frame table runs past the end of its group")
    return payload[at], at + 1


def _usual_time(frames: tuple[CodedFrame, ...], deltas: list[int]) -> tuple[int, int]:
    """The commonest (delta, duration) of a group; of equally common ones, the first."""
    if not deltas:
        return frames[0].duration, frames[0].duration
    return Counter(zip(deltas, (frame.duration for frame in frames[1:]))).most_common(1)[0][0]


def _fault(group: Group) -> str | None:
    """What is wrong with a group, in words, or None."""
    if not 0 <= group.first <= MAX_FIRST:
        return f"its first frame has number {group.first}, not 0 to {MAX_FIRST}"
    if not 1 <= len(group.frames) <= MAX_FRAMES:
        return f"it has {len(group.frames)} frames, not 1 to {MAX_FRAMES}"
    if group.frames[0].kind != KEY:
        return "its first frame is not a key frame"
    last = -MAX_TIME - 1
    for number, frame in enumerate(group.frames, group.first):
        if frame.kind not in (KEY, PREDICTED):
            return f"frame {number} is of the unknown kind {frame.kind}"
        if not 0 <= frame.step <= 255:
            return f"frame {number} has quantiser step {frame.step}, not 0 to 255"
        if not (-MAX_TIME <= frame.pts <= MAX_TIME and 0 <= frame.duration <= MAX_TIME):
            return f"frame {number} has pts {frame.pts} and duration {frame.duration}: out of range"
        if frame.pts <= last:
            return f"the pts of frame {number} is {frame.pts}, not above {last}, that of the frame before"
        last = frame.pts
    return None
