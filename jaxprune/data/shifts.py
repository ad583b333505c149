"""Shifted domains: the same images under another condition, deterministic."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage, special

from jaxprune import check
from jaxprune.data.source import channels_last


def _noise(images: np.ndarray, seed: int, first: int) -> np.ndarray:
    # From raw bits, which NumPy does not change: uniform numbers, then the inverse of the normal distribution.  The
    # generator makes four numbers at a time.
    blocks, skipped = divmod(first * images[0].size, 4)
    generator = np.random.Philox(key=seed)
    generator.advance(blocks)
    bits = generator.random_raw(skipped + images.size)[skipped:] >> np.uint64(11)
    return images + 0.2 * special.ndtri((bits + 0.5) / 2**53).reshape(images.shape)


def _rotation(images: np.ndarray, seed: int, first: int) -> np.ndarray:
    del seed, first
    return ndimage.rotate(images, 20.0, axes=(2, 1), reshape=False, order=1, mode="nearest")


def _blur(images: np.ndarray, seed: int, first: int) -> np.ndarray:
    del seed, first
    # In proportion to the image: comparable at any resolution.
    return ndimage.gaussian_filter(images, sigma=(0, images.shape[1] / 12, images.shape[2] / 12, 0), mode="nearest")


def _contrast(images: np.ndarray, seed: int, first: int) -> np.ndarray:
    del seed, first
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    return mean + 0.4 * (images - mean)


SHIFTS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "noise": _noise,
    "rotation": _rotation,
    "blur": _blur,
    "contrast": _contrast,
}
"""noise: Gaussian, standard deviation 0.2.  rotation: 20 degrees.  blur: Gaussian, a twelfth of the image wide.
contrast: 40 % of it left."""


def shift(images: np.ndarray, name: str, seed: int, first: int = 0) -> np.ndarray:
    """Moves images into a shifted domain.

    Args:
      images: float [n, h, w, c] in [0, 1], one or more.
      name: one of ``SHIFTS``.
      seed: for the noise.
      first: the place of the first image among all: parts of a set, shifted one after the other, are the set shifted.

    Returns:
      Images of the same shape and type, clipped to [0, 1].

    Raises:
      ValueError: unknown shift, images that are not in [0, 1].
      TypeError: images that are not floating-point.

    >>> shift(np.ones((1, 8, 8, 1), np.float32), "contrast", 0).mean()
    np.float32(1.0)
    """
    check.choice("shift", name, SHIFTS)
    if not np.issubdtype(images.dtype, np.floating):
        raise TypeError(f"images: expected floating-point values in [0, 1], but got {images.dtype}. Divide by 255.")
    channels_last("images", images.shape)
    check.within("images", np.min(images), np.max(images), (0, 1), "Shift before normalising.")
    return np.clip(SHIFTS[name](images.astype(np.float64), seed, first), 0.0, 1.0).astype(images.dtype)
