"""That pages do what they say, that the site builds without a warning, and that public names have their entries."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from unittest import mock

import jax
import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def loaded(name: str) -> ModuleType:
    """A module of the documentation, which is no package."""
    with mock.patch.object(sys, "path", [str(DOCS), *sys.path]), mock.patch.object(sys, "dont_write_bytecode", True):
        return importlib.import_module(name)


executed, reference = loaded("executed"), loaded("reference")


@pytest.fixture
def float32():
    """As whoever reads a page has it."""
    jax.config.update("jax_enable_x64", False)


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("page", executed.pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_run_finds_that_a_page_does_what_it_says(page):
    assert executed.run(page) == page.read_text().count("\n```python\n")


def test_run_names_the_line_that_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(executed, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("words\n\n```python\nx = 1\nx / 0\n```\n")
    with pytest.raises(executed.PageError, match=r"^page.md:5: ZeroDivisionError"):
        executed.run(page)
    page.write_text("```python\nx = 1\n```\n\n```python\nprint(x)\n```\n\n```text\n2\n```\n")
    with pytest.raises(executed.PageError, match=r"^page.md:6: expected to print\n2\nbut it printed\n1\n"):
        executed.run(page)
    page.write_text("```python\nx = (1\n```\n")
    with pytest.raises(executed.PageError, match=r"^page.md:2: SyntaxError"):
        executed.run(page)
    page.write_text("```python\nprint(1)\n```\n\nbetween\n\n```text\nno output of it\n```\n")
    assert executed.run(page) == 1


def test_notebook_has_the_text_and_the_code_of_a_page():
    cells = json.loads(executed.notebook(DOCS / "walk.md"))["cells"]
    code = ["".join(one["source"]) for one in cells if one["cell_type"] == "code"]
    assert code == [block.code.rstrip() for block in executed.blocks(DOCS / "walk.md")]
    assert "# A walk of ten minutes" in cells[0]["source"][0]


def test_names_of_the_reference_are_all_that_is_public(tmp_path):
    reference.write(tmp_path / "api")
    entries = set()
    for page in (tmp_path / "api").glob("*.rst"):
        entries |= set(
            re.findall(r"^\.\. (?:autoclass|autofunction|py:data):: jaxprune\.(\S+)$", page.read_text(), re.M)
        )
    public = {f"{module.__name__}.{name}"[9:] for module in reference.modules() for name in reference.names(module)}
    assert entries == public | {"Network", "Preprocess"}
    assert len(entries) > 300
    assert all((module.__doc__ or "").strip() for module in reference.modules())


def test_write_makes_pages_that_build_without_a_warning(tmp_path):
    """The build checks links between pages and anchors in them; pictures of the walk are made by its code.

    Without the pages that show the sources, which nobody writes.
    """
    pictures = [DOCS / "_pictures" / name for name in ("walk.ipynb", "walk_curves.svg", "walk_path.svg")]
    for picture in pictures:
        picture.parent.mkdir(exist_ok=True)
        if not picture.exists():
            picture.write_text("")
    words = ["--fail-on-warning", "--keep-going", "-q", "-b", "html", "-t", "no_sources"]
    command = [sys.executable, "-m", "sphinx", *words]
    done = subprocess.run([*command, DOCS, tmp_path / "html"], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "jaxprune.curvature.diagonal" in (tmp_path / "html" / "api" / "jaxprune.curvature.html").read_text()
