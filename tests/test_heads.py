"""What AV1 says anew for every picture, and what becomes of it in a file: heads.py."""

from __future__ import annotations

import hashlib
import random
from contextlib import suppress
from itertools import islice
from pathlib import Path

import pytest

from sdvideo.codecs.av1 import header_compression as heads
from sdvideo.codecs.av1.base_layer import encode_base
from sdvideo.codecs.av1.header_compression import LONGEST_PLAN, Unpacker, obus, pack_plans, pack_units, unpack_plans
from sdvideo.container.header import SCALES
from sdvideo.errors import DamagedError, SinkError
from sdvideo.media.source import open_source
from sdvideo.weights import HEADER_PLANS, HEADER_PRIORS

SAMPLE = Path(__file__).parents[1] / "samples" / "walk.mp4"


@pytest.fixture(scope="module")
def units() -> tuple[bytes, ...]:
    """A group of the sample as SVT-AV1 gives it, 40 pictures."""
    with open_source(SAMPLE) as video:
        pictures = [frame.picture for frame in islice(video.frames(), 40)]
    return encode_base(pictures, SCALES[2], 55, 6).units


def obu(kind: int, payload: bytes, extension: bytes = b"") -> bytes:
    size = bytearray()
    heads.put_varint(size, len(payload))
    return bytes([kind << 3 | 2 | 4 * bool(extension)]) + extension + size + payload


def unpacked(data: tuple[bytes, ...]) -> list[bytes]:
    unpacker = Unpacker()
    return [b"".join(unpacker.obus(one, number == 0)) for number, one in enumerate(data)]


def without_delimiters(units: tuple[bytes, ...]) -> list[bytes]:
    return [unit.removeprefix(b"\x12\x00") for unit in units]


def test_a_group_comes_back(units):
    assert all(unit.startswith(b"\x12\x00") for unit in units)
    assert unpacked(pack_units(units)) == without_delimiters(units)


def test_heads_take_a_third_of_what_they_did(units):
    taken_out = sum(min(len(payload), heads.HEAD) + 2 for unit in units for _, payload in obus(unit))
    saved = sum(map(len, without_delimiters(units))) - sum(map(len, pack_units(units)))
    assert saved > 0.6 * taken_out


def test_units_of_any_obus_come_back():
    rng = random.Random(1)
    for _ in range(100):
        made = []
        for _ in range(rng.randint(1, 9)):
            kinds = [rng.choice((1, 3, 4, 5, 6, 15)) for _ in range(rng.randint(1, heads.MOST_OBUS))]
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


def test_what_is_learned_of_a_group_is_forgotten_where_it_is_too_much():
    """53 kB of heads, none like another, taught a million values, 200 bytes of memory each."""
    rng = random.Random(3)
    made = [b"".join(obu(15, rng.randbytes(20)) for _ in range(heads.MOST_OBUS)) for _ in range(50)]
    data = pack_units(made)
    assert unpacked(data) == made
    assert hashlib.sha256(b"".join(data)).hexdigest()[:16] == "967b287f76ba743e"


def test_units_without_or_with_too_many_obus_are_not_packed():
    for unit in (b"", b"\x12\x00", obu(15, b"") * (heads.MOST_OBUS + 1)):
        with pytest.raises(SinkError):
            pack_units([unit])


def test_damage_is_told_or_gives_other_obus(units):
    data = pack_units(units)
    whole = without_delimiters(units)
    for cut in range(len(data[0]) - len(whole[0])):
        with pytest.raises(DamagedError):
            unpacked((data[0][:cut],))
    with pytest.raises(DamagedError):
        unpacked((b"\xff\x7f\x00",))  # a plan there is not
    with pytest.raises(DamagedError):
        list(Unpacker().obus(data[1], first=False))
    rng = random.Random(2)
    for _ in range(60):
        bad = bytearray(data[0])
        bad[rng.randrange(2, 60)] ^= 1 << rng.randrange(8)
        with suppress(DamagedError):
            assert unpacked((bytes(bad), *data[1:])) != whole


def test_the_format_stays(units):
    """Files depend on plans, priors, and every number the experts come to: what changes here is another format."""
    digests = [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in (HEADER_PLANS, HEADER_PRIORS)]
    assert digests == ["358be7dec8e95926", "daac9e02ac07a10a"]
    fixed = [obu(1, bytes(range(11))) + obu(6, bytes(range(100, 160))), obu(3, b"\xf8"), obu(6, bytes(range(40)))] * 9
    assert hashlib.sha256(b"".join(pack_units(fixed))).hexdigest()[:16] == "0d0302fd547878b0"


def test_plans_and_priors_come_back():
    plans = unpack_plans(HEADER_PLANS.read_bytes())
    assert len(plans) % LONGEST_PLAN == 0
    assert unpack_plans(pack_plans(plans)) == plans
    priors = heads.unpack_priors(HEADER_PRIORS.read_bytes())
    assert len(priors) > 10_000 and heads.unpack_priors(heads.pack_priors(priors)) == priors
