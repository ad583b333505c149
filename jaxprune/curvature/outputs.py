"""What is known of a loss as a function of the outputs: whether it treats every example alone, and has a slope."""

import itertools
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from jaxprune import losses
from jaxprune.curvature.columns import bend, is_known, slope, wide
from jaxprune.sites import axes
from jaxprune.sites.program import trace, with_inner
from jaxprune.types import Batch, Loss


def is_flat(loss: Loss, outputs: Any, batch: Batch, eps: float) -> Any:
    """Whether the gradient of the loss by the outputs is zero, but for rounding, on every example that counts.

    Rounding changes outputs f by about eps |f|, and the gradient by eps |H_out| |f|: what is no larger than 32 times
    that says nothing.  |H_out| by power iteration.  ``eps``: of the coarsest type that the network computes in.
    """
    counts = losses.weights(batch) > 0
    outputs, batch = wide(outputs, batch)
    product = bend(loss, outputs, batch)

    def length(rows: Any) -> Any:
        return jnp.sqrt(jnp.sum(rows**2, axis=1, keepdims=True))

    def step(_: Any, vector: Any) -> Any:
        turned = product(vector)
        return turned / jnp.where(length(turned) > 0, length(turned), 1)

    start = jnp.broadcast_to(jnp.cos(1.0 + jnp.arange(outputs.shape[1], dtype=outputs.dtype)), outputs.shape)
    size = length(product(jax.lax.fori_loop(0, 8, step, start / length(start))))
    noise = 32 * eps * size * length(outputs)
    return jnp.all(~counts[:, None] | (length(slope(loss, batch)(outputs)) <= noise))


def is_per_example(loss: Loss, outputs: Any, batch: Batch) -> bool:
    """Whether it is proven, from its program, that the loss of every example depends on its own outputs only.

    ``outputs`` and ``batch`` may be shapes.
    """
    if is_known(loss):
        return True
    leaves, structure = jax.tree.flatten((outputs, dict(batch)))
    shapes = tuple((tuple(jnp.shape(leaf)), jnp.result_type(leaf)) for leaf in leaves)
    config: Any = jax.config
    return _is_per_example(loss, structure, shapes, config.jax_enable_x64)


@lru_cache(maxsize=128)
def _is_per_example(loss: Loss, structure: Any, shapes: tuple[Any, ...], float64: bool) -> bool:
    outputs, batch = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes])
    values = jax.eval_shape(partial(losses.values, loss), outputs, batch)

    def backward(outputs: Any, cotangent: Any, batch: Batch) -> Any:
        return jax.vjp(lambda outputs: loss(outputs, batch), outputs)[1](cotangent)[0]

    cotangent, alone = jax.ShapeDtypeStruct(values.shape, values.dtype), axes.Along(0)
    program = trace(backward, outputs, cotangent, batch)
    if axes.follow(program, {program.arguments[1]: alone}).get(program.outputs[0]) != alone:
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
    linear = [axes.follow(program, {program.arguments[place]: alone}) for place in (1, 2)]
    return isinstance(result, core.Literal) or all(followed.get(result, alone) == alone for followed in linear)
