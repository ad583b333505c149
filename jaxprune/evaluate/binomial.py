"""Exact binomial tests of rates, the sequence in which a ladder is tested, and how many images they need."""

import math
from itertools import pairwise
from typing import Any

import numpy as np

from jaxprune import check

MOST_FLIPS = 2**14
"""Where ``images_needed`` ends its search: beyond so many flips a rate is too near the bound to be told from it."""

MOST_IMAGES = 10**9
"""More than anyone has; a bound that needs more is refused."""


def p_values(counts: Any, n: int, alpha: float) -> np.ndarray:
    """Computes ``P(Bin(n, alpha) <= count)``: how likely so few events are, where their rate is alpha.

    The p-value of the hypothesis that the rate is alpha or more.  A rate above alpha makes few events less likely
    still, so under the hypothesis ``P(p <= u) <= u`` for every u.  That holds of n independent images.  For u
    below 1/4, and alpha below 1 - 1/n, it also holds of a sample without replacement from a pool, whose rate is meant
    then, and of images drawn for each class in the shares of the classes: the number of events varies less in either.

    Args:
      counts: how many of the n images show the event, integers of any shape.
      n: images, 1 or more.
      alpha: the rate under test, in (0, 1).

    Returns:
      float64 of the shape of ``counts``.

    Raises:
      ValueError: counts below 0 or above n; n below 1; alpha outside of (0, 1).
      TypeError: counts that are no integers.

    Source: Clopper and Pearson (1934), Biometrika 26(4); less variable counts after Hoeffding (1956), Annals of
    Mathematical Statistics 27(3), and Uhlmann (1966), Metrika 10.

    >>> p_values([0, 8, 9], 300, 0.05).round(4).tolist()
    [0.0, 0.0341, 0.065]
    """
    check.whole("n", n)
    proper_share("alpha", alpha, "Five points are 0.05.")
    values = np.asarray(counts)
    if not np.issubdtype(values.dtype, np.integer):
        raise TypeError(f"counts: expected integers, but got {values.dtype}. Count the events: events.sum(axis=-1).")
    if values.size:
        check.within("counts", values.min(), values.max(), (0, n), "Count each of the n images once.")
    return _tail(values, n, alpha)


def fixed_sequence(p_values: Any, delta: float = 0.05) -> np.ndarray:
    """Counts the rungs that are certified: those before the first whose p-value exceeds delta.

    Hypotheses in an order that was fixed beforehand are each tested at level delta, up to the first that is not
    rejected.  To reject any true hypothesis the first true one has to be rejected, which happens with probability delta
    at most, whatever the number of rungs, and however their tests depend on each other.

    Args:
      p_values: [..., rungs], in the order of the tests; any number of ladders at once.
      delta: how often a rung may be certified that should not be, in (0, 1).

    Returns:
      int [...], between 0 and the number of rungs.

    Raises:
      ValueError: no axis of rungs, p-values outside of [0, 1], or delta outside of (0, 1).

    Source: Maurer, Hothorn and Lehmacher (1995), in Biometrie in der chemisch-pharmazeutischen Industrie 6; for
    thresholds of predictors Angelopoulos et al. (2021), arXiv 2110.01052.

    >>> fixed_sequence([[0.001, 0.04, 0.2, 0.01], [0.06, 0.001, 0.001, 0.001]]).tolist()
    [2, 0]
    """
    proper_share("delta", delta, "95 % confidence is 0.05.")
    values = np.asarray(p_values, np.float64)
    if not values.ndim:
        raise ValueError("p_values: expected [..., rungs], but got a single number. Pass [p].")
    if values.size:
        check.within("p_values", values.min(), values.max(), (0, 1), "Are they logarithms?")
    return np.asarray(np.cumprod(values <= delta, axis=-1).sum(axis=-1))


def images_needed(alpha: float, delta: float = 0.05, *, flip_rate: float = 0.0, power: float = 0.9) -> int:
    """Says how many images certify a rung, before any is looked at.

    Without a flip ``(1 - alpha)^n <= delta`` takes ``n >= ln delta / ln(1 - alpha)``.  Where flips happen at a rate, it
    is the smallest n with ``P(Bin(n, flip_rate) <= c) >= power``, for the largest c with ``P(Bin(n, alpha) <= c) <=
    delta``.  Power does not grow evenly: c is a whole number, and a few images more may have a little less of it.

    It is the number for one rung of one task.  A ladder needs that of its highest rung that is to be certified, or some
    more where flips at lower rungs are others.

    Args:
      alpha: the allowed drop, in (0, 1): five points are 0.05.
      delta: 1 - confidence, in (0, 1).
      flip_rate: the share of images that the dense network has right and the pruned one wrong, or on which they
        disagree, as it is expected; in [0, alpha).
      power: how likely the rung is to be certified, in (0, 1).  Of no use without flips: then it is certain.

    Returns:
      n, 1 or more.

    Raises:
      ValueError: a share outside of its range; a flip_rate of alpha or more, which no number of images certifies, or so
        close below it that 16,384 flips do not tell.

    >>> [images_needed(alpha) for alpha in (0.05, 0.02, 0.01)]
    [59, 149, 299]
    >>> images_needed(0.05, flip_rate=0.02)
    311
    """
    proper_share("alpha", alpha, "Five points are 0.05.")
    proper_share("delta", delta, "95 % confidence is 0.05.")
    proper_share("power", power, "Nine times in ten is 0.9.")
    if not (check.is_number(flip_rate) and 0 <= flip_rate < alpha):
        raise ValueError(
            f"flip_rate: expected a share from 0 up to, but not including, alpha = {alpha:g}, but got {flip_rate!r}. "
            "No number of images certifies a rung whose rate is higher: prune less, or allow a larger drop."
        )
    _demand_countable(alpha, delta)
    edges = [0, *(2**power_of_two for power_of_two in range(MOST_FLIPS.bit_length()))]
    for first, last in pairwise(edges):  # few first: with more flips the search takes longer
        flips = np.arange(first, last)
        least = _fewest_images(flips, alpha, delta)
        enough = _tail(flips, least, flip_rate) >= power
        if enough.any():
            return int(least[np.argmax(enough)])
    raise ValueError(
        f"flip_rate: expected one that can be told from alpha = {alpha:g}, but {flip_rate:g} is so close below it that "
        f"{MOST_FLIPS:,d} flips are too few to tell. Prune less, or allow a larger drop."
    )


def demand_images(n: int, alpha: float, delta: float = 0.05, *, task: str = "") -> None:
    """Checks that n images can certify a drop of alpha at all: that they do so without a single flip.

    A study asks this before it computes anything.

    Args:
      n: images of the certificate.
      alpha: the allowed drop, in (0, 1).
      delta: 1 - confidence, in (0, 1).
      task: whose images they are, for the message.

    Raises:
      ValueError: n is too small; the message says the n that could, and the alpha that n can.

    >>> demand_images(59, 0.05)
    >>> demand_images(58, 0.05)
    Traceback (most recent call last):
    ValueError: alpha: expected 0.0504 or more of 58 images at delta = 0.05, which certify no smaller drop even if not
    one of them flips, but got 0.05. It takes 59 images without a flip: certify on more, or allow a larger drop.
    """
    check.whole("n", n)
    needed = images_needed(alpha, delta)
    if n < needed:
        least = -math.expm1(math.log(delta) / n)
        scale = 10.0 ** (2 - math.floor(math.log10(least)))  # three digits, and none of them rounded down
        least = math.ceil(least * scale) / scale
        whose = f" of {task}" if task else ""
        raise ValueError(
            f"alpha: expected {least:g} or more of {n} images{whose} at delta = {delta:g}, which certify no smaller "
            f"drop even if not one of them flips, but got {alpha:g}. It takes {needed} images without a flip: certify "
            "on more, or allow a larger drop."
        )


def proper_share(name: str, value: Any, remedy: str) -> None:
    """Checks that a number lies between 0 and 1, and is neither."""
    if not (check.is_number(value) and 0 < value < 1):
        raise ValueError(f"{name}: expected a share between 0 and 1, but got {value!r}. {remedy}")


def _demand_countable(alpha: float, delta: float) -> None:
    if math.log(delta) / math.log1p(-alpha) > MOST_IMAGES:
        raise ValueError(
            f"alpha: expected a drop that {MOST_IMAGES:,d} images can certify, but got {alpha:g} at delta = {delta:g}. "
            "Allow a larger one."
        )


def _fewest_images(flips: np.ndarray, alpha: float, delta: float) -> np.ndarray:
    """For each number of flips the smallest n with ``P(Bin(n, alpha) <= flips) <= delta``, by bisection."""
    low, high = flips.astype(np.int64), 2 * (flips + 1)  # n = flips never does: the probability is 1
    while (short := _tail(flips, high, alpha) > delta).any():
        low, high = np.where(short, high, low), np.where(short, 2 * high, high)
    while (high - low > 1).any():
        middle = (low + high) // 2
        enough = _tail(flips, middle, alpha) <= delta
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return high


def _tail(counts: Any, n: Any, rate: float) -> np.ndarray:
    from scipy import special  # takes longer to import than JAX

    return np.asarray(special.bdtr(counts, n, rate), np.float64)
