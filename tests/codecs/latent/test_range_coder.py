"""Integers to bytes and back, exactly; what is no data of ours ends in an error or in other integers."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdvideo.codecs.latent.coding.range_coder import ESCAPE, REACH, TABLES, SymbolReader, SymbolWriter, value_costs
from sdvideo.errors import DamagedError

# (what, tables, integers); table 0 can only say zero.
EXAMPLE = (
    ("values", [20, 5, 20, 0, 63, 33, 20], [0, 0, -1, 0, 100, 3, 2]),
    ("bits", [0, 32, 32, 63], [0, 1, 0, 1]),
    ("values", [1, 40, 40], [0, -41, 40]),
)
EXAMPLE_BYTES = "955fc35c6b58ccde"

Call = tuple[str, list[int], list[int]]


def write(calls: tuple[Call, ...]) -> bytes:
    writer = SymbolWriter()
    for what, tables, integers in calls:
        getattr(writer, what)(np.array(tables, np.uint8), np.array(integers, np.int32))
    return writer.finish()


def read(data: bytes, calls: tuple[Call, ...]) -> list[list[int]]:
    reader = SymbolReader(data)
    found = [getattr(reader, what)(np.array(tables, np.uint8)).tolist() for what, tables, _ in calls]
    reader.finish()
    return found


@st.composite
def some_calls(draw) -> tuple[Call, ...]:
    value = st.one_of(st.integers(-3, 3), st.integers(-REACH - 2, REACH + 2), st.integers(-(2**20), 2**20))
    calls = []
    for what in draw(st.lists(st.sampled_from(["values", "bits"]), max_size=5)):
        tables = draw(st.lists(st.integers(0, TABLES - 1), max_size=40))
        kind = st.integers(0, 1) if what == "bits" else value
        integers = [draw(kind) if table or what == "bits" else 0 for table in tables]
        calls.append((what, tables, integers))
    return tuple(calls)


def test_bytes_of_an_example_stay_as_they_are():
    assert write(EXAMPLE).hex() == EXAMPLE_BYTES


@given(some_calls())
def test_comes_back(calls):
    assert read(write(calls), calls) == [integers for _, _, integers in calls]


def test_every_table_codes_every_value_in_reach():
    values = np.arange(-REACH - 3, REACH + 4, dtype=np.int32)
    for table in range(1, TABLES):
        tables = [table] * len(values)
        calls = (("values", tables, values.tolist()),)
        assert read(write(calls), calls) == [values.tolist()]


def test_nothing_takes_no_bytes():
    assert write(()) == b""
    assert write((("values", [0] * 1000, [0] * 1000),)) == b""


def test_length_is_what_the_costs_say():
    rng = np.random.default_rng(0)
    tables = rng.integers(1, TABLES - 12, 4000)
    spread = 0.06 * 2 ** (tables / 5) / 2**0.5
    values = np.clip(np.rint(rng.laplace(0, spread)), -REACH, REACH).astype(int)
    bits = value_costs()[tables, np.abs(values)].sum()
    size = len(write((("values", tables.tolist(), values.tolist()),)))
    assert bits / 8 <= size + 1 and size <= bits / 8 * 1.001 + 8


def test_costs_are_probabilities():
    chances = 2.0 ** -value_costs()[1:].astype(np.float64)
    total = chances[:, 0] + 2 * chances[:, 1 : REACH + 1].sum(1) + chances[:, REACH + 1]
    assert value_costs().shape == (TABLES, ESCAPE // 2 + 2)
    np.testing.assert_allclose(total, 1, atol=1e-5)


@settings(max_examples=300)
@given(words=st.binary(max_size=64), calls=some_calls())
def test_foreign_words_end_in_an_error_or_in_integers(words, calls):
    try:
        found = read(words, calls)
    except DamagedError:
        return
    assert [len(integers) for integers in found] == [len(tables) for _, tables, _ in calls]


@pytest.mark.parametrize("word", [b"\x00", b"\xff"])
def test_a_flood_of_escapes_ends(word):
    calls = (("values", [63] * 5000, []),)
    with suppress(DamagedError):
        read(word * 4096, calls)


def test_half_words_and_leftovers_are_damage():
    data = write(EXAMPLE)
    with pytest.raises(DamagedError, match="whole words"):
        read(data[:-1], EXAMPLE)
    with pytest.raises(DamagedError, match="longer than its frame"):
        read(data + bytes(range(1, 17)), EXAMPLE)


def test_a_changed_byte_never_hangs():
    data = bytearray(write(EXAMPLE))
    for place in range(len(data)):
        changed = data.copy()
        changed[place] ^= 0x55
        with suppress(DamagedError):
            read(bytes(changed), EXAMPLE)
