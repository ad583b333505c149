"""What is made of the signals of one leaf: dense blocks, their factors, products of runs.

Each sums over the examples and the columns that it is given; see ``signals`` for where these come from.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.curvature import partition
from jaxprune.curvature.rows import Rows, sides

# One triangle of V^T V is computed in panels of so many rows: enough for full speed, and few panels to compile.
_PANEL, _PANELS = 96, 6


def run_products(ready: Rows, signals: list[Any], weights: Any, vector: Any, size: int) -> Any:
    """H_B v_B for runs of ``size`` inputs inside a unit: here g is formed, one example at a time."""
    own = ready.from_leaf(vector)
    run = np.arange(own.shape[1]) // size
    same = jnp.asarray(run[:, None] == np.arange(run[-1] + 1), own.dtype)  # [d, runs]

    def shares(left: Any, right: Any) -> Any:
        along = jnp.einsum("gdo,dr->gro", left * own, same)
        return right * jnp.einsum("gro,dr->gdo", along, same)

    return ready.to_leaf(ready.sum(shares, signals, weights))


def dense(ready: Rows, signals: list[Any], weights: Any, blocks: str | int, units: tuple[int, ...]) -> Any:
    """Sums the share of some columns in the dense blocks of a leaf, [blocks, m, m] ([1, n, n] for "layer").

    ``units``: the axes of the leaf that are output.
    """

    def gram(rows: Any, weights: Any) -> Any:
        left, right = sides(jnp.moveaxis(rows, 1, 0), weights.shape[1])  # [k, n, runs, m]
        if left is right:
            scaled = (left * weights.T[:, :, None, None]).reshape(-1, *left.shape[2:])
            return symmetric(scaled, left.reshape(-1, *left.shape[2:]))
        total = jnp.einsum("knri,knrj->rij", left * weights.T[:, :, None, None], right)
        return (total + total.mT) / 2

    found = _over_units(gram, ready, signals, weights, blocks, units)
    return found.reshape(-1, *found.shape[-2:])


def symmetric(left: Any, right: Any) -> Any:
    """``sum_r left[r, b, i] right[r, b, j]`` [b, m, m], known to be symmetric: one triangle is computed, in panels.

    >>> symmetric(jnp.array([[[1.0, 2.0]]]), jnp.array([[[1.0, 2.0]]]))
    Array([[[1., 2.],
            [2., 4.]]], dtype=float32)
    """
    size = left.shape[2]
    step = -(-size // max(1, min(_PANELS, size // _PANEL)))
    if step == size:
        return jnp.einsum("rbi,rbj->bij", left, right)
    panels = []
    for start in range(0, size, step):
        stop = min(start + step, size)
        panel = jnp.einsum("rbi,rbj->bij", left[:, :, start:stop], right[:, :, :stop])
        panels.append(jnp.pad(panel, ((0, 0), (0, 0), (0, size - stop))))
    lower = jnp.concatenate(panels, axis=1)
    row, column = np.arange(size)[:, None], np.arange(size)
    return jnp.where(row >= column, lower, lower.mT)


def factors(
    ready: Rows, signals: list[Any], weights: Any, blocks: str | int, units: tuple[int, ...]
) -> tuple[Any, Any]:
    """Computes the rows V [blocks, r, m] of some columns, H_B being the sum of V_B^T V_B; and the lowest weight."""

    def rows(rows: Any, weights: Any) -> tuple[Any, Any]:
        scaled = rows * jnp.sqrt(jnp.abs(weights))[:, :, None, None]
        return jnp.moveaxis(scaled, 2, 0).reshape(rows.shape[2], -1, rows.shape[3]), jnp.min(weights)

    found, lowest = _over_units(rows, ready, signals, weights, blocks, units)
    return found.reshape(-1, *found.shape[-2:]), jnp.min(lowest)


def _over_units(
    function: Callable[[Any, Any], Any],
    ready: Rows,
    signals: list[Any],
    weights: Any,
    blocks: str | int,
    units: tuple[int, ...],
) -> Any:
    """Maps a function of the gradients [n, k, runs, m] and weights [n, k] over the units of a leaf, one at a time."""
    inputs, ordered = ready.all(signals)
    index = ready.layout.index
    if blocks == "layer":
        gradients = jnp.stack(jax.vmap(ready.gradients)(inputs, ordered), axis=1)
        gradients = gradients.reshape(*gradients.shape[:2], 1, -1)
        return function(gradients[..., np.argsort(index.ravel())], weights)
    numbers = partition.labels(ready.layout.shape, "unit", units).ravel()
    size = index.shape[1] if isinstance(blocks, str) else blocks
    runs = -(-index.shape[1] // size)
    wide = ((0, 0), (0, 0), (0, runs * size - index.shape[1]))

    def one(unit: Any) -> Any:
        rows, each = ready.of_unit(inputs, ordered, weights, unit)
        return function(jnp.pad(rows, wide).reshape(*rows.shape[:2], runs, size), each)

    return jax.lax.map(one, jnp.asarray(np.argsort(numbers[index[:, 0, :].ravel()])))
