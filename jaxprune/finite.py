"""What a training step broke: numbers that became NaN or infinite, and in whose name to say so."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import tree

_REMEDIES = {
    "loss": "Lower the learning rate, or inspect the data.",
    "gradient": "Lower the learning rate, or inspect the data.",
    "weights": "Lower the learning rate.",
    "state": "Inspect the data, and what train_apply makes of its state.",
    "tx": "Inspect the hyperparameters and the schedules of tx, or lower the learning rate.",
}


def breaks(old: Any, new: Any) -> jax.Array:
    """Says for every leaf [leaves] whether a number of it changes into NaN or infinity.

    What was infinite before and stays as it is, such as the -inf of an attention mask, breaks nothing.

    >>> breaks({"a": jnp.array([-jnp.inf, 1.0]), "b": jnp.ones(1)}, {"a": jnp.array([-jnp.inf, 2.0]), "b": jnp.inf})
    Array([False,  True], dtype=bool)
    """
    return jnp.stack(jax.tree.leaves(jax.tree.map(_breaks, old, new)))


def _breaks(old: Any, new: Any) -> Any:
    if not jnp.issubdtype(jnp.result_type(new), jnp.inexact):
        return jnp.zeros((), bool)
    return jnp.any(~jnp.isfinite(new) & (new != old) & ~(jnp.isnan(new) & jnp.isnan(old)))


def explain(number: int, loss: float, norm: float, broken: Any, parts: Mapping[str, Any]) -> str:
    """Writes why a training step was not taken.

    Args:
      number: of the step, from 1.
      loss: before the step.
      norm: of the gradient.
      broken: what ``breaks`` said of ``parts``.
      parts: "weights", "state" and "tx" (of the optimizer), as they are without that step.

    >>> print(explain(3, 0.5, 1.0, [True], {"weights": {"w": 1.0}}))
    weights: step 3 gave loss 0.5 and gradient norm 1.0, but NaN or infinity in 'w'; it was not taken, and the newest
    checkpoint is from before it. Lower the learning rate.
    """
    leaves = [(part, name or "its array") for part, whole in parts.items() for name in tree.names(whole)]
    name, where = ("gradient" if math.isfinite(loss) else "loss"), ""
    if math.isfinite(loss) and math.isfinite(norm):
        name, leaf = leaves[np.flatnonzero(broken)[0]]
        where = f", but NaN or infinity in {leaf!r}"
    remedy = _REMEDIES[name]
    # What was there before the training and did no harm in its first step does none later.
    if number == 1 and name in ("loss", "gradient"):
        remedy = "No step has changed the weights yet: inspect the data, the loss and the weights."
    if number == 1:
        remedy = _held(parts) + remedy
    return (
        f"{name}: step {number} gave loss {loss} and gradient norm {norm}{where}; it was not taken, and the newest "
        f"checkpoint is from before it. {remedy}"
    )


def _held(parts: Mapping[str, Any]) -> str:
    """Names what is NaN, or else infinite, in these parts."""
    for kind, test in (("NaN", np.isnan), ("infinity", np.isinf)):
        for part, whole in parts.items():
            for name, leaf in tree.by_name(whole).items():
                if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) and np.any(test(np.asarray(leaf))):
                    of = {"weights": "weights", "state": "state of the network", "tx": "state of the optimizer"}[part]
                    return f"There was {kind} in {name or 'its array'!r} of the {of} before the training. "
    return ""
