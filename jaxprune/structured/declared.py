"""The specification of a network that somebody else wrote: its function, and the groups that they declare."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxprune.groups import Gates, Group, Member, alive, below, lives, members_of
from jaxprune.network import Network
from jaxprune.types import Apply, TrainApply


@dataclass(frozen=True)
class Declared:
    """A network whose function reads every width off its parameters, and the groups declared for it.

    ``jp.structured.verify`` checks the declaration.  A network with layers must skip those whose parameters are not
    there, ``if "block1" in params``.

    Attributes:
      apply: ``(params, state, images) -> outputs``.
      declared: its groups.
      train_apply: see ``jaxprune.Network``.

    >>> units = Group("units", 2, (Member("in", 1), Member("out", 0, reads=True)), ("units",))
    >>> shape = Declared(lambda p, s, x: x @ p["in"] @ p["out"], (units,))
    >>> shape.without({"units": [True, False]}).groups()[0].size
    1
    """

    apply: Apply
    declared: tuple[Group, ...]
    train_apply: TrainApply | None = None

    def groups(self) -> tuple[Group, ...]:
        """Lists the groups."""
        return self.declared

    def without(self, gates: Gates) -> "Declared":
        """Returns the shape without the units whose gates are False."""
        gone = [
            member.leaf
            for group in self.declared
            if group.is_layer and not lives(gates, group.name)
            for member in group.members
        ]
        left = []
        for group in self.declared:
            members = tuple(member for member in group.members if not any(below(member.leaf, leaf) for leaf in gone))
            if members:
                size = 1 if group.is_layer else alive(gates, group.name, group.size)
                members = members if group.is_layer else tuple(_moved(self.declared, group, members, gates))
                left.append(dataclasses.replace(group, size=size, members=members))
        return dataclasses.replace(self, declared=tuple(left))

    def network(self, params: Any, state: Any) -> Network:
        """Makes the network with these parameters and this state."""
        return Network(self.apply, params, state, self.train_apply)

    def describe(self) -> dict[str, Any]:
        """Writes the groups as values that JSON has; the function is not among them."""
        return {"family": "declared", "groups": [_as_json(group) for group in self.declared]}

    @staticmethod
    def described(values: Mapping[str, Any], apply: Apply, train_apply: TrainApply | None = None) -> "Declared":
        """Reads what ``describe`` wrote, for a function that the caller has."""
        return Declared(apply, tuple(_from_json(group) for group in values["groups"]), train_apply)


def _moved(groups: Sequence[Group], group: Group, members: Sequence[Member], gates: Gates) -> Iterator[Member]:
    """Says where the units that stay lie, when those of all groups that share an axis have moved up."""
    units = np.asarray(gates.get(group.name, np.ones(group.size, bool)), bool)
    for member in members:
        on_it = [
            (other, one)
            for other in groups
            for one in other.members
            if (one.leaf, one.axis) == (member.leaf, member.axis) and other.name in gates
        ]
        if member.is_whole() and all(other.name == group.name for other, _ in on_it):
            yield member
            continue
        places = member.places(group.size)
        length = 1 + max(int(one.places(other.size).max()) for other, one in [*on_it, (group, member)])
        kept = np.ones(length, bool)
        for other, one in on_it:
            kept &= np.append(np.asarray(gates[other.name], bool), True)[one.unit_of(other.size, length)]
        moved, places = np.cumsum(kept) - 1, places[units]
        rows = [moved[row[kept[row]]] for row in places]
        if rows and all(row.size for row in rows):
            whole = member.stride if member.outer == 1 and member.stride is not None else length
            left = whole - int(np.sum(~kept))
            yield from members_of(member.leaf, member.axis or 0, np.array(rows), left, reads=member.reads)
        else:
            yield member  # nothing is left of it: who asks for that is told by the floors


def _as_json(group: Group) -> dict[str, Any]:
    members = [dataclasses.asdict(member) for member in group.members]
    return {**dataclasses.asdict(group), "members": members, "sites": list(group.sites)}


def _from_json(values: Mapping[str, Any]) -> Group:
    members = tuple(_member(member) for member in values["members"])
    return Group(**{**values, "members": members, "sites": tuple(values["sites"])})


def _member(values: Mapping[str, Any]) -> Member:
    rows = values.get("indices")
    return Member(**{**values, "indices": None if rows is None else tuple(tuple(row) for row in rows)})
