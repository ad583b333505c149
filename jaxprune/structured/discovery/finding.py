"""The structure of any network, found in its program: nothing is declared."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend import core

from jaxprune import tree
from jaxprune.groups import Group
from jaxprune.network import Network
from jaxprune.structured.discovery import reasons
from jaxprune.structured.discovery.facts import IMAGES, WEIGHTS, Facts, Origin, Value
from jaxprune.structured.discovery.indices import STAYS, Classes, close
from jaxprune.structured.discovery.listing import Found, Leaf, listed
from jaxprune.structured.discovery.walk import Walk, opened


@dataclass(frozen=True)
class Discovered(Sequence[Group]):
    """The groups that were found, a sequence of ``Group``; and all else that was.

    Attributes:
      groups: those that are offered.
      found: every one, with what is to be said of it.
    """

    groups: tuple[Group, ...]
    found: tuple[Found, ...]
    _leaves: tuple[Leaf, ...]
    _facts: Facts
    _classes: Classes

    @property
    def fixed(self) -> dict[tuple[str, int], str]:
        """Why axes of leaves stay as they are, and on which way: ``{(leaf, axis): reason}``."""
        return reasons.fixed(self._leaves, self._facts, self._classes)

    def __getitem__(self, index: Any) -> Any:
        return self.groups[index]

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)


def discover(network: Network, images: Any, *, inner: bool = False) -> Discovered:
    """Finds the units of a network in its program."""
    closed = jax.make_jaxpr(network.apply)(network.params, network.state, images)
    names = [*tree.names(network.params), *tree.names(network.state)]
    walk = Walk({})
    leaves = follow(walk, closed, names)
    classes = _closed(walk.facts)
    found = listed(leaves, walk.facts, classes)
    offered = tuple(one.group for one in found if not one.why_not and (inner or not one.inner))
    return Discovered(offered, found, leaves, walk.facts, classes)


def follow(walk: Walk, program: core.ClosedJaxpr, names: Sequence[str]) -> tuple[Leaf, ...]:
    """Walks through the program of a network: the first of its inputs are leaves, which may shrink; all others stay.

    Args:
      walk: collects the facts.
      program: of ``apply(params, state, images)``.
      names: of the leaves.
    """
    facts, inputs, leaves = walk.facts, [], []
    for number, variable in enumerate(program.jaxpr.invars):
        shape = variable.aval.shape
        if number < len(names):
            axes = tuple(facts.indices.fresh(length) for length in shape)
            leaves.append(Leaf(names[number], axes))
            origin = Origin(number, tuple(frozenset((axis,)) for axis in range(len(shape))))
            inputs.append(Value(axes, WEIGHTS, (origin,)))
        else:
            inputs.append(Value(tuple(np.full(length, STAYS) for length in shape), IMAGES))
    outputs = walk.program(*opened(program), inputs)
    facts.indices.step = "the outputs"
    for output in outputs:
        for nodes in output.axes:
            facts.indices.fix(nodes, "it reaches the outputs")
        facts.use(output)
    return tuple(leaves)


def _closed(facts: Facts) -> Classes:
    """Draws what follows, until no statistic returns to the indices that it is over."""
    while True:
        classes = close(facts.indices)
        returning = _returning(facts, classes)
        if not returning:
            return classes
        facts.indices.step = "a statistic"
        for nodes in returning:
            facts.indices.fix(nodes, "a statistic over the units returns to them by a broadcast")


def _returning(facts: Facts, classes: Classes) -> list[np.ndarray]:
    events = [np.concatenate(nodes) for nodes in facts.statistics.values()]
    over = [classes.of(nodes) for nodes in events]
    found = []
    for nodes, marks in facts.spreads:
        along = classes.of(nodes)
        for bit, atoms in enumerate(over):
            if along and marks >> bit & 1 and along & atoms:
                found.append(events[bit])
                over[bit] = set()
    return found
