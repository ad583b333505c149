"""Whether declared groups are right, checked on numbers: what leaks, what was forgotten."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import tree
from jaxprune.groups import Gates, Group, Specification, below, check_groups, check_specification
from jaxprune.network import Network
from jaxprune.structured.declared import Declared
from jaxprune.structured.discovery import Discovered, Traced
from jaxprune.structured.equality import check_removal
from jaxprune.structured.gates import gated, ones
from jaxprune.structured.probes import is_float, randomised, some_images
from jaxprune.structured.removal import check_members

_DRAWS = 3
# Small kernels, so that every ReLU stays open for some image.
_GAIN = 0.1


def verify(network: Network, groups: Sequence[Group] | Specification, images: Any = None, *, seed: int = 0) -> None:
    """Checks on numbers that the groups declared for a network say what belongs to its units.

    With a unit gated off, the outputs must not change with anything that the unit owns, and every weight that stops to
    matter must be one that it owns.  Both are read off the derivatives of the outputs by all parameters and statistics,
    at three draws of random weights, for two units of every group and for every layer.

    Then half of the units, and layers, are really removed, and the outputs must be those of the gated network, with
    the given weights and with random ones, up to half of the digits of the network's coarsest type: 3.5e-4 of the
    largest output in float32.  A statistic over the units (LayerNorm, a softmax) counts those that are gated off, and
    a function of fixed widths cannot be cut: both are refused.  This part takes a few forward passes, and compiles
    one or two smaller networks; a search repeats it, at its beginning and whenever its base was made smaller.

    Args:
      network: any pure network.
      groups: what was declared, or the specification that says so.  Groups alone are cut by their members, as
        ``Declared(network.apply, groups)`` is; those of the Flax module that the network was made of, by the module;
        those that were discovered by the program.
      images: [b, ...] to evaluate it on.  None: random ones of the first size out of 8 to 224 pixels, grey or in
        colour, that the network takes.
      seed: of the random numbers.

    Raises:
      ValueError: a member that does not exist or does not fit, a site that is not tagged, or a declaration that is not
        right: the message lists every leaf that leaks (it is owned, but acts elsewhere too) and every leaf that was
        forgotten (it acts through the unit alone, but is not owned); a network that is something else when units
        are removed than when they are gated off, or cannot be evaluated then.

    >>> from jax.ad_checkpoint import checkpoint_name
    >>> from jaxprune.groups import Member
    >>> def apply(params, state, images):
    ...     units = checkpoint_name(jax.nn.relu(images @ params["in"] + params["bias"]), "units")
    ...     return units @ params["out"]
    >>> net = Network(apply, {"in": jnp.ones((3, 4)), "bias": jnp.ones(4), "out": jnp.ones((4, 2))})
    >>> members = (Member("in", 1), Member("out", 0, reads=True))
    >>> images = jax.random.normal(jax.random.key(0), (16, 3))
    >>> verify(net, [Group("units", 4, (*members, Member("bias", 0)), ("units",))], images)
    >>> try:
    ...     verify(net, [Group("units", 4, members, ("units",))], images)
    ... except ValueError as error:
    ...     print(str(error)[:45])
    groups: 'units': forgot 'bias': it acts throu
    """
    specification = specification_of(network, groups)
    groups = tuple(groups.groups() if isinstance(groups, Specification) else groups)
    if not groups:
        raise ValueError("groups: expected at least one, but got none. Declare what can be removed.")
    check_members(groups, network.params, network.state)
    images = some_images(network, seed) if images is None else jnp.asarray(images)
    draws = [randomised(network, (seed, number), _GAIN) for number in range(_DRAWS)]
    readout = np.random.default_rng(seed).normal(size=jax.eval_shape(network, images).shape)
    whole = ones(groups)

    def influences(gates: Any) -> dict[str, np.ndarray]:
        """Whether the outputs change with an entry, in every draw: bool [draws, ...] for every leaf."""
        found = [_influence(gated(draw, groups, gates), images, readout) for draw in draws]
        return {place: np.stack([np.asarray(one[place]) != 0 for one in found]) for place in found[0]}

    before = influences(whole)
    if not (problems := _jointly(groups, before, influences)):
        _demand_readers(groups)
        check_removal(network, specification, images, groups, seed=seed)
        return
    for group in groups:  # something is wrong: now group by group, to say where
        for unit in sorted({0, group.size - 1}):
            after = influences({**whole, group.name: np.arange(group.size) != unit})
            problems += _problems({group.name: [unit]}, [group], before, after)
    problems = [one for one in problems if ": unit" in one or "layer" in one] or problems
    if problems:
        raise ValueError(
            "groups: " + " ".join(dict.fromkeys(problems)) + " Correct the members, or move the site to where all of "
            "the unit passes."
        )


def specification_of(network: Network, groups: Any) -> Specification:
    """Who cuts the network: the specification that was given, its own module, or the members."""
    if not isinstance(groups, Sequence):
        check_specification(groups)
        return groups
    check_groups(groups)
    if isinstance(groups, Discovered):
        return Traced.of(network, groups)
    module = getattr(network.apply, "module", None)
    if isinstance(module, Specification):
        known = {group.name: group for group in module.groups()}
        if all(one.name in known and replace(one, floor=known[one.name].floor) == known[one.name] for one in groups):
            return module
    return Declared(network.apply, tuple(groups), network.train_apply)


@jax.jit
def _influence(network: Network, images: Any, readout: Any) -> dict[str, Any]:
    """The derivatives of a random reading of the outputs by every floating-point leaf, by name."""
    inner = network.state["network"]
    moving = {name: leaf for name, leaf in _named(network.params, inner).items() if is_float(leaf)}

    def read(values: dict[str, Any]) -> Any:
        params, state = (
            tree.map_named(lambda name, leaf, where=where: values.get(f"{where}:{name}", leaf), part)
            for where, part in (("params", network.params), ("state", inner))
        )
        return jnp.sum(readout * network.apply(params, {**network.state, "network": state}, images))

    return jax.grad(read)(moving)


Influences = Callable[[Gates], dict[str, np.ndarray]]


def _jointly(groups: Sequence[Group], before: dict[str, np.ndarray], influences: Influences) -> list[str]:
    """Switches units of all groups off at once, those whose number has a certain bit: every two differ in one."""
    neurons, layers = [one for one in groups if not one.is_layer], [one for one in groups if one.is_layer]
    found = []
    for bit in range(max((group.size - 1 for group in neurons), default=0).bit_length()):
        for side in (0, 1):
            # Never all units of a group: what feeds them would fall idle with them.
            split = [group for group in neurons if (group.size - 1).bit_length() > bit]
            off = {group.name: _with_bit(group.size, bit, side) for group in split}
            gates = {name: ~np.isin(np.arange(_size(groups, name)), units) for name, units in off.items()}
            found += _problems(off, groups, before, influences({**ones(groups), **gates}))
    # One by one: without all of its attentions, say, a network would not look at its patches any more.
    alone = [one for one in layers if sum(one.stage == mate.stage for mate in layers) > one.floor]
    for group in [*alone, *(one for one in neurons if one.size == 1)]:
        gates = {**ones(groups), group.name: np.array([False])}
        found += _problems({group.name: np.array([0])}, groups, before, influences(gates))
    return found


def _demand_readers(groups: Sequence[Group]) -> None:
    """Checks what derivatives do not show: that somebody said which members read the units."""
    for group in groups:
        if not group.is_layer and not group.by_sums and not any(member.reads for member in group.members):
            raise ValueError(
                f"groups: no member of {group.name!r} reads its units. Mark those behind the site, such as the next "
                "kernel, with reads=True: criteria rate what makes a unit by the others."
            )


def _with_bit(count: int, bit: int, side: int) -> np.ndarray:
    numbers = np.arange(count)
    return numbers[(numbers >> bit & 1) == side]


def _size(groups: Sequence[Group], name: str) -> int:
    return next(group.size for group in groups if group.name == name)


def _problems(
    off: Mapping[str, Any], groups: Sequence[Group], before: dict[str, np.ndarray], after: dict[str, np.ndarray]
) -> list[str]:
    """What is wrong with the declaration, as seen with some units off."""
    chosen = [group for group in groups if len(off.get(group.name, ()))]
    named = ", ".join(f"{group.name!r}" for group in chosen)
    alone = len(chosen) == 1
    who = (
        "the units that are off"
        if not alone
        else "this layer"
        if chosen[0].is_layer
        else f"unit {off[chosen[0].name][0]}"
    )
    whole = all(group.is_layer for group in chosen)
    found = []
    for group in chosen:
        places = {place: _owned(group, off[group.name], place, one.shape[1:]) for place, one in before.items()}
        if not any((owned & (before[place].sum(0) > 1)).any() for place, owned in places.items()):
            found.append(f"{group.name!r}: nothing of it acts on the outputs: pass more, and more varied, images.")
        for place, owned in places.items():
            leaks = owned & after[place].any(0)
            if leaks.any():
                found.append(
                    f"{group.name!r}: {_name(place)!r} leaks: {who} own{'s' * alone} it, but with {who} gated off "
                    f"the outputs still change with it, at {_first(leaks)}. (Where a normalisation or a softmax runs "
                    "over the units, gating is not removing: such units cannot be a group.)"
                )
    for place, acts in after.items():
        owned = np.any([_owned(group, off[group.name], place, acts.shape[1:]) for group in chosen], axis=0)
        forgotten = ~owned & _gone(before[place].sum(0) > 1, np.any(acts, axis=0), whole=whole)
        if forgotten.any():
            found.append(
                f"{named if alone else 'units of several groups'}: forgot {_name(place)!r}: it acts through {who} "
                f"alone, at {_first(forgotten)}, but is not among the members."
            )
    return found


def _gone(acted: Any, acts: Any, *, whole: bool) -> np.ndarray:
    """The weights of whole leaves, or of slices of them along any axis, that acted and do so no more.

    Not single weights: these may fall idle by the accident of a ReLU behind them.
    """
    if whole or acted.ndim == 0:
        return acted & ~acts.any()
    gone = np.zeros(acted.shape, dtype=bool)
    for axis in range(acted.ndim):
        others = tuple(other for other in range(acted.ndim) if other != axis)
        gone |= acted & ~acts.any(others, keepdims=True)
    return gone


def _owned(group: Group, units: Any, place: str, shape: tuple[int, ...]) -> np.ndarray:
    """Which entries of a leaf these units of a group own."""
    name, owned = _name(place), np.zeros(shape, dtype=bool)
    for member in group.members:
        if member.axis is None:
            owned |= below(name, member.leaf)
        elif member.leaf == name:
            mine = np.isin(member.unit_of(group.size, shape[member.axis]), units)
            spread = [1] * len(shape)
            spread[member.axis] = -1
            owned |= mine.reshape(spread)
    return owned


def _name(place: str) -> str:
    """The name of a leaf, without where it is."""
    return place.split(":", 1)[1]


def _named(params: Any, state: Any) -> dict[str, Any]:
    parts = {"params": params, "state": state}
    return {f"{where}:{name}": leaf for where, part in parts.items() for name, leaf in tree.by_name(part).items()}


def _first(places: np.ndarray) -> list[int]:
    return np.argwhere(places)[0].tolist()
