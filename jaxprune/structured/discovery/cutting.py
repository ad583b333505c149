"""A program evaluated with smaller arrays everywhere: what each index of each value is, a walk said.

Most primitives take smaller arrays as they are; some have shapes among their parameters, which are rewritten.  What is
neither is given arrays of the full size, in which living units stand in for those that are gone, and its result is cut.
Derivative rules of a function's own are programs too, and evaluated in the same way; beyond second derivatives they are
asked at the full size.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from jaxprune.sites.program import needed, opened
from jaxprune.sites.rules import Backward, floating, with_backward_rule, with_forward_rule
from jaxprune.structured.discovery import arithmetic
from jaxprune.structured.discovery.entering import LOOPS, bound, call
from jaxprune.structured.discovery.indices import Nodes
from jaxprune.structured.discovery.walk import CALLS, ORDERS, Axes, Record, Walk

Path = tuple[int, ...]

# Their parameters say nothing of the axes that are cut.
_AS_THEY_ARE = (
    arithmetic.ELEMENTWISE
    | arithmetic.REDUCTIONS
    | arithmetic.CUMULATIVE
    | arithmetic.WINDOWS
    | {"transpose", "squeeze", "concatenate", "stack", "unstack", "tile", "rev", "dot_general", "sort", "top_k"}
    | {"optimization_barrier", "dynamic_update_slice", "scatter", "scatter-add", "scatter-mul"}
    | {"scatter-min", "scatter-max"}
)

_ORDINALS = {1: "first", 2: "second", 3: "third"}


@dataclass(frozen=True)
class Cutting:
    """How a program is evaluated without some of its units.

    Attributes:
      walk: that followed it.
      alive: says of nodes which of them live: bool of the same length.
      left: by the place of an equation which operand counts the units of a mean, and the number of those that are left,
        or one over it.
    """

    walk: Walk
    alive: Callable[[Nodes], np.ndarray]
    left: Mapping[Path, tuple[int, float]] = field(default_factory=dict)

    def cut(self, value: Any, axes: Axes) -> Any:
        """Takes the living indices of a whole value."""
        for axis, nodes in enumerate(axes):
            if not (kept := self.alive(nodes)).all():
                value = jnp.take(value, np.flatnonzero(kept), axis)
        return value

    def whole(self, value: Any, axes: Axes) -> Any:
        """Gives a cut value its full size: next to a living unit stand copies of it for those that are gone."""
        for axis, nodes in enumerate(axes):
            if not (kept := self.alive(nodes)).all():
                value = jnp.take(value, np.maximum(np.cumsum(kept) - 1, 0), axis)
        return value

    def shape(self, axes: Axes) -> tuple[int, ...]:
        """The shape of a cut value."""
        return tuple(int(self.alive(nodes).sum()) for nodes in axes)

    def run(self, program: Any, inputs: Sequence[Any], path: Path = ()) -> list[Any]:
        """Evaluates a program.

        Args:
          program: a jaxpr, closed or not.
          inputs: cut to what lives.
          path: where it stands.
        """
        jaxpr, consts = opened(program)
        values: dict[Any, Any] = dict(zip(jaxpr.invars, inputs, strict=True))
        for variable, value, axes in zip(jaxpr.constvars, consts, self.walk.constants[*path, id(jaxpr)], strict=True):
            values[variable] = self.cut(value, axes)
        for equation in needed(jaxpr):
            here = (*path, id(equation))
            record = self.walk.records[here]
            operands = [
                self.cut(atom.val, axes) if isinstance(atom, core.Literal) else values[atom]
                for atom, axes in zip(equation.invars, record.before, strict=True)
            ]
            if here in self.left:
                side, number = self.left[here]
                operands[side] = counted(number, operands[side])
            results = self._step(equation, operands, record, here)
            for variable, result, axes in zip(equation.outvars, results, record.after, strict=True):
                if np.shape(result) != self.shape(axes):
                    raise ValueError(
                        f"network: expected {equation.primitive.name} of smaller arrays to give one of shape "
                        f"{self.shape(axes)}, but it gives {np.shape(result)}. This is an error of jaxprune: please "
                        "report it."
                    )
                values[variable] = result
        return [atom.val if isinstance(atom, core.Literal) else values[atom] for atom in jaxpr.outvars]

    def _step(self, equation: core.JaxprEqn, operands: list[Any], record: Record, here: Path) -> list[Any]:
        name = equation.primitive.name
        untouched = all(self.alive(nodes).all() for axes in (*record.before, *record.after) for nodes in axes)
        run = partial(self.run, path=here)
        if name in LOOPS:  # inside of them units may begin and end
            return LOOPS[name](equation.params, operands, run)
        if name in CALLS and not name.startswith("custom"):
            return call(equation, operands, run)
        if name in ("custom_jvp_call", "custom_vjp_call"):
            return self._custom(equation, operands, record, here)
        if untouched or name in _AS_THEY_ARE:
            return bound(equation, operands, equation.params)
        if (params := self._rewritten(equation, operands, record)) is not None:
            return bound(equation, operands, params)
        if name in ("slice", "split"):
            return [self._part(operands[0], record.before[0], axes) for axes in self._parts(equation, record)]
        return self._at_full_size(equation, operands, record)

    def _ends_inside(self, here: Path) -> bool:
        """Whether units that are gone are summed over inside of an equation, where copies of others would count."""
        return any(
            one.place[: len(here)] == here and not self.alive(one.nodes).all()
            for one in (*self.walk.facts.contractions, *self.walk.hidden)
        )

    def _at_full_size(self, equation: core.JaxprEqn, operands: Sequence[Any], record: Record) -> list[Any]:
        full = [self.whole(one, axes) for one, axes in zip(operands, record.before, strict=True)]
        made = bound(equation, full, equation.params)
        return [self.cut(one, axes) for one, axes in zip(made, record.after, strict=True)]

    def _rewritten(self, equation: core.JaxprEqn, operands: Sequence[Any], record: Record) -> dict[str, Any] | None:
        """The parameters for smaller arrays; None where there are no such."""
        name, params, shape = equation.primitive.name, dict(equation.params), self.shape(record.after[0])
        if name == "broadcast_in_dim":
            return {**params, "shape": shape}
        if name == "reshape":
            return {**params, "new_sizes": shape}
        if name == "pad":
            kept = [self.alive(nodes) for nodes in record.after[0]]
            config = [
                (low, high, between)
                if alive.all()
                else (int(alive[:low].sum()), int(alive[len(alive) - high :].sum()), 0)
                for alive, (low, high, between) in zip(kept, params["padding_config"], strict=True)
            ]
            return {**params, "padding_config": tuple(config)}
        if name == "conv_general_dilated":
            spec = params["dimension_numbers"]
            groups = operands[0].shape[spec.lhs_spec[1]] // operands[1].shape[spec.rhs_spec[1]]
            return {**params, "feature_group_count": groups if params["feature_group_count"] > 1 else 1}
        return None

    def _parts(self, equation: core.JaxprEqn, record: Record) -> list[list[np.ndarray]]:
        """Which indices of every axis of the operand each result of a slice, or split, has."""
        params, lengths = equation.params, [len(nodes) for nodes in record.before[0]]
        if equation.primitive.name == "slice":
            strides = params["strides"] or (1,) * len(lengths)
            bounds = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
            return [[np.arange(start, stop, stride) for start, stop, stride in bounds]]
        edges = np.cumsum((0, *params["sizes"]))
        every = [np.arange(length) for length in lengths]
        return [
            [np.arange(start, stop) if axis == params["axis"] else one for axis, one in enumerate(every)]
            for start, stop in pairwise(edges)
        ]

    def _part(self, value: Any, axes: Axes, places: Sequence[np.ndarray]) -> Any:
        """Takes what lives of some indices of a cut value: by a slice where they are neighbours."""
        for axis, (nodes, wanted) in enumerate(zip(axes, places, strict=True)):
            kept = self.alive(nodes)
            now = (np.cumsum(kept) - 1)[wanted[kept[wanted]]]
            if len(now) == kept.sum():
                continue
            if len(now) and (np.diff(now) == 1).all():
                value = lax.slice_in_dim(value, int(now[0]), int(now[-1]) + 1, axis=axis)
            else:
                value = jnp.take(value, now, axis)
        return value

    def _custom(self, equation: core.JaxprEqn, operands: Sequence[Any], record: Record, here: Path) -> list[Any]:
        """A function with a derivative rule of its own: of smaller arrays, with the rule that was made smaller."""
        untouched = all(self.alive(nodes).all() for axes in (*record.before, *record.after) for nodes in axes)
        ends = self._ends_inside(here)
        if untouched and not ends:
            return bound(equation, operands, equation.params)
        moving, rule = floating([atom.aval for atom in equation.invars]), self.walk.rules.get(here)
        function = partial(self.run, equation.params["call_jaxpr"], path=here)
        if not moving:
            return function(operands)
        results, backward = len(equation.outvars), equation.primitive.name == "custom_vjp_call"
        if rule is None and backward and not ends:
            return self._at_full_size(equation, operands, record)
        if rule is None:
            beyond = partial(self._beyond, equation, record, ends)
            if backward:
                return with_backward_rule(function, beyond, beyond, results, moving)(*operands)
            return with_forward_rule(function, beyond, results, moving)(*operands)
        if isinstance(rule, Backward):
            there, back = (partial(self.run, one, path=here) for one in (rule.forward, rule.backward))
            return with_backward_rule(function, there, back, results, moving)(*operands)
        return with_forward_rule(function, partial(self.run, rule, path=here), results, moving)(*operands)

    def _beyond(self, equation: core.JaxprEqn, record: Record, ends: bool, given: Sequence[Any]) -> list[Any]:
        """The rule of a function inside the rules of rules, which were not followed: what JAX makes of it."""
        name = equation.primitive.name
        if ends:
            raise ValueError(
                f"network: expected derivatives up to the {_ORDINALS[ORDERS]}, but a rule that sums over removed "
                f"units ({name}) is asked for more. Differentiate the gated network instead."
            )
        operands, moving = given[: len(equation.invars)], floating([atom.aval for atom in equation.invars])

        def at_full_size(*some: Any) -> list[Any]:
            full = list(operands)
            for place, one in zip(moving, some, strict=True):
                full[place] = one
            return self._at_full_size(equation, full, record)

        made, moves = jax.jvp(at_full_size, [operands[place] for place in moving], given[len(operands) :])
        return [*made, *(moves[place] for place in floating([variable.aval for variable in equation.outvars]))]


def counted(number: float, value: Any) -> Any:
    """Another number of units, or one over it, like the one that stood there."""
    return np.full(np.shape(value), number, jnp.result_type(value))
