"""From classes of indices to groups of units: who owns what, who reads it, and what it is called."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from jaxprune.groups import Group, Member, members_of
from jaxprune.structured.discovery.facts import Facts
from jaxprune.structured.discovery.indices import Classes, Nodes

Place = tuple[int, int]
"""A leaf and one of its axes."""


@dataclass(frozen=True)
class Leaf:
    """A leaf and the nodes of its axes."""

    name: str
    axes: tuple[Nodes, ...]


@dataclass(frozen=True)
class Found:
    """A group, and what is to be said of it.

    Attributes:
      group: the group.
      atoms: the class of every unit.
      inner: whether it lies inside the units of another group: dimensions of heads, channels of groups.
      why_not: why it is not offered; empty where it is.
      notes: what in the program depends on how many units there are.
    """

    group: Group
    atoms: tuple[int, ...]
    inner: bool
    why_not: str
    notes: tuple[str, ...]


def listed(leaves: Sequence[Leaf], facts: Facts, classes: Classes) -> tuple[Found, ...]:
    """Lists all groups: classes with the same indices of the same leaves, in the same number, are interchangeable."""
    owned = owned_by(leaves, classes)
    reads, problems, sealed = _ends(leaves, facts, classes, owned)
    alike: dict[object, list[int]] = {}
    for atom, places in sorted(owned.items(), key=lambda item: _first(item[1])):
        key = tuple((place, len(indices), (atom, place) in reads) for place, indices in sorted(places.items()))
        alike.setdefault((key, problems[atom], atom in sealed, atom in classes.recomputed), []).append(atom)
    apart = [one for atoms in alike.values() for one in _apart(atoms, owned) if len(one) > 1]
    units: dict[object, list[int]] = dict(enumerate(apart))
    offered = {number: atoms for number, atoms in units.items() if not problems[atoms[0]]}
    inner = _inner(offered, classes, owned, reads)
    names: Counter[str] = Counter()
    found = []
    for number, atoms in sorted(units.items(), key=lambda item: _first(owned[item[1][0]])):
        members = tuple(
            member
            for place in sorted(owned[atoms[0]])
            for member in members_of(
                leaves[place[0]].name,
                place[1],
                np.array([owned[atom][place] for atom in atoms]),
                len(leaves[place[0]].axes[place[1]]),
                reads=(atoms[0], place) in reads,
            )
        )
        name = _name(members, leaves)
        names[name] += 1
        name = name if names[name] == 1 else f"{name}#{names[name]}"
        notes = tuple(dict.fromkeys(note for nodes, note in facts.notes if classes.of(nodes) & set(atoms)))
        recomputed, by_readers = atoms[0] in classes.recomputed, atoms[0] in sealed
        by_sums = not recomputed and not by_readers
        by_readers = by_readers and not recomputed
        group = Group(name, len(atoms), members, (), by_readers=by_readers, by_sums=by_sums, recomputed=recomputed)
        found.append(Found(group, tuple(atoms), number in inner, problems[atoms[0]], notes))
    return tuple(found)


def _apart(atoms: Sequence[int], owned: Mapping[int, Mapping[Place, Sequence[int]]]) -> list[list[int]]:
    """Parts classes that share indices, such as the two factors of a square: a unit shares none with its like."""
    parts: list[tuple[list[int], dict[Place, set[int]]]] = []
    for atom in atoms:
        mine = owned[atom].items()
        fits = [one for one in parts if all(one[1][place].isdisjoint(indices) for place, indices in mine)]
        if not fits:
            fits = [([], {place: set() for place in owned[atom]})]
            parts += fits
        fits[0][0].append(atom)
        for place, indices in mine:
            fits[0][1][place].update(indices)
    return [part for part, _ in parts]


def owned_by(leaves: Sequence[Leaf], classes: Classes) -> dict[int, dict[Place, list[int]]]:
    """Lists which indices of which axes of the leaves every class owns."""
    owned: dict[int, dict[Place, list[int]]] = {}
    fixed, factors = classes.fixed, classes.factors
    for number, leaf in enumerate(leaves):
        for axis, nodes in enumerate(leaf.axes):
            place = number, axis
            for index, label in enumerate(classes.label[nodes].tolist()):
                if label != fixed:
                    for atom in classes.atoms(label) if label in factors else (label,):
                        owned.setdefault(atom, {}).setdefault(place, []).append(index)
    return owned


def _ends(
    leaves: Sequence[Leaf], facts: Facts, classes: Classes, owned: Mapping[int, Mapping[Place, Sequence[int]]]
) -> tuple[set[tuple[int, Place]], dict[int, str], set[int]]:
    """Who reads a unit, by the sums in which it ends; why units cannot be gated; and which only by their readers.

    Zeros in what is summed over are a unit's end, whatever made it.  Where the sum lies inside of a derivative rule of
    its own, nothing can be put there: then the leaves that read the unit hold the zeros, and must do nothing else.
    """
    reads: set[tuple[int, Place]] = set()
    ends: dict[int, list[tuple[str, list[list[Place]]]]] = {}
    sealed: set[int] = set()
    for one in facts.contractions:
        sides = [sorted(places) for places in one.leaves]
        known: dict[tuple[Place, ...], list[list[Place]]] = {}  # of thousands of units few own different leaves
        for atom in classes.of(one.nodes) & owned.keys():
            mine = tuple(owned[atom])
            if mine not in known:
                known[mine] = [[place for place in side if place in owned[atom]] for side in sides]
            ends.setdefault(atom, []).append((one.step, known[mine]))
            for places in known[mine]:
                if places:
                    reads.add((atom, places[0]))
                    break
            if one.gated is None:
                sealed.add(atom)
    problems = {}
    for atom, places in owned.items():
        problems[atom] = "" if atom in ends else "nothing reads it"
        made = [place for place in places if (atom, place) not in reads]
        mixed = [place for place in places if atom not in sealed and "makes" in facts.uses.get(place, ())]
        if not made and not mixed:
            problems[atom] = "no leaf makes it"
        if atom in sealed and atom not in classes.recomputed:
            readers = [place for place in places if (atom, place) in reads]
            problems[atom] = _of_readers(leaves, facts, readers, ends[atom]) or problems[atom]
    return reads, problems, sealed


def _of_readers(
    leaves: Sequence[Leaf], facts: Facts, reads: Sequence[Place], ends: Sequence[tuple[str, list[list[Place]]]]
) -> str:
    """Why zeros in the leaves that read a unit would not be its end; empty where they are."""
    why = ""
    for step, factors in ends:
        readers = [place for places in factors for place in places if place in reads]
        mixed = [leaves[place[0]].name for place in readers if "makes" in facts.uses.get(place, ())]
        if not readers:
            why = f"it ends in a product of values that are no leaves ({step})"
        elif mixed:
            why = f"{mixed[0]!r} both makes and reads it"
        elif len(readers) > 1:
            why = f"leaves that read it are multiplied with each other ({step})"
    return why


def _inner(
    units: Mapping[object, Sequence[int]],
    classes: Classes,
    owned: Mapping[int, Mapping[Place, Sequence[int]]],
    reads: set[tuple[int, Place]],
) -> set[object]:
    """The groups that lie inside the units of another: faster in a merged axis, or on a later axis of the same leaf."""
    of = {atom: key for key, atoms in units.items() for atom in atoms}
    pairs: set[tuple[object, object]] = set()
    for slow, fast in set(classes.factors.values()):
        for outer in classes.atoms(slow):
            pairs.update((of[outer], of[inner]) for inner in classes.atoms(fast) if outer in of and inner in of)
    on: dict[tuple[int, bool], dict[int, set[object]]] = {}
    for key, atoms in units.items():
        for number, axis in owned[atoms[0]]:
            on.setdefault((number, (atoms[0], (number, axis)) in reads), {}).setdefault(axis, set()).add(key)
    for axes in on.values():
        for earlier in axes:
            for later in axes:
                if earlier < later:
                    pairs.update((outer, inner) for outer in axes[earlier] for inner in axes[later] if outer != inner)
    return {inner for outer, inner in pairs if outer != inner and (inner, outer) not in pairs}


def _first(places: Mapping[Place, Sequence[int]]) -> tuple[Place, int]:
    place = min(places)
    return place, places[place][0]


_FEW = 4
_PLAIN = frozenset(["kernel", "weight", "w", "W", "weights"])


def _name(members: Sequence[Member], leaves: Sequence[Leaf]) -> str:
    """The name of what makes the units: that of its kernel, without the word kernel."""
    ranks = {leaf.name: len(leaf.axes) for leaf in leaves}
    makers = [member.leaf for member in members if not member.reads]
    kernels = [leaf for leaf in makers if ranks[leaf] > 1]  # biases of several layers at once are as well
    kernels = [leaf for leaf in kernels if leaf.rpartition("/")[2] in _PLAIN] or kernels
    leaf = (kernels or makers or [members[0].leaf])[0]
    folder, _, last = leaf.rpartition("/")
    if 1 < len(kernels) <= _FEW:  # query, key and value: their attention
        parts = zip(*(one.split("/") for one in kernels), strict=False)
        shared = "/".join(names[0] for names in takewhile(lambda names: len(set(names)) == 1, parts))
        folder, last = (shared, "kernel") if shared else (folder, last)
    return folder if folder and last in _PLAIN else leaf
