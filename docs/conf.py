"""Sphinx: builds ``docs/`` into one site; ``scripts/docs`` calls it.  A page of the API for every public module."""

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import reference  # noqa: E402

import jaxprune  # noqa: E402

project, author, release = "jaxprune", "the jaxprune authors", jaxprune.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
if not tags.has("no_sources"):  # noqa: F821  Sphinx puts it here
    extensions.append("sphinx.ext.viewcode")  # a page for each of our modules: a third of the time
exclude_patterns = ["_build"]
html_theme = "furo"
html_show_copyright = False
html_title = f"jaxprune {release}"

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

# Types stand in the signature, words below it.
autodoc_typehints = "signature"
autodoc_type_aliases = {name: name for name in ("Params", "Mask", "Scores", "Loss", "Score", "Select", "Evaluator")}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_custom_sections = [("Source", "returns_style"), ("Warns", "params_style")]
napoleon_use_ivar = True
napoleon_use_rtype = False


def setup(app: Any) -> None:
    """Writes the pages of the API before any page is read, and reads docstrings as they are meant."""
    app.connect("builder-inited", lambda _: reference.write(HERE / "api"))
    # Before napoleon, which takes sections apart.
    app.connect("autodoc-process-docstring", lambda *given: reference.literal_blocks(given[-1]), priority=100)
