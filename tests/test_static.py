"""The checks that read the code: types, style, and what type checkers see of the public interface."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import needs

ROOT = Path(__file__).parents[1]

USE = """
import sdvideo

sdvideo.encode("a.mp4", "a.sdv", quality=60, preset="fast")
with sdvideo.open("a.sdv") as video:
    frame: sdvideo.Frame = video[0]
    frames: list[sdvideo.Frame] = video[:2]
result: sdvideo.DecodeResult = sdvideo.decode("a.sdv", crf=18)
"""
MISUSE = {
    "a misspelt setting": ('sdvideo.encode("a.mp4", qualty=3)', 'Unexpected keyword argument "qualty"'),
    "a setting of the wrong type": ('sdvideo.encode("a.mp4", quality="high")', 'Argument "quality"'),
    "a misspelt option": ('sdvideo.decode("a.sdv", tolerent=True)', 'Unexpected keyword argument "tolerent"'),
    "a name that is not public": ("sdvideo.encoder_of", 'has no attribute "encoder_of"'),
}


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *map(str, command)], cwd=cwd, capture_output=True, text=True)


def test_ruff_finds_nothing() -> None:
    needs("ruff")
    for command in ("check", "format --check"):
        found = run("ruff", *command.split(), "sdvideo", "tests", "scripts")
        assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.slow
def test_mypy_finds_nothing_in_the_package() -> None:
    needs("mypy")
    found = run("mypy")
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.slow
def test_type_checkers_see_the_public_interface(tmp_path: Path) -> None:
    """As a user's checker does: with the installed package, whose py.typed says that it has types."""
    needs("mypy")
    lines = [USE, *(f"{line}  # {name}" for name, (line, _) in MISUSE.items())]
    (tmp_path / "use.py").write_text("\n".join(lines))
    found = run("mypy", "--config-file=", "--follow-imports=silent", tmp_path / "use.py")
    errors = [line for line in found.stdout.splitlines() if ": error: " in line]
    assert len(errors) == len(MISUSE), found.stdout
    for error, (_, expected) in zip(errors, MISUSE.values(), strict=True):
        assert expected in error
