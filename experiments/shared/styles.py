"""What figures and tables call a method, and how its line is drawn, in all studies."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from experiments.shared import named
from jaxprune import report, stats

_SCORES = {
    "diagonal": "Hessian diagonal",
    "diagonal-estimate": "Hessian diagonal (estimate from 2 probes)",
    "greedy": "greedy surgeon",
    "obs": "surgeon, one deletion",
    "quadratic": "Hessian block (quadratic)",
    "quadratic-signed": "Hessian block (quadratic, signed)",
    "random": "random mask",
    "joint": "all gates jointly",
}
OBJECTIVE_LABELS = {
    "label": "labels",
    "source-head": "source head",
    "logits": "all logits",
    "features": "features",
    "logits-of-all": "all logits, images of all tasks (not zero-shot)",
}
_UPDATES = {"surgeon": " + update", "rounds": " + rounds", "adam": " + Adam", "readjusted": " + re-adjusted"}


def label(word: str) -> str:
    """Returns what figures and tables call a method.

    >>> label("logits/greedy+rounds"), label("magnitude")
    ('greedy surgeon + rounds, all logits', 'magnitude')
    """
    before, _, after = word.rpartition("/")
    score, _, update = after.partition("+")
    name = f"{_SCORES.get(score, named.label(score))}{_UPDATES.get(update, '')}"
    return f"{name}, {OBJECTIVE_LABELS[before]}" if before in OBJECTIVE_LABELS else name


def panels(
    drawn: Any,
    down: Iterable[str],
    across: Iterable[str],
    *,
    title: Callable[[str], str] = str,
    xlabel: str = "",
    ylabel: str = "",
    **shared: Any,
) -> Iterator[tuple[Any, str, str]]:
    """Lays out a panel for each row and column: (axis, row, column) for each of them.

    Args:
      drawn: the figure.
      down: a row for each; its name follows ``ylabel``.
      across: a column for each.
      title: what a column is called.
      xlabel: below the last row.
      ylabel: left of the first column.
      shared: which axes are, as ``subplots`` takes it.
    """
    rows, columns = list(down), list(across)
    axes = drawn.subplots(len(rows), len(columns), squeeze=False, **shared)
    for line, row in zip(axes, rows, strict=True):
        for axis, column in zip(line, columns, strict=True):
            yield axis, row, column
        line[0].set_ylabel(f"{ylabel}{row}")
    for axis, column in zip(axes[0], columns, strict=True):
        axis.set_title(title(column))
    for axis in axes[-1]:
        axis.set_xlabel(xlabel)


def dots(axis: Any, across: Sequence[Any], found: Sequence[stats.Interval], *, line: str, **look: Any) -> None:
    """Draws means with their intervals, joined by a line."""
    ends = np.transpose([(one.mean - one.low, one.high - one.mean) for one in found])
    axis.errorbar(across, [one.mean for one in found], ends, fmt=line, capsize=2, **look)


def style(results: Any, method: str) -> dict[str, Any]:
    """Returns how the line of a method looks, given all methods of the study."""
    if method == "random":
        return {"color": "#8a8578", "marker": ".", "linewidth": 1.2, "linestyle": "-."}
    named = [other for other in results.methods if other != "random"]
    return {
        "color": report.COLOURS[named.index(method) % len(report.COLOURS)],
        "marker": "o",
        "markersize": 3.5,
        "linewidth": 1.6,
    }
