"""The route by products in activation space: exact blocks of a unit where the network after it is not piecewise linear.

For one kernel z = W a the exact block is H_W = sum_n sum_{s,t} (a_s a_t^T) kron H_z[s, t], whatever follows: H_z, the
Hessian of the mean loss by z, acts on signals of the shape of z.  The products start and end at z, so nothing before it
is differentiated, and one weight gradient serves all units.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import losses, tree
from jaxprune.curvature import partition
from jaxprune.curvature.loops import side_by_side
from jaxprune.curvature.products import linearised
from jaxprune.curvature.rows import rows
from jaxprune.curvature.tasks import WIDTH
from jaxprune.network import Network
from jaxprune.sites import Site, Survey, add_to, survey
from jaxprune.types import Batch, Loss


def _at_site(
    network: Network, loss: Loss, batch: Batch, matrix: str, path: str
) -> tuple[Survey, Site, dict[int, Any], Callable[[Any], Any]]:
    """What a site needs, and v -> M_z v with M_z the matrix of the mean loss by z."""
    found = survey(network, batch["image"])
    site, program = found.sites[path], found.program
    arguments = jax.tree.leaves((network.params, network.state, losses.images(batch)))
    values = program.run(arguments, {}, site.needs(program))[1]

    def outputs(part: Any) -> Any:
        return program.run(arguments, add_to([site], [part]))[0][0]

    zeros = jnp.zeros(program.avals[site.output].shape, program.avals[site.output].dtype)
    return found, site, values, linearised(outputs, loss, batch, zeros, matrix)


def _unit_numbers(site: Site, shape: tuple[int, ...]) -> np.ndarray:
    """The unit that every entry of z belongs to, in the order of ``site.unit_axes``; of the rank of z."""
    extents = [shape[axis] if axis in site.output_axes else 1 for axis in range(len(shape))]
    return np.arange(np.prod(extents)).reshape(extents)


@partial(jax.jit, static_argnames=("loss", "matrix", "path"))
@jax.default_matmul_precision("highest")
def products(network: Network, batch: Batch, vector: Any, indices: Any, *, loss: Loss, matrix: str, path: str) -> Any:
    """Sums H_B v_B over some units B of a leaf (-1: none), each at its place in the leaf."""
    found, site, values, product = _at_site(network, loss, batch, matrix, path)
    linear = site.contribution(found.program, values)
    moved = linear(vector)
    numbers = _unit_numbers(site, moved.shape)

    def one(index: Any) -> Any:
        inside = numbers == index
        return jnp.where(inside, product(jnp.where(inside, moved, 0)), 0)

    return jax.linear_transpose(linear, vector)(jnp.sum(side_by_side(one, indices), axis=0))[0]


@partial(jax.jit, static_argnames=("loss", "matrix", "path", "quantity"))
@jax.default_matmul_precision("highest")
def blocks(network: Network, batch: Batch, indices: Any, *, loss: Loss, matrix: str, path: str, quantity: str) -> Any:
    """Computes the dense blocks [units, m, m] of some units, or their diagonals [units, m].

    One product for every position that shares the weights, all examples at once, so the examples must be independent.
    ``indices``: units in the order of ``partition``; -1: zero.
    """
    found, site, values, product = _at_site(network, loss, batch, matrix, path)
    ready = rows(found, site, values)
    leaf = tree.leaf(network.params, path)
    z = found.program.avals[site.output]
    # Where every entry of z stands in the order of ``rows``: [n, g, t, o].
    inputs, ordered = ready.all([jnp.arange(np.prod(z.shape)).reshape(z.shape)])
    order = ordered[:, :, :, 0, :]
    numbers = partition.labels(leaf.shape, "unit", found.unit_axes(path, leaf.ndim)).ravel()
    places = jnp.asarray(np.argsort(numbers[ready.layout.index[:, 0, :].ravel()]))

    def one(index: Any) -> Any:
        group, output = places[index] // ready.layout.index.shape[2], places[index] % ready.layout.index.shape[2]
        here, own = order[:, group, :, output], inputs[:, group]  # [n, t], [n, t, m]

        def column(position: Any) -> Any:
            tangent = jnp.zeros(np.prod(z.shape), z.dtype).at[here[:, position]].set(1)
            return product(tangent.reshape(z.shape)).ravel()[here]

        bend = jax.lax.map(column, jnp.arange(here.shape[1]), batch_size=WIDTH)  # [s, n, t]
        pulled = jnp.einsum("snt,ntd->nsd", bend, own)
        result = jnp.einsum("nsd,nse->de" if quantity == "block" else "nsd,nsd->d", pulled, own)
        if ready.scale is not None:
            scale = ready.scale[group, :, output]
            result = result * (scale[:, None] * scale if quantity == "block" else scale**2)
        return jnp.where(index >= 0, result, 0)

    return side_by_side(one, indices)
