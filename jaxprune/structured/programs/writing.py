"""A program written as values that JSON has: what is computed, of which values, and of which types the results are.

A program is ``{"inputs": types, "constants": numbers, "steps": steps, "outputs": atoms}``.  Its values are numbered:
the inputs, the constants, and then the results of one step after the other.  An atom is the number of a value, or a
literal, ``{"float32": 2.0}``.  A step is ``{"do": primitive, "of": atoms, "makes": types, "with": parameters}``.  Calls
are taken apart; loops, branches, ``remat`` and functions with a derivative rule of their own hold programs themselves.
A rule is written down as what it computes: the program of its forward pass, or those of both passes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.extend import core

from jaxprune.sites.program import needed, opened, scan_parts
from jaxprune.sites.rules import backward_rule, floating, forward_rule
from jaxprune.structured.programs.values import Unknown, encode, primitives

Document = dict[str, Any]

CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
}
# Where arrays lie is no part of a program that is saved.
_PLACED = ("device_put", "sharding_constraint", "reshard", "mesh_cast")
_POLICIES = (
    *("everything_saveable", "nothing_saveable", "dots_saveable", "checkpoint_dots"),
    *("dots_with_no_batch_dims_saveable", "checkpoint_dots_with_no_batch_dims"),
)
_DEEPEST = 4


@dataclass
class Writer:
    """Writes programs, and collects the arrays that they have of their own.

    Attributes:
      constants: the arrays.
    """

    constants: list[np.ndarray] = field(default_factory=list)
    _known: dict[int, int] = field(default_factory=dict)
    _kept: list[Any] = field(default_factory=list)  # so that no other object gets the number of one
    _open: list[Document] = field(default_factory=list)

    def program(self, jaxpr: core.Jaxpr, consts: Sequence[Any]) -> Document:
        """Writes a program.

        Raises:
          Unknown: it holds what the format does not.
        """
        flat = _Flat(self, [self.constant(one) for one in consts], len(jaxpr.invars))
        numbers: dict[Any, Any] = {variable: number for number, variable in enumerate(jaxpr.invars)}
        # Constants of calls inside come to those of the program itself, so their number is known last.
        numbers |= {variable: _Constant(place) for place, variable in enumerate(jaxpr.constvars)}
        outputs = flat.inline(jaxpr, numbers)
        return flat.document([type_of(variable.aval) for variable in jaxpr.invars], outputs)

    def constant(self, value: Any) -> int:
        """Keeps an array, once."""
        if id(value) not in self._known:
            if not isinstance(value, (np.ndarray, np.generic, jax.Array, int, float, bool)):
                raise Unknown(f"a constant that is a {type(value).__name__}")
            if isinstance(value, Tracer) or jnp.issubdtype(jnp.result_type(value), jax.dtypes.prng_key):
                raise Unknown("a constant that is no array of numbers")
            self._kept.append(value)
            self._known[id(value)] = len(self.constants)
            self.constants.append(np.asarray(value))
        return self._known[id(value)]

    def held(self, equation: core.JaxprEqn) -> Document | None:
        """Writes the parameters of an equation that holds programs; None for all others."""
        params, name = equation.params, equation.primitive.name
        if name == "scan":
            kept = {key: encode(params[key]) for key in ("length", "reverse", "unroll")}
            kept["constants"], kept["carried"] = scan_parts(params)
            return {**kept, "body": self._inner(params["jaxpr"])}
        if name == "while":
            kept = {key: params[key] for key in ("cond_nconsts", "body_nconsts")}
            return {**kept, "condition": self._inner(params["cond_jaxpr"]), "body": self._inner(params["body_jaxpr"])}
        if name == "cond":
            return {"branches": [self._inner(branch) for branch in params["branches"]]}
        if name in ("remat2", "checkpoint"):
            return {
                "body": self._inner(params["jaxpr"]),
                "policy": _policy(params["policy"]),
                "prevent_cse": encode(params["prevent_cse"]),
            }
        return None

    def ruled(self, equation: core.JaxprEqn) -> Document:
        """Writes a function with a derivative rule: itself, and the programs of its rule.

        A rule may use the function itself.  That is known by its program, and becomes ``{"same": n}``, the n-th of the
        functions around it.
        """
        primal = self._inner(equation.params["call_jaxpr"])
        for depth, around in enumerate(reversed(self._open)):
            if around["primal"] == primal and around["name"] == equation.primitive.name:
                return {"same": depth}
        if len(self._open) == _DEEPEST:
            raise Unknown(f"{_DEEPEST} functions with rules of their own, each in the rule of the other")
        written = {"name": equation.primitive.name, "primal": primal}
        self._open.append(written)
        try:
            if equation.primitive.name == "custom_jvp_call":
                return {"primal": primal, "rule": self._inner(forward_rule(equation))}
            rule = backward_rule(equation)
            return {"primal": primal, "forward": self._inner(rule.forward), "backward": self._inner(rule.backward)}
        finally:
            self._open.pop()

    def _inner(self, program: Any) -> Document:
        jaxpr, consts = opened(program)
        return self.program(jaxpr, consts)


@dataclass(frozen=True)
class _Constant:
    place: int


class _Flat:
    """One program, while it is written."""

    def __init__(self, writer: Writer, constants: list[int], inputs: int) -> None:
        self.writer, self.constants, self.inputs = writer, constants, inputs
        self.steps: list[Document] = []
        self.made = 0

    def inline(self, jaxpr: core.Jaxpr, numbers: dict[Any, Any]) -> list[Any]:
        """Writes the equations on which the outputs depend; calls are taken apart."""
        for equation in needed(jaxpr):
            name = equation.primitive.name
            operands = [self.atom(atom, numbers) for atom in equation.invars]
            ruled = name in ("custom_jvp_call", "custom_vjp_call")
            if name in _PLACED:
                results = operands
            elif name == "psum" and (summed := _summed(equation)) is not None:
                results = self.inline(summed.jaxpr, dict(zip(summed.jaxpr.invars, operands, strict=True)))
            elif name in CALLS or (ruled and not _has_rule(equation)):
                inner, consts = opened(equation.params[CALLS.get(name, "call_jaxpr")])
                inside = dict(zip(inner.invars, operands, strict=True))
                inside |= {variable: self.added(value) for variable, value in zip(inner.constvars, consts, strict=True)}
                results = self.inline(inner, inside)
            else:
                results = self.step(equation, operands)
            numbers.update(zip(equation.outvars, results, strict=True))
        return [self.atom(atom, numbers) for atom in jaxpr.outvars]

    def step(self, equation: core.JaxprEqn, operands: list[Any]) -> list[Any]:
        """Writes one equation."""
        name = equation.primitive.name
        try:
            if name in ("custom_jvp_call", "custom_vjp_call"):
                params: Document | None = self.writer.ruled(equation)
            else:
                params = self.writer.held(equation)
            if params is None:
                params = _plain(equation)
            makes = [type_of(variable.aval) for variable in equation.outvars]
        except Unknown as unknown:
            raise _placed(equation, unknown) from unknown
        self.steps.append({"do": name, "of": operands, "makes": makes, "with": params})
        start = self.made
        self.made += len(makes)
        return [_Made(start + place) for place in range(len(makes))]

    def added(self, value: Any) -> _Constant:
        """A constant more."""
        number = self.writer.constant(value)
        if number not in self.constants:
            self.constants.append(number)
        return _Constant(self.constants.index(number))

    def atom(self, atom: Any, numbers: dict[Any, Any]) -> Any:
        """The number of a value, or a literal."""
        if not isinstance(atom, core.Literal):
            return numbers[atom]
        if np.ndim(atom.val):
            return self.added(atom.val)
        aval: Any = atom.aval
        return {aval.dtype.name: encode(np.asarray(atom.val).astype(aval.dtype).item())}

    def document(self, inputs: list[Any], outputs: list[Any]) -> Document:
        """The program, its values numbered."""
        first = self.inputs + len(self.constants)

        def numbered(atom: Any) -> Any:
            if isinstance(atom, _Constant):
                return self.inputs + atom.place
            return first + atom.place if isinstance(atom, _Made) else atom

        steps = [{**step, "of": [numbered(atom) for atom in step["of"]]} for step in self.steps]
        outputs = [numbered(atom) for atom in outputs]
        return {"inputs": inputs, "constants": self.constants, "steps": steps, "outputs": outputs}


@dataclass(frozen=True)
class _Made:
    place: int


def _plain(equation: core.JaxprEqn) -> Document:
    name, params = equation.primitive.name, dict(equation.params)
    if equation.primitive is not primitives().get(name):
        raise Unknown("this primitive")
    if name.startswith("scatter"):  # its small program is that of the primitive, which JAX makes anew
        if params.pop("update_consts", ()):
            raise Unknown("constants of its own")
        params.pop("update_jaxpr", None)
    written = {}
    for key, value in params.items():
        try:
            written[key] = encode(value)
        except Unknown as unknown:
            raise Unknown(f"{key}, {unknown}") from unknown
    return written


def _summed(equation: core.JaxprEqn) -> core.ClosedJaxpr | None:
    """The sums that a sum over an axis with a name has become under ``vmap``; None where the name is still open."""
    axes, groups = equation.params["axes"], equation.params.get("axis_index_groups")
    if groups is not None or not all(isinstance(axis, int) for axis in axes):
        return None
    return jax.make_jaxpr(lambda *values: [lax.reduce_sum(one, axes) for one in values])(
        *(atom.aval for atom in equation.invars)
    )


def _policy(policy: Callable[..., Any] | None) -> str | None:
    names = [name for name in _POLICIES if getattr(jax.checkpoint_policies, name, None) is policy]
    if policy is not None and not names:
        raise Unknown("policy, a function that is none of jax.checkpoint_policies without arguments")
    return names[0] if policy is not None else None


def _placed(equation: core.JaxprEqn, unknown: Unknown) -> Unknown:
    """Says where in the program something stands."""
    said = str(unknown)
    if " of the primitive " in said:
        return unknown
    stack = str(equation.source_info.name_stack)
    return Unknown(f"{said} of the primitive {equation.primitive.name!r}{f' in {stack}' if stack else ''}")


def _has_rule(equation: core.JaxprEqn) -> bool:
    """Whether a derivative can be asked of a call at all."""
    return bool(floating([atom.aval for atom in equation.invars]))


def type_of(aval: Any) -> list[Any]:
    """Writes a type and a shape."""
    if jnp.issubdtype(aval.dtype, jax.dtypes.prng_key):
        return ["key", list(aval.shape)]
    return [np.dtype(aval.dtype).name, list(aval.shape)]
