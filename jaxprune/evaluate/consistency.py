"""Consistency of two observers: are they right on the same images, and more often than by chance?"""

from typing import Any, NamedTuple

import numpy as np

from jaxprune import check


def accuracy(correct: Any) -> float:
    """Computes the share of right answers among bool [n].

    >>> accuracy(np.array([True, True, False, True]))
    0.75
    """
    hits = _hits("correct", correct)
    return int(np.sum(hits)) / hits.size


def observed_consistency(a: Any, b: Any) -> float:
    """Computes how often two observers are both right or both wrong: ``c_obs = mean(a == b)``.

    Args:
      a: which of n images one observer got right, bool [n].
      b: the same of the other, on the same images.

    Returns:
      A share; ``p_a p_b + (1 - p_a) (1 - p_b)`` is expected of independent observers.

    Raises:
      ValueError: arrays of different lengths, or none.
      TypeError: arrays that are not bool.

    Source: Geirhos, Meding and Wichmann (2020), arXiv 2006.16736.

    >>> observed_consistency(np.array([True, True, False, False]), np.array([True, False, False, False]))
    0.75
    """
    first, second = _paired(a, b)
    return int(np.sum(first == second)) / first.size


def error_consistency(a: Any, b: Any) -> float:
    """Computes how much more often two observers agree than by chance: Cohen's kappa of what they get right.

    ``kappa = (c_obs - c_exp) / (1 - c_exp)``, where ``c_exp = p_a p_b + (1 - p_a) (1 - p_b)`` is the consistency of
    independent observers of the same accuracies, and kappa is 1 where c_obs is.

    Args:
      a: which of n images one observer got right, bool [n].
      b: the same of the other, on the same images.

    Returns:
      1 for the same errors, 0 for independent ones (and wherever one observer is always right), below 0 for errors that
      avoid each other.  What is possible depends on the accuracies: see ``bounds``.

    Raises:
      ValueError: arrays of different lengths, or none.
      TypeError: arrays that are not bool.

    Source: Geirhos, Meding and Wichmann (2020), arXiv 2006.16736.

    >>> error_consistency(np.array([True, True, False, False]), np.array([True, False, False, False]))
    0.5
    """
    first, second = _paired(a, b)
    n, agreements = first.size, int(np.sum(first == second))
    if agreements == n:
        return 1.0
    # In whole numbers, so that what is 0 by definition is 0.
    right, other = int(np.sum(first)), int(np.sum(second))
    expected = right * other + (n - right) * (n - other)
    return (n * agreements - expected) / (n * n - expected)


class Bounds(NamedTuple):
    """The lowest and the highest consistency that two accuracies leave room for."""

    observed: tuple[float, float]
    error: tuple[float, float]


def bounds(p: float, q: float) -> Bounds:
    """Computes what consistency two observers of accuracies p and q can have.

    ``|p + q - 1| <= c_obs <= 1 - |p - q|``, and kappa accordingly; kappa is 1 where c_obs is.

    Raises:
      ValueError: an accuracy outside [0, 1].

    Source: Geirhos, Meding and Wichmann (2020), arXiv 2006.16736.

    >>> found = bounds(0.8, 0.6)
    >>> [round(end, 4) for end in (*found.observed, *found.error)]
    [0.4, 0.8, -0.3636, 0.5455]
    """
    for name, value in (("p", p), ("q", q)):
        if not check.is_number(value) or not 0.0 <= value <= 1.0:
            raise ValueError(f"{name}: expected an accuracy in [0, 1], but got {value!r}.")
    ends, expected = (abs(p + q - 1), 1 - abs(p - q)), p * q + (1 - p) * (1 - q)
    low, high = ((end - expected) / (1 - expected) if end < 1 else 1.0 for end in ends)
    return Bounds(ends, (low, high))


def _hits(name: str, values: Any) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype != np.bool_:
        raise TypeError(
            f"{name}: expected bool [n], which answers are right, but got {values.dtype}. See Trials.correct."
        )
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"{name}: expected one or more answers [n], but got the shape {values.shape}.")
    return values


def _paired(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    first, second = _hits("a", a), _hits("b", b)
    if first.shape != second.shape:
        raise ValueError(
            f"a, b: expected answers to the same images, but got {first.shape} and {second.shape}. Pair them by image."
        )
    return first, second
