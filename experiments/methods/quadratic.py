"""The best sparse point of a quadratic model: iterated hard thresholding, with conjugate gradients on the support.

A step goes down the gradient, relative to the diagonal D of the matrix, and sets to zero what is smallest in the same
measure, ``D_j v_j^2``.  Long steps are tried beside the one of the largest eigenvalue, each candidate gets a few
conjugate gradients on its support before it is judged, and the best is taken while the model falls.  The matrix is
never formed.
"""

from dataclasses import dataclass, field

import numpy as np

# Steps are tried that exchange 1, 8, 64 ... weights.
_EXCHANGED = 8
# Conjugate gradients on a candidate before it is judged, and on the last support.
_GLANCE, _POLISH = 5, 200
# The largest eigenvalue from below, by so many products, is raised by so much.
_PRODUCTS, _MARGIN = 20, 1.1


@dataclass(frozen=True)
class Quadratic:
    """The model Q of the loss around some weights, and how many of them may differ from zero.

    Attributes:
      point: w [n].
      gradient: g [n].
      rows: A [r, n].
      ridge: d, above 0.
      groups: the ends of the runs of weights that have counts of their own, ascending; the last is n.
      kept: how many weights of each run may differ from zero.
      diagonal: D [n] of the matrix, the ridge included.
    """

    point: np.ndarray
    gradient: np.ndarray
    rows: np.ndarray
    ridge: float
    groups: tuple[int, ...]
    kept: tuple[int, ...]
    diagonal: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        squares = np.einsum("rn,rn->n", self.rows, self.rows)
        object.__setattr__(self, "diagonal", squares + self.rows.dtype.type(self.ridge))

    def product(self, vector: np.ndarray) -> np.ndarray:
        """Computes (A^T A + d I) v."""
        return self.rows.T @ (self.rows @ vector) + self.ridge * vector

    def value(self, weights: np.ndarray) -> float:
        """Computes Q(v)."""
        moved = weights - self.point
        seen = self.rows @ moved
        return float(self.gradient @ moved + (seen @ seen + self.ridge * (moved @ moved)) / 2)

    def slope(self, weights: np.ndarray) -> np.ndarray:
        """Computes the gradient of Q."""
        return self.gradient + self.product(weights - self.point)

    def support(self, weights: np.ndarray) -> np.ndarray:
        """Where the largest ``D_j v_j^2`` are, D the diagonal of the matrix; of equal ones the last."""
        found, sizes = np.zeros(len(weights), bool), self.diagonal * weights**2
        for run, kept in zip(self.runs, self.kept, strict=True):
            # Ties are pruned by position, as everywhere.
            found[run.start + np.argsort(sizes[run], kind="stable")[run.stop - run.start - kept :]] = True
        return found

    @property
    def runs(self) -> list[slice]:
        """The runs of weights that have counts of their own."""
        return [slice(start, stop) for start, stop in zip((0, *self.groups[:-1]), self.groups, strict=True)]


def sparse_minimum(model: Quadratic, *, steps: int = 50) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Looks for the v with so many weights other than zero at which the model is least.

    The start keeps the largest ``D_j w_j^2``, which is the choice of the diagonal alone.

    Args:
      model: the model, and how many weights are kept.
      steps: the most changes of the support.

    Returns:
      v [n]; what is kept [n], exactly as many as asked; and Q after every step, which never rises.

    Source: Benbaki et al. (2023), arXiv 2302.14623: thresholding on the rows, long steps by search, and a solution on
    the support that was found.  Steps relative to the diagonal are ours.

    >>> rows = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.1]])
    >>> model = Quadratic(np.array([2.0, 1.0, 9.0]), np.zeros(3), rows, 1e-9, (3,), (1,))
    >>> found, kept, _ = sparse_minimum(model)
    >>> found.round(3).tolist(), kept.tolist()
    ([3.0, 0.0, 0.0], [True, False, False])
    """
    safe = 1 / (_MARGIN * _largest(model))
    kept = model.support(model.point)
    weights = settled(model, np.where(kept, model.point, 0), kept, _POLISH)
    values = [model.value(weights)]
    for _ in range(steps):
        slope, candidates = model.slope(weights), []
        for length in (safe, *_lengths(model, weights, kept, slope)):
            there = weights - length * slope / model.diagonal
            support = model.support(there)
            if not any(np.array_equal(support, other) for other, _ in candidates):
                candidates.append((support, settled(model, np.where(support, there, 0), support, _GLANCE)))
        support, there = min(candidates, key=lambda one: model.value(one[1]))
        value = model.value(there)
        # What rounding cannot tell from standing still.
        if not value < values[-1] - 10 * float(np.finfo(model.rows.dtype).eps) * abs(values[-1]):
            break
        kept, weights = support, there
        values.append(value)
    last = settled(model, weights, kept, _POLISH)
    if model.value(last) < values[-1]:
        weights = last
        values.append(model.value(last))
    return weights, kept, values


def settled(model: Quadratic, weights: np.ndarray, kept: np.ndarray, steps: int) -> np.ndarray:
    """Makes the model small over the kept weights by preconditioned conjugate gradients.

    Args:
      model: the model.
      weights: where to start [n], zero at all that is not kept.
      kept: [n].
      steps: at most.

    Returns:
      v [n], zero where the start is.
    """
    places = np.flatnonzero(kept)
    columns, scale = model.rows[:, places], 1 / model.diagonal[places]
    residual = -model.slope(weights)[places]
    moved, direction = np.zeros_like(residual), scale * residual
    size = residual @ direction
    least = size * float(np.finfo(residual.dtype).eps) ** 2
    for _ in range(steps):
        if size <= least:
            break
        turned = columns.T @ (columns @ direction) + model.ridge * direction
        length = size / (direction @ turned)
        moved, residual = moved + length * direction, residual - length * turned
        rescaled = scale * residual
        before, size = size, residual @ rescaled
        direction = rescaled + size / before * direction
    found = weights.copy()
    found[places] += moved
    return found


def _lengths(model: Quadratic, weights: np.ndarray, kept: np.ndarray, slope: np.ndarray) -> list[float]:
    """The lengths of steps that exchange 1, 8, 64 ... weights, where the slope at the kept ones is zero."""
    root, ratios = np.sqrt(model.diagonal), []
    for run in model.runs:
        inside = np.sort((root * np.abs(weights))[run][kept[run]])
        outside = np.sort((np.abs(slope) / root)[run][~kept[run]])[::-1]
        outside = outside[outside > 0]
        count = min(len(inside), len(outside))
        ratios.append(inside[:count] / outside[:count])
    reached, found, exchanged = np.sort(np.concatenate(ratios)), [], 1
    while exchanged <= len(reached):
        found.append(float(reached[exchanged - 1]) * (1 + 1e-4))
        exchanged *= _EXCHANGED
    return found


def _largest(model: Quadratic) -> float:
    """The largest eigenvalue of the matrix relative to its diagonal, by products with one vector."""
    root = 1 / np.sqrt(model.diagonal)
    vector, found = np.random.default_rng(0).standard_normal(len(root)).astype(root.dtype), 1.0
    for _ in range(_PRODUCTS):
        vector = vector / np.linalg.norm(vector)
        turned = root * model.product(root * vector)
        found, vector = float(vector @ turned), turned
    return found
