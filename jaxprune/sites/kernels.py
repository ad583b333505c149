"""Where every parameter enters the program: through one linear operation, or not.

A leaf is *served* if it enters the network through exactly one operation that is linear in it: z = W a (a matrix
product or a convolution), z = x + b, z = s x.  On the way it may be cast, transposed, reshaped, broadcast along new
axes of a bias, or scaled by constants.  Then z is linear in the leaf and a does not depend on it, whatever comes before
or after, which is what exact curvature at the price of a few gradients rests on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax.extend import core

from jaxprune.sites.program import Program, Step, apply, look

# For every axis of a value: the axes of the leaf that lie along it, the slowest first.  None: copies along a new axis.
Axes = tuple[tuple[int, ...] | None, ...]


@dataclass(frozen=True)
class Site:
    """The place where one leaf enters.

    Attributes:
      path: the name of the leaf.
      kind: "dense", "convolution", "add" or "multiply".
      output: the number of the value z in the program.
      way: the positions of the steps from the leaf to z, that of the operation last.
      leaf: the number of the leaf in the program.
      operand: the number of the other input of the operation, a (-1: it does not matter, as for a bias).
      unit_axes: the axes of the leaf that are output: one index of them is a unit.  All of them for a bias or a scale.
      output_axes: the axes of z along which these lie; ``unit_axes`` is in the order of these.
      position: which input of the operation comes from the leaf.
      axes: for every axis of that input, the axes of the leaf along it (None: copies).
    """

    path: str
    kind: str
    output: int
    way: tuple[int, ...]
    leaf: int
    operand: int
    unit_axes: tuple[int, ...]
    output_axes: tuple[int, ...]
    position: int
    axes: Axes

    def operation(self, program: Program) -> Step:
        """The step through which the leaf enters."""
        return program.steps[self.way[-1]]

    def needs(self, program: Program) -> tuple[int, ...]:
        """The numbers of the values, besides the leaf, from which z is made."""
        made = {number for index in self.way for number in program.steps[index].outputs} | {self.leaf}
        way = self.way[:-1] if self.kind == "add" else self.way
        inputs = [atom for index in way for atom in program.steps[index].inputs]
        return tuple(sorted({atom for atom in inputs if not isinstance(atom, core.Literal)} - made))

    def contribution(self, program: Program, values: Mapping[int, Any]) -> Callable[[Any], Any]:
        """Returns the linear map from the leaf to its part of z; ``values`` holds what ``needs`` lists."""

        def linear(leaf: Any) -> Any:
            known = {**values, self.leaf: leaf}
            for index in self.way[:-1]:
                known[program.steps[index].outputs[0]] = apply(program.steps[index], _operands(program, index, known))[
                    0
                ]
            operation = self.operation(program)
            if self.kind != "add":
                return apply(operation, [look(known, atom) for atom in operation.inputs])[0]
            last = program.steps[self.way[-2]].outputs[0] if len(self.way) > 1 else self.leaf
            part = jnp.broadcast_to(known[last], program.avals[self.output].shape)
            negative = operation.name == "sub" and operation.inputs[1] == last
            return -part if negative else part

        return linear


def _operands(program: Program, index: int, known: Mapping[int, Any]) -> list[Any]:
    return [look(known, atom) for atom in program.steps[index].inputs]


@dataclass(frozen=True)
class _Trail:
    leaf: int
    axes: Axes
    way: tuple[int, ...]


def find(program: Program, paths: Sequence[str], variable: int) -> tuple[dict[str, Site], dict[str, str]]:
    """Finds where every leaf enters.

    Args:
      program: of ``apply(params, state, images)``.
      paths: the names of the leaves, which are its first arguments.
      variable: which of the program's variables the images are.

    Returns:
      The sites of the leaves that are served, and for every other leaf why it is not; ``""`` if the outputs do not
      depend on it.
    """
    trails = {
        number: _Trail(number, tuple((axis,) for axis in range(len(program.avals[number].shape))), ())
        for number in program.arguments[: len(paths)]
    }
    live = needed(program)
    from_images, from_params = {variable}, set(trails)
    uses: dict[int, list[tuple[int, int]]] = {number: [] for number in trails}
    for index, step in enumerate(program.steps):
        if index not in live:
            continue
        numbers = [atom for atom in step.inputs if not isinstance(atom, core.Literal)]
        marked = [position for position, atom in enumerate(step.inputs) if _is_in(atom, trails)]
        if from_images.intersection(numbers):
            from_images.update(step.outputs)
        if from_params.intersection(numbers):
            from_params.update(step.outputs)
        if len(marked) == 1:
            others = {atom for atom in numbers if atom != step.inputs[marked[0]]}
            trail = trails[step.inputs[marked[0]]]
            shape = program.avals[trail.leaf].shape
            alone = not others & (from_images | from_params)
            axes = _follow(program, step, marked[0], trail.axes, shape) if alone else None
            if axes is not None:
                trails[step.outputs[0]] = _Trail(trail.leaf, axes, (*trail.way, index))
                continue
        if step.name == "stop_gradient":
            continue  # a frozen leaf has no derivative there: this is no use of it
        for position in marked:
            uses[trails[step.inputs[position]].leaf].append((index, position))
    for atom in program.outputs:
        if _is_in(atom, trails):
            uses[trails[atom].leaf].append((-1, 0))

    served, others = {}, {}
    for path, number in zip(paths, program.arguments, strict=False):
        site = _site(program, path, number, uses[number], trails, from_images)
        if isinstance(site, Site):
            served[path] = site
        else:
            others[path] = site
    return served, others


def needed(program: Program) -> set[int]:
    """The positions of the steps on which the outputs depend."""
    wanted = {atom for atom in program.outputs if not isinstance(atom, core.Literal)}
    live = set()
    for index in range(len(program.steps) - 1, -1, -1):
        step = program.steps[index]
        if wanted.intersection(step.outputs):
            live.add(index)
            wanted.update(atom for atom in step.inputs if not isinstance(atom, core.Literal))
    return live


def _is_in(atom: Any, table: Mapping[int, Any]) -> bool:
    return not isinstance(atom, core.Literal) and atom in table


def _site(
    program: Program,
    path: str,
    number: int,
    uses: list[tuple[int, int]],
    trails: Mapping[int, _Trail],
    from_images: set[int],
) -> Site | str:
    if not uses:
        return ""
    if len(uses) > 1:
        return f"it meets {len(uses)} operations (tied weights)"
    index, position = uses[0]
    if index < 0:
        return "it is an output itself"
    step = program.steps[index]
    trail = trails[step.inputs[position]]
    numbers = [atom for at, atom in enumerate(step.inputs) if at != position and not isinstance(atom, core.Literal)]
    if not from_images.intersection(numbers):
        return f"it meets parameters or constants only, in {step.name}"
    rule = _RULES.get(step.name)
    found = rule(step, position, trail.axes, program) if rule else None
    if found is None:
        return f"it enters through {step.name}, which is not a product, a convolution, a sum or a scaling of it alone"
    kind, along = found
    unit_axes = tuple(axis for _, axes in along for axis in axes)
    output_axes = tuple(axis for axis, axes in along if axes)
    return Site(
        path,
        kind,
        step.outputs[0],
        (*trail.way, index),
        number,
        numbers[0],
        unit_axes,
        output_axes,
        position,
        trail.axes,
    )


# Operations through which a leaf is followed: each keeps every weight once, in another place, cast or scaled.


def _follow(program: Program, step: Step, position: int, axes: Axes, leaf: tuple[int, ...]) -> Axes | None:
    before = program.avals[step.inputs[position]]
    after = program.avals[step.outputs[0]] if len(step.outputs) == 1 else None
    if after is None or not jnp.issubdtype(after.dtype, jnp.floating):
        return None
    name, params = step.name, step.params
    if name in ("convert_element_type", "copy", "copy_p", "neg", "name", "sharding_constraint"):
        return axes
    if name == "mul" or (name == "div" and position == 0):
        if before.shape == ():
            return (None,) * len(after.shape)  # a number spreads over every axis
        pairs = zip(axes, before.shape, after.shape, strict=True)
        return tuple(along if here == there else None for along, here, there in pairs)
    if name == "transpose":
        return tuple(axes[axis] for axis in params["permutation"])
    if name == "squeeze":
        return tuple(along for axis, along in enumerate(axes) if axis not in params["dimensions"])
    if name == "broadcast_in_dim":
        result: list[tuple[int, ...] | None] = [() if extent == 1 else None for extent in after.shape]
        for source, target in enumerate(params["broadcast_dimensions"]):
            if before.shape[source] == after.shape[target]:
                result[target] = axes[source]
        return tuple(result)
    if name == "reshape" and params.get("dimensions") is None:
        return _regroup(axes, before.shape, after.shape, leaf)
    return None


def _regroup(axes: Axes, before: tuple[int, ...], after: tuple[int, ...], leaf: tuple[int, ...]) -> Axes | None:
    """Follows a reshape that merges or splits whole axes; None where it cuts through one, or merges one with copies.

    >>> _regroup(((0,), (1,), (2,)), (4, 2, 3), (4, 1, 6), (4, 2, 3))
    ((0,), (), (1, 2))
    """
    if 0 in before:
        return None
    parts: list[tuple[int | None, int]] = []
    for known, extent in zip(axes, before, strict=True):
        parts += [(None, extent)] if known is None else [(axis, leaf[axis]) for axis in known]
    parts = [part for part in parts if part[1] != 1]
    result: list[tuple[int, ...] | None] = []
    for extent in after:
        along: list[int | None] = []
        while extent > 1:
            if not parts or extent % parts[0][1]:
                return None
            axis, count = parts.pop(0)
            along.append(axis)
            extent //= count
        if None in along and along != [None]:
            return None
        result.append(None if along == [None] else tuple(axis for axis in along if axis is not None))
    return tuple(result)


# The operations through which a leaf may enter: the kind, and for every output axis of z the axes of the leaf along it.
# None if it is not linear in the leaf alone, or not followed.
Found = tuple[str, list[tuple[int, tuple[int, ...]]]]


def _dense(step: Step, position: int, axes: Axes, program: Program) -> Found | None:
    contracted, batched = step.params["dimension_numbers"]
    rank = [len(program.avals[atom].shape) for atom in step.inputs]
    free = [
        [axis for axis in range(rank[side]) if axis not in contracted[side] and axis not in batched[side]]
        for side in (0, 1)
    ]
    output = [*batched[position]]
    start = len(output) + (len(free[0]) if position else 0)
    places = [*enumerate(output), *enumerate(free[position], start)]
    return _whole("dense", axes, places)


def _convolution(step: Step, position: int, axes: Axes, program: Program) -> Found | None:
    if position != 1 or step.params["batch_group_count"] != 1:
        return None
    numbers = step.params["dimension_numbers"]
    return _whole("convolution", axes, [(numbers.out_spec[1], numbers.rhs_spec[0])])


def _whole(kind: str, axes: Axes, places: list[tuple[int, int]]) -> Found | None:
    """``places``: axis of z, axis of the kernel."""
    if None in axes:
        return None  # a kernel that is copied is tied
    return kind, [(place, axes[axis] or ()) for place, axis in places]


def _elementwise(kind: str) -> Callable[..., Found | None]:
    def rule(step: Step, position: int, axes: Axes, program: Program) -> Found | None:
        if step.name == "div" and position:
            return None
        before, z = program.avals[step.inputs[position]].shape, program.avals[step.outputs[0]].shape
        # An axis of extent 1 may meet one of any extent: copies.
        return kind, [(place, along) for place, along in enumerate(axes) if along and before[place] == z[place]]

    return rule


_RULES = {
    "dot_general": _dense,
    "conv_general_dilated": _convolution,
    "add": _elementwise("add"),
    "add_any": _elementwise("add"),
    "sub": _elementwise("add"),
    "mul": _elementwise("multiply"),
    "div": _elementwise("multiply"),
}
