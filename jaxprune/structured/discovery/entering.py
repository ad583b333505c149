"""Equations that hold programs, evaluated with another way to evaluate what they hold: calls, loops and branches."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax import lax
from jax.extend import core

from jaxprune.sites.program import scan_parts
from jaxprune.structured.discovery.walk import CALLS

Run = Callable[[Any, Sequence[Any]], list[Any]]
"""``(program, inputs) -> results``."""


def bound(equation: core.JaxprEqn, operands: Sequence[Any], params: Mapping[str, Any]) -> list[Any]:
    """Evaluates an equation as it is, or with other parameters."""
    made = equation.primitive.bind(*operands, **equation.primitive.get_bind_params(dict(params)))
    return list(made) if equation.primitive.multiple_results else [made]


def call(equation: core.JaxprEqn, operands: Sequence[Any], run: Run) -> list[Any]:
    """Evaluates what is called; what is rematerialised stays so."""
    name, params = equation.primitive.name, equation.params
    inner = params[CALLS[name]]
    if name in ("jit", "pjit", "closed_call", "core_call"):
        return run(inner, operands)
    kept = {key: params[key] for key in ("policy", "prevent_cse") if key in params}
    return jax.checkpoint(lambda *inputs: run(inner, inputs), **kept)(*operands)


def _scan(params: Mapping[str, Any], operands: Sequence[Any], run: Run) -> list[Any]:
    constants, carried = scan_parts(params)
    fixed, start = operands[:constants], list(operands[constants : constants + carried])

    def turn(carry: Any, one: Any) -> tuple[Any, Any]:
        results = run(params["jaxpr"], [*fixed, *carry, *one])
        return results[:carried], results[carried:]

    options = {key: params[key] for key in ("length", "reverse", "unroll")}
    last, stacked = lax.scan(turn, start, list(operands[constants + carried :]), **options)
    return [*last, *stacked]


def _while(params: Mapping[str, Any], operands: Sequence[Any], run: Run) -> list[Any]:
    asked, fixed = params["cond_nconsts"], params["body_nconsts"]
    outside, inside = operands[:asked], operands[asked : asked + fixed]
    return lax.while_loop(
        lambda carry: run(params["cond_jaxpr"], [*outside, *carry])[0],
        lambda carry: run(params["body_jaxpr"], [*inside, *carry]),
        list(operands[asked + fixed :]),
    )


def _cond(params: Mapping[str, Any], operands: Sequence[Any], run: Run) -> list[Any]:
    def taken(branch: Any) -> Callable[..., list[Any]]:
        return lambda *inputs: run(branch, inputs)

    return lax.switch(operands[0], [taken(branch) for branch in params["branches"]], *operands[1:])


LOOPS: Mapping[str, Callable[[Mapping[str, Any], Sequence[Any], Run], list[Any]]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
"""By the name of a loop or a branch: its parameters, its operands, and how what it holds is evaluated."""
