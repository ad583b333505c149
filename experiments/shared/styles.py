"""What figures and tables call a score, and how its line is drawn, in all studies."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxprune import report, stats

_LABELS = {
    "magnitude": "magnitude",
    "diagonal": "Hessian diagonal",
    "block-quadratic": "Hessian block (quadratic)",
    "block-signed": "Hessian block (quadratic, signed)",
    "block-obs": "Hessian block (surgeon)",
    "random": "random mask",
}


def label(score: str) -> str:
    """Returns what figures and tables call a score."""
    return _LABELS.get(score, score.rpartition(":")[2])


def dots(axis: Any, across: Sequence[Any], found: Sequence[stats.Interval], *, line: str, **look: Any) -> None:
    """Draws means with their intervals, joined by a line."""
    ends = np.transpose([(one.mean - one.low, one.high - one.mean) for one in found])
    axis.errorbar(across, [one.mean for one in found], ends, fmt=line, capsize=2, **look)


def style(results: Any, score: str) -> dict[str, Any]:
    """Returns how the line of a score looks, given all scores of the study."""
    if score == "random":
        return {"color": "#8a8578", "marker": ".", "linewidth": 1.2, "linestyle": "-."}
    named = [other for other in results.scores if other != "random"]
    return {
        "color": report.COLOURS[named.index(score) % len(report.COLOURS)],
        "marker": "o",
        "markersize": 3.5,
        "linewidth": 1.6,
    }
