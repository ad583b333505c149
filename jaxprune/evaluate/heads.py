"""Heads fitted on frozen features, in closed form or by another library.

A maker of heads is configured, then applied: ``ridge(1.0)(features [n, d], labels [n], classes)`` returns a ``Network``
whose images are features: ``head(features [b, d]) -> outputs [b, classes]``, larger = more likely.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import check, processes
from jaxprune.network import Network

HeadMaker = Callable[[Any, Any, int], Network]

_ROWS = 4096
"""Examples that are looked at together: what is made of them takes memory beside all the features."""

_POINTS = 1024
"""Points of a bank that are copied, or compared with all queries, at a time; more measured no faster."""


def ridge(penalty: float = 1.0) -> HeadMaker:
    """Fits a class-balanced ridge regression to one-hot labels.

    Minimises ``sum_n b_n ||W^T [x_n, 1] - e_(y_n)||^2 + penalty ||W||^2`` with ``b_n = n / (classes * n_(y_n))``, so
    every class weighs the same.  The bias is penalised too, as in the public code of Iurada, Ciccone and Tommasi
    (CVPR 2024), whose penalty is 1; the normalisation of the balance is our choice.

    Args:
      penalty: above 0.

    >>> features, labels = jnp.array([[1.0], [-1.0]]), jnp.array([0, 1])
    >>> ridge(2.0)(features, labels, 2)(jnp.array([[1.0]])).round(3)
    Array([[0.5, 0. ]], dtype=float32)
    """
    check.positive("penalty", penalty)

    def fit(features: Any, labels: Any, classes: int) -> Network:
        # In float64 on the host: the normal equations square the condition number, and they are small.
        x, y = _checked(features, labels, classes)
        balance = len(y) / (classes * np.bincount(y, minlength=classes))
        gram, sums = np.zeros([x.shape[1] + 1] * 2), np.zeros((classes, x.shape[1] + 1))
        # Some examples at a time: no copy of all of them in float64.
        for rows in np.array_split(np.argsort(y, kind="stable"), -(-len(y) // _ROWS)):
            part = np.concatenate([x[rows].astype(np.float64), np.ones((len(rows), 1))], axis=1)
            part *= np.sqrt(balance[y[rows]])[:, None]
            gram += part.T @ part
            present, first = np.unique(y[rows], return_index=True)
            sums[present] += np.sqrt(balance[present])[:, None] * np.add.reduceat(part, first)
        solution = np.linalg.solve(gram + penalty * np.eye(len(gram)), sums.T)
        return _affine(solution[:-1], solution[-1], features)

    return fit


def nearest_mean() -> HeadMaker:
    """Classifies by the nearest class mean: outputs are ``-||x - mean_c||^2``.

    >>> features, labels = jnp.array([[0.0], [2.0]]), jnp.array([0, 1])
    >>> nearest_mean()(features, labels, 2)(jnp.array([[0.5]]))
    Array([[-0.25, -2.25]], dtype=float32)
    """

    def fit(features: Any, labels: Any, classes: int) -> Network:
        x, y = _checked(features, labels, classes)
        means = np.stack([x[y == label].mean(axis=0, dtype=np.float64) for label in range(classes)])
        return Network(_negative_distances, _centred(means, _kind(features)))

    return fit


def nearest_neighbours(k: int = 5) -> HeadMaker:
    """Classifies by the k nearest examples (Euclidean): outputs are the shares of their votes.

    Args:
      k: how many neighbours; at most the number of examples.

    >>> features, labels = jnp.array([[0.0], [2.0]]), jnp.array([0, 1])
    >>> nearest_neighbours(1)(features, labels, 2)(jnp.array([[0.5]]))
    Array([[1., 0.]], dtype=float32)
    """
    check.whole("k", k)

    def fit(features: Any, labels: Any, classes: int) -> Network:
        x, y = _checked(features, labels, classes)
        if k > len(y):
            raise ValueError(f"k: expected at most the {len(y)} examples that the head is fitted on, but got {k}.")
        params = _centred(x, _kind(features))
        return Network(_Votes(k, classes), {**params, "labels": jnp.asarray(y, params["points"].dtype)})

    return fit


def logistic(penalty: float = 1.0) -> HeadMaker:
    """Fits a class-balanced logistic regression (scikit-learn's): outputs are logits.

    Args:
      penalty: ``||W||^2 / 2`` weighs this much against the sum of the losses; the bias is free.

    >>> features, labels = jnp.array([[1.0], [-1.0]]), jnp.array([0, 1])
    >>> logistic()(features, labels, 2)(jnp.array([[1.0]])).argmax()
    Array(0, dtype=int32)
    """
    check.positive("penalty", penalty)

    def fit(features: Any, labels: Any, classes: int) -> Network:
        from sklearn.linear_model import LogisticRegression  # takes a second to import, and only this head needs it

        x, y = _checked(features, labels, classes)
        options: dict[str, Any] = {"class_weight": "balanced", "max_iter": 10_000, "tol": 1e-8}
        model = LogisticRegression(C=1 / penalty, **options).fit(x.astype(np.float64), y)
        kernel, bias = model.coef_.T, model.intercept_
        if classes == 2:  # scikit-learn then gives the logit of class 1 alone
            kernel, bias = np.concatenate([0 * kernel, kernel], axis=1), np.array([0.0, bias[0]])
        return _affine(kernel, bias, features)

    return fit


def _checked(features: Any, labels: Any, classes: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = map(processes.read, (features, labels))
    if x.ndim != 2 or len(x) != len(y):
        raise ValueError(f"features: expected [n, d] for {len(y)} labels, but got {x.shape}. Average over space first.")
    check.labels("labels", y, classes)
    check.finite("features", x, "Inspect the network that made them.")
    return x, y


def _kind(features: Any) -> Any:
    """Float32 or wider: a mean of whole numbers is none, and one in half precision has three digits."""
    return jnp.promote_types(jnp.result_type(features), jnp.float32)


def _affine(kernel: np.ndarray, bias: np.ndarray, like: Any) -> Network:
    dtype = _kind(like)
    return Network(_affine_apply, {"kernel": jnp.asarray(kernel, dtype), "bias": jnp.asarray(bias, dtype)})


def _affine_apply(params: Any, state: Any, features: Any) -> Any:
    del state
    return features @ params["kernel"] + params["bias"][None, :]


def _centred(points: np.ndarray, dtype: Any) -> dict[str, Any]:
    """Points [n, d], told from their mean: of numbers that are far from zero the squares would leave no digits."""
    centre = jnp.asarray(points.mean(axis=0, dtype=np.float64), dtype)
    # Some at a time, one after the other, into the only copy: a bank may be as large as what memory there is.
    held = jnp.zeros(points.shape, dtype)
    for start in range(0, len(points), _POINTS):
        held = jax.block_until_ready(_filled(held, points[start : start + _POINTS], centre, start))
    return {"points": held, "centre": centre}


@partial(jax.jit, donate_argnames="held")
def _filled(held: Any, rows: Any, centre: Any, start: Any) -> Any:
    return jax.lax.dynamic_update_slice_in_dim(held, rows.astype(held.dtype) - centre[None, :], start, axis=0)


def _negative_distances(params: Any, state: Any, features: Any) -> Any:
    del state
    features = features - params["centre"][None, :]
    return _nearness(params["points"], features) - jnp.sum(features**2, axis=-1, keepdims=True)


def _nearness(points: Any, features: Any) -> Any:
    """``2 x . y - ||y||^2`` [b, n], which is the larger the nearer: one product of matrices."""
    products = jnp.matmul(features, points.T, precision="highest")
    return 2 * products - jnp.sum(points**2, axis=-1)[None, :]


@dataclass(frozen=True)
class _Votes:
    k: int
    classes: int

    def __call__(self, params: Any, state: Any, features: Any) -> Any:
        del state
        features = features - params["centre"][None, :]
        points = params["points"]
        count, size = len(points), min(_POINTS, len(points))

        def block(number: Any, best: tuple[Any, Any]) -> tuple[Any, Any]:
            """The k nearest of those so far and of the next points; of equals the first ones, as they come first."""
            start = jnp.minimum(number * size, count - size)  # the last block reaches back, and must not count twice
            places = start + jnp.arange(size)
            near = _nearness(jax.lax.dynamic_slice_in_dim(points, start, size), features)
            near = jnp.where((places >= number * size)[None, :], near, -jnp.inf)
            near, chosen = jax.lax.top_k(near, min(self.k, size))
            near = jnp.concatenate([best[0], near], axis=1)
            places = jnp.concatenate([best[1], start + chosen], axis=1)
            near, chosen = jax.lax.top_k(near, self.k)
            return near, jnp.take_along_axis(places, chosen, axis=1)

        shape = (len(features), self.k)
        begun = jnp.full(shape, -jnp.inf, jnp.result_type(features, points)), jnp.zeros(shape, int)
        _, nearest = jax.lax.fori_loop(0, -(-count // size), block, begun)
        voted = params["labels"][nearest][:, :, None] == jnp.arange(self.classes)[None, None, :]
        return jnp.mean(voted, axis=1, dtype=points.dtype)
