"""Exact diagonals, block products and dense blocks, by products restricted to one leaf.

A leaf is cut into blocks; ``labels`` says for every weight to which block it belongs.  For a vector v, block b receives
M_bb v_b: the product M (v restricted to b), read at b.  The tangent starts at the leaf and only the gradient of the
leaf is taken, so what lies before it is computed once.  Many blocks go through one compiled program, a chunk at a time.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune import check, tree
from jaxprune.curvature.products import MATRICES, linearised
from jaxprune.network import Network
from jaxprune.types import Batch, Loss, Params, Scope

# Products that run side by side, folded into the batch.  More costs memory and measured no faster (16 against 64).
_CHUNK = 16


def diagonal(network: Network, loss: Loss, batch: Batch, matrix: str = "hessian", scope: Scope = None) -> Params:
    """Computes the exact diagonal of the Hessian (or another matrix) of the weighted mean loss.

    Args:
      network: evaluated in evaluation mode.
      loss: per-example loss.
      batch: images, labels and optional weights.
      matrix: "hessian", "ggn" or "empirical_fisher".
      scope: static tree of bools; leaves that are False come back zero and cost nothing.  None: every leaf.

    Returns:
      H_jj for every weight j, structure and shapes of the parameters.  Costs one product for each weight, so this is
      for small networks.  Outside ``jax.jit`` it loops on the host.

    Raises:
      ValueError: unknown matrix, a scope or batch that does not fit.

    For the loss ||w x||^2 of one output, H_jj = 2 x_j^2:

    >>> from jaxprune import losses
    >>> net = Network(lambda p, s, x: x @ p, jnp.zeros((2, 1)))
    >>> batch = {"image": jnp.array([[1.0, 3.0]]), "label": jnp.zeros((1, 1))}
    >>> diagonal(net, losses.squared_error, batch)[:, 0]
    Array([ 2., 18.], dtype=float32)
    """

    def one(path: str, leaf: Any) -> Any:
        return _leaf_product(network, loss, batch, path, jnp.ones_like(leaf), _singletons(leaf.shape), matrix)

    return _over_scope(network, batch, matrix, scope, one)


def block_product(
    network: Network,
    loss: Loss,
    batch: Batch,
    vector: Params,
    blocks: str | int = "unit",
    matrix: str = "hessian",
    scope: Scope = None,
) -> Params:
    """Computes H_B v_B for every block B on the diagonal of the Hessian (or another matrix) at once.

    Args:
      network: evaluated in evaluation mode.
      loss: per-example loss.
      batch: images, labels and optional weights.
      vector: v, structure and shapes of the parameters.
      blocks: "unit" (all weights into one index of the last axis; each entry of a bias or scale is its own block),
        "layer" (the whole leaf), or an int (runs of that many inputs inside a unit).
      matrix: "hessian", "ggn" or "empirical_fisher".
      scope: static tree of bools; leaves that are False come back zero and cost nothing.  None: every leaf.

    Returns:
      A tree of the structure of the parameters.  Costs one product for each block.

    Raises:
      ValueError: unknown matrix or blocks; a vector, scope or batch that does not fit.

    >>> from jaxprune import losses
    >>> net = Network(lambda p, s, x: x @ p, jnp.zeros((2, 1)))
    >>> batch = {"image": jnp.array([[1.0, 3.0]]), "label": jnp.zeros((1, 1))}
    >>> block_product(net, losses.squared_error, batch, jnp.ones((2, 1)))[:, 0]
    Array([ 8., 24.], dtype=float32)
    """
    check.same_structure("vector", vector, "network.params", network.params)

    def one(path: str, leaf: Any) -> Any:
        labels = block_labels(leaf.shape, blocks)
        return _leaf_product(network, loss, batch, path, tree.leaf(vector, path), labels, matrix)

    return _over_scope(network, batch, matrix, scope, one)


def block(
    network: Network, loss: Loss, batch: Batch, path: str, blocks: str | int = "layer", matrix: str = "hessian"
) -> Any:
    """Computes the dense blocks of one leaf.

    Args:
      network: evaluated in evaluation mode.
      loss: per-example loss.
      batch: images, labels and optional weights.
      path: the name of the leaf, see ``jp.tree.names``.
      blocks: "layer", "unit" or an int, as in ``block_product``.
      matrix: "hessian", "ggn" or "empirical_fisher".

    Returns:
      "layer": [n, n], weights in row-major order.  "unit": [units, m, m], the m inputs of a unit in row-major order.
      An int b: [units * ceil(m / b), b, b]; where b does not divide m, the missing rows and columns of a unit's last
      block are zero.  Costs one product for each weight of the leaf.

    Raises:
      ValueError: no such leaf, unknown matrix or blocks.

    >>> from jaxprune import losses
    >>> net = Network(lambda p, s, x: x @ p, jnp.zeros((2, 1)))
    >>> batch = {"image": jnp.array([[1.0, 3.0]]), "label": jnp.zeros((1, 1))}
    >>> block(net, losses.squared_error, batch, "")
    Array([[ 2.,  6.],
           [ 6., 18.]], dtype=float32)
    """
    check.batch(batch)
    check.choice("matrix", matrix, MATRICES)
    members = block_members(tree.leaf(network.params, path).shape, blocks)
    arguments = (network, batch, members)

    def chunk(indices: Any) -> Any:
        return _rows(*arguments, indices, loss=loss, path=path, matrix=matrix)

    rows = _concatenate(chunk, members.size, _is_traced(arguments))
    return rows.reshape(*members.shape, members.shape[1])[0 if blocks == "layer" else slice(None)]


def block_labels(shape: tuple[int, ...], blocks: str | int) -> np.ndarray:
    """Numbers the blocks of a leaf: an integer array of the leaf's shape.

    >>> block_labels((3, 2), "unit").tolist()
    [[0, 1], [0, 1], [0, 1]]
    >>> block_labels((3, 2), 2).tolist()
    [[0, 2], [0, 2], [1, 3]]
    """
    if isinstance(blocks, str):
        check.choice("blocks", blocks, ("unit", "layer"))
    elif isinstance(blocks, bool) or blocks < 1:
        raise ValueError(f"blocks: expected 'unit', 'layer' or a size of 1 or more, but got {blocks!r}.")
    if blocks == "layer":
        return np.zeros(shape, dtype=np.int32)
    units = shape[-1] if shape else 1
    inputs = int(np.prod(shape, dtype=np.int64)) // max(units, 1)
    size = inputs if isinstance(blocks, str) else blocks
    runs = -(-inputs // size)
    labels = np.arange(units)[None, :] * runs + (np.arange(inputs) // size)[:, None]
    return labels.astype(np.int32).reshape(shape)


def block_members(shape: tuple[int, ...], blocks: str | int) -> np.ndarray:
    """Lists the flat positions of the weights of every block: [blocks, size], -1 where a block is shorter.

    >>> block_members((3, 2), 2).tolist()
    [[0, 2], [4, -1], [1, 3], [5, -1]]
    """
    labels = block_labels(shape, blocks).ravel()
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    size = blocks if isinstance(blocks, int) else int(counts.max())
    within = np.arange(labels.size) - np.repeat(np.cumsum(counts) - counts, counts)
    members = np.full((counts.size, size), -1, dtype=np.int32)
    members[labels[order], within] = order
    return members


def _singletons(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(np.prod(shape, dtype=np.int64), dtype=np.int32).reshape(shape)


def _over_scope(network: Network, batch: Batch, matrix: str, scope: Scope, one: Callable[[str, Any], Any]) -> Params:
    check.batch(batch)
    check.choice("matrix", matrix, MATRICES)
    if scope is None:
        return tree.map_named(one, network.params)
    check.static_bools("scope", scope, network.params)
    return tree.map_named(
        lambda path, leaf, wanted: one(path, leaf) if wanted else jnp.zeros_like(leaf), network.params, scope
    )


def _leaf_product(
    network: Network, loss: Loss, batch: Batch, path: str, vector: Any, labels: np.ndarray, matrix: str
) -> Any:
    arguments = (network, batch, vector, labels)

    def chunk(indices: Any) -> Any:
        return _products(*arguments, indices, loss=loss, path=path, matrix=matrix)

    return _sum(chunk, int(labels.max()) + 1, _is_traced(arguments))


@partial(jax.jit, static_argnames=("loss", "path", "matrix"))
@jax.default_matmul_precision("highest")
def _products(
    network: Network, batch: Batch, vector: Any, labels: Any, indices: Any, *, loss: Loss, path: str, matrix: str
) -> Any:
    """Sums M_bb v_b, each at its place in the leaf, over the blocks b in ``indices`` (-1: no block)."""
    product = _restricted(network, loss, batch, path, matrix)

    def one(index: Any) -> Any:
        inside = labels == index
        return jnp.where(inside, product(jnp.where(inside, vector, 0)), 0)

    return jnp.sum(jax.vmap(one)(indices), axis=0)


@partial(jax.jit, static_argnames=("loss", "path", "matrix"))
@jax.default_matmul_precision("highest")
def _rows(network: Network, batch: Batch, members: Any, indices: Any, *, loss: Loss, path: str, matrix: str) -> Any:
    """Computes rows of the dense blocks [chunk, size]; row i belongs to weight ``members.ravel()[i]`` (-1: zero)."""
    product = _restricted(network, loss, batch, path, matrix)
    leaf = tree.leaf(network.params, path)

    def one(index: Any) -> Any:
        row, weight = members[index // members.shape[1]], members.ravel()[index]
        column = product(jax.nn.one_hot(weight, leaf.size, dtype=leaf.dtype).reshape(leaf.shape)).ravel()
        return jnp.where(row >= 0, column[row], 0)

    return jax.vmap(one)(indices)


def _restricted(network: Network, loss: Loss, batch: Batch, path: str, matrix: str) -> Callable[[Any], Any]:
    def outputs(leaf: Any) -> Any:
        return network.apply(tree.replace(network.params, path, leaf), network.state, batch["image"])

    return linearised(outputs, loss, batch, tree.leaf(network.params, path), matrix)


def _is_traced(arguments: Any) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(arguments))


def _chunks(count: int, padding: int) -> np.ndarray:
    indices = np.full(-(-count // _CHUNK) * _CHUNK, padding, dtype=np.int32)
    indices[:count] = np.arange(count)
    return indices.reshape(-1, _CHUNK)


# Under jit the chunks run in a compiled loop. Outside, the host calls one compiled chunk again and again: XLA runs
# convolutions inside loops several times slower on CPU.
def _sum(chunk: Callable[[Any], Any], count: int, traced: bool) -> Any:
    indices = _chunks(count, padding=-1)
    if traced:
        first = jax.eval_shape(chunk, indices[0])
        return jax.lax.fori_loop(
            0,
            len(indices),
            lambda i, total: total + chunk(jnp.asarray(indices)[i]),
            jnp.zeros(first.shape, first.dtype),
        )
    total = chunk(indices[0])
    for some in indices[1:]:
        total = total + chunk(some)
    return total


def _concatenate(chunk: Callable[[Any], Any], count: int, traced: bool) -> Any:
    indices = _chunks(count, padding=0)
    parts = jax.lax.map(chunk, indices) if traced else jnp.stack([chunk(some) for some in indices])
    return parts.reshape(-1, *parts.shape[2:])[:count]
