"""Units that live or go together, stated as data, and the shape of a network made of them.

A *group* is a set of interchangeable units: the inner filters of a block, the heads of an attention, the hidden units
of an MLP.  It says which part of which leaf belongs to every unit, and at which tagged value a unit can be switched
off.  A *layer* (a residual branch, or a block of several) is a group of one unit that owns whole leaves.

A *specification* is the prunable shape of a network: small, readable, comparable.  The modules of ``jaxprune.models``
are specifications; ``jaxprune.structured.Declared`` makes one of any other network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxprune.network import Network

Gates = Mapping[str, Any]
"""``{group name: bool [size]}``: True for every unit that lives."""


@dataclass(frozen=True)
class Member:
    """What the units of a group own of one leaf.

    Attributes:
      leaf: the name of a leaf of the parameters ("stage1_block0/conv1/kernel") or of the state
        ("batch_stats/stage1_block0/norm1/mean"); where ``axis`` is None also the name of a subtree.
      axis: the axis whose indices belong to the units.  None: the whole leaf, or subtree, belongs to a layer.
      each: how many neighbouring indices belong to one unit (the dimensions of a head).
      reads: whether the leaf reads the units (the next kernel), rather than make them (kernel, bias, normalisation).
        Of a layer ``by_readers``: whether it is among the last leaves, whose zeros are the zero of what the layer adds.
      offset: the first index of the first unit (behind what else was concatenated).
      outer: how often the units are repeated along the axis (query, key and value in one kernel; the positions of a
        flattened image).
      stride: how far a repetition is from the one before; of one alone, the length of an axis that has other indices
        too.  None: ``size * each``, no others between.
      indices: the indices of every unit, where they follow no such rule (a shuffle); the other fields then say nothing.
    """

    leaf: str
    axis: int | None = None
    each: int = 1
    reads: bool = False
    offset: int = 0
    outer: int = 1
    stride: int | None = None
    indices: tuple[tuple[int, ...], ...] | None = None

    def places(self, size: int) -> np.ndarray:
        """Lists the indices along the axis that belong to each of ``size`` units: whole numbers [size, n].

        ``offset + repetition * stride + unit * each + (0, ..., each - 1)``.

        >>> Member("qkv/kernel", 1, each=2, outer=3).places(2).tolist()
        [[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]]
        """
        if self.indices is not None:
            return np.array(self.indices, dtype=int).reshape(size, -1)
        stride = size * self.each if self.stride is None else self.stride
        unit, repetition, neighbour = np.ix_(np.arange(size), np.arange(self.outer), np.arange(self.each))
        return (self.offset + repetition * stride + unit * self.each + neighbour).reshape(size, -1)

    def unit_of(self, size: int, length: int) -> np.ndarray:
        """Says to which of ``size`` units every index of an axis belongs, -1 where to none: whole numbers [length].

        >>> Member("dense/kernel", 0, offset=1).unit_of(2, 4).tolist()
        [-1, 0, 1, -1]
        """
        units, places = np.full(length, -1), self.places(size)
        units[places] = np.arange(size)[:, None]
        return units

    def is_whole(self) -> bool:
        """Whether the units lie side by side and are all of the axis: ``size * each`` indices, and no others."""
        alone = self.offset == 0 and self.outer == 1 and self.stride is None and self.indices is None
        return self.axis is not None and alone


def members_of(leaf: str, axis: int, places: np.ndarray, length: int, *, reads: bool = False) -> tuple[Member, ...]:
    """Says in as few members as can be which indices of an axis belong to each unit.

    Args:
      leaf: the name of the leaf.
      axis: its axis.
      places: whole numbers [size, n], those of a unit in rising order.
      length: that of the axis.
      reads: as in ``Member``.

    >>> members_of("dense", 0, np.array([[4, 14], [5, 15]]), 20)
    (Member(leaf='dense', axis=0, each=1, reads=False, offset=4, outer=2, stride=10, indices=None),)
    """
    size, count = places.shape
    first = places[0] if count else np.zeros(0, int)
    runs = np.split(np.arange(count), np.flatnonzero(np.diff(first) != 1) + 1) if count else []
    each = len(runs[0]) if runs else 0
    if size > 1 and runs and (step := int(places[1, 0] - places[0, 0])) > 0 and each % step == 0 and each > step:
        each = step  # repetitions that touch: (head, dimension) of one unit of each
        runs = np.split(np.arange(count), np.arange(each, count, each))
    starts = [int(first[run[0]]) for run in runs]
    found: list[Member] = []
    while starts:
        gap = starts[1] - starts[0] if len(starts) > 1 else None
        outer = 1
        while gap is not None and outer < len(starts) and starts[outer] - starts[outer - 1] == gap:
            outer += 1
        gap = gap if outer > 1 else length
        stride = None if gap == size * each else gap
        found.append(Member(leaf, axis, each, reads, starts[0], outer, stride))
        starts = starts[outer:]
    said = np.sort(np.concatenate([member.places(size) for member in found], axis=1), axis=1) if found else places
    if said.shape == places.shape and (said == places).all():
        return tuple(found)
    rows = tuple(tuple(int(index) for index in row) for row in places)
    return (Member(leaf, axis, count, reads, indices=rows),)


@dataclass(frozen=True)
class Group:
    """Units that are removed by themselves, each with all that belongs to it.

    Attributes:
      name: unique in its network.
      size: how many units.
      members: the parts of leaves that the units own.
      sites: the tagged values in which a unit is gated: after its activation, so that nothing of it is left.
      axis: the axis of these values that counts the units, or their neighbours side by side (heads flat with their
        dimensions), as many as a member has in ``each``; unused by a layer, which gates the whole value.
      floor: so many units stay.  For a layer: so many of the layers of its stage stay.
      stage: the layers of one stage share their floor.
      by_readers: whether it has no sites, and is gated where it is read instead, by zeros in the members that read it.
        It takes a group whose readers are all among them, each linear and nothing else: ``jp.structured.discover``
        lists such.
      by_sums: whether it has no sites, and is gated wherever the network's program sums over its units: at the value
        that a kernel is multiplied by, found anew for every shape of the images.
      recomputed: whether a statistic over its units is recomputed over those that are left, so that to remove them is
        not to gate them: they can be cut, and not gated.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    sites: tuple[str, ...]
    axis: int = -1
    floor: int = 1
    stage: str = ""
    by_readers: bool = False
    by_sums: bool = False
    recomputed: bool = False

    @property
    def is_layer(self) -> bool:
        """Whether it owns whole leaves: a layer, rather than neurons."""
        return bool(self.members) and all(member.axis is None for member in self.members)


@runtime_checkable
class Specification(Protocol):
    """The prunable shape of a network, as data."""

    def groups(self) -> tuple[Group, ...]:
        """Lists what can be removed."""
        ...

    def without(self, gates: Gates) -> "Specification":
        """Returns the shape that is left when the units whose gates are False are gone."""
        ...

    def network(self, params: Any, state: Any) -> Network:
        """Makes the network of this shape with these parameters and this state."""
        ...

    def describe(self) -> dict[str, Any]:
        """Writes the shape as values that JSON has."""
        ...


def check_specification(value: Any) -> None:
    """Checks that a value is the shape of a network, such as a module of ``jaxprune.models``.

    Raises:
      ValueError: it lacks a method; the message names what it lacks.
    """
    lacking = [
        name for name in ("groups", "without", "network", "describe") if not callable(getattr(value, name, None))
    ]
    if lacking or isinstance(value, type):
        what = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
        lack = f" without {', '.join(f'{name}()' for name in lacking)}" if lacking else ", and no object of it"
        raise ValueError(
            f"specification: expected the shape of a network, as data, but got {what}{lack}. Give a module the four "
            "methods of jaxprune.groups.Specification, or declare groups for a function that reads every width off its "
            "parameters: jp.structured.Declared(apply, groups)."
        )


def check_groups(values: Any) -> None:
    """Checks that values are groups, in a sequence, each with its members and sites in sequences.

    Raises:
      ValueError: something else, such as a module, or sites that are one string.
    """
    if not isinstance(values, Sequence) or not all(isinstance(value, Group) for value in values):
        what = [type(value).__name__ for value in values] if isinstance(values, Sequence) else type(values).__name__
        raise ValueError(
            f"groups: expected a sequence of jaxprune.groups.Group, but got {what}. Of a specification pass "
            "specification.groups(); for another network declare them."
        )
    for group in values:
        for what, kind, listed in (("members", Member, group.members), ("sites", str, group.sites)):
            if (
                isinstance(listed, str)
                or not isinstance(listed, Sequence)
                or any(not isinstance(one, kind) for one in listed)
            ):
                raise ValueError(
                    f"groups: {group.name!r}: expected {what} in a tuple, but got {listed!r}. One alone needs a comma: "
                    f"{what}=(..., )."
                )


def inside(groups: Sequence[Group]) -> dict[str, tuple[str, ...]]:
    """Lists for every layer the groups that lie in it, and so go with it.

    >>> units = Group("units", 2, (Member("block/conv/kernel", 3),), ())
    >>> inside([units, Group("block", 1, (Member("block"),), ())])
    {'block': ('units',)}
    """
    return {
        layer.name: tuple(
            group.name
            for group in groups
            if not group.is_layer
            and all(any(below(member.leaf, owned.leaf) for owned in layer.members) for member in group.members)
        )
        for layer in groups
        if layer.is_layer
    }


def living(groups: Sequence[Group], gates: Gates) -> dict[str, np.ndarray]:
    """Returns gates that are False also for the units of layers that are gone.

    >>> units = Group("units", 2, (Member("block/conv/kernel", 3),), ())
    >>> block = Group("block", 1, (Member("block"),), ())
    >>> living([units, block], {"units": np.array([True, False]), "block": np.array([False])})["units"]
    array([False, False])
    """
    result = {group.name: np.array(gates[group.name], dtype=bool) for group in groups}
    for layer, names in inside(groups).items():
        for name in names:
            result[name] &= result[layer][0]
    return result


def below(name: str, folder: str) -> bool:
    """Whether a leaf is that leaf, or lies in that subtree."""
    return name == folder or name.startswith(f"{folder}/")


def alive(gates: Gates, name: str, size: int) -> int:
    """Counts the units of a group that live; all of them where the gates do not name it.

    >>> alive({"units": np.array([True, False])}, "units", 2), alive({}, "units", 2)
    (1, 2)
    """
    return int(np.sum(np.asarray(gates[name]))) if name in gates else size


def lives(gates: Gates, name: str) -> bool:
    """Whether a layer lives: it does where the gates do not name it."""
    return alive(gates, name, 1) > 0
