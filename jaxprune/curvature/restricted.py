"""The routes by products in the space of the weights, right for every network.

A product restricted to one leaf starts at that leaf and only the gradient of that leaf is taken.  For layer blocks one
product for each leaf suffices, all in one program, so that the compiler computes what they share once.  For smaller
blocks each block takes a product of its own.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import losses, tree
from jaxprune.curvature.loops import side_by_side
from jaxprune.curvature.products import linearised
from jaxprune.network import Network
from jaxprune.types import Batch, Loss


@partial(jax.jit, static_argnames=("loss", "matrices", "paths"))
@jax.default_matmul_precision("highest")
def layer_products(
    network: Network,
    batch: Batch,
    vectors: Sequence[Any],
    *,
    loss: Loss,
    matrices: tuple[str, ...],
    paths: tuple[str, ...],
) -> list[Any]:
    """Computes M_l v_l for every leaf l of these names, each with its own matrix."""
    return [
        _restricted(network, loss, batch, path, matrix)(vector)
        for path, matrix, vector in zip(paths, matrices, vectors, strict=True)
    ]


@partial(jax.jit, static_argnames=("loss", "path", "matrix"))
@jax.default_matmul_precision("highest")
def products(
    network: Network, batch: Batch, vector: Any, labels: Any, indices: Any, *, loss: Loss, path: str, matrix: str
) -> Any:
    """Sums M_bb v_b, each at its place in the leaf, over the blocks b in ``indices`` (-1: no block)."""
    product = _restricted(network, loss, batch, path, matrix)

    def one(index: Any) -> Any:
        inside = labels == index
        return jnp.where(inside, product(jnp.where(inside, vector, 0)), 0)

    return jnp.sum(side_by_side(one, indices), axis=0)


@partial(jax.jit, static_argnames=("loss", "paths"))
@jax.default_matmul_precision("highest")
def squared_gradients(network: Network, batch: Batch, indices: Any, *, loss: Loss, paths: tuple[str, ...]) -> list[Any]:
    """Sums the squared gradients of the losses of some examples (-1: none), by their shares, for leaves of these names.

    Each is a backward pass of the whole batch, as a network that mixes its examples demands.
    """
    every = tree.by_name(network.params)

    def values(leaves: list[Any]) -> Any:
        given = every | dict(zip(paths, leaves, strict=True))
        params = tree.map_named(lambda name, _: given[name], network.params)
        outputs = network.apply(params, network.state, losses.images(batch))
        return loss(*losses.without_padding(outputs, batch))

    found, pull = jax.vjp(values, [every[path] for path in paths])
    share = losses.shares(batch, found)

    def one(index: Any) -> list[Any]:
        weight = jnp.where(index >= 0, share[index], 0)
        cotangent = jnp.where(weight > 0, jax.nn.one_hot(index, len(found), dtype=found.dtype), 0)
        return [jnp.where(weight > 0, weight * leaf.astype(share.dtype) ** 2, 0) for leaf in pull(cotangent)[0]]

    return [jnp.sum(each, axis=0) for each in side_by_side(one, indices)]


@partial(jax.jit, static_argnames=("loss", "path", "matrix"))
@jax.default_matmul_precision("highest")
def block_rows(
    network: Network, batch: Batch, members: Any, indices: Any, *, loss: Loss, path: str, matrix: str
) -> Any:
    """Computes rows of the dense blocks [chunk, size]; row i belongs to weight ``members.ravel()[i]`` (-1: zero)."""
    product = _restricted(network, loss, batch, path, matrix)
    leaf = tree.leaf(network.params, path)

    def one(index: Any) -> Any:
        row, weight = members[index // members.shape[1]], members.ravel()[index]
        column = product(jax.nn.one_hot(weight, leaf.size, dtype=leaf.dtype).reshape(leaf.shape)).ravel()
        return jnp.where((row >= 0) & (index >= 0), column[row], 0)

    return side_by_side(one, indices)


def _restricted(network: Network, loss: Loss, batch: Batch, path: str, matrix: str) -> Callable[[Any], Any]:
    images = losses.images(batch)

    def outputs(leaf: Any) -> Any:
        return network.apply(tree.replace(network.params, path, leaf), network.state, images)

    return linearised(outputs, loss, batch, tree.leaf(network.params, path), matrix)
