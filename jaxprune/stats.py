"""Intervals and verdicts: what a few seeds and a few hundred test examples can say."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxprune import check


class Interval(NamedTuple):
    """A mean with the ends of its interval."""

    mean: float
    low: float
    high: float


def bootstrap(values: Sequence[np.ndarray], *, seed: int, confidence: float = 0.95, resamples: int = 4000) -> Interval:
    """Computes a two-level bootstrap interval of the mean: seeds are resampled, and examples within each.

    For a paired comparison pass differences: ``correct_a - correct_b`` of the same examples.  With three seeds the
    level of seeds is coarse, and the interval somewhat too narrow; it is what three seeds can say.

    Args:
      values: for every seed, a number for each test example, [n_seed].
      seed: of the resampling.
      confidence: the share of resamples inside.
      resamples: how many.

    Returns:
      The mean over seeds of the mean over examples, and percentiles of its resamples.

    Raises:
      ValueError: no seed, or a seed without examples.

    >>> bootstrap([np.ones(10), np.ones(10)], seed=0)
    Interval(mean=1.0, low=1.0, high=1.0)
    """
    if not values or any(len(entry) == 0 for entry in values):
        raise ValueError("values: expected one or more seeds with one or more examples each, but some are empty.")
    check.positive("resamples", resamples)
    values = [np.asarray(entry, np.float64) for entry in values]
    check.finite("values", values, "Leave out what could not be measured, and say so.")
    rng = np.random.Generator(np.random.Philox(key=seed))
    seeds = rng.integers(len(values), size=(resamples, len(values)))
    totals = np.zeros(resamples)
    for draw in seeds.T:
        for number, entry in enumerate(values):
            chosen = draw == number
            totals[chosen] += _resampled_means(entry, int(chosen.sum()), rng)
    means = totals / len(values)
    low, high = np.percentile(means, [50 * (1 - confidence), 50 * (1 + confidence)])
    return Interval(float(np.mean([np.mean(entry) for entry in values])), float(low), float(high))


def _resampled_means(values: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    # Values repeat (a difference of two hits is -1, 0 or 1): drawing how often each occurs is the same, and fast.
    distinct, counts = np.unique(values, return_counts=True)
    return rng.multinomial(len(values), counts / len(values), size=count) @ distinct / len(values)


def at_least(interval: Interval, bound: float) -> str:
    """Says whether a quantity is at least ``bound``: "holds", "does not hold" or "undecided".

    >>> at_least(Interval(0.0, -0.01, 0.01), -0.05), at_least(Interval(0.0, -0.1, 0.1), -0.05)
    ('holds', 'undecided')
    """
    if interval.low >= bound:
        return "holds"
    return "does not hold" if interval.high < bound else "undecided"


def above(interval: Interval, bound: float) -> str:
    """Says whether a quantity exceeds ``bound``: "holds", "does not hold" or "undecided".

    >>> above(Interval(0.0, 0.0, 0.0), 0.0)
    'undecided'
    """
    if interval.low > bound:
        return "holds"
    return "does not hold" if interval.high < bound else "undecided"
