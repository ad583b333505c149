"""The program of a pure function: its equations in one flat list, to be walked, and evaluated with changes.

``trace`` follows a function once, whatever library wrote it, and takes nested calls (``jit``, ``remat``) apart.  What
carries a derivative rule of its own stays whole, so that the rule survives.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxprune.sites.depthwise import of_slices, slices_serve, to_read

# Equations that hold a program of their own, and where.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}
_CUSTOM = {"custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}


@dataclass(frozen=True)
class Step:
    """One equation.

    Attributes:
      primitive: what is computed.
      params: its static parameters.
      inputs: numbers of values, or literals.
      outputs: numbers of values.
    """

    primitive: Any
    params: dict[str, Any]
    inputs: tuple[Any, ...]
    outputs: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name of the primitive."""
        return self.primitive.name


@dataclass
class Program:
    """Steps in the order of their evaluation, over numbered values.

    Attributes:
      steps: the equations.
      avals: shape and type of every value, by its number.
      arguments: the numbers of the leaves of the arguments.
      outputs: numbers, or literals, of the leaves of the outputs.
      constants: the values that the function closes over, by number.
    """

    steps: list[Step] = field(default_factory=list)
    avals: list[Any] = field(default_factory=list)
    arguments: tuple[int, ...] = ()
    outputs: tuple[Any, ...] = ()
    constants: dict[int, Any] = field(default_factory=dict)

    def new(self, aval: Any) -> int:
        """Numbers a new value."""
        self.avals.append(aval)
        return len(self.avals) - 1

    def aval(self, atom: Any) -> Any:
        """Shape and type of an input of a step: a value, or a literal."""
        return atom.aval if isinstance(atom, core.Literal) else self.avals[atom]

    def run(
        self,
        arguments: Sequence[Any],
        change: Mapping[int, Callable[[Any], Any]],
        keep: Sequence[int] = (),
        *,
        sliced: bool = False,
    ) -> tuple[list[Any], dict[int, Any]]:
        """Evaluates the program, changing values on the way.

        Args:
          arguments: the leaves of the arguments.
          change: number of a value -> what replaces it, a function of the value.
          keep: numbers of the values to return (as changed).
          sliced: whether depthwise convolutions may be sums of slices: faster on a CPU, but in what comes out of it no
            kernel enters through one operation any more, so that it is for programs that nobody traces again.

        Returns:
          The leaves of the outputs, and the kept values by number.
        """
        values: dict[int, Any] = dict(self.constants)
        values.update(zip(self.arguments, arguments, strict=True))
        for step in self.steps:
            operands = [look(values, atom) for atom in step.inputs]
            quick = sliced and step.name == "conv_general_dilated" and slices_serve(step.params, *operands)
            results = [of_slices(step.params, *operands)] if quick else apply(step, operands)
            for number, result in zip(step.outputs, results, strict=True):
                values[number] = change[number](result) if number in change else result
        return [look(values, atom) for atom in self.outputs], {number: values[number] for number in keep}


def trace(function: Callable[..., Any], *arguments: Any, enter_custom: bool = False, whole: bool = False) -> Program:
    """Traces a pure function into a flat program.

    Args:
      function: pure.
      *arguments: pytrees of arrays, or of ``jax.ShapeDtypeStruct``.
      enter_custom: whether to take apart also the calls with a derivative rule of their own that hold a tagged value.
        The rule is then lost: for reading, not for differentiating.
      whole: whether a depthwise convolution that runs as slices is one step.

    >>> program = trace(jax.jit(lambda x: x * 2 + 1), 3.0)
    >>> [step.name for step in program.steps]
    ['mul', 'add']
    >>> program.run([3.0], {})[0]
    [Array(7., dtype=float32, weak_type=True)]
    """
    closed = jax.make_jaxpr(function)(*arguments) if whole else to_read(function, *arguments)
    program = Program()
    program.arguments = tuple(program.new(variable.aval) for variable in closed.jaxpr.invars)
    program.outputs = tuple(_inline(program, closed.jaxpr, closed.consts, program.arguments, enter_custom))
    return program


def apply(step: Step, operands: Sequence[Any]) -> list[Any]:
    """Evaluates one step."""
    results = step.primitive.bind(*operands, **step.primitive.get_bind_params(step.params))
    return list(results) if step.primitive.multiple_results else [results]


def look(values: Mapping[int, Any], atom: Any) -> Any:
    """Returns what an input stands for: a literal's own value, or that of its number."""
    return atom.val if isinstance(atom, core.Literal) else values[atom]


def opened(program: Any) -> tuple[core.Jaxpr, Sequence[Any]]:
    """Returns the equations of a program and its constants."""
    return (program.jaxpr, program.consts) if isinstance(program, core.ClosedJaxpr) else (program, ())


def needed(jaxpr: core.Jaxpr) -> list[core.JaxprEqn]:
    """The equations on which the outputs depend, in their order."""
    wanted = {atom for atom in jaxpr.outvars if not isinstance(atom, core.Literal)}
    found = []
    for equation in reversed(jaxpr.eqns):
        if not wanted.isdisjoint(equation.outvars):
            found.append(equation)
            wanted.update(atom for atom in equation.invars if not isinstance(atom, core.Literal))
    return found[::-1]


def scan_parts(params: Mapping[str, Any]) -> tuple[int, int]:
    """Counts, of the operands of a ``scan``, the constants that come first, and what it carries, which comes next."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    constants, carried, _ = params["ft_in"].unpack()  # since JAX 0.12
    return len(constants), len(carried)


def holds_program(step: Step) -> bool:
    """Whether a step runs a program of its own (a loop, a branch, a call with its own derivative)."""
    return any(isinstance(value, (core.Jaxpr, core.ClosedJaxpr)) for value in jax.tree.leaves(step.params))


def with_inner(step: Any) -> Iterator[Any]:
    """A step, or an equation, and every equation of the programs that it holds."""
    yield step
    for value in jax.tree.leaves(step.params):
        if isinstance(value, (core.Jaxpr, core.ClosedJaxpr)):
            for equation in value.eqns:
                yield from with_inner(equation)


def coarsest(program: core.ClosedJaxpr) -> Any:
    """The floating-point type of the largest rounding among all that a program makes, loops included.

    >>> coarsest(jax.make_jaxpr(lambda x: (x.astype("bfloat16") * 2).astype("float32"))(1.0)).name
    'bfloat16'
    """
    equations = (inner for equation in program.eqns for inner in with_inner(equation))
    made = {value.aval.dtype for equation in equations for value in equation.outvars}
    floating = [kind for kind in made if jnp.issubdtype(kind, jnp.floating)]
    return max(floating, key=lambda kind: float(jnp.finfo(kind).eps), default=jnp.dtype("float32"))


def _inline(
    program: Program, jaxpr: core.Jaxpr, consts: Sequence[Any], inputs: Sequence[Any], enter_custom: bool
) -> list[Any]:
    numbers: dict[Any, Any] = dict(zip(jaxpr.invars, inputs, strict=True))
    for variable, value in zip(jaxpr.constvars, consts, strict=True):
        numbers[variable] = program.new(variable.aval)
        program.constants[numbers[variable]] = value
    for equation in jaxpr.eqns:
        operands = [atom if isinstance(atom, core.Literal) else numbers[atom] for atom in equation.invars]
        inner = _inner(equation, enter_custom)
        if inner is not None:
            results = _inline(program, *inner, operands, enter_custom)
        else:
            results = [program.new(variable.aval) for variable in equation.outvars]
            program.steps.append(Step(equation.primitive, equation.params, tuple(operands), tuple(results)))
        numbers.update(zip(equation.outvars, results, strict=True))
    return [atom if isinstance(atom, core.Literal) else numbers[atom] for atom in jaxpr.outvars]


def _inner(equation: core.JaxprEqn, enter_custom: bool) -> tuple[core.Jaxpr, Sequence[Any]] | None:
    name = equation.primitive.name
    if name in _CALLS:
        return opened(equation.params[_CALLS[name]])
    if enter_custom and name in _CUSTOM:
        inner = opened(equation.params[_CUSTOM[name]])
        return inner if _has_tag(inner[0]) else None
    return None


def _has_tag(jaxpr: core.Jaxpr) -> bool:
    return any(
        equation.primitive.name == "name" or ((inner := _inner(equation, True)) is not None and _has_tag(inner[0]))
        for equation in jaxpr.eqns
    )


def size(aval: Any) -> int:
    """Counts the numbers in a value."""
    return int(np.prod(aval.shape, dtype=np.int64))
