"""The route by class-backward signals: exact blocks of all units of all layers for C backward passes.

At a site z = W a after which the network is piecewise linear, the Hessian by W is that of Gauss and Newton.  With the
columns l_k, r_k of the output Hessian (``outputs``; mostly the same) and the signals J_z^T l_k, J_z^T r_k, one backward
pass to the activations each,

    H_B v_B  =  sum_n sum_k  c_nk h_nk,B (g_nk,B . v_B),      g_nk = sum_t a[n, t] (J_z^T l_k)[n, t]^T,  h_nk with r_k

For unit and layer blocks g is never formed: g_nk,B . v_B = sum_t (J_z^T l_k)[n, t, i] (V a)[n, t, i] =: s_k[n, i], and
the sum over k of s_k J_z^T r_k goes through one weight gradient for all units of all layers at once.  Nothing is stored
for a class.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import losses, tree
from jaxprune.curvature import outputs, partition
from jaxprune.curvature.rows import Rows, rows
from jaxprune.network import Network
from jaxprune.sites import Survey, add_to, survey
from jaxprune.types import Batch, Loss

# Backward passes that one program may unroll: XLA runs convolutions in loops slowly on CPU, but compile time grows.
_UNROLLED = 16
# Beyond that, as many side by side as ten classes take, so that temporaries do not grow with the classes.
_SIDE_BY_SIDE = 9


def width(columns: int) -> int:
    """The number of columns whose backward passes run side by side in one program.

    >>> width(9), width(999)
    (9, 9)
    """
    return columns if columns <= _UNROLLED else _SIDE_BY_SIDE


class Signals:
    """The forward pass at some sites, and a backward pass for every column that is asked for.

    Attributes:
      survey: of the network.
      values: what the sites need, by number, and their outputs z.
    """

    def __init__(
        self, network: Network, loss: Loss, batch: Batch, matrix: str, paths: Sequence[str], roots: Any = None
    ):
        images = losses.images(batch)
        self.survey: Survey = survey(network, images)
        self.sites = [self.survey.sites[path] for path in paths]
        program = self.survey.program
        arguments = jax.tree.leaves((network.params, network.state, images))
        keep = {number for site in self.sites for number in (site.output, *site.needs(program))}

        def forward(parts: list[Any]) -> tuple[Any, dict[int, Any]]:
            (values,), kept = program.run(arguments, add_to(self.sites, parts), sorted(keep))
            return values, kept

        parts = [jnp.zeros(program.avals[site.output].shape, program.avals[site.output].dtype) for site in self.sites]
        values, self._pullback, self.values = jax.vjp(forward, parts, has_aux=True)
        self._column = outputs.columns(loss, values, batch, matrix) if roots is None else _of_roots(roots, values)
        self._count = outputs.count(loss, values.shape[-1], matrix)

    def signal(self, index: Any) -> tuple[list[Any], list[Any] | None, Any]:
        """The backward passes of one pair of columns: left and right signals for every site, and the weights [b].

        Right is None where it is left too; the weights are zero outside the columns.
        """
        inside = (index >= 0) & (index < self._count)
        left, right, weights = self._column(jnp.clip(index, 0, self._count - 1))
        other = None if right is None else self._pullback(right)[0]
        return self._pullback(left)[0], other, jnp.where(inside, weights, 0)

    def contributions(self, vectors: Sequence[Any]) -> list[Any]:
        """V a at every site."""
        return [self._linear(site)(vector) for site, vector in zip(self.sites, vectors, strict=True)]

    def outputs(self) -> list[Any]:
        """Z at every site."""
        return [self.values[site.output] for site in self.sites]

    def weight_gradient(self, at: int, cotangent: Any, like: Any) -> Any:
        """The gradient by the leaf of one site, from a cotangent of its z, which may be wider than z."""
        narrow = self.values[self.sites[at].output].dtype
        transposed = jax.linear_transpose(self._linear(self.sites[at]), like)
        if narrow == cotangent.dtype:
            return transposed(cotangent)[0]
        # In half precision what is small would be zero.
        size = jnp.max(jnp.abs(cotangent))
        size = jnp.where(size > 0, size, 1)
        return size * transposed((cotangent / size).astype(narrow))[0]

    def rows(self, at: int) -> Rows:
        """The gradients of every example at one site."""
        return rows(self.survey, self.sites[at], self.values)

    def _linear(self, site: Any) -> Callable[[Any], Any]:
        return site.contribution(self.survey.program, self.values)


@partial(jax.jit, static_argnames=("loss", "matrix", "blocks", "paths", "own"))
@jax.default_matmul_precision("highest")
def products(
    network: Network,
    batch: Batch,
    vectors: Sequence[Any],
    indices: Any,
    *,
    loss: Loss,
    matrix: str,
    blocks: str | int,
    paths: tuple[str, ...],
    own: bool,
) -> list[Any]:
    """Sums the share of some columns in H_B v_B, for the leaves of these names.

    ``vectors``: v at each of them.  ``own``: v is the parameters themselves, so V a is z.
    """
    signals = Signals(network, loss, batch, matrix, paths)
    if isinstance(blocks, int):
        return _run_products(signals, vectors, indices, blocks)
    moved = [
        z if own and site.kind != "add" else va
        for site, z, va in zip(signals.sites, signals.outputs(), signals.contributions(vectors), strict=True)
    ]
    # Sums are never narrower than float32, in half-precision networks too.
    totals = [jnp.zeros(z.shape, jnp.promote_types(z.dtype, jnp.float32)) for z in moved]
    for place in range(len(indices)):
        left, right, weights = signals.signal(indices[place])
        for at, (site, part, other) in enumerate(zip(signals.sites, left, right or left, strict=True)):
            examples = signals.survey.proofs[site.path].examples
            kept = {examples} if blocks == "layer" else {examples, *site.output_axes}
            summed = tuple(axis for axis in range(part.ndim) if axis not in kept)
            weighted = weights.reshape([-1 if axis == examples else 1 for axis in range(part.ndim)])
            along = part.astype(totals[at].dtype) * moved[at]
            share = weighted * jnp.sum(along, axis=summed, keepdims=True)
            totals[at] += (share * other).astype(totals[at].dtype)
    return [signals.weight_gradient(at, total, vectors[at]) for at, total in enumerate(totals)]


def _run_products(signals: Signals, vectors: Sequence[Any], indices: Any, size: int) -> list[Any]:
    """H_B v_B for runs of ``size`` inputs inside a unit: here g is formed, one example at a time."""
    every, weights = _all(signals, indices)
    results = []
    for at, vector in enumerate(vectors):
        ready = signals.rows(at)
        own = ready.from_leaf(vector)
        run = np.arange(own.shape[1]) // size
        same = jnp.asarray(run[:, None] == np.arange(run[-1] + 1), own.dtype)  # [d, runs]

        def shares(left: Any, right: Any, own: Any = own, same: Any = same) -> Any:
            along = jnp.einsum("gdo,dr->gro", left * own, same)
            return right * jnp.einsum("gro,dr->gdo", along, same)

        results.append(ready.to_leaf(ready.sum(shares, every[at], weights), vector))
    return results


@partial(jax.jit, static_argnames=("loss", "matrix", "paths"))
@jax.default_matmul_precision("highest")
def diagonals(
    network: Network, batch: Batch, indices: Any, *, loss: Loss, matrix: str, paths: tuple[str, ...]
) -> list[Any]:
    """Sums the share of some columns in the diagonal, for the leaves of these names."""
    signals = Signals(network, loss, batch, matrix, paths)
    every, weights = _all(signals, indices)
    results = []
    for at, path in enumerate(paths):
        ready = signals.rows(at)
        squares = ready.squares(every[at], weights)
        results.append(ready.to_leaf(squares, tree.leaf(network.params, path)))
    return results


@partial(jax.jit, static_argnames=("loss", "matrix", "path", "blocks"))
@jax.default_matmul_precision("highest")
def dense(
    network: Network, batch: Batch, indices: Any, *, loss: Loss, matrix: str, path: str, blocks: str | int
) -> Any:
    """Sums the share of some columns in the dense blocks of a leaf, [blocks, m, m] ([1, n, n] for "layer")."""

    def gram(rows: Any, weights: Any) -> Any:
        left, right = rows[:, : weights.shape[1]], rows[:, -weights.shape[1] :]
        total = jnp.einsum("nkri,nkrj->rij", left * weights[:, :, None, None], right)
        return total if left.shape == rows.shape else (total + total.mT) / 2

    found = _over_units(gram, network, batch, indices, loss, matrix, path, blocks)
    return found.reshape(-1, *found.shape[-2:])


@partial(jax.jit, static_argnames=("loss", "matrix", "path", "blocks"))
@jax.default_matmul_precision("highest")
def factors(
    network: Network, batch: Batch, roots: Any, indices: Any, *, loss: Loss, matrix: str, path: str, blocks: str | int
) -> tuple[Any, Any]:
    """Computes the rows V [blocks, r, m] of some columns, H_B being the sum of V_B^T V_B; and the lowest weight.

    ``roots``: of the output Hessian, as ``outputs.roots`` makes them; None where the columns of the loss are roots.
    """

    def rows(rows: Any, weights: Any) -> tuple[Any, Any]:
        scaled = rows * jnp.sqrt(jnp.abs(weights))[:, :, None, None]
        return jnp.moveaxis(scaled, 2, 0).reshape(rows.shape[2], -1, rows.shape[3]), jnp.min(weights)

    found, lowest = _over_units(rows, network, batch, indices, loss, matrix, path, blocks, roots)
    return found.reshape(-1, *found.shape[-2:]), jnp.min(lowest)


def _over_units(
    function: Callable[[Any, Any], Any],
    network: Network,
    batch: Batch,
    indices: Any,
    loss: Loss,
    matrix: str,
    path: str,
    blocks: str | int,
    roots: Any = None,
) -> Any:
    """Maps a function of the gradients [n, k, runs, m] and weights [n, k] over the units of a leaf, one at a time."""
    signals = Signals(network, loss, batch, matrix, [path], roots)
    every, weights = _all(signals, indices)
    ready = signals.rows(0)
    inputs, ordered = ready.all(every[0])
    if blocks == "layer":
        gradients = jnp.stack(jax.vmap(ready.gradients)(inputs, ordered), axis=1)
        gradients = gradients.reshape(*gradients.shape[:2], 1, -1)
        return function(gradients[..., np.argsort(ready.index.ravel())], weights)
    leaf = tree.leaf(network.params, path)
    units = partition.labels(leaf.shape, "unit", signals.survey.unit_axes(path, leaf.ndim)).ravel()
    size = ready.index.shape[1] if blocks == "unit" else blocks
    runs = -(-ready.index.shape[1] // size)
    wide = ((0, 0), (0, 0), (0, runs * size - ready.index.shape[1]))

    def one(unit: Any) -> Any:
        rows, each = ready.of_unit(inputs, ordered, weights, unit)
        return function(jnp.pad(rows, wide).reshape(*rows.shape[:2], runs, size), each)

    return jax.lax.map(one, jnp.asarray(np.argsort(units[ready.index[:, 0, :].ravel()])))


def _all(signals: Signals, indices: Any) -> tuple[list[list[Any]], Any]:
    """The signals of every site, left ones before right ones (see ``rows``), and their weights [n, k]."""
    every = [signals.signal(indices[place]) for place in range(len(indices))]
    sides = [left for left, _, _ in every] + [right for _, right, _ in every if right is not None]
    weights = jnp.stack([weights for _, _, weights in every], axis=-1)
    return [[parts[at] for parts in sides] for at in range(len(signals.sites))], weights


def _of_roots(roots: Any, values: Any) -> outputs.Column:
    lower, pivots = roots
    return lambda index: (lower[:, :, index].astype(values.dtype), None, pivots[:, index])


@partial(jax.jit, static_argnames="loss")
@jax.default_matmul_precision("highest")
def output_roots(network: Network, batch: Batch, *, loss: Loss) -> Any:
    """Factors the output Hessians of a loss, see ``outputs.roots``."""
    return outputs.roots(loss, network.apply(network.params, network.state, losses.images(batch)), batch)
