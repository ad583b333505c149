"""The same program at smaller sizes, for any network: what was discovered is really removed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from jaxprune import check, tree
from jaxprune.groups import Gates, Group
from jaxprune.network import Network
from jaxprune.structured import gates as gating
from jaxprune.structured.declared import Declared
from jaxprune.structured.discovery.cutting import Cutting
from jaxprune.structured.discovery.finding import Discovered, closed, follow, program_of
from jaxprune.structured.discovery.indices import Classes
from jaxprune.structured.discovery.listing import Leaf
from jaxprune.structured.discovery.walk import Walk
from jaxprune.structured.removal import kept, remove
from jaxprune.types import Apply, TrainApply


def compact(network: Network, groups: Discovered, gates: Gates) -> Network:
    """Removes the units whose gates are False from any network: its own program, with smaller arrays.

    The result computes what ``gated(network, groups, gates)`` does.  Its ``apply`` compares by value and is traced
    anew for every shape of the images, so it can be evaluated at other sizes, compiled, differentiated and discovered
    again.  Divisors and scales of the program stay as they are; random numbers (dropout) are drawn at the full size.
    A function with a derivative rule of its own keeps it: the rule is asked at the full size, and what it says is cut.

    Args:
      network: that the groups were discovered in.
      groups: what ``jp.structured.discover(network, images)`` returned.
      gates: bool [size] for each group; groups that are not named live.

    Returns:
      The smaller network, its leaves of NumPy.

    Raises:
      ValueError: groups that were not discovered, or in another network, or with descriptions of primitives; gates that
        do not fit; fewer units than a floor.  When it is evaluated: at this size of the images the units do not go
        together as they did; a function with a derivative rule of its own sums over units that are gone.

    >>> from jaxprune.structured.discovery import discover
    >>> params = {"in": np.ones((3, 4)), "out": np.ones((4, 2))}
    >>> net = Network(lambda p, s, x: jax.nn.relu(x @ p["in"]) @ p["out"], params)
    >>> found = discover(net, np.ones((1, 3)))
    >>> small = compact(net, found, {"in": np.array([True, False, False, True])})
    >>> small.params["in"].shape, float(small(np.ones((1, 3)))[0, 0])
    ((3, 2), 6.0)
    """
    check.network(network)
    shape, params, state = remove(Traced.of(network, groups), network.params, network.state, gates)
    return shape.network(params, state)


@dataclass(frozen=True)
class Full:
    """The leaves of the network that was made smaller, and what is left of them.

    Attributes:
      structure: of (params, state).
      shapes: of every leaf.
      masks: for every axis of every leaf which indices live, in bytes; None where all do.
    """

    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    masks: tuple[tuple[bytes | None, ...], ...]

    @staticmethod
    def of(network: Network) -> "Full":
        """Those of a whole network."""
        leaves, structure = jax.tree.flatten((network.params, network.state))
        shapes = tuple(tuple(np.shape(leaf)) for leaf in leaves)
        return Full(structure, shapes, tuple((None,) * len(shape) for shape in shapes))

    def structs(self, types: Sequence[Any] | None = None) -> Any:
        """(params, state) of the whole network, as shapes, of these types."""
        types = ["float32"] * len(self.shapes) if types is None else types
        leaves = [jax.ShapeDtypeStruct(shape, kind) for shape, kind in zip(self.shapes, types, strict=True)]
        return jax.tree.unflatten(self.structure, leaves)

    def check(self, leaves: Any) -> None:
        """Checks that (params, state) are those of the smaller network.

        Raises:
          ValueError: they have another structure, or other shapes.
        """
        found, structure = jax.tree.flatten(leaves)
        kept = [
            tuple(int(_unpacked(one, length).sum()) for one, length in zip(masks, shape, strict=True))
            for masks, shape in zip(self.masks, self.shapes, strict=True)
        ]
        if structure != self.structure or [tuple(np.shape(leaf)) for leaf in found] != kept:
            got = [tuple(np.shape(leaf)) for leaf in found]
            differ = [f"{mine} for {want}" for mine, want in zip(got, kept, strict=False) if mine != want]
            raise ValueError(
                "network: expected the parameters and the state that were left when units were removed, but got "
                f"{', '.join(differ[:3]) or 'another structure'}. jp.structured.compact returns them with the network."
            )

    def without(self, groups: Sequence[Group], gates: Gates) -> "Full":
        """What is left when units go, of groups of the network as it is now."""
        params, state = self.structs()
        names, masks = [*tree.names(params), *tree.names(state)], []
        for name, shape, packed in zip(names, self.shapes, self.masks, strict=True):
            lives = [_unpacked(one, length) for one, length in zip(packed, shape, strict=True)]
            now = [np.flatnonzero(one) for one in lives]
            left = kept(name, [len(one) for one in now], groups, gates)
            places = [one[stays] for one, stays in zip(now, left, strict=True)]
            masks.append(tuple(_packed(np.isin(np.arange(size), one)) for size, one in zip(shape, places, strict=True)))
        return replace(self, masks=tuple(masks))


@dataclass(frozen=True)
class Traced:
    """The specification of any network: its program says how units are removed, whatever widths its function has.

    What ``Declared`` is to functions that read every width off their parameters, this is to all others; residual
    branches cannot be left out of it.

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
    def of(network: Network, groups: Discovered) -> "Traced":
        """Makes the specification of a network and the groups that were discovered in it.

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
        full = Full.of(network)
        if full.shapes != groups.shapes:
            raise ValueError(
                "groups: expected those of this network, but they were discovered in one with leaves of other shapes. "
                "Discover them anew."
            )
        return Traced(network.apply, network.train_apply, full, groups.groups)

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
        if not any(mask for masks in self.full.masks for mask in masks):
            return Network(self.apply, params, state, self.train_apply)
        train = None if self.train_apply is None else _CompactedTraining(self.train_apply, self.full)
        return Network(_Compacted(self.apply, self.full), params, state, train)

    def describe(self) -> dict[str, Any]:
        """Writes groups and masks as values that JSON has; the program is not among them."""
        masks = [[None if one is None else one.hex() for one in leaf] for leaf in self.full.masks]
        shapes = [list(shape) for shape in self.full.shapes]
        groups = Declared(self.apply, self.declared).describe()["groups"]
        return {"family": "traced", "groups": groups, "shapes": shapes, "masks": masks}

    @staticmethod
    def described(values: Mapping[str, Any], network: Network) -> "Traced":
        """Reads what ``describe`` wrote, for the whole network, whose leaves may be ``jax.ShapeDtypeStruct``.

        Raises:
          ValueError: it was of a network with other leaves.
        """
        full = Full.of(network)
        if [list(shape) for shape in full.shapes] != [list(shape) for shape in values["shapes"]]:
            raise ValueError(
                "network: expected the whole network that was made smaller, but its leaves have other shapes. Pass it "
                "as it was before units were removed."
            )
        masks = tuple(tuple(None if one is None else bytes.fromhex(one) for one in leaf) for leaf in values["masks"])
        groups = Declared.described(values, network.apply).groups()
        return Traced(network.apply, network.train_apply, replace(full, masks=masks), groups)


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
    values, structure = jax.tree.flatten(others)
    given = jax.tree.leaves(leaves)
    # The program of the types that are given: another would round otherwise.
    types = tuple(jax.numpy.result_type(leaf) for leaf in given)
    program, cutting, made = _planned(function, full, types, structure, tuple(_kind(value) for value in values))
    return jax.tree.unflatten(made, cutting.run(program, [*given, *values]))


def _kind(value: Any) -> tuple[tuple[int, ...], Any]:
    return np.shape(value), jax.numpy.result_type(value)


@lru_cache(maxsize=32)
def _planned(
    function: Any,
    full: Full,
    types: tuple[Any, ...],
    structure: Any,
    kinds: tuple[tuple[tuple[int, ...], Any], ...],
) -> Any:
    """Follows the whole program for some shape of the images, once."""
    others = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*kind) for kind in kinds])
    params, state = full.structs(types)
    program = program_of(function, params, state, *others)
    walk = Walk({})
    names = [*tree.names(params), *tree.names(state)]
    tied = len(tree.names(params)) if len(others) > 1 else None
    leaves = follow(walk, program, names, tied=tied)
    classes = closed(walk.facts)
    alive = living_classes(leaves, classes, full.masks)
    made = jax.tree.structure(jax.eval_shape(function, params, state, *others))
    return program, Cutting(walk, lambda nodes: alive[classes.label[nodes]]), made


def living_classes(leaves: Sequence[Leaf], classes: Classes, masks: Sequence[Sequence[bytes | None]]) -> np.ndarray:
    """Which classes live, if of every axis of every leaf these indices do: bool for every class.

    Raises:
      ValueError: there is no such choice of classes.
    """
    kept: set[int] = set()
    gone: set[int] = set()
    for leaf, axes in zip(leaves, masks, strict=True):
        for nodes, packed in zip(leaf.axes, axes, strict=True):
            lives = _unpacked(packed, len(nodes))
            kept |= classes.of(nodes[lives])
            gone |= classes.of(nodes[~lives])
    gone -= kept
    count = int(classes.label.max()) + 1
    alive = np.array([gone.isdisjoint(classes.atoms(label)) for label in range(count)])
    for leaf, axes in zip(leaves, masks, strict=True):
        for axis, (nodes, packed) in enumerate(zip(leaf.axes, axes, strict=True)):
            if (alive[classes.label[nodes]] != _unpacked(packed, len(nodes))).any():
                raise ValueError(
                    f"network: expected units that go together as they did when they were removed, but for images of "
                    f"this shape axis {axis} of {leaf.name!r} is of others. Discover and compact it at this shape."
                )
    return alive


def _packed(mask: np.ndarray) -> bytes | None:
    return None if mask.all() else np.packbits(mask).tobytes()


def _unpacked(packed: bytes | None, length: int) -> np.ndarray:
    if packed is None:
        return np.ones(length, bool)
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=length).astype(bool)
