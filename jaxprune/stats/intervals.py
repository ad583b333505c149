"""Intervals of means over seeds and examples, one by one and several at once."""

from collections.abc import Callable, Iterable

import numpy as np

from jaxprune import check
from jaxprune.stats._moments import Examples, Interval, error_of, intervals, listed_values


def interval(
    values: Iterable[np.ndarray],
    *,
    examples: Examples | None = None,
    bounds: tuple[float, float] | None = None,
    confidence: float = 0.95,
) -> Interval:
    """Computes an interval of the mean over networks of other seeds and other examples.

    The mean m over S seeds of their means over examples varies with the seeds and with the examples.  ``b = s^2 / S``,
    for the variance s^2 of the seeds' means, shows both where every seed has examples of its own.  What all seeds owe
    to examples that they share does not show in it: that is c, the mean over pairs of seeds of the covariance of their
    means, ``sum_i z_si z_ti`` over shared examples i, ``z_si = (y_si - m_s) / n_s``, and 0 where it is negative.  The
    interval is ``m +- (t^4 b^2 + z^4 c (c + 2 b))^(1/4)``: t is Student's quantile of S - 1 degrees of freedom, z that
    of one degree less than there are examples; ``t sqrt(b)`` where examples do not matter, ``z sqrt(c)`` where seeds do
    not.  (Student's t with Satterthwaite's degrees of freedom, between the two, holds in 87 % with two seeds.)  It is
    at least two thirds as wide as that of these very networks, of which only the examples vary.

    The mean of one seed has an interval over examples alone: it speaks of that network, and of no other.  One number of
    one seed has none, and neither have numbers that are all equal: the ends are infinite, unless ``bounds`` are known.

    Args:
      values: for every seed, a number for each test example, [n_seed]; of one number for each seed, [1].  For a paired
        comparison pass differences, such as ``correct_a - correct_b`` of the same examples.
      examples: which of them seeds share: "shared" (the same ones in the same order), "fresh" (none), or for each seed
        the identities of its examples, int [n_seed].  It must be said where there are several seeds and examples.
      bounds: what values are limited to: (0, 1) for hits and shares, (-1, 1) for differences of two such.  The interval
        stays within them.  That of a share is Clopper and Pearson's, exact for one network, for as many examples as
        have the variance above; at 0 and 1 for as many as there are.  A difference is a share of gains less one of
        losses: its interval reaches as far as either form does, the one above or that of two shares.
      confidence: how often the interval holds.

    Returns:
      The mean over seeds of the mean over examples, with the ends of its interval.

    Raises:
      ValueError: no seed, a seed without examples, numbers that are not finite or outside ``bounds``; examples that
        are not said, or do not fit the values.
      TypeError: an array in place of a list of arrays.

    Source: Student (1908), Biometrika 6(1); Clopper and Pearson (1934), Biometrika 26(4); effective numbers of examples
    after Korn and Graubard (1998), Survey Methodology 24(2); the difference of two shares after Zou and Donner (2008),
    Statistics in Medicine 27(10).

    >>> found = interval([np.array([1.0]), np.array([2.0]), np.array([3.0])])
    >>> print(f"{found.mean:.2f} ({found.low:.2f} to {found.high:.2f})")
    2.00 (-0.48 to 4.48)
    >>> found = interval([np.ones(100)], bounds=(0, 1))
    >>> print(f"{found.mean:.3f} ({found.low:.3f} to {found.high:.3f})")
    1.000 (0.964 to 1.000)
    """
    listed = listed_values(values, dimensions=1)
    return intervals([one[:, None] for one in listed], examples, bounds, error_of(confidence))[0]


def simultaneous(
    values: Iterable[np.ndarray],
    *,
    examples: Examples | None = None,
    bounds: tuple[float, float] | None = None,
    statistic: Callable[[np.ndarray], np.ndarray] | None = None,
    confidence: float = 0.95,
) -> list[Interval]:
    """Computes intervals of several quantities that hold at once: the family errs with ``1 - confidence``.

    Each is that of ``interval`` at a confidence of ``confidence^(1 / k)``.  Quantities that move together hold more
    often than that: seven that are equal at 99.3 %.

    Args:
      values: for every seed, [n_seed, c]: c numbers for each test example.
      examples: which of them seeds share; see ``interval``.
      bounds: what values are limited to; see ``interval``.  Of no use with a ``statistic``.
      statistic: from means over examples [..., c] to quantities [..., k], such as a consistency, which is no mean.  It
        is replaced by the mean of its pseudo-values ``T(m) + (n - 1) (mean_i T(m_-i) - T(m_-i))``, of means without
        one example each.  Of 200 examples and three seeds that of an error consistency held in 95 to 96 % of
        simulated studies, of 40 in 85 %: there the jackknife says too much.  None: the means themselves, k = c.
      confidence: how often all k intervals hold.

    Returns:
      An interval for each of the k quantities, of the mean over seeds.

    Raises:
      ValueError: as of ``interval``; other numbers of columns; a statistic that is not finite.
      TypeError: an array in place of a list of arrays.

    Source: Šidák (1967), Journal of the American Statistical Association 62(318); the jackknife of Tukey (1958), Annals
    of Mathematical Statistics 29(2).

    >>> found = simultaneous([np.array([[1.0, 5.0]]), np.array([[2.0, 5.5]]), np.array([[3.0, 6.0]])])
    >>> [f"{one.low:.1f} to {one.high:.1f}" for one in found]
    ['-1.6 to 5.6', '3.7 to 7.3']
    """
    listed = listed_values(values, dimensions=2)
    if len({one.shape[1] for one in listed}) > 1:
        raise ValueError(f"values: expected equal columns, but got {[one.shape[1] for one in listed]}.")
    error = error_of(confidence)
    if statistic is not None:
        if bounds is not None:
            raise ValueError("bounds: expected none beside a statistic, whose pseudo-values have none. Leave them out.")
        listed = [_pseudo_values(statistic, one) for one in listed]
    return intervals(listed, examples, bounds, 1 - (1 - error) ** (1 / listed[0].shape[1]))


def _pseudo_values(statistic: Callable[[np.ndarray], np.ndarray], values: np.ndarray) -> np.ndarray:
    count, mean = len(values), values.mean(axis=0)
    centre = np.asarray(statistic(mean), np.float64)
    if centre.ndim != 1 or not centre.size:
        raise ValueError(
            f"statistic: expected one from means [..., c] to quantities [..., k], but it gives {list(centre.shape)} of "
            f"{list(mean.shape)}. Of one quantity add [..., None]."
        )
    without = mean[None] if count == 1 else (count * mean - values) / (count - 1)
    each = np.asarray(statistic(without), np.float64)
    check.finite("statistic", [centre, each], "It must be defined without any one example: give 0 / 0 a value.")
    return centre + (count - 1) * (each.mean(axis=0) - each)
