"""Whether the same examples are similar to each other in two representations: by rank, or as nearest neighbours."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import check
from jaxprune.similarity import features


def rsa(x: Any, y: Any) -> float:
    """Computes representational similarity: Spearman's correlation of the similarities of all pairs of examples.

    The similarity of two examples is the Pearson correlation of their features, over the features (columns are not
    centred).  The n (n-1) / 2 entries of the lower triangle are ranked in x and in y, ties get their mean rank, and the
    ranks are correlated.  Similarities are first rounded to 16 units of the last place of 1, so that those equal but
    for rounding are ties.

    Args:
      x: features [n, ...], two or more of each example, n from 3 to 32,767.
      y: features [n, ...] of the same examples.

    Returns:
      The rank correlation, between -1 and 1.

    Raises:
      ValueError: too few or too many examples, shapes that do not fit, numbers that are not finite, an example whose
        features are all the same, or all pairs equally similar.
      MemoryError: the matrices do not fit.

    Source: Kriegeskorte, Mur and Bandettini (2008).

    >>> x = jax.random.normal(jax.random.key(0), (20, 8))
    >>> print(f"{rsa(x, 2 * x + 1):.4f}")
    1.0000
    """
    x, y = _checked(x, y, (3, "A rank correlation needs three pairs."))
    if x.shape[0] > 32_767:
        raise ValueError(f"x: expected at most 32767 examples (ranks are 32-bit), but got {x.shape[0]}. Use fewer.")
    _rows_vary(x, y, "differ from each other", centre=True)
    cross, *own = (float(product) for product in jax.device_get(_rank_products(x, y)))
    for name, value in zip(("x", "y"), own, strict=True):
        if value <= 0:
            raise ValueError(
                f"{name}: expected some pairs of examples to be more similar than others, but all are equally similar. "
                "Use more examples or more features."
            )
    return cross / (own[0] ** 0.5 * own[1] ** 0.5)


def mutual_neighbours(x: Any, y: Any, *, neighbours: int = 10, measure: str = "overlap") -> float:
    """Computes the mean agreement of the sets of nearest neighbours that each example has in two representations.

    N(i) are the k other examples of largest cosine similarity to i (columns are not centred; of equal similarities,
    after rounding to 16 units of the last place of 1, the examples that come first).  Then the mean over i of:

        "overlap"  |N_x(i) & N_y(i)| / k                 expected k / (n - 1) for independent features
        "jaccard"  |N_x(i) & N_y(i)| / |N_x(i) | N_y(i)|

    Args:
      x: features [n, ...].
      y: features [n, ...] of the same examples.
      neighbours: k, from 1 to n - 1.
      measure: "overlap" or "jaccard".

    Returns:
      The mean agreement, between 0 and 1.

    Raises:
      ValueError: k outside [1, n), an unknown measure, fewer than 2 examples, shapes that do not fit, numbers that are
        not finite, or an example whose features are all 0.
      MemoryError: the matrices do not fit.

    Source: overlap: Huh, Cheung, Wang and Isola (2024), arXiv 2405.07987; Jaccard: as surveyed by Klabunde, Schumacher,
    Strohmaier and Lemmerich (2023), arXiv 2305.06329.

    >>> x = jax.random.normal(jax.random.key(0), (20, 8))
    >>> mutual_neighbours(x, 2 * x, neighbours=5)
    1.0
    """
    check.choice("measure", measure, ("overlap", "jaccard"))
    x, y = _checked(x, y, (2, "Use more."))
    if not 1 <= neighbours < x.shape[0]:
        raise ValueError(
            f"neighbours: expected from 1 to {x.shape[0] - 1}, one less than the {x.shape[0]} examples, but got "
            f"{neighbours!r}. Use more examples or fewer neighbours."
        )
    _rows_vary(x, y, "are not all 0", centre=False)
    return float(_agreement(x, y, neighbours=neighbours)[measure])


def _checked(x: Any, y: Any, needs: tuple[int, str]) -> tuple[jax.Array, jax.Array]:
    x, y = features.pair(x, y, needs=needs)
    features.fits(x.shape[0], x, "Use fewer examples.")
    return x, y


def _rows_vary(x: jax.Array, y: jax.Array, what: str, *, centre: bool) -> None:
    for name, first in zip(("x", "y"), jax.device_get(_first_flat(x, y, centre=centre)), strict=True):
        if first >= 0:
            raise ValueError(
                f"{name}: expected features that {what} in every example, but those of example {int(first)} do not. "
                "Leave that example out (of both), or choose another site."
            )


@partial(jax.jit, static_argnames="centre")
def _first_flat(x: jax.Array, y: jax.Array, *, centre: bool) -> list[jax.Array]:
    """The first example without a direction, or -1."""
    found = []
    for side in features.flat(x, y):
        flat = ~(_sized_rows(side, centre)[1] > 0)
        found.append(jnp.where(jnp.any(flat), jnp.argmax(flat), -1))
    return found


def _sized_rows(x: jax.Array, centre: bool) -> tuple[jax.Array, jax.Array]:
    """Every row divided by its largest magnitude; where ``centre``, its smallest entry is subtracted before."""
    moved = features.roomy(x)
    if centre:
        moved = moved - jnp.min(moved, axis=1, keepdims=True)
    sizes = jnp.max(jnp.abs(moved), axis=1)
    return moved / jnp.where(sizes > 0, sizes, 1)[:, None], sizes


def _cosines(x: jax.Array, centre: bool) -> jax.Array:
    """The cosine of the angle between all rows, [n, n], or their correlation; rounded, so that ties are ties."""
    x, _ = _sized_rows(x, centre)
    for _ in range(2 if centre else 0):  # the second mean takes away what rounding left of the first
        x = x - jnp.mean(x, axis=1, keepdims=True)
    x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    step = 16 * jnp.finfo(x.dtype).eps
    return jnp.round(x @ x.T / step) * step


@jax.jit
@jax.default_matmul_precision("highest")
def _rank_products(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    a, b = (_centred_ranks(_cosines(side, centre=True)) for side in features.flat(x, y))
    return jnp.sum(a * b), jnp.sum(a * a), jnp.sum(b * b)


def _centred_ranks(similarities: jax.Array) -> jax.Array:
    """Ranks off the diagonal, minus their mean, in units of their number; 0 on the diagonal.

    Both triangles are ranked: with every entry there twice, mean ranks are a linear function of those of one.
    """
    n = similarities.shape[0]
    same = jnp.eye(n, dtype=bool)
    entries = jnp.where(same, jnp.inf, similarities).reshape(-1)
    ordered = jnp.sort(entries)
    below, upto = (jnp.searchsorted(ordered, entries, side=side) for side in ("left", "right"))
    # below + upto is twice the rank less 1, whose mean is the number of entries: centred while it is still exact.
    twice = (below + upto - n * (n - 1)).reshape(n, n)
    return jnp.where(same, 0, twice.astype(similarities.dtype) / (n * (n - 1)))


@partial(jax.jit, static_argnames="neighbours")
@jax.default_matmul_precision("highest")
def _agreement(x: jax.Array, y: jax.Array, *, neighbours: int) -> dict[str, jax.Array]:
    near = []
    for side in features.flat(x, y):
        cosines = _cosines(side, centre=False)
        others = jnp.where(jnp.eye(len(side), dtype=bool), -jnp.inf, cosines)
        near.append(jax.lax.top_k(others, neighbours)[1])  # equal values: the lower index first
    shared = jnp.sum(near[0][:, :, None] == near[1][:, None, :], axis=(1, 2))
    overlap = shared / neighbours
    return {"overlap": jnp.mean(overlap), "jaccard": jnp.mean(overlap / (2 - overlap))}
