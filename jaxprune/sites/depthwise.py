"""Depthwise convolutions as sums of slices, whose derivatives are such sums too.

    y[b, o, c] = sum_t w[t, c] x[b, s o + d t, c]

is linear in the images x and in the kernel w.  What JAX derives of the sum is slow on a CPU: it pads the gradient once
for every tap t, and sums over all images once for every tap.  So where programs are run, this sum is a primitive of its
own, whose two transposes are given: with respect to the images it is a depthwise convolution of the gradient, by the
turned kernel; with respect to the kernel it is

    v[t, c] = sum_bo x[b, s o + d t, c] g[b, o, c],

a second primitive, that reads images and gradients once for all taps.  Either is linear in both inputs, and its
transposes are these two again: so derivatives of every order, forward and backward, are what they should be.

Where programs are read (``written_out``), and wherever a mesh has other axes than ``Auto``, whose rules primitives of
ours do not have, it is the plain sum of slices.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
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
"""Taps that are summed in one pass over images and gradients."""
_RUN = 256
"""Numbers that are added up one after the other: rounding grows with their number."""

written_out = jax.make_user_context(default_value=False)
"""``with written_out(True)``: what is traced holds slices, sums and products, and no primitive of ours."""


def to_read(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Makes a program to be read: ``jax.make_jaxpr(function, **options)(*arguments)``, written out."""
    with written_out(True):
        return jax.make_jaxpr(function, **options)(*arguments)


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
    if written_out.value or not _all_auto():
        return _sums(images, kernel, window=window)
    return depthwise_p.bind(images, kernel, window=window)


def _all_auto() -> bool:
    return {*jax.sharding.get_abstract_mesh().axis_types} <= {AxisType.Auto}


def _sums(images: Any, kernel: Any, *, window: Window) -> Any:
    total: Any = jnp.zeros((), images.dtype)
    for tap, seen in taps(images, kernel.shape[:-1], window):
        total = total + seen * jnp.broadcast_to(kernel[tap], seen.shape)
    return total


def _correlations(images: Any, signals: Any, *, sizes: tuple[int, ...], window: Window) -> Any:
    """Sums ``images[s o + d t] signals[o]`` over all images and positions, ``[*sizes, c]``."""
    kind = images.dtype
    # XLA folds constants one number at a time: two of them would take it longer to compile than to run.
    signals = jax.lax.optimization_barrier(signals)
    wide = jnp.float32 if jnp.issubdtype(kind, jnp.floating) and jnp.finfo(kind).bits < 32 else kind
    products = [_in_runs((seen * signals).astype(wide)) for _, seen in taps(images, sizes, window)]
    # Of small images one run for each, of large ones one for each part of a row.
    rank, many = products[0].ndim, math.prod(products[0].shape[1:-1]) > _RUN
    axes, sums = ((rank - 2,) if many else tuple(range(1, rank - 1))), []
    for start in range(0, len(products), _TOGETHER):
        some = products[start : start + _TOGETHER]
        sums += jax.lax.reduce(some, [np.zeros((), wide)] * len(some), _add, axes)
    parts = jnp.stack(sums)
    return parts.sum(tuple(range(1, parts.ndim - 1))).reshape(*sizes, images.shape[-1]).astype(kind)


def _in_runs(products: Any) -> Any:
    """Splits rows that are too long: [b, *space, c] -> [b, *space, runs, run, c]."""
    row = products.shape[-2]
    if row <= _RUN:
        return products
    runs = -(-row // _RUN)
    edges = [(0, 0, 0)] * (products.ndim - 2) + [(0, runs * _RUN - row, 0), (0, 0, 0)]
    padded = jax.lax.pad(products, np.zeros((), products.dtype), edges)
    return padded.reshape(*products.shape[:-2], runs, _RUN, products.shape[-1])


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
    _demand_auto()
    space = window.made(images.shape[1:-1], kernel.shape[:-1])
    return ShapedArray((images.shape[0], *space, images.shape[-1]), images.dtype)


def _summed(images: Any, signals: Any, *, sizes: tuple[int, ...], window: Window) -> Any:
    _demand_auto()
    return ShapedArray((*sizes, images.shape[-1]), images.dtype)


def _demand_auto() -> None:
    if not _all_auto():
        raise NotImplementedError(
            "A program with depthwise convolutions as slices was traced outside of a mesh whose axes are Manual or "
            "Explicit, and is run inside. Trace it there: call the network itself."
        )


def _to_images(signals: Any, images: Any, kernel: Any, window: Window) -> Any:
    """The transpose with respect to images, of which the shape is taken."""
    seen, sizes = images.aval.shape, kernel.shape[:-1]
    if not signals.size:
        return jnp.zeros(seen, signals.dtype)
    turned = window.turned(seen[1:-1], sizes)
    return depthwise_p.bind(signals, jnp.flip(kernel, tuple(range(len(sizes)))), window=turned)


def _batched_depthwise(arguments: Any, axes: Any, *, window: Window) -> Any:
    """Takes what is mapped over for more images, or, with kernels of their own, for more channels."""
    (images, kernel), (mapped, filters) = arguments, axes
    if mapped is None:  # many kernels for the same images, which nobody need repeat
        return jax.vmap(partial(_sums, window=window), (None, filters))(images, kernel), 0
    if filters is None:
        images = jnp.moveaxis(images, mapped, 0)
        merged = images.reshape(images.shape[0] * images.shape[1], *images.shape[2:])
        made = depthwise_p.bind(merged, kernel, window=window)
        return made.reshape(*images.shape[:2], *made.shape[1:]), 0
    return _in_channels(partial(depthwise_p.bind, window=window), arguments, axes)


def _batched_correlations(arguments: Any, axes: Any, **options: Any) -> Any:
    return _in_channels(partial(correlations_p.bind, **options), arguments, axes)


def _in_channels(function: Callable[..., Any], arguments: Any, axes: Any) -> tuple[Any, int]:
    """Merges an axis that is mapped over into the channels, and takes it out again; what has none is repeated."""
    size = next(one.shape[axis] for one, axis in zip(arguments, axes, strict=True) if axis is not None)
    merged, channels = [], 0
    for one, axis in zip(arguments, axes, strict=True):
        moved = jnp.expand_dims(one, -2) if axis is None else jnp.moveaxis(one, axis, -2)
        channels = moved.shape[-1]
        wide = jnp.broadcast_to(moved, (*moved.shape[:-2], size, channels))
        merged.append(wide.reshape(*moved.shape[:-2], size * channels))
    made = function(*merged)
    return made.reshape(*made.shape[:-1], size, channels), made.ndim - 1


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
