"""Scores that read no labels: magnitude, random, SynFlow."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.network import Network
from jaxprune.types import Batch, Score, Scores


def magnitude() -> Score:
    """Scores a weight by its absolute value, |w|.

    >>> net = Network(lambda p, s, x: x @ p, jnp.array([[-2.0], [1.0]]))
    >>> magnitude()(net, [])[:, 0]
    Array([2., 1.], dtype=float32)
    """

    def score(network: Network, batches: Iterable[Batch]) -> Scores:
        del batches
        return _magnitudes(network.params)

    return score


def random(key: jax.Array) -> Score:
    """Scores weights at random, uniformly in [0, 1): the control every other score must beat.

    Args:
      key: a JAX PRNG key; the same key gives the same scores.

    >>> net = Network(lambda p, s, x: x @ p, jnp.ones((2, 1)))
    >>> bool(jnp.all(random(jax.random.key(0))(net, []) == random(jax.random.key(0))(net, [])))
    True
    """

    def score(network: Network, batches: Iterable[Batch]) -> Scores:
        del batches
        return _draw(key, network.params)

    return score


def synflow() -> Score:
    """Scores a weight by the synaptic flow through it, ``|w dR/dw|`` with R the sum of the outputs of ``|network|``.

    ``|network|`` has the absolute values of all parameters and of the state (so BatchNorm's scales, shifts and
    statistics too, as in the authors' code), and its input is one image of ones, of the shape of the first batch's.
    The paper prunes in 100 rounds: ``jp.schedules.exponential(sparsity, 100)``.  Of the data it uses only the shape.

    Source: Tanaka, Kunin, Yamins and Ganguli (2020), arXiv 2006.05467.

    >>> net = Network(lambda p, s, x: x @ p, jnp.array([[-2.0], [1.0]]))
    >>> synflow()(net, [{"image": jnp.zeros((4, 2)), "label": jnp.zeros(4)}])[:, 0]
    Array([2., 1.], dtype=float32)
    """

    def score(network: Network, batches: Iterable[Batch]) -> Scores:
        first = next(iter(batches), None)
        if first is None:
            raise ValueError("batches: expected at least one batch, whose images say the shape of the input; got none.")
        image = jnp.asarray(first["image"])
        return _flow(network, jnp.ones((1, *image.shape[1:]), image.dtype))

    return score


# One program for the whole tree: compiling one for each shape of leaf takes seconds.
@jax.jit
def _magnitudes(params: Any) -> Scores:
    return jax.tree.map(jnp.abs, params)


@jax.jit
def _draw(key: jax.Array, params: Any) -> Scores:
    leaves, structure = jax.tree.flatten(params)
    if not leaves:
        return params
    ends = np.cumsum([leaf.size for leaf in leaves])
    # At once for all leaves: compiling a draw for each takes longer than the draw.
    dtype = functools.reduce(jnp.promote_types, (leaf.dtype for leaf in leaves), jnp.float32)
    parts = jnp.split(jax.random.uniform(key, (ends[-1],), dtype), ends[:-1])
    return structure.unflatten([part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])


@jax.jit
def _flow(network: Network, ones: Any) -> Scores:
    positive = jax.tree.map(_absolute, network)
    gradient = jax.grad(lambda params: jnp.sum(network.apply(params, positive.state, ones)))(positive.params)
    return jax.tree.map(lambda w, g: jnp.abs(w * g), positive.params, gradient)


def _absolute(leaf: Any) -> Any:
    return jnp.abs(leaf) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else leaf
