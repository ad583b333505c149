"""Residual branches: what is added to the very stream that it reads can be left out as a whole.

A branch is the value y of ``x + y`` where y is made from x.  It owns the leaves that act through it alone.  It is gated
by leaves that y is jointly linear in (the last kernel and its bias, the last scale and bias): their zeros are its zero.
"""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any, NamedTuple

import jax
from jax.extend import core

from jaxprune.groups import Group, Member
from jaxprune.sites.program import Program, Step, apply, look, trace

# Zero of the operand is zero of the result, and the result is linear in it.
_LINEAR = frozenset(
    [
        *(
            "convert_element_type",
            "copy",
            "neg",
            "name",
            "transpose",
            "squeeze",
            "broadcast_in_dim",
            "reshape",
            "slice",
        ),
        *("rev", "reduce_sum", "cumsum", "reduce_window_sum", "sharding_constraint", "reduce_precision"),
    ]
)
_SUMS = frozenset(["add", "add_any", "sub"])
_PRODUCTS = frozenset(["mul", "dot_general", "conv_general_dilated"])


def branches(program: Program, names: Sequence[str], parameters: int) -> tuple[Group, ...]:
    """Lists the residual branches of a network as layers, in their order.

    Args:
      program: of ``apply(params, state, images)``.
      names: of the leaves, which are its first arguments.
      parameters: how many of them are parameters; the others are state.
    """
    found = _found(program, names)
    trained = set(names[:parameters])
    titles = Counter(_folder(one.owned, trained) for one in found)
    used: Counter[str] = Counter()
    layers = []
    for _, _, owned, ends, shape in found:
        title = _folder(owned, trained)
        title = title if title and titles[title] == 1 else _folder(ends, trained) or ends[0]
        used[title] += 1
        title = title if used[title] == 1 else f"{title}#{used[title]}"
        members = tuple(Member(name, reads=name in ends) for name in owned)
        layers.append(Group(title, 1, members, (), stage=shape, by_readers=True))
    return tuple(layers)


def left_out(function: Callable[..., Any], gone: Container[str], names: Sequence[str], tied: int | None) -> Any:
    """Leaves residual branches out of a function: where one was added there is only the stream.

    Args:
      function: ``apply`` or ``train_apply``, of all leaves.
      gone: names of the leaves of these branches.
      names: of all leaves.
      tied: the number of the first leaf of the state, of a function that returns it after its outputs.

    Returns:
      The function of the same arguments, which returns the leaves of what the other one returns; those of the state
      that are gone as it was given them.

    Raises:
      ValueError: when it is called: leaves that are gone do more than to make branches.
    """

    def without(*arguments: Any) -> list[Any]:
        program = trace(function, *arguments)
        if tied is not None:
            states = range(tied, len(names))
            kept = {at: program.arguments[at] for at in states if names[at] in gone}
            first = len(program.outputs) - len(states)
            made = [kept.get(tied + place - first, atom) for place, atom in enumerate(program.outputs)]
            program = replace(program, outputs=(*program.outputs[:first], *made[first:]))
        branches = [one for one in _found(program, names) if all(name in gone for name in one.owned)]
        streams = {one.step.outputs[0]: one.stream for one in branches}
        values: dict[int, Any] = dict(program.constants)
        values.update(zip(program.arguments, jax.tree.leaves(arguments), strict=True))
        for step in program.steps:
            if step.outputs[0] in streams:
                values[step.outputs[0]] = values[streams[step.outputs[0]]]
            else:
                values.update(zip(step.outputs, apply(step, [look(values, one) for one in step.inputs]), strict=True))
        return [look(values, atom) for atom in program.outputs]

    return without


class _Branch(NamedTuple):
    """A branch: the step that adds it to what stream, the names of its leaves and of the last of them, its shape."""

    step: Step
    stream: int
    owned: list[str]
    ends: list[str]
    shape: str


def _found(program: Program, names: Sequence[str]) -> list[_Branch]:
    """The branches of a program, in their order."""
    leaves = dict(zip(program.arguments, names, strict=False))
    makers = {number: step for step in program.steps for number in step.outputs}
    above = _ancestors(program, program.arguments)
    images = program.arguments[len(names)]
    found: list[_Branch] = []
    for step in program.steps:
        values = _values(step)
        if step.name not in ("add", "add_any") or len(values) != 2 or not all(images in above[one] for one in values):
            continue
        first, second = values
        for stream, branch in ((first, second), (second, first)):
            if not _depends(branch, stream, makers):
                continue
            owned = _owned(program, branch, leaves)
            ends = _ends(branch, makers, leaves, above)
            if ends is not None and ends and ends <= owned:
                shape = "x".join(str(length) for length in program.avals[branch].shape[1:])
                found.append(_Branch(step, stream, _named(owned, leaves), _named(ends, leaves), shape))
    return found


def _values(step: Step) -> list[int]:
    return [atom for atom in step.inputs if not isinstance(atom, core.Literal)]


def _ancestors(program: Program, arguments: Iterable[int]) -> dict[int, frozenset[int]]:
    """For every value the arguments that it is made from."""
    above: dict[int, frozenset[int]] = {number: frozenset((number,)) for number in arguments}
    above |= dict.fromkeys(program.constants, frozenset())
    for step in program.steps:
        union = frozenset().union(*(above[atom] for atom in _values(step)))
        above.update(dict.fromkeys(step.outputs, union))
    return above


def _depends(value: int, on: int, makers: dict[int, Step]) -> bool:
    """Whether a value is made from another."""
    open_, seen = [value], {value}
    while open_:
        step = makers.get(open_.pop())
        for atom in _values(step) if step else ():
            if atom == on:
                return True
            if atom not in seen and atom > on:  # values are numbered in their order
                seen.add(atom)
                open_.append(atom)
    return False


def _owned(program: Program, branch: int, leaves: dict[int, str]) -> set[int]:
    """The leaves that reach the outputs through one value alone."""
    reached = {atom for atom in program.outputs if not isinstance(atom, core.Literal)}
    whole = set(reached)
    for step in reversed(program.steps):
        values = _values(step)
        if not whole.isdisjoint(step.outputs):
            whole.update(values)
        if not reached.isdisjoint(set(step.outputs) - {branch}):
            reached.update(values)
    return (whole - reached) & set(leaves)


def _ends(
    value: int, makers: dict[int, Step], leaves: dict[int, str], above: dict[int, frozenset[int]]
) -> set[int] | None:
    """Leaves that a value is linear in, all together; None where none are found."""
    if value in leaves:
        return {value}
    step = makers.get(value)
    if step is None:
        return None
    values = _values(step)
    if step.name in _LINEAR and values:
        return _ends(values[0], makers, leaves, above)
    if step.name in _SUMS and len(values) == 2:
        parts = [_ends(one, makers, leaves, above) for one in values]
        return None if any(part is None for part in parts) else set().union(*(part or set() for part in parts))
    if step.name == "select_n":  # dropout: the value, or zero
        cases = [one for one in step.inputs[1:] if not _is_zero(one, makers)]
        parts = [_ends(one, makers, leaves, above) if not isinstance(one, core.Literal) else None for one in cases]
        ends = set().union(*(part or set() for part in parts))
        which = step.inputs[0]
        fixed = isinstance(which, core.Literal) or not ends & above[which]
        return ends if all(parts) and fixed else None
    if step.name == "div":
        sides = values[:1] if values and values[0] == step.inputs[0] else []
    elif step.name in _PRODUCTS:
        sides = sorted(values, key=lambda one: len(above[one]))  # a leaf rather than what is made of many
    else:
        return None
    for side in sides:
        ends = _ends(side, makers, leaves, above)
        others = [one for one in values if one != side]
        if ends and values.count(side) == 1 and not any(ends & above[one] for one in others):
            return ends
    return None


def _is_zero(atom: Any, makers: dict[int, Step]) -> bool:
    """Whether a value is a zero of the program's own, copied or not."""
    while not isinstance(atom, core.Literal):
        step = makers.get(atom)
        if step is None or step.name not in ("broadcast_in_dim", "convert_element_type") or len(step.inputs) != 1:
            return False
        atom = step.inputs[0]
    return bool(atom.val == 0)


def _named(numbers: Iterable[int], leaves: dict[int, str]) -> list[str]:
    return [leaves[number] for number in sorted(numbers)]


def _folder(names: Sequence[str], trained: Container[str]) -> str:
    """The folder that the parameters among some leaves have in common."""
    parts = zip(*(name.split("/")[:-1] for name in names if name in trained), strict=False)
    return "/".join(one[0] for one in takewhile(lambda one: len(set(one)) == 1, parts))
