"""Criteria of one look: what the weights say of every unit and layer, what one forward pass says, and chance.

A criterion rates units as a score rates weights: ``(network, groups, gates, batches) -> {group: [size]}``, larger =
keep.  It is a function; yours may be five lines:

    def largest_weight(network, groups, gates, batches):
        leaves = jp.tree.by_name(network.params)
        def of(group, m, leaf):
            return [np.abs(leaf).max()] if group.is_layer else np.abs(unit_slices(leaf, m, group.size)).max(1)
        return {g.name: np.max([of(g, m, leaves[n]) for m in g.members for n in leaves if below(n, m.leaf)], 0)
                for g in groups}

(``below`` of ``jaxprune.groups`` says whether a leaf lies in a layer; members may also be leaves of the state.)

The network comes ungated, as it is; units whose gates are False are gone, and what they are rated does not matter.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import check, losses, processes, tree
from jaxprune.groups import Gates, Group, Member, below
from jaxprune.network import Network
from jaxprune.sites import read
from jaxprune.structured.discovery.placing import magnitudes
from jaxprune.structured.gates import check as check_gates
from jaxprune.structured.gates import check_gating, gated
from jaxprune.structured.removal import kept
from jaxprune.types import Batch

Ratings = dict[str, np.ndarray]
"""``{group: [size]}``: one number for every unit, larger = keep."""


@runtime_checkable
class Criterion(Protocol):
    """Rates every unit of every group: ``(network, groups, gates, batches) -> ratings``."""

    def __call__(
        self, network: Network, groups: Sequence[Group], gates: Gates, batches: Iterable[Batch], /
    ) -> Ratings: ...


def l1() -> Criterion:
    """Rates a unit by the absolute sum of the kernel that makes it; a layer by the mean of its units'.

    A layer with several kernels has the sum of their means, as in the code of arXiv 2506.04513.  Only what lives
    counts: the rating is that of the smaller network.
    """
    return partial(_norms, order=1)


def l2() -> Criterion:
    """Rates a unit by the Euclidean norm of the kernel that makes it; a layer by the sum of its kernels' mean norms."""
    return partial(_norms, order=2)


def batchnorm_scale() -> Criterion:
    """Rates a unit by the absolute scale of its BatchNorm, a layer by the mean absolute scale of the one that ends it.

    That is the scale of a layer which belongs to no group of units (Liu et al. 2017, arXiv 1708.06519, for units).

    Raises:
      ValueError: a group without BatchNorm.
    """
    return _batchnorm_scale


def activation() -> Criterion:
    """Rates a unit, or a layer, by the mean absolute value at its gate, over positions and weighted examples.

    Of units that were discovered without a tag: at the values that the program sums over them, outside of loops.

    One forward pass.  Dead units pass zero.
    """
    return _activation


def random(key: jax.Array) -> Criterion:
    """Rates by chance, uniform in [0, 1): the control.  The same key gives the same ratings."""
    return partial(_random, key)


def unit_slices(leaf: Any, member: Member, size: int) -> np.ndarray:
    """Returns what every unit owns of a leaf: [size, n].

    >>> unit_slices(np.arange(6).reshape(1, 6), Member("kernel", 1, each=3), 2)
    array([[0, 1, 2],
           [3, 4, 5]])
    """
    moved = np.moveaxis(np.asarray(leaf), member.axis or 0, 0)
    return moved[member.places(size)].reshape(size, -1)


def listed(batches: Iterable[Batch], keys: Iterable[str] = ("image",)) -> list[Batch]:
    """Checks batches and lists them, to be read several times.

    Raises:
      ValueError: a batch whose parts do not fit, or NaN; no example has a weight above 0.
    """
    found = list(check.batches(batches))
    for batch in found:
        check.batch(batch, keys=keys)
        check.finite_batch(batch)
    if not any(np.any(processes.read(losses.weights(batch)) > 0) for batch in found):
        raise ValueError("batches: expected at least one example of weight above 0, but got none.")
    return found


def _norms(network: Network, groups: Sequence[Group], gates: Gates, batches: Iterable[Batch], *, order: int) -> Ratings:
    del batches
    check.network(network)
    leaves = tree.by_name(network.params)
    living = {name: _living(name, leaf, groups, gates) for name, leaf in leaves.items()}

    def norm(values: np.ndarray) -> np.ndarray:
        return np.linalg.norm(values, order, axis=-1)

    def of_units(group: Group) -> np.ndarray:
        made = [m for m in group.members if not m.reads and m.leaf in leaves and np.ndim(leaves[m.leaf]) > 1]
        _demand(made, group, "a kernel that makes its units", "l1 and l2 rate kernels; mark members that read.")
        return np.sum([norm(unit_slices(living[m.leaf], m, group.size)) for m in made], axis=0)

    def of_layer(group: Group) -> np.ndarray:
        names = [name for name in leaves if _owned(name, group) and np.ndim(leaves[name]) > 1]
        _demand(names, group, "a kernel in the layer", "l1 and l2 rate kernels.")
        per_unit = [norm(np.moveaxis(living[name], -1, 0).reshape(living[name].shape[-1], -1)) for name in names]
        alive = [max(1, len(kept(name, np.shape(leaves[name]), groups, gates)[-1])) for name in names]
        return np.array([sum(values.sum() / count for values, count in zip(per_unit, alive, strict=True))])

    return {group.name: of_layer(group) if group.is_layer else of_units(group) for group in groups}


def _living(name: str, leaf: Any, groups: Sequence[Group], gates: Gates) -> np.ndarray:
    """The leaf with zeros where a unit that is gone makes or reads."""
    values = np.zeros(np.shape(leaf))
    places = np.ix_(*kept(name, np.shape(leaf), groups, gates)) if np.ndim(leaf) else ()
    values[places] = np.asarray(leaf)[places]
    return values


def _batchnorm_scale(network: Network, groups: Sequence[Group], gates: Gates, batches: Iterable[Batch]) -> Ratings:
    del gates, batches
    check.network(network)
    scales = _scales(network)
    units = {member.leaf for group in groups if not group.is_layer for member in group.members}
    result = {}
    for group in groups:
        if group.is_layer:
            found = [scales[name] for name in scales if _owned(name, group) and name not in units]
        else:
            found = [
                np.abs(scales[member.leaf])[member.places(group.size)].sum(1)
                for member in group.members
                if member.leaf in scales
            ]
        _demand(found, group, "a BatchNorm scale", "For networks without BatchNorm use l2, activation or second_order.")
        absolute = np.sum([np.abs(values) for values in found], axis=0)
        result[group.name] = np.array([absolute.mean()]) if group.is_layer else absolute
    return result


def _scales(network: Network) -> dict[str, np.ndarray]:
    """The scales of BatchNorms, by name: those beside which the state keeps a mean."""
    statistics = tree.names(network.state)
    return {
        name: np.asarray(leaf)
        for name, leaf in tree.by_name(network.params).items()
        if any(f"/{known}".endswith(f"/{name.removesuffix('scale')}mean") for known in statistics)
        and name.endswith("scale")
    }


def _activation(network: Network, groups: Sequence[Group], gates: Gates, batches: Iterable[Batch]) -> Ratings:
    check.network(network)
    check_gating(groups)
    if groups and all(group.by_sums for group in groups):
        return _at_sums(network, tuple(groups), check_gates(groups, gates), listed(batches))
    for group in groups:
        _demand(group.sites, group, "a site", "activation reads values that the network tags; l1 and l2 read weights.")
    open_network = gated(network, groups, gates)
    totals, weight = None, 0.0
    for batch in listed(batches):
        found = _magnitudes(open_network, batch, groups=tuple(groups))
        totals = found if totals is None else tree.add(totals, found)
        weight += float(jnp.sum(losses.weights(batch)))
    return {name: np.asarray(values) / weight for name, values in (totals or {}).items()}


def _at_sums(
    network: Network, groups: tuple[Group, ...], gates: Mapping[str, np.ndarray], batches: Sequence[Batch]
) -> Ratings:
    totals: dict[str, np.ndarray] = {group.name: np.zeros(group.size) for group in groups}
    weight = 0.0
    for batch in batches:
        for name, values in _summed(network, batch, gates, groups=groups).items():
            totals[name] += np.asarray(values, np.float64)
        weight += float(jnp.sum(losses.weights(batch)))
    return {name: values / weight for name, values in totals.items()}


@partial(jax.jit, static_argnames="groups")
def _summed(network: Network, batch: Batch, gates: Any, *, groups: tuple[Group, ...]) -> dict[str, Any]:
    # Example by example, since a value need not have an axis of examples.
    found = jax.vmap(lambda image: magnitudes(network, groups, gates, image))(batch["image"])
    weights = losses.weights(batch)
    return {
        name: jnp.sum(jnp.where(weights[:, None] > 0, weights[:, None] * values, 0), axis=0)
        for name, values in found.items()
    }


@partial(jax.jit, static_argnames="groups")
def _magnitudes(network: Network, batch: Batch, *, groups: tuple[Group, ...]) -> dict[str, Any]:
    sites = list(dict.fromkeys(site for group in groups for site in group.sites))
    values = dict(zip(sites, read(network, batch["image"], sites), strict=True))
    weights, result = losses.weights(batch), {}
    for group in groups:
        total: Any = 0
        for site in group.sites:
            magnitude = jnp.abs(jnp.where(_column(weights, values[site]) > 0, values[site], 0))
            axis = None if group.is_layer else group.axis % magnitude.ndim
            others = tuple(number for number in range(1, magnitude.ndim) if number != axis)
            found = jnp.tensordot(weights, jnp.mean(magnitude, axis=others), axes=1)
            total += jnp.mean(jnp.reshape(found, (group.size, -1)), axis=1)  # of a unit's neighbours, where it has any
        result[group.name] = total
    return result


def _column(weights: Any, values: Any) -> Any:
    return jnp.reshape(weights, (-1, *[1] * (values.ndim - 1)))


def _random(
    key: jax.Array, network: Network, groups: Sequence[Group], gates: Gates, batches: Iterable[Batch]
) -> Ratings:
    del network, gates, batches
    numbers = np.asarray(jax.random.uniform(key, (sum(group.size for group in groups),)))
    edges = np.cumsum([0, *(group.size for group in groups)])
    return {group.name: numbers[start:stop] for group, start, stop in zip(groups, edges, edges[1:], strict=False)}


def _owned(name: str, group: Group) -> bool:
    return any(below(name, member.leaf) for member in group.members)


def _demand(found: Sequence[Any], group: Group, what: str, remedy: str) -> None:
    if not found:
        raise ValueError(f"groups: {group.name!r} has no {what.removeprefix('a ')}. {remedy}")
