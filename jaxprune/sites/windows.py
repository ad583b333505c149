"""What a convolution sees: strided slices of its padded input, one for each entry of the kernel, a tap.

XLA runs grouped convolutions on CPUs 10 to 100 times slower than sums of such slices, and its own extraction of patches
is one of them.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Edges = Sequence[tuple[int, int]]


def taps(
    images: Any,
    sizes: Sequence[int],
    strides: Sequence[int],
    padding: Edges,
    inner: Sequence[int],
    outer: Sequence[int],
) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Lists (where in the kernel, what it meets [b, *space, c]) in the row-major order of the kernel.

    Args:
      images: [b, *space, c].
      sizes: of the kernel along every axis of space.
      strides: of the window.
      padding: low and high, of every axis; below 0 it cuts.
      inner: the dilation of the input.
      outer: the dilation of the kernel.
    """
    edges = [(low, high, apart - 1) for (low, high), apart in zip(padding, inner, strict=True)]
    padded = jax.lax.pad(images, jnp.zeros((), images.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    counts = [
        max(0, (side - (size - 1) * apart - 1) // stride + 1)
        for side, size, apart, stride in zip(padded.shape[1:-1], sizes, outer, strides, strict=True)
    ]
    if not all(counts):
        nothing = jnp.zeros((len(images), *counts, images.shape[-1]), images.dtype)
        yield from ((tap, nothing) for tap in itertools.product(*map(range, sizes)))
        return
    for tap in itertools.product(*map(range, sizes)):
        start = [at * apart for at, apart in zip(tap, outer, strict=True)]
        stop = [low + (count - 1) * stride + 1 for low, count, stride in zip(start, counts, strides, strict=True)]
        yield tap, jax.lax.slice(padded, (0, *start, 0), (len(images), *stop, padded.shape[-1]), (1, *strides, 1))


def depthwise(images: Any, kernel: Any, strides: Sequence[int], padding: Edges, dilation: Sequence[int]) -> Any:
    """Convolves every channel with a filter of its own: ``sum_ij kernel[i, j] x[i::s, j::s]``.

    Args:
      images: [b, *space, c].
      kernel: [*sizes, c].
      strides: of the window.
      padding: low and high, of every axis of space.
      dilation: of the kernel.

    >>> depthwise(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2)), (1, 1), ((1, 1), (1, 1)), (1, 1))[0, 0, :, 0]
    Array([4., 6., 6., 4.], dtype=float32)
    """
    total = 0.0
    for tap, seen in taps(images, kernel.shape[:-1], strides, padding, [1] * len(strides), dilation):
        total = total + seen * jnp.broadcast_to(kernel[tap], seen.shape)
    return total


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
    result = depthwise(images, kernel, params["window_strides"], params["padding"], params["rhs_dilation"])
    order = (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
    return jnp.transpose(result, [order.index(axis) for axis in range(len(order))])
