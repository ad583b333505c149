"""Betting against a drop: a test that may be looked at after every label, and stopped whenever one likes."""

from typing import Any

import numpy as np

from jaxprune.evaluate.binomial import proper_share


def betting(drops: Any, alpha: float) -> np.ndarray:
    """Computes the log wealth of a gambler who bets against "the drop is alpha or more", after every example.

    The drop of an example is d = 1 where the dense network is right and the pruned one wrong, -1 the other way round,
    and 0 else.  Wealth begins with 1 and is multiplied by ``1 + b_t (alpha - d_t)``, with a bet b_t in [0, 1 / (1 -
    alpha)) that is chosen before example t is seen.  If the mean of every next drop is alpha or more, whatever came
    before, wealth does not grow in expectation, and reaches 1 / delta at any time with probability delta at most
    (Ville's inequality).  So labels can be bought one at a time, and whoever stops when they are enough is still right.

    The bet is that under which the logarithm of wealth is expected to grow most (Kelly's), if the next drop is 1 or -1
    as often as before, where one flip in 3 / alpha examples counts as seen before the first: that decides how fast
    wealth grows, and nothing else.

    Examples have to come in an order that was fixed without looking at the hits, and be independent draws: of the
    images of a small pool, drawn without replacement, the claim is about where the pool was drawn from.

    Args:
      drops: integers -1, 0 and 1, [..., n], in the order in which they are looked at; see ``drops``.
      alpha: the allowed drop, in (0, 1).

    Returns:
      float64 [..., n]: the logarithm of wealth after each example.  What is known after t of them does not depend on
      later ones, so nothing has to be kept: call it again when there are more.

    Raises:
      ValueError: other numbers than -1, 0 and 1, no axis of examples, or alpha outside of (0, 1).

    Source: Waudby-Smith and Ramdas (2020), arXiv 2010.09686; Ville (1939), Étude critique de la notion de collectif;
    Kelly (1956), Bell System Technical Journal 35(4).

    >>> wealth = np.exp(betting(np.zeros(80, int), alpha=0.05))
    >>> bool(wealth[0] > 1), int(np.argmax(wealth >= 20)) + 1
    (True, 75)
    """
    proper_share("alpha", alpha, "Five points are 0.05.")
    values = _listed(drops)
    lost, gained = values == 1, values == -1
    # Before each example, so that no bet knows its own.
    flips, gains = (np.cumsum(one, axis=-1) - one for one in (lost, gained))
    bets = _bets(flips, gains, np.arange(values.shape[-1]), alpha)
    return np.cumsum(np.log1p(bets * (alpha - values)), axis=-1)


def labels_needed(drops: Any, alpha: float, delta: float = 0.05) -> int | None:
    """Says after how many examples a drop below alpha is certain enough: the first at which wealth is 1 / delta.

    Args:
      drops: integers -1, 0 and 1, [n], in the order in which they are looked at.
      alpha: the allowed drop, in (0, 1).
      delta: 1 - confidence, in (0, 1).

    Returns:
      Between 1 and n; None where these n are not enough.

    Raises:
      ValueError: as of ``betting``; drops of several rungs; delta outside of (0, 1).

    >>> labels_needed(np.zeros(300, int), alpha=0.05), labels_needed(np.zeros(60, int), alpha=0.05)
    (75, None)
    """
    proper_share("delta", delta, "95 % confidence is 0.05.")
    if np.ndim(drops) != 1:
        raise ValueError(f"drops: expected those of one rung, [n], but got {list(np.shape(drops))}. Pass them singly.")
    enough = np.exp(-betting(drops, alpha)) <= delta  # as the p-values are compared
    return int(np.argmax(enough)) + 1 if enough.any() else None


def betting_p_values(drops: Any, alpha: float) -> np.ndarray:
    """Computes p-values that hold whenever one stops: 1 over the largest wealth so far, 1 at most.

    Args:
      drops: integers -1, 0 and 1, [..., n].
      alpha: the allowed drop, in (0, 1).

    Returns:
      float64 [...].

    Raises:
      ValueError: as of ``betting``.

    >>> print(f"{betting_p_values(np.zeros(80, int), alpha=0.05):.4f}")
    0.0389
    """
    return np.asarray(np.exp(-np.maximum(betting(drops, alpha).max(axis=-1), 0.0)))


def _bets(flips: np.ndarray, gains: np.ndarray, seen: np.ndarray, alpha: float) -> np.ndarray:
    """Kelly's bets on drops that are 1 in a share q of the time and -1 in a share r.

    The expected logarithm of growth, ``q log(1 + b (alpha - 1)) + r log(1 + b (alpha + 1)) + (1 - q - r) log(1 + b
    alpha)``, is concave, with the slope alpha - q + r at b = 0.  Its slope's numerator is a quadratic in b that has one
    positive root if that is above 0.  Since q > 0 the root lies below 1 / (1 - alpha): no bet can lose everything.
    """
    prior = 3 / alpha
    q, r = (flips + 1) / (seen + prior), gains / (seen + prior)
    slope = alpha - q + r
    linear = q * (alpha - 1) * (2 * alpha + 1) + r * (alpha + 1) * (2 * alpha - 1) + (1 - q - r) * 2 * alpha**2
    square = alpha * (alpha**2 - 1)
    root = np.sqrt(linear**2 - 4 * square * np.maximum(slope, 0.0))
    return np.where(slope > 0, 2 * slope / np.where(slope > 0, root - linear, 1.0), 0.0)


def _listed(drops: Any) -> np.ndarray:
    values = np.asarray(drops)
    listed = np.issubdtype(values.dtype, np.signedinteger) and values.ndim and values.shape[-1]
    if not listed or not np.isin(values, (-1, 0, 1)).all():
        raise ValueError(
            f"drops: expected integers -1, 0 and 1, [..., n], for one example or more, but got {values.dtype}"
            f"{list(values.shape)}{f' with {values.min()} to {values.max()}' if listed else ''}. They are "
            "dense_hits.astype(int) - hits."
        )
    return values
