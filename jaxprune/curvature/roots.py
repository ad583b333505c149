"""Dense blocks of a leaf with fewer positions than columns: the signals of all columns shrink to as many as positions.

With the inputs A_n [t, d] of a unit o and its signals S_n [k, t], weighted by the roots of c_nk, its block is

    H_o  =  sum_n (S_n A_n)^T (S_n A_n)  =  sum_n (R_n A_n)^T (R_n A_n),      R_n^T R_n = S_n^T S_n

with the triangle R_n [t, t] of a QR decomposition: t gradients of an example stand for those of all columns.  After the
last stage of a network there are 49 positions for a thousand classes, or a single one.  Chunks of columns are joined by
another decomposition; S_n^T S_n is never formed, which would lose what cancels over the positions.
"""

from typing import Any

import jax.numpy as jnp

from jaxprune.curvature import grams
from jaxprune.curvature.rows import Rows

# Beyond so many positions the roots of a layer would take more memory than all else that is held.
_POSITIONS = 64


def serve(ready: Rows, quantity: Any, columns: int) -> bool:
    """Whether a quantity is of dense blocks, and roots are fewer gradients than those of all columns."""
    if isinstance(quantity, str):
        return False
    kind, blocks = quantity
    return kind == "dense" and blocks != "layer" and ready.positions < min(columns, _POSITIONS + 1)


def of_signals(ready: Rows, signals: list[Any], weights: Any) -> Any:
    """The triangles of some columns, [n, g, o, t, t]; ``weights``: of every column, none below 0 [n, k]."""
    ordered = ready.ordered(signals) * jnp.sqrt(weights)[:, None, None, :, None]
    return _triangle(jnp.transpose(ordered, (0, 1, 4, 3, 2)))


def joined(one: Any, other: Any) -> Any:
    """The triangles of the columns of both."""
    return _triangle(jnp.concatenate([one, other], axis=-2))


def _triangle(rows: Any) -> Any:
    """R [..., t, t] with R^T R = S^T S, of S [..., k, t]."""
    count, positions = rows.shape[-2:]
    if positions == 1:
        return jnp.sqrt(jnp.sum(rows**2, axis=-2, keepdims=True))
    if count < positions:
        wide = [(0, 0)] * (rows.ndim - 2)
        return jnp.pad(rows, (*wide, (0, positions - count), (0, 0)))
    return jnp.linalg.qr(rows, mode="r")


def dense(ready: Rows, triangles: Any, blocks: str | int, units: tuple[int, ...]) -> Any:
    """The dense blocks of a leaf, [blocks, m, m], from the triangles of all columns.

    ``units``: the axes of the leaf that are output.
    """
    # As signals of as many columns as positions, [n, g, t, k, o].
    signals = jnp.transpose(triangles, (0, 1, 4, 3, 2))
    return grams.of_ordered(ready, ready.inputs(signals), signals, blocks, units)
