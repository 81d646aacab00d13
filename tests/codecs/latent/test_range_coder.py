"""The range coder: integers to bytes and back, exactly. Damaged data ends in a DamagedError or in other integers."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdvideo.codecs.latent.coding.range_coder import (
    ESCAPE,
    ODDS,
    REACH,
    ROOTS,
    TABLES,
    SymbolReader,
    SymbolWriter,
    value_costs,
)
from sdvideo.errors import DamagedError

# (method, tables, integers); under table 0 of values only zero can be coded.
EXAMPLE = (
    ("values", [20, 5, 20, 0, 63, 33, 20], [0, 0, -1, 0, 100, 3, 2]),
    ("bits", [0, 32, 32, 63], [0, 1, 0, 1]),
    ("values", [1, 40, 40], [0, -41, 40]),
)
EXAMPLE_BYTES = "955fc35c6b58ccde"

Call = tuple[str, list[int], list[int]]


def write(calls: tuple[Call, ...]) -> bytes:
    writer = SymbolWriter()
    for method, tables, integers in calls:
        getattr(writer, method)(np.array(tables, np.uint8), np.array(integers, np.int32))
    return writer.finish()


def read(data: bytes, calls: tuple[Call, ...]) -> list[list[int]]:
    reader = SymbolReader(data)
    found = [getattr(reader, method)(np.array(tables, np.uint8)).tolist() for method, tables, _ in calls]
    reader.finish()
    return found


@st.composite
def some_calls(draw) -> tuple[Call, ...]:
    value = st.one_of(st.integers(-3, 3), st.integers(-REACH - 2, REACH + 2), st.integers(-(2**20), 2**20))
    calls = []
    for method in draw(st.lists(st.sampled_from(["values", "bits"]), max_size=5)):
        tables = draw(st.lists(st.integers(0, TABLES - 1), max_size=40))
        kind = st.integers(0, 1) if method == "bits" else value
        integers = [draw(kind) if table or method == "bits" else 0 for table in tables]
        calls.append((method, tables, integers))
    return tuple(calls)


def test_the_bytes_of_an_example_do_not_change():
    assert write(EXAMPLE).hex() == EXAMPLE_BYTES


@given(some_calls())
def test_round_trip(calls):
    assert read(write(calls), calls) == [integers for _, _, integers in calls]


class SecondDecoder:
    """A decoder written from the docstring of range_coder.py, without constriction."""

    def __init__(self, data: bytes):
        self._words = [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]
        self._low, self._range = 0, 2**64 - 1
        self._code = self._word() << 32 | self._word()

    def _word(self) -> int:
        return self._words.pop(0) if self._words else 0

    def _symbol(self, frequencies: list[int]) -> int:
        total, count = 2**24, len(frequencies)
        assert sum(frequencies) == total
        begins = [sum(frequencies[:i]) * (total - count) // total + i for i in range(count)] + [total]
        unit = self._range >> 24
        place = (self._code - self._low) % 2**64 // unit
        symbol = max(i for i in range(count) if begins[i] <= place)
        self._low = (self._low + unit * begins[symbol]) % 2**64
        self._range = unit * (begins[symbol + 1] - begins[symbol])
        if self._range < 2**32:
            self._low, self._range = (self._low << 32) % 2**64, self._range << 32
            self._code = (self._code << 32) % 2**64 | self._word()
        return symbol

    def values(self, tables: list[int]) -> list[int]:
        values = [0] * len(tables)
        for at in sorted(range(len(tables)), key=lambda at: tables[at]):
            if tables[at]:
                values[at] = self._symbol(self._value_frequencies(ROOTS[tables[at]])) - 40
        return [self._escaped() if value == 41 else value for value in values]

    @staticmethod
    def _value_frequencies(root: int) -> list[int]:
        p = [0, root << 32]
        for n in range(1, 41):
            p.append(p[n] * root**2 >> 32)
        side = [max(1, (p[n] - p[n + 1]) >> 25) for n in range(1, 41)]
        escape = max(1, p[41] >> 24)
        return [*reversed(side), 2**24 - 2 * sum(side) - escape, *side, escape]

    def _escaped(self) -> int:
        even = [2**23, 2**23]
        sign, digits, number = -1 if self._symbol(even) else 1, 0, 1
        while self._symbol(even):
            digits += 1
        for _ in range(digits):
            number = 2 * number + self._symbol(even)
        return sign * (number + 40)

    def bits(self, tables: list[int]) -> list[int]:
        bits = [0] * len(tables)
        for at in sorted(range(len(tables)), key=lambda at: tables[at]):
            ones = ODDS[tables[at]] << 8
            bits[at] = self._symbol([2**24 - ones, ones])
        return bits


@settings(deadline=None)
@given(some_calls())
def test_a_decoder_written_from_the_specification_reads_the_same_integers(calls):
    decoder = SecondDecoder(write(calls))
    assert [getattr(decoder, method)(tables) for method, tables, _ in calls] == [integers for *_, integers in calls]


def test_every_table_codes_every_value_in_reach():
    values = np.arange(-REACH - 3, REACH + 4, dtype=np.int32)
    for table in range(1, TABLES):
        tables = [table] * len(values)
        calls = (("values", tables, values.tolist()),)
        assert read(write(calls), calls) == [values.tolist()]


def test_no_symbols_and_zeros_under_table_0_take_no_bytes():
    assert write(()) == b""
    assert write((("values", [0] * 1000, [0] * 1000),)) == b""


def test_value_costs_predict_the_length():
    rng = np.random.default_rng(0)
    tables = rng.integers(1, TABLES - 12, 4000)
    spread = 0.06 * 2 ** (tables / 5) / 2**0.5
    values = np.clip(np.rint(rng.laplace(0, spread)), -REACH, REACH).astype(int)
    bits = value_costs()[tables, np.abs(values)].sum()
    size = len(write((("values", tables.tolist(), values.tolist()),)))
    assert bits / 8 <= size + 1 and size <= bits / 8 * 1.001 + 8


def test_the_probabilities_of_value_costs_add_up_to_1():
    chances = 2.0 ** -value_costs()[1:].astype(np.float64)
    total = chances[:, 0] + 2 * chances[:, 1 : REACH + 1].sum(1) + chances[:, REACH + 1]
    assert value_costs().shape == (TABLES, ESCAPE // 2 + 2)
    np.testing.assert_allclose(total, 1, atol=1e-5)


@settings(max_examples=300)
@given(words=st.binary(max_size=64), calls=some_calls())
def test_random_words_raise_damaged_error_or_decode_to_integers(words, calls):
    try:
        found = read(words, calls)
    except DamagedError:
        return
    assert [len(integers) for integers in found] == [len(tables) for _, tables, _ in calls]


@pytest.mark.parametrize("word", [b"\x00", b"\xff"])
def test_decoding_many_escapes_ends(word):
    calls = (("values", [63] * 5000, []),)
    with suppress(DamagedError):
        read(word * 4096, calls)


def test_incomplete_words_and_left_over_words_raise_damaged_error():
    data = write(EXAMPLE)
    with pytest.raises(DamagedError, match="whole words"):
        read(data[:-1], EXAMPLE)
    with pytest.raises(DamagedError, match="longer than its frame"):
        read(data + bytes(range(1, 17)), EXAMPLE)


def test_decoding_ends_after_a_change_of_any_byte():
    data = bytearray(write(EXAMPLE))
    for place in range(len(data)):
        changed = data.copy()
        changed[place] ^= 0x55
        with suppress(DamagedError):
            read(bytes(changed), EXAMPLE)
