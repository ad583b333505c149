"""Checks that a page can be read by everyone: ``python -m experiments.shared.check_page FILE``.

Prints what was counted, and ends with 1 where something is missing or out of bounds.  Contrast is that of the page's
own style sheet, in light and in dark, as WCAG 2.2 defines it; 4.5 is its level AA.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

AA, SUMMARY = 4.5, 120
"""Contrast at least; words of the summary at most."""

_VOID = {"meta", "link", "br", "hr", "img", "input"}
_ASIDE = {"table", "svg", "pre", "nav", "details", "style", "title"}
"""What is no running text."""
_NUMBER = re.compile(r"\d[\d.,]*")


@dataclass
class Element:
    """A tag with what is in it."""

    tag: str
    attributes: dict[str, str]
    parent: "Element | None"
    words: list[str] = field(default_factory=list)
    children: list["Element"] = field(default_factory=list)

    @property
    def classes(self) -> set[str]:
        """The words of its class."""
        return set(self.attributes.get("class", "").split())

    def all(self) -> Iterator["Element"]:
        """Lists it, and everything in it."""
        yield self
        for child in self.children:
            yield from child.all()

    def above(self) -> Iterator["Element"]:
        """Lists it, and what it is in, from the inside out."""
        yield self
        if self.parent:
            yield from self.parent.above()

    def text(self, without: set[str] = frozenset()) -> str:  # type: ignore[assignment]
        """Returns the words in it, but for those in some tags."""
        parts = [*self.words, *(child.text(without) for child in self.children if child.tag not in without)]
        return " ".join(parts)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = self.here = Element("", {}, None)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = Element(tag, {name: value or "" for name, value in attrs}, self.here)
        self.here.children.append(found)
        if tag not in _VOID:
            self.here = found

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.here.children.append(Element(tag, {name: value or "" for name, value in attrs}, self.here))

    def handle_endtag(self, tag: str) -> None:
        place = next((one for one in self.here.above() if one.tag == tag), None)
        if place is not None and place.parent is not None:
            self.here = place.parent

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.here.words.append(data.strip())


def read(text: str) -> Element:
    """Reads a page."""
    reader = _Reader()
    reader.feed(text)
    return reader.root


def check(text: str) -> dict[str, tuple[float, str]]:
    """Counts what is asked of a page: {what: (how many, "" or what is wrong with it)}."""
    page = read(text)
    elements = list(page.all())
    ids = Counter(one.attributes["id"] for one in elements if "id" in one.attributes)
    named = {one.attributes["id"]: one.text().strip() for one in elements if "id" in one.attributes}
    targets = [one.attributes.get(name, "") for one in elements for name in ("href", "xlink:href")]
    links = [one[1:] for one in targets if one.startswith("#")]
    low = {theme: contrast(page, theme) for theme in ("light", "dark")}
    summary = " ".join(one.text() for one in elements if "summary" in one.classes)
    found: dict[str, list[str]] = {
        "duplicate ids": [name for name, count in ids.items() if count > 1],
        "images without text": [one.tag for one in elements if _is_image(one) and not _named(one, named)],
        "tables without a name": ["table" for one in elements if one.tag == "table" and not _named(one, named)],
        "th without scope": [one.text() for one in elements if one.tag == "th" and "scope" not in one.attributes],
        "numbers that only hovering shows": [one.attributes["title"] for one in elements if _hidden(one)],
        "links to nowhere": [one for one in links if one not in ids],
        **{f"texts below {AA} of contrast, {theme}": wrong for theme, wrong in low.items()},
    }
    counts = {name: (float(len(wrong)), "; ".join(dict.fromkeys(wrong))) for name, wrong in found.items()}
    words = len(summary.split())
    counts["words of the summary"] = (words, "" if 0 < words <= SUMMARY else f"expected 1 to {SUMMARY}")
    counts["words of running text, captions included"] = (len(page.text(_ASIDE).split()), "")
    return counts


def _is_image(one: Element) -> bool:
    inside = one.parent and any(above.tag == "svg" for above in one.parent.above())
    return one.tag in ("img", "svg") and not inside


def _named(one: Element, named: dict[str, str]) -> bool:
    own = one.attributes
    label = own.get("alt", "") or own.get("aria-label", "") or named.get(own.get("aria-labelledby", ""), "")
    return bool(label or any(child.tag == "caption" and child.text().strip() for child in one.children))


def _hidden(one: Element) -> bool:
    """Whether a title has a number that the text of its element has not."""
    return bool(set(_NUMBER.findall(one.attributes.get("title", ""))) - set(_NUMBER.findall(one.text())))


# ------------------------------------------------------------------------------------------------------------ contrast


def contrast(page: Element, theme: str) -> list[str]:
    """Lists the texts whose contrast with what they stand on is too low: "text (ink on paper: ratio)"."""
    rules, low = _rules(page, theme), []
    for one in page.all():
        if not one.words or any(above.tag in ("head", "title", "style") for above in one.above()):
            continue
        ink, paper = _ink(one, rules), _paper(one, rules)
        ratio = _ratio(ink, paper)
        if ratio < AA:
            low.append(f"{' '.join(one.words)[:40]!r} ({ink} on {paper}: {ratio:.1f})")
    return low


Rules = list[tuple[list[str], dict[str, str]]]
"""(a selector as the parts that it has one in another, what it says), the last of equals first."""


def _rules(page: Element, theme: str) -> Rules:
    """Reads the style sheet of a page, with its variables filled in for a theme."""
    text = "".join(" ".join(one.words) for one in page.all() if one.tag == "style")
    plain, dark = re.sub(r"@media[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}", "", text), ""
    if theme == "dark":
        found = re.search(r"@media \(prefers-color-scheme: dark\) \{((?:[^{}]*\{[^{}]*\})*)", text)
        dark = found[1] if found else ""
    variables: dict[str, str] = {}
    listed: list[tuple[tuple[int, int, int], list[str], dict[str, str]]] = []
    for number, (selectors, body) in enumerate(re.findall(r"([^{}]+)\{([^{}]*)\}", plain + dark)):
        said = dict(re.findall(r"([\w-]+)\s*:\s*([^;]+)", body))
        variables |= {name: value.strip() for name, value in said.items() if name.startswith("--")}
        for selector in selectors.split(","):
            parts = selector.split()
            if ":" not in selector:
                listed.append(((selector.count("."), len(parts), number), parts, said))
    filled = lambda said: {  # noqa: E731
        name: re.sub(r"var\((--[\w-]+)\)", lambda one: variables[one[1]], value).strip() for name, value in said.items()
    }
    return [(parts, filled(said)) for _, parts, said in sorted(listed, key=lambda one: one[0], reverse=True)]


def _said(one: Element, rules: Rules, *names: str) -> str:
    """What the style sheet says of an element itself; "" where it says nothing."""
    for parts, said in rules:
        if _matches(one, parts):
            for name in names:
                if name in said:
                    return said[name]
    return ""


def _matches(one: Element, parts: list[str]) -> bool:
    tag, *classes = parts[-1].split(".")
    if tag not in ("", "*", one.tag) or not set(classes) <= one.classes:
        return False
    above = list(one.parent.above()) if one.parent else []
    return len(parts) == 1 or any(_matches(other, parts[:-1]) for other in above)


def _ink(one: Element, rules: Rules) -> str:
    for other in one.above():
        if any(above.tag == "svg" for above in other.above()):
            fill = re.search(r"fill:\s*(#[0-9a-fA-F]{6})", other.attributes.get("style", ""))
            if fill:
                return fill[1]
            if other.tag == "svg":
                return "#000000"  # what text of a figure is that says nothing
        elif said := _said(other, rules, "color"):
            return said
    return "#000000"


def _paper(one: Element, rules: Rules) -> str:
    for other in one.above():
        if (said := _said(other, rules, "background", "background-color")).startswith("#"):
            return said
    return "#ffffff"


def _ratio(one: str, other: str) -> float:
    """The contrast of two colours, from 1 to 21.

    >>> _ratio("#000000", "#ffffff")
    21.0
    """
    dark, light = sorted(map(_luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    shares = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def main(words: list[str]) -> int:
    """Prints the counts of each page; 1 where something is wrong with one."""
    if not words:
        print("usage: python -m experiments.shared.check_page FILE ...")
        return 2
    wrong = 0
    for word in words:
        print(word)
        for name, (count, fault) in check(Path(word).read_text()).items():
            print(f"  {count:5g} {name}{': ' if fault else ''}{fault[:600]}")
            wrong += bool(fault)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
