"""Scores from gradients: SNIP, GraSP, the Fisher diagonal."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import check, curvature, losses, tree
from jaxprune.network import Network
from jaxprune.types import Batch, Loss, Params, Score, Scores

# Examples whose own gradients are held at once by the Fisher score.
_EXAMPLES = 32


def snip(loss: Loss) -> Score:
    """Scores a weight by connection sensitivity, ``|w dL/dw|``, L the mean loss over all batches.

    The paper divides by the sum over all weights, which changes no ranking; it is left out.

    Source: Lee, Ajanthan and Torr (2019), arXiv 1810.02340.

    >>> net = Network(lambda p, s, x: x @ p, jnp.array([[2.0], [1.0]]))
    >>> batch = {"image": jnp.array([[1.0, 1.0]]), "label": jnp.zeros((1, 1))}
    >>> snip(losses.squared_error)(net, [batch])[:, 0]
    Array([12.,  6.], dtype=float32)
    """

    def score(network: Network, batches: Iterable[Batch]) -> Scores:
        gradient = curvature.average(lambda batch: curvature.gradient(network, loss, batch), batches)
        return tree.map_compiled(_sensitivity, network.params, gradient)

    return score


def grasp(loss: Loss) -> Score:
    """Scores a weight by what it does for the gradient flow, ``w (H g)``, g and H those of the mean loss.

    Removing weight w changes ``g^T g`` by about ``-2 w (H g)``.  The paper prunes where ``-w (H g)`` is largest, so
    where this score is smallest.  The authors' code also divides the logits by 200; to do so, put it into the loss.

    Source: Wang, Zhang and Grosse (2020), arXiv 2002.07376.

    >>> net = Network(lambda p, s, x: x @ p, jnp.array([[2.0], [1.0]]))
    >>> batch = {"image": jnp.array([[1.0, 1.0]]), "label": jnp.zeros((1, 1))}
    >>> grasp(losses.squared_error)(net, [batch])[:, 0]
    Array([48., 24.], dtype=float32)
    """

    def score(network: Network, batches: Iterable[Batch]) -> Scores:
        batches = list(batches)  # read twice
        gradient = curvature.average(lambda batch: curvature.gradient(network, loss, batch), batches)
        product = curvature.average(lambda batch: curvature.hvp(network, loss, batch, gradient), batches)
        return tree.map_compiled(jnp.multiply, network.params, product)

    return score


def fisher(loss: Loss) -> Score:
    """Scores a weight by ``w^2 F_jj / 2``, F the empirical Fisher: the mean squared gradient of single examples.

    Every example passes through the network alone, so the network must not mix the examples of a batch (it does not in
    evaluation mode).  The squares are of each example's gradient, never of a batch's mean.

    Source: Theis et al. (2018), arXiv 1801.05787; with the labels of the data, not of the model.

    >>> net = Network(lambda p, s, x: x @ p, jnp.array([[2.0], [1.0]]))
    >>> batch = {"image": jnp.array([[1.0, 1.0]]), "label": jnp.zeros((1, 1))}
    >>> fisher(losses.squared_error)(net, [batch])[:, 0]
    Array([72., 18.], dtype=float32)
    """

    def score(network: Network, batches: Iterable[Batch]) -> Scores:
        diagonal = curvature.average(lambda batch: _mean_square(network, batch, loss), batches)
        return tree.map_compiled(half_square, network.params, diagonal)

    return score


def _sensitivity(w: Any, gradient: Any) -> Any:
    return jnp.abs(w * gradient)


def half_square(w: Any, curvature: Any) -> Any:
    """Computes what deleting a weight alone costs to second order, ``w^2 h / 2``."""
    return w**2 * curvature / 2


def _mean_square(network: Network, batch: Batch, loss: Loss) -> Params:
    check.batch(batch)
    batch = {**batch, "weight": losses.weights(batch)}
    parts = [
        {name: jnp.asarray(entry)[start : start + _EXAMPLES] for name, entry in batch.items()}
        for start in range(0, len(batch["weight"]), _EXAMPLES)
    ]
    # A part of weight 0 is all padding: there is nothing to average.
    parts = [part for part in parts if float(jnp.sum(part["weight"])) > 0]
    if not parts:
        return tree.map_compiled(jnp.zeros_like, network.params)
    return curvature.average(lambda part: _squares(network, part, loss=loss), parts)


@partial(jax.jit, static_argnames="loss")
@jax.default_matmul_precision("highest")
def _squares(network: Network, batch: Batch, *, loss: Loss) -> Params:
    def of_example(example: Any) -> Params:
        alone = {name: entry[None] for name, entry in example.items() if name != "weight"}
        value = lambda params: loss(network.apply(params, network.state, alone["image"]), alone)[0]  # noqa: E731
        return jax.tree.map(jnp.square, jax.grad(value)(network.params))

    squares = jax.vmap(of_example)(dict(batch))
    share = batch["weight"] / jnp.sum(batch["weight"])

    def mean(leaf: Any) -> Any:
        weight = share.reshape(-1, *[1] * (leaf.ndim - 1))
        return jnp.sum(jnp.where(weight > 0, weight * leaf, 0), axis=0)

    return jax.tree.map(mean, squares)
