"""The closed forms: how a mean over seeds and examples varies, and how far its interval reaches."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from jaxprune import check

_FLOOR = 2 / 3
"""Of the interval for the very networks that were measured; no interval for others is narrower than this share."""

Examples = str | Sequence[np.ndarray]
"""Which examples seeds share: "shared" (all, in the same order), "fresh" (none), or for every seed their identities."""


class Interval(NamedTuple):
    """A mean with the ends of its interval; they are infinite where nothing is known of them."""

    mean: float
    low: float
    high: float


class _Moments(NamedTuple):
    """Of the mean over seeds of k columns.

    Attributes:
      mean: [k].
      between: its variance as it shows between seeds, [k]; 0 of one seed.
      common: the variance that seeds share, [k].
      within: its variance for these very networks, of which only the examples vary, [k].
      seeds, distinct: how many seeds, and distinct examples.
    """

    mean: np.ndarray
    between: np.ndarray
    common: np.ndarray
    within: np.ndarray
    seeds: int
    distinct: int

    def others(self, error: float) -> np.ndarray:
        """Half the width of the interval for other seeds and other examples, [k]; 0 of one seed."""
        if self.seeds == 1:
            return np.zeros_like(self.mean)
        t, z = (_student(count - 1, error) for count in (self.seeds, self.distinct))
        shown, hidden = t**4 * self.between**2, z**4 * self.common * (self.common + 2 * self.between)
        return (shown + hidden) ** 0.25

    def reach(self, error: float) -> np.ndarray:
        """Half the width of the interval, [k]; 0 where nothing varies."""
        few = max(self.distinct - 1, 1)
        alone = _student(few, error) * np.sqrt(self.within * self.distinct / few)
        return alone if self.seeds == 1 else np.maximum(self.others(error), _FLOOR * alone)


def intervals(
    values: list[np.ndarray], examples: Examples | None, bounds: tuple[float, float] | None, error: float
) -> list[Interval]:
    """Computes the interval of every column; ``error``: how often each may not hold."""
    places = _places(values, examples)
    found = _moments(values, places)
    reach = found.reach(error)
    if bounds is None:
        # Rounding alone makes equal numbers vary in the last bits.
        size = np.max([np.abs(one).max(axis=0) for one in values], axis=0)
        reach = np.where(reach > 1e-12 * size, reach, np.inf)
        below = above = reach
    else:
        below, above = _bounded(values, places, bounds, found, error)
    ends = zip(found.mean.tolist(), (found.mean - below).tolist(), (found.mean + above).tolist(), strict=True)
    return [Interval(*entry) for entry in ends]


def _moments(values: list[np.ndarray], places: list[np.ndarray] | None) -> _Moments:
    """``places``: for every seed, where each example lies among the distinct ones; None: all seeds have others."""
    means = np.stack([one.mean(axis=0) for one in values])
    seeds = len(values)
    deviations = [(one - mean) / len(one) for one, mean in zip(values, means, strict=True)]
    each = np.sum([np.sum(one**2, axis=0) for one in deviations], axis=0)
    if places is None:
        together, distinct = each, sum(map(len, values))
    else:
        distinct = 1 + max(int(one.max()) for one in places)
        total = np.zeros((distinct, means.shape[1]))
        for place, one in zip(places, deviations, strict=True):
            total[place] += one  # the examples of a seed are distinct
        together = np.sum(total**2, axis=0)
    pairs = seeds * (seeds - 1)
    return _Moments(
        mean=means.mean(axis=0),
        between=means.var(axis=0, ddof=1) / seeds if pairs else np.zeros_like(each),
        common=np.maximum(together - each, 0.0) / pairs if pairs else np.zeros_like(each),
        within=together / seeds**2,
        seeds=seeds,
        distinct=distinct,
    )


def _bounded(
    values: list[np.ndarray],
    places: list[np.ndarray] | None,
    bounds: tuple[float, float],
    found: _Moments,
    error: float,
) -> tuple[np.ndarray, np.ndarray]:
    """How far the interval of bounded numbers reaches below and above their mean."""
    low, high = _ordered(bounds)
    check.within("values", min(map(np.min, values)), max(map(np.max, values)), (low, high), "Pass other bounds.")
    if low >= 0 or high <= 0:
        return _share(values, places, (low, high), error)
    parts = [np.maximum(one, 0.0) for one in values], [np.maximum(-one, 0.0) for one in values]
    gains, losses = (_share(one, places, (0.0, end), error) for one, end in zip(parts, (high, -low), strict=True))
    reach = found.reach(error)
    below, above = np.hypot(gains[0], losses[1]), np.hypot(gains[1], losses[0])
    return np.minimum(np.maximum(reach, below), found.mean - low), np.minimum(
        np.maximum(reach, above), high - found.mean
    )


def _share(
    values: list[np.ndarray], places: list[np.ndarray] | None, bounds: tuple[float, float], error: float
) -> tuple[np.ndarray, np.ndarray]:
    """How far Clopper and Pearson's interval of a share of the way from one bound to the other reaches."""
    low, high = bounds
    scaled = [(one - low) / (high - low) for one in values]
    found = _moments(scaled, places)
    share = np.clip(found.mean, 0.0, 1.0)
    variance = np.maximum((found.others(error) / _student(found.distinct - 1, error)) ** 2, found.within)
    inside = (share * (1 - share) > 0) & (variance > 0)
    count = np.where(inside, share * (1 - share) / np.where(inside, variance, 1.0), np.inf)
    # Of few misses the variance says little: as many examples as there are, or more where each is a mean of several.
    single = np.mean([one.var(axis=0) for one in scaled], axis=0)
    several = np.where(single > 0, share * (1 - share) / np.where(single > 0, single, 1.0), 1.0)
    most = found.distinct * np.maximum(several, 1.0)
    if max(map(len, values)) == 1:  # one number for each seed is no hit
        most = np.where(inside, np.inf, most)
    count = np.minimum(count, most)
    right, wrong = count * share, count * (1 - share)
    lower = np.where(right > 0, special.betaincinv(np.maximum(right, 1e-300), wrong + 1, error / 2), 0.0)
    upper = np.where(wrong > 0, special.betaincinv(right + 1, np.maximum(wrong, 1e-300), 1 - error / 2), 1.0)
    return (high - low) * (share - lower), (high - low) * (upper - share)


def _student(degrees: int, error: float) -> float:
    """The quantile that Student's t exceeds, on either side together, with probability ``error``."""
    return float(special.stdtrit(max(degrees, 1), 1 - error / 2))


def listed_values(values: Iterable[np.ndarray], dimensions: int) -> list[np.ndarray]:
    """Checks that values are a list with an array of so many dimensions for every seed, and makes them float64."""
    shape = "[examples]" if dimensions == 1 else "[examples, columns]"
    if isinstance(values, np.ndarray):
        raise TypeError(
            f"values: expected a list with an array {shape} for every seed, but got one array of shape "
            f"{list(values.shape)}. Pass list(values) where its first axis are the seeds, [values] of one seed."
        )
    try:
        listed = [_real(one) for one in values]
    except (TypeError, ValueError):
        raise TypeError(
            f"values: expected a list with an array {shape} of real numbers for every seed, but got {values!r:.80}."
        ) from None
    if not listed or any(one.ndim != dimensions or 0 in one.shape for one in listed):
        raise ValueError(
            f"values: expected one or more seeds with an array {shape} each, none of its sides 0, but got shapes "
            f"{[list(one.shape) for one in listed]}. Leave out a seed without examples, and say so."
        )
    check.finite("values", listed, "Leave out what could not be measured, and say so.")
    return listed


def _real(values: np.ndarray) -> np.ndarray:
    if np.iscomplexobj(values):
        raise TypeError
    return np.asarray(values, np.float64)


def error_of(confidence: float) -> float:
    """Returns how often an interval of this confidence may not hold."""
    if not (check.is_number(confidence) and 0 < confidence < 1):
        raise ValueError(f"confidence: expected a share between 0 and 1, but got {confidence!r}. 95 % is 0.95.")
    return 1 - confidence


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    ends = tuple(bounds) if isinstance(bounds, tuple | list) else ()
    if len(ends) != 2 or not all(map(check.is_number, ends)) or not np.isfinite(ends).all() or not ends[0] < ends[1]:
        raise ValueError(f"bounds: expected a low and a high end, such as (0, 1), but got {bounds!r}.")
    return float(bounds[0]), float(bounds[1])


def _places(values: list[np.ndarray], examples: Examples | None) -> list[np.ndarray] | None:
    """Says for every seed where each example lies among the distinct ones; None where no two seeds share any."""
    counts = [len(one) for one in values]
    if examples is None:
        if len(values) > 1 and max(counts) > 1:
            raise ValueError(
                'examples: expected to be told which examples the seeds share: "shared", "fresh", or the identities '
                "of those of every seed, int [n]. An interval that takes shared ones for fresh ones is too narrow."
            )
        return None
    if isinstance(examples, str):
        if check.choice("examples", examples, ("shared", "fresh")) == "fresh":
            return None
        if len(set(counts)) > 1:
            raise ValueError(f"examples: expected as many of every seed where they are shared, but got {counts}.")
        return [np.arange(counts[0])] * len(counts)
    known = [np.asarray(one) for one in examples] if isinstance(examples, Iterable) else []
    fits = [one.shape for one in known] == [(count,) for count in counts]
    if not fits or any(one.dtype.kind not in "iu" for one in known):
        came = f"{[(list(one.shape), str(one.dtype)) for one in known[:9]]}" if known else repr(examples)
        raise ValueError(
            f"examples: expected the identities of the examples of every seed, int arrays of lengths {counts[:9]}, but "
            f"got {came}."
        )
    joined = np.concatenate([one.astype(np.int64) for one in known])
    first, last = int(joined.min()), int(joined.max())
    if last - first < 10 * len(joined):  # places in a data set: counting is 20 times faster than sorting
        used = np.zeros(last - first + 1, bool)
        used[joined - first] = True
        ranks = (np.cumsum(used) - 1)[joined - first]
    else:
        ranks = np.unique(joined, return_inverse=True)[1].reshape(-1)
    numbers = np.split(ranks, np.cumsum(counts)[:-1])
    if any(np.bincount(one).max() > 1 for one in numbers):
        raise ValueError("examples: expected every example once in each seed, but some occur twice. Average them.")
    return numbers
