"""Averages over a stream of batches, weighted as one large batch would be."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune import check, losses, tree
from jaxprune.types import Batch

NO_BATCH = "batches: expected at least one batch, but got none. Pass a list, not an iterator already read."


class Alike:
    """Whether all batches of a stream ask one question: all have a teacher, or none has."""

    def __init__(self) -> None:
        self._first: bool | None = None

    def check(self, batch: Batch) -> None:
        """Checks the next batch.

        Raises:
          ValueError: it has a teacher where the first had none, or the other way round.
        """
        has = "teacher" in batch
        self._first = has if self._first is None else self._first
        if has != self._first:
            raise ValueError(
                "batches: expected all of them with a 'teacher' or none, since these are two losses, but got both. See "
                "jp.data.with_teacher."
            )


def average(function: Callable[[Batch], Any], batches: Iterable[Batch]) -> Any:
    """Averages a tree-valued mean over batches: ``sum_b W_b f(b) / sum_b W_b``, W_b the sum of the batch's weights.

    If f is a weighted mean over the examples of its batch, so is the result over all examples, whatever the batch
    sizes and the padding.

    Raises:
      ValueError: there is no batch, or none has an example of weight above 0 (inside ``jax.jit`` that cannot be seen:
        the result is NaN).

    >>> batches = [{"label": jnp.zeros(3)}, {"label": jnp.ones(1)}]
    >>> average(lambda batch: jnp.mean(batch["label"]), batches)
    Array(0.25, dtype=float32)
    """
    total, result, alike = 0.0, None, Alike()
    for batch in check.each(batches):
        alike.check(batch)
        value = function(batch)
        weight = total_weight(batch)
        total, result = total + weight, _add(result, weight, value)
    if result is None:
        raise ValueError(NO_BATCH)
    if not isinstance(total, Tracer):
        check.positive("batches: the sum of the weights", total)
    return _add(None, 1.0 / total, result)


def total_weight(batch: Batch) -> Any:
    """Sums the weights of a batch: a Python number, but inside ``jax.jit``.

    >>> total_weight({"label": np.zeros(3)})
    3.0
    """
    if "weight" not in batch:
        return float(losses.examples(batch))
    weights = batch["weight"]
    if not isinstance(weights, Tracer) and (not isinstance(weights, jax.Array) or weights.is_fully_addressable):
        return float(np.sum(np.asarray(weights), dtype=np.float64))
    total = _sum_there(weights)
    return total if isinstance(total, Tracer) else float(total)


@jax.jit
def _sum_there(weights: Any) -> jax.Array:
    return jnp.sum(weights, dtype=jnp.promote_types(weights.dtype, jnp.float32))


# One program for the whole tree, instead of two for each leaf.
@jax.jit
def _add(total: Any, factor: Any, term: Any) -> Any:
    # A share is as wide as what it weighs, and makes nothing wider.
    scaled = jax.tree.map(
        lambda leaf: leaf * jnp.asarray(factor, jnp.promote_types(jnp.result_type(leaf), jnp.float32)), term
    )
    return scaled if total is None else tree.add(total, scaled)
