"""Annotations of the library, checked whenever a test calls it: made fast for functions inside of functions.

Every time a function is defined, jaxtyping writes two empty functions of its signature and beartype writes a check for
each.  For one inside of another function that is a millisecond at every call.  Both depend on the signature alone.

At every call jaxtyping binds the arguments to the signature.  ``inspect`` goes through all the kinds that a parameter
can have; most calls are simple.
"""

import functools
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import beartype
import jaxtyping._decorator

# Where a float is wanted an int will do, as everywhere in Python (PEP 484's numeric tower).
check = functools.cache(beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True)))


def remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that is called once for the same arguments, if they can be hashed."""
    cached = functools.cache(function)

    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return cached(*arguments, **options)
        except TypeError:  # a default that cannot be hashed
            return function(*arguments, **options)

    return call


jaxtyping._decorator._make_fn_with_signature = remembered(jaxtyping._decorator._make_fn_with_signature)


class Bound(inspect.BoundArguments):
    """Arguments among which the defaults are already."""

    def apply_defaults(self) -> None:
        pass


class Signature(inspect.Signature):
    """A signature that binds the arguments of simple calls quickly."""

    @functools.cached_property
    def _simple(self) -> tuple[tuple[str, ...], int, dict[str, Any]] | None:
        """All names, how many of them may be given by position, and the defaults."""
        parameters = self.parameters.values()
        by_position = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
        if len(by_position) + sum(one.kind is one.KEYWORD_ONLY for one in parameters) < len(parameters):
            return None
        defaults = {one.name: one.default for one in parameters if one.default is not one.empty}
        return tuple(self.parameters), len(by_position), defaults

    def bind(self, /, *arguments: Any, **named: Any) -> inspect.BoundArguments:
        if self._simple is not None:
            names, by_position, defaults = self._simple
            first = dict(zip(names, arguments, strict=False))
            values = {**defaults, **first, **named}
            twice = first.keys() & named.keys()
            if len(arguments) <= by_position and not twice and len(values) == len(names):
                try:
                    return Bound(self, {name: values[name] for name in names})  # type: ignore[arg-type]
                except KeyError:
                    pass  # one is missing and another is unknown
        return super().bind(*arguments, **named)


def signature(function: Callable[..., Any]) -> Signature:
    found = inspect.signature(function)
    return Signature(list(found.parameters.values()), return_annotation=found.return_annotation)


jaxtyping._decorator.inspect = SimpleNamespace(**{**vars(inspect), "signature": signature})  # type: ignore[assignment]
