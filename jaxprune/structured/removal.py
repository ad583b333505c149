"""Removing units for real: the same function, of smaller arrays."""

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxprune import check, tree
from jaxprune.groups import Gates, Group, Member, Specification, below, check_groups, check_specification
from jaxprune.network import Network
from jaxprune.structured import gates as gating


def remove(specification: Specification, params: Any, state: Any, gates: Gates) -> tuple[Specification, Any, Any]:
    """Removes the units whose gates are False: the smaller network computes what the gated one does.

    It does so where ``jp.structured.verify(network, specification)`` finds nothing wrong; here nothing is evaluated.

    Args:
      specification: the shape of the network.
      params: its parameters; leaves may be ``jax.ShapeDtypeStruct``, then so are those of the result.
      state: its state.
      gates: bool [size] for each group; groups that are not named live.

    Returns:
      (specification, params, state) of what is left.  Arrays are of NumPy, so that nothing is compiled.

    Raises:
      ValueError: gates that do not fit; fewer units than a floor; members that do not exist or do not fit.

    >>> from jaxprune.groups import Member
    >>> from jaxprune.structured.declared import Declared
    >>> units = Group("units", 2, (Member("in", 1), Member("out", 0, reads=True)), ("units",))
    >>> shape = Declared(lambda p, s, x: x @ p["in"] @ p["out"], (units,))
    >>> params = {"in": np.ones((3, 2)), "out": np.ones((2, 1))}
    >>> smaller, params, state = remove(shape, params, {}, {"units": np.array([True, False])})
    >>> params["in"].shape, smaller.groups()[0].size
    ((3, 1), 1)
    """
    check_specification(specification)
    groups = specification.groups()
    checked = gating.check(groups, gates)
    check_floors(groups, checked)
    check_members(groups, params, state)
    return cut(specification, params, state, checked)


def cut(specification: Specification, params: Any, state: Any, gates: Gates) -> tuple[Specification, Any, Any]:
    """Does what ``remove`` does, unchecked."""
    groups = specification.groups()
    whole = {**gating.ones(groups), **gates}
    return specification.without(whole), _cut(params, groups, whole), _cut(state, groups, whole)


class CannotRemoveError(ValueError):
    """Without some units a network cannot be evaluated; ``said`` is what it raised."""

    def __init__(self, names: Sequence[str], said: str) -> None:
        listed = ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")
        super().__init__(
            f"specification: expected a network that can be evaluated with units of {listed} removed, but it raises "
            f"{said}. Its function must read every width off its parameters, and skip a layer whose parameters are not "
            'there (if "block1" in params); a module with widths of its own needs the methods of '
            "jaxprune.groups.Specification. If it has no such widths, a leaf is missing among the members: "
            "jp.structured.verify tells which."
        )
        self.said = said


def smaller(specification: Specification, params: Any, state: Any, gates: Gates, images: Any) -> Network:
    """Makes the network that is left, and checks that it takes the images; only their shape and type matter.

    Raises:
      CannotRemoveError: evaluating it raises an error.
    """
    left, *arrays = cut(specification, params, state, gates)
    try:
        network = left.network(*arrays)
        gating.outputs.eval_shape(network, images)  # traced once, if it is evaluated afterwards
    except Exception as error:  # whatever a network raises for arrays that do not fit
        names = [name for name, alive in gates.items() if not np.all(alive)]
        raise CannotRemoveError(names, check.first_line(error)) from error
    return network


def restore(specification: Specification, params: Any, state: Any, gates: Gates, like: tuple[Any, Any]) -> Any:
    """Puts a smaller network back into the arrays of the larger one, with zeros for what was removed.

    Args:
      specification: the larger shape.
      params: the parameters of the smaller network.
      state: its state.
      gates: with which it was removed.
      like: (params, state) of the larger network, for their shapes and types.

    Returns:
      (params, state), with which the larger network under ``gates`` computes what the smaller one does.
    """
    check_specification(specification)
    groups = specification.groups()
    checked = gating.check(groups, gates)

    def fill(large: Any, small: Any) -> Any:
        parts = tree.by_name(small)

        def place(name: str, leaf: Any) -> Any:
            whole = np.zeros(leaf.shape, leaf.dtype)
            if name in parts:
                whole[np.ix_(*kept(name, leaf.shape, groups, checked))] = np.asarray(parts[name])
            return whole

        return tree.map_named(place, large)

    return fill(like[0], params), fill(like[1], state)


def between(larger: Specification, smaller: Specification) -> dict[str, np.ndarray]:
    """Makes gates that leave a larger shape with the sizes of a smaller one, the first units of every group living."""
    left = {group.name: group.size for group in smaller.groups()}
    return {group.name: np.arange(group.size) < left.get(group.name, 0) for group in larger.groups()}


def structs(value: Any) -> Any:
    """Replaces every leaf by its shape and type."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype), value)


def check_members(groups: Sequence[Group], params: Any, state: Any) -> None:
    """Checks that the members of all groups exist and have room for their units.

    Raises:
      ValueError: a name is given twice; a leaf is missing, or its axis has another length than the units need.
    """
    check_groups(groups)
    leaves = {**tree.by_name(params), **tree.by_name(state)}
    names = [group.name for group in groups]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"groups: {name!r} is there {names.count(name)} times. Give every group its own name.")
    for group in groups:
        whole = sum(member.axis is None for member in group.members)
        if whole and (whole < len(group.members) or group.size != 1):
            raise ValueError(
                f"groups: {group.name!r} owns whole leaves, so it is a layer: expected a size of 1 and no member with "
                f"an axis, but got the size {group.size} and {len(group.members) - whole} members with an axis. "
                "Declare units and layers as groups of their own."
            )
        for member in group.members:
            told = f"groups: {group.name!r} has the member {member.leaf!r}"
            if member.axis is None:
                if not any(below(name, member.leaf) for name in leaves):
                    raise ValueError(f"{told}, but no leaf is called so or lies below it. {_listed(leaves)}")
                continue
            if member.leaf not in leaves:
                raise ValueError(f"{told}, but no leaf is called so. {_listed(leaves)}")
            shape = np.shape(leaves[member.leaf])
            within = -len(shape) <= member.axis < len(shape)
            if within and not member.is_whole():
                _check_places(told, member, group.size, shape[member.axis])
            elif not within or shape[member.axis] != group.size * member.each:
                raise ValueError(
                    f"{told} along axis {member.axis}, where {group.size} units of {member.each} need a length of "
                    f"{group.size * member.each}, but its shape is {shape}. Correct the size, the axis or each."
                )


def _check_places(told: str, member: Member, size: int, length: int) -> None:
    """Checks that a member that is a part of an axis lies in it, and gives every unit indices of its own."""
    places = member.places(size)
    if np.unique(places).size != places.size or places.size == 0 or places.min() < 0 or places.max() >= length:
        raise ValueError(
            f"{told} along axis {member.axis}, where each of {size} units needs indices of its own below {length}, but "
            f"they are {places.tolist()!r:.200}. Correct offset, outer, stride, each or the indices."
        )


def check_floors(groups: Sequence[Group], gates: Mapping[str, np.ndarray]) -> None:
    """Checks that as many units and layers live as their floors ask for.

    Raises:
      ValueError: fewer do; the message names the group, or the stage.
    """
    for group in groups:
        if not group.is_layer and gates[group.name].sum() < group.floor:
            raise ValueError(
                f"gates: {group.name!r} keeps {int(gates[group.name].sum())} of {group.size} units, below its floor of "
                f"{group.floor}. Keep more, or remove the layer that they are in."
            )
    for stage, layers in stages(groups).items():
        kept, floor = sum(int(gates[layer.name][0]) for layer in layers), max(layer.floor for layer in layers)
        if kept < floor:
            raise ValueError(
                f"gates: {stage or 'the network'} keeps {kept} of the {len(layers)} layers that can go, below its "
                f"floor of {floor}. Keep more of {', '.join(layer.name for layer in layers)}."
            )


def stages(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Lists the layers by stage."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        if group.is_layer:
            found.setdefault(group.stage, []).append(group)
    return found


def owners(name: str, groups: Sequence[Group]) -> list[Group]:
    """Lists the layers that own a leaf."""
    return [group for group in groups if group.is_layer and any(below(name, member.leaf) for member in group.members)]


def kept(name: str, shape: Sequence[int], groups: Sequence[Group], gates: Mapping[str, Any]) -> list[np.ndarray]:
    """Lists the indices that stay along every axis of a leaf (where its layer lives)."""
    indices = [np.arange(length) for length in shape]
    for group in groups:
        for member in group.members:
            if member.leaf == name and member.axis is not None:
                axis = member.axis % len(shape)
                units = np.append(gates[group.name], True)[member.unit_of(group.size, shape[axis])]
                indices[axis] = indices[axis][units[indices[axis]]]
    return indices


def _cut(value: Any, groups: Sequence[Group], gates: Mapping[str, Any]) -> Any:
    gone = [member.leaf for group in groups if group.is_layer and not gates[group.name][0] for member in group.members]
    return _without(value, "", lambda name: any(below(name, leaf) for leaf in gone), _cutter(groups, gates))


def dropped(value: Any, gone: Container[str]) -> Any:
    """Leaves of these names taken out of a tree, as ``remove`` takes out those of a layer."""
    return _without(value, "", lambda name: name in gone, lambda _, leaf: leaf)


def _cutter(groups: Sequence[Group], gates: Mapping[str, Any]) -> Callable[[str, Any], Any]:
    def cut_leaf(name: str, leaf: Any) -> Any:
        indices = kept(name, np.shape(leaf), groups, gates)
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(tuple(map(len, indices)), leaf.dtype)
        return np.asarray(leaf)[np.ix_(*indices)] if indices else np.asarray(leaf)

    return cut_leaf


def _without(value: Any, name: str, gone: Callable[[str], bool], cut_leaf: Callable[[str, Any], Any]) -> Any:
    """Walks nested dictionaries, drops what is gone and cuts the leaves."""
    if isinstance(value, Mapping):
        parts = {key: (f"{name}/{key}".lstrip("/"), part) for key, part in value.items()}
        left = {key: _without(part, place, gone, cut_leaf) for key, (place, part) in parts.items() if not gone(place)}
        # A folder that lost all it had goes too, as in a network that is made small.
        return {key: part for key, part in left.items() if jax.tree.leaves(part) or not jax.tree.leaves(value[key])}
    if jax.tree_util.all_leaves([value]):
        return cut_leaf(name, value)
    found = {f"{name}/{path}".strip("/"): leaf for path, leaf in tree.by_name(value).items()}
    for place in found:
        if gone(place):
            raise ValueError(
                f"params: {place!r} belongs to a layer that is removed, but lies in a {type(value).__name__}, which "
                "cannot lose an entry. Keep layers in dictionaries."
            )
    return jax.tree.unflatten(jax.tree.structure(value), [cut_leaf(place, leaf) for place, leaf in found.items()])


def _listed(leaves: Mapping[str, Any]) -> str:
    names = list(leaves)
    return f"The leaves are: {', '.join(names[:30])}{', ...' if len(names) > 30 else ''}."
