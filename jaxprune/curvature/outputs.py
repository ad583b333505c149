"""The second derivative of the loss by the outputs, as weighted columns whose products with themselves add up to it.

For every example n, H_out = sum_k c_k b_k b_k^T, so J^T H_out J = sum_k c_k (J^T b_k)(J^T b_k)^T: one backward pass for
each column gives the Gauss-Newton matrix.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import losses
from jaxprune.sites import axes
from jaxprune.sites.program import trace
from jaxprune.types import Batch, Loss

# k -> (b_k [b, c], c_k [b]).
Column = Callable[[Any], tuple[Any, Any]]


def count(loss: Loss, classes: int, matrix: str) -> int:
    """The number of columns: 1 for the empirical Fisher matrix, C - 1 for softmax cross-entropy, else C."""
    if matrix == "empirical_fisher":
        return 1
    return max(1, classes - 1) if loss is losses.cross_entropy else classes


def columns(loss: Loss, outputs: Any, batch: Batch, matrix: str) -> Column:
    """Returns the columns of the second derivative of the weighted mean loss by the outputs.

    Softmax cross-entropy: the Cholesky factor of diag(p) - p p^T in closed form; with q_k = sum_{j > k} p_j, column k
    is sqrt(p_k q_k / q_{k-1}) at k and -p_j sqrt(p_k / (q_k q_{k-1})) at j > k.  Squared error: e_k, of weight 2.  Any
    other loss: the eigenvectors of its own C x C Hessian for every example, weighted by its eigenvalues.

    Args:
      loss: per-example loss.
      outputs: [b, c].
      batch: labels and weights.
      matrix: "hessian" and "ggn" mean the same here; "empirical_fisher": the only column is the gradient.

    Returns:
      k -> (b_k [b, c], c_k [b]); c_k holds the share of the example in the mean, and is 0 for padding.
    """
    weight = losses.weights(batch)
    counts = weight > 0
    total = jnp.sum(weight)
    share = jnp.where(counts, weight, 0) / jnp.where(total > 0, total, 1)
    # Padding is cut off before the loss, as in losses.mean.
    outputs = jnp.where(counts[:, None], outputs, 0.0)
    label = jnp.asarray(batch["label"])
    batch = {**batch, "label": jnp.where(counts[:, None] if label.ndim > 1 else counts, label, 0)}

    make = _KNOWN.get(loss, _eigenvectors)
    wide = jnp.promote_types(outputs.dtype, jnp.float32)
    one = (_gradient if matrix == "empirical_fisher" else make)(loss, outputs, batch)

    def column(index: Any) -> tuple[Any, Any]:
        values, scale = one(index)
        values = jnp.where(counts[:, None], values, 0)
        return values.astype(outputs.dtype), jnp.where(counts, share * scale, 0).astype(wide)

    return column


def _cross_entropy(loss: Loss, outputs: Any, batch: Batch) -> Column:
    mass = jnp.sum(losses.targets(outputs, batch), axis=-1)  # 1 for labels; NaN where a label is outside
    p = jax.nn.softmax(outputs)
    # Sums from the end keep their relative accuracy; 1 - sum from the start would not.
    after = jnp.flip(jnp.cumsum(jnp.flip(p, -1), -1), -1)  # q_{k-1} = p_k + q_k
    place = jnp.arange(p.shape[-1])

    def column(index: Any) -> tuple[Any, Any]:
        here, before = p[:, index], after[:, index]
        rest = jnp.sum(jnp.where(place > index, p, 0), axis=-1)
        diagonal = _root_of_ratio(here, before) * jnp.sqrt(rest)
        below = -p * (_root_of_ratio(here, before) / jnp.sqrt(jnp.where(rest > 0, rest, 1)))[:, None]
        return jnp.where(place > index, below, jnp.where(place == index, diagonal[:, None], 0)), mass

    return column


def _root_of_ratio(above: Any, below: Any) -> Any:
    return jnp.sqrt(above / jnp.where(below > 0, below, 1))


def _squared_error(loss: Loss, outputs: Any, batch: Batch) -> Column:
    known = jnp.sum(losses.targets(outputs, batch), axis=-1)  # NaN where a label is outside

    def column(index: Any) -> tuple[Any, Any]:
        values = jax.nn.one_hot(jnp.full(len(outputs), index), outputs.shape[-1], dtype=outputs.dtype)
        return values, 2 + 0 * known

    return column


def _eigenvectors(loss: Loss, outputs: Any, batch: Batch) -> Column:
    def slope(outputs: Any) -> Any:
        return jax.grad(lambda values: jnp.sum(loss(values, batch)))(outputs)

    def bend(direction: Any) -> Any:
        return jax.jvp(slope, (outputs,), (jnp.broadcast_to(direction, outputs.shape),))[1]

    matrices = jax.vmap(bend, out_axes=-1)(jnp.eye(outputs.shape[-1], dtype=outputs.dtype))
    values, vectors = jnp.linalg.eigh(matrices.astype(jnp.promote_types(matrices.dtype, jnp.float32)))
    # What rounding makes of a zero must not make a convex loss look concave.
    noise = outputs.shape[-1] * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values), axis=-1, keepdims=True)
    values = jnp.where(jnp.abs(values) <= noise, 0, values)

    def column(index: Any) -> tuple[Any, Any]:
        return vectors[:, :, index], values[:, index]

    return column


def _gradient(loss: Loss, outputs: Any, batch: Batch) -> Column:
    slope = jax.grad(lambda values: jnp.sum(loss(values, batch)))(outputs)
    return lambda index: (slope, jnp.ones(outputs.shape[:1]))


_KNOWN: dict[Any, Callable[[Loss, Any, Batch], Column]] = {
    losses.cross_entropy: _cross_entropy,
    losses.squared_error: _squared_error,
}


def is_per_example(loss: Loss, outputs: Any, batch: Batch) -> bool:
    """Whether it is proven, from its program, that the loss of every example depends on its own outputs only.

    ``outputs`` and ``batch`` may be shapes.
    """
    if loss in _KNOWN:
        return True
    leaves, structure = jax.tree.flatten((outputs, dict(batch)))
    shapes = tuple((tuple(jnp.shape(leaf)), jnp.result_type(leaf)) for leaf in leaves)
    config: Any = jax.config
    return _is_per_example(loss, structure, shapes, config.jax_enable_x64)


@lru_cache(maxsize=128)
def _is_per_example(loss: Loss, structure: Any, shapes: tuple[Any, ...], float64: bool) -> bool:
    outputs, batch = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes])
    losses.check_shape(jax.eval_shape(loss, outputs, batch), outputs.shape[0])

    def backward(outputs: Any, cotangent: Any, batch: Batch) -> Any:
        return jax.vjp(lambda values: loss(values, batch), outputs)[1](cotangent)[0]

    # What is independent has an independent second derivative, unless a derivative is given by hand: it may say
    # anything.
    if any(step.name == "custom_jvp_call" for step in trace(loss, outputs, batch).steps):
        return False
    program = trace(backward, outputs, jax.ShapeDtypeStruct(outputs.shape[:1], outputs.dtype), batch)
    followed = axes.follow(program, {program.arguments[1]: 0})
    return followed.get(program.outputs[0]) == 0
