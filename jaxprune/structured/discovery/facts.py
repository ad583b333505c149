"""What a walk through a program collects: values as the walk sees them, and facts about what is done to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from jaxprune.structured.discovery.counting import UNCOUNTED, Counted, Counts
from jaxprune.structured.discovery.indices import CONSTANT, WEIGHTS, Indices, Nodes


@dataclass(frozen=True)
class Origin:
    """A leaf that a value is linear in: where the leaf is zero along an axis, so is the value.

    Attributes:
      leaf: the number of the leaf.
      axes: for every axis of the value, the axes of the leaf that lie along it.
    """

    leaf: int
    axes: tuple[frozenset[int], ...]


@dataclass(frozen=True, eq=False)
class Value:
    """A value on the way.

    Attributes:
      axes: the nodes of the indices of every axis.
      source: ``CONSTANT``, ``WEIGHTS`` or ``IMAGES``: the most that it is made of.
      origins: the leaves that it is, or is a multiple of.
      marks: the statistics that it depends on, as bits.
      known: its numbers, where they are the program's own and whole.
      counted: what it has to do with how many units there are; only where statistics are recomputed.
    """

    axes: tuple[Nodes, ...]
    source: int = CONSTANT
    origins: tuple[Origin, ...] = ()
    marks: int = 0
    known: np.ndarray | None = None
    counted: Counted = UNCOUNTED

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return tuple(map(len, self.axes))


class Step(NamedTuple):
    """One equation, as rules see it.

    Attributes:
      name: of the primitive.
      params: its static parameters.
      shapes: of its results.
    """

    name: str
    params: Mapping[str, Any]
    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Contraction:
    """A sum over indices of a product: where units end.

    Attributes:
      nodes: the indices summed over.
      leaves: for each factor the leaves, and their axes, that it is linear in: their zeros end the units there.
      step: in words.
      place: of the equation, and of those that hold it.
      gated: the operand of the equation, and its axis, in which zeros are the units' end: what is made of images
        rather than of leaves.  None: nothing can be put there, inside of a derivative rule of its own.
    """

    nodes: Nodes
    leaves: tuple[frozenset[tuple[int, int]], ...]
    step: str
    place: tuple[int, ...]
    gated: tuple[int, int] | None


class Side(NamedTuple):
    """A factor of a product.

    Attributes:
      value: what it is.
      axis: its axis that is summed over.
      operand: which operand of the equation it is.
    """

    value: "Value"
    axis: int
    operand: int


@dataclass
class Facts:
    """All that a walk finds.

    Attributes:
      indices: what goes together and what stays.
      contractions: where units end.
      uses: for an axis of a leaf, whether sums run over it ("reads") or its indices are kept ("makes").
      statistics: sums over indices of values that are no leaves, by the place in the program, in the order of their
        bits.
      spreads: indices along which a value that depends on statistics was spread by a broadcast.
      notes: indices along which the program has numbers of its own, and what they are.
      operations: multiplications by a leaf, by the leaf and the place.
      place: that of the equation that is looked at, and of those that called it.
      sealed: whether it stands inside of a function with a derivative rule of its own, or is described by hand.
      counts: the numbers that count units, where statistics over these are recomputed; None: units that a statistic
        is over stay.
      closed_in: places of statistics inside of what is sealed, where nothing is recomputed.
    """

    indices: Indices = field(default_factory=Indices)
    contractions: list[Contraction] = field(default_factory=list)
    uses: dict[tuple[int, int], set[str]] = field(default_factory=dict)
    statistics: dict[tuple[int, ...], list[Nodes]] = field(default_factory=dict)
    spreads: list[tuple[Nodes, int]] = field(default_factory=list)
    notes: list[tuple[Nodes, str]] = field(default_factory=list)
    operations: dict[tuple[int, tuple[int, ...]], int] = field(default_factory=dict)
    place: tuple[int, ...] = ()
    sealed: bool = False
    counts: Counts | None = None
    closed_in: set[tuple[int, ...]] = field(default_factory=set)

    def spread(self, nodes: Nodes, marks: int) -> None:
        """Notes that a value is spread along indices."""
        if marks and nodes.any():
            self.spreads.append((nodes, marks))

    def contract(self, nodes: Nodes, sides: Sequence[Side]) -> int:
        """Notes a sum over indices of the product of two values, along one axis of each.

        Where both are leaves, the first reads the units.

        Returns:
          The bit of the statistic that it is, or 0.
        """
        if not nodes.any():
            return 0
        # A leaf itself rather than a value that is linear in one.
        leaves = [
            frozenset((one.leaf, at) for one in side.value.origins for at in one.axes[side.axis])
            for side in sorted(sides, key=lambda side: side.value.source != WEIGHTS)
        ]
        most = max(sides, key=lambda side: (side.value.source, -side.operand))
        gated = None if self.sealed else (most.operand, most.axis)
        self.contractions.append(Contraction(nodes, tuple(leaves), self.indices.step, self.place, gated))
        if any(side.value.source == WEIGHTS for side in sides):
            return 0
        self.closed_in |= {self.place} if self.sealed else set()
        self.statistics.setdefault(self.place, []).append(nodes)  # again in every turn of a loop, under the same bit
        return 1 << list(self.statistics).index(self.place)

    def use(self, value: Value, how: str = "makes", places: Sequence[int] | None = None) -> None:
        """Notes what becomes of the leaves that a value is, along some of its axes (None: all)."""
        for origin in value.origins:
            for place, axes in enumerate(origin.axes):
                if places is None or place in places:
                    for axis in axes:
                        self.uses.setdefault((origin.leaf, axis), set()).add(how)
