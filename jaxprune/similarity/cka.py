"""Centred kernel alignment: linear or Gaussian, biased or debiased, of all examples at once or in minibatches."""

from collections.abc import Iterable
from typing import Any

import jax

from jaxprune import check
from jaxprune.similarity import features
from jaxprune.similarity.gaussian import gaussian_terms
from jaxprune.similarity.hsic import Terms, given_terms, linear_terms, ratio


def linear_cka(x: Any, y: Any, *, debiased: bool = True, route: str | None = None) -> float:
    """Computes linear centred kernel alignment, ``HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))`` of K = XX', L = YY'.

    Biased, with centred columns, it is ``|X'Y|_F^2 / (|X'X|_F |Y'Y|_F)``: between 0 and 1, but near p / (n + p) even
    for independent Gaussian features.  Debiased, HSIC is replaced by its unbiased estimate, without the diagonals:

        HSIC_1(K, L) = [tr(K~L~) + (1'K~1)(1'L~1) / ((n-1)(n-2)) - 2 (1'K~L~1) / (n-2)] / (n (n-3)),   K~ = K - diag K
                     = [|X'Y|_F^2 - n/(n-2) r_X'r_Y + |r_X|_1 |r_Y|_1 / ((n-1)(n-2))] / (n (n-3)),   r = |row|^2

    It is near 0 for independent features, and can be slightly negative (the ratio itself is not quite unbiased).

    Args:
      x: features [n, ...].
      y: features [n, ...] of the same examples.
      debiased: the unbiased HSIC; needs 4 examples.
      route: "features" multiplies p x q matrices, "gram" n x n matrices; equal but for rounding.  None takes the one
        that multiplies less: "gram" where n (p + q) < p^2 + p q + q^2.  That is always so where n is below p or q,
        where the debiased form of the features would subtract nearly equal numbers.  Where either loses digits in
        float32, as by one example that is far off all others, it computes again in float64.

    Returns:
      The similarity; 1 for features equal up to rotation, translation and one scale.

    Raises:
      ValueError: too few examples, shapes that do not fit, numbers that are not finite, features without variation, or
        (debiased) all pairs of different examples equally similar.
      MemoryError: the matrices do not fit.

    Source: Kornblith, Norouzi, Lee and Hinton (2019), arXiv 1905.00414; unbiased HSIC: Song, Smola, Gretton, Bedo and
    Borgwardt (2012); why debiased: Murphy, Zylberberg and Fyshe (2024), arXiv 2405.01012.

    >>> x, y = jax.random.normal(jax.random.key(0), (2, 100, 64))
    >>> print(f"{linear_cka(x, 3 * x + 1):.4f} {linear_cka(x, y, debiased=False):.1f}")
    1.0000 0.4
    >>> abs(linear_cka(x, y)) < 0.1
    True
    """
    if route is not None:
        check.choice("route", route, ("features", "gram"))
    x, y = features.pair(x, y, needs=features.hsic_needs(debiased), varied=True)
    terms, _ = linear_terms(x, y, debiased=debiased, route=route)
    return ratio(terms)


def rbf_cka(x: Any, y: Any, *, bandwidth: float = 1.0, debiased: bool = True) -> float:
    """Computes centred kernel alignment with Gaussian kernels, ``K_ij = exp(-|x_i - x_j|^2 / (2 sigma^2))``.

    ``sigma^2 = bandwidth^2 median_{i<j} |x_i - x_j|^2``, for x and y each: the median is that of the n (n-1) / 2
    squared distances between different examples (the zeros of the diagonal are left out; of an even number, the mean of
    the middle two).  It tends to ``linear_cka`` as the bandwidth grows.

    Args:
      x: features [n, ...], n up to 65,535.
      y: features [n, ...] of the same examples.
      bandwidth: t, in root median distances.
      debiased: the unbiased HSIC, see ``linear_cka``; needs 4 examples.

    Returns:
      The similarity.

    Raises:
      ValueError: as ``linear_cka``; or more than half of all pairs coincide (the median is 0), or a bandwidth so small
        that all pairs are equally dissimilar.
      MemoryError: the matrices do not fit.

    Source: Kornblith, Norouzi, Lee and Hinton (2019), arXiv 1905.00414; the limit: Alvarez (2021), arXiv 2112.09305.

    >>> x = jax.random.normal(jax.random.key(0), (50, 8))
    >>> print(f"{rbf_cka(x, 3 * x + 1):.4f}")
    1.0000
    """
    check.positive("bandwidth", bandwidth)
    x, y = features.pair(x, y, needs=features.hsic_needs(debiased), varied=True)
    if x.shape[0] > 65_535:
        raise ValueError(f"x: expected at most 65535 examples (pairs are counted in 32 bits), but got {x.shape[0]}.")
    terms, medians = gaussian_terms(x, y, bandwidth, debiased=debiased)
    for name, median in zip(("x", "y"), medians, strict=True):
        if median <= 0:
            raise ValueError(
                f"{name}: expected a median distance between examples above 0, but more than half of all pairs "
                "coincide. Leave out repeated examples, or use linear_cka."
            )
    return ratio(terms)


def gram_cka(k: Any, l: Any, *, debiased: bool = True) -> float:  # noqa: E741 (K and L in every paper on it)
    """Computes centred kernel alignment of two given kernel (Gram) matrices, centred or not, see ``linear_cka``.

    Args:
      k: [n, n], symmetric: how similar the examples are to each other in one representation.
      l: [n, n], symmetric, of the same examples in the other.
      debiased: the unbiased HSIC, which ignores the diagonals; needs 4 examples.

    Returns:
      The similarity.

    Raises:
      ValueError: matrices that are not square, symmetric and of one size, too few examples, numbers that are not
        finite, or nothing left after centring.

    Source: Cortes, Mohri and Rostamizadeh (2012), arXiv 1203.0550; unbiased HSIC: Song, Smola, Gretton, Bedo and
    Borgwardt (2012).

    >>> x = jax.numpy.array([[0.0], [1.0], [2.0], [4.0]])
    >>> print(f"{gram_cka(x @ x.T, 5 * x @ x.T):.4f}")
    1.0000
    """
    grams = features.pair(k, l, needs=features.hsic_needs(debiased), names=("k", "l"))
    for name, matrix in zip(("k", "l"), grams, strict=True):
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(
                f"{name}: expected a Gram matrix [n, n], but got the shape {matrix.shape}. For features [n, p] use "
                "linear_cka."
            )
    terms, skewed = jax.device_get(given_terms(*grams, debiased=debiased))
    for name, one in zip(("k", "l"), skewed, strict=True):
        if one:
            raise ValueError(f"{name}: expected a symmetric matrix, but it differs from its transpose. Check the axes.")
    return ratio(terms, names=("k", "l"))


def minibatch_cka(pairs: Iterable[tuple[Any, Any]]) -> float:
    """Computes debiased linear centred kernel alignment from minibatches: the ratio of mean unbiased HSICs.

    ``sum_b HSIC_1(K_b, L_b) / sqrt(sum_b HSIC_1(K_b, K_b) sum_b HSIC_1(L_b, L_b))``.  Unbiased HSICs may be averaged
    over batches of any size; alignments of single batches may not (each has the bias of its few examples).  Every batch
    counts the same.  One batch gives ``linear_cka``.

    Args:
      pairs: (x, y) for each batch: features [n, ...] of the same n >= 4 examples; read once.

    Returns:
      The similarity.

    Raises:
      ValueError: no batch, a batch of fewer than 4 examples, widths that change, and as ``linear_cka``.

    Source: Nguyen, Raghu and Kornblith (2021), arXiv 2010.15327.

    >>> x = jax.random.normal(jax.random.key(0), (4, 16, 8))
    >>> print(f"{minibatch_cka((batch, 2 * batch) for batch in x):.4f}")
    1.0000
    """
    found = []
    widths = None
    for number, (x, y) in enumerate(pairs):
        names = f"pairs[{number}]: x", f"pairs[{number}]: y"
        x, y = features.pair(x, y, needs=(4, "Use larger batches, or drop the last one."), names=names)
        widths = features.same_widths(widths, x, y, number)
        found.append(linear_terms(x, y, debiased=True, route=None))
    if not found:
        raise ValueError("pairs: expected one or more batches, but got none. An iterator can be read only once.")
    return ratio(_mean(found))


def _mean(found: list[tuple[Terms, Any]]) -> Terms:
    """Sums the terms of batches, each of which was scaled by a size of its own."""
    largest = [max(float(sizes[side]) for _, sizes in found) for side in (0, 1)]
    for name, size in zip(("x", "y"), largest, strict=True):
        features.check_size(name, size)
    total = [0.0] * 5
    for terms, sizes in found:
        a, b = ((float(size) / most) ** 2 for size, most in zip(sizes, largest, strict=True))
        scales = a * b, a * a, b * b, a * a, b * b
        total = [sum_ + scale * float(term) for sum_, scale, term in zip(total, scales, terms, strict=True)]
    return Terms(*total)
