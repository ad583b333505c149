"""Runs the code of pages: ``python docs/executed.py [PAGE ...]``; every page without arguments.

The blocks of a page that begin with ```` ```python ```` run one after the other, as one program, in a folder of its
own.  Where a block ```` ```text ```` follows, it must be what was printed.  Pictures that a page saves stay beside the
documentation, and a page can show them.
"""

import contextlib
import io
import json
import linecache
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parent
PICTURES = HERE / "_pictures"
_BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A block of code, the line on which it begins, and what it must print; None: whatever it likes."""

    code: str
    line: int
    printed: str | None


class PageError(Exception):
    """A page does not do what it says: its file, its line, and why."""


def pages() -> list[Path]:
    """Lists every page with code that runs."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(HERE.glob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """Yields the blocks of a page."""
    text = page.read_text()
    found = list(_BLOCK.finditer(text))
    for number, one in enumerate(found):
        if one[1] != "python":
            continue
        after = found[number + 1] if number + 1 < len(found) else None
        printed = after[2] if after and after[1] == "text" and not text[one.end() : after.start()].strip() else None
        yield Block(one[2], text.count("\n", 0, one.start(2)) + 1, printed)


def run(page: Path, pictures: Path | None = None) -> int:
    """Runs a page in a folder that is gone afterwards; returns how many blocks it has.

    Args:
      page: a file in Markdown.
      pictures: where pictures that it saves go.  None: nowhere.

    Raises:
      PageError: a block fails, or prints something else than the page says.
    """
    name, count, world = str(page.relative_to(ROOT)), 0, {"__name__": page.stem}
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.chdir(folder):
            for block in blocks(page):
                _run(name, block, world)
                count += 1
        if pictures and (made := sorted(Path(folder).glob("*.svg"))):
            pictures.mkdir(exist_ok=True)
            for picture in made:
                shutil.copy(picture, pictures)
            (pictures / f"{page.stem}.ipynb").write_text(notebook(page))
    return count


def _run(name: str, block: Block, world: dict[str, Any]) -> None:
    # Lines are those of the page, so that a traceback points into it.
    code = "\n" * (block.line - 1) + block.code
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            exec(compile(code, name, "exec"), world)
    except Exception as error:
        lines = [one.lineno for one in traceback.extract_tb(error.__traceback__) if one.filename == name]
        line = lines[-1] if lines else getattr(error, "lineno", None) or block.line
        raise PageError(f"{name}:{line}: {type(error).__name__}: {error}") from error
    if block.printed is not None and out.getvalue().strip() != block.printed.strip():
        raise PageError(f"{name}:{block.line}: expected to print\n{block.printed}but it printed\n{out.getvalue()}")


def notebook(page: Path) -> str:
    """Makes a notebook of a page, as JSON: its text and its code."""
    cells: list[dict[str, Any]] = []
    at, text = 0, page.read_text()
    for one in [*_BLOCK.finditer(text), None]:
        said = text[at : one.start() if one else len(text)].strip()
        if said:
            cells.append({"cell_type": "markdown", "metadata": {}, "source": said.splitlines(keepends=True)})
        if one and one[1] == "python":
            source = one[2].rstrip().splitlines(keepends=True)
            cells.append(
                {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": [], "source": source}
            )
        at = one.end() if one else at
    cells = [{**cell, "id": f"cell-{number}"} for number, cell in enumerate(cells)]
    return json.dumps(
        {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1, ensure_ascii=False
    )


def main(words: list[str]) -> int:
    """Runs the pages that are named, or all."""
    for page in [Path(word).resolve() for word in words] or pages():
        try:
            sys.stdout.write(f"{page.relative_to(ROOT)}: {run(page, PICTURES)} blocks\n")
            sys.stdout.flush()
        except PageError as error:
            sys.stderr.write(f"error: {error}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
