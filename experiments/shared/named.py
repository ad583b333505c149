"""Functions of the user's own: named "package.module:function" on a command line, or passed themselves in Python."""

import importlib
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import tyro

from jaxprune import records

_PASSED: dict[str, Callable[..., Any]] = {}


def name(value: str | Callable[..., Any]) -> str:
    """Returns what records call a function: "package.module:function".  Names stay as they are.

    >>> name(name)
    'experiments.shared.named:name'
    """
    if isinstance(value, str):
        return value
    named = f"{value.__module__}:{value.__qualname__}"
    _PASSED[named] = value
    return named


Named = Annotated[
    str | Callable[..., Any],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PACKAGE.MODULE:FUNCTION",
        instance_from_str=lambda words: words[0],
        is_instance=lambda value: isinstance(value, str) or callable(value),
        str_from_instance=lambda value: [name(value)],
    ),
]
"""A setting that holds such a function or its name, or is empty."""


def is_own(word: str) -> bool:
    """Whether a word names a function of the user's."""
    return ":" in word


def find(setting: str, value: str | Callable[..., Any]) -> Callable[..., Any]:
    """Finds the function that a setting names.

    Raises:
      ValueError: there is no such module, or no such function in it.

    >>> find("score", "experiments.shared.named:name") is name
    True
    """
    if not isinstance(value, str):
        name(value)
        return value
    if value in _PASSED:
        return _PASSED[value]
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


def fingerprint(*functions: Callable[..., Any]) -> str:
    """Hashes the text of functions, so that another version has other records; of what they call it knows nothing."""
    return records.digest([_text(function) for function in functions])[:16]


def _text(function: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return name(function)  # made without a file
