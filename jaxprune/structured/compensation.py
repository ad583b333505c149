"""The quadratic distance of gates from 1, minimised over the gates that are kept.

    L(v) = (v - 1)' A (v - 1) / 2,    A = H + d 1,    v_q = 0 for every gate q that is gone

H is a Hessian by gates (``gate_hessian``), d the damping times its mean diagonal.  The minimum over the kept gates is
v_K = 1 + (H_KK + d 1)^-1 H_KQ 1: what the units that are gone did, those that are kept do as well as they can.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.linalg

from jaxprune import check
from jaxprune.groups import Gates, Group
from jaxprune.structured.gates import check as check_gates

Hessian = np.ndarray | Mapping[str, np.ndarray]
"""What ``gate_hessian`` returns: [G, G], or ``{group: [size, size]}``."""


def readjusted(
    groups: Sequence[Group],
    hessian: Hessian,
    gates: Gates,
    *,
    slope: Mapping[str, np.ndarray] | None = None,
    damping: float = 1e-2,
) -> dict[str, np.ndarray]:
    """Finds the factors of the kept units that make up best for those that are gone, to second order.

        v_K = 1 + (H_KK + d 1)^-1 (H_KQ 1 - g_K),    v_Q = 0,    d = damping mean_j H_jj

    g is the gradient by the factors; of the distance of a network to itself it is zero.  The mean is over units that do
    anything, H_jj > 0.

    Args:
      groups: in the order of the Hessian.
      hessian: as ``gate_hessian`` returned it; block by block where it is a mapping.
      gates: bool [size] for each group; groups that are not named live.  Whatever criterion chose them.
      slope: g, float [size] for each group.  None: zero.
      damping: 0 or more; the larger it is, the nearer the factors are to 1.

    Returns:
      Factors, float64 [size] for each group, for ``jp.structured.fold``.

    Raises:
      ValueError: a Hessian or gates that do not fit, or no finite numbers; a damping below 0, or too small for a
        Hessian that is singular.

    Source: Hassibi and Stork (1992), "Second order derivatives for network pruning: Optimal Brain Surgeon", for
    weights.

    Of two units that are the same, one does what both did:

    >>> units = Group("units", 2, (), ("units",))
    >>> readjusted([units], np.ones((2, 2)), {"units": np.array([True, False])}, damping=1e-9)["units"].round(6)
    array([2., 0.])
    """
    alive = check_gates(groups, gates)
    kept, start, found = np.concatenate([alive[group.name] for group in groups]), 0, []
    blocks = as_blocks(groups, hessian)
    shift = shift_of(blocks, damping)
    gradient = np.zeros(len(kept)) if slope is None else np.concatenate([slope[group.name] for group in groups])
    for block in blocks:
        part = slice(start, start + len(block))
        inside, factors, start = kept[part], np.zeros(len(block)), start + len(block)
        lost = block[np.ix_(inside, ~inside)].sum(1) - gradient[part][inside]
        solve = factorised(block[np.ix_(inside, inside)], shift)
        factors[inside] = 1 + scipy.linalg.cho_solve(solve, lost)
        found.append(factors)
    return named(groups, np.concatenate(found))


def as_blocks(groups: Sequence[Group], hessian: Hessian) -> list[np.ndarray]:
    """Checks a Hessian by gates, and lists its blocks in the order of the groups.

    Raises:
      ValueError: it has another shape, or numbers that are not finite.
    """
    if isinstance(hessian, Mapping):
        lacking = [group.name for group in groups if group.name not in hessian]
        if lacking:
            raise ValueError(f"hessian: expected a block for every group, but got none for {', '.join(lacking)}.")
        pairs = [(hessian[group.name], group.size) for group in groups]
    else:
        pairs = [(hessian, sum(group.size for group in groups))]
    blocks = [np.asarray(block, np.float64) for block, _ in pairs]
    for block, (_, size) in zip(blocks, pairs, strict=True):
        if block.shape != (size, size):
            raise ValueError(
                f"hessian: expected [{size}, {size}], since so many units can go, but got {list(block.shape)}. "
                "jp.structured.gate_hessian makes it, of the same groups."
            )
        check.finite("hessian", block, "Inspect the images and the network that it was computed of.")
    return blocks


def shift_of(blocks: Sequence[np.ndarray], damping: float) -> float:
    """What is added to the diagonal: the damping times the mean of the entries above 0.

    Raises:
      ValueError: a damping that is no finite number of 0 or more; a Hessian that is zero.
    """
    if not check.is_number(damping) or not 0 <= damping < np.inf:
        raise ValueError(f"damping: expected a finite number of 0 or more, but got {damping!r}. 1e-2 is a good start.")
    diagonal = np.concatenate([np.diagonal(block) for block in blocks])
    if not np.any(diagonal > 0):
        raise ValueError(
            "hessian: expected a loss that depends on the units, but every entry of its diagonal is 0 or below. Pass "
            "more, and more varied, images; take a loss that sees the units (at=None, or a value behind them)."
        )
    return float(damping) * float(np.mean(diagonal[diagonal > 0]))


def check_damping(blocks: Sequence[np.ndarray], damping: float, eps: float) -> None:
    """Checks that a Hessian with its damping can be inverted: that what is smallest in it is no rounding.

    Args:
      blocks: see ``as_blocks``.
      damping: of the mean diagonal.
      eps: of the type that the Hessian was computed in.

    Raises:
      ValueError: it cannot.
    """
    shift = shift_of(blocks, damping)
    for block in blocks:
        live = np.diagonal(block) > 0
        if damping >= eps * live.sum():
            continue
        lowest = np.linalg.eigvalsh(block[np.ix_(live, live)])[0]
        if lowest + shift <= eps * np.trace(block):
            raise ValueError(
                f"damping: expected enough to stand above the rounding of the Hessian, but got {damping!r} for "
                f"{live.sum()} units whose least eigenvalue is {lowest:.2g}. Take {eps * live.sum():.1g} or more; 1e-2 "
                "is a good start."
            )


def factorised(block: np.ndarray, shift: float) -> Any:
    """The Cholesky factor of H + d 1; units that do nothing (a row of zeros) count as the identity.

    Raises:
      ValueError: it is not positive definite.
    """
    matrix = block + shift * np.eye(len(block))
    idle = np.diagonal(block) == 0
    matrix[idle, idle] += 1
    try:
        return scipy.linalg.cho_factor(matrix, lower=True)
    except np.linalg.LinAlgError as error:
        raise ValueError(
            f"damping: expected enough to make the Hessian positive definite, but got {shift:.3g} on its diagonal. "
            "Take more (1e-2 of the mean diagonal is a good start); a Hessian that is not that of Gauss and Newton "
            "may have no minimum at all."
        ) from error


def named(groups: Sequence[Group], values: np.ndarray) -> dict[str, np.ndarray]:
    """Cuts an array of all units into those of the groups."""
    edges = np.cumsum([0, *(group.size for group in groups)])
    return {group.name: values[low:high] for group, low, high in zip(groups, edges, edges[1:], strict=False)}


class Fixed:
    """Prices with the kept gates as they are: ``H_jj / 2 + sum_q H_jq - g_j`` over those that are gone.

    Args:
      block: H.
      slope: g.
      kept: which gates are there; rows of others are zero.

    Attributes:
      factors: of every gate, [n].
      start: what the quadratic is before anything is removed.
    """

    def __init__(self, block: np.ndarray, slope: np.ndarray, kept: np.ndarray) -> None:
        self._block = block
        self._values = np.diagonal(block) / 2 - slope
        self.factors, self.start = 1.0 * kept, 0.0

    @property
    def values(self) -> np.ndarray:
        """What removing each gate adds, [n]; of one that is gone, anything."""
        return self._values

    def remove(self, gate: int) -> None:
        """Removes a gate."""
        self._values = self._values + self._block[:, gate]
        self.factors[gate] = 0


class Surgeon:
    """Prices with the kept gates re-adjusted: ``v_j^2 / (2 [A_KK^-1]_jj)``; a unit that does nothing costs nothing.

    v begins where the quadratic is least, at ``1 - A^-1 g``.  Removing j moves it by
    ``-v_j [A_KK^-1]_j / [A_KK^-1]_jj``, and takes a matrix of rank one off the inverse.  Their columns are kept side by
    side, as in a pivoted Cholesky factorisation; whenever half of the gates are gone, what is left is inverted anew:
    O(n^3) in all, and rounding never adds up for long.

    Args:
      block: H.
      shift: d.
      slope: g.
      kept: which gates are there; rows of others are zero.

    Attributes: as those of ``Fixed``.
    """

    def __init__(self, block: np.ndarray, shift: float, slope: np.ndarray, kept: np.ndarray) -> None:
        self._block, self._shift = block, shift
        self._idle = np.diagonal(block) == 0
        self._kept = kept.copy()
        self.factors = 1.0 * kept
        self._begin()
        step = self._inverse @ slope[self._left]
        self.factors[self._left] -= step
        self.start = -float(slope[self._left] @ step) / 2

    def _begin(self) -> None:
        """Inverts what is left."""
        self._left = np.flatnonzero(self._kept)
        left = self._block[np.ix_(self._left, self._left)]
        self._inverse = scipy.linalg.cho_solve(factorised(left, self._shift), np.eye(len(left)))
        self._diagonal = np.diagonal(self._inverse).copy()
        # With whatever else held fixed, 1 / [A^-1]_jj would be A_jj: it is never more.
        self._least = 1 / (np.diagonal(left) + self._shift + self._idle[self._left])
        self._columns = np.zeros((len(left), len(left) // 2 + 1))
        self._gone = 0

    @property
    def values(self) -> np.ndarray:
        """What removing each gate adds, [n]; of one that is gone, anything."""
        found = np.zeros(len(self._kept))
        found[self._left] = self.factors[self._left] ** 2 / (2 * self._diagonal)
        return np.where(self._idle, 0, found)

    def remove(self, gate: int) -> None:
        """Removes a gate, and re-adjusts the others."""
        place = int(np.searchsorted(self._left, gate))
        before = self._columns[:, : self._gone]
        column = self._inverse[:, place] - before @ before[place]
        column = np.where(self._kept[self._left], column, 0)
        pivot = self._diagonal[place]
        self.factors[self._left] -= column * (self.factors[gate] / pivot)
        self._columns[:, self._gone] = column / np.sqrt(pivot)
        self._diagonal = np.maximum(self._diagonal - column**2 / pivot, self._least)
        self._gone, self._kept[gate], self.factors[gate] = self._gone + 1, False, 0
        if 2 * self._gone > len(self._left) and self._kept.any():
            self._begin()


Prices = Fixed | Surgeon
"""What removing a gate adds to a quadratic, given what is gone."""
