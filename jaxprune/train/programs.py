"""Hashes of traced programs: equal for functions that compute the same, in any process.

What is hashed are the equations: primitives, their parameters, types and shapes, literal numbers, and the bytes of the
constants that a function closes over.  No names of variables or functions, no addresses, no placement on devices.
"""

import dataclasses
import enum
import functools
import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, Sharding

# Of jitted functions: what says where and how something is computed, but not what.
_PLACEMENT = {
    *("name", "ctx_mesh", "in_shardings", "out_shardings", "in_layouts", "out_layouts"),
    *("donated_invars", "inline", "keep_unused"),
}


def traced(function: Callable[..., Any], *arguments: Any) -> tuple[str, Any]:
    """Traces a function of arrays, without computing it.

    Args:
      function: of trees of arrays.
      arguments: arrays, or ``jax.ShapeDtypeStruct`` in their place.

    Returns:
      (hash of its program, the shapes of what it returns).

    >>> traced(lambda x: 2 * x, 1.0)[0] == traced(lambda y: 2 * y, 1.0)[0]
    True
    >>> traced(lambda x: 2 * x, 1.0)[0] == traced(lambda x: 3 * x, 1.0)[0]
    False
    """
    program, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    return digest(program), shapes


def digest(program: Any) -> str:
    """Hashes a closed jaxpr to the hexadecimal digits of its SHA-256."""
    return _Digests().closed(program)


class _Digests:
    """The hashes of a program and of those inside it; one that occurs often is read once."""

    def __init__(self) -> None:
        self._known: dict[int, str] = {}

    def closed(self, program: Any) -> str:
        return _hash(["closed", self.open(program.jaxpr), *map(_array, program.consts)])

    def open(self, program: Any) -> str:
        # By identity, which is safe as long as the outer program keeps it alive.
        if id(program) not in self._known:
            self._known[id(program)] = _hash(self._words(program))
        return self._known[id(program)]

    def _words(self, program: Any) -> list[str]:
        numbers: dict[int, int] = {}

        def defined(variable: Any) -> str:
            numbers[id(variable)] = len(numbers)
            return _aval(variable.aval)

        def used(atom: Any) -> str:
            return f"{self.value(atom.val)}:{_aval(atom.aval)}" if hasattr(atom, "val") else str(numbers[id(atom)])

        words = [str(len(program.constvars)), *map(defined, [*program.constvars, *program.invars])]
        for equation in program.eqns:
            primitive = equation.primitive.name
            left_out = _PLACEMENT if "jaxpr" in equation.params and "name" in equation.params else ()
            params = sorted((name, value) for name, value in equation.params.items() if name not in left_out)
            words += [primitive, *map(used, equation.invars)]
            words += [f"{name}={self.value(value)}" for name, value in params]
            words += map(defined, equation.outvars)
        return [*words, "out", *map(used, program.outvars)]

    def value(self, value: Any) -> str:
        """Writes a parameter of an equation."""
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        if hasattr(value, "jaxpr") and hasattr(value, "consts"):
            return self.closed(value)
        if hasattr(value, "eqns"):
            return self.open(value)
        if isinstance(value, (Sharding, Mesh)):
            return kind
        if isinstance(value, enum.Enum):
            return f"{kind}.{value.name}"
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes, np.dtype, type)):
            return f"{kind}({value!r})"
        if hasattr(value, "dtype") and hasattr(value, "shape") and hasattr(value, "__array__"):
            return _array(value)
        if isinstance(value, Mapping):
            value = sorted((str(name), self.value(entry)) for name, entry in value.items())
        if isinstance(value, (tuple, list)):
            return _hash([kind, *map(self.value, value)])
        if isinstance(value, (set, frozenset)):
            return _hash([kind, *sorted(map(self.value, value))])
        return self._other(value, kind)

    def _other(self, value: Any, kind: str) -> str:
        if isinstance(value, functools.partial):
            return _hash([kind, *map(self.value, (value.func, value.args, value.keywords))])
        if dataclasses.is_dataclass(value):
            return _hash([kind, *(self.value(getattr(value, field.name)) for field in dataclasses.fields(value))])
        if callable(value):
            return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', kind)}"
        # So too rules of derivatives, as JAX wraps them: where one is taken, its program is there.
        return f"{kind}({re.sub(r'0x[0-9a-f]+', '', repr(value))})"


def _aval(aval: Any) -> str:
    if not hasattr(aval, "shape"):
        return re.sub(r"0x[0-9a-f]+", "", str(aval))
    return f"{aval.dtype}{aval.shape}{getattr(aval, 'weak_type', False)}"


def _array(value: Any) -> str:
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        return f"key:{value.dtype}:{_array(jax.random.key_data(value))}"
    array = np.asarray(value)
    return f"{array.dtype}{array.shape}{hashlib.sha256(array.tobytes()).hexdigest()}"


def _hash(words: list[str]) -> str:
    total = hashlib.sha256()
    for word in words:
        # With its length, so that no two lists run together into one text.
        total.update(f"{len(word)}:".encode() + word.encode())
    return total.hexdigest()
