"""Simulated observers whose consistency is known: what measures of alignment are tested on where no people answered.

An image is easy or hard: ``p_i`` is the probability that it is answered rightly.  Two observers agree beyond chance for
two reasons, and both are known: the same images are hard for both, and they share a share ``rho`` of their trials.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprune import check


class Observers(NamedTuple):
    """Answers of k observers to n images.

    Attributes:
      correct: which are right, bool [k, n].
      responses: the classes answered, int [k, n].
    """

    correct: np.ndarray
    responses: np.ndarray


def simulated(probability: Any, labels: Any, classes: int, *, observers: int, rho: float, seed: Any) -> Observers:
    """Simulates observers: at every image each copies a hidden template with probability ``sqrt(rho)``, or answers.

    The template, and an observer that answers, are right with probability ``p_i``; a wrong answer is any of the other
    classes alike.  Two observers both copy with probability rho, and are independent otherwise, so where all ``p_i``
    are equal every pair has the error consistency rho; where they are not, it is ``expected_consistency``.

    Args:
      probability: p_i, of a right answer to each image, [n], or one number for all.
      labels: the classes of the images, int [n].
      classes: how many there are.
      observers: k.
      rho: the share of trials that any two observers share, in [0, 1].
      seed: an integer or a JAX PRNG key.  Observer j does not depend on how many others there are.

    Returns:
      Who is right about what, and all answers.

    Raises:
      ValueError: probabilities or rho outside [0, 1]; labels outside the classes; fewer than two classes.

    Source: the copy model is a check of the reference values of Geirhos, Meding and Wichmann (2020), arXiv 2006.16736.

    >>> made = simulated(0.7, np.zeros(5, int), 16, observers=2, rho=1.0, seed=0)
    >>> bool(np.all(made.responses[0] == made.responses[1])), made.correct.shape
    (True, (2, 5))
    """
    check.whole("classes", classes)
    truth = check.label_range("labels", labels, classes)
    _check_counts(truth, classes, observers)
    chance, rate = _shares("probability", probability), float(np.sqrt(_shares("rho", rho)))
    if chance.shape not in ((), truth.shape):
        raise ValueError(
            f"probability: expected one number, or one for each of the {truth.size} labels, but got the shape "
            f"{chance.shape}."
        )
    draws = _uniform(seed, (1 + observers, 3, truth.size))
    # Of the first row only the answers are read: it is the template.
    right = draws[:, 0] < chance
    other = (truth + 1 + np.floor(draws[:, 1] * (classes - 1)).astype(int)) % classes
    answers = np.where(right, truth, other)
    copies = draws[1:, 2] < rate
    responses = np.where(copies, answers[0], answers[1:])
    return Observers(responses == truth, responses)


def expected_consistency(probability: Any, rho: float) -> float:
    """Computes the error consistency of ``simulated`` observers: ``rho + (1 - rho) var(p_i) / (p (1 - p))``.

    p is the mean of the p_i; var(p_i) is their population variance: images that are hard for all.

    Args:
      probability: p_i, of a right answer to each image, [n].
      rho: the share of trials that two observers share.

    Returns:
      Kappa in the limit of many images; 1 where all answers are right, or all wrong.

    Raises:
      ValueError: probabilities or rho outside [0, 1].

    >>> expected_consistency(np.array([0.8, 0.8]), 0.25), expected_consistency(np.array([0.0, 1.0]), 0.25)
    (0.25, 1.0)
    """
    chance, share = _shares("probability", probability), float(_shares("rho", rho))
    mean = float(np.mean(chance))
    if mean in (0.0, 1.0):
        return 1.0
    return share + (1 - share) * float(np.var(chance)) / (mean * (1 - mean))


def _check_counts(labels: np.ndarray, classes: int, observers: int) -> None:
    if labels.ndim != 1 or labels.size == 0:
        raise ValueError(f"labels: expected one or more labels [n], but got the shape {labels.shape}.")
    if classes < 2:
        raise ValueError(f"classes: expected 2 or more, so that an answer can be wrong, but got {classes}.")
    check.whole("observers", observers)


def _shares(name: str, values: Any) -> np.ndarray:
    found = np.asarray(values, np.float64) if check.are_numbers(values) else np.empty(0)
    if found.size == 0 or not np.all((found >= 0) & (found <= 1)):  # NaN too
        raise ValueError(f"{name}: expected numbers in [0, 1], but got {values!r}.")
    return found


def _uniform(seed: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Draws uniform numbers in (0, 1) from raw bits, which no version of NumPy changes."""
    if isinstance(seed, jax.Array):  # a key, typed or as two or four words
        typed = jax.dtypes.issubdtype(seed.dtype, jax.dtypes.prng_key)
        words = np.asarray(jax.random.key_data(seed) if typed else seed).ravel().tolist()
        seed = sum(word << (32 * place) for place, word in enumerate(words))
    if not check.is_whole(seed) or seed < 0:
        raise ValueError(f"seed: expected a whole number of 0 or more, or a JAX PRNG key, but got {seed!r}.")
    raw = np.random.Philox(key=int(seed)).random_raw(int(np.prod(shape)))
    return (((raw >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52).reshape(shape)
