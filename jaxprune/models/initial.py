"""What kernels begin with: the numbers of Flax's initializers, drawn in a line, see ``jaxprune.draws``."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

Initializer = Callable[..., jax.Array]


def in_a_line(initializer: Initializer) -> Initializer:
    """Makes an initializer draw what it draws in a line; one that asks for no axis, as ``normal``.

    >>> in_a_line(nn.initializers.normal(0.1))(jax.random.key(0), (3, 4)).shape
    (3, 4)
    """
    return partial(_drawn, initializer)


def _drawn(initializer: Initializer, key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    return jnp.reshape(initializer(key, (1, math.prod(shape)), dtype), tuple(shape))


def scaled(
    key: jax.Array,
    shape: Sequence[int],
    dtype: Any = jnp.float32,
    *,
    gain: float,
    fan: Literal["in", "out"],
    distribution: Literal["normal", "truncated_normal"] = "normal",
) -> jax.Array:
    """Draws a kernel [..., in, out] of variance ``gain / fan``.

    >>> scaled(jax.random.key(0), (3, 3, 4, 8), gain=2.0, fan="out").shape
    (3, 3, 4, 8)
    """
    count = math.prod(shape) // shape[-1 if fan == "in" else -2]
    # Of a matrix [1, n] the fan is 1, and the variance the gain.
    return in_a_line(nn.initializers.variance_scaling(gain / count, "fan_in", distribution))(key, shape, dtype)


# Standard deviation 0.02, cut at twice that, as transformers begin.
NORMAL = in_a_line(nn.initializers.truncated_normal(0.02))
# The variance 2 / fan_out, with which gradients keep their size through ReLU (He et al. 2015, arXiv 1502.01852).
HE_NORMAL = partial(scaled, gain=2.0, fan="out")
# What Flax takes for dense layers unless told otherwise.
LECUN_NORMAL = partial(scaled, gain=1.0, fan="in", distribution="truncated_normal")
