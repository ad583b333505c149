"""Dense blocks of a leaf with fewer positions than columns: the signals of all columns shrink to as many as positions.

With the inputs A_n [t, d] of a unit o and its signals S_n [k, t], weighted by the roots of c_nk, its block is

    H_o  =  sum_n (S_n A_n)^T (S_n A_n)  =  sum_n (R_n A_n)^T (R_n A_n),      R_n^T R_n = S_n^T S_n

with the triangle R_n [t, t] of a QR decomposition: t gradients of an example stand for those of all columns.  After the
last stage of a network there may be four positions for a thousand classes, or a single one.  Chunks of columns are
joined by another decomposition; S_n^T S_n is never formed, which would lose what cancels over the positions.

The decompositions are reflections by Householder, of all units side by side.  A program with one of LAPACK's for each
of several leaves did not return, all of its threads waiting, where there are two of them (jaxlib 0.10.2).
"""

from typing import Any

import jax.numpy as jnp

from jaxprune.curvature import grams
from jaxprune.curvature.rows import Rows

# Beyond so many positions decompositions take longer than the gradients that they save.
_POSITIONS = 9


def serve(ready: Rows, quantity: Any, columns: int) -> bool:
    """Whether a quantity is of dense blocks, and roots are far fewer gradients than those of all columns."""
    if isinstance(quantity, str):
        return False
    kind, blocks = quantity
    return kind == "dense" and blocks != "layer" and ready.positions <= min(columns // 2, _POSITIONS)


def of_signals(ready: Rows, signals: list[Any], weights: Any) -> Any:
    """The triangles of some columns, [t, t, n, g, o]; ``weights``: of every column, none below 0 [n, k]."""
    ordered = ready.ordered(signals) * jnp.sqrt(weights)[:, None, None, :, None]
    return _triangle(jnp.transpose(ordered, (3, 2, 0, 1, 4)))


def joined(one: Any, other: Any) -> Any:
    """The triangles of the columns of both."""
    return _triangle(jnp.concatenate([one, other]))


def _triangle(rows: Any) -> Any:
    """R [t, t, ...] with R^T R = S^T S, of S [k, t, ...]: in each step a reflection that leaves one number of a column.

    >>> _triangle(jnp.array([[3.0, 1.0], [4.0, 2.0], [0.0, 2.0]]))
    Array([[-5.      , -2.2     ],
           [ 0.      , -2.039608]], dtype=float32)
    """
    positions = rows.shape[1]
    # Scaled, so that no square of a small signal is zero.
    size = jnp.max(jnp.abs(rows), axis=(0, 1))
    rows = rows / jnp.where(size > 0, size, 1)
    triangle = []
    for step in range(positions):
        column = rows[:, 0]
        if len(column):
            norm = jnp.sqrt(jnp.sum(column**2, axis=0))
            mirror = column.at[0].add(jnp.where(column[0] >= 0, norm, -norm))
            length = jnp.sum(mirror**2, axis=0)
            along = jnp.sum(mirror[:, None] * rows, axis=0) * jnp.where(length > 0, 2 / length, 0)
            rows = rows - mirror[:, None] * along
            left = rows[0]
        else:
            left = jnp.zeros(rows.shape[1:], rows.dtype)
        triangle.append(jnp.pad(left, ((step, 0), *[(0, 0)] * (left.ndim - 1))))
        rows = rows[1:, 1:]
    return jnp.stack(triangle) * size


def dense(ready: Rows, triangles: Any, blocks: str | int, units: tuple[int, ...]) -> Any:
    """The dense blocks of a leaf, [blocks, m, m], from the triangles of all columns.

    ``units``: the axes of the leaf that are output.
    """
    # As signals of as many columns as positions, [n, g, t, k, o].
    signals = jnp.transpose(triangles, (2, 3, 1, 0, 4))
    return grams.of_ordered(ready, ready.inputs(signals), signals, blocks, units)
