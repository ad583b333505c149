"""Annotations of the library, checked whenever a test calls it: made fast for functions inside of functions.

Every time a function is defined, jaxtyping writes two empty functions of its signature and beartype writes a check for
each.  For one inside of another function that is a millisecond at every call.  Both depend on the signature alone.

At every call jaxtyping binds the arguments to the signature, and remembers the extents of their arrays.  ``inspect``
goes through all the kinds that a parameter can have; most calls are simple, and most functions name no extents at all.
"""

import functools
import inspect
import typing
from collections.abc import Callable
from types import FunctionType, SimpleNamespace
from typing import Any

import beartype
import beartype.roar
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


def names_extents(annotation: Any) -> bool:
    """Whether a type of jaxtyping is somewhere in an annotation."""
    if type(annotation).__module__.startswith("jaxtyping") or getattr(annotation, "__module__", "") == "jaxtyping":
        return True
    return any(map(names_extents, typing.get_args(annotation)))


whole = jaxtyping.jaxtyped
Checks = tuple[Callable[..., Any], Callable[..., Any] | None, str]


@remembered
def checks(about: tuple[str, str, str], read: Signature, typechecker: Any) -> Checks | None:
    """What checks the arguments and what checks the result, under the name it has; None where extents are named."""
    if any(names_extents(one.annotation) for one in read.parameters.values()) or names_extents(read.return_annotation):
        return None
    make = jaxtyping._decorator._make_fn_with_signature
    accepts = typechecker(make(*about, read.replace(return_annotation=Any), output=False))
    if read.return_annotation is inspect.Signature.empty:
        return accepts, None, ""
    full, name = make(*about, read, output=True)
    return accepts, typechecker(full), name


def jaxtyped(function: Any = None, *, typechecker: Any) -> Any:
    """As jaxtyping's, with less to do for functions whose annotations name no extents."""
    if function is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if not isinstance(function, FunctionType) or any(isinstance(one, str) for one in function.__annotations__.values()):
        return whole(function, typechecker=typechecker)
    found = checks((function.__name__, function.__qualname__, function.__module__), signature(function), typechecker)
    if found is None:
        return whole(function, typechecker=typechecker)
    accepts, returns, name = found

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:
            return function(*arguments, **options)
        try:
            accepts(*arguments, **options)
        except Exception:
            return whole(function, typechecker=typechecker)(*arguments, **options)  # says what is wrong
        result = function(*arguments, **options)
        if returns is not None:
            try:
                returns(*arguments, **options, **{name: result})
            except beartype.roar.BeartypeCallHintViolation as error:
                raise jaxtyping.TypeCheckError(f"{function.__module__}.{function.__qualname__}: {error}") from None
        return result

    return call


jaxtyping.jaxtyped = jaxtyping._decorator.jaxtyped = jaxtyped
