"""Eigenvalues, traces and densities of a curvature matrix, from products alone.

Lanczos runs on the host, with the basis in float64: XLA on CPU runs convolutions inside compiled loops several times
slower, and any number of batches then shares one compiled product.  Probes, their integrands and XTrace are matfree's.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matfree import stochtrace
from scipy.linalg import eigh_tridiagonal

from jaxprune import check
from jaxprune.geometry.operators import Operator


class Eigenpairs(NamedTuple):
    """Eigenvalues [k], unit eigenvectors [k, n] over the chosen weights, and residuals ``|M v - value v|`` [k]."""

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray


class Estimate(NamedTuple):
    """A stochastic estimate with its standard error."""

    value: float
    standard_error: float


class Density(NamedTuple):
    """The density of the eigenvalues, and the quadrature behind it.

    ``values`` [p] is the density at ``grid`` [p], of integral 1.  Every probe gives nodes [probes, steps] with weights
    of sum 1: ``n mean_probes sum_steps weights f(nodes)`` estimates the trace of f(M).
    """

    grid: np.ndarray
    values: np.ndarray
    nodes: np.ndarray
    weights: np.ndarray


ORDERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "largest": lambda values: -values,
    "smallest": lambda values: values,
    "magnitude": lambda values: -np.abs(values),
}


def eigenpairs(
    operator: Operator, *, key: jax.Array, count: int = 10, steps: int = 100, which: str = "largest"
) -> Eigenpairs:
    """Computes the top eigenvalues and eigenvectors by Lanczos with full reorthogonalisation.

    Args:
      operator: the curvature, see ``operator``.
      key: of the random vector that Lanczos starts from.
      count: how many, k.
      steps: products to take, at most n; with n of them all eigenpairs are exact.  More bring the residuals down.
      which: "largest", "smallest" (the most negative) or "magnitude" (the largest in absolute value).

    Returns:
      ``values`` [k] in that order, ``vectors`` [k, n] (``operator.tree`` makes a tree of one), ``residuals`` [k]: where
      one is not small against its value, the pair has not converged.  Memory: steps n numbers of 8 bytes.

    Raises:
      ValueError: more pairs than steps or weights, unknown ``which``, or a product that is not finite.

    Source: Lanczos (1950); restarted with a new random vector wherever the Krylov space is exhausted.

    >>> from jaxprune import geometry, losses, Network
    >>> net = Network(lambda p, s, x: x @ p, jnp.zeros((2, 1)))
    >>> batch = {"image": jnp.array([[1.0, 3.0]]), "label": jnp.zeros((1, 1))}
    >>> pairs = eigenpairs(geometry.operator(net, losses.squared_error, [batch]), key=jax.random.key(0), count=1)
    >>> pairs.values.round(4)
    array([20.])
    """
    check.choice("which", which, ORDERS)
    check.positive("count", count)
    steps = min(steps, operator.size)
    if count > steps:
        raise ValueError(
            f"count: expected at most {steps}, the smaller of steps and the number of chosen weights "
            f"({operator.size}), but got {count}. Take more steps, or fewer eigenvalues."
        )
    basis, diagonal, below = _lanczos(operator, steps, key)
    values, small = eigh_tridiagonal(diagonal, below[:-1])
    order = np.argsort(ORDERS[which](values), kind="stable")[:count]
    return Eigenpairs(values[order], small[:, order].T @ basis, np.abs(below[-1] * small[-1, order]))


def trace(operator: Operator, *, key: jax.Array, probes: int = 30, estimator: str = "hutchinson") -> Estimate:
    """Estimates the trace of the curvature, the sum of the chosen weights' diagonal entries.

    "hutchinson" takes one product for each probe v of random signs, and averages v' M v; it is exact for a diagonal
    matrix.  "xtrace" takes two for each, runs all probes at once, and is far more exact where few eigenvalues dominate;
    with n / 2 probes or more it forms the matrix and is exact.

    Args:
      operator: the curvature, see ``operator``.
      key: of the probes.
      probes: how many, 2 or more; for "xtrace" at most n.
      estimator: "hutchinson" or "xtrace".

    Returns:
      The value and its standard error.

    Raises:
      ValueError: too few or too many probes, an unknown estimator, or a product that is not finite.

    Source: Hutchinson (1989); Epperly, Tropp and Webber (2024), arXiv 2301.07825; both with matfree.

    >>> from jaxprune import geometry, losses, Network
    >>> net = Network(lambda p, s, x: x @ p, jnp.zeros((2, 1)))
    >>> batch = {"image": jnp.array([[1.0, 3.0]]), "label": jnp.zeros((1, 1))}
    >>> curvature = geometry.operator(net, losses.squared_error, [batch])
    >>> trace(curvature, key=jax.random.key(0), probes=2, estimator="xtrace")
    Estimate(value=20.0, standard_error=0.0)
    """
    check.choice("estimator", estimator, ("hutchinson", "xtrace"))
    most = operator.size if estimator == "xtrace" else np.inf
    if not 2 <= probes <= max(most, 2):
        raise ValueError(
            f"probes: expected 2 or more (a standard error needs two), and for xtrace at most the number of chosen "
            f"weights ({operator.size}), but got {probes}."
        )
    like = jnp.zeros(operator.size, operator.dtype)
    with jax.default_matmul_precision("highest"):
        if estimator == "xtrace" and operator.size > 1:
            sampler = stochtrace.sampler_normal(like, num=probes)
            estimate = stochtrace.estimator_leave_one_out_mean_and_sem(stochtrace.leave_one_out_xtrace(), sampler)
            value, error = map(float, estimate(operator, key))
        else:
            # Probe by probe: matfree's own loop holds all of them at once, and its standard error is that of ddof 0.
            samples = stochtrace.sampler_signs(like, num=probes)(key)
            found = [float(stochtrace.monte_carlo_trace()(operator, sample)) for sample in samples]
            value, error = float(np.mean(found)), float(np.std(found, ddof=1) / np.sqrt(probes))
    check.finite("trace", np.array(value), "Inspect the weights, the loss and the images.")
    return Estimate(value, error)


def density(
    operator: Operator, *, key: jax.Array, probes: int = 10, steps: int = 60, points: int = 400, width: float = 0.01
) -> Density:
    """Estimates the density of the eigenvalues by stochastic Lanczos quadrature, smoothed by a Gaussian.

    ``values(x) = mean_probes sum_steps weights N(x; nodes, s^2)`` estimates ``sum_j N(x; eigenvalue_j, s^2) / n``.

    Args:
      operator: the curvature, see ``operator``.
      key: of the probes.
      probes: random vectors; each costs ``steps`` products.
      steps: of Lanczos, at most n: how fine the quadrature is.
      points: of the grid, p.
      width: s, as a share of the distance between the smallest and the largest node.

    Returns:
      The grid and the density [p], the nodes and weights [probes, steps].

    Raises:
      ValueError: a number that is not positive, or a product that is not finite.

    Source: Golub and Meurant (1994); Ghorbani, Krishnan and Xiao (2019), arXiv 1901.10159.

    >>> from jaxprune import geometry, losses, Network
    >>> net = Network(lambda p, s, x: x @ p, jnp.zeros((2, 1)))
    >>> batch = {"image": jnp.array([[1.0, 3.0]]), "label": jnp.zeros((1, 1))}
    >>> found = density(geometry.operator(net, losses.squared_error, [batch]), key=jax.random.key(0), probes=2)
    >>> print(found.nodes.round(3) + 0.0)
    [[ 0. 20.]
     [ 0. 20.]]
    """
    for name, value in {"probes": probes, "steps": steps, "points": points, "width": width}.items():
        check.positive(name, value)
    steps = min(steps, operator.size)
    nodes, weights = np.zeros((probes, steps)), np.zeros((probes, steps))
    for number in range(probes):
        _, diagonal, below = _lanczos(operator, steps, jax.random.fold_in(key, number))
        nodes[number], small = eigh_tridiagonal(diagonal, below[:-1])
        weights[number] = small[0] ** 2
    span, largest = np.ptp(nodes), np.max(np.abs(nodes)) or 1.0
    # Where all eigenvalues are equal up to rounding, a peak around the one there is.
    std = width * (span if span > _accuracy(operator) * largest else largest)
    # Five deviations, so that the integral is 1 to the sixth digit.
    grid = np.linspace(nodes.min() - 5 * std, nodes.max() + 5 * std, points)
    bells = np.exp(-(((grid[:, None] - nodes.ravel()) / std) ** 2) / 2) / (std * np.sqrt(2 * np.pi))
    return Density(grid, bells @ weights.ravel() / probes, nodes, weights)


def _lanczos(operator: Operator, steps: int, key: jax.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Finds an orthonormal basis [steps, n] in which M is tridiagonal: its diagonal and what is below it [steps].

    The last number below the diagonal is the residual's length.
    """
    basis, diagonal, below = np.zeros((steps, operator.size)), np.zeros(steps), np.zeros(steps)
    accuracy = _accuracy(operator)
    vector = _unit(_random(operator, key, 0))
    for step in range(steps):
        basis[step] = vector
        image = np.asarray(operator(jnp.asarray(vector, operator.dtype)), np.float64)
        check.finite("product", image, "Inspect the weights, the loss and the images.")
        diagonal[step] = vector @ image
        rest = _orthogonal(image, basis[: step + 1])
        length, scale = np.linalg.norm(rest), np.max(np.abs([*diagonal[: step + 1], *below[:step]]))
        if length > accuracy * scale:
            below[step], vector = length, rest / length
        elif step + 1 < operator.size:
            # What was found is invariant: go on beside it, so that repeated eigenvalues are found too.
            vector = _unit(_orthogonal(_random(operator, key, step + 1), basis[: step + 1]))
    return basis, diagonal, below


def _accuracy(operator: Operator) -> float:
    """How large rounding makes a number that should vanish, against the largest eigenvalue."""
    return float(10 * np.sqrt(operator.size) * jnp.finfo(operator.dtype).eps)


def _random(operator: Operator, key: jax.Array, step: int) -> np.ndarray:
    return np.asarray(jax.random.normal(jax.random.fold_in(key, step), (operator.size,)), np.float64)


def _orthogonal(vector: np.ndarray, basis: np.ndarray) -> np.ndarray:
    for _ in range(2):  # the second time removes what rounding left of the first
        vector = vector - basis.T @ (basis @ vector)
    return vector


def _unit(vector: Any) -> np.ndarray:
    return vector / np.linalg.norm(vector)
