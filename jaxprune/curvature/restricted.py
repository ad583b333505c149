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
from jaxprune.curvature.columns import columns
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


@partial(jax.jit, static_argnames=("loss", "matrix", "paths", "quantity", "count"))
@jax.default_matmul_precision("highest")
def over_examples(
    network: Network,
    batch: Batch,
    vectors: Sequence[Any],
    tables: Sequence[Any],
    indices: Any,
    *,
    loss: Loss,
    matrix: str,
    paths: tuple[str, ...],
    quantity: str,
    count: int,
) -> list[Any]:
    """Sums what single examples add to a quantity of the Gauss-Newton or empirical Fisher matrix, for some leaves.

    The gradient of one example by one column of its output Hessian is a backward pass of the whole batch, as a network
    that mixes its examples demands, and goes to a leaf from all places where it enters.

    Args:
      network: the network.
      batch: images, what the loss reads, and weights.
      vectors: v at every leaf, for "products".
      tables: of every leaf; for "products" the block of every weight, for "dense" the weights of every block (-1:
        none).
      indices: numbers of pairs (example, column), examples first; -1: none.
      loss: per-example loss.
      matrix: "ggn" or "empirical_fisher".
      paths: the leaves.
      quantity: "diagonal", "products" (H_B v_B) or "dense" (blocks [blocks, m, m]).
      count: of the columns.
    """
    every = tree.by_name(network.params)

    def outputs(leaves: list[Any]) -> Any:
        given = every | dict(zip(paths, leaves, strict=True))
        params = tree.map_named(lambda name, _: given[name], network.params)
        return network.apply(params, network.state, losses.images(batch))

    found, pull = jax.vjp(outputs, [every[path] for path in paths])
    column = columns(loss, found, batch, losses.shares(batch, found), matrix)

    def one(index: Any) -> list[Any]:
        left, right, weights = column(jnp.maximum(index, 0) % count)
        own = (jnp.arange(len(found)) == index // count)[:, None]
        weight = jnp.where(index >= 0, weights[index // count], 0)
        gradients = pull(jnp.where(own & (weight != 0), left, 0))[0]
        others = gradients if right is None else pull(jnp.where(own & (weight != 0), right, 0))[0]
        parts = zip(gradients, others, vectors, tables, strict=True)
        return [weight * _of_gradients(quantity, *part) for part in parts]

    return [jnp.sum(each, axis=0) for each in side_by_side(one, indices)]


def _of_gradients(quantity: str, left: Any, right: Any, vector: Any, table: Any) -> Any:
    left, right = tree.wide((left, right))
    if quantity == "diagonal":
        return left * right
    if quantity == "products":
        blocks = jax.ops.segment_sum((left * vector).ravel(), table.ravel(), left.size)
        return right * blocks[table]
    one, other = (jnp.where(table < 0, 0, each.ravel()[table]) for each in (left, right))
    total = jnp.einsum("bi,bj->bij", one, other)
    return total if left is right else (total + total.mT) / 2


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
