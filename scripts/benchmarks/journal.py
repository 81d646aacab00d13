"""What the measuring scripts say on the way and write down: progress lines, JSON, the cells of Markdown tables."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def say(*words: object) -> None:
    print(time.strftime("%H:%M:%S"), *words, file=sys.stderr, flush=True)


def write_json(path: Path, data: dict) -> None:
    """Whole or not at all, so that an interrupted run leaves what it had."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(data, indent=1))
    os.replace(beside, path)


def row_of(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def number(value: float | None, form: str) -> str:
    """The value in a form of format(), a dash for None; per cent with a space before its sign."""
    return "–" if value is None else format(value, form).replace("%", " %")
