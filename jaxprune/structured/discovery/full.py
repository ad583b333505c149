"""The leaves of a whole network, and which of their indices are left in the smaller one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from jaxprune import tree
from jaxprune.groups import Gates, Group
from jaxprune.network import Network
from jaxprune.structured.removal import dropped, kept


@dataclass(frozen=True)
class Full:
    """The leaves of the network that was made smaller, and what is left of them.

    Attributes:
      structure: of (params, state).
      shapes: of every leaf.
      masks: for every axis of every leaf which indices live, in bytes; None where all do.
      gone: the names of leaves of which nothing is left, those of branches that are left out.
      recompute: whether statistics over units are recomputed over those that are left.
    """

    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    masks: tuple[tuple[bytes | None, ...], ...]
    gone: frozenset[str] = frozenset()
    recompute: bool = False

    @staticmethod
    def of(network: Network, *, recompute: bool = False) -> "Full":
        """Those of a whole network."""
        leaves, structure = jax.tree.flatten((network.params, network.state))
        shapes = tuple(tuple(np.shape(leaf)) for leaf in leaves)
        return Full(structure, shapes, tuple((None,) * len(shape) for shape in shapes), recompute=recompute)

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
            tuple(int(unpacked(one, length).sum()) for one, length in zip(masks, shape, strict=True))
            for name, masks, shape in zip(self.names(), self.masks, self.shapes, strict=True)
            if name not in self.gone
        ]
        want = self.structure if not self.gone else jax.tree.structure(self.left(self.structs()))
        if structure != want or [tuple(np.shape(leaf)) for leaf in found] != kept:
            got = [tuple(np.shape(leaf)) for leaf in found]
            differ = [f"{mine} for {want}" for mine, want in zip(got, kept, strict=False) if mine != want]
            raise ValueError(
                "network: expected the parameters and the state that were left when units were removed, but got "
                f"{', '.join(differ[:3]) or 'another structure'}. jp.structured.compact returns them with the network."
            )

    def names(self) -> list[str]:
        """The names of all leaves."""
        params, state = self.structs()
        return [*tree.names(params), *tree.names(state)]

    def left(self, leaves: tuple[Any, ...]) -> tuple[Any, ...]:
        """Trees like (params, state), or one of them, without the leaves that are gone."""
        return tuple(dropped(part, self.gone) for part in leaves)

    def without(self, groups: Sequence[Group], gates: Gates) -> "Full":
        """What is left when units go, of groups of the network as it is now."""
        layers = [group for group in groups if group.is_layer and not np.all(gates[group.name])]
        gone = self.gone | {member.leaf for layer in layers for member in layer.members}
        masks = []
        for name, shape, axes in zip(self.names(), self.shapes, self.masks, strict=True):
            if name in gone:
                masks.append(axes)
                continue
            lives = [unpacked(one, length) for one, length in zip(axes, shape, strict=True)]
            now = [np.flatnonzero(one) for one in lives]
            left = kept(name, [len(one) for one in now], groups, gates)
            places = [one[stays] for one, stays in zip(now, left, strict=True)]
            masks.append(tuple(packed(np.isin(np.arange(size), one)) for size, one in zip(shape, places, strict=True)))
        return replace(self, masks=tuple(masks), gone=gone)


def packed(mask: np.ndarray) -> bytes | None:
    """Writes which indices live in bytes; None where all do."""
    return None if mask.all() else np.packbits(mask).tobytes()


def unpacked(mask: bytes | None, length: int) -> np.ndarray:
    """Reads what ``packed`` wrote."""
    if mask is None:
        return np.ones(length, bool)
    return np.unpackbits(np.frombuffer(mask, np.uint8), count=length).astype(bool)
