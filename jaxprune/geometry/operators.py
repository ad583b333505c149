"""Curvature as a symmetric map of the weights that were chosen, and of no others."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import check, curvature, losses, tree
from jaxprune.curvature.inputs import in_float32, placed
from jaxprune.curvature.stream import total_weight
from jaxprune.network import Network
from jaxprune.types import Batch, Loss, Mask, Params, Scope

PRODUCTS = {"hessian": curvature.hvp, "ggn": curvature.ggnvp}


@dataclass(frozen=True, eq=False, repr=False)
class Operator:
    """The map ``v -> P M P' v`` of a curvature matrix M; P chooses n weights.  Made by ``operator``.

    Attributes:
      network: what M is taken at.
      loss: per-example loss.
      batches: M is that of the mean loss over all of them.
      shares: what every batch counts for; their sum is 1.
      matrix: "hessian" or "ggn".
      positions: the places [n] of the chosen weights in the flattened parameters, ascending.
    """

    network: Network
    loss: Loss
    batches: tuple[Batch, ...]
    shares: tuple[float, ...]
    matrix: str
    positions: np.ndarray

    @property
    def size(self) -> int:
        """The number n of chosen weights."""
        return len(self.positions)

    @property
    def dtype(self) -> Any:
        """The type of the flattened parameters."""
        return jnp.result_type(*jax.tree.leaves(self.network.params))

    def __call__(self, vector: Any) -> Any:
        """Multiplies: [n] -> [n].  Costs one product for each batch; may be traced."""
        direction, product = self.tree(vector), PRODUCTS[self.matrix]
        # curvature.average wants the weights of the batches as numbers, which a trace would not leave them.
        terms = [
            share * tree.gather(product(self.network, self.loss, batch, direction), self.positions)
            for share, batch in zip(self.shares, self.batches, strict=True)
        ]
        return sum(terms[1:], start=terms[0])

    def tree(self, vector: Any) -> Params:
        """Writes a vector [n] as a tree of the structure of the parameters: zero at the weights not chosen."""
        if jnp.shape(vector) != (self.size,):
            raise ValueError(
                f"vector: expected the shape ({self.size},), a number for each chosen weight, but got "
                f"{jnp.shape(vector)}. Operator.flat reads such a vector from a tree."
            )
        return tree.spread(vector, self.positions, self.network.params)

    def flat(self, params: Params) -> Any:
        """Reads a vector [n] from a tree of the structure of the parameters: the inverse of ``tree``."""
        check.same_structure("params", params, "network.params", self.network.params)
        return tree.gather(params, self.positions)


def operator(
    network: Network,
    loss: Loss,
    batches: Iterable[Batch],
    *,
    matrix: str = "hessian",
    scope: Scope = None,
    kept: Mask | None = None,
    pruned: Mask | None = None,
) -> Operator:
    """Makes the map ``v -> P M P' v``, M the curvature of the mean loss and P a choice of n weights.

    A weight is chosen if every condition that is given holds.  The map acts on vectors [n] of the chosen weights alone,
    so its trace and its spectrum count nothing else.

    Args:
      network: evaluated, and differentiated, in evaluation mode.
      loss: per-example loss.
      batches: images, labels and optional weights; weighted as one large batch would be.
      matrix: "hessian" or "ggn".
      scope: static tree of bools: only these leaves.  None: every leaf.
      kept: a mask: only the weights that it keeps (True).
      pruned: a mask: only the weights that it prunes (False).

    Raises:
      ValueError: unknown matrix; a batch, scope or mask that does not fit; no batch, or no weight chosen.
      TypeError: parameters that are not real arrays, a scope that is not static, or a mask that is not boolean.

    For the loss ||w x||^2 of one output, M = 2 x x':

    >>> from jaxprune import losses
    >>> net = Network(lambda p, s, x: x @ p, jnp.zeros((3, 1)))
    >>> batch = {"image": jnp.array([[1.0, 3.0, 2.0]]), "label": jnp.zeros((1, 1))}
    >>> mask = jnp.array([[True], [False], [False]])
    >>> operator(net, losses.squared_error, [batch], pruned=mask)(jnp.array([1.0, 0.0]))
    Array([18., 12.], dtype=float32)
    """
    check.choice("matrix", matrix, PRODUCTS)
    network, loss, held = ready(network, loss, batches, slope=False)
    weights = [total_weight(batch) for batch in held]
    check.positive("batches: the sum of the weights", sum(weights))
    chosen = jax.tree.map(lambda leaf: np.ones(np.shape(leaf), bool), network.params)
    if scope is not None:
        check.static_bools("scope", scope, network.params)
        chosen = jax.tree.map(lambda inside, wanted: inside & bool(wanted), chosen, scope)
    if kept is not None:
        check.mask("kept", kept, network.params)
        chosen = jax.tree.map(lambda inside, keep: inside & np.asarray(keep), chosen, kept)
    if pruned is not None:
        check.mask("pruned", pruned, network.params)
        chosen = jax.tree.map(lambda inside, keep: inside & ~np.asarray(keep), chosen, pruned)
    positions = np.flatnonzero(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(chosen)]))
    if not len(positions):
        raise ValueError(
            f"scope, kept, pruned: expected to choose some of the {tree.size(network.params)} weights, but together "
            "they choose none. Does the mask prune anything, inside the scope?"
        )
    shares = tuple(weight / sum(weights) for weight in weights)
    return Operator(network, loss, held, shares, matrix, positions)


def ready(
    network: Network, loss: Loss, batches: Iterable[Batch], name: str = "batches", *, slope: bool = True
) -> tuple[Network, Loss, tuple[Batch, ...]]:
    """Checks a network and batches that are read again and again, and holds them.

    The network comes back in float32 or wider: a small step in half precision would be rounding.  ``slope``: whether
    the loss must be one that is not zero wherever the network stands.
    """
    held = tuple(check.batches(batches, name))
    if not held:
        raise ValueError(
            f"{name}: expected at least one batch, but got none. Pass a list, not an iterator already read."
        )
    check.network(network)
    for batch in held:
        check.batch(batch, name, losses.entries(loss))
        check.finite_batch(batch, name)
        if slope:
            losses.demand_slope(loss, batch, "the shape of its values")
    network, loss = placed(in_float32(network, held[0]["image"])[0], loss)
    return network, loss, held
