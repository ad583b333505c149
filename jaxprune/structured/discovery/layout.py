"""Rules for what moves numbers about: transposes, reshapes, parts and concatenations."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxprune.structured.discovery.facts import Facts, Step, Value
from jaxprune.structured.discovery.indices import STAYS, Nodes

Axes = tuple[Nodes, ...]


def transpose(facts: Facts, step: Step, operand: Value) -> list[Axes]:
    """Axes in another order."""
    return [tuple(operand.axes[axis] for axis in step.params["permutation"])]


def broadcast(facts: Facts, step: Step, operand: Value, *_: Value) -> list[Axes]:
    """Copies along new axes, and along those of length 1."""
    (shape,) = step.shapes
    result: dict[int, Nodes] = {}
    for nodes, axis in zip(operand.axes, step.params["broadcast_dimensions"], strict=True):
        if len(nodes) == shape[axis]:
            result[axis] = nodes
        else:
            facts.indices.fix(nodes, "one index is copied along an axis")
    for axis, length in enumerate(shape):
        if axis not in result:
            result[axis] = facts.indices.fresh(length) if length != 1 else np.full(1, STAYS)
            facts.spread(result[axis], operand.marks)
    return [tuple(result[axis] for axis in range(len(shape)))]


def squeeze(facts: Facts, step: Step, operand: Value) -> list[Axes]:
    """Axes of length 1 go; without their index nothing would be left."""
    gone = [axis % len(operand.axes) for axis in step.params["dimensions"]]
    for axis in gone:
        facts.indices.fix(operand.axes[axis], "an axis of one index is dropped")
    return [tuple(nodes for axis, nodes in enumerate(operand.axes) if axis not in gone)]


def iota(facts: Facts, step: Step, *_: Value) -> list[Axes]:
    """Counts along an axis."""
    axes = tuple(facts.indices.fresh(length) for length in step.shapes[0])
    facts.notes.append((axes[step.params["dimension"]], "the program counts its units (iota)"))
    return [axes]


def random(facts: Facts, step: Step, *operands: Value) -> list[Axes]:
    """Random numbers, of keys that stay."""
    for operand in operands:
        for nodes in operand.axes:
            facts.indices.fix(nodes, "keys of random numbers")
    return [tuple(facts.indices.fresh(length) for length in shape) for shape in step.shapes]


def blocks(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The axes that a reshape merges and takes apart, in groups as small as can be; axes of length 1 are left out.

    >>> blocks((2, 3, 4), (6, 1, 2, 2))
    [([0, 1], [0]), ([2], [2, 3])]
    """
    old, new = ([axis for axis, length in enumerate(shape) if length != 1] for shape in (before, after))
    found = []
    while old or new:
        left, right = [old.pop(0)], [new.pop(0)]
        merged, parted = before[left[0]], after[right[0]]
        while merged != parted:
            if merged < parted:
                left.append(old.pop(0))
                merged *= before[left[-1]]
            else:
                right.append(new.pop(0))
                parted *= after[right[-1]]
        found.append((left, right))
    return found


def reshape(facts: Facts, step: Step, operand: Value, *_: Value) -> list[Axes]:
    """Axes are merged and taken apart: an index of a merged axis lives if all its factors do."""
    (shape,) = step.shapes
    if step.params.get("dimensions") is not None or 0 in shape:
        return stays(facts, step, "a reshape in another order", operand)
    for nodes in operand.axes:
        if len(nodes) == 1:
            facts.indices.fix(nodes, "an axis of one index is dropped")
    result = [np.full(length, STAYS) for length in shape]
    for left, right in blocks(operand.shape, shape):
        merged = facts.indices.merge([operand.axes[axis] for axis in left])
        for axis, nodes in zip(right, facts.indices.split(merged, [shape[axis] for axis in right]), strict=True):
            result[axis] = nodes
    return [tuple(result)]


def concatenate(facts: Facts, step: Step, *operands: Value) -> list[Axes]:
    """One after the other along an axis, index by index along the others."""
    along, first = step.params["dimension"], operands[0]
    result = list(first.axes)
    result[along] = np.concatenate([operand.axes[along] for operand in operands])
    for operand in operands[1:]:
        for axis, nodes in enumerate(operand.axes):
            if axis != along:
                facts.indices.join(first.axes[axis], nodes)
    return [tuple(result)]


def stack(facts: Facts, step: Step, *operands: Value) -> list[Axes]:
    """One beside the other, along a new axis that stays."""
    at = step.params["axis"]
    for operand in operands[1:]:
        for left, right in zip(operands[0].axes, operand.axes, strict=True):
            facts.indices.join(left, right)
    axes = operands[0].axes
    return [(*axes[:at], np.full(len(operands), STAYS), *axes[at:])]


def unstack(facts: Facts, step: Step, operand: Value) -> list[Axes]:
    """Every index of an axis by itself."""
    at = step.params["axis"]
    facts.indices.fix(operand.axes[at], "every index is taken by itself")
    return [(*operand.axes[:at], *operand.axes[at + 1 :]) for _ in step.shapes]


def tile(facts: Facts, step: Step, operand: Value) -> list[Axes]:
    """Copies side by side."""
    result = []
    for nodes, times in zip(operand.axes, step.params["reps"], strict=True):
        if len(nodes) == 1 and times > 1:
            facts.indices.fix(nodes, "one index is copied along an axis")
            nodes = facts.indices.fresh(1)
            facts.spread(nodes, operand.marks)
        result.append(np.tile(nodes, times))
    return [tuple(result)]


def part(facts: Facts, step: Step, operand: Value) -> list[Axes]:
    """A slice."""
    starts, stops = step.params["start_indices"], step.params["limit_indices"]
    strides = step.params["strides"] or (1,) * len(starts)
    return [
        tuple(
            nodes[start:stop:stride]
            for nodes, start, stop, stride in zip(operand.axes, starts, stops, strides, strict=True)
        )
    ]


def split(facts: Facts, step: Step, operand: Value) -> list[Axes]:
    """Several slices along an axis."""
    along = step.params["axis"]
    parts = np.split(operand.axes[along], np.cumsum(step.params["sizes"])[:-1])
    return [tuple(one if axis == along else nodes for axis, nodes in enumerate(operand.axes)) for one in parts]


def pad(facts: Facts, step: Step, operand: Value, number: Value) -> list[Axes]:
    """New indices before and behind; between others, or where some are cut off, all of an axis stays."""
    result = []
    for nodes, (low, high, between), length in zip(
        operand.axes, step.params["padding_config"], step.shapes[0], strict=True
    ):
        if low < 0 or high < 0 or between:
            facts.indices.fix(nodes, "a padding between units, or below zero")
            result.append(np.full(length, STAYS))
            continue
        new = (facts.indices.fresh(int(low)), nodes, facts.indices.fresh(int(high)))
        for fresh in (new[0], new[2]):
            facts.spread(fresh, number.marks)
        result.append(np.concatenate(new))
    return [tuple(result)]


def reverse(facts: Facts, step: Step, operand: Value) -> list[Axes]:
    """Axes backwards."""
    return [
        tuple(nodes[::-1] if axis in step.params["dimensions"] else nodes for axis, nodes in enumerate(operand.axes))
    ]


def dynamic_slice(facts: Facts, step: Step, operand: Value, *starts: Value) -> list[Axes]:
    """A slice that begins at an index that the program computes: known, whole, or all stays."""
    result = []
    for nodes, length, start in zip(operand.axes, step.shapes[0], starts, strict=False):
        if length == len(nodes):
            result.append(nodes)
        elif start.known is not None:
            first = int(np.clip(start.known, 0, len(nodes) - length))
            result.append(nodes[first : first + length])
        else:
            facts.indices.fix(nodes, "a part that begins at an index that is computed")
            result.append(np.full(length, STAYS))
    return [tuple(result)]


def dynamic_update_slice(facts: Facts, step: Step, operand: Value, update: Value, *_: Value) -> list[Axes]:
    """A part is replaced: along an axis that is replaced whole indices go together, others stay."""
    result = []
    for nodes, new in zip(operand.axes, update.axes, strict=True):
        if len(nodes) == len(new):
            facts.indices.join(nodes, new)
            result.append(nodes)
        else:
            facts.indices.fix(nodes, "a part of the units is replaced")
            facts.indices.fix(new, "a part of the units is replaced")
            result.append(np.full(len(nodes), STAYS))
    return [tuple(result)]


def gather(facts: Facts, step: Step, operand: Value, places: Value) -> list[Axes]:
    """Entries at given indices: by constants along one axis an order, a part or copies; all else looked into stays."""
    numbers, sizes = step.params["dimension_numbers"], step.params["slice_sizes"]
    (shape,) = step.shapes
    looked = set(numbers.start_index_map)
    if getattr(numbers, "operand_batching_dims", ()):
        return stays(facts, step, "a gather in batches", operand, places)
    batch = [axis for axis in range(len(shape)) if axis not in numbers.offset_dims]
    along = places.axes[:-1]
    result: dict[int, Nodes] = dict(zip(batch, along, strict=True))
    order = _order(operand, places, numbers, sizes)
    windows = [axis for axis in range(len(operand.axes)) if axis not in numbers.collapsed_slice_dims]
    for axis, nodes in enumerate(operand.axes):
        whole = sizes[axis] == len(nodes)
        if axis in numbers.collapsed_slice_dims:
            if order is not None and axis == numbers.start_index_map[0]:
                result[batch[0]] = nodes[order]
                facts.notes.append((nodes[order], "the program looks units up by numbers of its own"))
            else:
                facts.indices.fix(nodes, "entries are looked up")
            continue
        target = numbers.offset_dims[windows.index(axis)]
        if whole and axis not in looked:
            result[target] = nodes
        else:
            facts.indices.fix(nodes, "parts are looked up")
            result[target] = np.full(shape[target], STAYS)
    facts.indices.fix(places.axes[-1], "they say where to look")
    return [tuple(result[axis] for axis in range(len(shape)))]


def _order(operand: Value, places: Value, numbers: Any, sizes: Sequence[int]) -> np.ndarray | None:
    """The indices of the one axis that is looked into, where they are constants in one row and all exist."""
    if places.known is None or places.known.ndim != 2 or len(numbers.start_index_map) != 1:
        return None
    (axis,) = numbers.start_index_map
    order = places.known[:, 0].astype(int)
    inside = (order >= 0).all() and (order < len(operand.axes[axis])).all()
    return order if inside and sizes[axis] == 1 and axis in numbers.collapsed_slice_dims else None


def scatter(facts: Facts, step: Step, operand: Value, places: Value, update: Value) -> list[Axes]:
    """Entries are put in at given indices: whole axes go together, those that are looked into stay."""
    numbers = step.params["dimension_numbers"]
    if getattr(numbers, "operand_batching_dims", ()):
        return stays(facts, step, "a scatter in batches", operand, places, update)
    for nodes in places.axes:
        facts.indices.fix(nodes, "they say where to put something")
    windows = iter(numbers.update_window_dims)
    matched = set()
    result = []
    for axis, nodes in enumerate(operand.axes):
        into = axis in numbers.scatter_dims_to_operand_dims
        new = None
        if axis not in numbers.inserted_window_dims:
            at = next(windows)
            new = update.axes[at]
            matched |= {at} if not into and len(new) == len(nodes) else set()
        if into or new is None or len(new) != len(nodes):
            facts.indices.fix(nodes, "entries are put in")
            result.append(np.full(len(nodes), STAYS))
        else:
            facts.indices.join(nodes, new)
            result.append(nodes)
    for axis, nodes in enumerate(update.axes):
        if axis not in matched:
            facts.indices.fix(nodes, "entries are put in")
    return [tuple(result)]


def stays(facts: Facts, step: Step, why: str, *operands: Value) -> list[Axes]:
    """Nothing is known: every index of operands and results stays."""
    for operand in operands:
        for nodes in operand.axes:
            facts.indices.fix(nodes, f"{step.name}: {why}")
    return [tuple(np.full(length, STAYS) for length in shape) for shape in step.shapes]
