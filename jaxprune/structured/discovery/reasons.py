"""Why an axis of a leaf stays as it is: the way from the leaf to what fixes it."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from jaxprune.structured.discovery.facts import Facts
from jaxprune.structured.discovery.indices import STAYS, Classes
from jaxprune.structured.discovery.listing import Leaf

_SHOWN = 4


def fixed(leaves: Sequence[Leaf], facts: Facts, classes: Classes) -> dict[tuple[str, int], str]:
    """Says for every axis of a leaf of which an index stays why, and on which way.

    Args:
      leaves: all leaves.
      facts: what was found in the program.
      classes: what follows from it.

    Returns:
      ``{(leaf, axis): reason}``.
    """
    before = _ways(classes)
    causes: dict[int, tuple[str, str]] = {}
    for reason in reversed(facts.indices.reasons):  # the first one that is given counts
        causes.update(dict.fromkeys(reason.nodes.tolist(), (reason.why, reason.step)))
    joins: dict[tuple[int, int], str] = {}
    found = {}
    for leaf in leaves:
        for axis, nodes in enumerate(leaf.axes):
            stay = np.flatnonzero(classes.label[nodes] == classes.fixed)
            if stay.size == 0:
                continue
            joins = joins or _joins(classes)
            way = _way(int(nodes[stay[0]]), before)
            met = joins.get((STAYS, way[-1]), "")
            why, step = causes.get(way[-1], ("it meets the images, or an axis that stays,", f"in {met}"))
            steps = [joins.get((min(pair), max(pair)), "") for pair in pairwise(way)]
            steps = list(dict.fromkeys(one for one in steps if one))
            shown = [*steps[:_SHOWN], "..."] if len(steps) > _SHOWN else steps
            through = f", by way of {', '.join(shown)}" if shown else ""
            part = "" if stay.size == len(nodes) else f"{stay.size} of {len(nodes)} indices: "
            found[leaf.name, axis] = f"{part}{why} ({step}){through}"
    return found


def _ways(classes: Classes) -> np.ndarray:
    """For every node the next one on a shortest way to ``STAYS``."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import breadth_first_order

    left = np.concatenate([np.zeros(0, int), *(edge.left for edge in classes.edges)])
    right = np.concatenate([np.zeros(0, int), *(edge.right for edge in classes.edges)])
    size = len(classes.label)
    graph = coo_matrix((np.ones(len(left), np.int8), (left, right)), (size, size))
    return breadth_first_order(graph, STAYS, directed=False)[1]


def _way(node: int, before: np.ndarray) -> list[int]:
    way = [node]
    while (following := int(before[way[-1]])) not in (STAYS, -9999):
        way.append(following)
    return way


def _joins(classes: Classes) -> dict[tuple[int, int], str]:
    """The step that joined two nodes."""
    found: dict[tuple[int, int], str] = {}
    for edge in reversed(classes.edges):
        pairs = np.sort(np.stack([edge.left, edge.right]), axis=0).T
        found.update(dict.fromkeys(map(tuple, pairs.tolist()), edge.step))
    return found
