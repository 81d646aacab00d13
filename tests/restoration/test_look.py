"""How base av1 is painted: chosen when encoding, chosen anew when decoding, the same bytes of pictures either way."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from test_cli import error, run

import sdvideo
from sdvideo.container import Reader, Writer
from sdvideo.container.header import pack_header, unpack_header
from sdvideo.errors import FormatError, ModelError, SettingError


@pytest.fixture(scope="module")
def coded(clips, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("look")
    for look in ("faithful", "natural"):
        sdvideo.encode(clips["silent"].path, folder / f"{look}.sdv", quality=20, look=look)
    return {look: folder / f"{look}.sdv" for look in ("faithful", "natural")}


def luma(path: Path, **options: object) -> np.ndarray:
    with sdvideo.open(path, device="cpu", **options) as video:
        return np.stack([frame.picture.y for frame in video]).astype(int)


def test_the_look_of_a_file_is_that_of_its_header(coded) -> None:
    faithful, natural = (luma(coded[look]) for look in ("faithful", "natural"))
    assert 0.2 < np.abs(faithful - natural).mean() < 10
    assert np.array_equal(luma(coded["faithful"], look="natural"), natural)
    assert np.array_equal(luma(coded["natural"], look=0), faithful)
    between = luma(coded["faithful"], look=0.5)
    assert max(np.abs(between - one).mean() for one in (faithful, natural)) < np.abs(faithful - natural).mean()


def test_only_the_header_tells(coded) -> None:
    with Reader(coded["faithful"]) as one, Reader(coded["natural"]) as other:
        assert one.header.look == 0 and one.header.painter is None and b'"look"' not in pack_header(one.header)
        assert other.header.look == 1 and other.header.painter.name == "natural"
        assert one.read_group(0).frames == other.read_group(0).frames
    assert json.loads(run("info", coded["natural"], "--json").stdout)["look"] == 1


def test_reports_and_the_command_line_take_a_look(coded, clips, tmp_path: Path) -> None:
    found = {look: sdvideo.report(clips["silent"].path, coded["natural"], look=look) for look in (None, 0, "natural")}
    psnr = {look: report.document()["summary"]["psnr_y"]["clip"] for look, report in found.items()}
    assert psnr[None] == psnr["natural"] != psnr[0]
    run("decode", coded["natural"], "-o", tmp_path / "a.y4m", "--look", "faithful")
    run("decode", coded["faithful"], "-o", tmp_path / "b.y4m")
    assert (tmp_path / "a.y4m").read_bytes() == (tmp_path / "b.y4m").read_bytes()
    assert "look is 'pretty'" in error("decode", coded["natural"], "-o", tmp_path / "c.y4m", "--look", "pretty", code=2)


@pytest.mark.parametrize("look", ["pretty", -0.1, 1.5, True, float("nan")])
def test_looks_that_are_none(coded, clips, tmp_path: Path, look: object) -> None:
    with pytest.raises(SettingError, match="look"):
        sdvideo.open(coded["natural"], look=look)
    with pytest.raises(SettingError, match="look"):
        sdvideo.encode(clips["silent"].path, tmp_path / "a.sdv", look=look)


def test_base_none_has_one_look(clips, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="needs base av1"):
        sdvideo.encode(clips["silent"].path, tmp_path / "a.sdv", base="none", look="natural")
    sdvideo.encode(clips["silent"].path, tmp_path / "a.sdv", base="none")
    with pytest.raises(SettingError, match="one look only"):
        sdvideo.open(tmp_path / "a.sdv", look="natural")


def test_headers_with_a_wrong_look(coded) -> None:
    with Reader(coded["natural"]) as reader:
        text = pack_header(reader.header)
    for wrong in (b'"look":2', b'"look":-1', b'"look":true', b'"look":"x"'):
        with pytest.raises(FormatError, match="look"):
            unpack_header(text.replace(b'"look":1.0', wrong))
    with pytest.raises(FormatError, match="painter"):
        unpack_header(text.replace(b'"painter"', b'"other"'))


def test_other_weights_are_refused_unless_a_look_is_chosen(coded, tmp_path: Path) -> None:
    path = tmp_path / "other.sdv"
    with Reader(coded["natural"]) as reader:
        painter = dataclasses.replace(reader.header.painter, sha256="0" * 64)
        header, group = dataclasses.replace(reader.header, painter=painter), reader.read_group(0)
    with path.open("wb") as file:
        writer = Writer(file, header)
        writer.write_group(group)
        writer.finish()
    with pytest.raises(ModelError, match="natural"):
        luma(path)
    assert luma(path, look="natural").size
