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
    """

    leaf: str
    axis: int | None = None
    each: int = 1
    reads: bool = False


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
    """

    name: str
    size: int
    members: tuple[Member, ...]
    sites: tuple[str, ...]
    axis: int = -1
    floor: int = 1
    stage: str = ""

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
