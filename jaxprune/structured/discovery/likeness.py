"""Which numbers say how many units there are, or may."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

# How near a number must be to one that says how many units there are, in units of the rounding of its type.
_ROUNDING = 4


def rounding(value: Any) -> float:
    """The rounding of the type of a value; 0 where it is whole."""
    kind = jnp.result_type(value)
    return float(jnp.finfo(kind).eps) if jnp.issubdtype(kind, jnp.floating) else 0.0


def is_plain(numbers: np.ndarray | None) -> bool:
    """Whether numbers are masks and signs alone, which count nothing."""
    return numbers is not None and bool(np.isin(numbers, (-1.0, 0.0, 1.0)).all())


def told(numbers: np.ndarray) -> str:
    """Numbers in words."""
    return f"{numbers[0]:g}" if len(numbers) == 1 else "different numbers"


def is_count(numbers: np.ndarray | None, eps: float, count: int, divided: bool, kind: Any) -> bool:
    """Whether a number is a count, or one over it, as its type rounds it, and no other count is rounded to the same."""
    if numbers is None or len(numbers) > 1 or count * eps >= 1:
        return False
    return float(numbers[0]) == float(np.asarray(count if divided else 1 / count, kind))


def like(numbers: np.ndarray, count: int, eps: float) -> str:
    """Says which of some numbers is a function of a count, and of which; nothing where none is."""
    if count < 2:
        return ""
    named = {
        f"{count}, their number": count,
        f"the root of their number, {count}": math.sqrt(count),
        f"the logarithm of their number, {count}": math.log(count),
        f"one less than their number, {count}": count - 1,
        f"{count} / {count - 1}": count / (count - 1),
        f"the root of {count} / {count - 1}": math.sqrt(count / (count - 1)),
    }
    for words, value in named.items():
        for told, one in ((words, value), (f"one over {words}", 1 / value)):
            near = np.abs(np.abs(numbers) - one) <= _ROUNDING * eps * one
            if value != 1 and near.any():
                return f"{numbers[near][0]:g}, {told}"
    return ""
