"""Where discovered units are gated: at the values that the program sums over, whatever made these values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxprune import tree
from jaxprune.groups import Group
from jaxprune.network import Network
from jaxprune.structured.discovery.evaluating import Change, Changed, Path
from jaxprune.structured.discovery.finding import closed, follow, program_of
from jaxprune.structured.discovery.indices import Classes
from jaxprune.structured.discovery.listing import Leaf, Place, owned_by
from jaxprune.structured.discovery.walk import Walk

Along = Callable[[str, Any, np.ndarray, int], Any]
"""``(group, value, unit of every index or -1, axis) -> value``: what is done to units at a value."""


Owned = Mapping[Place, Sequence[int]]
"""Indices of axes of leaves."""


@dataclass(frozen=True)
class Spot:
    """A value that is summed over units of a group.

    Attributes:
      group: its name.
      axis: that of the value.
      units: for every index of the axis the unit, or -1.
    """

    group: str
    axis: int
    units: np.ndarray


@dataclass(frozen=True)
class Placed:
    """The program of a network, and where it sums over units.

    Attributes:
      program: for images of one shape.
      outputs: the structure of what it returns.
      spots: by the equation and the number of its operand.
    """

    program: core.ClosedJaxpr
    outputs: Any
    spots: Mapping[tuple[Path, int], tuple[Spot, ...]]

    def run(self, inputs: Sequence[Any], change: Along, *, outside: str = "") -> Any:
        """Evaluates the program with its units changed at every spot.

        Args:
          inputs: the leaves of the arguments.
          change: what is done to units at a value.
          outside: who reads values, which nothing inside of a loop or a branch can give it.

        Raises:
          ValueError: there are such values.
        """
        made: dict[tuple[tuple[str, int, bytes], ...], Change] = {}

        def changing(spots: Sequence[Spot]) -> Change:
            key = tuple((one.group, one.axis, one.units.tobytes()) for one in spots)
            return made.setdefault(key, lambda value: _changed(value, spots, change))

        changes = {place: changing(spots) for place, spots in self.spots.items()}
        return jax.tree.unflatten(self.outputs, Changed(changes, outside).run(self.program, inputs))


def placed(function: Callable[..., Any], groups: Sequence[Group], params: Any, state: Any, *others: Any) -> Placed:
    """Finds where the program of a network sums over the units of groups, once for every shape of the images.

    Args:
      function: ``apply(params, state, images)``, or ``train_apply(params, state, images, rngs)``.
      groups: those with ``by_sums``.
      params: shapes and types are all that matters.
      state: as well.
      *others: images, and the keys of training.

    Raises:
      ValueError: leaves that are not there, or units that do not go together as they did when they were discovered.
    """
    leaves, structure = jax.tree.flatten((params, state, *others))
    config: Any = jax.config
    return _placed(function, tuple(groups), structure, tuple(map(_kind, leaves)), config.jax_enable_x64)


def switched(
    function: Callable[..., Any],
    groups: tuple[Group, ...],
    gates: Mapping[str, Any],
    factors: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """The function with zeros for units that are off in all that it sums over them, times factors of the others."""

    def change(group: str, value: Any, units: np.ndarray, axis: int) -> Any:
        value = along(_where, value, gates[group], units, axis)
        return value if factors is None else along(jnp.multiply, value, factors[group].astype(value.dtype), units, axis)

    return lambda *arguments: placed(function, groups, *arguments).run(jax.tree.leaves(arguments), change)


def magnitudes(network: Network, groups: tuple[Group, ...], gates: Mapping[str, Any], image: Any) -> dict[str, Any]:
    """The mean absolute value of every unit in what is summed over it, for one image; of several values the sum.

    Raises:
      ValueError: a value inside of a loop or a branch.
    """
    found: dict[str, Any] = {group.name: jnp.zeros(group.size) for group in groups}

    def change(group: str, value: Any, units: np.ndarray, axis: int) -> Any:
        value = along(_where, value, gates[group], units, axis)
        others = tuple(place for place in range(value.ndim) if place != axis)
        counts = np.maximum(np.bincount(units[units >= 0], minlength=jnp.size(gates[group])), 1)
        mean = jnp.zeros(counts.size + 1).at[units].add(jnp.mean(jnp.abs(value), axis=others))[:-1] / counts
        found[group] = found[group] + mean
        return value

    arguments = network.params, network.state, image[None]
    plan = placed(network.apply, groups, *arguments)
    plan.run(jax.tree.leaves(arguments), change, outside="activation")
    return found


def along(function: Callable[[Any, Any], Any], value: Any, numbers: Any, units: np.ndarray, axis: int) -> Any:
    """Combines a value with a number of every unit along an axis, ``function(value, numbers)``; with 1 where none is.

    Units in equal runs, repeated or not, get an axis of their own: so every number enters once, and what looks for
    scales in a program finds them.
    """
    size, shape, length = jnp.size(numbers), jnp.shape(value), len(units)
    each = int(np.argmax(units != units[0])) or length
    outer = length // (size * each)
    if np.array_equal(units, np.tile(np.repeat(np.arange(size), each), outer)):
        middle = (outer, size, each) if outer * each > 1 else (size,)
        value = jnp.reshape(value, (*shape[:axis], *middle, *shape[axis + 1 :]))
        ones = [1] * (jnp.ndim(value))
        ones[axis + (len(middle) == 3)] = size
        return jnp.reshape(function(value, jnp.reshape(numbers, ones)), shape)
    ones = [1] * len(shape)
    ones[axis] = length
    return function(value, jnp.reshape(jnp.append(numbers, jnp.ones((), numbers.dtype))[units], ones))


def _where(value: Any, alive: Any) -> Any:
    return jnp.where(alive, value, jnp.zeros((), value.dtype))


def _changed(value: Any, spots: Sequence[Spot], change: Along) -> Any:
    for one in spots:
        value = change(one.group, value, one.units, one.axis)
    return value


def _kind(value: Any) -> tuple[tuple[int, ...], Any, bool]:
    aval = jax.typeof(value)
    return aval.shape, aval.dtype, bool(getattr(aval, "weak_type", False))


@lru_cache(maxsize=32)
def _placed(
    function: Any,
    groups: tuple[Group, ...],
    structure: Any,
    kinds: tuple[tuple[tuple[int, ...], Any, bool], ...],
    wide: bool,
) -> Placed:
    del wide  # another program where numbers are of another precision
    values = [jax.ShapeDtypeStruct(shape, kind, weak_type=weak) for shape, kind, weak in kinds]
    params, state, *others = jax.tree.unflatten(structure, values)
    program = program_of(function, params, state, *others)
    walk, names = Walk({}), [*tree.names(params), *tree.names(state)]
    leaves = follow(walk, program, names, tied=len(tree.names(params)) if len(others) > 1 else None)
    classes = closed(walk.facts)
    spots: dict[tuple[Path, int], list[Spot]] = {}
    unit_of = units_of(groups, leaves, classes)
    for one in walk.facts.contractions:
        if one.gated is None:
            continue
        number, axis = one.gated
        along = walk.records[one.place].before[number][axis]
        over = classes.of(one.nodes)
        for group, known in zip(groups, unit_of, strict=True):
            if mine := over & known.keys():
                units = _along(along, {atom: known[atom] for atom in mine}, classes)
                spot = Spot(group.name, axis, units)
                here = spots.setdefault((one.place, number), [])
                if not any(_same(spot, other) for other in here):  # a loop is followed until nothing is new
                    here.append(spot)
    made = jax.tree.structure(jax.eval_shape(function, params, state, *others))
    return Placed(program, made, {place: tuple(found) for place, found in spots.items()})


def _same(one: Spot, other: Spot) -> bool:
    return (one.group, one.axis) == (other.group, other.axis) and np.array_equal(one.units, other.units)


def _along(nodes: np.ndarray, known: Mapping[int, int], classes: Classes) -> np.ndarray:
    """The unit of every index of an axis, -1 where there is none."""
    labels, which = np.unique(classes.label[nodes], return_inverse=True)
    units = [max((known.get(atom, -1) for atom in classes.atoms(int(label))), default=-1) for label in labels]
    return np.array(units, int)[which.reshape(-1)]


def units_of(groups: Sequence[Group], leaves: Sequence[Leaf], classes: Classes) -> list[dict[int, int]]:
    """For every group the classes that are its units: those that own what a unit owns, and nothing else.

    Raises:
      ValueError: leaves that are not there, or there are no such classes.
    """
    number = {leaf.name: place for place, leaf in enumerate(leaves)}
    owned = owned_by(leaves, classes)
    found = []
    for group in groups:
        units: dict[tuple[int, int], np.ndarray] = {}
        atoms: set[int] = set()
        for member in group.members:
            leaf = leaves[number[member.leaf]] if member.leaf in number else None
            axis = member.axis or 0
            places = member.places(group.size)
            if leaf is None or axis >= len(leaf.axes) or places.max() >= len(leaf.axes[axis]):
                raise ValueError(_elsewhere(group, member.leaf, leaf))
            mine = units.setdefault((number[member.leaf], axis), np.full(len(leaf.axes[axis]), -1))
            mine[places] = np.arange(group.size)[:, None]
            atoms |= classes.of(leaf.axes[axis][places.reshape(-1)])
        found.append(_matched(group, units, {atom: owned[atom] for atom in atoms}))
    return found


def _matched(group: Group, units: Mapping[Place, np.ndarray], atoms: Mapping[int, Owned]) -> dict[int, int]:
    """Which classes are a unit: the one that owns all of it, or several that own it together and nothing else."""
    whole = [sum(int((at == unit).sum()) for at in units.values()) for unit in range(group.size)]
    all_of: dict[int, int] = {}
    parts: dict[int, int] = {}
    for atom, places in atoms.items():
        of = {
            int(unit)
            for place, indices in places.items()
            for unit in (units[place][np.asarray(indices)] if place in units else (-1,))
        }
        if len(of) == 1 and (unit := of.pop()) >= 0:
            parts[atom] = unit
            if sum(map(len, places.values())) == whole[unit]:
                all_of[atom] = unit
    single = set(all_of.values())
    found = {**all_of, **{atom: unit for atom, unit in parts.items() if unit not in single}}
    for unit in set(range(group.size)) - single:
        mine = [atoms[atom] for atom, of in found.items() if of == unit]
        if len({(place, index) for one in mine for place, at in one.items() for index in at}) < whole[unit]:
            raise ValueError(
                f"network: expected units that go together as they did when they were discovered, but those of "
                f"{group.name!r} do not in the program for images of this shape. Discover them at this shape."
            )
    return found


def _elsewhere(group: Group, name: str, leaf: Leaf | None) -> str:
    what = (
        "no leaf of that name"
        if leaf is None
        else f"one of shape {tuple(map(len, leaf.axes))} there, too short for its units"
    )
    return (
        f"groups: {group.name!r} owns a part of {name!r}, but the network has {what}. Gate the network that the groups "
        "were discovered in, before a head or a normalisation was put on it."
    )
