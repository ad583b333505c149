"""Derivative rules of a function's own, as programs: what they compute can then be read, written down and rewritten."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxprune.sites.depthwise import to_read

Run = Callable[[Sequence[Any]], list[Any]]


class Backward(NamedTuple):
    """The rule of a function that has a backward pass of its own (``jax.custom_vjp``).

    Attributes:
      forward: operands -> results, and then what the backward pass keeps.
      backward: what was kept, and cotangents of the floating results -> cotangents of the floating operands.
      results: how many results there are.
    """

    forward: core.ClosedJaxpr
    backward: core.ClosedJaxpr
    results: int


def floating(avals: Sequence[Any]) -> tuple[int, ...]:
    """The places of values that have derivatives."""
    return tuple(place for place, aval in enumerate(avals) if jnp.issubdtype(aval.dtype, jnp.inexact))


def forward_rule(equation: core.JaxprEqn) -> core.ClosedJaxpr:
    """Writes out the rule of a ``custom_jvp_call``.

    Args:
      equation: the call.

    Returns:
      The program (operands, tangents of the floating ones) -> (results, tangents of the floating ones).

    >>> rule = forward_rule(jax.make_jaxpr(jax.nn.relu)(1.0).eqns[0])
    >>> len(rule.in_avals), len(rule.out_avals)
    (2, 2)
    """
    operands, results = _avals(equation)
    moving, moved = floating(operands), floating(results)

    def rule(given: list[Any], tangents: list[Any]) -> Any:
        made, moves = jax.jvp(_of_floating(equation, given, moving), [given[place] for place in moving], tangents)
        return made, [moves[place] for place in moved]

    return to_read(rule, operands, [operands[place] for place in moving])


def backward_rule(equation: core.JaxprEqn) -> Backward:
    """Writes out both passes of a ``custom_vjp_call``.

    Args:
      equation: the call.
    """
    operands, results = _avals(equation)
    moving, moved = floating(operands), floating(results)

    def forward(given: list[Any]) -> Any:
        function = _of_floating(equation, given, moving)
        return jax.vjp(lambda some: function(*some), [given[place] for place in moving])

    there, shapes = to_read(forward, operands, return_shape=True)
    made, back = shapes
    kept, structure = jax.tree.flatten(back)

    def backward(kept: list[Any], cotangents: list[Any]) -> Any:
        given = dict(zip(moved, cotangents, strict=True))
        full = [
            given[place] if place in given else jnp.zeros(one.shape, jax.dtypes.float0)
            for place, one in enumerate(made)
        ]
        return jax.tree.unflatten(structure, kept)(full)[0]

    return Backward(there, to_read(backward, kept, [results[place] for place in moved]), len(made))


def with_forward_rule(function: Run, rule: Run, results: int, moving: Sequence[int]) -> Callable[..., list[Any]]:
    """Gives a function a rule like those of ``forward_rule``.

    Args:
      function: operands -> results.
      rule: as ``forward_rule`` says, of lists.
      results: how many results there are.
      moving: the places of the floating operands.
    """
    made = jax.custom_jvp(lambda *operands: function(operands))

    def jvp(primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        both = rule([*primals, *(tangents[place] for place in moving)])
        given = iter(both[results:])  # whole numbers have none
        moves = [
            next(given) if jnp.issubdtype(one.dtype, jnp.inexact) else np.zeros(one.shape, jax.dtypes.float0)
            for one in both[:results]
        ]
        return both[:results], moves

    made.defjvp(jvp)
    return made


def with_backward_rule(
    function: Run, forward: Run, backward: Run, results: int, moving: Sequence[int]
) -> Callable[..., list[Any]]:
    """Gives a function both passes, like those of ``backward_rule``.

    Args:
      function: operands -> results.
      forward: as ``Backward`` says, of lists.
      backward: as well.
      results: how many results there are.
      moving: the places of the floating operands.
    """
    made = jax.custom_vjp(lambda *operands: function(operands))

    def there(*operands: Any) -> tuple[list[Any], tuple[list[Any], int]]:
        both = forward(operands)
        return both[:results], (both[results:], len(operands))

    def back(kept: tuple[list[Any], int], cotangents: list[Any]) -> tuple[Any, ...]:
        some = [one for one in cotangents if one.dtype != jax.dtypes.float0]
        found = dict(zip(moving, backward([*kept[0], *some]), strict=True))
        return tuple(found.get(place) for place in range(kept[1]))

    made.defvjp(there, back)
    return made


def _avals(equation: core.JaxprEqn) -> tuple[list[Any], list[Any]]:
    def plain(atom: Any) -> Any:
        return jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype)

    return [plain(atom) for atom in equation.invars], [plain(atom) for atom in equation.outvars]


def _of_floating(equation: core.JaxprEqn, given: Sequence[Any], moving: Sequence[int]) -> Callable[..., list[Any]]:
    """The call as a function of its floating operands."""

    def function(*some: Any) -> list[Any]:
        full = list(given)
        for place, one in zip(moving, some, strict=True):
            full[place] = one
        made = equation.primitive.bind(*full, **equation.primitive.get_bind_params(equation.params))
        return list(made)

    return function
