"""The widths of what is left, for owners who rebuild their module at that size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxprune import check, tree
from jaxprune.groups import Gates, Group, living
from jaxprune.network import Network
from jaxprune.structured import gates as gating
from jaxprune.structured.discovery.finding import Discovered
from jaxprune.structured.discovery.printing import aligned
from jaxprune.structured.removal import check_floors, check_members, kept, owners


@dataclass(frozen=True)
class Widths:
    """How wide every group and every leaf is before and after; printed, a table of what changes.

    Attributes:
      units: by the name of every group its units that live, and all of them; 0 of 1 is a layer that is gone.
      shapes: by the name of every leaf, of the parameters and then of the state, its shape before and after; None where
        the leaf is gone with its layer.
      notes: what the program says of groups that get smaller in numbers of its own, which a rebuilt module has to keep.
    """

    units: Mapping[str, tuple[int, int]]
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...] | None]]
    notes: Mapping[str, tuple[str, ...]]

    def __str__(self) -> str:
        changed = [(name, whole, left) for name, (whole, left) in self.shapes.items() if whole != left]
        units = [(name, f"{left}", f"of {size}") for name, (left, size) in self.units.items() if left < size]
        leaves = [(name, _written(whole), "gone" if left is None else _written(left)) for name, whole, left in changed]
        lines = aligned([("group", "units", ""), *units]) + aligned([("leaf", "before", "after"), *leaves])
        return "\n".join([*lines, *(f"{name}: {note}." for name, some in self.notes.items() for note in some)])


def widths(network: Network, groups: Sequence[Group], gates: Gates) -> Widths:
    """Lists how wide every group and every leaf is once the units whose gates are False are removed.

    For owners who rather rebuild their own module at these widths than keep the program that ``compact`` makes: with
    those written into it, the module takes the leaves of the compacted network as they are.  Along an axis of a kernel
    are as many indices as units live, times what belongs to each: a head's dimensions, the positions of a flattened
    image.  Of a grouped convolution whose whole groups went, the number of its groups is their units that live.
    Nothing is evaluated or compiled.

    Args:
      network: the whole network, or one with ``jax.ShapeDtypeStruct`` for leaves.
      groups: what ``jp.structured.discover`` found in it, or those of its specification.
      gates: bool [size] for each group, and each of ``groups.layers``; what is not named lives.

    Raises:
      ValueError: gates that do not fit; groups of another network; fewer units than a floor.

    >>> from jaxprune.structured.discovery import discover
    >>> params = {"in": np.ones((3, 4)), "out": np.ones((4, 2))}
    >>> net = Network(lambda p, s, x: abs(x @ p["in"]) @ p["out"], params)
    >>> found = discover(net, np.ones((1, 3)))
    >>> print(widths(net, found, {"in": np.array([True, False, False, True])}))
    group  units
    in     2      of 4
    leaf   before  after
    in     3 x 4   3 x 2
    out    4 x 2   2 x 2
    """
    check.network(network)
    every = (*groups, *groups.layers) if isinstance(groups, Discovered) else tuple(groups)
    checked = gating.check(every, gates)
    check_members(every, network.params, network.state)
    check_floors(every, checked)
    left = living(every, checked)
    leaves = [*tree.by_name(network.params).items(), *tree.by_name(network.state).items()]
    check.distinct([name for name, _ in leaves])
    shapes = {}
    for name, leaf in leaves:
        whole = tuple(np.shape(leaf))
        gone = any(not checked[layer.name][0] for layer in owners(name, every))
        shapes[name] = whole, None if gone else tuple(map(len, kept(name, whole, every, checked)))
    units = {group.name: (int(left[group.name].sum()), group.size) for group in every}
    notes = groups.notes if isinstance(groups, Discovered) else {}
    smaller = {name: some for name, some in notes.items() if name in units and units[name][0] < units[name][1]}
    return Widths(units, shapes, smaller)


def _written(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "one number"
