"""Counts the arithmetic of a program: what routes are chosen by, and what a network costs."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax.extend import core

from jaxprune.sites.kernels import needed
from jaxprune.sites.program import Program, size


def total(program: Program) -> int:
    """Counts the operations on which the outputs depend.

    A product or a convolution counts two for every multiplication, everything else one for every number it returns.
    """
    return sum(_step(program, index) for index in needed(program))


def after(program: Program, numbers: list[int]) -> dict[int, int]:
    """Counts, for every one of these values, the operations that depend on it and on which the outputs depend."""
    live = needed(program)
    # Sets of values as bits: one pass for all of them.
    reached = {number: 1 << place for place, number in enumerate(numbers)}
    counts = [0] * len(numbers)
    for index, step in enumerate(program.steps):
        bits = 0
        for atom in step.inputs:
            bits |= 0 if isinstance(atom, core.Literal) else reached.get(atom, 0)
        if not bits or index not in live:
            continue
        work = _step(program, index)
        for place in range(len(numbers)):
            counts[place] += work * (bits >> place & 1)
        for number in step.outputs:
            reached[number] = reached.get(number, 0) | bits
    return dict(zip(numbers, counts, strict=True))


def multiplications(name: str, params: Mapping[str, Any], inputs: Sequence[Any], outputs: Sequence[Any]) -> int | None:
    """Counts the multiplications of one matrix product or convolution, those with padding too; None for all else.

    Args:
      name: of the primitive.
      params: its static parameters.
      inputs: shapes of what goes in.
      outputs: shapes of what comes out.
    """
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        extents = [inputs[0].shape[axis] for axis in contracted]
    elif name == "conv_general_dilated":
        _, of_input, *space = params["dimension_numbers"].rhs_spec
        extents = [inputs[1].shape[axis] for axis in (of_input, *space)]
    elif name == "depthwise":
        extents = inputs[1].shape[:-1]
    elif name == "correlations":
        return size(inputs[1]) * math.prod(params["sizes"])
    else:
        return None
    return size(outputs[0]) * math.prod(extents)


def nonzero(params: Mapping[str, Any], inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """Counts the multiplications of one convolution that meet no zero of a padding or between dilated inputs.

    Args:
      params: its static parameters.
      inputs: shapes of what goes in.
      outputs: shape of what comes out.

    >>> import jax.numpy as jnp
    >>> ones = jnp.ones((1, 4, 1)), jnp.ones((3, 1, 1))
    >>> made = jax.make_jaxpr(lambda x, w: jax.lax.conv(x.mT, w.T, (1,), "SAME"))(*ones)
    >>> step = made.eqns[-1]
    >>> nonzero(step.params, [each.aval for each in step.invars], [each.aval for each in step.outvars])
    10
    """
    numbers = params["dimension_numbers"]
    count = inputs[1].shape[numbers.rhs_spec[1]] * math.prod(outputs[0].shape[axis] for axis in numbers.out_spec[:2])
    for place in range(len(numbers.out_spec) - 2):
        extents = [aval.shape[spec[place + 2]] for aval, spec in zip((*inputs, *outputs), numbers, strict=True)]
        names = ("window_strides", "padding", "lhs_dilation", "rhs_dilation")
        count *= _meetings(*extents, *(params[name][place] for name in names))
    return count


@lru_cache(maxsize=1024)
def _meetings(
    extent: int, taps: int, made: int, stride: int, padding: tuple[int, int], spread: int, dilation: int
) -> int:
    """Counts the pairs of an output and a tap, along one axis, that meet an input."""
    at = np.arange(made)[:, None] * stride + np.arange(taps) * dilation - padding[0]
    return int(np.sum((at >= 0) & (at <= (extent - 1) * spread) & (at % spread == 0)))


def inside(params: Mapping[str, Any]) -> list[Any]:
    """Lists the programs that an equation runs (loops, branches, calls), from its static parameters."""
    found = []
    for value in params.values():
        # Most parameters are numbers: to ask each for its leaves would take most of the time.
        leaves = jax.tree.leaves(value) if isinstance(value, (tuple, list, dict)) else (value,)
        found += [leaf for leaf in leaves if isinstance(leaf, (core.Jaxpr, core.ClosedJaxpr))]
    return found


def opened(value: Any) -> Any:
    """Returns the equations and variables of a program: the ``Jaxpr`` of a ``ClosedJaxpr``."""
    return value.jaxpr if isinstance(value, core.ClosedJaxpr) else value


def _step(program: Program, index: int) -> int:
    step = program.steps[index]
    return _count(
        step.name, step.params, [program.aval(atom) for atom in step.inputs], [program.avals[at] for at in step.outputs]
    )


def _count(name: str, params: dict[str, Any], inputs: list[Any], outputs: list[Any]) -> int:
    multiplied = multiplications(name, params, inputs, outputs)
    if multiplied is not None:
        return 2 * multiplied
    made = sum(size(aval) for aval in outputs if hasattr(aval, "shape"))
    inner = inside(params)
    if not inner:
        return made
    times = params.get("length", 1) if name == "scan" else 1
    return times * sum(_program(value) for value in inner)


def _program(value: Any) -> int:
    return sum(
        _count(
            equation.primitive.name,
            equation.params,
            [atom.aval for atom in equation.invars],
            [variable.aval for variable in equation.outvars],
        )
        for equation in opened(value).eqns
    )


def repeated(value: Any) -> int:
    """Counts what the loops of a traced function do beyond their first turn."""
    total = 0
    for equation in opened(value).eqns:
        inner = inside(equation.params)
        if equation.primitive.name == "scan":
            total += (equation.params["length"] - 1) * sum(map(_program, inner))
        total += sum(map(repeated, inner))
    return total
