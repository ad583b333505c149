"""Disjoint, stratified splits of a source: a pure function of (seed, name)."""

import functools
import hashlib
from collections.abc import Mapping

import numpy as np

from jaxprune import check

FRACTIONS = {"test": 0.25, "pretraining": 0.45, "scoring": 0.12, "head": 0.08, "finetuning": 0.06, "selection": 0.04}
"""What the studies use.  No example is in two splits: nothing is chosen on test, no score sees a fine-tuning image."""


def split(
    labels: np.ndarray, name: str, seed: int, fractions: Mapping[str, float] | None = None
) -> dict[str, np.ndarray]:
    """Splits examples into disjoint parts with the same share of every class in each.

    Args:
      labels: int [n].
      name: the name of the source.
      seed: another seed gives other splits.
      fractions: the share of each part; they sum to at most 1.  None: ``FRACTIONS``.

    Returns:
      For each part, sorted indices.  With all fractions summing to 1, every example is in exactly one part.

    Raises:
      ValueError: shares that are not positive or exceed 1 together; labels that are no integers [n], or none; a part
        that gets no example of some class.

    >>> parts = split(np.repeat([0, 1], 10), "toy", 0, {"a": 0.5, "b": 0.5})
    >>> sorted(np.concatenate(list(parts.values())).tolist()) == list(range(20))
    True
    """
    shares = dict(FRACTIONS if fractions is None else fractions)
    total = sum(shares.values()) if all(map(check.is_number, shares.values())) else np.nan
    if not (shares and total <= 1 + 1e-9 and min(shares.values()) > 0):  # NaN too
        raise ValueError(
            f"fractions: expected positive shares that sum to at most 1, but got {shares} (sum {total!s})."
        )
    labels = np.asarray(labels)
    if labels.ndim != 1 or not labels.size or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels: expected one integer class for each example, int [n], but got "
            f"{labels.dtype}{list(labels.shape)}. Pass source.labels; is the data set empty?"
        )
    order = shuffled(len(labels), f"split/{name}/{seed}")
    edges = np.concatenate([[0.0], np.cumsum(list(shares.values()))])
    parts: dict[str, list[np.ndarray]] = {part: [] for part in shares}
    for label in np.unique(labels):
        mine = order[labels[order] == label]
        cuts = np.floor(edges * len(mine) + 0.5).astype(int)
        for part, start, stop in zip(shares, cuts[:-1], cuts[1:], strict=True):
            if start == stop:
                raise ValueError(
                    f"fractions: the split {part!r} of {name} gets no example of class {label}, which has "
                    f"{len(mine)}. Use more data, fewer classes or a larger share."
                )
            parts[part].append(mine[start:stop])
    return {part: np.sort(np.concatenate(pieces)) for part, pieces in parts.items()}


@functools.lru_cache(maxsize=8)
def shuffled(count: int, purpose: str) -> np.ndarray:
    """Permutes range(count), a pure function of the text ``purpose``, the same on every machine and NumPy version.

    Only the raw bits of the generator are used: NumPy may change how it turns bits into permutations, not the bits.

    >>> sorted(shuffled(5, "example").tolist())
    [0, 1, 2, 3, 4]
    """
    key = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:16], "little")
    order = np.argsort(np.random.Philox(key=key).random_raw(count), kind="stable")
    order.setflags(write=False)  # it is kept, and given to every caller
    return order
