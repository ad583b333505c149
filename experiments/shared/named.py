"""Functions of the user's own: named "package.module:function" on a command line, or passed themselves in Python."""

import contextlib
import dataclasses
import importlib
import inspect
import re
import types
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from jaxprune import records

_PASSED: dict[str, Any] = {}


def name(value: Any) -> str:
    """Returns what records call a function, "package.module:function", or an object by its own name.

    Words stay as they are, but for the hash of ``versioned``.

    >>> name(name), name("digits")
    ('experiments.shared.named:name', 'digits')
    """
    if isinstance(value, str):
        return value.partition("@")[0] if is_own(value) else value
    return getattr(value, "name", None) or _place(value)


def versioned(value: Any, setting: str = "function") -> str:
    """Returns what records call a function that nothing else tells apart: "package.module:function@hash".

    The hash is of all that can be told of it: the text of its module, or its code, and what it holds (variables of a
    closure, defaults, arguments of a ``functools.partial``, fields of a dataclass).  What it imports from other modules
    of yours does not enter.  Names without a module stay as they are.

    Raises:
      ValueError: it holds something that cannot be told from others of its kind.
    """
    if isinstance(value, str) and (value in _PASSED or not is_own(value)):
        return value
    found = find(setting, value)
    made = f"{name(value)}@{fingerprint(found)}"
    if isinstance(value, str) and "@" in value and made != value:
        raise ValueError(
            f"{setting}: {value} is of another version; now it is {made}. Leave out the @ and what follows."
        )
    _PASSED[made] = found
    return made


def label(named: str) -> str:
    """Returns what tables and figures call a function.

    >>> label("mine.scores:smallest@0123abcd"), label("magnitude")
    ('smallest', 'magnitude')
    """
    return named.partition("@")[0].rpartition(":")[2]


Named = Annotated[
    str | Callable[..., Any],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PACKAGE.MODULE:FUNCTION",
        instance_from_str=lambda words: words[0],
        is_instance=lambda value: True,
        str_from_instance=lambda value: [name(value)],
    ),
]
"""A setting that holds such a function or its name, or is empty."""


def is_own(word: str) -> bool:
    """Whether a word names a function of the user's."""
    return re.fullmatch(r"[\w.]+:[\w.<>]+(@\w+)?", word) is not None


def find(setting: str, value: Any) -> Any:
    """Finds the function that a setting names; one that is passed itself is what it is.

    Raises:
      ValueError: there is no such module, or no such function in it.

    >>> find("score", "experiments.shared.named:name") is name
    True
    """
    if not isinstance(value, str):
        return value
    if value in _PASSED:
        return _PASSED[value]
    value = value.partition("@")[0]
    module, _, function = value.partition(":")
    example = "Write package.module:function, such as my_project.scores:smallest, of a module that Python finds here."
    if not module or not function:
        raise ValueError(f"{setting}: expected a function, but got {value!r}. {example}")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, and what it imports is not
        raise ValueError(f"{setting}: there is no module {module!r}. {example}") from error
    for part in function.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ValueError(f"{setting}: {module!r} has no function {function!r}. {example}")
    return found


def call(setting: str, value: Any) -> Any:
    """Calls the function that a setting names, without arguments; what goes wrong in it is bad input."""
    function = find(setting, value)
    try:
        return function()
    except Exception as error:
        raise ValueError(f"{setting}: {_place(function)} failed: {type(error).__name__}: {error}") from error


def fingerprint(*values: Any) -> str:
    """Hashes all that can be told of functions and of what they hold; see ``versioned``."""
    return records.digest([_described(value, ()) for value in values])[:8]


def _place(value: Any) -> str:
    made = value if hasattr(value, "__qualname__") else getattr(value, "func", type(value))
    return f"{made.__module__}:{made.__qualname__}"


def _described(value: Any, path: tuple[int, ...]) -> Any:
    """Writes what a function is, and what it holds, as JSON."""
    inside = (*path, id(value))
    if id(value) in path:
        return "itself"
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | Path):
        return [type(value).__name__, repr(value)]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return records.fingerprint(_numbers(value))
    if isinstance(value, types.ModuleType):
        return value.__name__
    if isinstance(value, partial):
        return [_described(one, inside) for one in (value.func, value.args, value.keywords)]
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        if hasattr(value, "__wrapped__"):  # a decorator's own tools need not be told apart
            cells = [one for one in cells if _can_be_told(one, inside)]
        text = _text(value)
        # Of a function without a file, what it reads of its module.
        used = (
            [] if text else [value.__globals__[name] for name in value.__code__.co_names if name in value.__globals__]
        )
        held = [value.__defaults__, value.__kwdefaults__, cells, used]
        return [_place(value), text or _code(value.__code__), [_described(one, inside) for one in held]]
    if hasattr(value, "__wrapped__"):  # compiled by JAX
        return [_place(value), _described(value.__wrapped__, inside)]
    if isinstance(value, types.MethodType):
        return [_described(one, inside) for one in (value.__func__, value.__self__)]
    if isinstance(value, type | types.BuiltinFunctionType):
        return [_place(value), _text(value)]
    if dataclasses.is_dataclass(value):
        fields = {field.name: _described(getattr(value, field.name), inside) for field in dataclasses.fields(value)}
        return [_place(value), _text(type(value)), fields]
    if isinstance(value, inspect.Signature):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _described(one, inside) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        found = [_described(one, inside) for one in value]
        return sorted(map(str, found)) if isinstance(value, set | frozenset) else found
    raise ValueError(
        f"function: what a {_place(value)} holds cannot be told from others of its kind, so records could not name it. "
        "Write a function of a module, package.module:function."
    )


def _can_be_told(value: Any, path: tuple[int, ...]) -> bool:
    with contextlib.suppress(ValueError):
        _described(value, path)
        return True
    return False


def _numbers(value: Any) -> np.ndarray:
    is_key = isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(value) if is_key else value)


def _text(value: Any) -> str:
    """A hash of the text of the module that defines something, so that its helpers and constants enter; "": no file."""
    module = inspect.getmodule(value)
    with contextlib.suppress(OSError, TypeError):
        if module is not None and module.__name__ != "builtins":
            return records.digest(inspect.getsource(module))
    return ""


def _code(code: types.CodeType) -> Any:
    constants = [_code(one) if isinstance(one, types.CodeType) else repr(one) for one in code.co_consts]
    return [code.co_code.hex(), constants, list(code.co_names)]
