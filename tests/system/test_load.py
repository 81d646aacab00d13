"""Many calls at once: none starves, none takes what is another's.

The full load: python -m pytest -m long tests/system/test_load.py
"""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Recipe, synthesise, write_clip
from test_interruption import names, start

SAMPLE = Path(__file__).parents[2] / "samples" / "walk.mp4"


def finish(processes: list) -> None:
    for process in processes:
        said = process.communicate(timeout=1500)[1].decode()
        assert process.returncode == 0, said


@pytest.mark.parametrize("clip", ["small", pytest.param("sample", marks=pytest.mark.long)])
def test_eight_encodes_and_eight_decodes_at_once(tmp_path, clip):
    source = SAMPLE
    if clip == "small":
        source = tmp_path / "clip.mp4"
        write_clip(
            source, synthesise(96, 64, 20), Recipe(ticks=tuple(range(0, 20 * 512, 512)), audio=(("aac", "eng"),))
        )
    options = {base: ("--base", base, "--preset", "fast", "--keyint", 8) for base in ("av1", "none")}
    for base in options:
        finish([start("encode", source, "-o", tmp_path / f"{base}.sdv", *options[base], folder=tmp_path)])
        finish([start("decode", tmp_path / f"{base}.sdv", "-o", tmp_path / f"{base}.y4m", folder=tmp_path)])
    work = []
    for number in range(8):
        base = ("av1", "none")[number % 2]
        target = tmp_path / f"{number}.sdv"
        work.append(start("encode", source, "-o", target, *options[base], folder=tmp_path))
        coded, shown = tmp_path / f"{base}.sdv", tmp_path / f"{number}.y4m"
        work.append(start("decode", coded, "-o", shown, folder=tmp_path))
    finish(work)
    for number in range(8):
        base = ("av1", "none")[number % 2]
        for suffix in (".sdv", ".y4m"):
            assert (tmp_path / f"{number}{suffix}").read_bytes() == (tmp_path / f"{base}{suffix}").read_bytes()
    expected = [f"{name}{suffix}" for name in ("av1", "none", *range(8)) for suffix in (".sdv", ".y4m")]
    assert set(names(tmp_path)) - {"clip.mp4"} == set(expected)


def test_one_output_is_written_by_one_call(tmp_path):
    source, target = tmp_path / "clip.mp4", tmp_path / "a.sdv"
    write_clip(source, synthesise(96, 64, 60), Recipe(ticks=tuple(range(0, 60 * 512, 512))))
    options = ("--preset", "fast", "--keyint", 4)
    finish([start("encode", source, "-o", tmp_path / "alone.sdv", *options, folder=tmp_path)])
    together = [start("encode", source, "-o", target, *options, folder=tmp_path) for _ in range(4)]
    said = [process.communicate(timeout=300)[1].decode() for process in together]
    codes = [process.returncode for process in together]
    assert 0 in codes and set(codes) <= {0, 1, 4}
    assert all("another process is writing it" in line for line, code in zip(said, codes) if code == 1)
    assert target.read_bytes() == (tmp_path / "alone.sdv").read_bytes()
    assert names(tmp_path) == ["a.sdv", "alone.sdv", "clip.mp4"]
