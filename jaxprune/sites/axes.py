"""Follows the axis of the examples through the steps of a linear program.

Every value either does not depend on the marked inputs, or depends on them example by example along one axis, or is
``MIXED``: not followed.  A step that is not known to be linear in what is marked mixes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.extend import core

from jaxprune.sites.program import Program, Step

MIXED = "mixed"
Axis = int | str


def follow(program: Program, marked: Mapping[int, int]) -> dict[int, Axis]:
    """Returns for every value that depends on the marked inputs its axis of examples, or ``MIXED``.

    Args:
      program: the program.
      marked: the number of an input -> its axis of examples.
    """
    found: dict[int, Axis] = dict(marked)
    for step in program.steps:
        positions = [place for place, atom in enumerate(step.inputs) if _number(atom) in found]
        if not positions:
            continue
        incoming = [found[step.inputs[place]] for place in positions]
        outgoing = None
        if MIXED not in incoming and step.name in _RULES:
            shapes = [program.aval(atom).shape for atom in step.inputs]
            known = dict(zip(positions, incoming, strict=True))
            outgoing = _RULES[step.name](step, known, shapes, program.avals[step.outputs[0]].shape)
        found.update(dict.fromkeys(step.outputs, MIXED if outgoing is None else int(outgoing)))
    return found


def _number(atom: Any) -> Any:
    return None if isinstance(atom, core.Literal) else atom


# A rule returns the axis of the result, or None where it is not followed.  ``known``: position of a marked input ->
# axis.
Known = Mapping[int, Any]
Shapes = Sequence[tuple[int, ...]]
Rule = Callable[[Step, Known, Shapes, tuple[int, ...]], int | None]


def _same(*positions: int) -> Rule:
    """Elementwise; linear in the inputs at these positions together (all of them, if none is named)."""

    def rule(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> int | None:
        if (positions and not set(known) <= set(positions)) or len(set(known.values())) != 1:
            return None
        axis = next(iter(known.values()))
        spread = any(len(shapes[place]) != len(result) or shapes[place][axis] != result[axis] for place in known)
        return None if spread else axis

    return rule


def _one(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> int | None:
    """Elementwise, linear in either input but not in both together."""
    return _same()(step, known, shapes, result) if len(known) == 1 else None


def _transpose(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> int | None:
    return step.params["permutation"].index(known[0])


def _broadcast(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> int | None:
    if list(known) != [0]:
        return None
    target = int(step.params["broadcast_dimensions"][known[0]])
    return target if shapes[0][known[0]] == result[target] else None


def _reshape(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> int | None:
    if step.params.get("dimensions") is not None or list(known) != [0]:
        return None
    axis, before = known[0], shapes[0]
    ahead = np.prod(before[:axis], dtype=np.int64)
    for target, extent in enumerate(result):
        # The same extent with as much before it: the same index. Axes of extent 1 beside it are told apart by extent.
        if extent == before[axis] and np.prod(result[:target], dtype=np.int64) == ahead:
            return target
    return None


def _squeeze(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> int | None:
    gone = step.params["dimensions"]
    return None if known[0] in gone else known[0] - sum(axis < known[0] for axis in gone)


def _reduce(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> int | None:
    gone = step.params["axes"]
    return None if known[0] in gone else known[0] - sum(axis < known[0] for axis in gone)


def _along(name: str) -> Rule:
    """Works along one axis, named by a parameter, and alike on all others."""

    def rule(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> int | None:
        axes = set(known.values())
        return known[next(iter(known))] if len(axes) == 1 and step.params[name] not in axes else None

    return rule


def _slice(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> int | None:
    axis = known[0]
    whole = step.params["start_indices"][axis] == 0 and step.params["limit_indices"][axis] == shapes[0][axis]
    return axis if whole and (step.params["strides"] or [1] * (axis + 1))[axis] == 1 else None


def _stack(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> int | None:
    axes = set(known.values())
    return sum(axes) + (step.params["axis"] <= min(axes)) if len(axes) == 1 else None


def _unstack(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> int | None:
    gone = step.params["axis"]
    return None if known[0] == gone else known[0] - (gone < known[0])


def _rev(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> int | None:
    return None if known[0] in step.params["dimensions"] else known[0]


def _pad(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> int | None:
    return known[0] if list(known) == [0] and step.params["padding_config"][known[0]] == (0, 0, 0) else None


def _dynamic_slice(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> int | None:
    return known[0] if list(known) == [0] and shapes[0][known[0]] == result[known[0]] else None


def _dynamic_update(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> int | None:
    axes = set(known.values())
    if not set(known) <= {0, 1} or len(axes) != 1:
        return None
    axis = axes.pop()
    return axis if shapes[1][axis] == result[axis] else None


def _dot(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> int | None:
    if len(known) != 1:
        return None
    ((side, axis),) = known.items()
    contracted, batched = step.params["dimension_numbers"]
    if axis in batched[side]:
        return list(batched[side]).index(axis)
    if axis in contracted[side]:
        return None
    free = [
        [place for place in range(len(shapes[at])) if place not in contracted[at] and place not in batched[at]]
        for at in (0, 1)
    ]
    return len(batched[0]) + (len(free[0]) if side else 0) + free[side].index(axis)


def _convolution(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> int | None:
    numbers = step.params["dimension_numbers"]
    if list(known) != [0] or known[0] != numbers.lhs_spec[0] or step.params["batch_group_count"] != 1:
        return None
    return numbers.out_spec[0]


def _window(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> int | None:
    if list(known) != [0]:
        return None
    axis, params = known[0], step.params
    alone = params["window_dimensions"][axis] == 1 and params["window_strides"][axis] == 1
    dilated = [(params.get(name) or [1] * (axis + 1))[axis] for name in ("base_dilation", "window_dilation")]
    return axis if alone and params["padding"][axis] == (0, 0) and dilated == [1, 1] else None


def _gather(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> int | None:
    if list(known) != [0]:
        return None
    numbers, axis = step.params["dimension_numbers"], known[0]
    batching = tuple(numbers.operand_batching_dims)
    if axis in batching:
        rest = [place for place in range(len(result)) if place not in numbers.offset_dims]
        return rest[numbers.start_indices_batching_dims[batching.index(axis)]]
    if step.params["slice_sizes"][axis] != shapes[0][axis]:
        return None
    kept = [place for place in range(len(shapes[0])) if place not in (*numbers.collapsed_slice_dims, *batching)]
    return int(numbers.offset_dims[kept.index(axis)]) if axis in kept else None


def _scatter_add(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> int | None:
    """Adds updates (input 2) to an operand (input 0), example to example, or in windows that hold every example."""
    numbers = step.params["dimension_numbers"]
    batching, paired = tuple(numbers.operand_batching_dims), tuple(numbers.scatter_indices_batching_dims)
    rest = [place for place in range(len(shapes[2])) if place not in numbers.update_window_dims]
    kept = [place for place in range(len(result)) if place not in (*numbers.inserted_window_dims, *batching)]
    axes = set()
    for place, axis in known.items():
        if place == 2 and axis in rest and rest.index(axis) in paired:
            axis = int(batching[paired.index(rest.index(axis))])
        elif place == 2:
            if axis in rest:
                return None
            axis = kept[list(numbers.update_window_dims).index(axis)]
            if shapes[2][known[2]] != result[axis]:
                return None
        elif place:
            return None
        axes.add(axis)
    return axes.pop() if len(axes) == 1 else None


def _scatter(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> int | None:
    """Overwrites a few entries of an operand (input 0), wherever they are."""
    return known[0] if list(known) == [0] else None


_RULES: dict[str, Rule] = {
    **dict.fromkeys(("add", "sub", "add_any", "neg", "copy", "copy_p", "name", "convert_element_type"), _same()),
    **dict.fromkeys(("reduce_precision", "sharding_constraint", "real"), _same()),
    "mul": _one,
    "div": _same(0),
    "select_n": lambda step, known, shapes, result: None if 0 in known else _same()(step, known, shapes, result),
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "reduce_sum": _reduce,
    **dict.fromkeys(("cumsum", "split"), _along("axis")),
    "concatenate": _along("dimension"),
    "stack": _stack,
    "unstack": _unstack,
    "slice": _slice,
    "rev": _rev,
    "pad": _pad,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update,
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "reduce_window_sum": _window,
    "select_and_scatter_add": _window,
    "gather": _gather,
    "scatter": _scatter,
    "scatter-add": _scatter_add,
}
