"""What is made of the signals of one leaf: dense blocks, their factors, products of runs.

Each sums over the examples and the columns that it is given; see ``signals`` for where these come from.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.curvature import partition
from jaxprune.curvature.rows import Rows

# Up to this size both triangles of V^T V are computed: smaller products run no faster.
_WHOLE = 160
# Numbers in the gradients that are formed at a time.
_FORMED = 2**25


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

    def paired(rows: Any) -> Any:
        left, right = jnp.split(rows, 2, axis=1)
        total = jnp.einsum("nkri,nkrj->rij", left, right)
        return (total + total.mT) / 2

    inputs, ordered = ready.all(signals)
    if len(signals) == weights.shape[1]:
        return of_ordered(ready, inputs, ordered * jnp.sqrt(weights)[:, None, None, :, None], blocks, units)
    scales = jnp.concatenate([weights, jnp.ones_like(weights)], axis=1)
    ordered = ordered * scales[:, None, None, :, None]
    found = _over_units(paired, ready, inputs, ordered, blocks, units, paired=True)
    return found.reshape(-1, *found.shape[-2:])


def of_ordered(ready: Rows, inputs: Any, ordered: Any, blocks: str | int, units: tuple[int, ...]) -> Any:
    """Sums the dense blocks of a leaf over weighted signals in order [n, g, t, k, o]."""

    def alone(rows: Any) -> Any:
        return symmetric(rows.reshape(-1, *rows.shape[2:]))

    found = _over_units(alone, ready, inputs, ordered, blocks, units)
    return found.reshape(-1, *found.shape[-2:])


def symmetric(rows: Any) -> Any:
    """``V_b^T V_b`` [b, m, m] of rows V [r, b, m]: one triangle is computed, half by half.

    >>> symmetric(jnp.array([[[1.0, 2.0]]]))
    Array([[[1., 2.],
            [2., 4.]]], dtype=float32)
    """
    size = rows.shape[2]
    if size <= _WHOLE:
        return jnp.einsum("rbi,rbj->bij", rows, rows)
    left, right = rows[:, :, : size // 2], rows[:, :, size // 2 :]
    below = jnp.einsum("rbi,rbj->bij", right, left)
    return jnp.block([[symmetric(left), below.mT], [below, symmetric(right)]])


def factors(
    ready: Rows, signals: list[Any], weights: Any, blocks: str | int, units: tuple[int, ...]
) -> tuple[Any, Any]:
    """Computes the rows V [blocks, r, m] of some columns, H_B being the sum of V_B^T V_B; and the lowest weight."""

    def rows(rows: Any) -> Any:
        return jnp.moveaxis(rows, 2, 0).reshape(rows.shape[2], -1, rows.shape[3])

    inputs, ordered = ready.all(signals)
    ordered = ordered * jnp.sqrt(jnp.abs(weights))[:, None, None, :, None]
    found = _over_units(rows, ready, inputs, ordered, blocks, units)
    return found.reshape(-1, *found.shape[-2:]), jnp.min(weights)


def _over_units(
    function: Callable[[Any], Any],
    ready: Rows,
    inputs: Any,
    ordered: Any,
    blocks: str | int,
    units: tuple[int, ...],
    *,
    paired: bool = False,
) -> Any:
    """Maps a function of gradients [n, k, runs, m] over the units of a leaf, one at a time.

    ``ordered``: weighted signals; ``paired``: whether these are left ones before right ones.
    """
    index = ready.layout.index
    if blocks == "layer":
        gradients = jnp.stack(jax.vmap(ready.gradients)(inputs, ordered), axis=1)
        gradients = gradients.reshape(*gradients.shape[:2], 1, -1)
        return function(gradients[..., np.argsort(index.ravel())])
    order = np.argsort(partition.labels(ready.layout.shape, "unit", units).ravel()[index[:, 0, :].ravel()])
    size = index.shape[1] if isinstance(blocks, str) else min(blocks, index.shape[1])
    runs = -(-index.shape[1] // size)
    wide = ((0, 0), (0, 0), (0, runs * size - index.shape[1]))

    def one(rows: Any) -> Any:
        return function(jnp.pad(rows, wide).reshape(*rows.shape[:2], runs, size))

    if index.shape[0] > 1 or inputs.shape[2] == 1:
        return jax.lax.map(lambda unit: one(ready.of_unit(inputs, ordered, unit, paired=paired)), jnp.asarray(order))

    def some(units: Any) -> Any:
        return jax.lax.map(one, ready.of_units(inputs, ordered, units))

    # The gradients of many units are one product; their blocks are made one at a time, which the cache holds.
    formed = ordered.shape[0] * ordered.shape[3] * index.shape[1]
    count = -(-len(order) // max(1, _FORMED // formed))
    if count == 1:
        return some(order)
    chunks = np.resize(order, (count, -(-len(order) // count)))
    found = jax.lax.map(some, jnp.asarray(chunks))
    return found.reshape(-1, *found.shape[2:])[: len(order)]
