"""Walks through a program, whatever it calls, and applies the rule of every primitive."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

from jaxprune.sites.operations import multiplications
from jaxprune.sites.program import needed, opened, scan_parts
from jaxprune.sites.rules import Backward, backward_rule, floating, forward_rule
from jaxprune.structured.discovery import constants, layout, products
from jaxprune.structured.discovery.counting import RECOMPUTED, UNCOUNTED, Counts, passed
from jaxprune.structured.discovery.described import Description, by_letters
from jaxprune.structured.discovery.facts import Contraction, Facts, Origin, Step, Value
from jaxprune.structured.discovery.indices import CONSTANT, IMAGES, STAYS, WEIGHTS, Nodes
from jaxprune.structured.discovery.table import PRODUCTS, RULES

Axes = tuple[Nodes, ...]

# Equations that run one program on their operands, and where they have it.
CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
# Of derivative rules, and rules of these rules: curvature needs no more.
ORDERS = 2
_RESHAPED = frozenset(["transpose", "squeeze", "broadcast_in_dim", "reshape", "slice", "split", "rev"])
_SAME = frozenset(["convert_element_type", "copy", "copy_p", "neg", "name", "stop_gradient", "sharding_constraint"])


class Record(NamedTuple):
    """The indices of what goes into an equation, and of what comes out."""

    before: tuple[Axes, ...]
    after: tuple[Axes, ...]


class Walk:
    """Walks through programs, and collects facts.

    Args:
      describe: rules of the user's own, by the name of a primitive.
      recompute: whether statistics over units are recomputed over those that are left, rather than keep them.

    Attributes:
      facts: what was found.
      records: the indices of every equation, by its place: the equations that hold it, from the outside.
      constants: those of the constants of every program that was entered, by its place.
      rules: the derivative rules of functions that have their own, by the place of the call, up to second derivatives.
      hidden: the sums in these rules.
    """

    def __init__(self, describe: Mapping[str, Description], *, recompute: bool = False) -> None:
        self.facts = Facts(counts=Counts() if recompute else None)
        self.records: dict[tuple[int, ...], Record] = {}
        self.constants: dict[tuple[int, ...], list[Axes]] = {}
        self.rules: dict[tuple[int, ...], core.ClosedJaxpr | Backward] = {}
        self.hidden: list[Contraction] = []
        self._describe = describe
        self._order = 0
        self._path: list[int] = []
        self._turns = 1

    def program(
        self, jaxpr: core.Jaxpr, consts: Sequence[Any], inputs: Sequence[Value], scope: str = ""
    ) -> list[Value]:
        """Follows values through a program.

        Returns:
          Its outputs.
        """
        values: dict[Any, Value] = dict(zip(jaxpr.invars, inputs, strict=True))
        for variable, number in zip(jaxpr.constvars, consts, strict=True):
            values[variable] = self.constant(number)
        self.constants[*self._path, id(jaxpr)] = [values[variable].axes for variable in jaxpr.constvars]
        for equation in needed(jaxpr):
            operands = [
                self.constant(atom.val) if isinstance(atom, core.Literal) else values[atom] for atom in equation.invars
            ]
            self._path.append(id(equation))
            results = self._equation(equation, operands, scope)
            # Again in every turn of a loop: the last one counts.
            self.records[tuple(self._path)] = Record(
                tuple(one.axes for one in operands), tuple(one.axes for one in results)
            )
            self._path.pop()
            for variable, result in zip(equation.outvars, results, strict=True):
                if result.shape != extents(variable):
                    raise ValueError(
                        f"network: expected axes of {extents(variable)} for the result of "
                        f"{equation.primitive.name}, but its rule gives {result.shape}. This is an error of jaxprune: "
                        f"please report it, and pass describe={{{equation.primitive.name!r}: ...}} meanwhile."
                    )
                values[variable] = result
        return [self.constant(atom.val) if isinstance(atom, core.Literal) else values[atom] for atom in jaxpr.outvars]

    def constant(self, number: Any) -> Value:
        """Makes the value of a number, or array, that the program has."""
        shape = np.shape(number)
        known, counted = constants.given(number, counted=self.facts.counts is not None)
        axes = tuple(self.facts.indices.fresh(length) for length in shape)
        for nodes in axes:
            if len(nodes) > 1:
                self.facts.notes.append((nodes, "an array of the program's own lies along its units"))
        return Value(axes, CONSTANT, known=known, counted=counted)

    def _equation(self, equation: core.JaxprEqn, operands: Sequence[Value], scope: str) -> list[Value]:
        name = equation.primitive.name
        here = "/".join(part for part in (scope, str(equation.source_info.name_stack)) if part)
        self.facts.indices.step = f"{name} in {here}" if here else name
        self.facts.place = tuple(self._path)
        if name in CALLS and name not in self._describe:
            before = self.facts.sealed
            self.facts.sealed |= name.startswith("custom")
            results = self.program(*opened(equation.params[CALLS[name]]), operands, here)
            if name in ("custom_jvp_call", "custom_vjp_call"):
                self._rule(equation, operands, results, here)
                if self.facts.counts is not None:
                    behind = self.facts.counts.behind(operands)
                    results = [one if one.source == CONSTANT else replace(one, counted=behind) for one in results]
            self.facts.sealed = before
            return results
        if name in ("scan", "while", "cond") and name not in self._describe:
            loop = {"scan": self._scan, "while": self._while, "cond": self._cond}[name]
            return loop(equation.params, operands, here)
        step = Step(name, equation.params, tuple(map(extents, equation.outvars)))
        results, marks, origins = self._followed(step, operands)
        for operand in operands:
            marks |= operand.marks
        source = max((operand.source for operand in operands), default=CONSTANT)
        known = constants.evaluated(equation, operands, counted=self.facts.counts is not None)
        made = []
        for axes, variable in zip(results, equation.outvars, strict=True):
            counted = UNCOUNTED
            if self.facts.counts is not None and source == CONSTANT:
                counted = constants.followed(equation, operands, known)
                if name in RECOMPUTED and not self.facts.sealed:
                    self.facts.counts.own(self.facts.place, step, operands[0], self.facts.indices.step)
            elif self.facts.counts is not None and not self.facts.sealed:
                kinds: Any = axes, variable.aval
                counted = self.facts.counts.step(self.facts.place, step, operands, kinds, self.facts.indices.step)
            made.append(Value(tuple(axes), source, origins, marks, known, counted))
        return made

    def _rule(self, equation: core.JaxprEqn, operands: Sequence[Value], results: Sequence[Value], here: str) -> None:
        """Follows the derivative rule of a function too: in it, indices may go together that do not in the function.

        It reads and ends no units, since where the leaves that read a unit are zero, no derivative comes to it.
        """
        moving, moved = floating([atom.aval for atom in equation.invars]), floating([v.aval for v in equation.outvars])
        if not moving or self._order == ORDERS:
            return
        path, outside = tuple(self._path), self.facts
        if path not in self.rules:
            backward = equation.primitive.name == "custom_vjp_call"
            self.rules[path] = backward_rule(equation) if backward else forward_rule(equation)
        rule, self._order = self.rules[path], self._order + 1
        self.facts = replace(outside, contractions=[], uses={}, operations={})
        given, made = [operands[place] for place in moving], [results[place] for place in moved]
        if isinstance(rule, Backward):
            first = self.program(*opened(rule.forward), operands, here)
            kept = first[rule.results :]
            last = self.program(*opened(rule.backward), [*kept, *map(_moving, made)], here)
            pairs = (*zip(first, results, strict=False), *zip(last, given, strict=True))
        else:
            last = self.program(*opened(rule), [*operands, *map(_moving, given)], here)
            pairs = zip(last, [*results, *made], strict=True)
        self.facts.indices.step = f"the derivative rule of {equation.primitive.name} in {here}"
        for one, other in pairs:
            for left, right in zip(one.axes, other.axes, strict=True):
                self.facts.indices.join(left, right)
        self.hidden += self.facts.contractions
        self.facts, self._order = outside, self._order - 1

    def _followed(self, step: Step, operands: Sequence[Value]) -> tuple[list[Axes], int, tuple[Origin, ...]]:
        """The axes of the results of a step, the statistics that it is, and the leaves that it is linear in."""
        if step.name in self._describe:
            before, self.facts.sealed = self.facts.sealed, True
            results, marks = by_letters(self.facts, self._describe[step.name], step, *operands)
            self.facts.sealed = before
            return results, marks, ()
        if step.name in PRODUCTS:
            self._count(step, operands)
            results, marks = PRODUCTS[step.name](self.facts, step, *operands)
            return results, marks, products.still(self.facts, step, *operands) if step.name == "dot_general" else ()
        if step.name in RULES:
            results = RULES[step.name](self.facts, step, *operands)
        else:
            why = "nothing describes this primitive (discover(..., describe=...) can)"
            results = layout.stays(self.facts, step, why, *operands)
        return results, 0, self._origins(step, operands)

    def _count(self, step: Step, operands: Sequence[Value]) -> None:
        """Notes how often a leaf is multiplied by."""
        made = [jax.ShapeDtypeStruct(shape, np.float32) for shape in step.shapes]
        count = multiplications(step.name, step.params, operands, made) or 0
        for leaf in {one.leaf for operand in operands if operand.source == WEIGHTS for one in operand.origins}:
            self.facts.operations[leaf, self.facts.place] = count * self._turns

    def _origins(self, step: Step, operands: Sequence[Value]) -> tuple[Origin, ...]:
        """The leaves that the results are still linear in; where they cease to be, that is a use of them."""
        kept: list[Value] = []
        if step.name in _SAME or step.name in _RESHAPED:
            kept = [operands[0]]
        elif step.name in ("mul", "div"):
            # Of a factor that depends on the images, signs and sizes are not known before.
            sides = operands if step.name == "mul" else operands[:1]
            kept = [one for one in sides if one.shape and one.shape == step.shapes[0]]
            if any(one.source == IMAGES for one in operands):
                kept = []
        if len(kept) == 2 and products.shared(*kept):
            kept = []
        for operand in operands:
            if not any(operand is one for one in kept):
                self.facts.use(operand)
        return tuple(Origin(origin.leaf, _moved(step, one, origin)) for one in kept for origin in one.origins)

    def _scan(self, params: Mapping[str, Any], operands: Sequence[Value], scope: str) -> list[Value]:
        constants, carried = scan_parts(params)
        fixed, carry, slices = (
            list(operands[:constants]),
            list(operands[constants : constants + carried]),
            operands[constants + carried :],
        )
        for one in slices:
            self.facts.indices.fix(one.axes[0], "turns of a loop")
        turns = [_without_first(one) for one in slices]
        self._turns *= params["length"]
        carry, results = self._repeated(params["jaxpr"], fixed, carry, turns, scope)
        self._turns //= max(1, params["length"])
        first = np.full(params["length"], STAYS)
        stacked = [
            Value((first, *one.axes), one.source, (), one.marks, counted=passed([one.counted])) for one in results
        ]
        return [*carry, *stacked]

    def _repeated(
        self, body: Any, fixed: list[Value], carry: list[Value], turns: list[Value], scope: str
    ) -> tuple[list[Value], list[Value]]:
        """Follows a loop until what it carries is known: a leaf that it changes is none any more."""
        for operand in carry:
            self.facts.use(operand)
        self._leave(carry)
        carry = [Value(one.axes, one.source, (), one.marks, counted=passed([one.counted])) for one in carry]
        doubts = [] if self.facts.counts is None else self.facts.counts.doubts
        before_turns = len(doubts)
        while True:
            del doubts[before_turns:]  # of turns that did not yet know all that they carry
            results = self.program(*opened(body), [*fixed, *carry, *turns], scope)
            after = []
            for before, new in zip(carry, results, strict=False):
                for left, right in zip(before.axes, new.axes, strict=True):
                    self.facts.indices.join(left, right)
                counted = passed([before.counted, new.counted])
                source, marks = max(before.source, new.source), before.marks | new.marks
                after.append(Value(before.axes, source, (), marks, counted=counted))
            for one in results:
                self.facts.use(one)
            self._leave(results)
            if all(self._carries(old) == self._carries(new) for old, new in zip(carry, after, strict=True)):
                return after, results[len(carry) :]
            carry = after

    def _carries(self, value: Value) -> tuple[Any, ...]:
        """What must not change any more from turn to turn."""
        counts = self.facts.counts
        return value.source, value.marks, None if counts is None else counts.places(value.counted)

    def _leave(self, values: Sequence[Value]) -> None:
        """Notes what is carried into another turn, or out of a loop or branch: nothing is known of its sums there."""
        if self.facts.counts is not None:
            self.facts.counts.leave(values, self.facts.indices.step)

    def _while(self, params: Mapping[str, Any], operands: Sequence[Value], scope: str) -> list[Value]:
        asked, fixed = params["cond_nconsts"], params["body_nconsts"]
        outside, inside, carry = (
            operands[:asked],
            list(operands[asked : asked + fixed]),
            list(operands[asked + fixed :]),
        )
        carry, _ = self._repeated(params["body_jaxpr"], inside, carry, [], scope)
        self.program(*opened(params["cond_jaxpr"]), [*outside, *carry], scope)
        return carry

    def _cond(self, params: Mapping[str, Any], operands: Sequence[Value], scope: str) -> list[Value]:
        branches = [self.program(*opened(branch), operands[1:], scope) for branch in params["branches"]]
        merged = []
        for results in zip(*branches, strict=True):
            self._leave(results)
            for other in results[1:]:
                for left, right in zip(results[0].axes, other.axes, strict=True):
                    self.facts.indices.join(left, right)
            marks = operands[0].marks
            for one in results:
                marks |= one.marks
                self.facts.use(one)
            source, counted = (
                max(one.source for one in results),
                passed([one.counted for one in (operands[0], *results)]),
            )
            merged.append(Value(results[0].axes, source, (), marks, counted=counted))
        return merged


def extents(variable: Any) -> tuple[int, ...]:
    """The shape of a variable."""
    return tuple(variable.aval.shape)


def _moving(value: Value) -> Value:
    """A tangent, or a cotangent, of a value."""
    return Value(value.axes, value.source, (), value.marks)


def _without_first(value: Value) -> Value:
    origins = tuple(Origin(origin.leaf, origin.axes[1:]) for origin in value.origins)
    return Value(value.axes[1:], value.source, origins, value.marks, counted=value.counted)


def _moved(step: Step, value: Value, origin: Origin) -> tuple[frozenset[int], ...]:
    """Which axes of a leaf lie along the axes of the result."""
    before, name, params = origin.axes, step.name, step.params
    if name == "transpose":
        return tuple(before[axis] for axis in params["permutation"])
    if name == "squeeze":
        gone = [axis % len(before) for axis in params["dimensions"]]
        return tuple(one for axis, one in enumerate(before) if axis not in gone)
    if name == "broadcast_in_dim":
        placed = dict(zip(params["broadcast_dimensions"], before, strict=True))
        return tuple(placed.get(axis, frozenset()) for axis in range(len(step.shapes[0])))
    if name == "reshape":
        after: list[frozenset[int]] = [frozenset()] * len(step.shapes[0])
        for left, right in layout.blocks(value.shape, step.shapes[0]):
            for axis in right:
                after[axis] = frozenset().union(*(before[one] for one in left))
        return tuple(after)
    return before
