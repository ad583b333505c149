"""Handwritten digits: 1,797 grey images of 8x8 pixels, real data that scikit-learn carries."""

from typing import Any

import numpy as np

from jaxprune.data.source import Arrays


def digits() -> Arrays:
    """Loads the digits, float32 [1797, 8, 8, 1] in [0, 1].

    Source: Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI repository; the test part.

    >>> digits().pixels.shape
    (1797, 8, 8, 1)
    """
    from sklearn.datasets import load_digits  # takes a second to import

    bunch: Any = load_digits()
    pixels = (bunch.images / 16.0).astype(np.float32)[..., None]
    return Arrays("digits", pixels, bunch.target.astype(np.int32), tuple(str(digit) for digit in range(10)))
