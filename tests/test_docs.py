"""The documents: their links lead somewhere, and the list of modules is up to date."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("sdvideo/weights/*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", text).strip().lower().replace(" ", "-") for text in headings], (
                link
            )


def test_commands_name_scripts_that_exist() -> None:
    for page in PAGES:
        for script in re.findall(r"\b((?:scripts|tests)/[\w/]+\.(?:py|sh))\b", page.read_text(encoding="utf-8")):
            assert (ROOT / script).exists(), f"{page.name}: {script}"


def test_the_list_of_modules_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "list_modules.py"), "--check"]
    assert subprocess.run(command).returncode == 0, "run python scripts/list_modules.py"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
