"""How far two subspaces of the weights agree."""

from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import subspace_angles

from jaxprune import check


class Alignment(NamedTuple):
    """The mean squared cosine of the principal angles, what chance would give, and the angles in radians, ascending."""

    overlap: float
    chance: float
    angles: np.ndarray


def alignment(left: Any, right: Any) -> Alignment:
    """Compares two subspaces, such as those of the top eigenvectors of the curvature on two tasks.

    ``overlap = |Q_left Q_right'|_F^2 / min(k, m) = mean_i cos^2 angle_i``, Q orthonormal bases: 1 where one subspace
    contains the other, 0 where they are orthogonal.  Independent random subspaces have ``max(k, m) / n`` on average,
    which is k / n for two of one size: that is ``chance``.

    Args:
      left: k vectors [k, n] that span a subspace, for example ``eigenpairs(...).vectors``.
      right: m vectors [m, n], over the same n weights.

    Returns:
      The overlap, the overlap expected by chance, and the principal angles [min(k, m)] in radians.

    Raises:
      ValueError: shapes that do not fit, numbers that are not finite, or vectors that are linearly dependent.

    Source: Björck and Golub (1973); of curvature: Gur-Ari, Roberts and Dyer (2018), arXiv 1812.04754.

    >>> found = alignment(np.eye(4)[:2], np.eye(4)[1:3])
    >>> round(found.overlap, 6), found.chance
    (0.5, 0.5)
    """
    sides = {"left": np.asarray(left, np.float64), "right": np.asarray(right, np.float64)}
    for name, side in sides.items():
        if side.ndim != 2 or not 0 < len(side) <= side.shape[1]:
            raise ValueError(f"{name}: expected k vectors [k, n] with 1 <= k <= n, but got the shape {side.shape}.")
        check.finite(name, side, "Leave out vectors that could not be computed.")
        if np.linalg.matrix_rank(side) < len(side):
            raise ValueError(
                f"{name}: expected linearly independent vectors, but {len(side)} of them span only "
                f"{np.linalg.matrix_rank(side)} dimensions. Ask for fewer eigenvectors."
            )
    left, right = sides.values()
    if left.shape[1] != right.shape[1]:
        raise ValueError(
            f"right: expected vectors over the {left.shape[1]} weights of left, but got {right.shape[1]}. Choose the "
            "same scope and masks for both."
        )
    angles = np.sort(subspace_angles(left.T, right.T))
    return Alignment(float(np.mean(np.cos(angles) ** 2)), max(len(left), len(right)) / left.shape[1], angles)
