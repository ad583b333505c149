"""A program evaluated as it is, with operands of some of its equations changed, also inside of loops and branches."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from jax.extend import core

from jaxprune.sites.program import needed, opened
from jaxprune.structured.discovery.entering import LOOPS, bound, call
from jaxprune.structured.discovery.walk import CALLS

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
            return bound(equation, operands, params)
        if self.outside and name in LOOPS:
            raise ValueError(
                f"groups: {self.outside} reads values where the program sums over units, but some of them lie inside "
                f"of a {name!r}. Rate units by weights (l1, l2), or by what their removal does (kl, second_order)."
            )
        run = partial(self.run, path=here)
        if name in LOOPS:
            return LOOPS[name](params, operands, run)
        # What is to be kept must not leave a rematerialised call, so there such a call is none.
        return run(params[CALLS[name]], operands) if self.outside else call(equation, operands, run)
