"""Factors of units, folded into the kernels that read them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxprune import check, tree
from jaxprune.groups import Group
from jaxprune.network import Network
from jaxprune.structured.equality import GAIN, difference, evaluated, rounding, told, widened
from jaxprune.structured.gates import check_gating, factored
from jaxprune.structured.probes import randomised
from jaxprune.structured.removal import check_members

Factors = Mapping[str, Any]
"""``{group: float [size]}``: what every unit is multiplied by at its site."""


def fold(network: Network, groups: Sequence[Group], factors: Factors) -> Network:
    """Multiplies the kernels that read units by factors: the network computes what it does with scaled units.

    ``W a`` with ``a <- v a`` is ``(W diag(v)) a``, so it costs nothing when it runs.  A unit of factor 0 is not read
    any more.  That the kernels read units linearly ``check_folding`` tests on numbers; here nothing is evaluated.

    Args:
      network: whose kernels are changed.
      groups: which members read units, and along which axis.
      factors: [size] for groups by name; units of others keep theirs.

    Returns:
      The network with other parameters, of the same shapes and types.

    Raises:
      ValueError: a group that is not known, a layer, or one whose units no kernel reads; factors of another shape;
        members that do not exist or do not fit.

    >>> from jaxprune.groups import Member
    >>> net = Network(lambda p, s, x: (x @ p["in"]) @ p["out"], {"in": jnp.ones((3, 2)), "out": jnp.ones((2, 1))})
    >>> units = Group("units", 2, (Member("in", 1), Member("out", 0, reads=True)), ("units",))
    >>> fold(net, [units], {"units": np.array([0.0, 2.0])}).params["out"][:, 0]
    Array([0., 2.], dtype=float32)
    """
    check_members(groups, network.params, network.state)
    check_gating(groups)
    known, leaves = {group.name: group for group in groups}, tree.by_name(network.params)
    for name, values in factors.items():
        check.choice("factors", name, known)
        group = known[name]
        if np.shape(values) != (group.size,) or not np.all(np.isfinite(np.asarray(values, np.float64))):
            raise ValueError(
                f"factors: expected {group.size} finite numbers for {name!r}, but got {np.asarray(values)!r:.200}. "
                "jp.structured.readjusted makes factors that fit."
            )
        readers = _readers(group, leaves)
        if not readers:
            raise ValueError(_refused([name], "no kernel reads their units"))
        for member in readers:
            leaf = leaves[member.leaf]
            shape = [1] * np.ndim(leaf)
            shape[member.axis or 0] = -1
            units = member.unit_of(group.size, np.shape(leaf)[member.axis or 0])
            scale = np.append(np.asarray(values, np.float64), 1.0)[units].reshape(shape)
            leaves[member.leaf] = jnp.asarray(np.asarray(leaf).astype(np.float64) * scale, jnp.result_type(leaf))
    return network.replace(params=tree.map_named(lambda name, _: leaves[name], network.params))


def check_folding(
    network: Network, groups: Sequence[Group], images: Any, *, switched: bool = False, seed: int = 0
) -> None:
    """Checks on numbers that factors of the units can be folded into the kernels that read them.

    Units are multiplied at their sites by random factors of either sign, and the outputs must be those of the folded
    network, with the given weights and with random ones, up to half of the digits of the coarsest type: see
    ``equality.check_removal``.  A normalisation over the units undoes a common factor, an activation behind the site
    takes no sign, and what else reads the units is not scaled: all three show in the first digits.

    Args:
      network: what is folded.
      groups: no layers.
      images: [b, ...]; a few forward passes of them are what it costs.
      switched: whether factors are 0 or 1 alone; then an activation that leaves zero as it is may follow.
      seed: of factors and weights.

    Raises:
      ValueError: gates that cannot be folded; the message names the groups.
    """
    check_members(groups, network.params, network.state)
    leaves = tree.by_name(network.params)
    if unread := [group.name for group in groups if not _readers(group, leaves)]:
        raise ValueError(_refused(unread, "no kernel reads their units"))
    draws, images = widened([randomised(network, (seed, 0), GAIN), network], images)
    allowed = rounding(factored(draws[0], groups, {}), images)
    rng = np.random.default_rng(seed)
    factors = {group.name: _drawn(group.size, rng, switched=switched) for group in groups}
    found = [_apart(draw, groups, factors, images) for draw in draws]
    if max(found, key=_order) <= allowed:
        return
    if all(map(math.isnan, found)):
        raise ValueError(
            "network: its outputs are not finite, with the given weights and with random ones, so that nothing can be "
            "compared. Pass images that it was made for."
        )
    alone = {
        group.name: max((_apart(draw, groups, {group.name: factors[group.name]}, images) for draw in draws), key=_order)
        for group in groups
    }
    wrong = {name: apart for name, apart in alone.items() if apart > allowed} or alone
    raise ValueError(_refused(list(wrong), f"folded, the outputs {told(max(wrong.values(), key=_order))}"))


def _drawn(size: int, rng: np.random.Generator, *, switched: bool) -> np.ndarray:
    """Random factors: half of them below zero, or zero, at least one."""
    low = rng.permutation(size) < (size + 1) // 2
    return np.where(low, 0.0, 1.0) if switched else np.where(low, -1, 1) * rng.uniform(0.5, 1.5, size)


def _apart(network: Network, groups: Sequence[Group], factors: Factors, images: Any) -> float:
    """How far the outputs with scaled units are from those with folded factors."""
    scaled = factored(network, groups, {})
    given = {name: jnp.asarray(factors.get(name, leaf), leaf.dtype) for name, leaf in scaled.params.items()}
    want = evaluated(scaled.replace(params=given), images)
    return difference(evaluated(fold(network, groups, factors), images), want)


def _readers(group: Group, leaves: Mapping[str, Any]) -> list[Any]:
    if group.is_layer:
        return []
    return [one for one in group.members if one.reads and one.leaf in leaves and np.ndim(leaves[one.leaf]) > 1]


def _refused(names: Sequence[str], why: str) -> str:
    listed = ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")
    return (
        f"groups: expected units that kernels read linearly, but got gates that cannot be folded (normalised over "
        f"units, or read by more than these kernels), those of {listed}: {why}. Move the site behind the "
        "normalisation or the activation, mark every kernel that reads the units with reads=True, leave the groups "
        "out, or keep the gates as they are with readjust=False."
    )


def _order(apart: float) -> float:
    return -1.0 if math.isnan(apart) else apart
