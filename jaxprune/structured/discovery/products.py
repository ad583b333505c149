"""Rules for sums of products: matrix products and convolutions, where units end."""

import numpy as np

from jaxprune.structured.discovery.facts import Facts, Origin, Side, Step, Value
from jaxprune.structured.discovery.indices import STAYS, WEIGHTS, Nodes
from jaxprune.structured.discovery.layout import stays

Axes = tuple[Nodes, ...]


def matrix_product(facts: Facts, step: Step, left: Value, right: Value) -> tuple[list[Axes], int]:
    """Indices summed over, and those of the batch, are one in both factors."""
    contracted, batched = step.params["dimension_numbers"]
    for one, other in (*zip(*contracted, strict=True), *zip(*batched, strict=True)):
        facts.indices.join(left.axes[one], right.axes[other])
    marks = 0
    for one, other in zip(*contracted, strict=True):
        marks |= facts.contract(left.axes[one], (Side(right, other, 1), Side(left, one, 0)))
    free = [
        [axis for axis in range(len(side.axes)) if axis not in contracted[place] and axis not in batched[place]]
        for place, side in enumerate((left, right))
    ]
    # A statistic that is multiplied by all of something else returns to it, unless that is a leaf.
    for place, side, other in ((0, left, right), (1, right, left)):
        if side.source != WEIGHTS:
            for axis in free[place]:
                facts.spread(side.axes[axis], other.marks | marks)
    axes = (
        *(left.axes[axis] for axis in batched[0]),
        *(left.axes[axis] for axis in free[0]),
        *(right.axes[axis] for axis in free[1]),
    )
    for place, side in enumerate((left, right)):
        facts.use(side, "reads", contracted[place])
    return [axes], marks


def shared(left: Value, right: Value) -> bool:
    """Whether a leaf is in both factors, so that their product is not linear in it."""
    return bool({one.leaf for one in left.origins} & {one.leaf for one in right.origins})


def still(facts: Facts, step: Step, left: Value, right: Value) -> tuple[Origin, ...]:
    """The leaves that a matrix product is linear in, and where their axes are."""
    contracted, batched = step.params["dimension_numbers"]
    found: list[Origin] = []
    if shared(left, right):  # no longer linear
        facts.use(left)
        facts.use(right)
        return ()
    for place, side in enumerate((left, right)):
        free = [axis for axis in range(len(side.axes)) if axis not in contracted[place] and axis not in batched[place]]
        for origin in side.origins:
            axes = [frozenset[int]()] * len(step.shapes[0])
            start = len(axes) - len(free) if place else len(batched[0])
            for to, axis in (*enumerate(batched[place]), *enumerate(free, start)):
                axes[to] = origin.axes[axis]
            found.append(Origin(origin.leaf, tuple(axes)))
    return tuple(found)


def convolution(facts: Facts, step: Step, images: Value, kernel: Value) -> tuple[list[Axes], int]:
    """Positions stay; channels in are summed over, within their groups; channels out are the kernel's."""
    numbers, groups = step.params["dimension_numbers"], step.params["feature_group_count"]
    if step.params["batch_group_count"] != 1:
        for side in (images, kernel):
            facts.use(side)
        return stays(facts, step, "groups of the batch", images, kernel), 0
    for side, spec in ((images, numbers.lhs_spec), (kernel, numbers.rhs_spec)):
        for axis in spec[2:]:
            facts.indices.fix(side.axes[axis], "positions of a convolution")
    (read, taken), made = ((images.axes[numbers.lhs_spec[1]], kernel.axes[numbers.rhs_spec[1]])), numbers.rhs_spec[0]
    out = kernel.axes[made]
    if groups == 1:
        facts.indices.join(read, taken)
    else:
        _grouped(facts, groups, read, taken, out)
    marks = facts.contract(taken, (Side(kernel, numbers.rhs_spec[1], 1), Side(images, numbers.lhs_spec[1], 0)))
    if kernel.source != WEIGHTS:
        facts.spread(out, images.marks | marks)
    if images.source != WEIGHTS:
        facts.spread(images.axes[numbers.lhs_spec[0]], kernel.marks | marks)
    for side, summed in ((kernel, numbers.rhs_spec[1]), (images, numbers.lhs_spec[1])):
        reads = (summed,) if side is kernel or groups == 1 else ()
        facts.use(side, "reads", reads)
        facts.use(side, "makes", [axis for axis in range(len(side.axes)) if axis not in reads])
    result = [np.full(length, STAYS) for length in step.shapes[0]]
    result[numbers.out_spec[0]] = images.axes[numbers.lhs_spec[0]]
    result[numbers.out_spec[1]] = out
    return [tuple(result)], marks


def _grouped(facts: Facts, groups: int, read: Nodes, taken: Nodes, out: Nodes) -> None:
    """Channels in are (group, channel in it), channels out (group, filter of it)."""
    indices, filters = facts.indices, len(out) // groups
    if len(taken) == 1:
        indices.fix(taken, "a convolution of each channel by itself")
    group = read if len(taken) == 1 else indices.fresh(groups)
    if len(taken) > 1:
        indices.product(read, np.repeat(group, len(taken)), np.tile(taken, groups))
    if filters == 1:
        indices.join(out, group)
    else:
        indices.product(out, np.repeat(group, filters), np.tile(indices.fresh(filters), groups))
