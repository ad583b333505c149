"""Two sets of features of the same examples: what must hold of them, and how they are centred and scaled."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import check, memory


def pair(
    x: Any,
    y: Any,
    *,
    needs: tuple[int, str] = (2, "Use more."),
    names: tuple[str, str] = ("x", "y"),
    varied: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Checks two sets of features of the same examples, and returns them as JAX arrays.

    Args:
      x: features [n, ...], real numbers.
      y: features [n, ...] of the same examples.
      needs: the smallest n that will do, and what to do about fewer.
      names: of the arguments, for the errors.
      varied: whether the features must differ between examples.

    Raises:
      ValueError: a shape without features, different or too few examples, NaN or infinity, no variation.
      TypeError: complex numbers.
    """
    sides = _array(x), _array(y)
    for name, side in zip(names, sides, strict=True):
        if side.ndim < 2 or 0 in side.shape[1:]:
            raise ValueError(
                f"{name}: expected features [n, ...] with the examples first, but got the shape {side.shape}. A single "
                "feature of each example is [n, 1]."
            )
        if jnp.issubdtype(side.dtype, jnp.complexfloating):
            raise TypeError(f"{name}: expected real features, but got {side.dtype}. Stack real and imaginary parts.")
    if sides[0].shape[0] != sides[1].shape[0]:
        raise ValueError(
            f"{names[1]}: expected as many examples as {names[0]} has, {sides[0].shape[0]}, but got "
            f"{sides[1].shape[0]}. Read both features on the same images, in the same order."
        )
    enough(names[0], sides[0].shape[0], needs)
    sizes = [float(size) for size in jax.device_get(_sizes(*sides))]
    for name, side, size in zip(names, sides, sizes, strict=True):
        if not math.isfinite(size):
            check.finite(name, side, "Inspect the weights of the network and the images.")
        if varied:
            check_size(name, size)
    return sides


def hsic_needs(debiased: bool) -> tuple[int, str]:
    """Returns the smallest number of examples for HSIC, and what to do about fewer."""
    if debiased:
        return 4, "The unbiased HSIC divides by n - 3: use more examples, or debiased=False."
    return 2, "Use more."


def enough(name: str, examples: int, needs: tuple[int, str]) -> None:
    """Checks a number of examples.

    Raises:
      ValueError: there are fewer than needed.
    """
    least, remedy = needs
    if examples < least:
        raise ValueError(f"{name}: expected {least} or more examples, but got {examples}. {remedy}")


def check_size(name: str, size: float) -> None:
    """Checks the size of the variation of features, see ``shifted``.

    Raises:
      ValueError: it is 0.
    """
    if size <= 0:
        raise ValueError(
            f"{name}: expected features that differ between examples, but every example has the same. Has the layer "
            "died, or was it gated off? Leave it out, or choose another site."
        )


def width(x: jax.Array) -> int:
    """Returns the number of features of an example."""
    return math.prod(x.shape[1:])


def same_widths(widths: Any, x: jax.Array, y: jax.Array, number: int) -> Any:
    """Checks that a batch has features of the same shapes as the first, and returns those.

    Raises:
      ValueError: it has others.
    """
    got = x.shape[1:], y.shape[1:]
    if widths is not None and got != widths:
        raise ValueError(
            f"pairs[{number}]: expected features of the shapes of the first batch, {widths}, but got {got}. Compare "
            "one pair of sites at a time."
        )
    return got


def fits(side: int, x: jax.Array, remedy: str, *, replicated: bool = False, wide: bool = False) -> None:
    """Checks that a few square matrices of this side fit into the memory of the devices that hold x.

    Args:
      side: of the matrices.
      x: features.
      remedy: what to do where they do not fit.
      replicated: whether each device holds the matrices whole; else they are split as x is.
      wide: whether they are of float64, whatever x is.

    Raises:
      MemoryError: they do not; the message ends with the remedy.
    """
    needed = (
        5 * side**2 * (8 if wide else _common_dtype(x, x).itemsize) // (1 if replicated else len(x.sharding.device_set))
    )
    there = memory.available(None)
    if needed > there:
        raise MemoryError(
            f"x: matrices of {side} x {side} need {needed / 1e9:.3g} GB, but {there / 1e9:.3g} GB may be taken (half "
            f"of what is free). {remedy}"
        )


def flat(x: jax.Array, y: jax.Array, *, wide: bool = False) -> tuple[jax.Array, jax.Array]:
    """Flattens to [n, p] and [n, q] of one floating-point type, float32 or wider; ``wide``: float64."""
    dtype = jnp.float64 if wide else _common_dtype(x, y)
    return x.reshape(x.shape[0], -1).astype(dtype), y.reshape(y.shape[0], -1).astype(dtype)


def is_narrow(x: jax.Array, y: jax.Array) -> bool:
    """Whether the two would be computed with in less than float64."""
    return _common_dtype(x, y).itemsize < 8


def roomy(x: jax.Array) -> jax.Array:
    """Divides by 16, exactly, so that no difference overflows, and no reciprocal of the largest entry underflows."""
    # The compiler divides by multiplying with reciprocals; without the barrier it would merge those with the 1 / 16.
    return jax.lax.optimization_barrier(x / 16)


def shifted(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Moves every column to start at 0, and scales the whole by one number to at most 1.

    Subtracting one of the values, before anything is rounded, keeps the differences between examples where the
    features have a large common offset.

    Returns:
      The features [n, p] in [0, 1], and their size: the largest range of a column, in sixteenths (see ``roomy``).
      Size 0: no variation.
    """
    small = roomy(x)
    moved = small - jnp.min(small, axis=0)
    size = jnp.max(moved)
    return moved / jnp.where(size > 0, size, 1), size


def centred(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Subtracts the mean of every column, and scales the whole as ``shifted`` does.

    Neither features of size 1e37 nor of size 1e-30 overflow or underflow in the products that follow.

    Returns:
      The features [n, p] in [-1, 1] with means of 0, and their size.
    """
    moved, size = shifted(x)
    moved = moved - jnp.mean(moved, axis=0)
    # The second time takes away what rounding left of a mean over many examples.
    return moved - jnp.mean(moved, axis=0), size


def _array(x: Any) -> jax.Array:
    # Not jnp.array, which compiles a program for every shape; a copy, since of NumPy's memory JAX may make its own.
    return x if isinstance(x, jax.Array) else jax.device_put(np.array(x))


@jax.jit
def _sizes(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, y = flat(x, y)
    return _finite_size(x), _finite_size(y)


def _finite_size(x: jax.Array) -> jax.Array:
    """The size of features, NaN where one of them is not finite.

    They are counted: on CPU the largest and the smallest of many numbers come out as if no NaN were among them.
    """
    return jnp.where(jnp.sum(~jnp.isfinite(x)) > 0, jnp.nan, shifted(x)[1])


def _common_dtype(x: jax.Array, y: jax.Array) -> Any:
    return jnp.promote_types(jnp.promote_types(x.dtype, y.dtype), jnp.float32)
