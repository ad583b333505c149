"""Nested dictionaries and lists as one dictionary of dotted names."""

from collections.abc import Iterator
from typing import Any

from jaxprune.tensor_files.machine import PLAIN
from jaxprune.tensor_files.refusal import Allowance, Refusal
from jaxprune.tensor_files.values import Placeholder, Tensor, Unfilled, Unreadable

_DEEPEST = 100
# Where PyTorch's modules keep what their state dictionary calls by its own name.
_UNNAMED = ("_parameters", "_buffers", "_modules")


def flatten(value: Any, allowance: Allowance) -> tuple[dict[str, Tensor | Unreadable], dict[str, Any]]:
    """Names every tensor by the keys on the way to it, and what lies beside them likewise.

    A list without tensors, dictionaries or placeholders in it is one value.  A placeholder is one too, and what its
    state and entries hold is named besides.  A value on the way to itself is left out there.  Values of one name cannot
    be told apart, and become one that cannot be had.

    Args:
      value: what a pickle holds.
      allowance: the memory that names may take; a value that is held many times is named many times.

    Returns:
      (tensors, others).  The name of the value itself is "".

    Raises:
      Refusal: the nesting is too deep, or there are too many names.

    >>> flatten({"epoch": 3, "best": {"accuracy": (0.5, 0.6)}}, Allowance(10_000))
    ({}, {'epoch': 3, 'best.accuracy': (0.5, 0.6)})
    """
    tensors: dict[str, Tensor | Unreadable] = {}
    others: dict[str, Any] = {}
    waiting: list[tuple[str, Any, tuple[int, ...]]] = [("", value, ())]
    while waiting:
        name, value, above = waiting.pop()
        value = value.content if isinstance(value, Unfilled) else value
        nested = isinstance(value, (dict, list, tuple))
        # For the copy below, and so that looking at one long list many times comes to an end.
        allowance.spend(8 * len(value) if nested else 0)
        inner = list(_inside(value))
        leaf = not nested or (len(value) > 0 and not inner)
        is_tensor = isinstance(value, (Tensor, Unreadable))
        if leaf and (name in tensors or name in others):
            # Which of them is meant cannot be told.
            others.pop(name, None)
            (tensors if is_tensor or name in tensors else others)[name] = Unreadable("one of several of that name")
        elif is_tensor:
            tensors[name] = value
        elif leaf:
            others[name] = tuple(value) if isinstance(value, list) else value
        if id(value) in above:
            continue
        if inner and len(above) == _DEEPEST:
            raise Refusal(f"its values are nested more than {_DEEPEST} deep", "Save the tensors alone.")
        below = (*above, id(value)) if inner else ()
        for key, part in reversed(inner):
            key = key.name if isinstance(key, Placeholder) else key
            text = f"{name}.{key}" if name else str(key)
            # The name, a place on the list of what waits, one in a dictionary.
            allowance.spend(300 + 4 * len(text))
            waiting.append((text, part, below))
    return tensors, others


def _inside(value: Any) -> Iterator[tuple[Any, Any]]:
    """The values that have names of their own inside of another."""
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, (list, tuple)):
        if not all(isinstance(part, PLAIN) for part in value):
            yield from enumerate(value)
    elif isinstance(value, Placeholder):
        yield from value.entries
        for key, part in value.state.items() if isinstance(value.state, dict) else ():
            if key in _UNNAMED and isinstance(part, dict):
                yield from part.items()
            else:
                yield key, part
