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
from jaxprune.curvature.inputs import in_float32
from jaxprune.network import Network
from jaxprune.scores.inputs import weights
from jaxprune.types import Batch, Score, Scores


def magnitude() -> Score:
    """Scores a weight by its absolute value, ``|w|``.

    >>> net = Network(lambda p, s, x: x @ p, jnp.array([[-2.0], [1.0]]))
    >>> magnitude()(net, [])[:, 0]
    Array([2., 1.], dtype=float32)
    """

    def score(network: Network, batches: Iterable[Batch]) -> Scores:
        del batches
        return _magnitudes(weights(network))

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
        return _draw(key, weights(network))

    return score


def synflow() -> Score:
    """Scores a weight by the synaptic flow through it, ``|w dR/dw|`` with R the sum of the outputs of ``|network|``.

    ``|network|`` has the absolute values of all parameters and of the state (so BatchNorm's scales, shifts and
    statistics too, as in the authors' code), and its input is one image of ones, of the shape of the first batch's:
    floating-point whatever the images are, and ones behind the normalisation of ``jp.models.normalised``.
    The paper prunes in 100 rounds: ``jp.schedules.exponential(sparsity, 100)``.  Of the data it uses only the shape.

    The flow of a deep network leaves the range of float32.  It is then computed in float64, on the host's processor,
    and all scores are divided by one power of two, which changes no ranking.  Inside ``jax.jit`` they are then zero or
    not finite.

    Raises (when applied):
      ValueError: no batch; or R is zero, not finite in float64, or does not depend on the weights (outputs behind a
        softmax).

    Source: Tanaka, Kunin, Yamins and Ganguli (2020), arXiv 2006.05467.

    >>> net = Network(lambda p, s, x: x @ p, jnp.array([[-2.0], [1.0]]))
    >>> synflow()(net, [{"image": jnp.zeros((4, 2)), "label": jnp.zeros(4)}])[:, 0]
    Array([2., 1.], dtype=float32)
    """

    def score(network: Network, batches: Iterable[Batch]) -> Scores:
        first = next(iter(batches), None)
        if first is None:
            raise ValueError("batches: expected at least one batch, whose images say the shape of the input; got none.")
        check.batch(first, keys=("image",))
        weights(network)
        network, image = _probe(network, first["image"])
        scores, size, share = _flow(network, image)
        if isinstance(size, Tracer):
            return scores
        if not abs(float(size)) < 100:  # NaN neither
            scores, size, share = _flow_in_float64(network, image)
        _demand_flow(float(size), float(share))
        return scores

    return score


def _probe(network: Network, images: Any) -> tuple[Network, jax.Array]:
    """The network in float32 or wider, and one image of ones.

    They are whole numbers only where the network takes nothing else: it looks something up.
    """
    given, floating = jnp.result_type(images), jnp.result_type(jnp.float32, *jax.tree.leaves(network.params))
    kinds = (floating, given)[: 1 if jnp.issubdtype(given, jnp.floating) else 2]
    for kind in kinds:
        image = jnp.broadcast_to(jnp.asarray(_ones_of(network.apply), kind), (1, *np.shape(images)[1:]))
        # As the images come: a network that wants its own types wants those.
        wide, image = in_float32(network, image.astype(given) if len(kinds) == 1 else image)
        try:
            check.outputs(jax.eval_shape(wide.apply, wide.params, wide.state, image), 1)
        except TypeError:
            if kind == kinds[-1]:
                raise
        else:
            return wide, image
    raise AssertionError  # the last one is tried, or raises


def _ones_of(apply: Any) -> Any:
    """What the network proper sees as one: mean + std of the pixels where a normalisation comes first."""
    while apply is not None and not hasattr(apply, "preprocess"):
        apply = getattr(apply, "apply", None) or getattr(apply, "body", None)
    return 1.0 if apply is None else np.add(apply.preprocess.mean, apply.preprocess.std)


def _demand_flow(size: float, share: float) -> None:
    said = "network: expected a synaptic flow, but the sum of the outputs of |network|"
    if size == -math.inf:
        raise ValueError(f"{said} is 0. Is everything pruned in some layer?")
    if share < 1e-4:
        raise ValueError(
            f"{said} does not depend on its weights. Are the outputs behind a softmax? Score the network before it."
        )
    if not math.isfinite(size):
        raise ValueError(
            "network: expected a synaptic flow that float64 can hold, but that of |network|, or a gradient in it, is "
            "not finite. Make the weights smaller (where all layers are homogeneous that changes no ranking), or look "
            "at the state of the network, whose absolute values count too."
        )


def _flow_in_float64(network: Network, image: Any) -> tuple[Scores, Any, Any]:
    """The flow where it leaves the range of float32; the scores are brought back by a power of two."""
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):

        def double(leaf: Any) -> Any:
            return np.asarray(leaf, np.float64) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else leaf

        scores, size, share = jax.device_get(_flow(*jax.tree.map(double, (network, image))))
    largest = max((float(np.max(leaf, initial=0)) for leaf in jax.tree.leaves(scores)), default=0.0)
    power = math.frexp(largest)[1] if math.isfinite(largest) else 0
    scores = jax.tree.map(lambda leaf, w: jnp.asarray(np.ldexp(leaf, -power), w.dtype), scores, network.params)
    return scores, size, share


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
@jax.default_matmul_precision("highest")
def _flow(network: Network, image: Any) -> tuple[Scores, Any, Any]:
    """The scores; log2 of |R|, NaN where a score is not finite; and the largest share of R that reads a leaf."""
    positive = jax.tree.map(_absolute, network)

    def total(params: Any) -> Any:
        return jnp.sum(network.apply(params, positive.state, image))

    value, gradient = jax.value_and_grad(total)(positive.params)
    scores = jax.tree.map(lambda w, g: jnp.abs(w * g), positive.params, gradient)
    leaves = jax.tree.leaves(scores)
    finite = functools.reduce(jnp.logical_and, [jnp.all(jnp.isfinite(leaf)) for leaf in leaves], jnp.ones((), bool))
    flows = functools.reduce(jnp.maximum, [jnp.sum(leaf) for leaf in leaves], jnp.zeros(()))
    return scores, jnp.where(finite, jnp.log2(jnp.abs(value)), jnp.nan), flows / jnp.abs(value)


def _absolute(leaf: Any) -> Any:
    return jnp.abs(leaf) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else leaf
