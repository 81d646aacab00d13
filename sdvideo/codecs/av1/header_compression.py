"""What AV1 says anew for every picture, coded by what is expected of it: 3 to 5 bytes where it was 21.

SVT-AV1 codes a group by a plan: which picture comes when, and which ones it refers to. The payload of each OBU begins
with its part of that plan; quantiser and filters follow, which are much like those of the OBUs before; then comes what
is entropy-coded already. At the lowest rates these heads are a third of the bytes. So the first HEAD bytes of every
payload are taken out, coded bit by bit with a mixture of experts that learn on the way, and put before the data of the
group's first picture.

Frame data
    The temporal units of a group, each a row of OBUs in the low-overhead format of the AV1 specification (section 5.2),
    without temporal delimiters, become the data of its frames:
        first    varint plan, varint size, then as many bytes: the coded heads of all units; then the unit's rest
        others   the unit's rest: of each OBU's payload what is behind its head, one after the other

Coded heads
    One run of the binary arithmetic coder below. Unit after unit, and of each its OBUs, 1 to MOST_OBUS, bits of bytes
    from the highest on:
        byte    the first of the OBU's header, with has_size_field set only where another OBU of the unit follows
        byte    the second one of the header, where the first one says that there is one
        number  where another OBU follows: the size of the payload
        bit     else: is the payload shorter than HEAD? If not, it reaches to the end of the unit's rest
        number  if it is, its size
        bytes   the first HEAD of the payload, or as many as there are
    A number n >= 0 is coded as the bit length of n + 1, up to 32, in ones and a zero (without the first one, and after
    31 of them without the zero), then the bits of n + 1 below its highest.

Experts
    Each bit is coded with a probability from several experts, each of which knows one for every combination of the
    values it goes by. For the bits of bytes there are three:
        kind, place, and the bits of this byte before this one, under a leading 1
        kind, place, what the last OBU of this kind has around this place, and whether its last three bits before it are
        the same as here
        what the plan says of this bit, and about which of the last four bits it was right (at first: all); where it
        says nothing: kind, place, and the nine bits before this one
    place: which bit of the OBU it is, of header and payload, from 0 on. kind: 0 for the first 8 bits, then the first
    byte b, from place 16 on 256 b + the second byte; an OBU is the last one of each kind that it had in turn. What it
    has around a place are its bits at place - 1 to place + 2: zeros behind its end, at place -1 a one and before it
    zeros, here and wherever it is asked for bits before the first. The plan is number `plan` of weights/plans.bin,
    whose k-th entry says how the group's k-th OBU begins.
    For a single bit there are two: what is asked; and that, with the OBU's number in its unit. What is asked is one of
    the things above (the size, whether it is short, the size of a short one), for a number with the length that it has
    at least, or the length it has and its bits so far. `_Line.byte`, `_Heads._number` and `_Heads._asked` say how such
    values become one number, which is what weights/priors.bin is sorted by.

    A probability of a one is at first 32768 / 65536, and after it was asked for the n-th time moves by
        ((65535 * bit - it) * RATES[min(n, 30)]) >> 16,  n from 0 on.
    But for the values in weights/priors.bin it is what stands there, and n begins at PRIOR_COUNT.
    Votes are stretch(probability >> 4), and mixed by weights, at first AT_FIRST or ALIKE. For bytes there is a row of
    them for each kind and each byte of an OBU, one where the plan says something of it and one where it does not; else
    there is one for each thing asked:
        d = clamp(sum(weight * vote) >> 16, -2047, 2047)
        weight += (vote * (4096 * bit - squash(d)) * PACE + 32768) >> 16
    squash(d) = 4096 / (1 + exp(-d / 256)), with straight lines between the values of SQUASH, which are 128 apart;
    stretch(p) is the least d whose squash(d) is at least p. >> rounds down, here and below.
    Where a unit begins and there are probabilities for more than MOST_KNOWN values, they and the weights are as at
    first again.

Arithmetic coder
    It narrows low..high, at first 0..2^32 - 1. With middle = low + ((high - low) * squash(d) >> 12) a one leaves
    low..middle, a zero middle + 1..high. While both have the same highest byte, that is written, and 00 moves into low
    from below, ff into high. At the end come as few bytes as make, with zeros behind them, a number of low..high; a
    reader takes zeros for what is behind the last byte.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain, islice
from operator import mul
from typing import TypeAlias

import numpy as np

from sdvideo.container.varint import put_varint, take_varint
from sdvideo.errors import DamagedError, SinkError
from sdvideo.weights import HEADER_PLANS, HEADER_PRIORS

HEAD = 18  # bytes
MOST_OBUS = 16  # in a unit; SVT-AV1 makes 7
PRIOR_COUNT = 4
MOST_KNOWN = 2**17  # some 20 MB; priors.bin has 24,257, and 100 pictures add about 1,500
LONGEST_PLAN = 161  # pictures
SQUASH = (
    1, 2, 4, 6, 10, 17, 27, 45, 74, 120, 194, 311, 488, 747, 1102, 1546, 2048,
    2550, 2994, 3349, 3608, 3785, 3902, 3976, 4022, 4051, 4069, 4079, 4086, 4090, 4092, 4094, 4095,
)  # fmt: skip
RATES = (40960, *(131072 // (2 * n + 3) for n in range(1, 31)))
PACE = 160
AT_FIRST = (5900, 22600, 53700)  # weights of the experts for bytes, in 65536
ALIKE = (32768, 32768)

Plan: TypeAlias = "tuple[int, list[bytes]]"  # how many entries are those of its way's first plan; the others
Experts: TypeAlias = "defaultdict[int, tuple[int, int]]"  # by values: probability, how often it was asked for

_DELIMITER = 2  # a type of OBU
_HAS_EXTENSION, _HAS_SIZE = 4, 2
_LONGEST = 32  # bits of a number
_SIZE, _SHORT, _SHORT_SIZE, _SHIFT = 1, 2, 3, 39  # what is asked, above all that is said of it
_WIDTH = 8 * (HEAD + 3)  # room for the bits of an OBU, and some beyond its end
_ALL, _TOP = 0xFFFFFFFF, 0xFF000000


def pack_units(units: Sequence[bytes]) -> tuple[bytes, ...]:
    """The temporal units of a group as the data of its frames.

    Raises SinkError where one of them has no OBU, or more than MOST_OBUS.
    """
    plan, coded, rests = _taken(units)
    start = bytearray()
    put_varint(start, plan)
    put_varint(start, len(coded))
    return b"".join([start, coded, rests[0]]), *rests[1:]


def learned(groups: Iterable[Sequence[bytes]]) -> dict[int, tuple[int, int]]:
    """What experts that know nothing at first come to know from the units of several groups; see pack_priors."""
    experts = _experts({})
    for units in groups:
        _taken(units, experts)
    return experts


def _taken(units: Sequence[bytes], experts: Experts | None = None) -> tuple[int, bytes, list[bytes]]:
    """The plan of a group, its coded heads, and the rest of each unit."""
    rows = [obus(unit) for unit in units]
    if not all(1 <= len(row) <= MOST_OBUS for row in rows):
        raise SinkError(f"SVT-AV1 gave a unit of none or more than {MOST_OBUS} OBUs")
    plan = _closest_plan(rows)
    writer = _Writer()
    heads = _Heads(writer, plan, experts)
    rests = [heads.take(row) for row in rows]
    return plan, writer.finish(), rests


class Unpacker:
    """The inverse of pack_units, frame after frame."""

    def __init__(self):
        self._heads: _Heads | None = None

    def obus(self, data: bytes, first: bool) -> Iterator[bytes]:
        """The OBUs of the next unit, with their sizes, from the data of the next frame. first: of its group.

        Raises DamagedError where the data is not what pack_units makes.
        """
        if first:
            plan, at = take_varint(data, 0)
            size, at = take_varint(data, at)
            if plan >= len(_plans()) or size > len(data) - at:
                raise DamagedError("the heads of its AV1 data are cut off")
            self._heads = _Heads(_Reader(data[at : at + size]), plan)
            data = data[at + size :]
        if self._heads is None:
            raise DamagedError("a group does not begin with a key frame")
        return self._heads.give_back(data)


def obus(unit: bytes) -> list[tuple[bytes, bytes]]:
    """Header and payload of each OBU of a whole unit, but for a delimiter.

    has_size_field is as heads are coded: of all headers set but of the last one, wherever the unit has sizes.
    """
    found, at = [], 0
    while at < len(unit):
        first = at + (2 if unit[at] & _HAS_EXTENSION else 1)
        header, at, end = unit[at:first], first, len(unit)
        if header[0] & _HAS_SIZE:
            size, at = take_varint(unit, first)
            end = at + size
        if header[0] >> 3 & 15 != _DELIMITER:
            found.append((bytes([header[0] | _HAS_SIZE, *header[1:]]), unit[at:end]))
        at = end
    if found:
        header, payload = found.pop()
        found.append((bytes([header[0] & ~_HAS_SIZE, *header[1:]]), payload))
    return found


def _sized(header: bytes, payload: bytes) -> bytes:
    out = bytearray([header[0] | _HAS_SIZE, *header[1:]])
    put_varint(out, len(payload))
    return bytes(out + payload)


# --- what is expected ---------------------------------------------------------------------------------------


@cache
def _plans() -> list[Plan]:
    """For each way SVT-AV1 has to go about a group, for 1 to LONGEST_PLAN pictures."""
    return unpack_plans(HEADER_PLANS.read_bytes())


def _plan(number: int) -> Iterator[bytes]:
    """How OBUs begin, one after the other."""
    shared, others = _plans()[number]
    return chain(islice(_plans()[number - number % LONGEST_PLAN][1], shared), others)


def pack_plans(plans: Sequence[Plan]) -> bytes:
    """Plans as a file: how many entries are those of its way's first plan, which is the longest, how many others there
    are, and each of these after its length; varints, packed by zlib."""
    packed = bytearray()
    for shared, others in plans:
        put_varint(packed, shared)
        put_varint(packed, len(others))
        for entry in others:
            packed += bytes([len(entry)]) + entry
    return zlib.compress(packed, 9)


def unpack_plans(data: bytes) -> list[Plan]:
    """The inverse of pack_plans."""
    packed, at, plans = zlib.decompress(data), 0, []
    entries: dict[bytes, bytes] = {}  # there are not many different ones
    while at < len(packed):
        shared, at = take_varint(packed, at)
        count, at = take_varint(packed, at)
        others = []
        for _ in range(count):
            entry = packed[at + 1 : at + 1 + packed[at]]
            others.append(entries.setdefault(entry, entry))
            at += 1 + packed[at]
        plans.append((shared, others))
    return plans


def _experts(known: Mapping[int, tuple[int, int]]) -> Experts:
    return defaultdict(lambda: (32768, 0), known)


@cache
def _priors() -> dict[int, tuple[int, int]]:
    """What experts know from the start."""
    return unpack_priors(HEADER_PRIORS.read_bytes())


def pack_priors(experts: Mapping[int, tuple[int, int]]) -> bytes:
    """What experts came to know, of all that was asked PRIOR_COUNT times: the differences of the sorted values as u64,
    then the high byte of each probability, packed by zlib."""
    known = sorted((value, chance >> 8) for value, (chance, asked) in experts.items() if asked >= PRIOR_COUNT)
    values, chances = np.array(known, np.uint64).T
    return zlib.compress(np.diff(values, prepend=np.uint64(0)).astype("<u8").tobytes() + bytes(chances.tolist()), 9)


def unpack_priors(data: bytes) -> dict[int, tuple[int, int]]:
    """The inverse of pack_priors, each probability in the middle of what its high byte says."""
    packed = zlib.decompress(data)
    count = len(packed) // 9
    values = np.cumsum(np.frombuffer(packed, "<u8", count)).tolist()
    known = [(high << 8 | 128, PRIOR_COUNT) for high in range(256)]  # one of each, not one for each value
    return {value: known[high] for value, high in zip(values, packed[8 * count :])}


def _closest_plan(rows: Sequence[Sequence[tuple[bytes, bytes]]]) -> int:
    """The plan for so many pictures that is most like these OBUs; the longest ones are the first of each way."""
    begins = [header + payload[:HEAD] for row in rows for header, payload in row]
    place = len(rows) if len(rows) < LONGEST_PLAN else 0

    def fit(plan: int) -> int:
        return sum(begin.startswith(expected) for begin, expected in zip(begins, _plan(plan)))

    return max(range(place, len(_plans()), LONGEST_PLAN), key=fit)


# --- the heads ----------------------------------------------------------------------------------------------


class _Heads:
    """Takes the heads from the units of a group, one after the other, with a _Writer; gives them back with a _Reader.

    plan: its number; experts: what they know and learn for good; if not given, that is what priors.bin says and this
    group teaches.
    """

    def __init__(self, coder: _Writer | _Reader, plan: int, experts: Experts | None = None):
        self._code, self._plan = coder.bit, _plan(plan)
        self._experts, self._forgetful = experts, experts is None
        self._weights: dict[int, list[int]] = {}
        self._earlier: dict[int, int] = {}  # the bits of the last OBU of each kind

    def _begin(self) -> None:
        if self._forgetful and (self._experts is None or len(self._experts) > MOST_KNOWN):
            self._experts, self._weights = _experts(_priors()), {}

    def take(self, row: Sequence[tuple[bytes, bytes]]) -> bytes:
        """Code the heads of a unit's OBUs, see obus; gives the unit's rest."""
        self._begin()
        for number, obu in enumerate(row):
            self._obu(number, *obu)
        return b"".join(payload[HEAD:] for _, payload in row)

    def give_back(self, rest: bytes) -> Iterator[bytes]:
        """The OBUs of a unit, with their sizes. Raises DamagedError where its rest is not as long as they say."""
        self._begin()
        for number in range(MOST_OBUS):
            header, head, size = self._obu(number)
            if size is None:
                size = len(head) + len(rest)
            behind = rest[: size - len(head)]
            payload, rest = head + behind, rest[len(behind) :]
            is_last = not header[0] & _HAS_SIZE
            if len(payload) != size or (behind and len(head) < HEAD):
                raise DamagedError("its AV1 data is cut off")
            yield _sized(header, payload)
            if is_last:
                return
        raise DamagedError(f"its AV1 data has more than {MOST_OBUS} OBUs")

    def _obu(self, number: int, header: bytes = b"\0\0", payload: bytes = b"") -> tuple[bytes, bytes, int | None]:
        """Header and head of the next OBU, and the size of its payload, None where that is not told.

        number: of it in its unit; header, payload: its own, where they are known.
        """
        line = _Line(self, next(self._plan, b""))
        found = bytearray([line.byte(header[0])])
        if found[0] & _HAS_EXTENSION:
            found.append(line.byte(header[1]))
        size = None
        if found[0] & _HAS_SIZE:
            size = self._number(_SIZE, number, len(payload))
        elif self._asked(_SHORT << _SHIFT, number, len(payload) < HEAD):
            size = min(self._number(_SHORT_SIZE, number, len(payload)), HEAD - 1)
        length = HEAD if size is None else min(size, HEAD)
        head = bytes([line.byte(byte) for byte in islice(payload or bytes(length), length)])
        line.end()
        return bytes(found), head, size

    def _number(self, what: int, number: int, value: int) -> int:
        """Code a value, or find out which it is."""
        what, length = what << _SHIFT, 1
        while length < _LONGEST and self._asked(what | length << 33, number, (value + 1).bit_length() > length):
            length += 1
        found = 1
        for at in range(length - 2, -1, -1):
            found = 2 * found + self._asked(what | length << 33 | found, number, (value + 1) >> at & 1)
        return found - 1

    def _asked(self, what: int, number: int, bit: int) -> int:
        """Code one bit, or find out which it is, by what is asked of the number-th OBU of a unit."""
        row = self._weights.setdefault(what, list(ALIKE))
        return self._voted((what << 3 | 5, (what << 4 | number) << 3 | 6), row, bit)

    def _voted(self, values: Sequence[int], weights: list[int], bit: int) -> int:
        """Code one bit, or find out which it is, by the experts for these values."""
        experts = [self._experts[value] for value in values]
        votes = [_STRETCHED[chance >> 4] for chance, _ in experts]
        mixed = sum(map(mul, weights, votes)) >> 16
        chance = _SQUASHED[mixed if -2047 < mixed < 2047 else -2047 if mixed < 0 else 2047]
        bit = self._code(chance, bit)
        error = ((bit << 12) - chance) * PACE
        weights[:] = [weight + ((vote * error + 32768) >> 16) for weight, vote in zip(weights, votes)]
        sure = 65535 * bit
        for value, (chance, asked) in zip(values, experts):
            self._experts[value] = chance + ((sure - chance) * RATES[asked] >> 16), asked + (asked < 30)
        return bit


class _Line:
    """The bits of one OBU, byte after byte."""

    def __init__(self, heads: _Heads, plan: bytes):
        self._heads, self._kinds, self._kind, self._earlier = heads, [], 0, 0
        self._place, self._bits = 0, 1
        self._plan, self._planned, self._right = int.from_bytes(plan, "big"), 8 * len(plan), 15

    def byte(self, byte: int) -> int:
        """Code the next byte, or find out which it is."""
        heads, kind, earlier, place, bits = self._heads, self._kind, self._earlier, self._place, self._bits
        known = place < self._planned
        row = heads._weights.setdefault((kind << 8 | place) << 1 | known, list(AT_FIRST))
        partial = 1
        for at in range(7, -1, -1):
            here = (kind << 8 | place) << 3
            if known:
                expected = self._plan >> (self._planned - 1 - place) & 1
                planned = (self._right << 1 | expected) << 3 | 3
            else:
                planned = here << 9 | (bits & 511) << 3 | 4
            values = (
                here << 8 | partial << 3 | 1,
                here << 8 | _before(earlier, place, bits) << 3 | 2,
                planned,
            )
            bit = heads._voted(values, row, byte >> at & 1)
            if known:
                self._right = self._right << 1 & 15 | (bit == expected)
            partial, bits, place = partial << 1 | bit, bits << 1 | bit, place + 1
        self._place, self._bits = place, bits
        if place <= 16:
            self._kind = bits & 255 if place == 8 else bits & 65535
            self._kinds.append(self._kind)
            self._earlier = heads._earlier.get(self._kind, 0)
        return partial & 255

    def end(self) -> None:
        whole = self._bits << (_WIDTH - self._place)
        for kind in self._kinds:
            self._heads._earlier[kind] = whole


def _before(earlier: int, place: int, bits: int) -> int:
    """What an earlier OBU has around a place, and whether it is the same as this one before it, of which these are the
    bits: 1..32, 0 without an earlier one."""
    if not earlier:
        return 0
    around = earlier >> (_WIDTH - 3 - place)
    return 1 + ((around & 15) << 1 | ((around >> 3 ^ bits) & 7 == 0))


# --- the arithmetic coder -----------------------------------------------------------------------------------


class _Writer:
    """Bits to bytes."""

    def __init__(self):
        self._low, self._high, self._out = 0, _ALL, bytearray()

    def bit(self, chance: int, bit: int) -> int:
        """Write a bit, that is a one in `chance` of 4096 cases, 1 to 4095; gives it."""
        middle = self._low + ((self._high - self._low) * chance >> 12)
        if bit:
            self._high = middle
        else:
            self._low = middle + 1
        while not (self._low ^ self._high) & _TOP:
            self._out.append(self._high >> 24)
            self._low, self._high = self._low << 8 & _ALL, self._high << 8 & _ALL | 255
        return bit

    def finish(self) -> bytes:
        for size in range(5):
            left = 32 - 8 * size
            if (number := -(-self._low >> left)) << left <= self._high:
                return bytes(self._out + number.to_bytes(size, "big")).rstrip(b"\0")
        raise AssertionError("low is above high")


class _Reader:
    """Bytes to bits, the inverse of _Writer."""

    def __init__(self, data: bytes):
        self._low, self._high, self._data = 0, _ALL, iter(data)
        self._value = 0
        for _ in range(4):
            self._value = self._value << 8 | next(self._data, 0)

    def bit(self, chance: int, _: int = 0) -> int:
        """The next bit, which is a one in `chance` of 4096 cases."""
        middle = self._low + ((self._high - self._low) * chance >> 12)
        bit = int(self._value <= middle)
        if bit:
            self._high = middle
        else:
            self._low = middle + 1
        while not (self._low ^ self._high) & _TOP:
            self._low, self._high = self._low << 8 & _ALL, self._high << 8 & _ALL | 255
            self._value = self._value << 8 & _ALL | next(self._data, 0)
        return bit


def _squashed(d: int) -> int:
    step, along = divmod(d + 2048, 128)
    return (SQUASH[step] * (128 - along) + SQUASH[step + 1] * along + 64) >> 7


_RISING = [_squashed(d) for d in range(-2047, 2048)]
_SQUASHED = _RISING[2047:] + _RISING[:2047]  # from 0 on, negative ones from the end
_STRETCHED = [min(bisect_left(_RISING, p), 4094) - 2047 for p in range(4096)]
