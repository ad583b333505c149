"""The Hilbert-Schmidt independence criterion (HSIC), three times over: of x with y, and of each with itself."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune.similarity import features

# Up to this many times its floor an estimate may be off by more than some 1e-5 of itself: a floor of the features is
# 32 roundings of what cancels, one of the gram matrices the square of that.
_ROUGH = {"features": 1e3, "gram": 1e6}


class Terms(NamedTuple):
    """Three estimates of HSIC, and how much of the last two may be rounding."""

    cross: Any
    x: Any
    y: Any
    floor_x: Any
    floor_y: Any


def ratio(terms: Terms, names: tuple[str, str] = ("x", "y")) -> float:
    """Divides: ``cross / sqrt(x y)``.

    Raises:
      ValueError: x or y is nothing but rounding.
    """
    cross, *own, floor_x, floor_y = (float(term) for term in terms)
    for name, value, floor in zip(names, own, (floor_x, floor_y), strict=True):
        if not value > floor:
            raise ValueError(
                f"{name}: expected some pairs of examples to be more similar than others, but all are equally similar "
                'to rounding. Use more examples, float64, debiased=False, route="gram" or a larger bandwidth.'
            )
    # Two roots: the product could leave the range of the numbers.
    return cross / (own[0] ** 0.5 * own[1] ** 0.5)


def linear_terms(x: jax.Array, y: jax.Array, *, debiased: bool, route: str | None) -> tuple[Terms, Any]:
    """Computes HSIC of linear kernels, of features divided by their sizes, on the host; see ``linear_cka`` for routes.

    Where float32 loses digits, as by an example far off all others, whose square the debiased form subtracts from
    itself, they are computed again in float64.

    Returns:
      The terms, and the sizes of x and y.

    Raises:
      MemoryError: the matrices do not fit.
    """
    n, p, q = x.shape[0], features.width(x), features.width(y)
    route = route or ("gram" if n * (p + q) < p * p + p * q + q * q else "features")

    def computed(wide: bool) -> tuple[Terms, Any]:
        if route == "gram":
            features.fits(n, x, 'Use fewer examples, minibatch_cka, or route="features".', wide=wide)
            return jax.device_get(_from_grams(x, y, debiased=debiased, wide=wide))
        features.fits(max(p, q), x, "Pool the features over space.", replicated=True, wide=wide)
        return jax.device_get(_from_features(x, y, debiased=debiased, wide=wide))

    found = computed(False)
    terms = found[0]
    rough = terms.x <= _ROUGH[route] * terms.floor_x or terms.y <= _ROUGH[route] * terms.floor_y
    if debiased and features.is_narrow(x, y) and rough:
        with jax.enable_x64(True):
            return computed(True)
    return found


def moment_terms(products: tuple[Any, Any, Any], rows: jax.Array, sums: jax.Array, n: Any, debiased: bool) -> Terms:
    """Computes HSIC of linear kernels from moments of centred features, under jit.

    Args:
      products: X'Y, X'X and Y'Y.
      rows: r'r of the squared norms r [n, 2] of the rows of X and Y, [2, 2].
      sums: of r over the examples, [2].
      n: the number of examples.
      debiased: the unbiased HSIC.
    """
    cross, own_x, own_y = (jnp.sum(product**2) for product in products)
    if not debiased:
        biased = (n - 1) ** 2
        return Terms(cross / biased, own_x / biased, own_y / biased, jnp.zeros(()), jnp.zeros(()))
    pairs = n * (n - 3)

    def unbiased(square: jax.Array, i: int, j: int) -> jax.Array:
        return (square - n / (n - 2) * rows[i, j] + sums[i] * sums[j] / ((n - 1) * (n - 2))) / pairs

    # Three nearly equal numbers cancel where n is far below the number of features.
    lost = 32 * jnp.finfo(rows.dtype).eps / pairs
    return Terms(unbiased(cross, 0, 1), unbiased(own_x, 0, 0), unbiased(own_y, 1, 1), lost * own_x, lost * own_y)


def gram_terms(left: jax.Array, right: jax.Array, debiased: bool) -> Terms:
    """Computes HSIC of two kernel matrices [n, n], centred or not, under jit."""
    n = float(len(left))
    a, b = _centre(left, debiased), _centre(right, debiased)
    pairs = n * (n - 3) if debiased else (n - 1) ** 2
    lost = (32 * jnp.finfo(left.dtype).eps) ** 2 / pairs
    floors = lost * jnp.sum(left * left), lost * jnp.sum(right * right)
    return Terms(jnp.sum(a * b) / pairs, jnp.sum(a * a) / pairs, jnp.sum(b * b) / pairs, *floors)


@partial(jax.jit, static_argnames="debiased")
def given_terms(left: jax.Array, right: jax.Array, *, debiased: bool) -> tuple[Terms, Any]:
    """Computes HSIC of two kernel matrices of any size and offset, and says which of them are not symmetric."""
    sides = features.flat(left, right)
    if debiased:
        # The diagonal does not count, and may be larger by far than the rest.
        sides = [jnp.where(jnp.eye(len(side), dtype=bool), side[0, 1], side) for side in sides]
    left, right = (features.shifted(side.reshape(-1, 1))[0].reshape(side.shape) for side in sides)
    skewed = tuple(jnp.max(jnp.abs(side - side.T)) > jnp.finfo(side.dtype).eps ** 0.5 for side in (left, right))
    return gram_terms(left, right, debiased), skewed


@partial(jax.jit, static_argnames=("debiased", "wide"))
@jax.default_matmul_precision("highest")
def _from_features(x: jax.Array, y: jax.Array, *, debiased: bool, wide: bool = False) -> tuple[Terms, Any]:
    (x, size_x), (y, size_y) = (features.centred(side) for side in features.flat(x, y, wide=wide))
    norms = jnp.stack([jnp.sum(side**2, axis=1) for side in (x, y)], axis=1)
    products = x.T @ y, x.T @ x, y.T @ y
    terms = moment_terms(products, norms.T @ norms, jnp.sum(norms, axis=0), float(len(x)), debiased)
    return terms, (size_x, size_y)


@partial(jax.jit, static_argnames=("debiased", "wide"))
@jax.default_matmul_precision("highest")
def _from_grams(x: jax.Array, y: jax.Array, *, debiased: bool, wide: bool = False) -> tuple[Terms, Any]:
    (x, size_x), (y, size_y) = (features.centred(side) for side in features.flat(x, y, wide=wide))
    return gram_terms(x @ x.T, y @ y.T, debiased), (size_x, size_y)


def _centre(k: jax.Array, debiased: bool) -> jax.Array:
    """Double centring; or U-centring (Székely and Rizzo, 2014), whose inner products are the unbiased HSIC."""
    n = k.shape[0]
    if not debiased:
        return k - jnp.mean(k, axis=0) - jnp.mean(k, axis=1, keepdims=True) + jnp.mean(k)
    different = ~jnp.eye(n, dtype=bool)
    k = jnp.where(different, k, 0)
    columns, rows = jnp.sum(k, axis=0) / (n - 2), jnp.sum(k, axis=1, keepdims=True) / (n - 2)
    return jnp.where(different, k - columns - rows + jnp.sum(k) / ((n - 1) * (n - 2)), 0)
