"""How far two sets of features are apart once one may be rotated, or mapped linearly, onto the other."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune.similarity import features


def procrustes(x: Any, y: Any) -> float:
    """Computes the orthogonal Procrustes distance of centred features of Frobenius norm 1.

    ``d = min_Q |X Q - Y|_F = sqrt(2 - 2 |X'Y|_*)`` over orthogonal Q; the narrower features are padded with zeros to
    the width of the wider.  It is a metric between shapes: 0 for features equal up to rotation, translation and scale,
    sqrt(2) at most.  (Some authors report d^2.)  Computed as the norm of what is left, so a small d is exact too.

    Args:
      x: features [n, ...].
      y: features [n, ...] of the same examples.

    Returns:
      The distance d.

    Raises:
      ValueError: fewer than 2 examples, shapes that do not fit, numbers that are not finite, features without
        variation.
      MemoryError: the matrices do not fit.

    Source: Schönemann (1966); for representations: Ding, Denain and Steinhardt (2021), arXiv 2108.01661; Williams,
    Kunz, Kornblith and Linderman (2021), arXiv 2110.14739.

    >>> x = jnp.eye(4)[:, :2]
    >>> round(procrustes(x, jnp.fliplr(x)), 5), round(procrustes(jnp.eye(4)[:, :1], jnp.eye(4)[:, 1:2]), 4)
    (0.0, 1.1547)
    """
    return float(_distance(*_checked(x, y)))


def angular(x: Any, y: Any) -> float:
    """Computes the angular shape metric ``arccos |X'Y|_*`` of centred features of Frobenius norm 1, in radians.

    It is the length of the arc whose chord is ``procrustes``, ``2 arcsin(d / 2)``: between 0 and pi / 2, and a metric.

    Args:
      x: features [n, ...].
      y: features [n, ...] of the same examples.

    Returns:
      The angle in radians.

    Raises:
      ValueError: as ``procrustes``.
      MemoryError: the matrices do not fit.

    Source: Williams, Kunz, Kornblith and Linderman (2021), arXiv 2110.14739.

    >>> print(f"{angular(jnp.eye(4)[:, :1], jnp.eye(4)[:, 1:2]):.4f}")
    1.2310
    """
    return 2 * math.asin(procrustes(x, y) / 2)


def svcca(x: Any, y: Any, *, variance: float = 0.99) -> float:
    """Computes singular vector canonical correlation: the mean correlation of the main directions of two features.

    Centred features are reduced to their first singular directions, as few as hold the given share of the variance
    (the sum of squared singular values), k_x and k_y of them.  The mean is over the min(k_x, k_y) canonical
    correlations, the singular values of ``U_x'U_y``.

    It needs n far above k_x + k_y: independent features correlate too, and with n <= k_x + k_y some correlations are 1
    whatever the features are; that is refused.

    Args:
      x: features [n, ...].
      y: features [n, ...] of the same examples.
      variance: the share to keep, in (0, 1].

    Returns:
      The mean canonical correlation, between 0 and 1.

    Raises:
      ValueError: n not above k_x + k_y, a share outside (0, 1], fewer than 2 examples, shapes that do not fit, numbers
        that are not finite, features without variation.
      MemoryError: the matrices do not fit.

    Source: Raghu, Gilmer, Yosinski and Sohl-Dickstein (2017), arXiv 1706.05806.

    >>> x = jax.random.normal(jax.random.key(0), (50, 3))
    >>> print(f"{svcca(x, x @ jnp.array([[1.0, 2.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 3.0]]), variance=1.0):.4f}")
    1.0000
    """
    if not 0 < variance <= 1:
        raise ValueError(f"variance: expected a share in (0, 1], but got {variance!r}. To keep 99 % pass 0.99.")
    x, y = _checked(x, y)
    value, kept = jax.device_get(_svcca(x, y, variance))
    if x.shape[0] <= sum(kept):
        raise ValueError(
            f"x: expected more examples than directions are kept, {kept[0]} of x and {kept[1]} of y, but got "
            f"{x.shape[0]}: some correlations would be 1 whatever the features are. Use far more examples (n >> p), or "
            "a smaller variance."
        )
    return float(value)


def _checked(x: Any, y: Any) -> tuple[jax.Array, jax.Array]:
    x, y = features.pair(x, y, varied=True)
    side = min(x.shape[0], max(features.width(x), features.width(y)))
    features.fits(side, x, "Use fewer examples, or pool the features over space.", replicated=True)
    return x, y


def _prepared(x: jax.Array) -> jax.Array:
    """Centred features, of no more columns than rows: a rotation takes the others to 0."""
    x, _ = features.centred(x)
    return jnp.linalg.qr(x.T, mode="r").T if x.shape[1] > x.shape[0] else x


@jax.jit
@jax.default_matmul_precision("highest")
def _distance(x: jax.Array, y: jax.Array) -> jax.Array:
    x, y = (side / jnp.linalg.norm(side) for side in map(_prepared, features.flat(x, y)))
    if x.shape[1] < y.shape[1]:
        x, y = y, x
    u, _, v = jnp.linalg.svd(x.T @ y, full_matrices=False)
    turned = x @ u
    # What the padding of y meets is all of x outside u.
    return jnp.sqrt(jnp.sum((turned @ v - y) ** 2) + jnp.sum((x - turned @ u.T) ** 2))


@jax.jit
@jax.default_matmul_precision("highest")
def _svcca(x: jax.Array, y: jax.Array, variance: Any) -> tuple[jax.Array, Any]:
    (u, kept_x), (v, kept_y) = (_directions(side, variance) for side in features.flat(x, y))
    correlations = jnp.minimum(jnp.linalg.svd(u.T @ v, compute_uv=False), 1)
    return jnp.sum(correlations) / jnp.minimum(kept_x, kept_y), (kept_x, kept_y)


def _directions(x: jax.Array, variance: Any) -> tuple[jax.Array, jax.Array]:
    """The left singular vectors that are kept, the others zero (their number is data: shapes must not depend on it)."""
    n, p = x.shape
    u, values, _ = jnp.linalg.svd(_prepared(x), full_matrices=False)
    squares = values**2
    before = jnp.cumsum(squares) - squares
    real = values > max(n, p) * jnp.finfo(x.dtype).eps * values[0]
    kept = real & (before < jnp.asarray(variance, x.dtype) * jnp.sum(squares))
    return jnp.where(kept, u, 0), jnp.sum(kept)
