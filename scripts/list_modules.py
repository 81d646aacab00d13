"""Write one line for every module into docs/architecture.md: the first sentence of its docstring.

python scripts/list_modules.py            # rewrites the list
python scripts/list_modules.py --check    # exit code 1 if it is not up to date
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- modules -->\n", "<!-- end of modules -->\n"


def lines() -> list[str]:
    """Markdown: a heading for each folder, a line for each module."""
    found = []
    package = ROOT / "sdvideo"
    for folder in [package, *sorted(path.parent for path in package.rglob("*/__init__.py"))]:
        name = folder.relative_to(ROOT).as_posix()
        found += ["", f"### `{name}/`", "", first_sentence(folder / "__init__.py"), ""]
        for path in sorted(folder.glob("*.py")):
            if path.name != "__init__.py":
                place = path.relative_to(ROOT).as_posix()
                found.append(f"* [`{path.name}`](../{place}): {first_sentence(path)}")
    return [*found, ""]


def first_sentence(path: Path) -> str:
    """The first paragraph of a module's docstring, in one line."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split())


def main() -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page = before + BEGIN + "\n".join(lines()) + "\n" + END + after
    if "--check" in sys.argv:
        sys.exit(page != PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
