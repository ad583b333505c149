"""What fine-tunes: Adam whose rate falls to zero, as one compiled step for every rate."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class Cooling(NamedTuple):
    """The state of ``adam``: its rate at the first step, how many steps were taken, and the moments."""

    rate: jax.Array
    taken: jax.Array
    moments: Any


@cache
def adam(rate: float, steps: int) -> optax.GradientTransformation:
    """Makes what fine-tunes: Adam with cosine decay.  The rate lies in its state: one program serves every rate."""

    def init(params: Any) -> Cooling:
        return Cooling(jnp.asarray(rate, float), jnp.zeros((), jnp.int32), optax.scale_by_adam().init(params))

    return optax.GradientTransformation(init, _cooled(steps))


@cache
def _cooled(steps: int) -> Callable[..., tuple[Any, Cooling]]:
    moments, share = optax.scale_by_adam(), optax.cosine_decay_schedule(1.0, steps)

    def update(updates: Any, state: Cooling, params: Any = None) -> tuple[Any, Cooling]:
        updates, moved = moments.update(updates, state.moments, params)
        size = state.rate * share(state.taken)
        updates = jax.tree.map(lambda leaf: jnp.asarray(-size, leaf.dtype) * leaf, updates)
        return updates, Cooling(state.rate, jnp.asarray(optax.safe_increment(state.taken)), moved)

    return update
