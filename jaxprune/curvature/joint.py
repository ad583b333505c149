"""One dense block of several leaves: also all that lies between them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import check, tree
from jaxprune.curvature import grams, routes
from jaxprune.curvature.blocks import block, request
from jaxprune.curvature.requests import Request, is_idle, reason_against_signals
from jaxprune.memory import fits
from jaxprune.network import Network
from jaxprune.types import Apply, Batch, Loss, Scope


def joint_block(
    network: Network,
    loss: Loss,
    batch: Batch,
    matrix: str = "hessian",
    scope: Scope = None,
    *,
    memory: int | None = None,
) -> Any:
    """Computes the Hessian (or another matrix) of the weighted mean loss by several leaves at once.

    Where it is the Gauss-Newton matrix, rows ``sqrt(c_nk) J_n^T l_nk`` of all leaves from one set of class-backward
    signals lie side by side in V, and the matrix is V^T V: the price of the diagonal, and of one product of matrices.
    That what follows every leaf is piecewise linear does not suffice, as it does for blocks of single leaves: of
    f = b relu(a x) the derivative by a and b is not zero.  Any other Hessian is computed product by product, a column
    each.

    Args:
      network: evaluated in evaluation mode.
      loss: per-example loss.
      batch: images, what the loss reads, and optional weights.
      matrix: "hessian", "ggn" or "empirical_fisher".
      scope: static tree of bools: the leaves.  None: every leaf.
      memory: the bytes that temporaries may take, and the result.  None: half of what is free.

    Returns:
      [n, n], the leaves one after another as ``jp.tree.names`` lists them, weights in row-major order, in float32 or
      wider.

    Raises:
      ValueError: unknown matrix, a scope or batch that does not fit, outputs that are not [b, c], NaN anywhere.
      MemoryError: the matrix does not fit; raised before anything is allocated.
      TypeError: called inside ``jax.jit``; parameters that are not real.

    For the squared distance of w1 w2 x to itself the Hessian is 2 J^T J with J = (w2 x, w1 x):

    >>> from jaxprune import losses
    >>> net = Network(lambda p, s, x: x * p["w1"] * p["w2"], {"w1": jnp.array([2.0]), "w2": jnp.array([3.0])})
    >>> jnp.round(joint_block(net, losses.distillation(), {"image": jnp.ones((1, 1))}), 4)
    Array([[18., 12.],
           [12.,  8.]], dtype=float32)
    """
    check.concrete("network, batch", (network, batch), "Call it outside; inside, jp.curvature.diagonal works.")
    asked = request(network, loss, batch, matrix, "layer", scope)
    sizes = [asked.leaf(path).size for path in asked.paths]
    kind = jnp.result_type(*(asked.leaf(path) for path in asked.paths), jnp.float32)
    fits(
        f"the joint block of {sum(sizes)} weights",
        2 * sum(sizes) ** 2 * kind.itemsize,  # a sum, and what is added to it
        memory,
        remedy="Choose fewer leaves (scope), or a block for each leaf, without what lies between them: "
        'jp.curvature.sweep(..., ("gram",), blocks="layer").',
    )
    reached = [path for path in asked.paths if not is_idle(asked, path)]
    if not reached:
        return jnp.zeros((sum(sizes), sum(sizes)), kind)
    found = _by_signals(asked, reached, memory)
    if found is None:
        flat = _flat(asked.network, reached)
        found = block(flat, asked.loss, asked.batch, "", "layer", asked.matrix, memory=memory)
    if len(reached) == len(asked.paths):
        return found
    inside = np.repeat([path in reached for path in asked.paths], sizes)
    return jnp.zeros((sum(sizes), sum(sizes)), found.dtype).at[np.ix_(inside, inside)].set(found)


def _by_signals(asked: Request, paths: Sequence[str], memory: int | None) -> Any:
    """The matrix from factors; None where it is not the Gauss-Newton matrix, or signals do not serve a leaf."""
    matrices = {asked.matrix_of(path) for path in paths}
    if "hessian" in matrices:
        return None
    asked = replace(asked, matrix=matrices.pop(), paths=tuple(paths))
    if any(reason_against_signals(asked, path) for path in paths):
        return None
    task = routes.joint_task(asked, paths).fitted(memory)
    point, total = task.begun(), None
    for indices in task.chunks():
        (parts,) = task.of_columns(point, indices).values()
        total, lowest = _added(total, parts)
        if not bool(lowest >= 0):  # a loss that is not convex in the outputs; NaN: no root was found
            return None
    return total


@jax.jit
@jax.default_matmul_precision("highest")
def _added(total: Any, parts: Sequence[Any]) -> tuple[Any, Any]:
    rows = jnp.concatenate([rows[0] for rows, _ in parts], axis=1)
    found = grams.symmetric(rows[:, None])[0]
    return found if total is None else total + found, jnp.min(jnp.stack([lowest for _, lowest in parts]))


def _flat(network: Network, paths: Sequence[str]) -> Network:
    """The network as a function of one vector, that of the leaves of these names."""
    leaves = tree.by_name(network.params)
    vector = jnp.concatenate([jnp.ravel(leaves[path]) for path in paths])
    return Network(_Flat(network.apply, tuple(paths)), vector, (network.params, network.state))


@dataclass(frozen=True)
class _Flat:
    apply: Apply
    paths: tuple[str, ...]

    def __call__(self, vector: Any, state: Any, images: Any) -> Any:
        params, inner = state
        leaves, start = tree.by_name(params), 0
        for path in self.paths:
            leaf = leaves[path]
            leaves[path] = vector[start : start + leaf.size].reshape(leaf.shape).astype(leaf.dtype)
            start += leaf.size
        return self.apply(tree.map_named(lambda name, _: leaves[name], params), inner, images)
