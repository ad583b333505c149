"""The same program at smaller sizes, for any network: what was discovered is really removed."""

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax.extend import core

from jaxprune import check, tree
from jaxprune.groups import Gates, Group
from jaxprune.network import Network
from jaxprune.sites.program import needed
from jaxprune.structured import gates as gating
from jaxprune.structured.declared import Declared
from jaxprune.structured.discovery.cutting import Cutting
from jaxprune.structured.discovery.finding import Discovered, closed, follow, program_of
from jaxprune.structured.discovery.full import Full, unpacked
from jaxprune.structured.discovery.indices import Classes
from jaxprune.structured.discovery.layers import left_out
from jaxprune.structured.discovery.listing import Leaf
from jaxprune.structured.discovery.walk import Walk
from jaxprune.structured.probes import is_float
from jaxprune.structured.removal import remove
from jaxprune.types import Apply, TrainApply


def compact(network: Network, groups: Discovered, gates: Gates) -> Network:
    """Removes the units whose gates are False from any network: its own program, with smaller arrays.

    The result computes what ``gated(network, groups, gates)`` does; where groups are ``recomputed``, what the same
    function of the smaller width does: means over their units are of those that are left.  A residual branch, one of
    ``groups.layers``, is left out where its gate is False: its leaves are gone, and nothing of it is computed.

    Its ``apply`` compares by value and is traced anew for every shape of the images, so it can be evaluated at other
    sizes, compiled, differentiated and discovered again.  Divisors and scales of the program stay as they are; random
    numbers (dropout) are drawn at the full size.  A function with a derivative rule of its own keeps it,
    made smaller as well.

    Args:
      network: that the groups were discovered in.
      groups: what ``jp.structured.discover(network, images)`` returned.
      gates: bool [size] for each group, and each of ``groups.layers``; what is not named lives.

    Returns:
      The smaller network, its leaves of NumPy.

    Raises:
      ValueError: groups that were not discovered, or in another network, or with descriptions of primitives; gates that
        do not fit; fewer units than a floor.  When it is evaluated: at this size of the images the units do not go
        together as they did; a third derivative of a function whose rule sums over units that are gone.

    >>> from jaxprune.structured.discovery import discover
    >>> params = {"in": np.ones((3, 4)), "out": np.ones((4, 2))}
    >>> net = Network(lambda p, s, x: jax.nn.relu(x @ p["in"]) @ p["out"], params)
    >>> found = discover(net, np.ones((1, 3)))
    >>> small = compact(net, found, {"in": np.array([True, False, False, True])})
    >>> small.params["in"].shape, float(small(np.ones((1, 3)))[0, 0])
    ((3, 2), 6.0)
    """
    check.network(network)
    shape, params, state = remove(Traced.of(network, groups, layers=True), network.params, network.state, gates)
    return shape.network(params, state)


@dataclass(frozen=True)
class Traced:
    """The specification of any network: its program says how units are removed, whatever widths its function has.

    What ``Declared`` is to functions that read every width off their parameters, and skip what is not there, this is to
    all others.

    Attributes:
      apply: of the whole network.
      train_apply: of the whole network.
      full: its leaves, and which of their indices are left.
      declared: the groups, as they are now.
    """

    apply: Apply
    train_apply: TrainApply | None
    full: Full
    declared: tuple[Group, ...]

    @staticmethod
    def of(network: Network, groups: Discovered, *, layers: bool = False) -> "Traced":
        """Makes the specification of a network and the groups that were discovered in it.

        Args:
          network: the network.
          groups: what was discovered.
          layers: whether residual branches are among its groups, to be left out as a whole.

        Raises:
          ValueError: groups that were not discovered, or in another network.
        """
        if not isinstance(groups, Discovered):
            raise ValueError(
                f"groups: expected what jp.structured.discover returned, but got a {type(groups).__name__}. For groups "
                "that were declared there are jp.structured.Declared and jp.structured.remove."
            )
        if groups.unproven:
            name, why = next(iter(groups.unproven.items()))
            raise ValueError(
                f"groups: expected groups that are proven, but {', '.join(groups.unproven)} is not ({name}: {why}). "
                "Pass groups.proven, those that are."
            )
        if groups.described:
            raise ValueError(
                f"groups: expected primitives that jaxprune knows, but {', '.join(groups.described)} was described. "
                "Units are gated there, but the primitive cannot be made smaller: use jp.structured.Declared."
            )
        full = Full.of(network, recompute=groups.is_recomputed)
        if full.shapes != groups.shapes:
            raise ValueError(
                "groups: expected those of this network, but they were discovered in one with leaves of other shapes. "
                "Discover them anew."
            )
        declared = (*groups.groups, *groups.layers) if layers else groups.groups
        return Traced(network.apply, network.train_apply, full, declared)

    def groups(self) -> tuple[Group, ...]:
        """Lists the groups."""
        return self.declared

    def without(self, gates: Gates) -> "Traced":
        """Returns the shape without the units whose gates are False."""
        checked = gating.check(self.declared, gates)
        left = Declared(self.apply, self.declared).without(checked).groups()
        return replace(self, full=self.full.without(self.declared, checked), declared=left)

    def network(self, params: Any, state: Any) -> Network:
        """Makes the network with these parameters and this state."""
        if not self.full.gone and not any(mask for masks in self.full.masks for mask in masks):
            return Network(self.apply, params, state, self.train_apply)
        train = None if self.train_apply is None else _CompactedTraining(self.train_apply, self.full)
        return Network(_Compacted(self.apply, self.full), params, state, train)

    def describe(self) -> dict[str, Any]:
        """Writes groups and masks as values that JSON has; the program is not among them."""
        masks = [[None if one is None else one.hex() for one in leaf] for leaf in self.full.masks]
        shapes = [list(shape) for shape in self.full.shapes]
        groups = Declared(self.apply, self.declared).describe()["groups"]
        gone = sorted(self.full.gone)
        found = {"family": "traced", "groups": groups, "shapes": shapes, "masks": masks, "gone": gone}
        return {**found, "recompute": True} if self.full.recompute else found

    @staticmethod
    def described(values: Mapping[str, Any], network: Network) -> "Traced":
        """Reads what ``describe`` wrote, for the whole network, whose leaves may be ``jax.ShapeDtypeStruct``.

        Raises:
          ValueError: it was of a network with other leaves.
        """
        full = Full.of(network, recompute=values.get("recompute", False))
        if [list(shape) for shape in full.shapes] != [list(shape) for shape in values["shapes"]]:
            raise ValueError(
                "network: expected the whole network that was made smaller, but its leaves have other shapes. Pass it "
                "as it was before units were removed."
            )
        masks = tuple(tuple(None if one is None else bytes.fromhex(one) for one in leaf) for leaf in values["masks"])
        groups = Declared.described(values, network.apply).groups()
        full = replace(full, masks=masks, gone=frozenset(values.get("gone", ())))
        return Traced(network.apply, network.train_apply, full, groups)


@dataclass(frozen=True)
class _Compacted:
    apply: Any
    full: Full

    def __call__(self, params: Any, state: Any, images: Any) -> Any:
        return _evaluated(self.apply, self.full, (params, state), (images,))


@dataclass(frozen=True)
class _CompactedTraining:
    train_apply: Any
    full: Full

    def __call__(self, params: Any, state: Any, images: Any, rngs: Any) -> Any:
        return _evaluated(self.train_apply, self.full, (params, state), (images, rngs))


def _evaluated(function: Any, full: Full, leaves: Any, others: tuple[Any, ...]) -> Any:
    full.check(leaves)
    left = iter(jax.tree.leaves(leaves))
    given = [None if name in full.gone else next(left) for name in full.names()]
    # The program of the types that are given: another would round otherwise.
    floats = [leaf for leaf in given if leaf is not None and is_float(leaf)]
    usual = jax.numpy.result_type(*floats) if floats else jax.numpy.result_type(float)
    types = tuple(usual if leaf is None else jax.numpy.result_type(leaf) for leaf in given)
    program, cutting, shapes, made = planned(function, full, types, others)
    given = [
        jax.numpy.zeros(cutting.shape(axes), usual) if leaf is None else leaf
        for leaf, axes in zip(given, shapes, strict=True)
    ]
    result = jax.tree.unflatten(made, cutting.run(program, [*given, *jax.tree.leaves(others)]))
    return (result[0], *full.left(result[1:])) if full.gone and len(others) > 1 else result


def _kind(value: Any) -> tuple[tuple[int, ...], Any]:
    return np.shape(value), jax.numpy.result_type(value)


def planned(function: Any, full: Full, types: tuple[Any, ...], others: tuple[Any, ...]) -> Any:
    """Follows the whole program of a function, for these types of its leaves and these images, once.

    Returns:
      It, how it is evaluated without what is gone, the axes of its leaves, and the structure of its results.
    """
    values, structure = jax.tree.flatten(others)
    return _planned(function, full, types, structure, tuple(_kind(value) for value in values))


@lru_cache(maxsize=32)
def _planned(
    function: Any,
    full: Full,
    types: tuple[Any, ...],
    structure: Any,
    kinds: tuple[tuple[tuple[int, ...], Any], ...],
) -> Any:
    others = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*kind) for kind in kinds])
    params, state = full.structs(types)
    names = full.names()
    tied = len(tree.names(params)) if len(others) > 1 else None
    made = jax.tree.structure(jax.eval_shape(function, params, state, *others))
    function = left_out(function, full.gone, names, tied) if full.gone else function
    program = program_of(function, params, state, *others)
    if full.gone:
        _demand_unused(program, names, full.gone)
    walk = Walk({}, recompute=full.recompute)
    leaves = follow(walk, program, names, tied=tied)
    classes = closed(walk.facts)
    alive = living_classes(leaves, classes, full.masks, full.gone)
    shapes = [leaf.axes for leaf in leaves]
    cutting = Cutting(walk, lambda nodes: alive[classes.label[nodes]], _counts_left(walk, classes, alive))
    return program, cutting, shapes, made


def _demand_unused(program: Any, names: Sequence[str], gone: frozenset[str]) -> None:
    """Checks that nothing is computed of leaves that are gone, with branches that are left out."""
    used = {
        atom for equation in needed(program.jaxpr) for atom in equation.invars if not isinstance(atom, core.Literal)
    }
    left = [name for name, one in zip(names, program.jaxpr.invars, strict=False) if name in gone and one in used]
    if left:
        raise ValueError(
            f"network: expected branches that can be left out as when they were removed, but for images of this shape "
            f"{', '.join(left[:3])} is read elsewhere too. Discover and compact it at this shape."
        )


def _counts_left(walk: Walk, classes: Classes, alive: np.ndarray) -> dict[tuple[int, ...], tuple[int, float]]:
    """By the place of every mean that is recomputed its operand that counts, and what that becomes."""
    found = {}
    for place, mean in walk.facts.counts.means.items() if walk.facts.counts else ():
        if any(classes.of(nodes) & classes.recomputed for nodes in mean.of.nodes):
            count = math.prod(int(alive[classes.label[nodes]].sum()) for nodes in mean.of.nodes)
            found[place] = mean.side, count if mean.divides else 1 / count
    return found


def living_classes(
    leaves: Sequence[Leaf],
    classes: Classes,
    masks: Sequence[Sequence[bytes | None]],
    ignored: Container[str] = (),
) -> np.ndarray:
    """Which classes live, if of every axis of every leaf these indices do: bool for every class.

    Leaves that are ignored say nothing.

    Raises:
      ValueError: there is no such choice of classes.
    """
    said = [(leaf, axes) for leaf, axes in zip(leaves, masks, strict=True) if leaf.name not in ignored]
    kept: set[int] = set()
    gone: set[int] = set()
    for leaf, axes in said:
        for nodes, packed in zip(leaf.axes, axes, strict=True):
            lives = unpacked(packed, len(nodes))
            kept |= classes.of(nodes[lives])
            gone |= classes.of(nodes[~lives])
    gone -= kept
    count = int(classes.label.max()) + 1
    alive = np.array([gone.isdisjoint(classes.atoms(label)) for label in range(count)])
    for leaf, axes in said:
        for axis, (nodes, packed) in enumerate(zip(leaf.axes, axes, strict=True)):
            if (alive[classes.label[nodes]] != unpacked(packed, len(nodes))).any():
                raise ValueError(
                    f"network: expected units that go together as they did when they were removed, but for images of "
                    f"this shape axis {axis} of {leaf.name!r} is of others. Discover and compact it at this shape."
                )
    return alive
