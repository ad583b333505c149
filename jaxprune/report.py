"""From results to one self-contained HTML page, with figures as inline SVG.

A page is read on a desk, on a phone, in the dark, on paper and by a screen reader: nothing on it is shown by hovering
alone, and what is wider than the screen scrolls by itself and says so.
"""

import html
import io
import re
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

_LEGIBLE = 0.7  # of its natural size, to which a figure shrinks before it scrolls
_LETTER, _PADDING = 7.0, 20.0  # pixels: a letter of a table, and what surrounds a cell
_PHONE, _DESK = 340.0, 900.0  # pixels that a page has on a phone, and at most


class Cell(NamedTuple):
    """A cell of a table: its text, a tone ("good", "bad", "unsure", "none") and a note in small type below it."""

    text: str
    tone: str = ""
    note: str = ""


@contextmanager
def figure(width: float = 9.5, height: float = 4.0) -> Iterator[Figure]:
    """Makes a figure in the style of the pages; it is drawn into without any global state.

    >>> with figure() as drawn:
    ...     _ = drawn.subplots().plot([0, 1], [0, 1])
    """
    with mpl.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


class Page:
    """One HTML page, written piece by piece from top to bottom; a list of its sections comes before the first.

    Args:
      title: the heading.
      summary: the first paragraph, set larger: what was asked, and what was found.

    >>> page = Page("Title", "What this is.")
    >>> page.section("Details")
    >>> page.text("A paragraph.")
    >>> "A paragraph." in page.html()
    True
    """

    def __init__(self, title: str, summary: str) -> None:
        self._title = title
        self._first = [f"<h1>{html.escape(title)}</h1>", f'<p class="summary">{_inline(summary)}</p>']
        self._parts: list[str] = []
        self._sections: dict[str, str] = {}
        self._figures = self._tables = 0

    def section(self, heading: str) -> None:
        """Starts a section."""
        name = f"section-{len(self._sections) + 1}-{re.sub(r'[^a-z0-9]+', '-', heading.lower()).strip('-')}"
        self._sections[name] = heading
        self._parts.append(f'<h2 id="{name}">{html.escape(heading)}</h2>')

    def notice(self, paragraph: str) -> None:
        """Adds what a reader must know first, right below the first paragraph; nothing where it is empty."""
        if paragraph:
            self._first.append(f'<p class="notice">{_inline(paragraph)}</p>')

    def text(self, paragraph: str) -> None:
        """Adds a paragraph of plain text; arXiv numbers become links."""
        self._parts.append(f"<p>{_inline(paragraph)}</p>")

    def points(self, sentences: Sequence[tuple[str, str]] | Mapping[str, str]) -> None:
        """Adds a list of plain sentences, each with a few words of its own in front."""
        if isinstance(sentences, Mapping):
            sentences = list(sentences.items())
        if not sentences:
            return
        items = (f"<li><strong>{html.escape(lead)}</strong> {_inline(rest)}</li>" for lead, rest in sentences)
        self._parts.append(f"<ul>{''.join(items)}</ul>")

    def links(self, addresses: Mapping[str, str]) -> None:
        """Adds a line of links: {what they are called: where they lead}."""
        listed = (f'<a href="{html.escape(where)}">{html.escape(name)}</a>' for name, where in addresses.items())
        self._parts.append(f"<p>{' · '.join(listed)}</p>")

    def code(self, lines: str) -> None:
        """Adds lines of code."""
        self._parts.append(f'<pre tabindex="0">{html.escape(lines)}</pre>')

    def drawing(self, drawn: Figure, caption: str) -> None:
        """Adds a figure; its caption says in words what it shows."""
        with mpl.rc_context(_STYLE):
            picture = io.StringIO()
            drawn.savefig(picture, format="svg", metadata={"Date": None})
        self._figures += 1
        name = f"figure-{self._figures}"
        svg = _embedded(picture.getvalue(), name)
        hint = _hint(_LEGIBLE * 96 * drawn.get_figwidth())
        self._parts.append(
            f'<figure>{hint}<div class="scroll" tabindex="0" role="region" aria-labelledby="{name}">{svg}</div>'
            f'<figcaption id="{name}">{_inline(caption)}</figcaption></figure>'
        )

    def table(
        self, caption: str, header: Sequence[str], rows: Sequence[Sequence[str | Cell]], folded: bool = False
    ) -> None:
        """Adds a table under its caption; the first column names the rows.  Folded: the reader opens it."""
        self._tables += 1
        name = f"table-{self._tables}"
        head = "".join(f'<th scope="col">{html.escape(one)}</th>' if one else "<td></td>" for one in header)
        body = "".join(f'<tr><th scope="row">{_words(row[0])}</th>{"".join(map(_cell, row[1:]))}</tr>' for row in rows)
        table = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        hint, title = _hint(_table_width(header, rows)), html.escape(caption)
        region = f'{hint}<div class="scroll" tabindex="0" role="region" aria-labelledby="{name}">'
        self._parts.append(
            f'<details><summary id="{name}">{title}</summary>{region}<table aria-labelledby="{name}">{table}</div>'
            "</details>"
            if folded
            else f'{region}<table><caption id="{name}"><span>{title}</span></caption>{table}</div>'
        )

    def html(self) -> str:
        """Returns the page as text."""
        style = resources.files("jaxprune").joinpath("report.css").read_text()
        parts = "".join(self._parts)
        # What answers the question stands before the list.
        before, heading, rest = parts.partition("<h2 ")
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(self._title)}</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<style>{style}</style></head><body><main>{''.join(self._first)}{before}{self._contents()}{heading}{rest}"
            "</main></body></html>\n"
        )

    def write(self, path: Path) -> None:
        """Writes the page, at once and complete."""
        files.write(path, self.html())

    def _contents(self) -> str:
        if len(self._sections) < 3:
            return ""
        listed = (f'<li><a href="#{name}">{html.escape(one)}</a></li>' for name, one in self._sections.items())
        return f'<nav aria-label="Contents"><ul>{"".join(listed)}</ul></nav>'


def _inline(text: str) -> str:
    """Escapes text, and makes links of arXiv numbers."""
    found = html.escape(text, quote=False).replace(" %", "\u00a0%")  # no line begins with a sign
    return re.sub(r"arXiv (\d{4}\.\d{4,5})", r'<a href="https://arxiv.org/abs/\1">arXiv \1</a>', found)


def _embedded(svg: str, name: str) -> str:
    """Makes a figure part of a page: its ids are its own there, and its caption is its name."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    seen: set[str] = set()
    svg = re.sub(r' id="([^"]*)"', lambda one: _own_id(one[1], name, seen), svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    width = float(re.search(r'width="([\d.]+)pt"', svg)[1]) * 96 / 72  # type: ignore[index]
    named = f'<svg role="img" aria-labelledby="{name}" style="min-width: {_LEGIBLE * width:.0f}px" '
    return svg.replace("<svg ", named, 1)


def _own_id(found: str, name: str, seen: set[str]) -> str:
    """Writes an id for the page; things that are equal have one id in a figure, which the first of them keeps."""
    if found in seen:
        return ""
    seen.add(found)
    return f' id="{name}-{found}"'


def _table_width(header: Sequence[str], rows: Sequence[Sequence[str | Cell]]) -> float:
    """Estimates how many pixels a table takes at least."""
    columns = zip(*([header, *rows]), strict=False)
    return sum(_PADDING + _LETTER * max(map(_longest, column)) for column in columns)


def _longest(cell: str | Cell) -> float:
    return len(cell) if isinstance(cell, str) else max(len(cell.text), 0.85 * min(len(cell.note), 60))


def _hint(width: float) -> str:
    """Says that something scrolls, on screens that are narrower."""
    if width <= _PHONE:
        return ""
    kind = "hint" if width > _DESK else "hint narrow"
    return f'<p class="{kind}" aria-hidden="true">Scrolls sideways →</p>'


def _cell(cell: str | Cell) -> str:
    tone = cell.tone if isinstance(cell, Cell) else ""
    return f'<td class="{tone}">{_words(cell)}</td>' if tone else f"<td>{_words(cell)}</td>"


def _words(cell: str | Cell) -> str:
    if isinstance(cell, str):
        return html.escape(cell)
    return html.escape(cell.text) + (f"<small>{html.escape(cell.note)}</small>" if cell.note else "")
