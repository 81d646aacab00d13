"""The documents: their links lead somewhere, the files and options they name exist, the list of modules is complete."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from typer.main import get_command

from sdvideo.cli.app import app

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "samples", "scripts", "sdvideo", "tests")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
FILES = {path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*.*")}
FILES |= {path.name for path in ROOT.iterdir()}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if "://" in link:
            continue
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), f"{link} leads out of the repository"
        if heading:
            assert heading in anchors(target), link


def anchors(page: Path) -> list[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings]


@each_page
def test_files_in_backticks_exist(page: Path) -> None:
    """A path may begin at the repository, at the package, or anywhere if the rest of it is unambiguous enough."""
    for name in re.findall(r"`((?:[\w-]+/)*[\w-]+\.(?:py|sh|md|bin))\b", text_of(page)):
        assert any(path == name or path.endswith(f"/{name}") for path in FILES), name
    for script in re.findall(r"\b((?:scripts|tests)/[\w/]+\.(?:py|sh))\b", text_of(page)):
        assert (ROOT / script).exists(), script


def commands() -> Iterator[tuple[str, list[str]]]:
    """The calls of sdvideo in shell blocks and in backticks: the page's name, and the words after "sdvideo"."""
    for page in PAGES:
        blocks = re.findall(r"^```sh\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)
        lines = [line for block in blocks for line in block.splitlines()]
        lines += re.findall(r"`(sdvideo [a-z]+ [^`]+)`", text_of(page))
        for line in lines:
            for call in re.findall(r"(?:^|\| )sdvideo ([a-z]+ [^|#]*)", line):
                yield page.name, shlex.split(call)


def test_commands_have_the_options_that_documents_give_them() -> None:
    group = get_command(app)
    assert isinstance(group, click.Group) or hasattr(group, "commands")
    found = list(commands())
    assert len(found) > 30
    for page, (name, *arguments) in found:
        options = {option for parameter in group.commands[name].params for option in parameter.opts}
        for argument in arguments:
            if re.match(r"--?[a-z]", argument):
                assert argument in options | {"--help"}, f"{page}: sdvideo {name} {argument}"


def test_the_list_of_modules_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "list_modules.py"), "--check"]
    assert subprocess.run(command).returncode == 0, "run python scripts/list_modules.py"


def test_every_module_has_its_line() -> None:
    page = text_of(ROOT / "docs" / "architecture.md")
    for path in (ROOT / "sdvideo").rglob("*.py"):
        place = path.relative_to(ROOT).as_posix()
        if path.name == "__init__.py":
            assert f"### `{path.parent.relative_to(ROOT).as_posix()}/`" in page, place
        else:
            assert re.search(rf"^\* \[`{path.name}`\]\(\.\./{place}\): \S", page, re.MULTILINE), place


def test_the_readme_is_short() -> None:
    assert len(text_of(ROOT / "README.md").splitlines()) <= 150
