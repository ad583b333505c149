"""A traced program in the form in which a compiler would run it: what is counted before it is compiled.

Calls are entered; steps that repeat others, that nothing needs, or that do nothing, are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jax.extend import core

from jaxprune.sites.operations import inside, opened

PRODUCTS = ("dot_general", "conv_general_dilated")
LOOPS = ("scan", "while", "cond")
# Other shapes of the same numbers: nothing is done.
_ALIASES = ("reshape", "squeeze", "expand_dims", "copy", "name", "stop_gradient", "optimization_barrier")
# They move numbers, and fuse into what needs them.
MOVES = ("broadcast_in_dim", "slice", "dynamic_slice", "transpose", "rev", "pad", "gather", "split", "iota", "tile")
# What they need fuses into them; what needs them waits until they are done.
_ROOTS = ("reduce_", "argm", "concatenate", "stack", "dynamic_update_slice", "scatter")
# Of the shape of their input, but not number by number.
_WHOLE = ("sort", "cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "cholesky", "custom_call")
_NEUTRAL = {"add": 0, "add_any": 0, "sub": 0, "mul": 1, "div": 1}


@dataclass(frozen=True, eq=False)
class Step:
    """One equation: what it needs and makes, by number, and the avals of both."""

    name: str
    params: dict[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    needs: tuple[Any, ...]
    makes: tuple[Any, ...]

    @property
    def fuses(self) -> bool:
        """Whether it is computed inside of what needs it."""
        if self.name in MOVES:
            return True
        shape = self.makes[0].shape
        alike = all(getattr(aval, "shape", None) in (shape, ()) for aval in self.needs)
        return alike and len(self.makes) == 1 and not self.name.startswith((*_ROOTS, *_WHOLE, *PRODUCTS, *LOOPS))

    @property
    def takes_fused(self) -> bool:
        """Whether what it needs is computed inside of it."""
        return self.fuses or self.name.startswith(_ROOTS)


@dataclass(eq=False)
class Flat:
    """The steps that a program has to take, in order, over numbered values.

    Attributes:
      program: what is flattened.
      steps: none of them repeats another, or is unneeded.
      inputs: the numbers of arguments and constants.
      outputs: the numbers of the results.
      known: the values known before the program runs, by number; None: known, but not one number everywhere.
      parts: the avals of what a device has of the results of ``shard_map``, by number.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> program = jax.make_jaxpr(lambda x: (jax.jit(jnp.sin)(x), 1 * jnp.sin(x), jnp.cos(x).shape[0]))(jnp.ones(2))
    >>> [step.name for step in Flat(program).steps]
    ['sin']
    """

    program: Any
    steps: list[Step] = field(default_factory=list)
    inputs: set[int] = field(default_factory=set)
    outputs: list[int] = field(default_factory=list)
    known: dict[int, float | None] = field(default_factory=dict)
    parts: dict[int, Any] = field(default_factory=dict)
    _numbers: int = 0
    _same: dict[Any, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        arguments = [self._new() for _ in opened(self.program).invars]
        self.inputs.update(arguments)
        self.outputs = self._enter(self.program, arguments)
        needed = set(self.outputs)
        live = []
        for step in reversed(self.steps):
            if needed.intersection(step.outputs):
                needed.update(step.inputs)
                live.append(step)
        self.steps = live[::-1]

    def _new(self) -> int:
        self._numbers += 1
        return self._numbers

    def _literal(self, atom: core.Literal) -> int:
        value: Any = atom.val
        key = (str(atom.aval), float(value) if np.ndim(value) == 0 and np.isrealobj(value) else id(value))
        if key not in self._same:
            self._same[key] = (self._new(),)
            self.known[self._same[key][0]] = key[1] if np.ndim(value) == 0 else None
        return self._same[key][0]

    def _enter(self, program: Any, arguments: Sequence[int]) -> list[int]:
        jaxpr = opened(program)
        numbers = dict(zip(jaxpr.invars, arguments, strict=True))
        for variable in jaxpr.constvars:
            numbers[variable] = self._new()
            self.inputs.add(numbers[variable])
        for equation in jaxpr.eqns:
            inputs = [self._number(atom, numbers) for atom in equation.invars]
            inner = _called(equation)
            made = self._enter(inner, inputs) if inner is not None else self._step(equation, inputs)
            if equation.primitive.name == "shard_map":
                self.parts.update(zip(made, (atom.aval for atom in opened(inner).outvars), strict=True))
            numbers.update(zip(equation.outvars, made, strict=True))
        return [self._number(atom, numbers) for atom in jaxpr.outvars]

    def _number(self, atom: Any, numbers: dict[Any, int]) -> int:
        return self._literal(atom) if isinstance(atom, core.Literal) else numbers[atom]

    def _step(self, equation: Any, inputs: list[int]) -> Sequence[int]:
        name, makes = equation.primitive.name, tuple(variable.aval for variable in equation.outvars)
        simple = self._simplified(equation, name, inputs)
        if simple is not None:
            return simple
        needs = tuple(atom.aval for atom in equation.invars)
        key = (equation.primitive, *inputs, *(aval.shape for aval in needs if hasattr(aval, "shape")))
        try:
            key = (*key, frozenset(equation.params.items()))
            found = self._same.get(key)
        except TypeError:  # parameters that have no hash
            key, found = object(), None
        if found is not None:
            return found
        made = tuple(self._new() for _ in makes)
        self._same[key] = made
        if all(number in self.known for number in inputs) and name not in LOOPS:
            self.known.update(dict.fromkeys(made))
        else:
            self.steps.append(Step(name, equation.params, tuple(inputs), made, needs, makes))
        return made

    def _simplified(self, equation: Any, name: str, inputs: list[int]) -> Sequence[int] | None:
        """The numbers of an equation that does nothing; None if it does something."""
        if name in _ALIASES:
            return inputs
        if name in ("broadcast_in_dim", "convert_element_type") and self.known.get(inputs[0]) is not None:
            return inputs[:1]
        shape = equation.outvars[0].aval.shape if name in _NEUTRAL else None
        for neutral, other in ((1, 0), (0, 1)) if name in _NEUTRAL else ():
            first = name in ("sub", "div") and neutral == 0
            same = equation.invars[other].aval.shape == shape
            if not first and same and self.known.get(inputs[neutral]) == _NEUTRAL[name]:
                return [inputs[other]]
        return None


def _called(equation: Any) -> Any:
    """The program that an equation calls with its own inputs and outputs; None if there is none."""
    if equation.primitive.name in LOOPS:
        return None
    if equation.primitive.name == "shard_map":  # of one device, which has a part of what goes in
        return equation.params["jaxpr"]
    for inner in inside(equation.params):
        jaxpr = opened(inner)
        sides = ((jaxpr.invars, equation.invars), (jaxpr.outvars, equation.outvars))
        if all([_shape(atom) for atom in one] == [_shape(atom) for atom in other] for one, other in sides):
            return inner
    return None


def _shape(atom: Any) -> Any:
    return getattr(atom.aval, "shape", None)
