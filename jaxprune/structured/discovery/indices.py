"""Which indices live and go together: classes of indices, some of them products of others.

Every index of every axis of every value of a program is a node, a whole number.  Two nodes that can only go together
are joined.  A node may be a *product*: an index of a merged axis (head, dimension) lives if and only if both of its
factors do.  Node 0 stands for all that must stay.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

Nodes = np.ndarray
"""Numbers of nodes, one for every index of an axis."""

STAYS = 0

# What a value is made of, the later the more.
CONSTANT, WEIGHTS, IMAGES = range(3)


class Edge(NamedTuple):
    """Nodes that were joined, and the step of the program that did it."""

    left: Nodes
    right: Nodes
    step: str


class Reason(NamedTuple):
    """Nodes that must stay, why, and the step of the program that says so."""

    nodes: Nodes
    why: str
    step: str


@dataclass
class Indices:
    """What is known of the indices of a program while it is walked.

    Attributes:
      count: how many nodes there are.
      edges: which of them are joined.
      reasons: which of them stay, and why.
      step: the step that is looked at, in words.
    """

    count: int = 1
    edges: list[Edge] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)
    products: list[tuple[Nodes, Nodes, Nodes]] = field(default_factory=list)
    step: str = ""

    def fresh(self, count: int) -> Nodes:
        """Makes new nodes that know nothing of others."""
        self.count += count
        return np.arange(self.count - count, self.count)

    def join(self, left: Nodes, right: Nodes) -> None:
        """Says that indices go together, one by one."""
        differ = left != right
        if differ.any():
            self.edges.append(Edge(left[differ], right[differ], self.step))

    def fix(self, nodes: Nodes, why: str) -> None:
        """Says that indices must stay."""
        nodes = np.unique(nodes[nodes != STAYS])
        if nodes.size:
            self.reasons.append(Reason(nodes, why, self.step))

    def product(self, merged: Nodes, outer: Nodes, inner: Nodes) -> None:
        """Says that ``merged[i]`` lives if and only if ``outer[i]`` and ``inner[i]`` do."""
        if merged.size:
            self.products.append((merged, outer, inner))

    def merge(self, axes: Sequence[Nodes]) -> Nodes:
        """Makes the nodes of the axis that some axes become when they are laid one into another, the slowest first.

        >>> Indices().merge([np.array([0, 0]), np.array([4, 5])])
        array([4, 5, 4, 5])
        """
        merged = axes[-1]
        for outer in reversed(axes[:-1]):
            slow, fast = np.repeat(outer, len(merged)), np.tile(merged, len(outer))
            both = (slow != STAYS) & (fast != STAYS)
            result = np.where(slow == STAYS, fast, slow)
            pairs, which = np.unique(np.stack([slow[both], fast[both]], axis=1), axis=0, return_inverse=True)
            made = self.fresh(len(pairs))
            self.product(made, pairs[:, 0], pairs[:, 1])
            result[both] = made[which.reshape(-1)]
            merged = result
        return merged

    def split(self, merged: Nodes, lengths: Sequence[int]) -> list[Nodes]:
        """Makes the nodes of the axes that one axis is taken apart into, the slowest first.

        >>> Indices().split(np.array([4, 4, 5, 5]), (2, 2))
        [array([4, 5]), array([0, 0])]
        """
        found = []
        for length in lengths[:-1]:
            table = merged.reshape(length, -1)
            if (table == table[:, :1]).all():
                outer, merged = table[:, 0], np.full(table.shape[1], STAYS)
            elif (table == table[:1]).all():
                outer, merged = np.full(length, STAYS), table[0]
            else:
                outer, inner = self._alike(table), self._alike(table.T)
                self.product(merged, np.repeat(outer, table.shape[1]), np.tile(inner, length))
                merged = inner
            found.append(outer)
        return [*found, merged]

    def _alike(self, rows: np.ndarray) -> Nodes:
        """A new node for each row, one for rows that are equal."""
        which = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
        return self.fresh(int(which.max()) + 1)[which]


@dataclass(frozen=True)
class Classes:
    """The classes of indices, when everything that follows from a program is drawn.

    Attributes:
      label: the class of every node; that of ``STAYS`` is ``fixed``.
      factors: for every class that is a product, its two factors.
      edges: all that were joined, also because of products.
      recomputed: the classes that a statistic is over, where it is recomputed over what is left.
    """

    label: np.ndarray
    factors: dict[int, tuple[int, int]]
    edges: tuple[Edge, ...]
    recomputed: frozenset[int] = frozenset()
    _atoms: dict[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def fixed(self) -> int:
        """The class of all that must stay."""
        return int(self.label[STAYS])

    def atoms(self, label: int) -> tuple[int, ...]:
        """The classes that are no products, of which a class is made: it lives if and only if all of them do."""
        if label not in self._atoms:
            if label == self.fixed:
                found: set[int] = set()
            elif label in self.factors:
                found = {atom for factor in self.factors[label] for atom in self.atoms(factor)}
            else:
                found = {label}
            self._atoms[label] = tuple(sorted(found))
        return self._atoms[label]

    def of(self, nodes: Nodes) -> set[int]:
        """The classes, none of them products, of which some nodes are made."""
        labels = np.unique(self.label[nodes]).tolist()
        plain = set(labels) - self.factors.keys() - {self.fixed}
        return plain.union(*(self.atoms(label) for label in labels if label in self.factors))


def close(indices: Indices) -> Classes:
    """Draws all that follows: what is joined, and what products say of it, until nothing new comes.

    * What stays has factors that stay.
    * A product with one factor that stays is the other one.
    * A product that is one of its factors has another that stays: to remove that alone would remove both.
    * Two products that are one class have the same factors, one by one.
    * Products that contain each other are one class.
    """
    edges = list(indices.edges) + [
        Edge(reason.nodes, np.full(len(reason.nodes), STAYS), reason.step) for reason in indices.reasons
    ]
    empty = np.zeros(0, int)
    merged, outer, inner = (
        np.concatenate(parts) for parts in zip(*indices.products, (empty, empty, empty), strict=True)
    )
    while True:
        label = _components(edges, indices.count)
        follows = list(_consequences(label, merged, outer, inner)) or list(_circles(label, merged, outer, inner))
        if not follows:
            break
        edges += [Edge(left, right, "a merged axis") for left, right in follows]
    fixed, factors = label[STAYS], {}
    for whole, slow, fast in zip(label[merged].tolist(), label[outer].tolist(), label[inner].tolist(), strict=True):
        if fixed not in (whole, slow, fast) and whole not in (slow, fast):
            factors[whole] = slow, fast
    return Classes(label, factors, tuple(edges))


def _components(edges: Sequence[Edge], count: int) -> np.ndarray:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    left = np.concatenate([np.zeros(0, int), *(edge.left for edge in edges)])
    right = np.concatenate([np.zeros(0, int), *(edge.right for edge in edges)])
    graph = coo_matrix((np.ones(len(left), np.int8), (left, right)), (count, count))
    return connected_components(graph, directed=False)[1]


def _consequences(label: np.ndarray, merged: Nodes, outer: Nodes, inner: Nodes) -> Iterator[tuple[Nodes, Nodes]]:
    """What products say at once: pairs of nodes to be joined."""
    whole, slow, fast, stays = label[merged], label[outer], label[inner], label[STAYS]

    def joined(left: Nodes, right: Nodes) -> Iterator[tuple[Nodes, Nodes]]:
        new = label[left] != label[right]
        if new.any():
            yield left[new], right[new]

    zero = np.full(len(merged), STAYS)
    yield from joined(outer[whole == stays], zero[whole == stays])
    yield from joined(inner[whole == stays], zero[whole == stays])
    yield from joined(merged[slow == stays], inner[slow == stays])
    yield from joined(merged[fast == stays], outer[fast == stays])
    is_slow, is_fast = (whole == slow) & (slow != stays), (whole == fast) & (fast != stays)
    yield from joined(inner[is_slow & ~is_fast], zero[is_slow & ~is_fast])
    yield from joined(outer[is_fast & ~is_slow], zero[is_fast & ~is_slow])
    live = np.flatnonzero((whole != stays) & (slow != stays) & (fast != stays))
    order = live[np.argsort(whole[live], kind="stable")]
    same = np.flatnonzero(whole[order][1:] == whole[order][:-1])
    yield from joined(outer[order[same]], outer[order[same + 1]])
    yield from joined(inner[order[same]], inner[order[same + 1]])


def _circles(label: np.ndarray, merged: Nodes, outer: Nodes, inner: Nodes) -> Iterator[tuple[Nodes, Nodes]]:
    """Products that contain each other, directly or not: pairs of nodes to be joined."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    whole, stays = label[merged], label[STAYS]
    live = (whole != stays) & (label[outer] != stays) & (label[inner] != stays)
    nodes, parts = np.tile(merged[live], 2), np.concatenate([outer[live], inner[live]])
    size = int(label.max()) + 1
    graph = coo_matrix((np.ones(len(nodes), np.int8), (label[nodes], label[parts])), (size, size))
    strong = connected_components(graph, directed=True, connection="strong")[1]
    circle = (strong[label[nodes]] == strong[label[parts]]) & (label[nodes] != label[parts])
    if circle.any():
        yield nodes[circle], parts[circle]
