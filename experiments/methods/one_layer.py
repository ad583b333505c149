"""Pruning one layer, given the second moments of its inputs: costs, SparseGPT's algorithm, least squares.

All in NumPy and float64.  Weights are W [g, d, o], moments H [g, d, d] (see ``moments``); what new weights V cost is
the error of the layer, ``sum_o (V - W)_o^T H (V - W)_o``.
"""

import contextlib
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from jaxprune.masks import allocations


def prune_in_order(
    weights: np.ndarray, moments: np.ndarray, pruned: int, *, damping: float, block: int
) -> tuple[np.ndarray, np.ndarray]:
    """Prunes a layer input by input: SparseGPT's algorithm.

    With ``(H + d I)^-1 = U^T U``, U an upper triangle, deleting the weight of input j moves those of the inputs after
    it by ``-w_j U[j, j:] / U[j, j]``, which is the surgeon's update once the inputs before j are fixed, and costs
    ``w_j^2 / U[j, j]^2``.  Before every block of inputs the mask of the block is chosen by these costs, of the weights
    as they have become.

    Args:
      weights: W [g, d, o].
      moments: H [g, d, d].
      pruned: how many weights become zero; every block of inputs loses the same share.
      damping: d is this times the mean diagonal of H over the inputs that are not always zero.
      block: so many inputs at a time.

    Returns:
      What is kept, and the new weights [g, d, o].

    Raises:
      ValueError: a damping that is lost in the rounding of H.
    """
    upper, dead = in_order(moments, damping)
    weights, kept = weights.copy(), np.ones(weights.shape, bool)
    starts = range(0, weights.shape[1], block)
    sizes = [weights[:, start : start + block].size for start in starts]
    counts = allocations.uniform([(size,) for size in sizes], pruned)
    for start, count in zip(starts, counts, strict=True):
        inside = slice(start, min(start + block, weights.shape[1]))
        costs = costs_in_order(weights[:, inside], (upper[:, inside, inside], dead[:, inside]))
        kept[:, inside] = keep_largest(costs, count)
        errors = np.zeros_like(weights[:, inside])
        for at in range(inside.start, inside.stop):
            row = upper[:, at, at : inside.stop]
            error = np.where(kept[:, at], 0, weights[:, at]) / row[:, :1]  # [g, o]
            weights[:, at : inside.stop] -= row[:, :, None] * error[:, None]
            errors[:, at - start] = error
        weights[:, inside.stop :] -= np.einsum("gjk,gjo->gko", upper[:, inside, inside.stop :], errors)
    return kept, np.where(kept, weights, 0)


def fit(weights: np.ndarray, kept: np.ndarray, moments: np.ndarray, cross: np.ndarray, *, damping: float) -> np.ndarray:
    """Solves ``(H_KK + d I) v_K = (C w)_K + d w_K`` for every unit, K what it keeps.

    Args:
      weights: W [g, d, o], dense.
      kept: [g, d, o].
      moments: H [g, d, d] of the inputs as they are now.
      cross: C [g, d, d] of these with the inputs when dense.
      damping: d is this times the mean diagonal of H.

    Returns:
      The new weights [g, d, o].

    Raises:
      ValueError: a damping that is lost in the rounding of H.

    >>> ones = np.ones((1, 2, 2))
    >>> fit(np.array([[[1.0], [2.0]]]), np.array([[[True], [False]]]), ones, ones, damping=1.0).round(9).tolist()
    [[[2.0], [0.0]]]
    """
    shift = damping * np.diagonal(moments, axis1=1, axis2=2).mean()
    found = np.zeros_like(weights)
    if shift == 0:  # nothing comes in: nothing that is kept can make up for anything
        return np.where(kept, weights, 0)
    targets = cross @ weights + shift * weights
    for group, unit in np.ndindex(weights.shape[0], weights.shape[2]):
        at = np.flatnonzero(kept[group, :, unit])
        if at.size:
            matrix = moments[group][np.ix_(at, at)] + shift * np.eye(at.size)
            found[group, at, unit] = cho_solve(_cholesky(matrix, damping), targets[group, at, unit])
    return found


def keep_largest(costs: np.ndarray, pruned: int) -> np.ndarray:
    """Keeps all but so many of the smallest; of equal ones the first go.

    >>> keep_largest(np.array([2.0, 1.0, 1.0]), 1).tolist()
    [True, False, True]
    """
    kept = np.ones(costs.size, bool)
    kept[np.argsort(costs, axis=None, kind="stable")[:pruned]] = False
    return kept.reshape(costs.shape)


def costs_alone(weights: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """What deleting one weight alone costs its layer: the square of Wanda's score."""
    return weights**2 * np.diagonal(moments, axis1=1, axis2=2)[:, :, None]


def in_order(moments: np.ndarray, damping: float) -> tuple[np.ndarray, np.ndarray]:
    """U [g, d, d] with ``(H + d I)^-1 = U^T U``, and which inputs are always zero [g, d]: rows of the identity."""
    diagonal = np.diagonal(moments, axis1=1, axis2=2)
    dead, size = diagonal == 0, moments.shape[1]
    shift = damping * diagonal[~dead].mean() if not dead.all() else 1.0
    damped = moments + np.where(dead, 1.0, shift)[:, :, None] * np.eye(size)
    # Turned round, a lower triangle L L^T of the damped H is R R^T with R an upper one; U is the inverse of R.
    upper = np.empty_like(damped)
    for group, matrix in enumerate(damped):
        lower, _ = _cholesky(matrix[::-1, ::-1], damping)
        upper[group] = solve_triangular(np.tril(lower)[::-1, ::-1], np.eye(size))
    return upper, dead


def costs_in_order(weights: np.ndarray, ordered: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """What deleting a weight costs once those of the inputs before it are fixed."""
    upper, dead = ordered
    costs = weights**2 / np.diagonal(upper, axis1=1, axis2=2)[:, :, None] ** 2
    return np.where(dead[:, :, None], 0, costs)


def _cholesky(matrix: np.ndarray, damping: float) -> tuple[Any, bool]:
    factor, least = None, 10 * len(matrix) * np.finfo(float).eps * matrix.max()
    with contextlib.suppress(np.linalg.LinAlgError):
        factor = cho_factor(matrix, lower=True)
    # A pivot that is rounding may come out positive, and would be divided by.
    if factor is None or np.diagonal(factor[0]).min() ** 2 <= least:
        raise ValueError(
            f"damping: expected one that makes the moments of a layer's inputs positive definite, but {damping!r} is "
            "lost in their rounding. Raise it: 1e-4 suffices for float32."
        )
    return factor
