"""Parameters of primitives as values that JSON has, and back: nothing is imported or called by a name in a file.

Numbers, words and sequences are themselves.  All else is a dictionary with one of a few keys, of which each stands for
members of a closed list: types, enumerations, dimension numbers, primitives.
"""

import enum
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.extend.core.primitives as more
import ml_dtypes
import numpy as np
from jax import lax
from jax.extend import core

from jaxprune.sites.program import trace

_ENUMS = ("AccuracyMode", "FftType", "GatherScatterMode", "Precision", "RandomAlgorithm", "RoundingMethod")
_RECORDS = ("ConvDimensionNumbers", "GatherDimensionNumbers", "ScatterDimensionNumbers")
_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
# Of one process or of several devices, with effects, with programs of their own, or not the same twice.
_NOT = frozenset(
    [
        *("add_jaxvals", "after_all", "all_gather", "all_to_all", "axis_index", "call", "checkpoint", "closed_call"),
        *("cond", "core_call", "create_token", "custom_jvp_call", "custom_lin", "custom_linear_solve"),
        *("custom_vjp_call", "dce_sink", "device_put", "empty2", "get", "jit", "linear_solve", "pgather", "pjit"),
        *("pmax", "pmin", "ppermute", "psum", "psum_scatter", "ragged_all_to_all", "reduce", "reduce_scatter"),
        *("reduce_window", "remat2", "rng_uniform", "scan", "sharding_constraint", "stage", "swap", "while"),
    ]
)


class Unknown(Exception):
    """What the format does not know."""


@lru_cache(maxsize=1)
def primitives() -> dict[str, Any]:
    """All primitives that a saved program may use, by name: pure functions of arrays that JAX itself has."""
    found = [getattr(where, name) for where in (lax, more) for name in dir(where) if name.endswith("_p")]
    found += [step.primitive for step in trace(_keys, np.zeros(2, np.uint32)).steps]
    return {one.name: one for one in found if isinstance(one, core.Primitive) and one.name not in _NOT}


def _keys(data: Any) -> Any:
    key = jax.random.clone(jax.random.wrap_key_data(data, impl="threefry2x32"))
    return jax.random.key_data(jax.random.split(jax.random.fold_in(key, 1))), jax.numpy.asarray(data, copy=True)


def encode(value: Any) -> Any:
    """Writes a parameter.

    Raises:
      Unknown: it is of no kind that the format holds.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, enum.Enum):  # also those that are whole numbers
        if (name := type(value).__name__) in _ENUMS and isinstance(value, getattr(lax, name)):
            return {"enum": [name, value.name]}
        raise Unknown(f"a {name}")
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        number = float(value)
        return number if math.isfinite(number) else {"float": str(number)}
    if (name := type(value).__name__) in _RECORDS and isinstance(value, getattr(lax, name)):
        fields = value._asdict() if hasattr(value, "_asdict") else vars(value)
        return {"record": name, "fields": {key: encode(one) for key, one in fields.items()}}
    if isinstance(value, (tuple, list)) and name in ("tuple", "list"):
        return [encode(one) for one in value]
    if isinstance(value, core.Primitive) and value.name in primitives():
        return {"primitive": value.name}
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return {"dtype": np.dtype(value).name}
    if name == "PRNGImpl" and value == _generator(generator := str(getattr(value, "name", ""))):
        return {"random": generator}
    raise Unknown(f"a {name}")


def decode(value: Any) -> Any:
    """Reads what ``encode`` wrote.

    Raises:
      Unknown: something else.
    """
    if not isinstance(value, (dict, list)):
        return value
    if isinstance(value, list):
        return tuple(decode(one) for one in value)
    match value:
        case {"float": str(word)} if len(value) == 1 and word in _FLOATS:
            return _FLOATS[word]
        case {"enum": [str(name), str(member)]} if len(value) == 1 and name in _ENUMS:
            kind: Any = getattr(lax, name, None)
            if member in getattr(kind, "__members__", ()):
                return kind[member]
        case {"record": str(name), "fields": Mapping() as fields} if len(value) == 2 and name in _RECORDS:
            try:
                return getattr(lax, name)(**{key: decode(one) for key, one in fields.items()})
            except TypeError as error:
                raise Unknown(f"fields of {name} that it has not ({error})") from error
        case {"primitive": str(name)} if len(value) == 1 and name in primitives():
            return primitives()[name]
        case {"dtype": str(name)} if len(value) == 1:
            return dtype(name)
        case {"random": str(name)} if len(value) == 1:
            return _generator(name)
    raise Unknown(f"the value {str(value)[:80]!r}")


STORED = frozenset(
    [
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "bfloat16", "float32", "float64"),
    ]
)


def dtype(name: str) -> np.dtype:
    """The type of this name.

    Raises:
      Unknown: there is none.
    """
    if name not in STORED:
        raise Unknown(f"the type {name[:40]!r}")
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


@lru_cache(maxsize=8)
def _generator(name: str) -> Any:
    """The random generator of this name, as a parameter of primitives."""
    if name not in ("threefry2x32", "rbg", "unsafe_rbg"):
        raise Unknown(f"the random generator {name[:40]!r}")
    program = trace(lambda: jax.random.key(0, impl=name))
    return next(step.params["impl"] for step in program.steps if "impl" in step.params)
