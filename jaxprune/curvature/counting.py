"""What a program will take, counted from its trace alone: a second, where compiling takes minutes.

Elementwise steps of the flattened program fuse into what needs them; only what a product, a loop or two steps need
takes memory.  Every step then costs its arithmetic and the bytes it moves, in units of one multiplication of a large
matrix product.  The constants are ratios of times, measured on a CPU.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax.extend import core

from jaxprune.curvature.compiled import Compiled
from jaxprune.curvature.flattened import LOOPS, MOVES, PRODUCTS, Flat, Step
from jaxprune.sites.operations import inside, multiplications, nonzero
from jaxprune.sites.program import size

# Moving one byte: a float32 number that is read and written takes as long as twelve multiplications of a large product.
BYTE = 1.5
# A convolution first cuts its input into patches, and takes twice as long as a matrix product.
CONVOLUTION = 2
# Where it has groups it runs in plain loops: 3 to 12 times as long as a matrix product with as few channels.
GROUPED = 8
# A matrix product with an extent below this takes as long as with this: the vector units stay idle.
TILE = 16
# But never longer than where numbers are multiplied one by one.
SCALAR = 32


def count_only(program: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Compiled:
    """Counts what a jitted program takes for the shapes of its arguments, without compiling it.

    Args:
      program: a function under ``jax.jit``.
      arguments: pytrees of arrays, or of ``jax.ShapeDtypeStruct``.
      options: its static arguments.

    Returns:
      Operations weighted by the time they take, in multiplications of a large matrix product: ratios of two programs
      predict those of their times on a CPU.  And the bytes of temporaries and results.  Both are of one device, where
      each runs the program on its own examples (``jp.mesh.each_shard``).  Remembered by shapes.

    >>> import jax.numpy as jnp
    >>> program = jax.jit(lambda x, times: (x @ x) * times, static_argnames="times")
    >>> counted = count_only(program, (jax.ShapeDtypeStruct((32, 32), "float32"),), {"times": 2})
    >>> counted.bytes
    4096
    """
    leaves, structure = jax.tree.flatten(arguments)
    shapes = tuple((np.shape(leaf), jax.numpy.result_type(leaf), getattr(leaf, "weak_type", False)) for leaf in leaves)
    config: Any = jax.config
    return _counted(program, structure, shapes, tuple(sorted(options.items())), config.jax_enable_x64)


@lru_cache(maxsize=256)
def _counted(program: Any, structure: Any, shapes: Any, options: Any, float64: bool) -> Compiled:
    leaves = [jax.ShapeDtypeStruct(shape, dtype, weak_type=weak) for shape, dtype, weak in shapes]
    found = program.trace(*jax.tree.unflatten(structure, leaves), **dict(options)).jaxpr
    flat = Flat(found)
    # Of a program that every device runs on its part, a device holds its part of the results.
    made = {number: aval for step in flat.steps for number, aval in zip(step.outputs, step.makes, strict=True)}
    made |= flat.parts
    results = (made.get(number, aval) for number, aval in zip(flat.outputs, found.out_avals, strict=True))
    return replace(_count(flat), results=sum(map(_bytes, results)))


def count(program: core.ClosedJaxpr) -> Compiled:
    """Counts what a traced program takes, see ``count_only``.

    Args:
      program: as ``jax.make_jaxpr`` makes it.

    Returns:
      Weighted operations, and bytes of temporaries and results.

    >>> count(jax.make_jaxpr(lambda x: (x + 1) * 2)(1.0)).bytes
    4
    """
    return _count(Flat(program))


def _count(flat: Flat) -> Compiled:
    """The operations and bytes of all steps."""
    inner = [_inner(step) for step in flat.steps]
    needed_by, stored = _stored(flat)
    there = stored | flat.inputs
    operations = sum(_cost(step, there, stored) for step in flat.steps) + sum(each.operations for each in inner)
    return Compiled(operations, _peak(flat, needed_by, stored, [each.bytes for each in inner]))


def _stored(flat: Flat) -> tuple[dict[int, list[int]], set[int]]:
    """The places of the steps that need a value, and the numbers of the values that take memory."""
    needed_by: dict[int, list[int]] = {}
    for place, step in enumerate(flat.steps):
        for number in set(step.inputs):
            needed_by.setdefault(number, []).append(place)
    stored = set()
    outputs = set(flat.outputs)
    for step in flat.steps:
        for number in step.outputs:
            places = needed_by.get(number, [])
            twice = len(places) > 1 and step.name != "broadcast_in_dim"
            whole = any(not flat.steps[place].takes_fused for place in places)
            if not step.fuses or twice or whole or number in outputs:
                stored.add(number)
    return needed_by, stored


def _peak(flat: Flat, needed_by: dict[int, list[int]], stored: set[int], inner: list[int]) -> int:
    """The most bytes that values take at once, each from where it is made to where it is needed last."""
    last = _last(flat, needed_by, stored)
    freed = [0] * (len(flat.steps) + 1)
    live = peak = 0
    for place, step in enumerate(flat.steps):
        # What is computed number by number may take the place of what it was computed from.
        live -= freed[place] if step.fuses else 0
        for number, aval in zip(step.outputs, step.makes, strict=True):
            if number in stored:
                live += _bytes(aval)
                freed[last.get(number, place)] += _bytes(aval)
        peak = max(peak, live + inner[place])
        live -= 0 if step.fuses else freed[place]
    return peak


def _last(flat: Flat, needed_by: dict[int, list[int]], stored: set[int]) -> dict[int, int]:
    """The place where every value is needed last.

    A step that fuses is computed where its result is needed, unless what it needs would take more memory until then
    than its result does: then that is stored.
    """
    last = dict.fromkeys(flat.outputs, len(flat.steps))
    when = list(range(len(flat.steps)))
    for place, step in reversed(list(enumerate(flat.steps))):
        if not stored.intersection(step.outputs):
            then = max((when[at] for number in step.outputs for at in needed_by.get(number, [])), default=place)
            kept = {
                number: _bytes(aval)
                for number, aval in zip(step.inputs, step.needs, strict=True)
                if last.get(number, place) < then and number not in flat.inputs and number not in flat.known
            }
            if len(kept) > 1 and sum(kept.values()) > sum(map(_bytes, step.makes)):
                stored.update(step.outputs)
            else:
                when[place] = then
        for number in step.inputs:
            last[number] = max(last.get(number, 0), when[place])
    return last


def _inner(step: Step) -> Compiled:
    """What the programs of a loop or of a choice take."""
    found = [_count(Flat(inner)) for inner in inside(step.params)] if step.name in LOOPS else []
    if not found:
        return Compiled(0.0, 0)
    each = [inner.operations for inner in found]
    operations = max(each) if step.name == "cond" else step.params.get("length", 1) * sum(each)
    return Compiled(operations, max(inner.bytes for inner in found))


def _cost(step: Step, there: set[int], stored: set[int]) -> float:
    """The cost of one step beside that of programs in it: its arithmetic, and the bytes that it moves."""
    if step.name in LOOPS:
        return 0.0
    made = sum(_bytes(aval) for aval in step.makes)
    read = sum(_bytes(aval) for number, aval in zip(step.inputs, step.needs, strict=True) if number in there)
    written = sum(_bytes(aval) for number, aval in zip(step.outputs, step.makes, strict=True) if number in stored)
    if step.name in MOVES:
        return BYTE * (min(read, made) + written)
    moved = BYTE * (read + written)
    if step.name in PRODUCTS:
        return product(step.name, step.params, step.needs, step.makes) + moved
    # Depthwise convolutions as sums of slices: what they multiply, and what they add.
    multiplied = multiplications(step.name, step.params, step.needs, step.makes)
    numbers = sum(map(_size, step.needs if step.name.startswith("reduce") else step.makes))
    return (numbers if multiplied is None else 2 * multiplied) + moved


def product(name: str, params: dict[str, Any], needs: Sequence[Any], makes: Sequence[Any]) -> float:
    """Weighs the multiplications of a matrix product or a convolution by the time they take.

    Those with zeros between dilated inputs, or in a padding, take none, but where there are groups.

    Args:
      name: of the primitive.
      params: its static parameters.
      needs: shapes of what goes in.
      makes: shape of what comes out.

    Returns:
      As many multiplications of a large matrix product as take the same time.

    >>> large, thin = jax.ShapeDtypeStruct((64, 64), "float32"), jax.ShapeDtypeStruct((64, 4), "float32")
    >>> params = {"dimension_numbers": (((1,), (0,)), ((), ()))}
    >>> product("dot_general", params, (large, large), (large,)) == 64**3
    True
    >>> product("dot_general", params, (large, thin), (thin,)) == 64 * 64 * 16
    True
    """
    everything = multiplications(name, params, needs, makes) or 0
    made = size(makes[0])
    if not everything:
        return 0.0
    if name == "dot_general":
        (contracted, _), (batched, _) = params["dimension_numbers"]
        groups = math.prod(needs[0].shape[axis] for axis in batched)
        rows = math.prod(needs[0].shape) // (groups * math.prod(needs[0].shape[axis] for axis in contracted))
        return everything * _idle(rows, made // (groups * rows), everything // made)
    groups = params["feature_group_count"] * params["batch_group_count"]
    filters = makes[0].shape[params["dimension_numbers"].out_spec[1]]
    rows, units = made // filters, filters // groups
    if groups == 1:
        real = nonzero(params, needs, makes)
        return CONVOLUTION * real * _idle(rows, units, everything // made)
    # Weight gradients of groups, but for depthwise ones, multiply every input with every output, once for each group:
    # measured with 2, 4, 8 and 16 groups of as many channels in all, each takes twice as long as the one before.
    together = params["batch_group_count"] ** 2 if units > 1 else 1
    return GROUPED * together * everything * _idle(rows, units, everything // made)


def _idle(*extents: float) -> float:
    """How much longer a matrix product takes for extents that do not fill a tile."""
    return min(float(SCALAR), math.prod(max(1.0, TILE / extent) for extent in extents))


def _size(aval: Any) -> int:
    return size(aval) if hasattr(aval, "shape") else 0


def _bytes(aval: Any) -> int:
    return _size(aval) * getattr(getattr(aval, "dtype", None), "itemsize", 0)
