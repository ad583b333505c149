"""Counts the arithmetic of a program: what routes are chosen by, and what a network costs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
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
    else:
        return None
    return size(outputs[0]) * math.prod(extents)


def inside(params: Mapping[str, Any]) -> list[Any]:
    """Lists the programs that an equation runs (loops, branches, calls), from its static parameters."""
    return [value for value in jax.tree.leaves(dict(params)) if isinstance(value, (core.Jaxpr, core.ClosedJaxpr))]


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
