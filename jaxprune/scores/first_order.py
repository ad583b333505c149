"""Scores from gradients: SNIP, GraSP, the Fisher diagonal.

Where the gradient of the loss by the outputs is zero (a teacher that equals the network) they would rank rounding: they
refuse, and a second-order score is what to use.
"""

from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp

from jaxprune import curvature, losses, tree
from jaxprune.curvature import inputs
from jaxprune.curvature.products import is_flat
from jaxprune.curvature.stream import total_weight
from jaxprune.network import Network
from jaxprune.scores.inputs import ready
from jaxprune.types import Batch, Loss, Score, Scores


def snip(loss: Loss) -> Score:
    """Scores a weight by connection sensitivity, ``|w dL/dw|``, L the mean loss over all batches.

    The paper divides by the sum over all weights, which changes no ranking; it is left out.

    Raises (when applied):
      ValueError: the gradient of the loss by the outputs is zero on every example.

    Source: Lee, Ajanthan and Torr (2019), arXiv 1810.02340.

    >>> from jaxprune import losses
    >>> net = Network(lambda p, s, x: x @ p, jnp.array([[2.0], [1.0]]))
    >>> batch = {"image": jnp.array([[1.0, 1.0]]), "label": jnp.zeros((1, 1))}
    >>> snip(losses.squared_error)(net, [batch])[:, 0]
    Array([12.,  6.], dtype=float32)
    """

    def score(network: Network, batches: Iterable[Batch]) -> Scores:
        weights, batches = ready(network, batches)
        _demand_slope(network, loss, batches)
        gradient = curvature.average(lambda batch: curvature.gradient(network, loss, batch), batches)
        return tree.map_compiled(_sensitivity, weights, gradient)

    return score


def grasp(loss: Loss) -> Score:
    """Scores a weight by what it does for the gradient flow, ``w (H g)``, g and H those of the mean loss.

    Removing weight w changes ``g^T g`` by about ``-2 w (H g)``.  The paper prunes where ``-w (H g)`` is largest, so
    where this score is smallest.  The authors' code also divides the logits by 200; to do so, put it into the loss.

    Source: Wang, Zhang and Grosse (2020), arXiv 2002.07376.

    >>> from jaxprune import losses
    >>> net = Network(lambda p, s, x: x @ p, jnp.array([[2.0], [1.0]]))
    >>> batch = {"image": jnp.array([[1.0, 1.0]]), "label": jnp.zeros((1, 1))}
    >>> grasp(losses.squared_error)(net, [batch])[:, 0]
    Array([48., 24.], dtype=float32)
    """

    def score(network: Network, batches: Iterable[Batch]) -> Scores:
        weights, batches = ready(network, batches)
        _demand_slope(network, loss, batches)
        gradient = curvature.average(lambda batch: curvature.gradient(network, loss, batch), batches)
        product = curvature.average(lambda batch: curvature.hvp(network, loss, batch, gradient), batches)
        return tree.map_compiled(jnp.multiply, weights, product)

    return score


def fisher(loss: Loss) -> Score:
    """Scores a weight by ``w^2 F_jj / 2``, F the empirical Fisher: the mean squared gradient of single examples.

    The squares are of each example's gradient, never of a batch's mean.  F is
    ``jp.curvature.diagonal(..., matrix="empirical_fisher")``: one signal for a network whose examples are independent,
    right for one that mixes them too.  Raises as ``snip`` does.

    Source: Theis et al. (2018), arXiv 1801.05787; with the labels of the data, not of the model.

    >>> from jaxprune import losses
    >>> net = Network(lambda p, s, x: x @ p, jnp.array([[2.0], [1.0]]))
    >>> batch = {"image": jnp.array([[1.0, 1.0]]), "label": jnp.zeros((1, 1))}
    >>> fisher(losses.squared_error)(net, [batch])[:, 0]
    Array([72., 18.], dtype=float32)
    """

    def score(network: Network, batches: Iterable[Batch]) -> Scores:
        weights, batches = ready(network, batches)
        _demand_slope(network, loss, batches)
        diagonal = curvature.average(
            lambda batch: curvature.diagonal(network, loss, batch, "empirical_fisher"), batches
        )
        return tree.map_compiled(half_square, weights, diagonal)

    return score


def _sensitivity(w: Any, gradient: Any) -> Any:
    return jnp.abs(w * gradient)


def half_square(w: Any, curvature: Any) -> Any:
    """Computes what deleting a weight alone costs to second order, ``w^2 h / 2``."""
    return w**2 * curvature / 2


def _demand_slope(network: Network, loss: Loss, batches: Iterable[Batch]) -> None:
    """Checks that the gradient of the loss by the outputs is not zero on every example: mostly one batch tells."""
    flat = False
    for batch in batches:
        losses.demand_slope(loss, batch, "a score of gradients")
        wide, at_outputs, batch = inputs.ready(network, loss, batch)
        if not total_weight(batch):
            continue
        flat = bool(is_flat(wide, batch, loss=at_outputs))
        if not flat:
            return
    if flat:
        raise ValueError(
            "loss: expected one with a gradient by the outputs, but it is zero, up to rounding, on every example of "
            "weight above 0 (a teacher that equals the network?). A first-order score would rank rounding errors: use "
            "a second-order score, such as jp.scores.diagonal_hessian."
        )
