"""Depthwise convolutions as sums of slices, whose derivatives are such sums too.

    y[b, o, c] = sum_t w[t, c] x[b, s o + d t, c]

is linear in the images x and in the kernel w.  What JAX derives of the sum is slow on a CPU: it pads the gradient once
for every tap t, and sums over all images once for every tap.  So this sum is a primitive of its own, and its two
transposes are given: with respect to the images it is a depthwise convolution of the gradient, by the turned kernel;
with respect to the kernel it is

    v[t, c] = sum_bo x[b, s o + d t, c] g[b, o, c],

a second primitive, that reads images and gradients once for all taps, and sums every image apart, in float32 at least.
Either is linear in both inputs, and its transposes are these two again: so derivatives of every order, forward and
backward, are what they should be.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import AxisType

from jaxprune.sites import windows
from jaxprune.sites.windows import Window, taps

_TOGETHER = 32
"""Taps that are summed in one pass: XLA's loop over more of them would spill what it adds up."""


def depthwise(images: Any, kernel: Any, window: Window) -> Any:
    """Convolves every channel with a filter of its own.

    Args:
      images: [b, *space, c].
      kernel: [*sizes, c].
      window: in which it slides.

    >>> window = Window((1, 1), ((1, 1), (1, 1)), inner=(1, 1), outer=(1, 1))
    >>> depthwise(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2)), window)[0, 0, :, 0]
    Array([4., 6., 6., 4.], dtype=float32)
    """
    kind = jnp.result_type(images, kernel)
    images, kernel = jnp.asarray(images, kind), jnp.asarray(kernel, kind)
    # A shard_map asks of every primitive along which axes its results vary, which there is no public way to say.
    if AxisType.Manual in jax.sharding.get_abstract_mesh().axis_types:
        return _sums(images, kernel, window=window)
    return depthwise_p.bind(images, kernel, window=window)


def _sums(images: Any, kernel: Any, *, window: Window) -> Any:
    total: Any = 0.0
    for tap, seen in taps(images, kernel.shape[:-1], window):
        total = total + seen * jnp.broadcast_to(kernel[tap], seen.shape)
    return total


def _correlations(images: Any, signals: Any, *, sizes: tuple[int, ...], window: Window) -> Any:
    """Sums ``images[s o + d t] signals[o]``, ``[*sizes, c]``."""
    wide = jnp.promote_types(images.dtype, jnp.float32)
    products = [(seen * signals).astype(wide) for _, seen in taps(images, sizes, window)]
    space, sums = tuple(range(1, images.ndim - 1)), []
    for start in range(0, len(products), _TOGETHER):
        some = products[start : start + _TOGETHER]
        sums += jax.lax.reduce(some, [np.zeros((), wide)] * len(some), _add, space)
    return jnp.stack(sums).sum(1).reshape(*sizes, images.shape[-1]).astype(images.dtype)


def _add(some: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    return [one + other for one, other in zip(some, others, strict=True)]


def slices_serve(params: Mapping[str, Any], images: Any, kernel: Any) -> bool:
    """Whether a convolution runs on a CPU and is depthwise, one filter for each channel, and no input is dilated.

    Args:
      params: of ``jax.lax.conv_general_dilated_p``.
      images: its first input, or shape and type of it.
      kernel: its second one.
    """
    numbers, wider = params["dimension_numbers"], params["preferred_element_type"]
    channels = images.shape[numbers.lhs_spec[1]]
    return (
        jax.default_backend() == "cpu"
        and channels > 1
        and params["feature_group_count"] == channels == kernel.shape[numbers.rhs_spec[0]]
        and params["batch_group_count"] == 1
        and all(apart == 1 for apart in params["lhs_dilation"])
        # In half precision a convolution sums wider than its inputs are.
        and jnp.issubdtype(images.dtype, jnp.floating)
        and jnp.finfo(images.dtype).bits >= 32
        and images.dtype == kernel.dtype
        and (wider is None or wider == images.dtype)
    )


def of_slices(params: Mapping[str, Any], images: Any, kernel: Any) -> Any:
    """Computes a convolution for which ``slices_serve``, up to rounding."""
    numbers = params["dimension_numbers"]
    images = jnp.transpose(images, (numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1]))
    kernel = jnp.transpose(kernel, (*numbers.rhs_spec[2:], *numbers.rhs_spec[1::-1]))[..., 0, :]
    result = depthwise(images, kernel, windows.of(params))
    order = (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
    return jnp.transpose(result, [order.index(axis) for axis in range(len(order))])


# ------------------------------------------------------------------------------------------------------ the primitives


def _made(images: Any, kernel: Any, *, window: Window) -> Any:
    space = window.made(images.shape[1:-1], kernel.shape[:-1])
    return ShapedArray((images.shape[0], *space, images.shape[-1]), images.dtype)


def _summed(images: Any, signals: Any, *, sizes: tuple[int, ...], window: Window) -> Any:
    return ShapedArray((*sizes, images.shape[-1]), images.dtype)


def _to_images(signals: Any, images: Any, kernel: Any, window: Window) -> Any:
    """The transpose with respect to images, of which the shape is taken."""
    seen, sizes = images.aval.shape, kernel.shape[:-1]
    if not signals.size:
        return jnp.zeros(seen, signals.dtype)
    turned = window.turned(seen[1:-1], sizes)
    return depthwise_p.bind(signals, jnp.flip(kernel, tuple(range(len(sizes)))), window=turned)


def _batched_depthwise(arguments: Any, axes: Any, *, window: Window) -> Any:
    """Takes what is mapped over for more images, or, of several kernels, for more channels."""
    (images, kernel), (mapped, filters) = arguments, axes
    if filters is None:
        images = jnp.moveaxis(images, mapped, 0)
        merged = images.reshape(images.shape[0] * images.shape[1], *images.shape[2:])
        made = depthwise_p.bind(merged, kernel, window=window)
        return made.reshape(*images.shape[:2], *made.shape[1:]), 0
    size = kernel.shape[filters]
    made = depthwise_p.bind(_in_channels(images, mapped, size), _in_channels(kernel, filters, size), window=window)
    return _apart(made, size)


def _batched_correlations(arguments: Any, axes: Any, **options: Any) -> Any:
    size = next(one.shape[axis] for one, axis in zip(arguments, axes, strict=True) if axis is not None)
    merged = [_in_channels(one, axis, size) for one, axis in zip(arguments, axes, strict=True)]
    return _apart(correlations_p.bind(*merged, **options), size)


def _in_channels(values: Any, axis: Any, size: int) -> Any:
    """Merges an axis that is mapped over into the channels; what has none is repeated."""
    if axis is None:
        values = jnp.broadcast_to(values[..., None, :], (*values.shape[:-1], size, values.shape[-1]))
    else:
        values = jnp.moveaxis(values, axis, -2)
    return values.reshape(*values.shape[:-2], size * values.shape[-1])


def _apart(made: Any, size: int) -> tuple[Any, int]:
    """Takes the merged axis out of the channels again; and where it is."""
    return made.reshape(*made.shape[:-1], size, made.shape[-1] // size), made.ndim - 1


depthwise_p, correlations_p = Primitive("depthwise"), Primitive("correlations")
depthwise_p.def_impl(jax.jit(_sums, static_argnames="window"))
correlations_p.def_impl(jax.jit(_correlations, static_argnames=("sizes", "window")))
depthwise_p.def_abstract_eval(_made)
correlations_p.def_abstract_eval(_summed)
mlir.register_lowering(depthwise_p, mlir.lower_fun(_sums, multiple_results=False))
mlir.register_lowering(correlations_p, mlir.lower_fun(_correlations, multiple_results=False))
batching.primitive_batchers[depthwise_p] = _batched_depthwise
batching.primitive_batchers[correlations_p] = _batched_correlations
ad.defbilinear(
    depthwise_p,
    lambda signals, images, kernel, *, window: _to_images(signals, images, kernel, window),
    lambda signals, images, kernel, *, window: correlations_p.bind(
        images, signals, sizes=kernel.aval.shape[:-1], window=window
    ),
)
ad.defbilinear(
    correlations_p,
    lambda kernel, images, signals, *, sizes, window: _to_images(signals, images, kernel, window),
    lambda kernel, images, signals, *, sizes, window: depthwise_p.bind(images, kernel, window=window),
)
