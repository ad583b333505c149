"""Verdicts: what an interval says of a bound."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxprune import check
from jaxprune.stats._moments import Interval

ROUNDING = 1e-9
"""What a comparison with a bound leaves to rounding."""


def sweet_spot(gains: Sequence[Interval], margin: float = 0.0) -> str:
    """Says whether some rung of a ladder exceeds its reference by more than ``margin``.

    "found": one interval at least lies above it; "not found": none reaches above it; "undecided": anything else.

    Args:
      gains: for every rung, the interval of its value minus that of the reference; simultaneous over the rungs, since
        the best of several is looked for.
      margin: a gain up to this, and ``ROUNDING``, does not count.

    Raises:
      ValueError: no rung, an end that is NaN, ends that are exchanged, or a margin below 0.

    >>> sweet_spot([Interval(0.02, 0.01, 0.03), Interval(-0.5, -0.6, -0.4)])
    'found'
    >>> sweet_spot([Interval(0.02, -0.01, 0.05)]), sweet_spot([Interval(-0.5, -0.6, -0.4)])
    ('undecided', 'not found')
    """
    if isinstance(gains, np.ndarray) or not gains:
        raise ValueError("gains: expected a list with an Interval for one rung or more, but got none, or an array.")
    if not (check.is_number(margin) and margin >= 0):
        raise ValueError(f"margin: expected 0 or more, but got {margin!r}.")
    verdicts = [above(gain, margin) for gain in gains]
    if "holds" in verdicts:
        return "found"
    return "undecided" if any(gain.high > margin + ROUNDING for gain in gains) else "not found"


def at_least(interval: Interval, bound: float) -> str:
    """Says whether a quantity is at least ``bound``: "holds", "does not hold" or "undecided".

    What is below it by no more than ``ROUNDING`` is taken for equal to it.

    Raises:
      ValueError: an end that is NaN, or ends that are exchanged.

    >>> at_least(Interval(0.0, -0.01, 0.01), -0.05), at_least(Interval(0.0, -0.1, 0.1), -0.05)
    ('holds', 'undecided')
    """
    _demand_ends(interval, bound)
    if interval.low >= bound - ROUNDING:
        return "holds"
    return "does not hold" if interval.high < bound - ROUNDING else "undecided"


def above(interval: Interval, bound: float) -> str:
    """Says whether a quantity exceeds ``bound``: "holds", "does not hold" or "undecided".

    What differs from it by no more than ``ROUNDING`` is taken for equal to it.

    Raises:
      ValueError: an end that is NaN, or ends that are exchanged.

    >>> above(Interval(0.0, 0.0, 0.0), 0.0)
    'undecided'
    """
    _demand_ends(interval, bound)
    if interval.low > bound + ROUNDING:
        return "holds"
    return "does not hold" if interval.high < bound - ROUNDING else "undecided"


def _demand_ends(interval: Interval, bound: Any) -> None:
    if not check.is_number(bound) or np.isnan(bound):
        raise ValueError(f"bound: expected a number, but got {bound!r}.")
    if not isinstance(interval, Interval) or np.isnan([*interval]).any() or interval.low > interval.high:
        raise ValueError(
            f"interval: expected a mean, a low end and a high one that is no lower, but got {interval!r:.80}. "
            "Pass an Interval(mean, low, high)."
        )
