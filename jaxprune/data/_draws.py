"""Random numbers of single images: those of image i depend on a purpose, a seed and i, and on nothing else."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from scipy import special


class Draws:
    """A random stream for each of n images, from raw bits, which no version of NumPy changes.

    Args:
      purpose: enters the streams, so that two uses of a seed never share one.
      seed: another seed gives other streams.
      indices: the index of each image [n].

    >>> Draws("example", 0, [0, 1, 2]).uniform(4)[2].tolist() == Draws("example", 0, [2]).uniform(4)[0].tolist()
    True
    """

    def __init__(self, purpose: str, seed: int, indices: Sequence[int]) -> None:
        keys = [hashlib.sha256(f"{purpose}/{seed}/{index}".encode()).digest()[:16] for index in indices]
        self._streams = [np.random.Philox(key=int.from_bytes(key, "little")) for key in keys]

    def uniform(self, *shape: int) -> np.ndarray:
        """Draws the next uniform numbers of every image, in the open interval (0, 1), [n, *shape]."""
        raw = np.stack([stream.random_raw(math.prod(shape)) for stream in self._streams])
        # 52 bits and a half: exact, so that neither end is ever reached and the inverse of a distribution is finite.
        return (((raw >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52).reshape(-1, *shape)

    def normal(self, *shape: int) -> np.ndarray:
        """Draws the next standard normal numbers of every image, [n, *shape]."""
        return special.ndtri(self.uniform(*shape))


def poisson(uniform: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Turns uniform numbers into Poisson counts: the smallest k with ``P(count <= k) >= u``, for every entry.

    Args:
      uniform: u, in (0, 1).
      mean: of each count, 0 or more, of the same shape.

    Returns:
      Counts, as float64.

    >>> poisson(np.array([0.5, 0.5, 0.99]), np.array([0.0, 3.0, 3.0]))
    array([0., 3., 8.])
    """
    normal = special.ndtri(uniform)
    # Cornish and Fisher's guess is rarely off by more than one; the loops make it exact.
    guess = mean + np.sqrt(mean) * normal + (normal**2 - 1) / 6
    count = np.maximum(np.ceil(guess - 0.5), 0.0)
    while np.any(low := special.pdtr(count, mean) < uniform):
        count = count + low
    while np.any(high := (count > 0) & (special.pdtr(np.maximum(count - 1, 0), mean) >= uniform)):
        count = count - high
    return count
