"""Averages over a stream of batches, weighted as one large batch would be."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import check, tree
from jaxprune.types import Batch


def average(function: Callable[[Batch], Any], batches: Iterable[Batch]) -> Any:
    """Averages a tree-valued mean over batches: ``sum_b W_b f(b) / sum_b W_b``, W_b the sum of the batch's weights.

    If f is a weighted mean over the examples of its batch, so is the result over all examples, whatever the batch
    sizes and the padding.

    Raises:
      ValueError: there is no batch, or none has an example of weight above 0.

    >>> batches = [{"label": jnp.zeros(3)}, {"label": jnp.ones(1)}]
    >>> average(lambda batch: jnp.mean(batch["label"]), batches)
    Array(0.25, dtype=float32)
    """
    total, result = 0.0, None
    for batch in batches:
        weight = _sum(jnp.asarray(batch["weight"])) if "weight" in batch else float(np.shape(batch["label"])[0])
        total, result = total + weight, _add(result, weight, function(batch))
    if result is None:
        raise ValueError(
            "batches: expected at least one batch, but got none. Pass a list, not an iterator already read."
        )
    check.positive("batches: the sum of the weights", float(total))
    return _add(None, 1.0 / total, result)


@jax.jit
def _sum(weights: Any) -> jax.Array:
    return jnp.sum(weights)


# One program for the whole tree, instead of two for each leaf.
@jax.jit
def _add(total: Any, factor: Any, term: Any) -> Any:
    scaled = tree.scale(factor, term)
    return scaled if total is None else tree.add(total, scaled)
