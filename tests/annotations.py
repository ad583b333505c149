"""Annotations of the library, checked whenever a test calls it: made fast for functions inside of functions.

Every time a function is defined, jaxtyping writes two empty functions of its signature and beartype writes a check for
each.  For one inside of another function that is a millisecond at every call.  Both depend on the signature alone.
"""

import functools
from collections.abc import Callable
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
