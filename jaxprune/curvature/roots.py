"""Dense blocks of a leaf with fewer positions than columns: the signals of all columns shrink to as many as positions.

With the inputs A_n [t, d] of a unit o and its signals S_n [k, t], weighted by the roots of c_nk, its block is

    H_o  =  sum_n (S_n A_n)^T (S_n A_n)  =  sum_n (R_n A_n)^T (R_n A_n),      R_n^T R_n = S_n^T S_n

with the triangle R_n [t, t] of a QR decomposition: t gradients of an example stand for those of all columns.  After the
last stage of a network there may be four positions for a thousand classes, or a single one.  Chunks of columns are
joined by another decomposition; S_n^T S_n is never formed, which would lose what cancels over the positions.  What
cancels exactly leaves the rounding of its terms, squared.

The decompositions are those of modified Gram and Schmidt, whose triangle is as exact as that of reflections, of all
units side by side.  A program with one of LAPACK's for each of several leaves did not return, all of its threads
waiting, where there are two of them (jaxlib 0.10.2).
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxprune.curvature import grams
from jaxprune.curvature.rows import Rows

# So many numbers a block must have for each pair of positions, or a decomposition takes more time than it saves: it
# runs at a fiftieth of the speed of a product of matrices.
_WORTH = 500


def serve(ready: Rows, quantity: Any, columns: int) -> bool:
    """Whether a quantity is of dense blocks for which roots are fewer gradients than columns are, and cheaper."""
    if isinstance(quantity, str) or quantity[0] != "dense" or quantity[1] == "layer":
        return False
    inputs = ready.layout.index.shape[1]
    size = inputs if quantity[1] == "unit" else min(inputs, quantity[1])
    return 2 * ready.positions <= columns and _WORTH * ready.positions**2 <= inputs * size


def of_signals(ready: Rows, signals: list[Any], weights: Any) -> Any:
    """The triangles of some columns, [t, t, n, g, o]; ``weights``: of every column, none below 0 [n, k]."""
    ordered = ready.ordered(signals) * jnp.sqrt(weights)[:, None, None, :, None]
    return _triangle(jnp.transpose(ordered, (3, 2, 0, 1, 4)))


def joined(one: Any, other: Any) -> Any:
    """The triangles of the columns of both."""
    return _triangle(jnp.concatenate([one, other]))


def _triangle(rows: Any) -> Any:
    """R [t, t, ...] with R^T R = S^T S, of S [k, t, ...]: each step takes a column out of those after it.

    >>> _triangle(jnp.array([[3.0, 1.0], [4.0, 2.0], [0.0, 2.0]]))
    Array([[5.       , 2.2      ],
           [0.       , 2.0396078]], dtype=float32)
    """
    positions = jnp.arange(rows.shape[1]).reshape(-1, *[1] * (rows.ndim - 2))
    # Every column is scaled, so that no square of a small signal is zero.
    size = jnp.max(jnp.abs(rows), axis=0)
    # Less than this of a column is no more than the rounding of rounding.
    nothing = jnp.finfo(rows.dtype).eps ** 2

    def step(rows: Any, at: Any) -> tuple[Any, Any]:
        # Of a dependent column only rounding is left.  Unrolled, XLA on a CPU computes it once for its length and once
        # for its direction, rounded in two ways, and that is no unit vector; what a loop carries is computed once.
        # The barrier is for compilers that unroll loops.
        rows = jax.lax.optimization_barrier(rows)
        column = rows[:, at]
        counts = jnp.max(jnp.abs(column), axis=0) > nothing
        norm = jnp.where(counts, jnp.sqrt(jnp.sum(column**2, axis=0)), 0)
        direction = jnp.where(counts, column / jnp.where(counts, norm, 1)[None], 0)
        along = jnp.where(positions > at, jnp.sum(direction[:, None] * rows, axis=0), 0)
        return rows - direction[:, None] * along[None], jnp.where(positions == at, norm[None], along)

    scaled = rows / jnp.where(size > 0, size, 1)[None]
    return jax.lax.scan(step, scaled, jnp.arange(rows.shape[1]))[1] * size[None]


def dense(ready: Rows, triangles: Any, blocks: str | int, units: tuple[int, ...]) -> Any:
    """The dense blocks of a leaf, [blocks, m, m], from the triangles of all columns.

    ``units``: the axes of the leaf that are output.
    """
    # As signals of as many columns as positions, [n, g, t, k, o].
    signals = jnp.transpose(triangles, (2, 3, 1, 0, 4))
    return grams.of_ordered(ready, ready.inputs(signals), signals, blocks, units)
