"""The linear head of a network, found in its program: outputs = h W + b."""

from dataclasses import dataclass
from typing import Any

from jax.extend import core

from jaxprune.sites.kernels import Site
from jaxprune.sites.program import Program, Step

# Steps that hand on a value as it is, but for its type.
_SAME = ("convert_element_type", "copy", "name", "reduce_precision", "sharding_constraint")


@dataclass(frozen=True)
class Head:
    """A linear head.

    Attributes:
      inputs: the number of h [b, d], all that the outputs read of the images.
      kernel: W [d, c], the number of a value or a literal.
      transposed: whether it is [c, d].
      width: d.
    """

    inputs: int
    kernel: Any
    transposed: bool
    width: int

    @property
    def needs(self) -> tuple[int, ...]:
        """The numbers of the values that hold W."""
        return () if isinstance(self.kernel, core.Literal) else (self.kernel,)


def find_head(program: Program) -> Head | None:
    """Finds the linear head of a network, or None where the outputs are not proven to be h W + b.

    Args:
      program: of ``apply(params, state, images)``, with outputs [b, c].

    >>> import jax.numpy as jnp
    >>> from jaxprune.sites.program import trace
    >>> params = {"w": jnp.ones((3, 9)), "b": jnp.ones(9)}
    >>> find_head(trace(lambda p, s, x: jnp.abs(x) @ p["w"] + p["b"], params, {}, jnp.ones((2, 3)))).width
    3
    """
    makers = {number: step for step in program.steps for number in step.outputs}
    moving = _descendants(program, {program.arguments[-1]})
    at = program.outputs[0]
    while not isinstance(at, core.Literal) and at in makers:
        step = makers[at]
        those = [atom for atom in step.inputs if not isinstance(atom, core.Literal) and atom in moving]
        if len(those) != 1:
            return None
        if step.name == "dot_general":
            return _head(program, step, those[0])
        shape = program.avals[at].shape
        handed = step.name in _SAME or step.name in ("add", "add_any", "sub")
        if not handed or program.avals[those[0]].shape != shape:
            return None
        (at,) = those
    return None


def _head(program: Program, step: Step, inputs: int) -> Head | None:
    (left, right), batched = step.params["dimension_numbers"]
    if step.inputs[0] != inputs or batched != ((), ()) or tuple(left) != (1,) or len(right) != 1:
        return None
    kernel = program.aval(step.inputs[1])
    if len(program.avals[inputs].shape) != 2 or len(kernel.shape) != 2:
        return None
    return Head(inputs, step.inputs[1], right[0] == 1, program.avals[inputs].shape[1])


def comes_before(program: Program, head: Head, site: Site) -> bool:
    """Whether the outputs read a site through the inputs of the head alone."""
    makers = {number: step for step in program.steps for number in step.outputs}
    seen: set[int] = set()
    waiting = [atom for atom in program.outputs if not isinstance(atom, core.Literal)]
    while waiting:
        at = waiting.pop()
        if at in seen or at == head.inputs:
            continue
        seen.add(at)
        if at in makers:
            waiting += [atom for atom in makers[at].inputs if not isinstance(atom, core.Literal)]
    return site.output not in seen


def _descendants(program: Program, numbers: set[int]) -> set[int]:
    found = set(numbers)
    for step in program.steps:
        if found.intersection(atom for atom in step.inputs if not isinstance(atom, core.Literal)):
            found.update(step.outputs)
    return found
