"""What the package shows, and what importing it costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sdvideo

PACKAGE = Path(sdvideo.__file__).parent
HEAVY = {"torch", "diffusers", "cv2", "av", "tqdm", "constriction", "PIL"}
LIGHT = (
    "sdvideo",
    "sdvideo.cli.app",
    "sdvideo.cli.console",
    "sdvideo.settings",
    "sdvideo.errors",
    "sdvideo.container",
)


def test_public_names():
    assert sdvideo.__all__ == sorted(set(sdvideo.__all__)) == dir(sdvideo)
    for name in sdvideo.__all__:
        assert getattr(sdvideo, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = sdvideo.nonsense


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_nothing_heavy(module):
    code = f"import sys, {module}; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not HEAVY & set(found.split())


def test_encoding_and_decoding_do_not_know_each_other():
    for module, other in (("encoder", "decoder"), ("decoder", "encoder")):
        tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert other not in imported


def test_every_module_says_what_it_is_for():
    for path in PACKAGE.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path.name
