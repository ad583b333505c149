"""The same program at smaller sizes, for any network: what was discovered is really removed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from jaxprune import check, tree
from jaxprune.groups import Gates
from jaxprune.network import Network
from jaxprune.structured import gates as gating
from jaxprune.structured.discovery.cutting import Cutting
from jaxprune.structured.discovery.finding import Discovered, closed, follow, program_of
from jaxprune.structured.discovery.indices import Classes
from jaxprune.structured.discovery.listing import Leaf
from jaxprune.structured.discovery.walk import Walk
from jaxprune.structured.removal import check_floors


def compact(network: Network, groups: Discovered, gates: Gates) -> Network:
    """Removes the units whose gates are False from any network: its own program, with smaller arrays.

    The result computes what ``gated(network, groups, gates)`` does.  Its ``apply`` compares by value and is traced anew
    for every shape of the images, so it can be evaluated at other sizes, compiled, differentiated and discovered again.
    Divisors and scales of the program stay as they are; random numbers (dropout) are drawn at the full size.

    Args:
      network: that the groups were discovered in.
      groups: what ``jp.structured.discover(network, images)`` returned.
      gates: bool [size] for each group; groups that are not named live.

    Returns:
      The smaller network, its leaves of NumPy.

    Raises:
      ValueError: groups that were not discovered, or in another network; gates that do not fit; fewer units than a
        floor.  When it is evaluated: at this size of the images the units do not go together as they did.

    >>> from jaxprune.structured.discovery import discover
    >>> net = Network(lambda p, s, x: jax.nn.relu(x @ p["in"]) @ p["out"], {"in": np.ones((3, 4)), "out": np.ones((4, 2))})
    >>> small = compact(net, discover(net, np.ones((1, 3))), {"in": np.array([True, False, False, True])})
    >>> small.params["in"].shape, float(small(np.ones((1, 3)))[0, 0])
    ((3, 2), 6.0)
    """
    check.network(network)
    if not isinstance(groups, Discovered):
        raise ValueError(
            f"groups: expected what jp.structured.discover returned, but got a {type(groups).__name__}. For groups that "
            "were declared there is jp.structured.remove."
        )
    checked = gating.check(groups, gates)
    check_floors(groups, checked)
    leaves, structure = jax.tree.flatten((network.params, network.state))
    shapes = tuple(np.shape(leaf) for leaf in leaves)
    if shapes != groups.shapes:
        raise ValueError(
            "groups: expected those of this network, but they were discovered in one with leaves of other shapes. "
            "Discover them anew."
        )
    masks = groups.living(checked)
    types = tuple(np.dtype(leaf.dtype).name if hasattr(leaf, "dtype") else "float32" for leaf in leaves)
    full = Full(structure, shapes, types, tuple(tuple(_packed(mask) for mask in one) for one in masks))
    params, state = jax.tree.unflatten(structure, [_cut(leaf, one) for leaf, one in zip(leaves, masks, strict=True)])
    train = None if network.train_apply is None else _CompactedTraining(network.train_apply, full)
    return Network(_Compacted(network.apply, full), params, state, train)


@dataclass(frozen=True)
class Full:
    """The leaves of the network that was made smaller, and what is left of them.

    Attributes:
      structure: of (params, state).
      shapes: of every leaf.
      types: of every leaf.
      masks: for every axis of every leaf which indices live, in bytes; None where all do.
    """

    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    types: tuple[str, ...]
    masks: tuple[tuple[bytes | None, ...], ...]

    def structs(self) -> Any:
        """(params, state) of the whole network, as shapes."""
        leaves = [jax.ShapeDtypeStruct(shape, kind) for shape, kind in zip(self.shapes, self.types, strict=True)]
        return jax.tree.unflatten(self.structure, leaves)


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
    values, structure = jax.tree.flatten(others)
    kinds = tuple(_kind(value) for value in values)
    program, cutting, made = _planned(function, full, structure, kinds)
    return jax.tree.unflatten(made, cutting.run(program, [*jax.tree.leaves(leaves), *values]))


def _kind(value: Any) -> tuple[tuple[int, ...], Any]:
    return np.shape(value), jax.numpy.result_type(value)


@lru_cache(maxsize=32)
def _planned(function: Any, full: Full, structure: Any, kinds: tuple[tuple[tuple[int, ...], Any], ...]) -> Any:
    """Follows the whole program for some shape of the images, once."""
    others = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*kind) for kind in kinds])
    params, state = full.structs()
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


def _cut(leaf: Any, masks: Sequence[np.ndarray]) -> Any:
    if all(mask.all() for mask in masks):
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(tuple(int(mask.sum()) for mask in masks), leaf.dtype)
    return np.asarray(leaf)[np.ix_(*(np.flatnonzero(mask) for mask in masks))]
