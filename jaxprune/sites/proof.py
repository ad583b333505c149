"""What can be proven, from the program alone, of the network after a site.

The backward program of the network, from a cotangent u of its outputs to the sites, is linear in u: it applies J_z^T.

*Piecewise linear.*  If what reaches site z does not read z, except through locally constant values (booleans, signs,
roundings, the choice of a maximum), J_z does not change with z nearby, and the second derivative of the outputs by z is
zero almost everywhere.  Rules written by the user (``custom_jvp``, ``custom_vjp``) are traced as derivatives, and never
looked into as functions: their derivative may be anything.  A backward pass that the user wrote by itself
(``custom_vjp``) need not be the transpose of what the function does forward, on which the second derivative rests, and
need not be linear: nothing is proven of a site that reaches one.  A rule (``custom_jvp``) that returns its value by
another way than by calling the function itself has two derivatives, the one that it says and that of the other way, and
the second derivative of the whole meets both: no site that reaches one is proven piecewise linear.

*Independent.*  If every example of what reaches z depends on the same example of u alone, output n depends on z through
example n only.  The axis of the examples is followed through the steps that depend on u, merged with others or not.

What cannot be followed is called not proven; nothing is guessed.
"""

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxprune.sites import axes
from jaxprune.sites.axes import Along
from jaxprune.sites.kernels import Site, needed
from jaxprune.sites.program import Program, Step, holds_program, trace, with_inner


@dataclass(frozen=True)
class Proof:
    """What is known of the network after a site.

    Attributes:
      piecewise_linear: whether it is proven that the outputs are piecewise linear in z.
      examples: where the examples of z lie, if it is proven that output n depends on example n of z alone; else None.
      reached: False if no derivative of the outputs reaches z.
      consistent: whether every derivative rule of the user's own after z belongs to the values: none has a backward
        pass of its own, and none takes its value from elsewhere than the function that it belongs to.
    """

    piecewise_linear: bool
    examples: Along | None
    reached: bool
    consistent: bool


def prove(program: Program, sites: Sequence[Site]) -> list[Proof]:
    """Decides for every site what can be proven of the network after it.

    Args:
      program: of ``apply(params, state, images)``, with outputs [b, c].
      sites: the sites.
    """

    def backward(parts: list[Any], cotangents: list[Any], arguments: list[Any]) -> list[Any]:
        def perturbed(parts: list[Any]) -> list[Any]:
            return program.run(arguments, add_to(sites, parts))[0]

        return jax.vjp(perturbed, parts)[1](cotangents)[0]

    parts = [_shape(program.avals[site.output]) for site in sites]
    cotangents = [_shape(program.aval(atom)) for atom in program.outputs]
    reverse = trace(backward, parts, cotangents, [_shape(program.avals[number]) for number in program.arguments])
    marked = reverse.arguments[len(parts) : len(parts) + len(cotangents)]
    followed = axes.follow(reverse, dict.fromkeys(marked, Along(0)))
    sources = {number: 1 << place for place, number in enumerate(reverse.arguments[: len(parts)])}
    reads = _reads(reverse, sources, followed)
    opaque = _reach(program, sites, _has_own_backward)
    crooked = opaque | _reach(program, sites, _has_other_value)
    zeros = {step.outputs[0] for step in reverse.steps if _is_zero(step)}
    proofs = []
    for place, atom in enumerate(reverse.outputs):
        consistent = not crooked >> place & 1
        if isinstance(atom, core.Literal):  # the zero that a number z gets where no derivative reaches it
            proofs.append(Proof(consistent, None, bool(np.any(atom.val)), consistent))
            continue
        along = followed.get(atom)
        proofs.append(
            Proof(
                piecewise_linear=consistent and not reads[atom] >> place & 1,
                examples=along if isinstance(along, Along) and not opaque >> place & 1 else None,
                reached=atom not in zeros,
                consistent=consistent,
            )
        )
    return proofs


def add_to(sites: Sequence[Site], parts: Sequence[Any]) -> dict[int, Callable[[Any], Any]]:
    """Changes for ``Program.run`` that add a part to the output of every site."""
    return {site.output: partial(jnp.add, part) for site, part in zip(sites, parts, strict=True)}


def _shape(aval: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)


def _is_zero(step: Step) -> bool:
    """Whether a step makes the zeros that stand for an absent derivative."""
    literal = all(isinstance(atom, core.Literal) and not np.any(atom.val) for atom in step.inputs)
    return step.name == "broadcast_in_dim" and literal


# Their derivative is zero: whoever reads the result reads a locally constant value.
_CONSTANT = frozenset({"sign", "floor", "ceil", "round", "stop_gradient"})
# Integers and booleans are locally constant, except where bits are reinterpreted or foreign code runs.
_BITS = frozenset({"bitcast_convert_type", "pure_callback", "io_callback", "ffi_call", "custom_call", "pallas_call"})


# Their backward pass is given by the user, not derived from what they do forward.
_OWN_BACKWARD = frozenset({"custom_vjp_call", "custom_linear_solve", "linear_call"})


def _has_own_backward(step: Step) -> bool:
    return any(step.primitive.name in _OWN_BACKWARD for step in with_inner(step))


def _has_other_value(step: Step) -> bool:
    return any(step.primitive.name == "custom_jvp_call" and not _calls_itself(step) for step in with_inner(step))


def is_consistent(program: Program) -> bool:
    """Whether every derivative rule of the user's own that the outputs need belongs to the values (see ``Proof``)."""
    steps = [program.steps[index] for index in needed(program)]
    return not any(_has_own_backward(step) or _has_other_value(step) for step in steps)


def _calls_itself(step: Any) -> bool:
    """Whether the rule of a function with its own derivative takes the value of the function from the function."""
    function = step.params["call_jaxpr"]
    values = [_shape(aval) for aval in function.in_avals]
    floating = [place for place, aval in enumerate(values) if jnp.issubdtype(aval.dtype, jnp.inexact)]

    def rule(values: list[Any], tangents: list[Any]) -> Any:
        def call(*moving: Any) -> Any:
            operands = list(values)
            for place, value in zip(floating, moving, strict=True):
                operands[place] = value
            return step.primitive.bind(*operands, **step.primitive.get_bind_params(step.params))

        return jax.jvp(call, [values[place] for place in floating], tangents)[0]

    program = trace(rule, values, [values[place] for place in floating])
    for inner in program.steps:
        same = inner.name == "custom_jvp_call" and inner.inputs == program.arguments[: len(values)]
        if same and inner.outputs == program.outputs and str(inner.params["call_jaxpr"]) == str(function):
            return True
    return False


def _reach(program: Program, sites: Sequence[Site], is_such: Callable[[Step], bool]) -> int:
    """The sites (as bits) whose outputs reach a step of some kind."""
    own = {site.output: 1 << place for place, site in enumerate(sites)}
    bits, total, live = [0] * len(program.avals), 0, needed(program)
    for index, step in enumerate(program.steps):
        every = _union(bits[atom] for atom in step.inputs if not isinstance(atom, core.Literal))
        if every and index in live and is_such(step):
            total |= every
        for number in step.outputs:
            bits[number] = every | own.get(number, 0)
    return total


def has_own_backward(function: Callable[..., Any], *arguments: Any) -> bool:
    """Whether a function calls what has only a backward pass (``custom_vjp``), so that it cannot be pushed forward."""
    steps = trace(function, *arguments).steps
    return any(inner.primitive.name == "custom_vjp_call" for step in steps for inner in with_inner(step))


def _reads(program: Program, sources: dict[int, int], linear: Container[int]) -> list[int]:
    """For every value, the set of sources (as bits) that it reads other than through locally constant values.

    ``linear``: the values that carry the derivative.  A backward pass of the user's own inside a derivative rule may be
    anything.
    """
    reads = [0] * len(program.avals)
    for number, bits in sources.items():
        reads[number] = bits

    def of(atom: Any) -> int:
        return 0 if isinstance(atom, core.Literal) else reads[atom]

    for step in program.steps:
        every = 0
        for atom in step.inputs:
            every |= of(atom)
        if any(_is_in(atom, linear) for atom in step.inputs) and _has_own_backward(step):
            every = -1
        for place, number in enumerate(step.outputs):
            reads[number] = _read_by(program, step, place, every, of)
    return reads


def _read_by(program: Program, step: Step, place: int, every: int, of: Callable[[Any], int]) -> int:
    if step.name in _BITS or holds_program(step):
        return every
    if step.name in _CONSTANT:
        return 0
    if step.name in ("select_and_gather_add", "select_and_scatter_add"):
        return of(step.inputs[0])  # the second only says which entry is the largest
    if step.name == "sort":
        return of(step.inputs[place])  # the others only say in which order
    if not jnp.issubdtype(program.avals[step.outputs[place]].dtype, jnp.inexact):
        numbers = [atom for atom in step.inputs if not isinstance(atom, core.Literal)]
        exact = [atom for atom in numbers if not jnp.issubdtype(program.avals[atom].dtype, jnp.inexact)]
        return _union(of(atom) for atom in exact)
    return every


def _is_in(atom: Any, numbers: Container[int]) -> bool:
    return not isinstance(atom, core.Literal) and atom in numbers


def _union(sets: Iterable[int]) -> int:
    total = 0
    for bits in sets:
        total |= bits
    return total
