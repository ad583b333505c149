"""How many weights of every leaf are pruned, where leaves have counts of their own."""

from collections.abc import Callable

import numpy as np


def uniform(shapes: list[tuple[int, ...]], pruned: int) -> list[int]:
    """The same share of every leaf, rounded so that the total is exact."""
    sizes = np.array([int(np.prod(shape, dtype=np.int64)) for shape in shapes])
    return _round_to_total(lambda amount: sizes * (amount / sizes.sum()), pruned, sizes)


def erdos_renyi(shapes: list[tuple[int, ...]], pruned: int) -> list[int]:
    """Density proportional to sum(shape) / prod(shape); leaves that would exceed density 1 stay dense."""
    sizes = np.array([int(np.prod(shape, dtype=np.int64)) for shape in shapes])
    raw = np.array([float(sum(shape)) for shape in shapes])  # raw density times size

    def exact(amount: float) -> np.ndarray:
        kept, dense = sizes.sum() - amount, np.zeros(len(sizes), dtype=bool)
        while not dense.all():
            scale = (kept - sizes[dense].sum()) / raw[~dense].sum()
            over = ~dense & (scale * raw > sizes)
            if not over.any():
                return sizes - np.where(dense, sizes, scale * raw)
            dense |= over
        return np.zeros(len(sizes))

    return _round_to_total(exact, pruned, sizes)


def _round_to_total(exact: Callable[[float], np.ndarray], total: int, sizes: np.ndarray) -> list[int]:
    """Finds the amount whose shares, rounded, sum to ``total``, by bisection; of shares that rise together the earlier.

    Shares only grow with the amount, so no leaf gets a weight back as the total grows, and masks are nested.  Rounding
    by largest remainders does not have that.
    """
    if total >= sizes.sum():
        return sizes.tolist()

    def rounded(amount: float) -> np.ndarray:
        return np.floor(exact(amount) + 0.5).astype(np.int64)

    low, high = 0.0, float(sizes.sum())
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if rounded(middle).sum() <= total else (low, middle)
    counts = rounded(low)
    rising = np.flatnonzero(rounded(high) > counts)
    counts[rising[: total - counts.sum()]] += 1
    return counts.tolist()
