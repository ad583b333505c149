"""From a mask on a grid of places to one box in pixels: the part that holds the seed, and its extent."""

import math
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import check
from jaxprune.evaluate.boxes import image_size


class Edges(NamedTuple):
    """Where places begin and end, in pixels: entry i is where place i begins, or place i - 1 ends.

    Attributes:
      top: int32 [h + 1].
      left: int32 [w + 1].
      bottom: int32 [h + 1].
      right: int32 [w + 1].
    """

    top: Any
    left: Any
    bottom: Any
    right: Any


def edges(grid: tuple[int, int], image: Any, scale: Any) -> Edges:
    """Says where the places of a grid lie in an image, rounded outward to whole pixels and clipped to the image.

    Args:
      grid: (h, w).
      image: (height, width) in pixels; None: boxes count places.
      scale: pixels of a place, one number or (rows, columns); None: the grid covers the image exactly.

    Raises:
      ValueError: a scale without an image, or that is not positive.
    """
    if image is None:
        if scale is not None:
            raise ValueError("scale: expected an image with it, but got none. Pass image=(height, width) in pixels.")
        size, scales = grid, [Fraction(1)] * 2
    else:
        size = image_size("image", image)
        pixels = [Fraction(side, places) for side, places in zip(size, grid, strict=True)]
        scales = pixels if scale is None else _scales(scale)
    sides = list(zip(grid, size, scales, strict=True))
    # Of what lies in the padding alone, the last row or column of pixels is left.
    starts = [[min(math.floor(times * at), side - 1) for at in range(places + 1)] for places, side, times in sides]
    ends = [[min(math.ceil(times * at), side) for at in range(places + 1)] for places, side, times in sides]
    return Edges(*(np.array(each, np.int32) for each in (*starts, *ends)))


def _scales(scale: Any) -> list[Fraction]:
    pair = tuple(scale) if isinstance(scale, (tuple, list)) else (scale, scale)
    if len(pair) != 2 or not all(check.is_number(each) and math.isfinite(each) and each > 0 for each in pair):
        raise ValueError(
            f"scale: expected the pixels of a place, a number above 0 or (rows, columns), but got {scale!r}. It is the "
            "padded size of the image divided by the size of the grid."
        )
    # 224 / 14 is a whole number, 225 / 14 is 225/14: what a float has lost is given back.
    return [Fraction(float(each)).limit_denominator(10_000) for each in pair]


@jax.jit
def component(mask: Any, seed: Any) -> Any:
    """Finds the part of each mask that hangs together with its seed; neighbours share a side, not a corner.

    Args:
      mask: bool [b, h, w].
      seed: (row, column), int [b, 2].

    Returns:
      Bool [b, h, w].  The seed is in it, even where the mask is False.
    """
    height, width = mask.shape[1:]
    rows = jnp.arange(height)[None, :, None] == seed[:, 0, None, None]
    start = rows & (jnp.arange(width)[None, None, :] == seed[:, 1, None, None])

    def grow(state: Any) -> Any:
        reached, _ = state
        wide = jnp.pad(reached, ((0, 0), (1, 1), (1, 1)))
        beside = wide[:, :-2, 1:-1] | wide[:, 2:, 1:-1] | wide[:, 1:-1, :-2] | wide[:, 1:-1, 2:]
        grown = reached | (beside & mask)
        return grown, jnp.any(grown != reached)

    return jax.lax.while_loop(lambda state: state[1], grow, (start, jnp.array(True)))[0]


@jax.jit
def extent(mask: Any, pixels: Edges) -> Any:
    """Finds the tight box (y0, x0, y1, x1) of each mask, int32 [b, 4]; none is empty."""
    rows, columns = jnp.any(mask, axis=2), jnp.any(mask, axis=1)
    ends = [line.shape[1] - jnp.argmax(line[:, ::-1], axis=1) for line in (rows, columns)]
    starts = [jnp.argmax(line, axis=1) for line in (rows, columns)]
    places = zip(map(jnp.asarray, pixels), (*starts, *ends), strict=True)
    return jnp.stack([table[at] for table, at in places], axis=1).astype(jnp.int32)
