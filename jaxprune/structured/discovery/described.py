"""Rules of a user's own, in the letters of einsum, for primitives that nothing else describes."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxprune.structured.discovery.facts import Facts, Side, Step, Value
from jaxprune.structured.discovery.indices import STAYS, Nodes

Description = Callable[..., str]
"""``(params, *shapes of the operands) -> "b h c, c k -> b h k"``."""


def by_letters(
    facts: Facts, description: Description, step: Step, *operands: Value
) -> tuple[list[tuple[Nodes, ...]], int]:
    """Follows indices through a primitive by what a user says of it.

    One letter, or word, for every axis: the same letter is the same index.  A letter of two operands that no result has
    is summed over, of the product of both.  ``_``, and a letter of one operand or of results alone, stays.

    Raises:
      ValueError: a description that does not fit the shapes.
    """
    said = description(step.params, *(operand.shape for operand in operands))
    inputs, results = _read(said, step, operands)
    nodes: dict[str, Nodes] = {}
    for letters, operand in zip(inputs, operands, strict=True):
        for letter, here in zip(letters, operand.axes, strict=True):
            if letter == "_":
                facts.indices.fix(here, f"{step.name}: described so")
            elif len(nodes.setdefault(letter, here)) != len(here):
                raise ValueError(
                    f"describe: {said!r} of {step.name!r} says that {letter!r} is one index, but it is of axes of "
                    f"{len(nodes[letter])} and {len(here)}."
                )
            else:
                facts.indices.join(nodes[letter], here)
    kept = {letter for letters in results for letter in letters}
    marks = 0
    for letter, here in nodes.items():
        sides = [
            Side(operand, letters.index(letter), number)
            for number, (letters, operand) in enumerate(zip(inputs, operands, strict=True))
            if letter in letters
        ]
        if letter not in kept and len(sides) == 2:
            marks |= facts.contract(here, sides)
            for side in sides:
                facts.use(side.value, "reads", (side.axis,))
        else:
            for side in sides:
                facts.use(side.value, "makes", (side.axis,))
            if letter not in kept:
                facts.indices.fix(here, f"{step.name}: described so")
    everything = marks
    for operand in operands:
        everything |= operand.marks
    made = []
    for letters, shape in zip(results, step.shapes, strict=True):
        axes = tuple(nodes.get(letter, np.full(length, STAYS)) for letter, length in zip(letters, shape, strict=True))
        for axis in axes:
            facts.spread(axis, everything)
        made.append(axes)
    return made, marks


def _read(said: str, step: Step, operands: Any) -> tuple[list[list[str]], list[list[str]]]:
    before, arrow, after = said.partition("->")
    inputs, results = ([part.split() for part in side.split(",")] for side in (before, after))
    fits = [len(letters) for letters in inputs] == [len(operand.shape) for operand in operands]
    if not arrow or not fits or [len(letters) for letters in results] != [len(shape) for shape in step.shapes]:
        shapes = ", ".join(str(operand.shape) for operand in operands)
        raise ValueError(
            f"describe: expected a letter for every axis of {step.name!r}, {shapes} -> "
            f'{", ".join(map(str, step.shapes))}, but got {said!r}. Write it like "b c, c k -> b k".'
        )
    return inputs, results


def check(describe: Mapping[str, Description]) -> None:
    """Checks that descriptions are functions, by the name of a primitive.

    Raises:
      ValueError: they are not.
    """
    if not isinstance(describe, Mapping) or not all(callable(value) for value in describe.values()):
        raise ValueError(
            f"describe: expected functions by the name of a primitive, but got {describe!r:.200}. Write "
            '{"my_product": lambda params, *shapes: "b c, c k -> b k"}.'
        )
