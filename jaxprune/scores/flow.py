"""The synaptic flow of a network, for any depth.

The flow R through a deep network leaves the range of float32: sixty layers that each multiply it by fourteen make 1e69.
There every value of the program is held as ``mantissa * 2^exponent``, with one exponent for the whole value that is
moved to where the largest mantissa is about 1.  What is linear, or homogeneous, does not see it; before anything else
the value is written out.  All that is differentiated are mantissas, of ``log R``: ``w dR/dw`` is R times
``w dlogR/dw``, the share of the flow that passes through a weight, which is at most 1 however deep the network is.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend import core

from jaxprune.network import Network
from jaxprune.sites.program import Program, Step, apply, trace

# The powers of two beyond which a flow is not written out.
_RANGE = 60

# The exponent of zero.
_NOTHING = -30_000

# (mantissa, exponent); exponent None: the value as it is.
Scaled = tuple[Any, Any]

# Homogeneous in the first input alone.
_OF_FIRST = frozenset(
    (
        *("abs", "broadcast_in_dim", "convert_element_type", "copy", "copy_p", "cummax", "cumsum", "dynamic_slice"),
        *("expand_dims", "gather", "name", "neg", "real", "reduce_max", "reduce_min", "reduce_precision"),
        *("reduce_sum", "reduce_window_max", "reduce_window_sum", "reshape", "rev", "sharding_constraint", "slice"),
        *("split", "squeeze", "stop_gradient", "transpose", "unstack"),
    )
)
# Homogeneous in all their inputs together.
_TOGETHER = frozenset(
    ("add", "add_any", "clamp", "concatenate", "dynamic_update_slice", "max", "min", "pad", "select_n", "stack", "sub")
)
_PRODUCTS = frozenset(("mul", "dot_general", "conv_general_dilated"))
# The same for a value and for a positive multiple of it.
_SIGNS = frozenset(("sign", "argmax", "argmin", "is_finite"))
_COMPARISONS = frozenset(("eq", "ne", "gt", "ge", "lt", "le"))


@jax.jit
@jax.default_matmul_precision("highest")
def flows(network: Network, image: Any) -> tuple[Any, Any, Any]:
    """Computes ``|w dR/dw|`` for every weight, R the sum of the outputs of ``|network|`` for an image.

    Args:
      network: its weights and state in float32 or wider.
      image: [1, ...].

    Returns:
      (scores, log2 of |R|, the largest share of R that passes through a leaf); log2 is NaN where anything is not
      finite.
    """
    positive = jax.tree.map(_absolute, network)

    def total(params: Any) -> Any:
        return jnp.sum(network.apply(params, positive.state, image))

    value, gradient = jax.value_and_grad(total)(positive.params)
    scores = jax.tree.map(lambda w, g: jnp.abs(w * g), positive.params, gradient)
    return scores, _checked(jnp.log2(jnp.abs(value)), scores), _largest(scores) / jnp.abs(value)


@jax.jit
@jax.default_matmul_precision("highest")
def scaled_flows(network: Network, image: Any) -> tuple[Any, Any, Any]:
    """Computes what ``flows`` does where it leaves the range of its type; the program takes longer to compile.

    The scores are divided by one power of two where |R| is beyond 2^60 or below 2^-60; shares of R below the range of
    the type are zero.
    """
    positive = jax.tree.map(_absolute, network)

    def logarithm(params: Any) -> tuple[Any, Any]:
        leaves, structure = jax.tree.flatten((params, positive.state, image))
        shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
        program = trace(network.apply, *structure.unflatten(shapes))
        mantissa, exponent = _run(program, [(leaf, None) for leaf in leaves])
        total = jnp.sum(mantissa)
        return jnp.log(jnp.abs(total)), jnp.log2(jnp.abs(total)) + (0 if exponent is None else exponent)

    gradient, size = jax.grad(logarithm, has_aux=True)(positive.params)
    shares = jax.tree.map(lambda w, g: jnp.abs(w * g), positive.params, gradient)
    shown = jnp.exp2(jnp.clip(size, -_RANGE, _RANGE))
    scores = jax.tree.map(lambda share: (share * shown).astype(share.dtype), shares)
    return scores, _checked(size, scores), _largest(shares)


def _checked(size: Any, scores: Any) -> Any:
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(scores)]
    return jnp.where(jnp.all(jnp.stack(finite)), size, jnp.nan) if finite else size


def _largest(shares: Any) -> Any:
    return functools.reduce(jnp.maximum, [jnp.sum(leaf) for leaf in jax.tree.leaves(shares)], jnp.zeros(()))


def _absolute(leaf: Any) -> Any:
    return jnp.abs(leaf) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else leaf


def _run(program: Program, arguments: list[Scaled]) -> Scaled:
    """Evaluates a program, and returns its only output."""
    values: dict[Any, Scaled] = {number: (value, None) for number, value in program.constants.items()}
    values |= zip(program.arguments, arguments, strict=True)

    def of(atom: Any) -> Scaled:
        return (atom.val, None) if isinstance(atom, core.Literal) else values[atom]

    for step in program.steps:
        values.update(zip(step.outputs, _step(step, [of(atom) for atom in step.inputs]), strict=True))
    return of(program.outputs[0])


def _step(step: Step, inputs: list[Scaled]) -> list[Scaled]:
    name, mantissas, exponents = step.name, [value for value, _ in inputs], [exponent for _, exponent in inputs]
    known = [exponent for exponent in exponents if exponent is not None]
    if name in _PRODUCTS and (known or name != "mul"):
        return [_settled(value, sum(known)) for value in apply(step, mantissas)]
    if not known:
        return [(value, None) for value in apply(step, mantissas)]
    if name in _OF_FIRST and exponents[0] is not None and len(known) == 1:
        return [(value, exponents[0] if _is_floating(value) else None) for value in apply(step, mantissas)]
    if name in _TOGETHER | _COMPARISONS:
        common, aligned = _aligned(inputs)
        # A sum of a branch and a stream doubles the stream in every block; a bias does not.
        if len(known) > 1 and name in _TOGETHER:
            return [_settled(value, common) for value in apply(step, aligned)]
        return [(value, common if _is_floating(value) else None) for value in apply(step, aligned)]
    if name in _SIGNS:
        return [(value, None) for value in apply(step, mantissas)]
    if name == "div":
        above, below = (0 if exponent is None else exponent for exponent in exponents)
        return [(value, above - below) for value in apply(step, mantissas)]
    if name in ("square", "integer_pow"):
        return [_settled(value, known[0] * step.params.get("y", 2)) for value in apply(step, mantissas)]
    if name in ("sqrt", "rsqrt"):
        half = known[0] // 2
        even = mantissas[0] * _power(known[0] - 2 * half, mantissas[0])
        return [(value, half if name == "sqrt" else -half) for value in apply(step, [even])]
    if name == "custom_jvp_call" and (inner := _relu_like(step)) is not None:
        return [_run(inner, inputs)]
    return [(value, None) for value in apply(step, [_written(*each) for each in inputs])]


def _relu_like(step: Step) -> Program | None:
    """What a function with a rule of its own does, if all of it is homogeneous: then its derivative follows from it."""
    function = step.params["call_jaxpr"]
    shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in function.in_avals]
    program = trace(core.jaxpr_as_fun(function), *shapes)
    return program if len(program.outputs) == 1 and {step.name for step in program.steps} <= _TOGETHER else None


def _aligned(inputs: list[Scaled]) -> tuple[Any, list[Any]]:
    """The largest exponent, and all floating-point values as multiples of its power."""
    floating = [_is_floating(value) and not _is_zero(value) for value, _ in inputs]
    inputs = [
        _settled(value, 0) if moves and exponent is None else (value, exponent)
        for (value, exponent), moves in zip(inputs, floating, strict=True)
    ]
    exponents = [exponent for _, exponent in inputs]
    common = functools.reduce(jnp.maximum, [each for each, moves in zip(exponents, floating, strict=True) if moves])
    if sum(floating) == 1:
        return common, [value for value, _ in inputs]
    return common, [
        _times_power(value, exponent - common) if moves else value
        for (value, _), exponent, moves in zip(inputs, exponents, floating, strict=True)
    ]


def _is_zero(value: Any) -> bool:
    return not isinstance(value, Tracer) and np.ndim(value) == 0 and float(value) == 0


def _settled(value: Any, exponent: Any) -> Scaled:
    """Moves what the largest mantissa is above 1, or below, into the exponent."""
    if not _is_floating(value):
        return value, None
    largest = jnp.max(jnp.abs(jax.lax.stop_gradient(value)), initial=0)
    counts = jnp.isfinite(largest) & (largest > 0)
    shift = jnp.where(counts, jnp.clip(jnp.floor(jnp.log2(jnp.where(counts, largest, 1))), -100, 100), 0)
    shift = shift.astype(jnp.int32)
    # Zeros (a bias at its start) are no reason to lose what they are added to.
    return value * _power(-shift, value), jnp.where(largest == 0, _NOTHING, exponent + shift)


def _written(value: Any, exponent: Any) -> Any:
    return value if exponent is None else value * _power(exponent, value)


def _times_power(value: Any, exponent: Any) -> Any:
    """Infinity (a mask of attention) stays, where the power is too small for a number."""
    return jnp.where(jnp.isinf(value), value, value * _power(exponent, value))


def _power(exponent: Any, like: Any) -> Any:
    """Two to the exponent, exactly; zero or infinite outside of the range.  By its bits: ldexp compiles slowly."""
    kind = jnp.finfo(jnp.result_type(like))
    biased = jnp.clip(exponent + kind.maxexp - 1, 0, 2 * kind.maxexp - 1)
    bits = jnp.asarray(biased, f"int{kind.bits}") << kind.nmant
    return jax.lax.bitcast_convert_type(bits, kind.dtype)


def _is_floating(value: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(value), jnp.floating)
