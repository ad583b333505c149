"""Scores that read no labels: magnitude, random, SynFlow."""

import functools
import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune import check
from jaxprune.network import Network
from jaxprune.scores.doors import weights
from jaxprune.scores.flow import flows, scaled_flows
from jaxprune.types import Batch, Score, Scores


def magnitude() -> Score:
    """Scores a weight by its absolute value, |w|.

    >>> net = Network(lambda p, s, x: x @ p, jnp.array([[-2.0], [1.0]]))
    >>> magnitude()(net, [])[:, 0]
    Array([2., 1.], dtype=float32)
    """

    def score(network: Network, batches: Iterable[Batch]) -> Scores:
        del batches
        return _magnitudes(weights(network).params)

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
        return _draw(key, weights(network).params)

    return score


def synflow() -> Score:
    """Scores a weight by the synaptic flow through it, ``|w dR/dw|`` with R the sum of the outputs of ``|network|``.

    ``|network|`` has the absolute values of all parameters and of the state (so BatchNorm's scales, shifts and
    statistics too, as in the authors' code), and its input is one image of ones, of the shape of the first batch's:
    floating-point whatever the images are, and ones behind the normalisation of ``jp.models.normalised``.
    The paper prunes in 100 rounds: ``jp.schedules.exponential(sparsity, 100)``.  Of the data it uses only the shape.

    The flow of a deep network leaves the range of float32.  Where R is beyond 2^100 or below 2^-100 all scores are
    divided by one power of two, which changes no ranking; inside ``jax.jit`` they are not finite, or zero, there.

    Raises (when applied):
      ValueError: no batch; or R is zero, not finite, or does not depend on the weights (outputs behind a softmax).

    Source: Tanaka, Kunin, Yamins and Ganguli (2020), arXiv 2006.05467.

    >>> net = Network(lambda p, s, x: x @ p, jnp.array([[-2.0], [1.0]]))
    >>> synflow()(net, [{"image": jnp.zeros((4, 2)), "label": jnp.zeros(4)}])[:, 0]
    Array([2., 1.], dtype=float32)
    """

    def score(network: Network, batches: Iterable[Batch]) -> Scores:
        first = next(iter(batches), None)
        if first is None:
            raise ValueError("batches: expected at least one batch, whose images say the shape of the input; got none.")
        check.batch(first)
        network = weights(network)
        kind = jnp.result_type(jnp.float32, *jax.tree.leaves(network.params))
        image = jnp.broadcast_to(jnp.asarray(_ones_of(network.apply), kind), (1, *np.shape(first["image"])[1:]))
        check.outputs(jax.eval_shape(network.apply, network.params, network.state, image), 1)
        scores, size, share = flows(network, image)
        if isinstance(size, Tracer):
            return scores
        if not abs(float(size)) < 100:  # NaN neither
            scores, size, share = scaled_flows(network, image)
        if not (math.isfinite(size) and share > 1e-4):
            raise ValueError(
                f"network: expected a synaptic flow, but the sum of the outputs of |network| is 2^{float(size):.4g}, "
                f"and the share of it that passes through the weights of a leaf at most {float(share):.1g}. Is "
                "everything pruned in some layer, are outputs behind a softmax, or is a statistic not finite?"
            )
        return scores

    return score


def _ones_of(apply: Any) -> Any:
    """What the network proper sees as one: mean + std of the pixels where a normalisation comes first."""
    while apply is not None and not hasattr(apply, "preprocess"):
        apply = getattr(apply, "apply", None) or getattr(apply, "body", None)
    return 1.0 if apply is None else np.add(apply.preprocess.mean, apply.preprocess.std)


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
