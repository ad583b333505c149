"""Products of a curvature matrix with a vector, never forming the matrix."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxprune import check, losses
from jaxprune.curvature import outputs
from jaxprune.curvature.compiled import Compiled, compile_only
from jaxprune.curvature.inputs import like_parameters, ready
from jaxprune.curvature.stream import total_weight
from jaxprune.network import Network
from jaxprune.sites import has_own_backward, survey
from jaxprune.sites.program import coarsest
from jaxprune.types import Batch, Loss, Params

MATRICES = ("hessian", "ggn", "empirical_fisher")


def gradient(network: Network, loss: Loss, batch: Batch) -> Params:
    """Computes the gradient of the weighted mean loss, in evaluation mode.

    >>> from jaxprune import losses
    >>> net = Network(lambda p, s, x: x @ p, jnp.ones((2, 1)))
    >>> batch = {"image": jnp.array([[1.0, 3.0]]), "label": jnp.zeros((1, 1))}
    >>> gradient(net, losses.squared_error, batch)[:, 0]
    Array([ 8., 24.], dtype=float32)
    """
    network, loss, batch = ready(network, loss, batch)
    return _gradient(network, batch, loss=loss)


def hvp(network: Network, loss: Loss, batch: Batch, vector: Params) -> Params:
    """Computes H v, the Hessian of the weighted mean loss times a vector (Pearlmutter, 1994).

    Args:
      network: evaluated, and differentiated, in evaluation mode.
      loss: per-example loss.
      batch: images, what the loss reads, and optional weights.
      vector: v, structure and shapes of ``network.params``.

    Returns:
      H v, of the same structure.

    Raises:
      ValueError: the vector does not fit the parameters, or the batch its own parts; outputs that are not [b, c]; NaN
        anywhere.
      TypeError: parameters that are not real.

    For the loss ||w x||^2 of one output, H = 2 x x^T:

    >>> from jaxprune import losses
    >>> net = Network(lambda p, s, x: x @ p, jnp.zeros((2, 1)))
    >>> batch = {"image": jnp.array([[1.0, 3.0]]), "label": jnp.zeros((1, 1))}
    >>> hvp(net, losses.squared_error, batch, jnp.array([[1.0], [0.0]]))[:, 0]
    Array([2., 6.], dtype=float32)
    """
    network, loss, batch = ready(network, loss, batch)
    return _hvp(network, batch, like_parameters(vector, network), loss=loss)


def ggnvp(network: Network, loss: Loss, batch: Batch, vector: Params) -> Params:
    """Computes G v with the generalised Gauss-Newton matrix G = sum_n weight_n J_n^T H_out J_n / sum_n weight_n.

    J_n is the Jacobian of output n, H_out the Hessian of its loss with respect to it.  Arguments, result and errors are
    those of ``hvp``.  Source: Schraudolph (2002).
    """
    network, loss, batch = ready(network, loss, batch)
    return _ggnvp(network, batch, like_parameters(vector, network), loss=loss)


def gradient_of(network: Network, loss: Loss, batch: Batch) -> Params:
    """The gradient of what ``ready`` returned."""
    return _gradient(network, batch, loss=loss)


def ggnvp_of(network: Network, loss: Loss, batch: Batch, vector: Params) -> Params:
    """The product of what ``ready`` returned, with a vector of the types of the parameters."""
    return _ggnvp(network, batch, vector, loss=loss)


@partial(jax.jit, static_argnames="loss")
@jax.default_matmul_precision("highest")
def value_of(network: Network, batch: Batch, *, loss: Loss) -> jax.Array:
    """The mean loss of what ``ready`` returned."""
    return _mean_loss(network, loss, batch)(network.params)


@partial(jax.jit, static_argnames="loss")
@jax.default_matmul_precision("highest")
def _gradient(network: Network, batch: Batch, *, loss: Loss) -> Params:
    if losses.has_zero_residual(loss, batch):  # what would come out is rounding
        jax.eval_shape(_outputs(network, batch), network.params)  # which may refuse
        return jax.tree.map(jnp.zeros_like, network.params)
    return jax.grad(_mean_loss(network, loss, batch))(network.params)


@partial(jax.jit, static_argnames="loss")
@jax.default_matmul_precision("highest")
def is_flat(network: Network, batch: Batch, *, loss: Loss) -> Any:
    """Whether the gradient of the loss by the outputs is zero on every example that counts, see ``outputs.is_flat``."""
    run = _outputs(network, batch)
    eps = float(jnp.finfo(coarsest(jax.make_jaxpr(run)(network.params))).eps)
    return outputs.is_flat(loss, run(network.params), batch, eps)


def demand_slope(network: Network, loss: Loss, batch: Batch, what: str) -> None:
    """Refuses a loss whose gradient by the outputs is zero by its definition, or as the teacher equals the network.

    Arguments are those that ``ready`` returned.

    Raises:
      ValueError: it is, and ``what`` needs more.
    """
    losses.demand_slope(loss, batch, what)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((network, batch))) or "teacher" not in batch:
        return
    if total_weight(batch) and is_flat(network, batch, loss=loss):
        raise ValueError(
            f"loss: expected one that has a gradient, for {what}, but on every example of weight above 0 it is zero "
            "up to rounding: the teacher equals the network. Take another teacher, or a second-order quantity."
        )


def gradient_cost(network: Network, loss: Loss, batch: Batch, measure: Callable[..., Compiled] = compile_only) -> float:
    """Counts the operations of one gradient, the unit in which costs are stated; ``measure``: as of the tasks."""
    if losses.has_zero_residual(loss, batch):  # what is known to be zero would cost nothing
        outputs = jax.eval_shape(network.apply, network.params, network.state, batch["image"])
        batch = {**batch, "teacher": jax.ShapeDtypeStruct(outputs.shape, outputs.dtype)}
    return measure(_gradient, (network, batch), {"loss": loss}).operations


@partial(jax.jit, static_argnames="loss")
@jax.default_matmul_precision("highest")
def _hvp(network: Network, batch: Batch, vector: Params, *, loss: Loss) -> Params:
    if losses.has_zero_residual(loss, batch) and survey(network, batch["image"]).consistent:
        return linearised(_outputs(network, batch), loss, batch, network.params, "ggn")(vector)
    return jax.jvp(jax.grad(_mean_loss(network, loss, batch)), (network.params,), (vector,))[1]


def _mean_loss(network: Network, loss: Loss, batch: Batch) -> Callable[[Params], Any]:
    run = _outputs(network, batch)
    return lambda params: losses.mean(loss, run(params), batch)


def _outputs(network: Network, batch: Batch) -> Callable[[Params], Any]:
    images = losses.images(batch)

    def run(params: Params) -> Any:
        values = network.apply(params, network.state, images)
        check.outputs(values, images.shape[0])  # of shapes alone: it costs nothing where the program runs
        return values

    return run


@partial(jax.jit, static_argnames="loss")
@jax.default_matmul_precision("highest")
def _ggnvp(network: Network, batch: Batch, vector: Params, *, loss: Loss) -> Params:
    return linearised(_outputs(network, batch), loss, batch, network.params, "ggn")(vector)


def linearised(run: Callable[[Any], Any], loss: Loss, batch: Batch, at: Any, matrix: str) -> Callable[[Any], Any]:
    """Returns v -> M v, with everything that does not depend on v computed once.

    Args:
      run: variables -> outputs [b, c].
      loss: per-example loss.
      batch: the labels and weights.
      at: the variables to differentiate at.
      matrix: "hessian", "ggn" or "empirical_fisher" (sum_n weight_n g_n g_n^T / sum_n weight_n, g_n the gradient of the
        loss of example n).
    """
    if matrix == "hessian":
        return jax.linearize(jax.grad(lambda variables: losses.mean(loss, run(variables), batch)), at)[1]

    if matrix == "ggn":
        values, forward, backward = _both_ways(run, at)
        _, hessian_out = jax.linearize(jax.grad(lambda values: losses.mean(loss, values, batch)), values)
        return lambda vector: backward(hessian_out(forward(vector)))

    def examples(variables: Any) -> Any:
        return losses.values(loss, run(variables), batch)

    values, forward, backward = _both_ways(examples, at)
    share = losses.shares(batch, values)
    return lambda vector: backward(jnp.where(share > 0, share * forward(vector), 0.0).astype(values.dtype))


def _both_ways(function: Callable[[Any], Any], at: Any) -> tuple[Any, Callable[[Any], Any], Callable[[Any], Any]]:
    """The value, v -> J v and u -> J^T u."""
    if not has_own_backward(function, at):
        values, forward = jax.linearize(function, at)
        transpose = jax.linear_transpose(forward, at)
        return values, forward, lambda cotangent: transpose(cotangent)[0]
    # Of a custom_vjp only J^T is known; J is its transpose.
    values, pull = jax.vjp(function, at)

    def backward(cotangent: Any) -> Any:
        return pull(cotangent)[0]

    def forward(vector: Any) -> Any:
        try:
            return jax.linear_transpose(backward, values)(vector)[0]
        except (NotImplementedError, TypeError) as error:
            raise TypeError(
                "network.apply: expected backward passes of custom_vjp that are linear in the cotangent, as those of a "
                "derivative are, but JAX cannot transpose one of them: there is no Jacobian, and no matrix of Gauss "
                'and Newton or of Fisher. Use matrix="hessian", or make the backward pass linear.'
            ) from error

    return values, forward, backward
