"""Inverses of triangles, by products of matrices."""

from typing import Any

import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

# Triangles up to this size are inverted by substitution.
_SMALL = 300


def inverse(factor: Any) -> Any:
    """Inverts a lower triangle, half by half: products of matrices, and nothing above the diagonal.

    >>> inverse(jnp.array([[2.0, 0.0], [1.0, 1.0]]))
    Array([[ 0.5,  0. ],
           [-0.5,  1. ]], dtype=float32)
    """
    size = factor.shape[0]
    if size <= _SMALL:
        return solve_triangular(factor, jnp.eye(size, dtype=factor.dtype), lower=True)
    half = size // 2
    upper, lower = inverse(factor[:half, :half]), inverse(factor[half:, half:])
    below = -lower @ (factor[half:, :half] @ upper)
    return jnp.block([[upper, jnp.zeros((half, size - half), factor.dtype)], [below, lower]])
