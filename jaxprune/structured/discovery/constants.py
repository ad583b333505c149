"""Numbers of a program's own, worked out by its own primitives, since they may count units or say where to look."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend import core

from jaxprune.structured.discovery.arithmetic import ELEMENTWISE
from jaxprune.structured.discovery.counting import RECOMPUTED, Counted
from jaxprune.structured.discovery.facts import Value
from jaxprune.structured.discovery.likeness import rounding

# Entries of an array that a primitive is evaluated for, and of one of the program's own whose entries are compared.
_MANY, _COMPARED = 100_000, 10_000_000
_LAID_OUT = frozenset(
    ["transpose", "squeeze", "broadcast_in_dim", "reshape", "slice", "split", "rev", "dynamic_slice", "tile", "sort"]
)
_TOGETHER = frozenset(["concatenate", "pad", "stack"])


def given(number: Any, *, counted: bool) -> tuple[np.ndarray | None, Counted]:
    """What is known of a number, or array, that a program has: its entries, and whether they may count units.

    Args:
      number: it.
      counted: whether numbers that are not whole matter, since they may count units.
    """
    if isinstance(number, Tracer) or jnp.issubdtype(jnp.result_type(number), jax.dtypes.prng_key):
        return None, Counted()
    few = np.size(number) <= _MANY and (counted or np.asarray(number).dtype.kind in "iub")
    return np.asarray(number) if few else None, Counted(distinct(number), rounding(number)) if counted else Counted()


def evaluated(equation: core.JaxprEqn, operands: Sequence[Value], *, counted: bool) -> np.ndarray | None:
    """Evaluates a primitive of constants; None where they are not known, or many, or random."""
    if len(equation.outvars) != 1 or not all(operand.known is not None for operand in operands):
        return None
    aval: Any = equation.outvars[0].aval
    if np.prod(aval.shape, dtype=float) > _MANY:
        return None
    if not counted and getattr(aval.dtype, "kind", "") not in "iub":
        return None
    return _bound(equation, [operand.known for operand in operands])


def followed(equation: core.JaxprEqn, operands: Sequence[Value], known: np.ndarray | None) -> Counted:
    """The different entries of what a primitive makes of constants alone, also where these are too many to evaluate."""
    aval: Any = equation.outvars[0].aval
    eps = max([rounding(aval), *(one.counted.eps for one in operands)])
    if known is not None:
        return Counted(distinct(known), eps)
    name, made = equation.primitive.name, None
    numbers = [one.counted.numbers for one in operands if one.counted.numbers is not None]
    if not numbers or len(numbers) < len(operands):
        return Counted(None, eps)
    if name in _LAID_OUT:
        made = numbers[0]
    elif name in _TOGETHER:
        made = distinct(np.concatenate(numbers))
    elif name in RECOMPUTED and len(numbers[0]) == 1:
        terms = math.prod(len(operands[0].axes[axis]) for axis in equation.params["axes"])
        made = numbers[0] * (terms if name == "reduce_sum" else 1)
    elif name in ELEMENTWISE and sum(len(one) > 1 for one in numbers) <= 1:
        types: list[Any] = [atom.aval for atom in equation.invars]
        longest = max(map(len, numbers))
        values = [np.full(longest, one).astype(kind.dtype) for one, kind in zip(numbers, types, strict=True)]
        bound = _bound(equation, values) if longest <= _MANY else None
        made = None if bound is None else distinct(bound)
    return Counted(made, eps)


def distinct(values: Any) -> np.ndarray | None:
    """The different entries of an array in float64; None where they are very many, or no numbers."""
    values = np.asarray(values)
    if not 0 < values.size <= _COMPARED or jnp.issubdtype(values.dtype, jnp.complexfloating):
        return None
    first = values.reshape(-1)[:1]
    return (first if (values == first).all() else np.unique(values)).astype(np.float64)


def _bound(equation: core.JaxprEqn, values: Sequence[Any]) -> np.ndarray | None:
    if equation.primitive.name.startswith("random"):
        return None
    try:
        with jax.ensure_compile_time_eval():
            made = equation.primitive.bind(
                *map(jnp.asarray, values), **equation.primitive.get_bind_params(equation.params)
            )
        return np.asarray(made[0] if equation.primitive.multiple_results else made)
    except Exception:  # whatever a primitive raises that cannot be evaluated by itself: it stays unknown
        return None
