"""Which streams belong together in an MPEG transport stream with several programs (ISO/IEC 13818-1); PyAV hides it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

_PACKET, _SYNC = 188, 0x47
_SEARCHED = 2**22  # bytes of the file; tables are repeated ten times a second
_PAT, _TABLES = 0, {"pat": 0x00, "pmt": 0x02}


def program_of(file: BinaryIO, stream: int) -> frozenset[int]:
    """The PIDs of the first program that has this stream; empty if no such program is found. stream: its PID."""
    data = file.read(_SEARCHED)
    maps: set[int] = set()
    for pid, section in _sections(data):
        if pid == _PAT and section[0] == _TABLES["pat"]:
            maps |= {_pid(section, at + 2) for at in range(8, _end(section), 4) if section[at] or section[at + 1]}
        elif pid in maps and section[0] == _TABLES["pmt"]:
            found = frozenset(_streams(section))
            if stream in found:
                return found
    return frozenset()


def _sections(data: bytes) -> Iterator[tuple[int, bytes]]:
    """PID and contents of each table that begins in a packet; one that is longer than the packet is not read."""
    step, start = _layout(data)
    for at in range(start, len(data) - _PACKET + 1, step):
        packet = data[at : at + _PACKET]
        begins, has_payload = packet[1] & 0x40, packet[3] & 0x10
        if packet[0] != _SYNC or not begins or not has_payload:
            continue
        payload = 5 + packet[4] if packet[3] & 0x20 else 4
        if payload < _PACKET - 1:
            section = packet[payload + 1 + packet[payload] :]
            if len(section) > 12 and _end(section) <= len(section):
                yield _pid(packet, 1), section


def _layout(data: bytes) -> tuple[int, int]:
    """Distance and start of the packets: 188 bytes, or 192 with a time before each (M2TS), or 204."""
    for step in (_PACKET, 192, 204):
        for start in range(step):
            marks = data[start : start + 8 * step : step]
            if len(marks) > 3 and set(marks) == {_SYNC}:
                return step, start
    return _PACKET, 0


def _streams(section: bytes) -> Iterator[int]:
    at, end = 12 + (section[10] << 8 & 0xF00 | section[11]), _end(section)
    while at + 5 <= end:
        yield _pid(section, at + 1)
        at += 5 + (section[at + 3] << 8 & 0xF00 | section[at + 4])


def _end(section: bytes) -> int:
    """Where the entries of a table end: before its checksum."""
    return 3 + (section[1] << 8 & 0xF00 | section[2]) - 4


def _pid(data: bytes, at: int) -> int:
    return (data[at] << 8 | data[at + 1]) & 0x1FFF
