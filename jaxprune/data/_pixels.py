"""Images that are corrupted or distorted, and their places in a data set, checked."""

from typing import Any

import numpy as np

from jaxprune import check
from jaxprune.data.source import channels_last

_LEAST = 8  # pixels


def checked_images(images: Any) -> np.ndarray:
    """Checks images, float [n, h, w, c] in [0, 1] of 8 x 8 pixels or more, grey or in colours, and returns them."""
    images = np.asarray(images)
    shape = images.shape
    channels_last("images", shape)
    if images.ndim != 4 or shape[0] < 1 or min(shape[1:3]) < _LEAST or shape[3] not in (1, 3):
        raise ValueError(
            f"images: expected one or more images [n, h, w, c] of {_LEAST} x {_LEAST} pixels or more with c = 1 (grey) "
            f"or 3 (colours), but got the shape {shape}. Enlarge smaller images; grey images need a last axis of 1."
        )
    if not np.issubdtype(images.dtype, np.floating):
        raise TypeError(f"images: expected floating-point values in [0, 1], but got {images.dtype}. Divide by 255.")
    remedy = "Corrupt before normalising, and divide values up to 255 by 255."
    check.within("images", np.min(images), np.max(images), (0, 1), remedy)
    return images


def checked_indices(indices: Any, count: int) -> np.ndarray:
    """Checks the index of each image in its data set, and returns them, int [count]; None: 0 to count - 1."""
    places = np.arange(count) if indices is None else np.asarray(indices)
    if places.shape != (count,) or not np.issubdtype(places.dtype, np.integer):
        raise ValueError(
            f"indices: expected one whole number for each of the {count} images, but got {places.dtype} of shape "
            f"{places.shape}. Pass the indices of the images in their data set, or None for 0 to n - 1."
        )
    return places
