"""What a network costs under any gates, from counts made once: no tracing, no compilation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxprune import cost, tree
from jaxprune.groups import Group, Specification, check_specification, inside
from jaxprune.structured import gates as gating
from jaxprune.structured.probes import float_type
from jaxprune.structured.removal import check_members, cut, owners, smaller, structs


@dataclass(frozen=True)
class _Leaf:
    """A leaf of the parameters: its shape, what one of its weights costs, and who shrinks it."""

    shape: tuple[int, ...]
    macs_per_weight: int
    is_filter_bank: bool
    axes: tuple[tuple[int, str, int, Any], ...]  # (axis, group, each, the unit of every index where others overlap)
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Account:
    """Multiply-accumulates, parameters and filters of a network under gates.

    A weight of a kernel takes part in the same number of multiply-accumulates as long as it lives, so those of a leaf
    shrink with the product of its axes.  Products between activations (attention) take the same for every head.

    Attributes:
      groups: what can be removed.
    """

    groups: tuple[Group, ...]
    _leaves: tuple[_Leaf, ...]
    _rest: int
    _rest_of_unit: Mapping[str, int]
    _rest_of_layer: Mapping[str, int]
    _inside: Mapping[str, tuple[str, ...]]

    def macs(self, gates: Mapping[str, Any]) -> int:
        """Counts the multiply-accumulates of one image."""
        return sum(leaf.macs_per_weight * self._size(leaf, gates) for leaf in self._leaves) + self._activations(gates)

    def parameters(self, gates: Mapping[str, Any]) -> int:
        """Counts the parameters."""
        return sum(self._size(leaf, gates) for leaf in self._leaves)

    def filters(self, gates: Mapping[str, Any]) -> int:
        """Counts the output channels of all convolutions."""
        return sum(self._lengths(leaf, gates)[-1] for leaf in self._leaves if leaf.is_filter_bank)

    def _size(self, leaf: _Leaf, gates: Mapping[str, Any]) -> int:
        return math.prod(self._lengths(leaf, gates)) if self._lives(leaf, gates) else 0

    def _lives(self, leaf: _Leaf, gates: Mapping[str, Any]) -> bool:
        return all(bool(gates[layer][0]) for layer in leaf.layers)

    def _lengths(self, leaf: _Leaf, gates: Mapping[str, Any]) -> list[int]:
        lengths = list(leaf.shape) if self._lives(leaf, gates) else [0] * len(leaf.shape)
        overlapping: dict[int, Any] = {}
        for axis, group, each, units in leaf.axes if self._lives(leaf, gates) else ():
            if units is None:
                lengths[axis] -= each * int(np.sum(~gates[group]))
            else:
                alive = np.append(gates[group], True)[units]
                overlapping[axis] = alive & overlapping.get(axis, True)
        return [int(np.sum(overlapping[axis])) if axis in overlapping else at for axis, at in enumerate(lengths)]

    def _activations(self, gates: Mapping[str, Any]) -> int:
        gone = {name for name in self._rest_of_layer if not gates[name][0]}
        inside = {name for layer in gone for name in self._inside[layer]}
        total = self._rest - sum(self._rest_of_layer[layer] for layer in gone)
        return total - sum(
            int(np.sum(~gates[name])) * each for name, each in self._rest_of_unit.items() if name not in inside
        )


def account(specification: Specification, params: Any, state: Any, image_shape: Sequence[int]) -> Account:
    """Counts what every part of a network costs.

    Args:
      specification: the shape of the network.
      params: its parameters, or their shapes.
      state: its state, or its shapes.
      image_shape: (h, w, c).

    Raises:
      ValueError: members that do not exist or do not fit; a network that cannot be evaluated when units are removed,
        or whose operations do not shrink with them.
    """
    check_specification(specification)
    groups = specification.groups()
    check_members(groups, params, state)
    params, state = structs(params), structs(state)
    network = specification.network(params, state)
    by_leaf, rest = cost.macs_by_leaf(network, image_shape)
    of_unit, of_layer = ({}, {}) if rest == 0 else _rests(specification, params, state, image_shape, rest)
    leaves = tuple(_leaf(name, leaf, by_leaf, groups) for name, leaf in tree.by_name(params).items())
    book = Account(groups, leaves, rest, of_unit, of_layer, inside(groups))
    if rest:
        _check_rest(book, specification, params, state, image_shape)
    return book


def _check_rest(
    book: Account, specification: Specification, params: Any, state: Any, image_shape: Sequence[int]
) -> None:
    """Checks one network against its program: products that no leaf owns may be something else than attention."""
    half = {
        group.name: np.arange(group.size) < (group.size if group.is_layer else max(group.floor, group.size // 2))
        for group in book.groups
    }
    by_leaf, other = _left(specification, params, state, image_shape, half)
    counted, stated = sum(by_leaf.values()) + other, book.macs(half)
    if counted != stated:
        raise ValueError(
            "specification: expected products that shrink with the units, leaf by leaf, but with half of all units "
            f"the program has {counted:,} multiply-accumulates and not {stated:,}. Kernels that are used twice, or "
            "inside a loop, cannot be accounted for: write them out."
        )


def _rests(
    specification: Specification, params: Any, state: Any, image_shape: Sequence[int], rest: int
) -> tuple[dict[str, int], dict[str, int]]:
    """What one unit of each group, and each layer, takes of the products between activations."""
    of_unit, of_layer = {}, {}
    for group in specification.groups():
        if group.size == 1 and not group.is_layer:
            continue  # it goes with its layer only
        gates = gating.ones([group])
        gates[group.name][0] = False
        _, left = _left(specification, params, state, image_shape, gates)
        (of_layer if group.is_layer else of_unit)[group.name] = rest - left
    return of_unit, of_layer


def _left(
    specification: Specification, params: Any, state: Any, image_shape: Sequence[int], gates: Mapping[str, Any]
) -> tuple[dict[str, int], int]:
    """What ``cost.macs_by_leaf`` says of the network that gates leave."""
    left, *arrays = cut(specification, params, state, gates)
    try:
        return cost.macs_by_leaf(left.network(*arrays), image_shape)
    except Exception:
        # Where the network is the reason this says so; asked first, it would be traced twice.
        smaller(specification, params, state, gates, jax.ShapeDtypeStruct((1, *image_shape), float_type(params)))
        raise


def _leaf(name: str, leaf: Any, by_leaf: Mapping[str, int], groups: Sequence[Group]) -> _Leaf:
    size, macs = math.prod(leaf.shape), by_leaf.get(name, 0)
    mine = [(group, one) for group in groups for one in group.members if one.leaf == name and one.axis is not None]
    owned = [np.zeros(length, int) for length in leaf.shape]
    for group, member in mine:
        owned[member.axis or 0][member.places(group.size)] += 1
    axes = tuple(
        (
            (member.axis or 0) % len(leaf.shape),
            group.name,
            member.places(group.size).shape[1],
            member.unit_of(group.size, leaf.shape[member.axis or 0]) if owned[member.axis or 0].max() > 1 else None,
        )
        for group, member in mine
    )
    layers = tuple(layer.name for layer in owners(name, groups))
    return _Leaf(leaf.shape, macs // size if size else 0, macs > 0 and len(leaf.shape) == 4, axes, layers)
