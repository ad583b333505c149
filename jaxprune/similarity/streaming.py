"""Exact centred kernel alignment of features that come in batches: moments are kept, examples are not."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune.similarity import features
from jaxprune.similarity.hsic import Terms, moment_terms, ratio


class Moments(NamedTuple):
    """All that linear alignment needs of the examples so far.

    Attributes:
      matrix: W'W of W = [1, |x|^2, |y|^2, x, y], a row for each example, [3 + p + q, 3 + p + q]; x and y relative
        to the centres, in units of the sizes.
      centres: of x [p] and y [q]; near their means, in sixteenths of the units of the features (``features.roomy``).
      sizes: of x and y, in sixteenths too.
    """

    matrix: Any
    centres: tuple[Any, Any]
    sizes: tuple[Any, Any]


def streaming_cka(pairs: Iterable[tuple[Any, Any]], *, debiased: bool = True) -> float:
    """Computes ``linear_cka`` of all examples together from batches: exact, whatever their sizes, in one pass.

    It keeps X'X, X'Y, Y'Y, the column sums, and for the debiased form the sums of ``|x|^2``, ``|x|^2 |y|^2``,
    ``|x|^2 x`` and their like: one matrix [3 + p + q, 3 + p + q].  For narrow features; for wide
    ones use ``minibatch_cka``.  The debiased form subtracts nearly equal sums where a few examples are far off all
    others, which single batches do not show: its moments are kept in float64, whatever the features are.

    Args:
      pairs: (x, y) for each batch: features [n, ...] of the same examples, n >= 1; read once.
      debiased: the unbiased HSIC, see ``linear_cka``; needs 4 examples in all.

    Returns:
      The similarity.

    Raises:
      ValueError: no batch, an empty batch, widths that change, and as ``linear_cka``.
      MemoryError: the matrix does not fit.

    Source: moments about a moving centre: Chan, Golub and LeVeque (1983); CKA as in ``linear_cka``.

    >>> x = jax.random.normal(jax.random.key(0), (4, 16, 8))
    >>> print(f"{streaming_cka((batch, 2 * batch + 1) for batch in x):.4f}")
    1.0000
    """
    moments = widths = None
    examples = 0
    for number, (x, y) in enumerate(pairs):
        names = f"pairs[{number}]: x", f"pairs[{number}]: y"
        x, y = features.pair(x, y, needs=(1, "Leave out empty batches."), names=names)
        if widths is None:
            features.fits(
                3 + features.width(x) + features.width(y),
                x,
                "Pool the features, or use minibatch_cka.",
                replicated=True,
                wide=debiased,
            )
        widths = features.same_widths(widths, x, y, number)
        examples += x.shape[0]
        with _precision(debiased):  # not around the loop, which runs what makes the features
            found = _moments(x, y, wide=debiased)
            moments = found if moments is None else _merged(moments, found)
    if moments is None:
        raise ValueError("pairs: expected one or more batches, but got none. An iterator can be read only once.")
    features.enough("pairs", examples, features.hsic_needs(debiased))
    for name, size in zip(("x", "y"), jax.device_get(moments.sizes), strict=True):
        features.check_size(name, float(size))
    with _precision(debiased):
        return ratio(jax.device_get(_terms(moments, debiased=debiased)))


def _precision(wide: bool) -> AbstractContextManager[Any]:
    return jax.enable_x64(True) if wide else nullcontext()


@partial(jax.jit, static_argnames="wide")
@jax.default_matmul_precision("highest")
def _moments(x: jax.Array, y: jax.Array, *, wide: bool = False) -> Moments:
    sides = features.flat(x, y, wide=wide)
    (x, centre_x, size_x), (y, centre_y, size_y) = (_about_its_mean(side) for side in sides)
    norms = [jnp.sum(side**2, axis=1, keepdims=True) for side in (x, y)]
    rows = jnp.concatenate([jnp.ones_like(norms[0]), *norms, x, y], axis=1)
    return Moments(rows.T @ rows, (centre_x, centre_y), (size_x, size_y))


def _about_its_mean(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    moved, size = features.shifted(x)
    # The centre is a number that the type can hold, so that subtracting it is exact; what it misses of the mean stays
    # in the column sums.
    centre = jnp.min(features.roomy(x), axis=0) + size * jnp.mean(moved, axis=0)
    return (features.roomy(x) - centre) / _divisor(size), centre, size


@jax.jit
@jax.default_matmul_precision("highest")
def _merged(total: Moments, batch: Moments) -> Moments:
    share = batch.matrix[0, 0] / (total.matrix[0, 0] + batch.matrix[0, 0])
    centres = tuple(a + share * (b - a) for a, b in zip(total.centres, batch.centres, strict=True))
    sizes = []
    for side in (0, 1):
        moved = [jnp.max(jnp.abs(one.centres[side] - centres[side])) for one in (total, batch)]
        sizes.append(jnp.max(jnp.stack([total.sizes[side], batch.sizes[side], *moved])))
    matrix = sum(_moved(one, centres, tuple(sizes)) for one in (total, batch))
    return Moments(matrix, centres, tuple(sizes))


def _moved(moments: Moments, centres: tuple[Any, ...], sizes: tuple[Any, ...]) -> jax.Array:
    """The matrix about other centres and in other units: T M T', as each row w of W becomes T w."""
    p = len(centres[0])
    pairs = zip(moments.centres, centres, sizes, strict=True)
    shifts = [(old - new) / _divisor(size) for old, new, size in pairs]
    scales = [old / _divisor(new) for old, new in zip(moments.sizes, sizes, strict=True)]

    def transform(rows: jax.Array) -> jax.Array:
        one, norms, parts = rows[:, :1], (rows[:, 1:2], rows[:, 2:3]), (rows[:, 3 : 3 + p], rows[:, 3 + p :])
        new = [scale * part + one * shift for scale, part, shift in zip(scales, parts, shifts, strict=True)]
        squares = [
            scale**2 * norm + 2 * scale * (part @ shift)[:, None] + one * (shift @ shift)
            for scale, norm, part, shift in zip(scales, norms, parts, shifts, strict=True)
        ]
        return jnp.concatenate([one, *squares, *new], axis=1)

    return transform(transform(moments.matrix).T).T


@partial(jax.jit, static_argnames="debiased")
@jax.default_matmul_precision("highest")
def _terms(moments: Moments, *, debiased: bool) -> Terms:
    p, n = len(moments.centres[0]), moments.matrix[0, 0]
    means = moments.matrix[0, 3:] / n
    # About the means: the centres move by what is left of them, in the present units.
    units = moments._replace(centres=(-means[:p], -means[p:]), sizes=(jnp.ones(()), jnp.ones(())))
    matrix = _moved(units, tuple(jnp.zeros_like(centre) for centre in moments.centres), units.sizes)
    x, y = slice(3, 3 + p), slice(3 + p, None)
    products = matrix[x, y], matrix[x, x], matrix[y, y]
    return moment_terms(products, matrix[1:3, 1:3], matrix[0, 1:3], n, debiased)


def _divisor(size: jax.Array) -> jax.Array:
    return jnp.where(size > 0, size, 1)
