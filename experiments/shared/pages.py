"""How the pages of all studies say things: words, cells of verdicts, tables of claims, where it was computed."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table as Printed

from jaxprune import report
from jaxprune.data import FRACTIONS
from jaxprune.report import Cell

TONES = {"holds": "good", "does not hold": "bad", "undecided": "unsure", "undecided (floor)": "none"}
TONES |= {"found": "good", "not found": "none"}
"""The tone of a cell for each verdict."""
MARKS = {"holds": "holds", "does not hold": "no", "undecided": "undecided", "undecided (floor)": "floor"}
MARKS |= {"found": "found", "not found": "not found"}
"""What a cell says for each verdict."""
DATA = {"digits": "handwritten digits", "shapes": "painted shapes with textures"}
"""What bundled data are called in a sentence."""


def percent(share: Any) -> str:
    """Writes a share in percent, three digits of it.

    >>> percent(0.1234)
    '12.3 %'
    """
    return f"{100 * share:.3g} %"


def counted(count: int, word: str) -> str:
    """Says how many there are of something.

    >>> counted(1, "seed"), counted(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def joined(words: Sequence[str]) -> str:
    """Lists words in a sentence.

    >>> joined(["a", "b", "c"])
    'a, b and c'
    """
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def points(share: float) -> str:
    """Writes a difference of two shares in percentage points.

    >>> points(-0.0123)
    '-1.2'
    """
    return f"{100 * share:+.1f}"


def duration(seconds: float) -> str:
    """Writes a time roughly.

    >>> duration(5.2), duration(200), duration(9000)
    ('6 s', '3 min', '2.5 h')
    """
    if seconds < 120:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def pretraining(settings: Any) -> str:
    """What a sentence calls the data that a network has seen before it is pruned."""
    if settings.weights or settings.network:
        return f"other data ({settings.architecture or settings.network})"
    return DATA.get(settings.data, Path(settings.data.partition(":")[2] or settings.data).name)


def network(settings: Any, data: str) -> str:
    """Says which network is pruned; ``data`` is the hash of network and images."""
    if settings.weights:
        return f"{settings.architecture}, of a file; the hash of weights and images together is {data}."
    if settings.network:
        return f"That of {settings.network}; the hash of network and images together is {data}."
    return f"CIFAR ResNet of depth {settings.depth} and width {settings.width}, pretrained on all classes."


def rate(settings: Any) -> str:
    """Says at which rate networks are fine-tuned: the one that is fixed, or what it is chosen among.

    >>> from types import SimpleNamespace
    >>> rate(SimpleNamespace(finetune_rates=(0.01,)))
    'at a rate of 0.01'
    """
    rates = [f"{one:g}" for one in settings.finetune_rates]
    if len(rates) == 1:
        return f"at a rate of {rates[0]}"
    return f"at the rate among {joined(rates)} that is best for each network on the selection images"


def splits(settings: Any, tests: bool = False, protocol: str = "leak-free") -> str:
    """Says how images are split; ``tests``: whether the data set keeps some for testing."""
    if protocol == "public-proxy":
        return "None: every part is all test images of a task, as in the authors' closest public code (CVPR 2024)."
    pretrained = bool(settings.weights or settings.network)
    without = ({"pretraining"} if pretrained else set()) | ({"test"} if tests else set())
    kept = {name: share for name, share in FRACTIONS.items() if name not in without}
    total = sum(kept.values())
    sizes = ", ".join(f"{share / total:.0%} {part}" for part, share in kept.items())
    most = f", at most {settings.most_per_class} images of a class in each" if settings.most_per_class else ""
    ours = " The data set has images of its own for tests; these are of the others." if tests else ""
    return f"Disjoint and stratified, anew for each seed: {sizes}{most}.{ours}"


def provenance(records: Sequence[dict[str, Any]]) -> str:
    """Says how many runs there were, how long they took, where, and with which versions."""
    place = records[0]["provenance"]
    versions = ", ".join(f"{name} {version}" for name, version in place["packages"].items())
    return (
        f"{len(records)} runs, {sum(one['provenance']['seconds'] for one in records) / 60:.1f} minutes without what "
        f"they share, on {', '.join(sorted(set(place['devices'])))}. {versions}; Python "
        f"{place['python']}; commit {place['commit'][:12]}."
    )


def failures(failed: Sequence[tuple[Any, dict[str, Any]]], name: Callable[[Any], str], left_out: Sequence[str]) -> str:
    """Says which runs failed, called by their names, and what that means for the page."""
    listed = "; ".join(f"{name(run)}: {failure['error']}" for run, failure in failed[:5])
    more = f"; and {len(failed) - 5} more" if len(failed) > 5 else ""
    return (
        f"{counted(len(failed), 'run')} failed ({listed}{more}). Their tracebacks are in failed/ beside this page. "
        f"Left out of all that follows: {joined(left_out)}."
    )


def few_seeds(count: int) -> str:
    """Says of fewer than three seeds that they are few."""
    few = " Fewer than three seeds say little about other seeds: take every verdict below as a first look."
    return few if count < 3 else ""


def verdict_cell(row: Any, shown: str = "") -> Cell:
    """Writes a verdict as a cell; the interval is seen when hovering over it."""
    write: Callable[[float], str] = points if row.unit == "share" else "{:.3g}".format
    unit = " points" if row.unit == "share" else ""
    hint = f"{row.verdict}: {write(row.mean)}{unit}, 95 % interval {write(row.low)} to {write(row.high)}"
    return Cell(f"{shown} {MARKS[row.verdict]}".strip(), TONES[row.verdict], f"{hint}; n = {row.n}, seeds: {row.seeds}")


def verdict_table(
    page: report.Page,
    rows: Any,
    down: str,
    across: str,
    label: Callable[[Any], str] = str,
    head: Callable[[Any], str] = str,
    shown: Callable[[Any], str] = lambda row: "",
    folded: bool = False,
) -> None:
    """Adds a table of one claim: a column of its table down, another across.

    Args:
      page: to which it is added.
      rows: of the verdicts; where there are none, nothing is added.
      down: the column that names the rows.
      across: the column that names the columns.
      label: what a row is called.
      head: what a column is called.
      shown: what a cell shows before its verdict.
      folded: whether the reader opens it.
    """
    if not len(rows):
        return
    heads = list(dict.fromkeys(rows[across]))
    table = []
    for name, cells in rows.groupby(down, sort=False):
        found = {getattr(row, across): verdict_cell(row, shown(row)) for row in cells.itertuples()}
        table.append([label(name), *(found.get(one, "") for one in heads)])
    page.table(f"{rows.claim.iloc[0]}: {rows.meaning.iloc[0]}", ["", *map(head, heads)], table, folded=folded)


def tally(tested: Any) -> Printed:
    """Counts the verdicts of each claim, for the console."""
    table = Printed(title="Verdicts: how many cases of each claim")
    names = list(dict.fromkeys(["holds", "does not hold", "undecided", *tested.verdict]))
    table.add_column("claim")
    for name in names:
        table.add_column(name, justify="right")
    for claim, rows in tested.groupby("claim", sort=False):
        table.add_row(str(claim), *(str(int((rows.verdict == name).sum())) for name in names))
    return table
