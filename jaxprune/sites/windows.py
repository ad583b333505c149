"""What a convolution sees: strided slices of its padded input, one for each entry of the kernel, a tap.

XLA runs grouped convolutions on CPUs 10 to 100 times slower than sums of such slices, and its own extraction of patches
is one of them.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Window(NamedTuple):
    """How a kernel slides; every attribute has an entry for each axis of space.

    Attributes:
      strides: of the kernel.
      padding: low and high; below 0 it cuts.
      inner: the dilation of the input.
      outer: the dilation of the kernel.
    """

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    inner: tuple[int, ...]
    outer: tuple[int, ...]

    def made(self, seen: Sequence[int], sizes: Sequence[int]) -> tuple[int, ...]:
        """The sides of what a kernel of these sizes makes of an input of those sides."""
        padded = (
            low + high + (side - 1) * apart + 1
            for side, apart, (low, high) in zip(seen, self.inner, self.padding, strict=True)
        )
        each = zip(padded, sizes, self.outer, self.strides, strict=True)
        return tuple(max(0, (side - (size - 1) * apart - 1) // stride + 1) for side, size, apart, stride in each)

    def turned(self, seen: Sequence[int], sizes: Sequence[int]) -> "Window":
        """The window in which a turned kernel takes what was made back to an input of these sides."""
        padding = []
        each = zip(seen, self.made(seen, sizes), sizes, *self, strict=True)
        for side, made, size, stride, (low, _), inner, outer in each:
            reach = (size - 1) * outer
            needed = (side - 1) * inner + 1 + reach
            padding.append((reach - low, needed - (reach - low) - (made - 1) * stride - 1))
        return Window(self.inner, tuple(padding), self.strides, self.outer)


def of(params: Mapping[str, Any]) -> Window:
    """Returns the window of a convolution, from the parameters of ``jax.lax.conv_general_dilated_p``."""
    padding = tuple((int(low), int(high)) for low, high in params["padding"])
    strides, inner, outer = (tuple(params[name]) for name in ("window_strides", "lhs_dilation", "rhs_dilation"))
    return Window(strides, padding, inner, outer)


def taps(images: Any, sizes: Sequence[int], window: Window) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Lists (where in the kernel, what it meets [b, *space, c]) in the row-major order of the kernel.

    Args:
      images: [b, *space, c].
      sizes: of the kernel along every axis of space.
      window: in which it slides.
    """
    edges = [(low, high, apart - 1) for (low, high), apart in zip(window.padding, window.inner, strict=True)]
    padded = jax.lax.pad(images, jnp.zeros((), images.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    counts = window.made(images.shape[1:-1], sizes)
    for tap in itertools.product(*map(range, sizes)):
        if not all(counts):
            yield tap, jnp.zeros((len(images), *counts, images.shape[-1]), images.dtype)
            continue
        start = [at * apart for at, apart in zip(tap, window.outer, strict=True)]
        each = zip(start, counts, window.strides, strict=True)
        stop = [low + (count - 1) * stride + 1 for low, count, stride in each]
        yield (
            tap,
            jax.lax.slice(padded, (0, *start, 0), (len(images), *stop, padded.shape[-1]), (1, *window.strides, 1)),
        )
