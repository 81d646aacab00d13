"""Gives the package index a description whose links work there: those of README.md are relative to the repository."""

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
REPOSITORY = re.search(r'^Repository = "(.+?)"', PROJECT, re.MULTILINE)[1]  # Python 3.10 has no TOML parser
IMAGES = (".png", ".jpg", ".svg", ".gif")


def absolute(link: re.Match[str]) -> str:
    """[text](path) -> [text](address of that path in the repository)."""
    target = link[2]
    if "://" in target or target.startswith("#"):
        return link[0]
    view = "raw" if Path(target.partition("#")[0]).suffix in IMAGES else "blob"
    return f"[{link[1]}]({REPOSITORY}/{view}/main/{target})"


readme = (ROOT / "README.md").read_text(encoding="utf-8")
setup(
    long_description=re.sub(r"\[([^\]]*)\]\(([^)\s]+)\)", absolute, readme),
    long_description_content_type="text/markdown",
)
