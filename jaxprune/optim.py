"""Optax wrappers: training that keeps pruned weights at zero."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune import check


class MaskedState(NamedTuple):
    """The state of ``with_mask``: the mask, and the state of the transformation inside."""

    mask: Any
    inner: Any


def with_mask(tx: optax.GradientTransformation, mask: Any) -> optax.GradientTransformationExtraArgs:
    """Wraps any optax transformation so that pruned weights stay exactly zero.

    Gradients of pruned weights are cut before ``tx`` (so they enter no moment and no clipping norm), and whatever
    ``tx`` does to a pruned weight w afterwards (weight decay, momentum), its update becomes -w.  The mask lives in the
    optimizer state: it is an argument of the jitted step, never a constant in it, and it is saved and sharded with the
    state.  Two wrappers of one ``tx`` share their ``update``, so one compiled step serves every mask.

    Args:
      tx: the transformation.
      mask: bool leaves, True = kept, structure and shapes of the parameters.

    Returns:
      An optax transformation; its ``update`` needs ``params``.

    Raises:
      ValueError: the mask does not fit the parameters (at ``init``), or ``update`` is called without ``params``.

    >>> params = {"w": jnp.array([1.0, 2.0])}
    >>> tx = with_mask(optax.adamw(0.1), {"w": jnp.array([True, False])})
    >>> updates, _ = tx.update({"w": jnp.ones(2)}, tx.init(params), params)
    >>> optax.apply_updates(params, updates)["w"][1]
    Array(0., dtype=float32)
    """

    def init(params: Any) -> MaskedState:
        check.mask("mask", mask, params)
        # The state owns its copy of the mask: a step that donates its state must not delete the caller's mask.
        return MaskedState(jax.tree.map(jnp.array, mask), tx.init(params))

    return optax.GradientTransformationExtraArgs(init, _masked_update(tx))  # type: ignore[arg-type]


@functools.lru_cache(maxsize=128)
def _masked_update(tx: optax.GradientTransformation) -> Any:
    inner_update = optax.with_extra_args_support(tx).update

    def update(updates: Any, state: MaskedState, params: Any = None, **extra: Any) -> tuple[Any, MaskedState]:
        if params is None:
            raise ValueError("params: expected the parameters, but got None. Call tx.update(gradients, state, params).")
        # where() and never a product: NaN times zero is NaN.
        updates = jax.tree.map(lambda keep, leaf: jnp.where(keep, leaf, 0), state.mask, updates)
        updates, inner = inner_update(updates, state.inner, params, **extra)
        updates = jax.tree.map(lambda keep, leaf, w: jnp.where(keep, leaf, -w), state.mask, updates, params)
        return updates, MaskedState(state.mask, inner)

    return update
