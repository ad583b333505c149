"""Slices of the loss along random directions that are as long as the filters they move."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import check, draws
from jaxprune.geometry.operators import ready
from jaxprune.geometry.paths import average_loss
from jaxprune.network import Network
from jaxprune.types import Batch, Loss, Mask, Params


class Line(NamedTuple):
    """The mean loss [p] at distances [p] along a direction."""

    distances: np.ndarray
    losses: np.ndarray


class Plane(NamedTuple):
    """The mean loss [p, p] at distances [p]: rows go along the first direction, columns along the second."""

    distances: np.ndarray
    losses: np.ndarray


def filter_normalised(params: Params, key: jax.Array, *, kept: Mask | None = None) -> Params:
    """Draws a random direction in which every filter is as long as that of the network: ``d |w| / |d|``.

    A filter is all weights into one unit, one index of the last axis.  Leaves of fewer than two axes, so biases and the
    parameters of BatchNorm, are zero: they do not move.

    Args:
      params: the weights.
      key: of the normal numbers.
      kept: a mask: pruned weights do not move either.

    Returns:
      A direction, of the structure and types of the parameters.

    Raises:
      ValueError: a mask that does not fit.
      TypeError: a mask that is not boolean.

    Source: Li, Xu, Taylor, Studer and Goldstein (2018), arXiv 1712.09913.

    >>> direction = filter_normalised({"kernel": jnp.array([[3.0], [4.0]]), "bias": jnp.ones(1)}, jax.random.key(0))
    >>> print(f"{jnp.linalg.norm(direction['kernel']):.3f}", direction["bias"][0])
    5.000 0.0
    """
    if kept is not None:
        check.mask("kept", kept, params)
    leaves, structure = jax.tree.flatten(params)
    masks = [True] * len(leaves) if kept is None else jax.tree.leaves(kept)
    keys = jax.random.split(key, len(leaves))
    drawn = _drawn(leaves, keys, masks)
    return jax.tree.unflatten(structure, drawn)


def line(
    network: Network, loss: Loss, batches: Iterable[Batch], direction: Params, *, reach: float = 1.0, points: int = 21
) -> Line:
    """Computes the mean loss at ``w + a d`` for distances a from -reach to reach.

    Args:
      network: w, evaluated in evaluation mode; its state does not move.
      loss: per-example loss.
      batches: images, labels and optional weights.
      direction: d, structure and shapes of the parameters, see ``filter_normalised``.
      reach: the largest distance, in lengths of d.
      points: p; of an odd number the middle one is the network itself.

    Returns:
      The distances [p] and the losses [p].

    Raises:
      ValueError: a direction or batch that does not fit, a number that is not positive.

    >>> from jaxprune import losses
    >>> net = Network(lambda p, s, x: x @ p, jnp.ones((1, 1)))
    >>> batch = {"image": jnp.ones((1, 1)), "label": jnp.zeros((1, 1))}
    >>> line(net, losses.squared_error, [batch], jnp.ones((1, 1)), points=3).losses
    array([0., 1., 4.])
    """
    still = jax.tree.map(jnp.zeros_like, network.params)
    distances, values = _sweep(network, loss, batches, (direction, still), reach, points, both=False)
    return Line(distances, values[:, 0])


def plane(
    network: Network,
    loss: Loss,
    batches: Iterable[Batch],
    first: Params,
    second: Params,
    *,
    reach: float = 1.0,
    points: int = 21,
) -> Plane:
    """Computes the mean loss at ``w + a d_1 + b d_2`` for distances a and b from -reach to reach.

    Arguments and errors are those of ``line``, with two directions; they need not be orthogonal.

    Returns:
      The distances [p] and the losses [p, p]; ``losses[i, j]`` is at a = distances[i], b = distances[j].

    >>> from jaxprune import losses
    >>> net = Network(lambda p, s, x: x @ p, jnp.ones((1, 1)))
    >>> batch = {"image": jnp.ones((1, 1)), "label": jnp.zeros((1, 1))}
    >>> plane(net, losses.squared_error, [batch], jnp.ones((1, 1)), jnp.ones((1, 1)), points=2).losses
    array([[1., 1.],
           [1., 9.]])
    """
    return Plane(*_sweep(network, loss, batches, (first, second), reach, points, both=True))


def _sweep(
    network: Network,
    loss: Loss,
    batches: Iterable[Batch],
    directions: tuple[Params, Params],
    reach: float,
    points: int,
    both: bool,
) -> tuple[np.ndarray, np.ndarray]:
    network, loss, held = ready(network, loss, batches)
    for direction in directions:
        check.same_structure("direction", direction, "network.params", network.params)
        check.finite("direction", direction, "Inspect what it was computed from.")
    check.positive("reach", reach)
    check.positive("points", points)
    distances = np.linspace(-reach, reach, points)
    across = distances if both else np.zeros(1)

    def at(a: float, b: float) -> float:
        return average_loss(network.replace(params=_moved(network.params, *directions, a, b)), loss, held)

    return distances, np.array([[at(a, b) for b in across] for a in distances])


@jax.jit
def _moved(params: Params, first: Params, second: Params, a: Any, b: Any) -> Params:
    return jax.tree.map(lambda w, d, e: (w + a * d + b * e).astype(w.dtype), params, first, second)


@jax.jit
def _drawn(leaves: list[Any], keys: jax.Array, masks: list[Any]) -> list[Any]:
    return [_scaled(*one) for one in zip(leaves, keys, masks, strict=True)]


def _scaled(weights: Any, key: jax.Array, kept: Any) -> Any:
    if weights.ndim < 2:
        return jnp.zeros_like(weights)
    wide = jnp.promote_types(weights.dtype, jnp.float32)
    drawn = jnp.where(kept, draws.shaped(jax.random.normal, key, weights.shape, wide), 0)
    inputs = tuple(range(weights.ndim - 1))
    length, wanted = (jnp.sqrt(jnp.sum(jnp.square(leaf), axis=inputs, keepdims=True)) for leaf in (drawn, weights))
    # A filter that was pruned whole stays where it is.
    return jnp.where(length > 0, drawn * wanted / jnp.where(length > 0, length, 1), 0)
