"""Switching units off inside a network, without changing the shape of anything.

A unit whose gate is False is replaced by zero at its site, after its activation: nothing of it reaches the rest of the
network, in evaluation or in training.  The units of a group ``by_sums``, which were discovered, need no tag: they are
gated wherever the program sums over them, at the values that kernels are multiplied by.  Those of a group
``by_readers`` are gated where they are read: what the members with ``reads`` hold of them is replaced by zero.  Gates
are part of the state, so one compiled program serves every choice.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.groups import Gates, Group, check_groups
from jaxprune.network import Network
from jaxprune.sites.program import trace
from jaxprune.structured import readers


def ones(groups: Iterable[Group]) -> dict[str, np.ndarray]:
    """Makes the gates with which every unit lives.

    >>> ones([Group("units", 2, (), ())])
    {'units': array([ True,  True])}
    """
    groups = list(groups) if isinstance(groups, Iterable) else groups
    check_groups(groups)
    return {group.name: np.ones(group.size, dtype=bool) for group in groups}


def check(groups: Sequence[Group], gates: Gates) -> dict[str, np.ndarray]:
    """Checks that gates name known groups and fit them; groups that are not named live.

    Raises:
      ValueError: an unknown group, or gates that are not bool [size] by its name.
    """
    check_groups(groups)
    sizes = {group.name: group.size for group in groups}
    if not isinstance(gates, Mapping):
        raise ValueError(
            f"gates: expected bool [size] by the name of each group, but got a {type(gates).__name__}. "
            "jp.structured.ones(groups) makes gates that fit."
        )
    for name, value in gates.items():
        if name not in sizes:
            raise ValueError(f"gates: no group is called {name!r}. The groups are: {', '.join(sizes)}.")
        if np.shape(value) != (sizes[name],) or np.asarray(value).dtype != bool:
            raise ValueError(
                f"gates: expected bool [{sizes[name]}] for {name!r} (True = it lives), but got "
                f"{np.asarray(value).dtype} {list(np.shape(value))}. jp.structured.ones(groups) makes gates that fit."
            )
    return {**ones(groups), **{name: np.array(value) for name, value in gates.items()}}


def check_gating(groups: Iterable[Group]) -> None:
    """Checks that to remove units is to gate them.

    Raises:
      ValueError: a statistic over some is recomputed over what is left; the message names their groups.
    """
    if recomputed := [group.name for group in groups if group.recomputed]:
        raise ValueError(
            f"groups: expected units that can be gated, but a statistic over those of {', '.join(recomputed[:10])} is "
            'recomputed over what is left (normalised="recompute"), so to remove them is not to gate them. Rate them '
            "by their weights (criteria.l1, l2) and remove them with jp.structured.compact, or leave them out: "
            "jp.structured.limited(groups, ignored=[...])."
        )


def gated(network: Network, groups: Sequence[Group], gates: Gates) -> Network:
    """Makes the network in which units are switched off by gates, ``a <- where(gate, a, 0)`` at every site.

    Of a group ``by_sums``, a is what the program sums over its units; of one ``by_readers``, a are the slices of the
    leaves that read its units.

    The state becomes ``{"gates": gates, "network": state}``; training keeps the gates as they are.  Networks of equal
    groups share their compiled programs, whatever the gates.

    Args:
      network: evaluated and trained through its gates.
      groups: what can be switched off.
      gates: bool [size] for each group; groups that are not named live.

    Raises:
      ValueError: gates that do not fit; when it is evaluated: a site that the network does not tag, or whose axis does
        not count the units.

    >>> from jax.ad_checkpoint import checkpoint_name
    >>> net = Network(lambda p, s, x: checkpoint_name(x, "units") @ p, jnp.ones((2, 1)))
    >>> half = gated(net, [Group("units", 2, (), ("units",))], {"units": np.array([True, False])})
    >>> half(jnp.array([[3.0, 4.0]]))
    Array([[3.]], dtype=float32)
    """
    parts = _sites(groups), readers.of(groups), _sums(groups)
    state = {"gates": jax.tree.map(jnp.asarray, check(groups, gates)), "network": network.state}
    train = None if network.train_apply is None else _GatedTraining(network.train_apply, *parts)
    return Network(_Gated(network.apply, *parts), network.params, state, train)


def factored(network: Network, groups: Sequence[Group], gates: Gates) -> Network:
    """Makes the gated network a function of one real factor per unit: its parameters are ``{group: ones [size]}``.

    At its site, a unit becomes ``factor where(gate, a, 0)``.  Derivatives by the factors say what removing a unit does.
    """
    state = {"gates": jax.tree.map(jnp.asarray, check(groups, gates)), "network": (network.params, network.state)}
    dtype = jnp.result_type(*jax.tree.leaves(network.params))
    factors = {group.name: jnp.ones(group.size, dtype) for group in groups}
    return Network(_Factored(network.apply, _sites(groups), readers.of(groups), _sums(groups)), factors, state)


@jax.jit
def outputs(network: Network, images: Any) -> Any:
    """Evaluates a network in the one program that criteria and choosers share, whatever the gates."""
    return network(images)


class Site(NamedTuple):
    """Where a group is gated.

    Attributes:
      tag: the name of the value.
      group: the name of the group.
      axis: that of the value that counts the units.  None: the whole value, of a layer.
      size: how many units.
      each: how many neighbours along the axis may belong to one unit: one, or as many as in a leaf.
    """

    tag: str
    group: str
    axis: int | None
    size: int
    each: tuple[int, ...]


def _sites(groups: Sequence[Group]) -> tuple[Site, ...]:
    check_groups(groups)
    check_gating(groups)
    for group in groups:
        read = group.by_readers and any(member.reads for member in group.members)
        if not group.sites and not read and not group.by_sums:
            raise ValueError(
                f"groups: {group.name!r} has no site, so that nothing would be gated. Tag the value after its "
                "activation with jax.ad_checkpoint.checkpoint_name, and give the group that name."
            )
    return tuple(
        Site(
            tag,
            group.name,
            None if group.is_layer else group.axis,
            group.size,
            tuple(sorted({1, *(member.each for member in group.members)})),
        )
        for group in groups
        if not group.by_readers and not group.by_sums
        for tag in group.sites
    )


def _sums(groups: Sequence[Group]) -> tuple[Group, ...]:
    return tuple(group for group in groups if group.by_sums and not group.by_readers)


@dataclass(frozen=True)
class _Gated:
    apply: Callable[..., Any]
    sites: tuple[Site, ...]
    read_by: tuple[readers.Reader, ...] = ()
    sums: tuple[Group, ...] = ()

    def __call__(self, params: Any, state: Any, images: Any) -> Any:
        trees = readers.without((params, state["network"]), self.read_by, state["gates"])
        return _run(
            _summed(self.apply, self.sums, state["gates"]), (*trees, images), self.sites, _switch(state["gates"])
        )


@dataclass(frozen=True)
class _GatedTraining:
    train_apply: Callable[..., Any]
    sites: tuple[Site, ...]
    read_by: tuple[readers.Reader, ...] = ()
    sums: tuple[Group, ...] = ()

    def __call__(self, params: Any, state: Any, images: Any, rngs: Any) -> tuple[Any, Any]:
        arguments = (*readers.without((params, state["network"]), self.read_by, state["gates"]), images, rngs)
        apply = _summed(self.train_apply, self.sums, state["gates"])
        outputs, inner = _run(apply, arguments, self.sites, _switch(state["gates"]))
        return outputs, {"gates": state["gates"], "network": readers.restored(inner, state, self.read_by)}


@dataclass(frozen=True)
class _Factored:
    apply: Callable[..., Any]
    sites: tuple[Site, ...]
    read_by: tuple[readers.Reader, ...] = ()
    sums: tuple[Group, ...] = ()

    def __call__(self, factors: Any, state: Any, images: Any) -> Any:
        switch = _switch(state["gates"])
        trees = readers.without(state["network"], self.read_by, state["gates"], factors)

        def change(value: Any, site: Site) -> Any:
            return switch(value, site) * _along(factors[site.group], value, site.axis)

        apply = _summed(self.apply, self.sums, state["gates"], factors)
        return _run(apply, (*trees, images), self.sites, change)


def _summed(
    apply: Callable[..., Any],
    groups: tuple[Group, ...],
    gates: Mapping[str, Any],
    factors: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """The function with zeros for units that are off in all that it sums over them, times factors of the others."""
    if not groups:
        return apply
    # Not before it is needed: programs are made smaller by removal, which is itself made of gates.
    from jaxprune.structured.discovery.placing import switched

    return switched(apply, groups, gates, factors)


def _switch(gates: Mapping[str, Any]) -> Callable[[Any, Site], Any]:
    def change(value: Any, site: Site) -> Any:
        return jnp.where(_along(gates[site.group], value, site.axis), value, jnp.zeros((), value.dtype))

    return change


def _along(units: Any, value: Any, axis: int | None) -> Any:
    """Gives an array [size] the rank of the value, its units along the axis, each as often as it has neighbours."""
    shape = [1] * jnp.ndim(value)
    if axis is not None:
        shape[axis] = -1
        each = jnp.shape(value)[axis] // jnp.size(units)
        units = units if each == 1 else jnp.repeat(units, each)
    return jnp.reshape(units, shape)


def _run(
    apply: Callable[..., Any],
    arguments: tuple[Any, ...],
    sites: Sequence[Site],
    change: Callable[[Any, Site], Any],
) -> Any:
    """Evaluates a function with the values of its sites changed."""
    if not sites:
        return apply(*arguments)
    structure: list[Any] = []

    def flat(*inputs: Any) -> Any:
        leaves, tree = jax.tree.flatten(apply(*inputs))
        structure.append(tree)
        return leaves

    program = trace(flat, *arguments)
    named = [(step.params["name"], step.outputs[0]) for step in program.steps if step.name == "name"]
    tagged = dict(named)
    changes: dict[int, Callable[[Any], Any]] = {}
    for site in sites:
        if site.tag not in tagged:
            raise ValueError(
                f"groups: {site.group!r} is gated at {site.tag!r}, which the network does not tag. It tags: "
                f"{', '.join(tagged) or 'nothing'}. Tag the value with jax.ad_checkpoint.checkpoint_name, outside of "
                "functions with derivatives of their own."
            )
        if sum(tag == site.tag for tag, _ in named) > 1:
            raise ValueError(
                f"groups: {site.group!r} is gated at {site.tag!r}, but the network tags several values so, and only "
                "one would be gated. Give every value its own name."
            )
        number = tagged[site.tag]
        _check_shape(site, program.avals[number].shape)
        changes[number] = _then(changes.get(number), change, site)
    leaves, _ = program.run(jax.tree.leaves(arguments), changes)
    return jax.tree.unflatten(structure[0], leaves)


def _check_shape(site: Site, shape: tuple[int, ...]) -> None:
    """Checks that the axis of a site counts the units: of another length, gates would be spread over other things."""
    if site.axis is None:
        return
    lengths = [site.size * each for each in site.each]
    if not -len(shape) <= site.axis < len(shape) or shape[site.axis] not in lengths:
        raise ValueError(
            f"groups: {site.group!r} is gated at {site.tag!r}, where its {site.size} units need a length of "
            f"{' or '.join(map(str, lengths))} along axis {site.axis}, but the shape of that value is {shape}. Correct "
            "the size or the axis of the group, or tag another value. Several neighbours may belong to a unit, as many "
            "as a member has in `each`."
        )


def _then(before: Callable[[Any], Any] | None, change: Callable[[Any, Site], Any], site: Site) -> Callable[[Any], Any]:
    return lambda value: change(value if before is None else before(value), site)
