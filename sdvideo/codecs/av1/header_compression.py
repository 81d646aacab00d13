"""Compresses AV1's per-frame headers with an adaptive context-mixing model: 3 to 5 bytes per frame instead of 21.

SVT-AV1 codes a group by a plan: in which order it codes the pictures, and to which pictures each one refers. The
payload of each OBU begins with its part of that plan. The parameters of quantizer and filters follow, which are much
like those of previous OBUs; what comes after is entropy-coded already. At the lowest rates these frame headers are a
third of all bytes. So the first PREFIX_SIZE bytes of every payload are taken out, coded bit by bit with the contexts
below, and stored before the data of the group's first frame.

Frame data
    A group is a row of temporal units, one for each frame. A unit is a row of OBUs in the low-overhead format of the
    AV1 specification (section 5.2), without temporal delimiters. The rest of a unit is what its payloads have after
    their first PREFIX_SIZE bytes, one after the other. The data of the group's frames is:
        first    varint plan, varint size, then as many bytes, the coded headers of all units; then the unit's rest
        others   the unit's rest

Coded headers
    One run of the coder in `arithmetic_coder.py`. For each unit in turn, and for each of its 1 to MAX_OBUS OBUs, it
    codes the following; bytes from their highest bit on.
        byte    the first byte of the OBU header, with has_size_field set if and only if another OBU of the unit follows
        byte    the second byte of the OBU header, if the first one says that there is one
        number  if another OBU follows: the size of the payload
        bit     otherwise: one if the payload is shorter than PREFIX_SIZE; zero if it extends to the end of the unit's
                rest
        number  if it is shorter: its size
        bytes   the first PREFIX_SIZE bytes of the payload, or the whole payload if it is shorter
    A number n >= 0 is coded as the bit length L of n + 1, 1 to 32, and then the bits of n + 1 below its highest. L is
    coded as L - 1 ones and a zero; after 31 ones the zero is left out.

Contexts of a bit in a byte
    position: the number of the bit in its OBU, from 0 on; OBU header and payload are one row of bits.
    kind: 0 for the first 8 bits of an OBU; then its first byte b; from position 16 on, 256 b + its second byte.
    bits: all bits of this OBU before this one, below a leading 1.
    previous: from position 8 on, the last OBU before this one that had the same kind at any position from 8 on; zeros
        follow its bits. In the first 8 bits there is none.
    plan: the entries of plan number `plan` of weights/plans.bin, one for each OBU of the group in order. An entry is
        the expected beginning of OBU header and payload, and predicts each of these bits.
    With here = 8 * (256 * kind + position), the bit is coded in three contexts (<< binds tighter than |):
        1   here << 8 | partial << 3 | 1
                partial: the bits of this byte before this one, below a leading 1
        2   here << 8 | around << 3 | 2
                around: 0 if there is no previous OBU; otherwise 1 + 2 * w + e, where w is the previous OBU's bits at
                position - 1 to position + 2, and e is 1 if the three bits before this position are the same in both
                OBUs, else 0
        3   (right << 1 | predicted) << 3 | 3, if the plan predicts the bit as `predicted`
                right: for the last four predictions of this OBU, the last one lowest, 1 if it was right; 15 at first
            here << 9 | (bits & 511) << 3 | 4, if the plan does not predict it
    Their weights are at first BYTE_WEIGHTS. There is one row of weights for each kind and position at which a byte
    begins and for either case of context 3.

Contexts of other bits
    question: a number for what the bit means, with type 1 for the size of a payload that another OBU follows, 2 for
        whether a payload is shorter than PREFIX_SIZE, and 3 for the size of such a payload.
            type << 39                           the single bit of type 2
            type << 39 | length << 33            the unary code of L, after length - 1 ones
            type << 39 | L << 33 | known         the bits of n + 1; known: those before this one, the highest included
    The bit is coded in two contexts, where `number` is that of the OBU in its unit, from 0 on:
        question << 3 | 5
        (question << 4 | number) << 3 | 6
    Their weights are at first BIT_WEIGHTS. There is one row of weights for each question.

Initial state
    A group begins with the contexts in weights/priors.bin: their probabilities, and PRIOR_COUNT as their count. All
    other contexts begin as specified in `arithmetic_coder.py`. At the beginning of a unit, if more than MAX_CONTEXTS
    contexts are in weights/priors.bin or were used, all contexts and weights are set back to their initial state.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain, islice
from typing import TypeAlias

import numpy as np

from sdvideo.container.varint import put_varint, take_varint
from sdvideo.errors import DamagedError, SinkError
from sdvideo.weights import HEADER_PLANS, HEADER_PRIORS

from .arithmetic_coder import BitDecoder, BitEncoder, ContextMixer, Contexts, contexts_from

PREFIX_SIZE = 18  # bytes
MAX_OBUS = 16  # in a unit; SVT-AV1 makes up to 7
PRIOR_COUNT = 4
MAX_CONTEXTS = 2**17  # some 20 MB; priors.bin has 24,257, and 100 pictures add about 1,500
LONGEST_PLAN = 161  # pictures
BYTE_WEIGHTS = (5900, 22600, 53700)  # in 1/65536
BIT_WEIGHTS = (32768, 32768)

# How many entries a plan shares with its reference plan, see pack_plans, and its other entries.
Plan: TypeAlias = "tuple[int, list[bytes]]"
Obu: TypeAlias = "tuple[bytes, bytes]"  # header, payload

_TEMPORAL_DELIMITER = 2  # a type of OBU
_HAS_EXTENSION, _HAS_SIZE = 4, 2
_MAX_LENGTH = 32  # bits of a number
_SIZE, _IS_SHORT, _SHORT_SIZE = 1, 2, 3  # types of questions
_TYPE_SHIFT, _LENGTH_SHIFT = 39, 33
_WIDTH = 8 * (PREFIX_SIZE + 3)  # room for the bits of an OBU, and some zeros after its end


def pack_units(units: Sequence[bytes]) -> tuple[bytes, ...]:
    """The temporal units of a group as the data of its frames.

    Raises SinkError if a unit has no OBU, or more than MAX_OBUS.
    """
    plan, headers, rests = _compress(units)
    start = bytearray()
    put_varint(start, plan)
    put_varint(start, len(headers))
    return b"".join([start, headers, rests[0]]), *rests[1:]


def learn_priors(groups: Iterable[Sequence[bytes]]) -> Contexts:
    """What contexts learn from the temporal units of several groups, without any priors; see pack_priors."""
    contexts = contexts_from({})
    for units in groups:
        _compress(units, contexts)
    return contexts


def _compress(units: Sequence[bytes], contexts: Contexts | None = None) -> tuple[int, bytes, list[bytes]]:
    """The plan of a group, its coded headers, and the rest of each unit. contexts: see _HeaderCoder."""
    rows = [obus(unit) for unit in units]
    if not all(1 <= len(row) <= MAX_OBUS for row in rows):
        raise SinkError(f"SVT-AV1 made a temporal unit of no OBU, or of more than {MAX_OBUS}")
    plan = _closest_plan(rows)
    encoder = BitEncoder()
    coder = _HeaderCoder(encoder, plan, contexts)
    rests = [coder.encode_unit(row) for row in rows]
    return plan, encoder.finish(), rests


class Unpacker:
    """The inverse of pack_units, frame by frame, for one group after another."""

    def __init__(self) -> None:
        self._coder: _HeaderCoder | None = None

    def obus(self, data: bytes, first: bool) -> Iterator[bytes]:
        """The OBUs of the next unit, each with its size field, from the data of the next frame.

        first: whether it is the first frame of a group. Raises DamagedError if the data is not what pack_units makes.
        """
        if first:
            plan, at = take_varint(data, 0)
            size, at = take_varint(data, at)
            if plan >= len(_plans()) or size > len(data) - at:
                raise DamagedError("its AV1 headers are cut off")
            self._coder = _HeaderCoder(BitDecoder(data[at : at + size]), plan)
            data = data[at + size :]
        if self._coder is None:
            raise DamagedError("a group does not begin with a key frame")
        return self._coder.decode_unit(data)


def obus(unit: bytes) -> list[Obu]:
    """Header and payload of each OBU of a temporal unit, without temporal delimiters.

    has_size_field is set as it is coded: in all headers but the last one, whichever OBUs of the unit have a size field.
    """
    found, at = [], 0
    while at < len(unit):
        first = at + (2 if unit[at] & _HAS_EXTENSION else 1)
        header, at, end = unit[at:first], first, len(unit)
        if header[0] & _HAS_SIZE:
            size, at = take_varint(unit, first)
            end = at + size
        if header[0] >> 3 & 15 != _TEMPORAL_DELIMITER:
            found.append((bytes([header[0] | _HAS_SIZE, *header[1:]]), unit[at:end]))
        at = end
    if found:
        header, payload = found.pop()
        found.append((bytes([header[0] & ~_HAS_SIZE, *header[1:]]), payload))
    return found


def _with_size(header: bytes, payload: bytes) -> bytes:
    out = bytearray([header[0] | _HAS_SIZE, *header[1:]])
    put_varint(out, len(payload))
    return bytes(out + payload)


# --- plans and priors ---------------------------------------------------------------------------------------


@cache
def _plans() -> list[Plan]:
    """LONGEST_PLAN plans for each of several encoder settings.

    The first of these is for LONGEST_PLAN pictures, the next ones are for 1, 2, ... LONGEST_PLAN - 1 pictures.
    """
    return unpack_plans(HEADER_PLANS.read_bytes())


def _plan(number: int) -> Iterator[bytes]:
    """The expected beginnings of the OBUs of a group, in order: header, and start of the payload."""
    shared, others = _plans()[number]
    return chain(islice(_plans()[number - number % LONGEST_PLAN][1], shared), others)


def pack_plans(plans: Sequence[Plan]) -> bytes:
    """Plans as a file, compressed by zlib.

    For each plan: varint, how many entries are those at the beginning of the reference plan; varint, how many other
    entries follow; then each of these after its length, a byte. The reference plan of plan number k is
    number k - k % LONGEST_PLAN.
    """
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
    entries: dict[bytes, bytes] = {}  # one object for equal entries, of which there are many
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


@cache
def _priors() -> dict[int, tuple[int, int]]:
    return unpack_priors(HEADER_PRIORS.read_bytes())


def pack_priors(contexts: Mapping[int, tuple[int, int]]) -> bytes:
    """The state of contexts that coded at least PRIOR_COUNT bits as a file, compressed by zlib.

    First the differences of the sorted contexts, u64 each, then the high byte of the probability of each.
    """
    known = sorted((context, state >> 8) for context, (state, count) in contexts.items() if count >= PRIOR_COUNT)
    numbers, high_bytes = np.array(known, np.uint64).T
    differences = np.diff(numbers, prepend=np.uint64(0)).astype("<u8")
    return zlib.compress(differences.tobytes() + bytes(high_bytes.tolist()), 9)


def unpack_priors(data: bytes) -> dict[int, tuple[int, int]]:
    """The inverse of pack_priors. Each probability is in the middle of those with its high byte."""
    packed = zlib.decompress(data)
    count = len(packed) // 9
    contexts = np.cumsum(np.frombuffer(packed, "<u8", count)).tolist()
    states = [(high << 8 | 128, PRIOR_COUNT) for high in range(256)]  # one object for each, not for each context
    return {context: states[high] for context, high in zip(contexts, packed[8 * count :])}


def _closest_plan(rows: Sequence[Sequence[Obu]]) -> int:
    """The number of the plan that predicts the most OBUs, among those for this number of pictures.

    Groups of more than LONGEST_PLAN pictures get one of the longest plans.
    """
    beginnings = [header + payload[:PREFIX_SIZE] for row in rows for header, payload in row]
    index = len(rows) if len(rows) < LONGEST_PLAN else 0

    def hits(plan: int) -> int:
        return sum(beginning.startswith(expected) for beginning, expected in zip(beginnings, _plan(plan)))

    return max(range(index, len(_plans()), LONGEST_PLAN), key=hits)


# --- headers ------------------------------------------------------------------------------------------------


class _HeaderCoder:
    """Codes the headers of a group, unit by unit: encodes with a BitEncoder, decodes with a BitDecoder.

    plan: its number. contexts: those to use and to change, for learn_priors; None for those of priors.bin, which this
    group changes for itself alone.
    """

    def __init__(self, coder: BitEncoder | BitDecoder, plan: int, contexts: Contexts | None = None):
        self._keeps_contexts = contexts is not None
        self._mixer = ContextMixer(coder, contexts_from(_priors()) if contexts is None else contexts)
        self._plan = _plan(plan)
        self._previous: dict[int, int] = {}  # by kind: the bits of the last OBU, see _ObuCoder.end

    def encode_unit(self, row: Sequence[Obu]) -> bytes:
        """Code the headers of a unit's OBUs, see obus. Returns the unit's rest."""
        self._begin_unit()
        for number, obu in enumerate(row):
            self._obu(number, *obu)
        return b"".join(payload[PREFIX_SIZE:] for _, payload in row)

    def decode_unit(self, rest: bytes) -> Iterator[bytes]:
        """The OBUs of a unit, with size fields. Raises DamagedError if its rest is not as long as its headers say."""
        self._begin_unit()
        for number in range(MAX_OBUS):
            header, prefix, size = self._obu(number)
            if size is None:
                size = len(prefix) + len(rest)
            following = rest[: size - len(prefix)]
            payload, rest = prefix + following, rest[len(following) :]
            is_last = not header[0] & _HAS_SIZE
            if len(payload) != size or (following and len(prefix) < PREFIX_SIZE):
                raise DamagedError("its AV1 data is cut off")
            yield _with_size(header, payload)
            if is_last:
                return
        raise DamagedError(f"its AV1 data has more than {MAX_OBUS} OBUs")

    def _begin_unit(self) -> None:
        if not self._keeps_contexts and len(self._mixer.contexts) > MAX_CONTEXTS:
            self._mixer.reset(contexts_from(_priors()))

    def _obu(self, number: int, header: bytes = b"\0\0", payload: bytes = b"") -> tuple[bytes, bytes, int | None]:
        """Code the next OBU. Returns its header, the first bytes of its payload, and its payload's size.

        The size is None if the payload extends to the end of the unit's rest. number: of the OBU in its unit. header,
        payload: to be encoded; ignored when decoding.
        """
        obu = _ObuCoder(self._mixer, self._previous, next(self._plan, b""))
        found = bytearray([obu.byte(header[0])])
        if found[0] & _HAS_EXTENSION:
            found.append(obu.byte(header[1]))
        size = None
        if found[0] & _HAS_SIZE:
            size = self._number(_SIZE, number, len(payload))
        elif self._bit(_IS_SHORT << _TYPE_SHIFT, number, len(payload) < PREFIX_SIZE):
            size = min(self._number(_SHORT_SIZE, number, len(payload)), PREFIX_SIZE - 1)  # larger only by damage
        length = PREFIX_SIZE if size is None else min(size, PREFIX_SIZE)
        prefix = bytes([obu.byte(byte) for byte in islice(payload or bytes(length), length)])
        obu.end()
        return bytes(found), prefix, size

    def _number(self, type: int, number: int, value: int) -> int:
        """Code a number and return it. number: of the OBU in its unit; value: to be encoded."""
        length = 1
        while length < _MAX_LENGTH and self._bit(
            type << _TYPE_SHIFT | length << _LENGTH_SHIFT, number, (value + 1).bit_length() > length
        ):
            length += 1
        question = type << _TYPE_SHIFT | length << _LENGTH_SHIFT
        known = 1
        for at in range(length - 2, -1, -1):
            known = 2 * known + self._bit(question | known, number, (value + 1) >> at & 1)
        return known - 1

    def _bit(self, question: int, number: int, bit: int) -> int:
        """Code one bit that is not part of a byte, and return it. number: of the OBU in its unit."""
        weights = self._mixer.weights(question, BIT_WEIGHTS)
        return self._mixer.code((question << 3 | 5, (question << 4 | number) << 3 | 6), weights, bit)


class _ObuCoder:
    """Codes the bytes of one OBU. previous: by kind, the bits of the last OBU; plan: the expected first bytes."""

    def __init__(self, mixer: ContextMixer, previous: dict[int, int], plan: bytes):
        self._mixer, self._all_previous = mixer, previous
        self._kinds: list[int] = []  # all of this OBU so far but 0
        self._kind, self._previous = 0, 0
        self._position, self._bits = 0, 1
        self._plan, self._planned, self._right = int.from_bytes(plan, "big"), 8 * len(plan), 15

    def byte(self, byte: int) -> int:
        """Code the next byte and return it."""
        kind, previous, position, bits = self._kind, self._previous, self._position, self._bits
        is_planned = position < self._planned
        weights = self._mixer.weights((kind << 8 | position) << 1 | is_planned, BYTE_WEIGHTS)
        partial, predicted = 1, 0
        for at in range(7, -1, -1):
            here = (kind << 8 | position) << 3
            if is_planned:
                predicted = self._plan >> (self._planned - 1 - position) & 1
                third = (self._right << 1 | predicted) << 3 | 3
            else:
                third = here << 9 | (bits & 511) << 3 | 4
            contexts = (
                here << 8 | partial << 3 | 1,
                here << 8 | _around(previous, position, bits) << 3 | 2,
                third,
            )
            bit = self._mixer.code(contexts, weights, byte >> at & 1)
            if is_planned:
                self._right = self._right << 1 & 15 | (bit == predicted)
            partial, bits, position = partial << 1 | bit, bits << 1 | bit, position + 1
        self._position, self._bits = position, bits
        if position <= 16:
            self._kind = bits & 255 if position == 8 else bits & 65535
            self._kinds.append(self._kind)
            self._previous = self._all_previous.get(self._kind, 0)
        return partial & 255

    def end(self) -> None:
        """Make this OBU the previous one of its kinds."""
        aligned = self._bits << (_WIDTH - self._position)
        for kind in self._kinds:
            self._all_previous[kind] = aligned


def _around(previous: int, position: int, bits: int) -> int:
    """The bits of the previous OBU around a position, and whether those before it are the same; see the specification.

    previous: its bits below a leading 1, which is bit _WIDTH; 0 if there is none. Returns 1..32; 0 if there is none.
    """
    if not previous:
        return 0
    window = previous >> (_WIDTH - 3 - position)
    return 1 + ((window & 15) << 1 | ((window >> 3 ^ bits) & 7 == 0))
