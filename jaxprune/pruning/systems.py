"""Gauss-Newton systems of the weights that are free to move, and conjugate gradients that show every step.

Two forms of one system.  ``Multiplied`` never forms a matrix: a product is one forward-mode and one reverse-mode
derivative.  ``Written`` holds the Jacobian by the free weights, where that fits: a product is two of a matrix and a
vector.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import curvature, draws, tree
from jaxprune.curvature import products
from jaxprune.curvature.blocks import request
from jaxprune.curvature.jacobian import jacobian
from jaxprune.curvature.requests import is_served
from jaxprune.pruning.objective import Objective
from jaxprune.types import Mask, Params

# The most backward passes that writing a Jacobian may take: fewer than are charged for the least number of products.
_COLUMNS = 24


@dataclass(frozen=True)
class System:
    """G of an objective at a point, restricted to k free weights.

    Attributes:
      objective: whose loss it is.
      params: the point.
      positions: the places [k] of the free weights among all, end to end.
      diagonal: G_jj [k], or an estimate of it: what preconditions, and what damping is relative to.
    """

    objective: Objective
    params: Params
    positions: Any
    diagonal: Any

    def product(self, vector: Any) -> Any:
        """Computes G v [k]."""
        raise NotImplementedError

    def gather(self, params: Params) -> Any:
        """Reads a tree at the free weights [k]."""
        return tree.gather(params, self.positions)

    def spread(self, vector: Any) -> Params:
        """Writes a vector [k] as a tree that is zero at all other weights."""
        return tree.spread(vector, self.positions, self.params)


@dataclass(frozen=True)
class Written(System):
    """By its rows A [r, k]: G = A^T A."""

    rows: Any = None

    def product(self, vector: Any) -> Any:
        """Computes G v."""
        return _normal(self.rows, vector)


@dataclass(frozen=True)
class Multiplied(System):
    """By products with the whole network."""

    def product(self, vector: Any) -> Any:
        """Computes G v."""
        network, loss, direction = self.objective.at(self.params), self.objective.loss, self.spread(vector)
        return self.gather(
            self.objective.mean(lambda batch: products.ggnvp_of(network, loss, batch, direction), "fitted")
        )


def system(objective: Objective, params: Params, free: Mask, memory: int) -> System:
    """Chooses the form of the system at a point: written where that is possible, cheap and fits into memory."""
    positions = np.flatnonzero(np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(free)]))
    network, loss, fitted = objective.at(params), objective.loss, objective.fitted
    rows = jacobian(network, loss, fitted, free, most=_COLUMNS, memory=memory)
    if rows is not None:
        rows = jnp.asarray(rows)  # once, not for every product
        return Written(objective, params, positions, jnp.sum(rows**2, axis=0), rows)
    return Multiplied(objective, params, positions, tree.gather(_diagonal(objective, params, free), positions))


def conjugate(found: System, gradient: Any, damping: float) -> Iterator[Any]:
    """Yields v [k] after every step of preconditioned conjugate gradients on ``(G + d I) v = -g``.

    Args:
      found: the system.
      gradient: g [k].
      damping: d, above 0.
    """
    scale = 1 / (found.diagonal + damping)
    vector, residual = jnp.zeros_like(gradient), -gradient
    direction = scale * residual
    size = residual @ direction
    least = float(size) * float(jnp.finfo(vector.dtype).eps) ** 2
    while float(size) > least:
        turned = found.product(direction)
        vector, residual, direction, size = _step(vector, residual, direction, size, turned, scale, damping)
        yield vector


@jax.jit
@jax.default_matmul_precision("highest")
def _step(
    vector: Any, residual: Any, direction: Any, size: Any, turned: Any, scale: Any, damping: Any
) -> tuple[Any, Any, Any, Any]:
    turned = turned + damping * direction
    length = size / (direction @ turned)
    vector, residual = vector + length * direction, residual - length * turned
    rescaled = scale * residual
    left = residual @ rescaled
    return vector, residual, rescaled + left / size * direction, left


@jax.jit
@jax.default_matmul_precision("highest")
def _normal(rows: Any, vector: Any) -> Any:
    return (rows @ vector) @ rows


def _diagonal(objective: Objective, params: Params, free: Mask) -> Params:
    """An estimate of the diagonal from two random signs for each image; where there is none, the mean of the others."""
    network, loss, fitted = objective.at(params), objective.loss, objective.fitted
    asked = request(network, loss, fitted[0], "ggn", "unit", None)
    served = tree.map_named(lambda path, leaf: bool(np.asarray(leaf).any()) and is_served(asked, path), free)
    if not any(jax.tree.leaves(served)):
        return jax.tree.map(lambda leaf: jnp.full_like(leaf, _mean_diagonal(objective, params, free)), params)
    found = curvature.estimate(network, loss, fitted, matrix="ggn", probes=2, scope=served).value
    sizes = [leaf.size for leaf, inside in zip(*map(jax.tree.leaves, (params, served)), strict=True) if inside]
    mean = sum(float(jnp.sum(leaf)) for leaf in jax.tree.leaves(found)) / sum(sizes)
    return jax.tree.map(lambda inside, leaf: leaf if inside else jnp.full_like(leaf, mean), served, found)


def _signs(leaf: Any, free: Any, key: jax.Array) -> jax.Array:
    """Random signs for the free weights of a leaf, and zeros for the others."""
    return jnp.where(free, draws.shaped(jax.random.rademacher, key, leaf.shape, leaf.dtype), 0)


def _mean_diagonal(objective: Objective, params: Params, free: Mask) -> float:
    """The mean of G_jj over the free weights by products with random signs s, E[s^T G s] = sum_j G_jj."""
    network, loss = objective.at(params), objective.loss
    found = []
    for seed in range(2):
        keys = jax.random.split(jax.random.key(seed), len(jax.tree.leaves(params)))
        each = jax.tree.unflatten(jax.tree.structure(params), list(keys))
        signs = jax.tree.map(_signs, params, free, each)
        product = objective.mean(lambda batch, signs=signs: products.ggnvp_of(network, loss, batch, signs), "fitted")
        found.append(float(tree.dot(signs, product)))
    return float(np.mean(found)) / sum(int(np.sum(leaf)) for leaf in jax.tree.leaves(free))
