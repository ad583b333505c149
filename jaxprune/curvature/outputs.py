"""The second derivative of the loss by the outputs, as weighted pairs of columns whose products add up to it.

For every example n, H_out = sum_k c_k l_k r_k^T, so J^T H_out J = sum_k c_k (J^T l_k)(J^T r_k)^T: backward passes for
the columns give the Gauss-Newton matrix.  Where a root of H_out is known in closed form both columns are the same, one
backward pass.  Of any other loss the pairs are e_k and H_out e_k.  No eigenvectors: those of small eigenvalues are lost
beside the largest, and with them the curvature of single weights.
"""

import itertools
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from jaxprune import losses, tree
from jaxprune.sites import axes
from jaxprune.sites.program import trace, with_inner
from jaxprune.types import Batch, Loss

# k -> (l_k [b, c], r_k [b, c], or None where it is l_k too, c_k [b]).
Column = Callable[[Any], tuple[Any, Any, Any]]


def count(loss: Loss, classes: int, matrix: str) -> int:
    """The number of pairs: 1 for the empirical Fisher matrix, C - 1 for softmax cross-entropy, else C."""
    if matrix == "empirical_fisher":
        return 1
    return max(1, classes - 1) if loss is losses.cross_entropy else classes


def has_root(loss: Loss, matrix: str) -> bool:
    """Whether the columns of every pair are the same, one backward pass in place of two."""
    return matrix == "empirical_fisher" or loss in _KNOWN


def columns(loss: Loss, outputs: Any, batch: Batch, matrix: str) -> Column:
    """Returns the columns of the second derivative of the weighted mean loss by the outputs.

    Softmax cross-entropy: the Cholesky factor of diag(p) - p p^T in closed form; with q_k = sum_{j > k} p_j, column k
    is sqrt(p_k q_k / q_{k-1}) at k and -p_j sqrt(p_k / (q_k q_{k-1})) at j > k.  Squared error: e_k, of weight 2.  Any
    other loss: e_k, and its product with the Hessian of the loss of every example.

    Args:
      loss: per-example loss.
      outputs: [b, c].
      batch: labels and weights.
      matrix: "hessian" and "ggn" mean the same here; "empirical_fisher": the only column is the gradient.

    Returns:
      k -> (l_k [b, c], r_k [b, c] or None, c_k [b]), r_k None where it is l_k; c_k holds the share of the example in
      the mean, and is 0 for padding.
    """
    counts, share = losses.weights(batch) > 0, losses.shares(batch, outputs)
    kind = outputs.dtype
    make = _gradient if matrix == "empirical_fisher" else _KNOWN.get(loss, _pairs)
    one = make(loss, *_wide(outputs, batch))

    def fitted(values: Any) -> tuple[Any, Any]:
        values = jnp.where(counts[:, None], values, 0)
        if values.dtype == kind:
            return values, 1
        # In half precision what is small would be zero.
        size = jnp.max(jnp.abs(values), axis=1, keepdims=True)
        size = jnp.where(size > 0, size, 1)
        return (values / size).astype(kind), size[:, 0]

    def column(index: Any) -> tuple[Any, Any, Any]:
        left, right, scale = one(index)
        left, size = fitted(left)
        right, other = (None, size) if right is None else fitted(right)
        return left, right, jnp.where(counts, share * scale * size * other, 0).astype(share.dtype)

    return column


def _wide(outputs: Any, batch: Batch) -> tuple[Any, Batch]:
    """The outputs in float32 or wider, and the batch, both without padding."""
    return losses.without_padding(tree.wide(outputs), batch)


def roots(loss: Loss, outputs: Any, batch: Batch) -> tuple[Any, Any]:
    """Factors H_out = L D L^T of a loss for every example: (L [b, c, c], D [b, c]), the share of the example in D.

    Pivots are taken from the smallest diagonal entry to the largest, so that small entries keep their digits beside
    large ones.  What rounding makes of a pivot that is zero is left out: 4 C eps of its diagonal entry, or root eps
    where it is negative, as of a softmax that decides (float32 has of 1 - p what it has of 1).  D is NaN where there is
    no such factorisation.
    """
    outputs, batch = _wide(outputs, batch)
    width = outputs.shape[1]
    product = _bend(loss, outputs, batch)
    whole = jax.vmap(lambda index: product(_unit(outputs, index)), out_axes=-1)(jnp.arange(width))
    order = jnp.argsort(jnp.abs(jnp.diagonal(whole, axis1=1, axis2=2)), axis=1)
    ordered = jax.vmap(lambda matrix, places: matrix[places][:, places])(whole, order)
    diagonal = jnp.abs(jnp.diagonal(ordered, axis1=1, axis2=2))
    eps = jnp.finfo(whole.dtype).eps

    def step(k: Any, carry: Any) -> Any:
        rest, lower, pivots = carry
        pivot, size = rest[:, k, k], diagonal[:, k]
        counts = (pivot > 4 * width * eps * size) | (pivot < -jnp.sqrt(eps) * size)
        column = jnp.where(counts[:, None], rest[:, :, k] / jnp.where(counts, pivot, 1)[:, None], 0)
        rest = rest - pivot[:, None, None] * column[:, :, None] * column[:, None, :]
        return rest, lower.at[:, :, k].set(column), pivots.at[:, k].set(jnp.where(counts, pivot, 0))

    start = (ordered, jnp.zeros_like(whole), jnp.zeros_like(diagonal))
    rest, lower, pivots = jax.lax.fori_loop(0, width, step, start)
    allowed = jnp.sqrt(eps) * jnp.sqrt(diagonal[:, :, None] * diagonal[:, None, :])
    left_over = jnp.any(jnp.abs(rest) > allowed, axis=(1, 2))
    back = jnp.argsort(order, axis=1)
    lower = jnp.take_along_axis(lower, back[:, :, None], axis=1)
    share = losses.shares(batch, outputs)[:, None]
    return lower, jnp.where(share > 0, share * jnp.where(left_over[:, None], jnp.nan, pivots), 0)


def _cross_entropy(loss: Loss, outputs: Any, batch: Batch) -> Column:
    mass = jnp.sum(losses.targets(outputs, batch), axis=-1)  # 1 for labels; NaN where a label is outside
    p = jax.nn.softmax(outputs)
    # Sums from the end keep their relative accuracy; 1 - sum from the start would not.
    after = jnp.flip(jnp.cumsum(jnp.flip(p, -1), -1), -1)  # q_{k-1} = p_k + q_k
    place = jnp.arange(p.shape[-1])

    def column(index: Any) -> tuple[Any, Any, Any]:
        here, before = p[:, index], after[:, index]
        rest = jnp.sum(jnp.where(place > index, p, 0), axis=-1)
        diagonal = _root_of_ratio(here, before) * jnp.sqrt(rest)
        below = -p * (_root_of_ratio(here, before) / jnp.sqrt(jnp.where(rest > 0, rest, 1)))[:, None]
        return jnp.where(place > index, below, jnp.where(place == index, diagonal[:, None], 0)), None, mass

    return column


def _root_of_ratio(above: Any, below: Any) -> Any:
    return jnp.sqrt(above / jnp.where(below > 0, below, 1))


def _squared_error(loss: Loss, outputs: Any, batch: Batch) -> Column:
    known = jnp.sum(losses.targets(outputs, batch), axis=-1)  # NaN where a label is outside
    return lambda index: (_unit(outputs, index), None, 2 + 0 * known)


def _pairs(loss: Loss, outputs: Any, batch: Batch) -> Column:
    product = _bend(loss, outputs, batch)

    def column(index: Any) -> tuple[Any, Any, Any]:
        unit = _unit(outputs, index)
        return unit, product(unit), 1

    return column


def _unit(outputs: Any, index: Any) -> Any:
    return jax.nn.one_hot(jnp.full(len(outputs), index), outputs.shape[-1], dtype=outputs.dtype)


def _slope(loss: Loss, batch: Batch) -> Callable[[Any], Any]:
    return jax.grad(lambda outputs: jnp.sum(loss(outputs, batch)))


def _bend(loss: Loss, outputs: Any, batch: Batch) -> Callable[[Any], Any]:
    """V [b, c] -> the Hessian of the loss of every example times its row of v."""
    return jax.linearize(_slope(loss, batch), outputs)[1]


def _gradient(loss: Loss, outputs: Any, batch: Batch) -> Column:
    slope = _slope(loss, batch)(outputs)
    return lambda index: (slope, None, 1)


_KNOWN: dict[Any, Callable[[Loss, Any, Batch], Column]] = {
    losses.cross_entropy: _cross_entropy,
    losses.squared_error: _squared_error,
}


def is_flat(loss: Loss, outputs: Any, batch: Batch, eps: float) -> Any:
    """Whether the gradient of the loss by the outputs is zero, but for rounding, on every example that counts.

    Rounding changes outputs f by about eps |f|, and the gradient by eps |H_out| |f|: what is no larger than 32 times
    that says nothing.  |H_out| by power iteration.  ``eps``: of the coarsest type that the network computes in.
    """
    counts = losses.weights(batch) > 0
    outputs, batch = _wide(outputs, batch)
    product = _bend(loss, outputs, batch)

    def length(rows: Any) -> Any:
        return jnp.sqrt(jnp.sum(rows**2, axis=1, keepdims=True))

    def step(_: Any, vector: Any) -> Any:
        turned = product(vector)
        return turned / jnp.where(length(turned) > 0, length(turned), 1)

    start = jnp.broadcast_to(jnp.cos(1.0 + jnp.arange(outputs.shape[1], dtype=outputs.dtype)), outputs.shape)
    size = length(product(jax.lax.fori_loop(0, 8, step, start / length(start))))
    noise = 32 * eps * size * length(outputs)
    return jnp.all(~counts[:, None] | (length(_slope(loss, batch)(outputs)) <= noise))


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
    values = jax.eval_shape(loss, outputs, batch)
    losses.check_shape(values, outputs.shape[0])

    def backward(outputs: Any, cotangent: Any, batch: Batch) -> Any:
        return jax.vjp(lambda outputs: loss(outputs, batch), outputs)[1](cotangent)[0]

    cotangent = jax.ShapeDtypeStruct(values.shape, values.dtype)
    program = trace(backward, outputs, cotangent, batch)
    if axes.follow(program, {program.arguments[1]: 0}).get(program.outputs[0]) != 0:
        return False
    # What is independent has an independent second derivative, unless a rule is given by hand (relu and softplus have
    # one): that may say anything, and is inspected as it is computed.
    steps = itertools.chain(*map(with_inner, trace(loss, outputs, batch).steps))
    if not any(step.primitive.name in ("custom_jvp_call", "custom_vjp_call") for step in steps):
        return True

    def second(outputs: Any, cotangent: Any, tangent: Any, batch: Batch) -> Any:
        return jax.jvp(lambda outputs: backward(outputs, cotangent, batch), (outputs,), (tangent,))[1]

    program = trace(second, outputs, cotangent, outputs, batch)
    (result,) = program.outputs
    # It is linear in the cotangent and in the tangent: followed in the one, then in the other.
    linear = [axes.follow(program, {program.arguments[place]: 0}) for place in (1, 2)]
    return isinstance(result, core.Literal) or all(followed.get(result, 0) == 0 for followed in linear)
