"""A program evaluated as it is, with operands of some of its equations changed, also inside of loops and branches."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax import lax
from jax.extend import core

from jaxprune.structured.discovery.walk import CALLS, needed, opened

Path = tuple[int, ...]
"""An equation: the identities of those that hold it, from the outside, and its own."""

Change = Callable[[Any], Any]


@dataclass(frozen=True, eq=False)
class Changed:
    """How operands are changed.

    Attributes:
      changes: by the equation and the number of its operand.  The same change of the same value is made once.
      outside: where a change keeps what it sees, who wants that: it must lie outside of loops and branches.
    """

    changes: Mapping[tuple[Path, int], Change]
    outside: str = ""

    def run(self, program: Any, inputs: Sequence[Any], path: Path = ()) -> list[Any]:
        """Evaluates a program.

        Args:
          program: a jaxpr, closed or not.
          inputs: its operands.
          path: where it stands.
        """
        jaxpr, consts = opened(program)
        values: dict[Any, Any] = {
            **dict(zip(jaxpr.invars, inputs, strict=True)),
            **dict(zip(jaxpr.constvars, consts, strict=True)),
        }
        made: dict[tuple[Any, Change], Any] = {}
        for equation in needed(jaxpr):
            here = (*path, id(equation))
            operands = [atom.val if isinstance(atom, core.Literal) else values[atom] for atom in equation.invars]
            for number, atom in enumerate(equation.invars):
                change = self.changes.get((here, number))
                if change is not None:
                    key = id(atom) if isinstance(atom, core.Literal) else atom, change
                    if key not in made:
                        made[key] = change(operands[number])
                    operands[number] = made[key]
            values.update(zip(equation.outvars, self._step(equation, operands, here), strict=True))
        return [atom.val if isinstance(atom, core.Literal) else values[atom] for atom in jaxpr.outvars]

    def _holds(self, here: Path) -> bool:
        """Whether something inside of an equation is changed."""
        return any(len(path) > len(here) and path[: len(here)] == here for path, _ in self.changes)

    def _step(self, equation: core.JaxprEqn, operands: list[Any], here: Path) -> list[Any]:
        name, params = equation.primitive.name, equation.params
        if not self._holds(here):
            made = equation.primitive.bind(*operands, **equation.primitive.get_bind_params(params))
            return list(made) if equation.primitive.multiple_results else [made]
        if self.outside and name in ("scan", "while", "cond"):
            raise ValueError(
                f"groups: {self.outside} reads values where the program sums over units, but some of them lie inside "
                f"of a {name!r}. Rate units by weights (l1, l2), or by what their removal does (kl, second_order)."
            )
        loops = {"scan": self._scan, "while": self._while, "cond": self._cond}
        if name in loops:
            return loops[name](params, operands, here)
        inner = params[CALLS[name]]
        if self.outside or name in ("jit", "pjit", "closed_call", "core_call"):
            return self.run(inner, operands, here)
        kept = {key: params[key] for key in ("policy", "prevent_cse") if key in params}
        return jax.checkpoint(lambda *inputs: self.run(inner, inputs, here), **kept)(*operands)

    def _scan(self, params: Mapping[str, Any], operands: Sequence[Any], here: Path) -> list[Any]:
        constants, carried = params["num_consts"], params["num_carry"]
        fixed, start = operands[:constants], list(operands[constants : constants + carried])

        def turn(carry: Any, one: Any) -> tuple[Any, Any]:
            results = self.run(params["jaxpr"], [*fixed, *carry, *one], here)
            return results[:carried], results[carried:]

        options = {key: params[key] for key in ("length", "reverse", "unroll")}
        last, stacked = lax.scan(turn, start, list(operands[constants + carried :]), **options)
        return [*last, *stacked]

    def _while(self, params: Mapping[str, Any], operands: Sequence[Any], here: Path) -> list[Any]:
        asked, fixed = params["cond_nconsts"], params["body_nconsts"]
        outside, inside = operands[:asked], operands[asked : asked + fixed]
        return lax.while_loop(
            lambda carry: self.run(params["cond_jaxpr"], [*outside, *carry], here)[0],
            lambda carry: self.run(params["body_jaxpr"], [*inside, *carry], here),
            list(operands[asked + fixed :]),
        )

    def _cond(self, params: Mapping[str, Any], operands: Sequence[Any], here: Path) -> list[Any]:
        def taken(branch: Any) -> Callable[..., list[Any]]:
            return lambda *inputs: self.run(branch, inputs, here)

        return lax.switch(operands[0], [taken(branch) for branch in params["branches"]], *operands[1:])
