"""What a walk through a program collects: values as the walk sees them, and facts about what is done to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from jaxprune.structured.discovery.indices import Indices, Nodes

# What a value is made of, the later the more.
CONSTANT, WEIGHTS, IMAGES = range(3)


@dataclass(frozen=True)
class Origin:
    """The leaf that a value is, but for its layout, its type and factors: zeros of the leaf are zeros of the value.

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
      origin: the leaf that it is, if it is one.
      marks: the statistics that it depends on, as bits.
      known: its numbers, where they are the program's own and whole.
    """

    axes: tuple[Nodes, ...]
    source: int = CONSTANT
    origin: Origin | None = None
    marks: int = 0
    known: np.ndarray | None = None

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
      reader: the leaf, and its axes, whose zeros end the units there; None where neither factor is a leaf.
      step: in words.
    """

    nodes: Nodes
    reader: tuple[int, frozenset[int]] | None
    step: str


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
      place: that of the equation that is looked at, and of those that called it.
    """

    indices: Indices = field(default_factory=Indices)
    contractions: list[Contraction] = field(default_factory=list)
    uses: dict[tuple[int, int], set[str]] = field(default_factory=dict)
    statistics: dict[tuple[int, ...], list[Nodes]] = field(default_factory=dict)
    spreads: list[tuple[Nodes, int]] = field(default_factory=list)
    notes: list[tuple[Nodes, str]] = field(default_factory=list)
    place: tuple[int, ...] = ()

    def spread(self, nodes: Nodes, marks: int) -> None:
        """Notes that a value is spread along indices."""
        if marks and nodes.any():
            self.spreads.append((nodes, marks))

    def contract(self, nodes: Nodes, sides: Sequence[tuple[Value, int]]) -> int:
        """Notes a sum over indices of the product of two values, along one axis of each.

        Returns:
          The bit of the statistic that it is, or 0.
        """
        reader = None
        for value, axis in reversed(sides):
            if value.origin is not None and reader is None:
                reader = value.origin.leaf, value.origin.axes[axis]
        self.contractions.append(Contraction(nodes, reader, self.indices.step))
        if any(value.source == WEIGHTS for value, _ in sides) or not nodes.any():
            return 0
        self.statistics.setdefault(self.place, []).append(nodes)  # again in every turn of a loop, under the same bit
        return 1 << list(self.statistics).index(self.place)

    def use(self, origin: Origin, contracted: Sequence[int] = ()) -> None:
        """Notes that a leaf is used, with sums over some axes of the value that it is."""
        summed = {axis for place in contracted for axis in origin.axes[place]}
        kept = {axis for place, axes in enumerate(origin.axes) if place not in contracted for axis in axes}
        for how, axes in (("reads", summed), ("makes", kept)):
            for axis in axes:
                self.uses.setdefault((origin.leaf, axis), set()).add(how)
