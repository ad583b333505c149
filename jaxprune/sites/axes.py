"""Follows the axis of the examples through the steps of a linear program.

Every value either does not depend on the marked inputs, or depends on them example by example along one axis, or is
``MIXED``: not followed.  A step that is not known to be linear in what is marked mixes.

A reshape may merge the axis of the examples with others, as attention does that sees all tokens of all images as rows,
or windows of all images as one batch, and may split it again.  So an axis may hold more than the examples (``Along``).
A step that works alike at every index of that axis keeps all this; one that works inside it (a part of it, its sum, its
reversal) mixes, also where it would leave every example to itself.

A single example meets no other: it is followed through everything, as long as there is an axis to hold it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jax.extend import core

from jaxprune.sites.program import Program, Step

MIXED = "mixed"


@dataclass(frozen=True)
class Along:
    """Where the examples lie in a value: along ``axis``, whose index is (before, example, after) in row-major order.

    The extent of the axis is before * examples * after.

    Attributes:
      axis: the axis.
      before: how many indices of other axes are merged in that vary more slowly than the examples.
      after: how many that vary faster.
    """

    axis: int
    before: int = 1
    after: int = 1

    def examples(self, shape: tuple[int, ...]) -> int:
        """Counts the examples in a value of that shape.

        >>> Along(0, after=4).examples((12, 5))
        3
        """
        return shape[self.axis] // (self.before * self.after)

    def is_of(self, shape: tuple[int, ...], examples: int) -> bool:
        """Whether a value of that shape can hold so many examples there."""
        return self.axis < len(shape) and shape[self.axis] == self.before * examples * self.after


def follow(program: Program, marked: Mapping[int, Along]) -> dict[int, Along | str]:
    """Returns for every value that depends on the marked inputs where its examples lie, or ``MIXED``.

    Args:
      program: the program.
      marked: the number of an input -> where its examples lie; as many in all of them.

    Raises:
      ValueError: the inputs do not hold equally many examples.
    """
    counts = {along.examples(program.avals[number].shape) for number, along in marked.items()}
    if len(counts) > 1 or not all(along.is_of(program.avals[at].shape, *counts) for at, along in marked.items()):
        raise ValueError(f"marked: expected as many examples in every input, but got {sorted(counts)}.")
    found: dict[int, Along | str] = dict(marked)
    for step in program.steps:
        known = {place: found[atom] for place, atom in enumerate(step.inputs) if _number(atom) in found}
        along = _through(program, step, known) if known else None
        for number in step.outputs if known else ():
            shape = program.avals[number].shape
            if along is not None and along.is_of(shape, *counts):
                found[number] = along
            else:
                found[number] = _only(shape) if counts == {1} else MIXED
    return found


def _only(shape: tuple[int, ...]) -> Along | str:
    """Where a single example lies, that meets no other whatever is done to it: in an axis of its own, if there is one.

    So it is followed although derivatives sum over axes of extent 1, its own as well.
    """
    if not shape:
        return MIXED
    axis = shape.index(1) if 1 in shape else 0
    return Along(axis, before=shape[axis])


def _through(program: Program, step: Step, known: Mapping[int, Along | str]) -> Along | None:
    """Where the examples lie in what a step makes of such inputs; None where they are not followed."""
    if MIXED in known.values() or step.name not in RULES:
        return None
    shapes = [program.aval(atom).shape for atom in step.inputs]
    return RULES[step.name](step, known, shapes, program.avals[step.outputs[0]].shape)


def _number(atom: Any) -> Any:
    return None if isinstance(atom, core.Literal) else atom


# A rule returns where the examples lie in the result, or None where they are not followed.  ``known``: position of a
# marked input -> where they lie in it.  It need not look whether the axis that it names has kept its extent: a value
# that has lost some of its examples, or has room for more, is not followed (``Along.is_of``).
Known = Mapping[int, Any]
Shapes = Sequence[tuple[int, ...]]
Rule = Callable[[Step, Known, Shapes, tuple[int, ...]], Along | None]


def _alike(known: Known) -> Along | None:
    """Where the examples lie in all of these, if that is the same."""
    return next(iter(known.values())) if len(set(known.values())) == 1 else None


def _same(*positions: int) -> Rule:
    """Elementwise; linear in the inputs at these positions together (all of them, if none is named)."""

    def rule(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> Along | None:
        along = _alike(known)
        return None if positions and not set(known) <= set(positions) else along

    return rule


def _one(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> Along | None:
    """Elementwise, linear in either input but not in both together."""
    return _same()(step, known, shapes, result) if len(known) == 1 else None


def _transpose(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> Along | None:
    return replace(known[0], axis=step.params["permutation"].index(known[0].axis))


def _broadcast(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> Along | None:
    if list(known) != [0]:
        return None
    return replace(known[0], axis=int(step.params["broadcast_dimensions"][known[0].axis]))


def _reshape(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> Along | None:
    """Finds the axis of the result that holds all examples.

    In row-major order an entry has an index (ahead, example, behind), whatever the shape.  An axis holds the examples
    whole if what is slower than it divides what is ahead of them, and the rest of that and the examples divide its
    extent.  Of two or more examples there is one such axis at most: what is slower than a second one has the examples
    in it.  A single example may lie anywhere, and is best told from the rest by an axis of its own.
    """
    if step.params.get("dimensions") is not None or list(known) != [0] or 0 in shapes[0]:
        return None
    examples = known[0].examples(shapes[0])
    ahead = math.prod(shapes[0][: known[0].axis]) * known[0].before
    fits = []
    for target, extent in enumerate(result):
        before, cut = divmod(ahead, math.prod(result[:target]))
        if not cut and extent % (before * examples) == 0:
            fits.append(Along(target, before, extent // (before * examples)))
    return min(fits, key=lambda along: along.before * along.after, default=None)


def _squeeze(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> Along | None:
    return _without(known[0], step.params["dimensions"])


def _reduce(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> Along | None:
    return _without(known[0], step.params["axes"])


def _without(along: Along, gone: Sequence[int]) -> Along | None:
    """Where the examples lie when these axes are gone."""
    return None if along.axis in gone else replace(along, axis=along.axis - sum(axis < along.axis for axis in gone))


def _other(name: str) -> Rule:
    """Works along one axis, named by a parameter, and alike on all others."""

    def rule(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> Along | None:
        along = _alike(known)
        return along if along is not None and step.params[name] != along.axis else None

    return rule


def _slice(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> Along | None:
    axis = known[0].axis
    whole = step.params["start_indices"][axis] == 0 and step.params["limit_indices"][axis] == shapes[0][axis]
    return known[0] if whole and (step.params["strides"] or [1] * (axis + 1))[axis] == 1 else None


def _stack(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> Along | None:
    along = _alike(known)
    return along and replace(along, axis=along.axis + (step.params["axis"] <= along.axis))


def _unstack(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> Along | None:
    return _without(known[0], [step.params["axis"]])


def _rev(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> Along | None:
    return None if known[0].axis in step.params["dimensions"] else known[0]


def _pad(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> Along | None:
    return known[0] if list(known) == [0] and step.params["padding_config"][known[0].axis] == (0, 0, 0) else None


def _dynamic_slice(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> Along | None:
    return known[0] if list(known) == [0] else None


def _dynamic_update(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> Along | None:
    return _alike(known) if set(known) <= {0, 1} else None


def _dot(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> Along | None:
    if len(known) != 1:
        return None
    ((side, along),) = known.items()
    contracted, batched = step.params["dimension_numbers"]
    if along.axis in batched[side]:
        return replace(along, axis=list(batched[side]).index(along.axis))
    if along.axis in contracted[side]:
        return None
    free = [
        [place for place in range(len(shapes[at])) if place not in contracted[at] and place not in batched[at]]
        for at in (0, 1)
    ]
    return replace(along, axis=len(batched[0]) + (len(free[0]) if side else 0) + free[side].index(along.axis))


def _convolution(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> Along | None:
    numbers = step.params["dimension_numbers"]
    if list(known) != [0] or known[0].axis != numbers.lhs_spec[0]:
        return None
    return replace(known[0], axis=numbers.out_spec[0])


def _window(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> Along | None:
    if list(known) != [0]:
        return None
    axis, params = known[0].axis, step.params
    alone = params["window_dimensions"][axis] == 1 and params["window_strides"][axis] == 1
    dilated = [(params.get(name) or [1] * (axis + 1))[axis] for name in ("base_dilation", "window_dilation")]
    return known[0] if alone and params["padding"][axis] == (0, 0) and dilated == [1, 1] else None


def _gather(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> Along | None:
    if list(known) != [0]:
        return None
    numbers, axis = step.params["dimension_numbers"], known[0].axis
    batching = tuple(numbers.operand_batching_dims)
    if axis in batching:
        rest = [place for place in range(len(result)) if place not in numbers.offset_dims]
        return replace(known[0], axis=rest[numbers.start_indices_batching_dims[batching.index(axis)]])
    kept = [place for place in range(len(shapes[0])) if place not in (*numbers.collapsed_slice_dims, *batching)]
    return replace(known[0], axis=int(numbers.offset_dims[kept.index(axis)])) if axis in kept else None


def _scatter_add(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> Along | None:
    """Adds updates (input 2) to an operand (input 0), example to example, or in windows that hold every example."""
    numbers = step.params["dimension_numbers"]
    batching, paired = tuple(numbers.operand_batching_dims), tuple(numbers.scatter_indices_batching_dims)
    rest = [place for place in range(len(shapes[2])) if place not in numbers.update_window_dims]
    kept = [place for place in range(len(result)) if place not in (*numbers.inserted_window_dims, *batching)]
    places = {}
    for place, along in known.items():
        axis = along.axis
        if place == 2 and axis in rest and rest.index(axis) in paired:
            axis = int(batching[paired.index(rest.index(axis))])
        elif place == 2:
            if axis in rest:
                return None
            axis = kept[list(numbers.update_window_dims).index(axis)]
        elif place:
            return None
        places[place] = replace(along, axis=axis)
    return _alike(places)


def _scatter(step: Step, known: Known, shapes: Shapes, result: tuple[int, ...]) -> Along | None:
    """Overwrites a few entries of an operand (input 0), wherever they are."""
    return known[0] if list(known) == [0] else None


RULES: dict[str, Rule] = {
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
    **dict.fromkeys(("cumsum", "split"), _other("axis")),
    "concatenate": _other("dimension"),
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
