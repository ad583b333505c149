"""Exact diagonals, block products and dense blocks of the Hessian and its kin."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import check, tree
from jaxprune.curvature import partition, routes
from jaxprune.curvature.inputs import in_float32, like_parameters, ready
from jaxprune.curvature.products import MATRICES, demand_slope
from jaxprune.curvature.requests import Request
from jaxprune.memory import fits
from jaxprune.network import Network
from jaxprune.sites import survey
from jaxprune.types import Batch, Loss, Params, Scope


def diagonal(
    network: Network,
    loss: Loss,
    batch: Batch,
    matrix: str = "hessian",
    scope: Scope = None,
    *,
    memory: int | None = None,
) -> Params:
    """Computes the exact diagonal of the Hessian (or another matrix) of the weighted mean loss.

    Args:
      network: evaluated in evaluation mode.
      loss: per-example loss.
      batch: images, what the loss reads, and optional weights.
      matrix: "hessian", "ggn" or "empirical_fisher".
      scope: static tree of bools; leaves that are False come back zero and cost nothing.  None: every leaf.
      memory: the bytes that temporaries may take; less means more, smaller programs.  None: half of what is free.

    Returns:
      H_jj for every weight j, structure and shapes of the parameters, in their types or float32.  A few gradients where
      the network is piecewise linear after a leaf, or the residual of the loss is zero; see ``plan`` for the route and
      its cost.  May loop on the host outside ``jax.jit``.

    Raises:
      ValueError: unknown matrix, a scope or batch that does not fit, outputs that are not [b, c], NaN anywhere.
      TypeError: parameters that are not real.

    For the loss ||w x||^2 of one output, H_jj = 2 x_j^2:

    >>> from jaxprune import losses
    >>> net = Network(lambda p, s, x: x @ p, jnp.zeros((2, 1)))
    >>> batch = {"image": jnp.array([[1.0, 3.0]]), "label": jnp.zeros((1, 1))}
    >>> diagonal(net, losses.squared_error, batch)[:, 0]
    Array([ 2., 18.], dtype=float32)
    """
    asked = request(network, loss, batch, matrix, "unit", scope)
    return collect(asked, routes.diagonal_tasks(asked), memory)


def block_product(
    network: Network,
    loss: Loss,
    batch: Batch,
    vector: Params,
    blocks: str | int = "unit",
    matrix: str = "hessian",
    scope: Scope = None,
    *,
    memory: int | None = None,
) -> Params:
    """Computes H_B v_B for every block B on the diagonal of the Hessian (or another matrix) at once.

    Args:
      network: evaluated in evaluation mode.
      loss: per-example loss.
      batch: images, what the loss reads, and optional weights.
      vector: v, structure and shapes of the parameters.
      blocks: "unit" (all weights into one output unit or filter; each entry of a bias or scale is its own block),
        "layer" (the whole leaf), or an int (runs of that many inputs inside a unit).
      matrix: "hessian", "ggn" or "empirical_fisher".
      scope: static tree of bools; leaves that are False come back zero and cost nothing.  None: every leaf.
      memory: the bytes that temporaries may take; less means more, smaller programs.  None: half of what is free.

    Returns:
      A tree of the structure of the parameters, in their types or float32.  See ``plan`` for the route and its cost.

    Raises:
      ValueError: unknown matrix or blocks; a vector, scope or batch that does not fit; outputs that are not [b, c]; NaN
        anywhere.
      TypeError: parameters that are not real.

    >>> from jaxprune import losses
    >>> net = Network(lambda p, s, x: x @ p, jnp.zeros((2, 1)))
    >>> batch = {"image": jnp.array([[1.0, 3.0]]), "label": jnp.zeros((1, 1))}
    >>> block_product(net, losses.squared_error, batch, jnp.ones((2, 1)))[:, 0]
    Array([ 8., 24.], dtype=float32)
    """
    asked = request(network, loss, batch, matrix, blocks, scope)
    # The weights themselves need no product of their own to reach the sites.
    own = vector is network.params
    vector = asked.network.params if own else like_parameters(vector, asked.network)
    return collect(asked, routes.product_tasks(asked, vector), memory)


def block(
    network: Network,
    loss: Loss,
    batch: Batch,
    path: str,
    blocks: str | int = "layer",
    matrix: str = "hessian",
    *,
    memory: int | None = None,
) -> Any:
    """Computes the dense blocks of one leaf.

    Args:
      network: evaluated in evaluation mode.
      loss: per-example loss.
      batch: images, what the loss reads, and optional weights.
      path: the name of the leaf, see ``jp.tree.names``.
      blocks: "layer", "unit" or an int, as in ``block_product``.
      matrix: "hessian", "ggn" or "empirical_fisher".
      memory: the bytes that temporaries may take, and the result.  None: half of what is free.

    Returns:
      "layer": [n, n], weights in row-major order.  "unit": [units, m, m], the m inputs of a unit in row-major order.
      An int b: [units * ceil(m / b), b, b]; where b does not divide m, the missing rows and columns of a unit's last
      block are zero; and where b is more than m, blocks are those of "unit".

    Raises:
      ValueError: no such leaf, unknown matrix or blocks, NaN anywhere.
      MemoryError: the blocks do not fit; raised before anything is allocated.

    >>> from jaxprune import losses
    >>> net = Network(lambda p, s, x: x @ p, jnp.zeros((2, 1)))
    >>> batch = {"image": jnp.array([[1.0, 3.0]]), "label": jnp.zeros((1, 1))}
    >>> jnp.round(block(net, losses.squared_error, batch, ""), 4)
    Array([[ 2.,  6.],
           [ 6., 18.]], dtype=float32)
    """
    asked = request(network, loss, batch, matrix, blocks, None, path)
    blocks_fit(asked, [path], memory)
    result = of_block(asked, memory)
    return result[0] if blocks == "layer" else result


def block_factors(
    network: Network,
    loss: Loss,
    batch: Batch,
    path: str,
    blocks: str | int = "layer",
    matrix: str = "hessian",
    *,
    memory: int | None = None,
) -> Any:
    """Computes the blocks of one leaf as low-rank factors V, with ``H_B = V_B^T V_B``.

    Arguments and errors are those of ``block``.

    Returns:
      V [blocks, r, m]: r is at most the number of examples times that of the columns of the output Hessian, so this is
      the smaller form where examples x classes < m.  None where there is no such form: the Hessian is not known to be
      the Gauss-Newton matrix (``matrix="ggn"`` does not need that), or the loss is not convex in the outputs.

    >>> from jaxprune import losses
    >>> net = Network(lambda p, s, x: x @ p, jnp.zeros((2, 1)))
    >>> batch = {"image": jnp.array([[1.0, 3.0]]), "label": jnp.zeros((1, 1))}
    >>> factors = block_factors(net, losses.squared_error, batch, "")
    >>> jnp.round(factors.mT @ factors, 5)
    Array([[[ 2.,  6.],
            [ 6., 18.]]], dtype=float32)
    """
    asked = request(network, loss, batch, matrix, blocks, None, path)
    members = block_members(network, batch, path, blocks)
    task = routes.factor_task(asked)
    if task is None:
        return None
    rows = task.count * len(batch["image"])
    fits(f"factors of {path}", members.size * rows * asked.leaf(path).dtype.itemsize, memory)
    task = task.fitted(memory)
    point = task.begun()
    parts = [_arrays(task.of_columns(point, indices))[0] for indices in task.chunks()]
    if not all(bool(lowest >= 0) for _, lowest in parts):  # NaN: no factors were found
        return None
    return jnp.concatenate([part for part, _ in parts], axis=1)


def block_members(network: Network, batch: Batch, path: str, blocks: str | int) -> Any:
    """Lists the flat positions of the weights of every block of ``block``: [blocks, m], -1 where one is shorter.

    >>> net = Network(lambda p, s, x: x @ p, jnp.zeros((3, 2)))
    >>> block_members(net, {"image": jnp.ones((1, 3)), "label": jnp.zeros(1, int)}, "", "unit").tolist()
    [[0, 2, 4], [1, 3, 5]]
    """
    check.batch(batch)
    leaf, found = tree.leaf(network.params, path), survey(*in_float32(network, batch["image"]))
    return partition.members(leaf.shape, blocks, found.unit_axes(path, leaf.ndim))


def request(
    network: Network,
    loss: Loss,
    batch: Batch,
    matrix: str,
    blocks: str | int,
    scope: Scope,
    path: str | None = None,
) -> Request:
    """Checks what a public function was given, before anything expensive starts.  ``path``: the only leaf."""
    check.choice("matrix", matrix, MATRICES)
    partition.check_blocks(blocks)
    network, loss, batch = ready(network, loss, batch)
    if matrix == "empirical_fisher":
        demand_slope(network, loss, batch, "the empirical Fisher matrix")
    names = tree.names(network.params)
    if path is not None:
        tree.leaf(network.params, path)
        names = [path]
    elif scope is not None:
        check.static_bools("scope", scope, network.params)
        names = [name for name, wanted in zip(names, jax.tree.leaves(scope), strict=True) if wanted]
    return Request(network, loss, batch, matrix, blocks, tuple(names))


def of_block(asked: Request, memory: int | None) -> Any:
    """Computes the dense blocks of the only leaf that is asked for, [blocks, m, m]."""
    (path,) = asked.paths
    count, size = asked.members(path).shape
    task = routes.block_task(asked)
    if task.route == routes.NOTHING:
        return jnp.zeros((count, size, size), asked.leaf(path).dtype)
    (result,) = _arrays(task.fitted(memory).run())
    result = result.reshape(count, size, size)
    # A product is a column, which comes as a row; where a derivative rule contradicts itself H is not symmetric.
    return result.mT if task.route == routes.PRODUCTS else result


def blocks_fit(asked: Request, paths: Sequence[str], memory: int | None, copies: int = 1) -> None:
    """Checks that so many copies of the dense blocks of some leaves fit, and says which are the largest that do.

    Raises:
      MemoryError: they do not.
    """

    def largest(there: int) -> str:
        if asked.blocks == "layer" and copies * _bytes_of_blocks(asked, paths, "unit") <= there:
            return 'smaller blocks (blocks="unit" fits)'
        # No longer than a unit is: what a run has beyond it is padding.
        longest = max(asked.leaf(path).size // max(1, _units(asked, path)) for path in paths)
        fitting = (at for at in range(longest, 0, -1) if copies * _bytes_of_blocks(asked, paths, at) <= there)
        size = next(fitting, 0)
        return f"smaller blocks (the largest that fit are runs: blocks={size})" if size else "fewer leaves (scope)"

    named = ", ".join(paths[:2]) + (f" and {len(paths) - 2} more" if len(paths) > 2 else "")
    needed = copies * _bytes_of_blocks(asked, paths, asked.blocks)
    fits(f"blocks={asked.blocks!r} of {named}", needed, memory, largest)


def block_bytes(asked: Request, path: str) -> int:
    """Counts the bytes of the dense blocks of a leaf."""
    return _bytes_of_blocks(asked, [path], asked.blocks)


def _bytes_of_blocks(asked: Request, paths: Sequence[str], blocks: str | int) -> int:
    total = 0
    for path in paths:
        leaf = asked.leaf(path)
        units = _units(asked, path)
        inputs = leaf.size // max(1, units)
        count, size = (1, leaf.size) if blocks == "layer" else (units, inputs)
        if isinstance(blocks, int):
            size = max(1, min(blocks, inputs))
            count = units * -(-inputs // size)
        total += count * size**2 * leaf.dtype.itemsize
    return total


def _units(asked: Request, path: str) -> int:
    return int(np.prod([asked.leaf(path).shape[axis] for axis in asked.units(path)], dtype=np.int64))


def collect(asked: Request, tasks: list[Any], memory: int | None) -> Params:
    """Runs the tasks and puts what they return in the shape of the parameters; what none serves is zero."""
    found: dict[str, Any] = {}
    for task in tasks:
        if task.route == routes.NOTHING:
            continue
        for path, result in zip(task.paths, _arrays(task.fitted(memory).run()), strict=True):
            leaf = asked.leaf(path)
            if task.rows:
                members = partition.members(leaf.shape, "unit", asked.units(path))
                result = jnp.zeros(leaf.size, result.dtype).at[members.ravel()].set(result.ravel())
            found[path] = result.reshape(leaf.shape)
    others = {name: leaf for name, leaf in tree.by_name(asked.network.params).items() if name not in found}
    found |= tree.map_compiled(jnp.zeros_like, others)
    # A network may compute in a wider type than its leaves have.
    return tree.cast(tree.map_named(lambda name, leaf: found[name], asked.network.params), asked.network.params)


def _arrays(result: Any) -> list[Any]:
    """The arrays that a task of one quantity returns, one for each leaf."""
    if isinstance(result, dict):
        (result,) = result.values()
    return result if isinstance(result, list) else [result]
