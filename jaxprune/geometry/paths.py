"""The loss along a straight path: from a network to its pruned self, and from one network to another."""

from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import check, curvature, losses, train, tree
from jaxprune.geometry.operators import PRODUCTS, ready
from jaxprune.network import Network
from jaxprune.types import Batch, Loss, Mask, Params


class PruningPath(NamedTuple):
    """The change of the loss at shares t [p] of the way to the pruned network: true, and predicted to both orders."""

    shares: np.ndarray
    true: np.ndarray
    first: np.ndarray
    second: np.ndarray


class Barrier(NamedTuple):
    """How high the loss rises between two networks, and the losses [p] at shares [p] of the way behind it."""

    height: float
    shares: np.ndarray
    losses: np.ndarray


def pruning_path(
    network: Network,
    loss: Loss,
    batches: Iterable[Batch],
    mask: Mask,
    *,
    points: int = 11,
    matrix: str = "hessian",
) -> PruningPath:
    """Compares the loss on the way from w to w masked with its Taylor expansion at w.

    With d = (w masked) - w, at shares t from 0 to 1: true ``L(w + t d) - L(w)``, first order ``t g'd``, second order
    ``t g'd + t^2 d'Md / 2``; g and M are the gradient and the curvature of the mean loss at w.

    Args:
      network: w, evaluated in evaluation mode.
      loss: per-example loss.
      batches: images, labels and optional weights.
      mask: what is kept.
      points: p, 2 or more.
      matrix: M, "hessian" or "ggn".

    Returns:
      The shares and the three changes of the loss [p].

    Raises:
      ValueError: unknown matrix; a batch or mask that does not fit; fewer than 2 points.
      TypeError: a mask that is not boolean.

    >>> net = Network(lambda p, s, x: x @ p, jnp.array([[1.0], [2.0]]))
    >>> batch = {"image": jnp.array([[1.0, 1.0]]), "label": jnp.zeros((1, 1))}
    >>> path = pruning_path(net, losses.squared_error, [batch], jnp.array([[False], [True]]), points=3)
    >>> path.true, path.second, path.first[1:]
    (array([ 0.  , -2.75, -5.  ]), array([ 0.  , -2.75, -5.  ]), array([-3., -6.]))
    """
    check.mask("mask", mask, network.params)
    check.choice("matrix", matrix, PRODUCTS)
    (network, loss, held), shares = ready(network, loss, batches), _shares(points)
    step = tree.map_compiled(_deletion, mask, network.params)
    gradient = curvature.average(lambda batch: curvature.gradient(network, loss, batch), held)
    product = curvature.average(lambda batch: PRODUCTS[matrix](network, loss, batch, step), held)
    slope, bend = float(tree.dot(gradient, step)), float(tree.dot(step, product))
    pruned = network.replace(params=tree.add(network.params, step))
    found = np.array([average_loss(_between(network, pruned, share), loss, held) for share in shares])
    return PruningPath(shares, found - found[0], shares * slope, shares * slope + shares**2 * bend / 2)


def barrier(
    network: Network,
    loss: Loss,
    batches: Iterable[Batch],
    other: Network,
    *,
    key: jax.Array,
    points: int = 11,
    calibration: Iterable[Batch] | None = None,
) -> Barrier:
    """Computes the barrier on the straight path from one network A to another B.

    ``height = max_a L((1 - a) A + a B) - [(1 - a) L(A) + a L(B)]``, which is 0 or more, since the ends count.

    Where the network has a ``train_apply`` and a state, every point of the path, its ends included, is given the
    BatchNorm statistics of its own activations (``jp.train.recalibrate``): the statistics of A and B mean nothing in
    between, and would show as a barrier.  With one batch of calibration these statistics are exact; with several a
    variance is the mean of those within batches.  Elsewhere the state is interpolated as the weights are.

    Args:
      network: A, evaluated in evaluation mode.
      loss: per-example loss.
      batches: what the loss is measured on.
      other: B, with the same ``apply`` and structure.
      key: for dropout while recalibrating, where the network has any.
      points: of the path, 2 or more.
      calibration: what the statistics are taken from, without weights other than those of padding.  None: the batches.

    Returns:
      The height, and the losses along the path.

    Raises:
      ValueError: networks that do not fit each other, a batch that does not fit, fewer than 2 points.

    Source: Frankle, Dziugaite, Roy and Carbin (2020), arXiv 1912.05671; with the chord of Entezari, Sedghi, Saukh and
    Neyshabur (2022), arXiv 2110.06296; recalibrated as in Jordan, Sedghi, Saukh, Entezari and Neyshabur (2023), arXiv
    2211.08403.

    The loss w^2 is convex; (w^2 - 1)^2 has a hill of height 1 between its minima:

    >>> batch = {"image": jnp.ones((1, 1)), "label": jnp.zeros((1, 1))}
    >>> apply = lambda p, s, x: x * (p**2 - 1)
    >>> left, right = Network(apply, jnp.array([[-1.0]])), Network(apply, jnp.array([[1.0]]))
    >>> barrier(left, losses.squared_error, [batch], right, key=jax.random.key(0)).height
    1.0
    """
    if network.apply != other.apply:
        raise ValueError("other: expected the apply of network, but it has another. Make both from one module.")
    check.same_structure("other.params", other.params, "network.params", network.params)
    check.same_structure("other.state", other.state, "network.state", network.state)
    (network, loss, held), shares = ready(network, loss, batches), _shares(points)
    other, _, source = ready(
        other, loss, held if calibration is None else calibration, "batches, calibration", slope=False
    )
    moves = network.train_apply is not None and bool(jax.tree.leaves(network.state))

    def at(share: float) -> float:
        point = _between(network, other, share)
        return average_loss(train.recalibrate(point, source, key) if moves else point, loss, held)

    found = np.array([at(share) for share in shares])
    rise = found - ((1 - shares) * found[0] + shares * found[-1])
    return Barrier(float(np.max(rise)), shares, found)


def mean_loss(network: Network, loss: Loss, batches: Iterable[Batch]) -> float:
    """Computes the mean loss over all batches, at the precision of the products."""
    network, loss, held = ready(network, loss, batches)
    return average_loss(network, loss, held)


def average_loss(network: Network, loss: Loss, batches: Iterable[Batch]) -> float:
    """Computes what ``mean_loss`` does, of what was checked."""
    return float(curvature.average(lambda batch: _loss(network, batch, loss=loss), batches))


@partial(jax.jit, static_argnames="loss")
@jax.default_matmul_precision("highest")
def _loss(network: Network, batch: Batch, *, loss: Loss) -> Any:
    return losses.mean(loss, network(batch["image"]), batch)


@jax.jit
def _between(left: Network, right: Network, share: Any) -> Network:
    """Interpolates the weights and the state; what is no float stays as it is on the left."""

    def between(a: Any, b: Any) -> Any:
        if not jnp.issubdtype(jnp.result_type(a), jnp.floating):
            return a
        return ((1 - share) * a + share * b).astype(a.dtype)

    params: Params = jax.tree.map(between, left.params, right.params)
    return left.replace(params=params, state=jax.tree.map(between, left.state, right.state))


def _shares(points: int) -> np.ndarray:
    if points < 2:
        raise ValueError(f"points: expected 2 or more, the two ends, but got {points!r}.")
    return np.linspace(0, 1, points)


def _deletion(keep: Any, weight: Any) -> Any:
    return jnp.where(keep, 0, -weight)
