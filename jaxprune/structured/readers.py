"""Gates in the leaves that read units: zeros there, where no value of the program can be changed."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import tree
from jaxprune.groups import Group, Member


class Reader(NamedTuple):
    """A part of a leaf by which a group is gated where it is read.

    Attributes:
      group: the name of the group.
      size: how many units.
      member: the part.
    """

    group: str
    size: int
    member: Member


def of(groups: Sequence[Group]) -> tuple[Reader, ...]:
    """Lists the parts of leaves that read units of groups ``by_readers``."""
    return tuple(
        Reader(group.name, group.size, member)
        for group in groups
        if group.by_readers
        for member in group.members
        if member.reads
    )


def without(
    trees: tuple[Any, Any],
    readers: Sequence[Reader],
    gates: Mapping[str, Any],
    factors: Mapping[str, Any] | None = None,
) -> tuple[Any, Any]:
    """Replaces by zero what leaves read of units that are off; what they read of others is multiplied by factors."""
    by_leaf: dict[str, list[Reader]] = {}
    for reader in readers:
        by_leaf.setdefault(reader.member.leaf, []).append(reader)

    def change(name: str, leaf: Any) -> Any:
        for reader in by_leaf.get(name, ()):
            if reader.member.axis is None:
                leaf = jnp.where(gates[reader.group][0], leaf, jnp.zeros((), leaf.dtype))
                leaf = leaf if factors is None else leaf * factors[reader.group][0]
                continue
            axis = reader.member.axis % jnp.ndim(leaf)
            units = reader.member.unit_of(reader.size, jnp.shape(leaf)[axis])
            shape = [-1 if place == axis else 1 for place in range(jnp.ndim(leaf))]

            def spread(values: Any, units: Any = units, shape: Any = shape) -> Any:
                return jnp.reshape(jnp.append(values, jnp.ones((), values.dtype))[units], shape)

            leaf = jnp.where(spread(gates[reader.group]), leaf, jnp.zeros((), leaf.dtype))
            if factors is not None:
                leaf = leaf * spread(factors[reader.group])
        return leaf

    if not by_leaf:
        return trees
    known = {name: np.shape(leaf) for one in trees for name, leaf in tree.by_name(one).items()}
    for reader in readers:
        member, shape = reader.member, known.get(reader.member.leaf)
        axis = member.axis or 0
        if shape is None or (member.axis is not None and member.places(reader.size).max() >= shape[axis]):
            raise ValueError(
                f"groups: {reader.group!r} is gated by what {member.leaf!r} reads, but the network has "
                f"{'no leaf of that name' if shape is None else f'one of shape {shape} there, too short for its units'}"
                ". Gate the network that the groups were discovered in, before a head or a normalisation was put on it."
            )
    return tree.map_named(change, trees[0]), tree.map_named(change, trees[1])


def restored(inner: Any, state: Any, readers: Sequence[Reader]) -> Any:
    """Puts back what gates hid of the state, so that a step returns it as it was."""
    if not {reader.member.leaf for reader in readers} & set(tree.names(inner)):
        return inner
    whole = without((jax.tree.map(jnp.ones_like, inner), {}), readers, state["gates"])[0]
    return jax.tree.map(lambda alive, new, old: jnp.where(alive != 0, new, old), whole, inner, state["network"])
