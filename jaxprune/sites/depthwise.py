"""Depthwise convolutions as sums of slices, which XLA runs many times faster on CPUs than its grouped convolutions."""

import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


def slices_serve(params: Mapping[str, Any], images: Any, kernel: Any) -> bool:
    """Whether a convolution runs on a CPU and is depthwise, one filter for each channel, and no input is dilated.

    Args:
      params: of ``jax.lax.conv_general_dilated_p``.
      images: its first input, or shape and type of it.
      kernel: its second one.
    """
    numbers, channels = params["dimension_numbers"], images.shape[params["dimension_numbers"].lhs_spec[1]]
    return (
        jax.default_backend() == "cpu"
        and channels > 1
        and params["feature_group_count"] == channels == kernel.shape[numbers.rhs_spec[0]]
        and params["batch_group_count"] == 1
        and all(each == 1 for each in params["lhs_dilation"])
        # In half precision a convolution sums wider than its inputs are.
        and jnp.issubdtype(images.dtype, jnp.floating)
        and jnp.finfo(images.dtype).bits >= 32
        and (params["preferred_element_type"] is None or params["preferred_element_type"] == images.dtype)
        and images.dtype == kernel.dtype
    )


def of_slices(params: Mapping[str, Any], images: Any, kernel: Any) -> Any:
    """Computes ``sum_ij kernel[i, j] x[i::s, j::s]``, the convolution up to rounding.

    >>> images, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 1, 2))
    >>> function = lambda x, w: jax.lax.conv_general_dilated(
    ...     x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=2)
    >>> params = jax.make_jaxpr(function)(images, kernel).eqns[0].params
    >>> slices_serve(params, images, kernel), of_slices(params, images, kernel)[0, 0, :, 0]
    (True, Array([4., 6., 6., 4.], dtype=float32))
    """
    numbers = params["dimension_numbers"]
    images = jnp.transpose(images, (numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1]))
    kernel = jnp.transpose(kernel, (*numbers.rhs_spec[2:], *numbers.rhs_spec[1::-1]))[..., 0, :]
    padding = [(low, high, 0) for low, high in params["padding"]]
    padded = jax.lax.pad(images, jnp.zeros((), images.dtype), [(0, 0, 0), *padding, (0, 0, 0)])
    steps = list(zip(params["window_strides"], params["rhs_dilation"], strict=True))
    sides = padded.shape[1:-1]
    total = None
    counts = [
        (side - (size - 1) * dilation - 1) // stride + 1
        for side, size, (stride, dilation) in zip(sides, kernel.shape, steps, strict=False)
    ]
    for tap in itertools.product(*map(range, kernel.shape[:-1])):
        start = [at * dilation for at, (_, dilation) in zip(tap, steps, strict=True)]
        stop = [low + (count - 1) * stride + 1 for low, count, (stride, _) in zip(start, counts, steps, strict=True)]
        seen = jax.lax.slice(
            padded, (0, *start, 0), (len(padded), *stop, padded.shape[-1]), (1, *params["window_strides"], 1)
        )
        total = seen * kernel[tap] if total is None else total + seen * kernel[tap]
    order = (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
    return jnp.transpose(total, [order.index(axis) for axis in range(len(order))])
