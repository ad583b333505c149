"""How the pages of all studies say things: words, cells of verdicts, tables of claims, where it was computed."""

import importlib.metadata
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table as Printed

from experiments.shared.architectures import architecture_of
from experiments.shared.results import FLOOR, Results
from jaxprune import report, stats
from jaxprune.data import FRACTIONS
from jaxprune.report import Cell

TONES = {"holds": "good", "does not hold": "bad", "undecided": "unsure", FLOOR: "none"}
TONES |= {"found": "good", "not found": "none"}
"""The tone of a cell for each verdict."""
MARKS = {"holds": "holds", "does not hold": "no", "undecided": "undecided", FLOOR: "floor"}
MARKS |= {"found": "found", "not found": "not found"}
"""What a cell says for each verdict."""
DATA = {"digits": "handwritten digits", "shapes": "painted shapes with textures"}
"""What bundled data are called in a sentence."""


def percent(share: Any) -> str:
    """Writes a measured share in percent, with one digit after the point.

    >>> percent(0.1234), percent(0.99)
    ('12.3 %', '99.0 %')
    """
    return f"{100 * share:.1f} %"


def chosen(share: Any) -> str:
    """Writes a share that somebody chose in percent, with no more digits than it has.

    >>> chosen(0.5), chosen(0.075)
    ('50 %', '7.5 %')
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

    >>> points(-0.0123), points(0.0004)
    ('−1.2', '0.0')
    """
    text = f"{100 * share:+.1f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def spread(found: Any, write: Callable[[float], str] = points, unit: str = " points") -> str:
    """Writes a mean with its interval; ``found`` has ``mean``, ``low`` and ``high``.

    >>> spread(stats.Interval(-0.012, -0.02, -0.004)), spread(stats.Interval(0.1, -np.inf, np.inf))
    ('−1.2 points (−2.0 to −0.4)', '+10.0 points (no interval)')
    """
    ends = f"{write(found.low)} to {write(found.high)}" if np.isfinite([found.low, found.high]).all() else "no interval"
    return f"{write(found.mean)}{unit} ({ends})"


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


def network(settings: Any, data: str, metrics: Sequence[Mapping[str, Any]]) -> str:
    """Says which network is pruned.

    Args:
      settings: of the study.
      data: the hash of network and images.
      metrics: of the dense network of every seed, with its accuracy "pretrained" where it was trained here.
    """
    if settings.weights:
        return f"{settings.architecture}, of a file; the hash of weights and images together is {data}."
    if settings.network:
        return f"That of {settings.network}; the hash of network and images together is {data}."
    own = [one["pretrained"]["accuracy"] for one in metrics if one.get("pretrained")]
    whole = f" Its own classifier gets {percent(float(np.mean(own)))} of all classes right." if own else ""
    return f"{architecture_of(settings).said(settings)}, pretrained on all classes.{whole}"


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


def done(settings: Any, results: Results) -> dict[str, str]:
    """Says how networks with frozen heads were made and tested, in the points of a short page."""
    tuning = f"{settings.finetune_steps} steps on the source, {rate(settings)}. The dense control has the same."
    return {
        "Network.": network(settings, results.data, results.of(method="dense")),
        "Splits.": splits(settings),
        "Fine-tuning.": tuning,
        "Intervals.": INTERVALS,
    }


def tuned(changes: Mapping[str, stats.Interval]) -> str:
    """Says where fine-tuning alone changes the dense network by more than its interval; empty where it does not.

    What it loses, pruned networks lose too; what it gains, it had not learned before, and they gain without pruning.

    >>> tuned({"source": stats.Interval(0.0, -0.1, 0.1), "transfer": stats.Interval(-0.2, -0.3, -0.1)})
    'Fine-tuning alone, without pruning, changes the dense network by −20.0 points (−30.0 to −10.0) on transfer.'
    """
    moved = {name: change for name, change in changes.items() if change.high < 0 or change.low > 0}
    said = [f"{spread(change)} on {name}" for name, change in moved.items()]
    return f"Fine-tuning alone, without pruning, changes the dense network by {joined(said)}." if said else ""


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
    """Says how many runs there were, when, how long they took, where, and with which versions."""
    place = records[0]["provenance"]
    versions = ", ".join(f"{name} {version}" for name, version in place["packages"].items())
    dates = sorted({one["provenance"]["date"] for one in records if "date" in one["provenance"]})
    when = f" on {joined(list(dict.fromkeys([dates[0], dates[-1]])))}" if dates else ""
    minutes = sum(one["provenance"]["seconds"] for one in records) / 60
    return (
        f"{counted(len(records), 'run')}{when}, {minutes:.1f} minutes without what they share, on "
        f"{', '.join(sorted(set(place['devices'])))}. {versions}; Python {place['python']}; commit "
        f"{place['commit'][:12]}."
    )


def begun(
    title: str, summary: str, seeds: Sequence[int], notices: Sequence[str], drawn: Figure, caption: str
) -> report.Page:
    """Begins a page: in at most 120 words what was asked and found, what to know first, the figure that answers."""
    page = report.Page(title, summary)
    for words in (few_seeds(len(seeds)), *notices):
        page.notice(words)
    page.drawing(drawn, caption)
    return page


def ending(page: report.Page, command: str, tables: Sequence[str], records: Sequence[dict[str, Any]]) -> None:
    """Ends a page: the command that made it, where and when it was computed, and links to its tables."""
    page.section("Where this comes from")
    page.code(command)
    page.text(provenance(records))
    page.links({f"{name}.csv": f"{name}.csv" for name in tables} | _repository())


def _repository() -> dict[str, str]:
    """Where the project says that it lives, in its metadata; nothing where it does not say."""
    listed = importlib.metadata.metadata("jaxprune").get_all("Project-URL") or []
    places = dict(one.split(", ", 1) for one in listed)
    return {"repository": places["Repository"]} if "Repository" in places else {}


def failures(failed: Sequence[tuple[Any, dict[str, Any]]], name: Callable[[Any], str], left_out: Sequence[str]) -> str:
    """Says which runs failed, called by their names, and what that means for the page."""
    listed = "; ".join(f"{name(run)}: {failure['error']}" for run, failure in failed[:5])
    more = f"; and {len(failed) - 5} more" if len(failed) > 5 else ""
    return (
        f"{counted(len(failed), 'run')} failed ({listed}{more}). Their tracebacks are in failed/ beside this page. "
        f"Left out of all that follows: {joined(left_out)}."
    )


def few_seeds(count: int) -> str:
    """Says of fewer than three seeds what they leave open; empty of more."""
    if count == 1:
        return "One seed: nothing is decided about others; intervals, where there are any, are over its images alone."
    return "Two seeds leave intervals very wide: little is decided." if count == 2 else ""


INTERVALS = (
    "Intervals of 95 %: Student's t over seeds, with the variance of test images that seeds share; exact where all "
    "are right or wrong (jaxprune.stats). They were counted to hold in 93 % of simulated studies or more "
    "(scripts/coverage.py)."
)


def held(tested: Any) -> str:
    """Says in how many cases each claim holds, in a sentence."""
    said = []
    for name, rows in tested.groupby("claim", sort=False):
        said.append(f"{name} in {(rows.verdict == 'holds').sum()} of {counted(len(rows), 'case')}")
    return joined(said)


def claims_table(page: report.Page, tested: Any) -> None:
    """Adds what was found, in a row for each claim: in how many cases it holds, and in how many it would by chance."""
    words = [one for one in MARKS if one in {"holds", "does not hold", "undecided"} or (tested.verdict == one).any()]
    rows = []
    for claim, here in tested.groupby("claim", sort=False):
        rows.append([Cell(str(claim), note=here.meaning.iloc[0]), *verdict_counts(here, words), by_chance(here)])
    page.table(
        "What was claimed, and in how many cases each verdict came out. Every case stands for itself; the last column "
        f"says in how many {words[0]!r} would come out by chance, were the truth at the bound in all of them.",
        ["claim", *(MARKS[one] if one == FLOOR else one for one in words), "by chance"],
        rows,
    )


def verdict_counts(rows: Any, words: Sequence[str]) -> list[Cell]:
    """Writes as cells in how many cases each of these verdicts came out."""
    counts = {word: int((rows.verdict == word).sum()) for word in words}
    return [Cell(str(count), TONES[word] if count else "none") for word, count in counts.items()]


def by_chance(rows: Any) -> str:
    """Says how many of these cases would hold, or be found, by chance were the truth at the bound: 2.5 % of them.

    None of those of one seed, which decides nothing.
    """
    return f"{0.025 * (rows.seeds > 1).sum():.1f}"


def verdict_cell(row: Any, shown: str = "") -> Cell:
    """Writes a verdict as a cell, with the interval below it."""
    write: Callable[[float], str] = points if row.unit == "share" else "{:.3g}".format
    return Cell(f"{shown} {MARKS[row.verdict]}".strip(), TONES[row.verdict], spread(row, write, ""))


def verdict_table(
    page: report.Page,
    rows: Any,
    down: str,
    across: str,
    label: Callable[[Any], str] = str,
    head: Callable[[Any], str] = str,
    shown: Callable[[Any], str] = lambda row: "",
) -> None:
    """Adds a table of one claim, which the reader opens: a column of its table down, another across.

    Args:
      page: to which it is added.
      rows: of the verdicts; where there are none, nothing is added.
      down: the column that names the rows.
      across: the column that names the columns.
      label: what a row is called.
      head: what a column is called.
      shown: what a cell shows before its verdict.
    """
    if not len(rows):
        return
    heads = list(dict.fromkeys(rows[across]))
    table = []
    for name, cells in rows.groupby(down, sort=False):
        found = {getattr(row, across): verdict_cell(row, shown(row)) for row in cells.itertuples()}
        table.append([label(name), *(found.get(one, "") for one in heads)])
    least, most, seeds = rows.n.min(), rows.n.max(), rows.seeds.max()
    count = f"n = {most}, " if least == most else f"n from {least} to {most}, "
    unit = "points" if rows.unit.iloc[0] == "share" else rows.unit.iloc[0]
    of = f"{count if most > seeds else ''}{counted(seeds, 'seed')}"
    caption = f"{rows.claim.iloc[0]}: {rows.meaning.iloc[0]} ({unit}; {of})"
    page.table(caption, ["", *map(head, heads)], table, folded=True)


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
