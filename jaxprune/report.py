"""From results to one self-contained HTML page, with figures as inline SVG."""

import html
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

try:
    import matplotlib as mpl
    from matplotlib.figure import Figure
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "jaxprune.report draws with matplotlib, which is not installed. Do pip install matplotlib, or "
        "pip install -e '.[studies]' in a clone."
    ) from error

from jaxprune import files

# Okabe and Ito's palette, which colour-blind readers can tell apart too, darkest first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#6A3D9A")

_STYLE: Any = {
    "axes.edgecolor": "#8a8578",
    "axes.grid": True,
    "axes.labelcolor": "#3b382f",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "grid.color": "#e4dfd3",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "jaxprune",  # the same figure has the same bytes
    "xtick.color": "#5c574a",
    "ytick.color": "#5c574a",
}


class Cell(NamedTuple):
    """A cell of a table: its text, a tone ("good", "bad", "unsure", "none") and what hovering over it shows."""

    text: str
    tone: str = ""
    hint: str = ""


@contextmanager
def figure(width: float = 9.5, height: float = 4.0) -> Iterator[Figure]:
    """Makes a figure in the style of the pages; it is drawn into without any global state.

    >>> with figure() as drawn:
    ...     _ = drawn.subplots().plot([0, 1], [0, 1])
    """
    with mpl.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


class Page:
    """One HTML page, written piece by piece from top to bottom.

    Args:
      title: the heading.
      lead: the first paragraph, set larger.

    >>> page = Page("Title", "What this is.")
    >>> page.text("A paragraph.")
    >>> "A paragraph." in page.html()
    True
    """

    def __init__(self, title: str, lead: str) -> None:
        self._title = title
        self._parts = [f"<h1>{html.escape(title)}</h1>", f'<p class="lead">{html.escape(lead)}</p>']

    def section(self, heading: str) -> None:
        """Starts a section."""
        self._parts.append(f"<h2>{html.escape(heading)}</h2>")

    def notice(self, paragraph: str) -> None:
        """Adds what a reader must know first, right below the first paragraph."""
        self._parts.insert(2, f'<p class="notice">{html.escape(paragraph)}</p>')

    def text(self, paragraph: str) -> None:
        """Adds a paragraph of plain text."""
        self._parts.append(f"<p>{html.escape(paragraph)}</p>")

    def points(self, sentences: Sequence[tuple[str, str]] | Mapping[str, str]) -> None:
        """Adds a list of plain sentences, each with a few words of its own in front."""
        if isinstance(sentences, Mapping):
            sentences = list(sentences.items())
        if not sentences:
            return
        items = (f"<li><strong>{html.escape(lead)}</strong> {html.escape(rest)}</li>" for lead, rest in sentences)
        self._parts.append(f"<ul>{''.join(items)}</ul>")

    def code(self, lines: str) -> None:
        """Adds lines of code."""
        self._parts.append(f"<pre>{html.escape(lines)}</pre>")

    def drawing(self, drawn: Figure, caption: str) -> None:
        """Adds a figure."""
        with mpl.rc_context(_STYLE):
            picture = io.StringIO()
            drawn.savefig(picture, format="svg", metadata={"Date": None})
        svg = picture.getvalue()
        svg = svg[svg.index("<svg") :]
        self._parts.append(f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>")

    def table(
        self, caption: str, header: Sequence[str], rows: Sequence[Sequence[str | Cell]], folded: bool = False
    ) -> None:
        """Adds a table under its caption; the first column names the rows.  Folded: the reader opens it."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
        body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
        table = f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        title = html.escape(caption)
        self._parts.append(
            f"<details><summary>{title}</summary>{table}</details>"
            if folded
            else f"<figure><figcaption>{title}</figcaption>{table}</figure>"
        )

    def html(self) -> str:
        """Returns the page as text."""
        style = resources.files("jaxprune").joinpath("report.css").read_text()
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(self._title)}</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<style>{style}</style></head><body><main>{''.join(self._parts)}</main></body></html>\n"
        )

    def write(self, path: Path) -> None:
        """Writes the page, at once and complete."""
        files.write(path, self.html())


def _cell(cell: str | Cell) -> str:
    if isinstance(cell, str):
        cell = Cell(cell)
    attributes = f' class="{cell.tone}"' if cell.tone else ""
    attributes += f' title="{html.escape(cell.hint)}"' if cell.hint else ""
    return f"<td{attributes}>{html.escape(cell.text)}</td>"
