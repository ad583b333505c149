"""Gaussian kernels whose bandwidth is a multiple of the median distance."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune.similarity import features
from jaxprune.similarity.hsic import Terms, gram_terms

_ROUGH = 1e-6  # rounding of an exponent that moves the alignment by some 1e-5


def gaussian_terms(x: jax.Array, y: jax.Array, bandwidth: Any, *, debiased: bool) -> tuple[Terms, Any]:
    """Computes HSIC of Gaussian kernels, and the median squared distances of x and of y (0: the terms mean nothing).

    On the host; where float32 loses digits, as where one example is far off all others, again in float64.

    Raises:
      MemoryError: the matrices do not fit.
    """
    features.fits(x.shape[0], x, "Use fewer examples.")
    *found, lost = jax.device_get(_terms(x, y, bandwidth, debiased=debiased))
    if features.is_narrow(x, y) and max(lost) > _ROUGH:
        features.fits(x.shape[0], x, "Use fewer examples.", wide=True)
        with jax.enable_x64(True):
            *found, _ = jax.device_get(_terms(x, y, bandwidth, debiased=debiased, wide=True))
    return found[0], found[1]


@partial(jax.jit, static_argnames=("debiased", "wide"))
@jax.default_matmul_precision("highest")
def _terms(x: jax.Array, y: jax.Array, bandwidth: Any, *, debiased: bool, wide: bool = False) -> tuple[Any, Any, Any]:
    sides = features.flat(x, y, wide=wide)
    (left, median_x, lost_x), (right, median_y, lost_y) = (_gaussian(side, bandwidth) for side in sides)
    return gram_terms(left, right, debiased), (median_x, median_y), (lost_x, lost_y)


def _gaussian(x: jax.Array, bandwidth: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The kernel [n, n], the median, and how far rounding moves the exponents of what is not far off."""
    x, _ = features.centred(x)
    products = x @ x.T
    norms = jnp.diagonal(products)
    sums = norms[:, None] + norms
    squares = sums - 2 * products
    different = ~jnp.eye(x.shape[0], dtype=bool)
    # Below this a square is rounding: equal rows must be at distance 0, or their median would be noise.
    squares = jnp.where(different & (squares > 32 * jnp.finfo(x.dtype).eps * sums), squares, 0)
    median = _median(jnp.where(different, squares, jnp.inf))
    width = 2 * jnp.asarray(bandwidth, x.dtype) ** 2 * jnp.where(median > 0, median, 1)
    exponent = -squares / width
    lost = jnp.finfo(x.dtype).eps * jnp.max(jnp.where(exponent > -16, sums, 0)) / width
    # A constant does not matter after centring: taken off first, it does not swallow what a large bandwidth leaves.
    return jnp.where(bandwidth > 1, jnp.expm1(exponent), jnp.exp(exponent)), median, lost


def _median(values: jax.Array) -> jax.Array:
    """The median of the finite entries of [n, n], all of 0 or more and each there twice; the diagonal is infinite.

    Bisects over the bits of the number, which are ordered as the numbers are: counts only, so rows may be sharded.
    """
    width = 8 * values.dtype.itemsize
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32 if width == 32 else jnp.uint64)
    n = values.shape[0]
    # Each pair is there twice, so the entries at m / 2 - 1 and m / 2 of all m are the middle one or two of the pairs.
    rank = jnp.uint32(n * (n - 1) // 2 - 1)

    def step(turn: Any, found: jax.Array) -> jax.Array:
        tried = found | (jnp.ones((), bits.dtype) << (width - 1 - turn).astype(bits.dtype))
        return jnp.where(jnp.sum(bits < tried, dtype=jnp.uint32) <= rank, tried, found)

    found = jax.lax.fori_loop(0, width, step, jnp.zeros((), bits.dtype))
    lower = jax.lax.bitcast_convert_type(found, values.dtype)
    more = jnp.min(jnp.where(bits > found, values, jnp.inf))
    upper = jnp.where(jnp.sum(bits <= found, dtype=jnp.uint32) > rank + 1, lower, more)
    return (lower + upper) / 2
