"""Second moments of the signals of one leaf: where positions are fewer than columns, its blocks follow from these.

With the inputs A_n [t, d] of a unit o, its signals l_nk, r_nk [t] and the weights c_nk of the columns k,

    H_o  =  sum_n A_n^T M_n A_n,      M_n[t, s]  =  sum_k c_nk l_nk[t] r_nk[s]

so that the columns are summed first, and every one costs t numbers for each t, not a gradient of d.  After the last
stage of a network there are 49 positions for a thousand classes, or a single one.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxprune.curvature import grams
from jaxprune.curvature.rows import Rows, sides

# Beyond so many positions the moments of a layer would take more memory than all else that is held.
_POSITIONS = 64


def serve(ready: Rows, quantity: Any, columns: int) -> bool:
    """Whether moments take fewer operations for a quantity than a gradient for every example and column."""
    kind, blocks = (quantity, 1) if isinstance(quantity, str) else quantity
    if kind not in ("diagonal", "dense") or blocks == "layer":
        return False
    positions, inputs = ready.extents
    size = inputs if blocks == "unit" else min(blocks, inputs)
    summed = columns * positions**2
    each = positions**2 * inputs + (positions * inputs * size if kind == "dense" else 0)
    return positions == 1 or (positions <= _POSITIONS and summed + each < columns * inputs * (positions + size))


def of_signals(ready: Rows, signals: list[Any], weights: Any) -> Any:
    """The share of some columns in M, [n, g, t, s, o].

    ``signals``: all left ones before all right ones, or one for both; ``weights``: of every column [n, k].
    """
    ordered = jnp.moveaxis(ready.ordered(signals), 3, 0)
    left, right = sides(ordered, weights.shape[1])
    # No product of matrices: for each unit it would be one of a few numbers.
    terms = [
        weight[:, None, None, None, None] * one[:, :, :, None] * other[:, :, None]
        for weight, one, other in zip(weights.T, left, right, strict=True)
    ]
    return sum(terms[1:], terms[0])


def made(ready: Rows, quantity: Any, moments: Any, units: tuple[int, ...]) -> Any:
    """A quantity of a leaf from the moments of all columns; ``units``: the axes of the leaf that are output."""
    return _diagonal(ready, moments) if quantity == "diagonal" else _dense(ready, moments, quantity[1], units)


def _diagonal(ready: Rows, moments: Any) -> Any:
    """The diagonal of a leaf: ``sum_n sum_ts A_n[t, d] A_n[s, d] M_n[t, s, o]``."""

    def add(total: Any, example: Any) -> tuple[Any, None]:
        inputs, moments = example
        pairs = inputs[:, :, None] * inputs[:, None]
        pairs = pairs.reshape(len(pairs), -1, pairs.shape[-1])
        return total + jnp.einsum("gpd,gpo->gdo", pairs, moments.reshape(*pairs.shape[:2], -1)), None

    inputs = ready.inputs(moments)
    if inputs.shape[2] == 1:
        total = jnp.einsum("ngd,ngo->gdo", inputs[:, :, 0] ** 2, moments[:, :, 0, 0])
    else:
        total = jax.lax.scan(add, jnp.zeros(ready.layout.index.shape, moments.dtype), (inputs, moments))[0]
    return ready.to_leaf(total if ready.scale is None else total * ready.scale**2)


def _dense(ready: Rows, moments: Any, blocks: str | int, units: tuple[int, ...]) -> Any:
    """The dense blocks of a leaf, [blocks, m, m]."""
    inputs, outputs = ready.inputs(moments), ready.layout.index.shape[2]
    apart = jnp.moveaxis(moments, 4, 2).reshape(len(moments), -1, *moments.shape[2:4])  # [n, g o, t, s]

    def one(unit: Any) -> Any:
        group = unit // outputs
        own = inputs[:, group]  # [n, t, d]
        if ready.scale is not None:
            own = own * ready.scale[group, :, unit % outputs]
        there = jnp.einsum("nts,nsd->ntd", apart[:, unit], own)
        left, right = (grams.in_runs(each, blocks) for each in (own, there))
        total = jnp.einsum("ntri,ntrj->rij", left, right)
        return (total + total.mT) / 2

    found = jax.lax.map(one, grams.unit_order(ready, units))
    return found.reshape(-1, *found.shape[-2:])
