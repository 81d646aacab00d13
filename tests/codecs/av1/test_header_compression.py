"""Compression of AV1 frame headers: groups come back whole, damage is detected, and the format stays as it is."""

from __future__ import annotations

import hashlib
import random
from contextlib import suppress
from functools import cache
from itertools import chain, islice, repeat
from pathlib import Path

import pytest

from sdvideo.codecs.av1.arithmetic_coder import ADAPTATION_RATES, LEARNING_RATE, SQUASH
from sdvideo.codecs.av1.base_layer import encode_base
from sdvideo.codecs.av1.header_compression import (
    LONGEST_PLAN,
    MAX_OBUS,
    PREFIX_SIZE,
    Unpacker,
    obus,
    pack_plans,
    pack_priors,
    pack_units,
    unpack_plans,
    unpack_priors,
)
from sdvideo.container.header import SCALES
from sdvideo.container.varint import put_varint, take_varint
from sdvideo.errors import DamagedError, SinkError
from sdvideo.media.source import open_source
from sdvideo.weights import HEADER_PLANS, HEADER_PRIORS

SAMPLE = Path(__file__).parents[3] / "samples" / "walk.mp4"


@pytest.fixture(scope="module")
def units() -> tuple[bytes, ...]:
    """The temporal units of 40 pictures of the sample, as SVT-AV1 makes them."""
    with open_source(SAMPLE) as video:
        pictures = [frame.picture for frame in islice(video.frames(), 40)]
    return encode_base(pictures, SCALES[2], 55, 6).units


def obu(kind: int, payload: bytes, extension: bytes = b"") -> bytes:
    size = bytearray()
    put_varint(size, len(payload))
    return bytes([kind << 3 | 2 | 4 * bool(extension)]) + extension + size + payload


def unpacked(data: tuple[bytes, ...]) -> list[bytes]:
    unpacker = Unpacker()
    return [b"".join(unpacker.obus(one, number == 0)) for number, one in enumerate(data)]


def without_delimiters(units: tuple[bytes, ...]) -> list[bytes]:
    return [unit.removeprefix(b"\x12\x00") for unit in units]


def test_a_group_comes_back(units):
    assert all(unit.startswith(b"\x12\x00") for unit in units)
    assert unpacked(pack_units(units)) == without_delimiters(units)


def test_headers_take_at_most_four_tenths_of_their_bytes(units):
    header_bytes = sum(min(len(payload), PREFIX_SIZE) + 2 for unit in units for _, payload in obus(unit))
    saved = sum(map(len, without_delimiters(units))) - sum(map(len, pack_units(units)))
    assert saved > 0.6 * header_bytes


def test_units_of_any_obus_come_back():
    rng = random.Random(1)
    for _ in range(100):
        made = []
        for _ in range(rng.randint(1, 9)):
            kinds = [rng.choice((1, 3, 4, 5, 6, 15)) for _ in range(rng.randint(1, MAX_OBUS))]
            made.append(
                b"".join(
                    obu(kind, rng.randbytes(rng.choice((0, 1, 5, 17, 18, 19, 300))), rng.choice((b"", b"\x20")))
                    for kind in kinds
                )
            )
        assert unpacked(pack_units(made)) == made


def test_long_groups_come_back(units):
    """Longer than any plan."""
    assert unpacked(pack_units(units * 5)) == without_delimiters(units * 5)
    assert len(units * 5) > LONGEST_PLAN


def test_contexts_are_reset_when_there_are_too_many():
    """53 kB of headers, all different, led to a million contexts of 200 bytes of memory each."""
    rng = random.Random(3)
    made = [b"".join(obu(15, rng.randbytes(20)) for _ in range(MAX_OBUS)) for _ in range(50)]
    data = pack_units(made)
    assert unpacked(data) == made
    assert hashlib.sha256(b"".join(data)).hexdigest()[:16] == "967b287f76ba743e"


def test_units_of_no_obus_or_too_many_are_refused():
    for unit in (b"", b"\x12\x00", obu(15, b"") * (MAX_OBUS + 1)):
        with pytest.raises(SinkError):
            pack_units([unit])


def test_damage_is_detected_or_gives_other_obus(units):
    data = pack_units(units)
    whole = without_delimiters(units)
    for cut in range(len(data[0]) - len(whole[0])):
        with pytest.raises(DamagedError):
            unpacked((data[0][:cut],))
    with pytest.raises(DamagedError):
        unpacked((b"\xff\x7f\x00",))  # a plan that does not exist
    with pytest.raises(DamagedError):
        list(Unpacker().obus(data[1], first=False))
    rng = random.Random(2)
    for _ in range(60):
        bad = bytearray(data[0])
        bad[rng.randrange(2, 60)] ^= 1 << rng.randrange(8)
        with suppress(DamagedError):
            assert unpacked((bytes(bad), *data[1:])) != whole


def test_the_format_stays(units):
    """Files depend on plans, priors, and every probability: a change of these hashes is a change of the format."""
    digests = [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in (HEADER_PLANS, HEADER_PRIORS)]
    assert digests == ["358be7dec8e95926", "daac9e02ac07a10a"]
    fixed = [obu(1, bytes(range(11))) + obu(6, bytes(range(100, 160))), obu(3, b"\xf8"), obu(6, bytes(range(40)))] * 9
    assert hashlib.sha256(b"".join(pack_units(fixed))).hexdigest()[:16] == "0d0302fd547878b0"


def test_plans_and_priors_come_back():
    plans = unpack_plans(HEADER_PLANS.read_bytes())
    assert len(plans) % LONGEST_PLAN == 0
    assert unpack_plans(pack_plans(plans)) == plans
    priors = unpack_priors(HEADER_PRIORS.read_bytes())
    assert len(priors) > 10_000 and unpack_priors(pack_priors(priors)) == priors


# --- a second decoder, written from the specification alone -------------------------------------------------


class SecondDecoder:
    """Decodes coded headers as the docstrings of header_compression.py and arithmetic_coder.py specify it."""

    def __init__(self, data: bytes, plan: list[bytes]):
        self.data, self.plan = chain(data, repeat(0)), plan
        self.low, self.high, self.value = 0, 2**32 - 1, int.from_bytes(islice(self.data, 4), "big")
        self.previous: list[list[int]] = []  # bits of all OBUs
        self.reset()

    def reset(self) -> None:
        self.contexts, self.weights = dict(unpack_priors(HEADER_PRIORS.read_bytes())), {}

    @staticmethod
    def squash(d: int) -> int:
        table, i, j = SQUASH, (d + 2048) >> 7, (d + 2048) & 127
        return (table[i] * (128 - j) + table[i + 1] * j + 64) >> 7

    @classmethod
    @cache
    def stretch(cls, p: int) -> int:
        return next(d for d in range(-2047, 2048) if cls.squash(d) >= p)

    def mixed_bit(self, contexts: tuple[int, ...], row: object, initial: tuple[int, ...]) -> int:
        weights = self.weights.setdefault(row, list(initial))
        states = [self.contexts.get(context, (32768, 0)) for context in contexts]
        predictions = [self.stretch(probability >> 4) for probability, _ in states]
        d = sum(weight * prediction for weight, prediction in zip(weights, predictions)) >> 16
        squashed = self.squash(max(-2047, min(2047, d)))
        middle = self.low + ((self.high - self.low) * squashed >> 12)
        bit = int(self.value <= middle)
        self.low, self.high = (self.low, middle) if bit else (middle + 1, self.high)
        while self.low >> 24 == self.high >> 24:
            self.low, self.high = self.low << 8 & 0xFFFFFFFF, (self.high << 8 & 0xFFFFFFFF) + 255
            self.value = (self.value << 8 & 0xFFFFFFFF) + next(self.data)
        for n, (context, (probability, count)) in enumerate(zip(contexts, states)):
            moved = probability + ((65535 * bit - probability) * ADAPTATION_RATES[count] >> 16)
            self.contexts[context] = moved, min(30, count + 1)
            error = 4096 * bit - squashed
            weights[n] += (predictions[n] * error * LEARNING_RATE + 32768) >> 16
        return bit

    def single_bit(self, question: int, number: int) -> int:
        contexts = question << 3 | 5, (question << 4 | number) << 3 | 6
        return self.mixed_bit(contexts, question, (32768, 32768))

    def number(self, type: int, number: int) -> int:
        length = 1
        while length < 32 and self.single_bit(type << 39 | length << 33, number):
            length += 1
        value = 1
        for _ in range(length - 1):
            value = 2 * value + self.single_bit(type << 39 | length << 33 | value, number)
        return value - 1

    def byte(self, bits: list[int], expected: list[int], hits: list[int]) -> int:
        """Append the next 8 bits of an OBU to its bits. expected: those of the plan; hits: whether they were right."""
        start, partial = len(bits), 1
        first, second = (int("".join(map(str, bits[at : at + 8])) or "0", 2) for at in (0, 8))
        kind = 0 if start < 8 else first if start < 16 else 256 * first + second
        is_planned = start < len(expected)
        for position in range(start, start + 8):
            here, around = 8 * (256 * kind + position), 0
            if start and (previous := self.last_of_kind(kind)):
                window = [*previous, *[0] * 200][position - 3 : position + 3]
                w = int("".join(map(str, window[2:])), 2)
                around = 1 + 2 * w + (window[:3] == bits[-3:])
            if is_planned:
                right = int("".join(map(str, hits[-4:])), 2)
                third = (right << 1 | expected[position]) << 3 | 3
            else:
                leading = [1, *bits][-9:]
                third = here << 9 | int("".join(map(str, leading)), 2) << 3 | 4
            contexts = here << 8 | partial << 3 | 1, here << 8 | around << 3 | 2, third
            bit = self.mixed_bit(contexts, (kind, start, is_planned), (5900, 22600, 53700))
            if is_planned:
                hits.append(int(bit == expected[position]))
            bits.append(bit)
            partial = 2 * partial + bit
        return partial - 256

    def last_of_kind(self, kind: int) -> list[int] | None:
        def kinds(bits: list[int]) -> set[int]:
            text = "".join(map(str, bits))
            return {int(text[:8], 2), *([int(text[:16], 2)] if len(text) >= 16 else [])}

        return next((bits for bits in reversed(self.previous) if kind in kinds(bits)), None)

    def unit(self, rest: bytes) -> bytes:
        """The OBUs of a unit, with size fields. rest: what follows the first 18 bytes of its payloads."""
        if len(self.contexts) > 2**17:
            self.reset()
        out = bytearray()
        for number in range(16):
            entry = self.plan[len(self.previous)] if len(self.previous) < len(self.plan) else b""
            bits, expected, hits = [], [int(bit) for byte in entry for bit in f"{byte:08b}"], [1] * 4
            header = bytearray([self.byte(bits, expected, hits)])
            if header[0] & 4:
                header.append(self.byte(bits, expected, hits))
            is_last = not header[0] & 2
            size = None
            if not is_last:
                size = self.number(1, number)
            elif self.single_bit(2 << 39, number):
                size = self.number(3, number)
            prefix = bytes(self.byte(bits, expected, hits) for _ in range(18 if size is None else min(18, size)))
            length = len(rest) if size is None else size - len(prefix)
            payload, rest = prefix + rest[:length], rest[length:]
            self.previous.append(bits)
            out += bytes([header[0] | 2]) + header[1:]
            put_varint(out, len(payload))
            out += payload
            if is_last:
                break
        return bytes(out)


def second_decoding(data: tuple[bytes, ...]) -> list[bytes]:
    plans = unpack_plans(HEADER_PLANS.read_bytes())
    number, at = take_varint(data[0], 0)
    size, at = take_varint(data[0], at)
    shared, others = plans[number]
    plan = plans[number - number % LONGEST_PLAN][1][:shared] + others
    decoder = SecondDecoder(data[0][at : at + size], plan)
    return [decoder.unit(rest) for rest in (data[0][at + size :], *data[1:])]


def test_a_decoder_written_from_the_specification_agrees(units):
    assert second_decoding(pack_units(units)) == without_delimiters(units)
    rng = random.Random(4)
    starts = [rng.randbytes(18) for _ in range(3)]
    for _ in range(8):
        made = []
        for _ in range(6):
            payloads = [rng.choice(starts)[: rng.randint(0, 18)] + bytes(rng.randint(0, 3)) for _ in range(4)]
            made.append(
                b"".join(obu(rng.choice((0, 3, 6)), payload, rng.choice((b"", b"\x20"))) for payload in payloads)
            )
        assert second_decoding(pack_units(made)) == made
