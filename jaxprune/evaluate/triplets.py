"""Triplets: of three images, which is the odd one out, and do features and people choose the same?

The odd one is what remains beside the most similar pair.  Equal similarities are no choice: they count by expectation,
so that a network whose features are all the same scores chance, one third.
"""

from typing import Any

import numpy as np

from jaxprune import check

CHANCE = 1 / 3
"""The agreement of guessing."""

_CHUNK = 2**24  # numbers at once


def of_classes(labels: Any, count: int, seed: int) -> np.ndarray:
    """Draws triplets whose first two images share a class and whose third has another.

    Args:
      labels: the class of each of n images, int [n].
      count: how many are drawn; one may come again.
      seed: of the draw.

    Returns:
      Indices, int [m, 3]; m is ``count``, or less where of 100 draws of any three images fewer than one is such.

    Raises:
      ValueError: labels that are not [n], or of which no such triplet can be made.

    >>> labels = np.array([0, 0, 1, 1, 2])
    >>> labels[of_classes(labels, 2, seed=0)].tolist()
    [[0, 0, 2], [0, 0, 2]]
    """
    values, count = np.asarray(labels), check.whole("count", count)
    sizes = np.unique(values, return_counts=True)[1]
    if values.ndim != 1 or len(sizes) < 2 or sizes.max() < 2:
        raise ValueError(
            f"labels: expected [n], of two classes or more, with two images of one of them, but got the shape "
            f"{values.shape}, of {len(sizes)} classes with at most {sizes.max(initial=0)} images each."
        )
    drawn = np.random.Generator(np.random.Philox(key=seed)).integers(len(values), size=(100 * count, 3))
    first, second, third = values[drawn].T
    return drawn[(first == second) & (drawn[:, 0] != drawn[:, 1]) & (first != third)][:count]


def odd_one_out(features: Any, triplets: Any, *, similarity: str = "cosine") -> np.ndarray:
    """Chooses the odd one out of each triplet: ``argmax over i of s(x_j, x_k)``, where j and k are the other two.

    Args:
      features: of n images, [n, d].
      triplets: indices of three different images, int [m, 3].
      similarity: "cosine", or "dot".  The cosine with features that are all 0 is 0.

    Returns:
      The position of the odd one in its triplet, int [m]; of tied ones the first.  Measure with ``choice_shares``,
      which shares ties.

    Raises:
      ValueError: features that are not [n, d] or not finite; indices out of range, or twice in a triplet.

    Source: Hebart et al. (2020), "Revealing the multidimensional mental representations of natural objects underlying
    human similarity judgements", for the task; Muttenthaler et al. (2023), arXiv 2211.01201, for networks.

    >>> features = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> odd_one_out(features, [[0, 1, 2], [2, 0, 1]])
    array([2, 0])
    """
    return np.argmax(choice_shares(features, triplets, similarity=similarity), axis=1)


def choice_shares(features: Any, triplets: Any, *, similarity: str = "cosine") -> np.ndarray:
    """Computes the choices of ``odd_one_out`` as shares: 1, or 1/2 or 1/3 each where two or three are tied.

    Args:
      features: of n images, [n, d].
      triplets: indices of three different images, int [m, 3].
      similarity: "cosine", or "dot".

    Returns:
      Float [m, 3]; every row sums to 1.

    Raises:
      ValueError: as ``odd_one_out``.

    >>> choice_shares(np.array([[1.0], [1.0], [2.0]]), [[0, 1, 2]], similarity="dot")
    array([[0.5, 0.5, 0. ]])
    """
    check.choice("similarity", similarity, ("cosine", "dot"))
    values = np.asarray(features, np.float64)
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"features: expected [n, d], one row for each image, but got the shape {values.shape}.")
    check.finite("features", values, "Inspect the network's outputs.")
    rows = _checked(triplets, len(values))
    if similarity == "cosine":
        lengths = np.linalg.norm(values, axis=1, keepdims=True)
        values = values / np.where(lengths > 0, lengths, 1.0)
    step, parts = max(1, _CHUNK // (3 * values.shape[1])), []
    for start in range(0, len(rows), step):
        first, second, third = np.moveaxis(values[rows[start : start + step]], 1, 0)
        pairs = [np.sum(a * b, axis=1) for a, b in ((second, third), (third, first), (first, second))]
        parts.append(_winners(np.stack(pairs, axis=1)))
    return np.concatenate(parts)


def agreement(choices: Any, human: Any) -> float:
    """Computes how often choices are those of people: the mean of the share that falls on the human choice.

    Args:
      choices: positions, int [m], or shares, float [m, 3], as ``choice_shares`` gives.
      human: the position that was chosen in each triplet, int [m].

    Returns:
      A share; ``CHANCE`` for guessing, and at best about ``noise_ceiling``.

    Raises:
      ValueError: arrays that do not fit each other, or are empty; positions other than 0, 1 and 2.

    Source: Muttenthaler et al. (2023), arXiv 2211.01201 (odd-one-out accuracy).

    >>> agreement(np.array([0, 1, 2]), np.array([0, 1, 1])), agreement(np.full((5, 3), 1 / 3), np.zeros(5, int))
    (0.6666666666666666, 0.3333333333333333)
    """
    answers = check.label_range("human", human, 3)
    given = np.asarray(choices)
    shares = given if given.ndim == 2 else np.eye(3)[check.label_range("choices", given, 3)]
    if answers.ndim != 1 or answers.size == 0 or shares.shape != (answers.size, 3):
        raise ValueError(
            f"choices, human: expected positions [m] or shares [m, 3], and positions [m], with m of 1 or more, but got "
            f"{given.shape} and {answers.shape}."
        )
    return float(np.mean(shares[np.arange(answers.size), answers]))


def noise_ceiling(counts: Any) -> float:
    """Computes how well a person's choice can be told from the choices of the others.

    Every answer is compared with what most of the other answers to its triplet say, ties by expectation; the mean over
    the answers to a triplet, then over triplets.  An answer is never compared with itself, so a few answers that are
    all chance give one third.

    Args:
      counts: how many people chose each position, int [m, 3]; two or more answers to each triplet.

    Returns:
      The agreement of people with people.

    Raises:
      ValueError: not counts [m, 3]; a triplet with fewer than two answers.

    >>> noise_ceiling([[3, 0, 0], [1, 1, 0]])
    0.5
    """
    values = np.asarray(counts)
    if values.ndim != 2 or values.shape[1] != 3 or not len(values) or not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"counts: expected whole numbers [m, 3], but got {values.dtype} of shape {values.shape}.")
    if values.min() < 0 or values.sum(axis=1).min() < 2:
        raise ValueError(
            f"counts: expected two or more answers to each triplet, but row {np.argmin(values.sum(axis=1))} has not. "
            "Leave out the triplets that were answered once."
        )
    others = values[:, None] - np.eye(3, dtype=values.dtype)  # [m, the answer, position]
    told = np.stack([_winners(others[:, answer])[:, answer] for answer in range(3)], axis=1)
    return float(np.mean(np.sum(values * told, axis=1) / values.sum(axis=1)))


def _winners(values: np.ndarray) -> np.ndarray:
    """Returns 1 for the largest in each row [m, 3], shared among equals."""
    best = values == np.max(values, axis=1, keepdims=True)
    return best / np.sum(best, axis=1, keepdims=True)


def _checked(triplets: Any, n: int) -> np.ndarray:
    rows = check.label_range("triplets", triplets, n)
    if rows.ndim != 2 or rows.shape[1] != 3 or not len(rows):
        raise ValueError(f"triplets: expected indices [m, 3] with m of 1 or more, but got the shape {rows.shape}.")
    twice = np.flatnonzero((rows[:, 0] == rows[:, 1]) | (rows[:, 1] == rows[:, 2]) | (rows[:, 2] == rows[:, 0]))
    if twice.size:
        raise ValueError(
            f"triplets: expected three different images, but row {twice[0]} is {rows[twice[0]].tolist()} "
            f"({twice.size} such). Leave those out."
        )
    return rows
