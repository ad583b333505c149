"""Groups as a table: what each unit owns, and what it costs."""

import math
from collections.abc import Container, Mapping, Sequence

from jaxprune.groups import Group, Member
from jaxprune.structured.discovery.facts import Facts
from jaxprune.structured.discovery.listing import Leaf

_HEAD = ("group", "units", "parameters", "products", "made by", "read by")
_SHOWN = 4


def table(
    groups: Sequence[Group],
    leaves: Sequence[Leaf],
    facts: Facts,
    batch: int,
    proof: Mapping[str, str] | None = None,
) -> str:
    """Writes groups as a table.

    A member is its leaf and axis, with how many of its indices belong to a unit: ``kernel[1] 3x4`` are three runs of
    four neighbours.  Parameters are those of one unit, and products the multiplications by these for one image; what
    two groups share counts for either.  Where a proof was asked for, a column says what is proven, and lines below why
    something is not.
    """
    rows = [_HEAD, *(_row(group, leaves, facts, batch) for group in groups)]
    if proof is not None:
        marks = [("no" if proof[one.name] else "yes") if one.name in proof else "" for one in groups]
        rows = [(*row[:2], mark, *row[2:]) for row, mark in zip(rows, ("proven", *marks), strict=True)]
    lines = aligned(rows, numbers=range(1, len(rows[0]) - 2))
    lines += [f"{name} is not proven: {why}." for name, why in (proof or {}).items() if why]
    if recomputed := [group.name for group in groups if group.recomputed]:
        lines.append(f"Statistics are recomputed: to remove units of {_joined(recomputed)} is not to gate them.")
    return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]], numbers: Container[int] = ()) -> list[str]:
    """Writes rows of one length as lines, their columns under each other; those of numbers to the right.

    >>> aligned([("a", "1"), ("bcd", "20")], numbers=[1])
    ['a     1', 'bcd  20']
    """
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, wide, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _row(group: Group, leaves: Sequence[Leaf], facts: Facts, batch: int) -> tuple[str, ...]:
    known = {leaf.name: (number, leaf) for number, leaf in enumerate(leaves)}
    operations: dict[int, int] = {}
    for (leaf, _), count in facts.operations.items():
        operations[leaf] = operations.get(leaf, 0) + count
    parameters, products = 0, 0.0
    for member in group.members:
        number, leaf = known[member.leaf]
        lengths = list(map(len, leaf.axes))
        share = 1.0 if member.axis is None else member.places(group.size).shape[1] / lengths[member.axis]
        parameters += round(math.prod(lengths) * share)
        products += operations.get(number, 0) * share / batch
    made, read = ([_written(one) for one in group.members if one.reads == reads] for reads in (False, True))
    return (group.name, str(group.size), f"{parameters:,}", f"{round(products):,}", _joined(made), _joined(read))


def _written(member: Member) -> str:
    if member.axis is None:
        return member.leaf
    if member.indices is not None:
        return f"{member.leaf}[{member.axis}] {len(member.indices[0])} in an order of their own"
    runs = f" {member.outer}x{member.each}" if member.outer > 1 else f" x{member.each}" if member.each > 1 else ""
    start = f" from {member.offset}" if member.offset else ""
    return f"{member.leaf}[{member.axis}]{runs}{start}"


def _joined(members: Sequence[str]) -> str:
    shown = ", ".join(members[:_SHOWN])
    return shown + (f" and {len(members) - _SHOWN} more" if len(members) > _SHOWN else "")
