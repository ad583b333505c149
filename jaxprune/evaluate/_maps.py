"""Coarse maps inside a network, and their enlargement to the size of the images."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# What the tags of attention end in: its probabilities, which are no map at any shape, and values sorted by heads, which
# are tokens or a map once their heads are put one after the other.
PROBABILITIES = "/attention"
BY_HEADS = ("/keys", "/heads")

# Enlarged in float32, a constant map varies in its last bits (1.2e-7 each).  What is ranked or stretched to [0, 1] must
# not be that.
_FLAT = 1e-6


class Layout(NamedTuple):
    """How a value lies over the image: its grid, and the number of tokens before the first place of the grid."""

    height: int
    width: int
    skipped: int


def layout(shape: tuple[int, ...], images: tuple[int, ...]) -> Layout | None:
    """Says how a value of a network lies over its images; None where it is neither a map nor a row of tokens.

    A map is [b, h, w, d], with a stride that differs at most twofold between height and width.  Tokens are [b, t, d],
    where t or t - 1 (after a class token) is a grid of the images' own proportions; never are both.

    >>> layout((2, 7, 7, 512), (2, 224, 224, 3)), layout((2, 33, 8), (2, 32, 64, 3)), layout((2, 10), (2, 32, 32, 3))
    (Layout(height=7, width=7, skipped=0), Layout(height=4, width=8, skipped=1), None)
    """
    if not shape or shape[0] != images[0] or 0 in shape:
        return None
    if len(shape) == 4:
        strides = images[1] / shape[1], images[2] / shape[2]
        fits = min(strides) >= 1 and max(strides) <= 2 * min(strides)
        return Layout(shape[1], shape[2], 0) if fits else None
    if len(shape) == 3:
        for skipped in (1, 0):
            found = grid(shape[1] - skipped, images)
            if found is not None:
                return Layout(*found, skipped)
    return None


def grid(count: int, images: tuple[int, ...]) -> tuple[int, int] | None:
    """Returns height and width of the grid of that many patches with the proportions of the images, if there is one.

    >>> grid(32, (1, 32, 64, 3)), grid(16, (1, 32, 64, 3))
    ((4, 8), None)
    """
    common = math.gcd(images[1], images[2])
    height, width = images[1] // common, images[2] // common
    times = math.isqrt(count // (height * width)) if count > 0 else 0
    return (times * height, times * width) if times and times**2 * height * width == count else None


def laid_out(value: Any, images: tuple[int, ...]) -> Any:
    """Lays a map, or tokens row by row, out as [b, height, width, d]; None where the value is neither."""
    place = layout(value.shape, images)
    if place is None or value.ndim == 4:
        return None if place is None else value
    return value[:, place.skipped :].reshape(len(value), place.height, place.width, value.shape[-1])


def bilinear(maps: Any, size: tuple[int, int]) -> Any:
    """Enlarges maps [b, h, w] to [b, height, width] linearly, pixels being squares; the border repeats.

    The convention of OpenCV, and of PyTorch's ``interpolate(mode="bilinear", align_corners=False)``.
    """
    return jax.image.resize(maps, (len(maps), *size), method="bilinear", antialias=False)


def nearest(maps: Any, size: tuple[int, int]) -> Any:
    """Enlarges maps [b, h, w] to [b, height, width]: row i shows row ``floor(i h / height)``, and so the columns.

    The convention of PyTorch's ``interpolate(mode="nearest")``, which Captum's guided Grad-CAM uses.
    """
    rows, columns = (jnp.arange(new) * old // new for new, old in zip(size, maps.shape[1:], strict=True))
    return maps[:, rows[:, None], columns[None, :]]


def levelled(maps: np.ndarray) -> np.ndarray:
    """Gives every map [b, h, w] that is constant up to rounding one value everywhere, its largest; others stay."""
    low, high = (extreme(maps, axis=(1, 2), keepdims=True) for extreme in (np.min, np.max))
    size = np.maximum(np.abs(low), np.abs(high))
    safe = np.where(size > 0, size, 1.0)  # quotients first: the difference of large numbers may be infinite
    return np.where(high / safe - low / safe <= _FLAT, high, maps)
