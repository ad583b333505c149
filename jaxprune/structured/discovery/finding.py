"""The structure of any network, found in its program: nothing is declared."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.extend import core

from jaxprune import check, tree
from jaxprune.groups import Group
from jaxprune.network import Network
from jaxprune.sites.depthwise import to_read
from jaxprune.sites.program import opened, trace
from jaxprune.structured.discovery import reasons
from jaxprune.structured.discovery.counting import RECOMPUTED
from jaxprune.structured.discovery.described import Description
from jaxprune.structured.discovery.described import check as check_description
from jaxprune.structured.discovery.facts import Facts, Origin, Value
from jaxprune.structured.discovery.indices import IMAGES, STAYS, WEIGHTS, Classes, close
from jaxprune.structured.discovery.layers import branches
from jaxprune.structured.discovery.listing import Found, Leaf, listed
from jaxprune.structured.discovery.printing import table
from jaxprune.structured.discovery.walk import Walk
from jaxprune.types import TrainApply

NORMALISED = ("fixed", "recompute")
"""What becomes of units that a statistic is over: they stay, or it is recomputed over those that are left."""


@dataclass(frozen=True, eq=False)
class Discovered(Sequence[Group]):
    """The groups that were found in a program: a sequence of ``Group``, printable, with all else that was found.

    Attributes:
      groups: those that are offered.
      layers: residual branches, which can be left out as a whole by a function that skips what it has no leaves for;
        offered beside the groups, not among them.
      found: every one, with what is to be said of it.
      proof: for every group and layer that is offered why it is not proven, "" where it is.  None: that was not asked.
    """

    groups: tuple[Group, ...]
    layers: tuple[Group, ...]
    found: tuple[Found, ...]
    _leaves: tuple[Leaf, ...]
    _facts: Facts
    _classes: Classes
    _batch: int
    _describe: Mapping[str, Description]
    proof: Mapping[str, str] | None = None

    @property
    def fixed(self) -> dict[tuple[str, int], str]:
        """Why axes of leaves stay as they are, and on which way: ``{(leaf, axis): reason}``."""
        return reasons.fixed(self._leaves, self._facts, self._classes)

    @property
    def left_out(self) -> dict[str, tuple[Group, str]]:
        """Groups that were found and are not offered, with the reason, by name."""
        offered = {group.name for group in self.groups}
        inner = "it lies inside the units of another group: discover(..., inner=True) offers it"
        return {
            one.group.name: (one.group, one.why_not or (inner if one.inner else "it was left out by name"))
            for one in self.found
            if one.group.name not in offered
        }

    @property
    def notes(self) -> dict[str, tuple[str, ...]]:
        """What in the program depends on how many units there are, by the name of the group, where anything does."""
        return {one.group.name: one.notes for one in self.found if one.notes}

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the leaves, of parameters and then of the state."""
        return tuple(tuple(map(len, leaf.axes)) for leaf in self._leaves)

    @property
    def is_recomputed(self) -> bool:
        """Whether statistics over units are recomputed over those that are left."""
        return self._facts.counts is not None

    @property
    def described(self) -> tuple[str, ...]:
        """The primitives that were described by hand."""
        return tuple(self._describe)

    @property
    def proven(self) -> "Discovered":
        """Those groups, and layers, alone that are proven.

        Raises:
          ValueError: they were not proven.
        """
        if self.proof is None:
            raise ValueError("groups: expected groups of which a proof was asked. Call discover(..., prove=True).")
        kept, layers = (tuple(one for one in some if not self.proof[one.name]) for some in (self.groups, self.layers))
        return replace(self, groups=kept, layers=layers, proof={one.name: "" for one in (*kept, *layers)})

    @property
    def unproven(self) -> dict[str, str]:
        """Groups and layers among these whose proof failed, and why, by name."""
        names = {one.name for one in (*self.groups, *self.layers)}
        return {name: why for name, why in (self.proof or {}).items() if why and name in names}

    def __getitem__(self, index: Any) -> Any:
        return self.groups[index]

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    def __str__(self) -> str:
        return table((*self.groups, *self.layers), self._leaves, self._facts, self._batch, self.proof)


def discover(
    network: Network,
    images: Any,
    *,
    inner: bool = False,
    prove: bool = False,
    rngs: Collection[str] = ("dropout",),
    describe: Mapping[str, Description] = MappingProxyType({}),
    normalised: str = "fixed",
) -> Discovered:
    """Finds the units of any network in its program: nothing is declared.

    The indices of every axis of every value are nodes, and every primitive says which go together.  An index of a
    merged axis (a flattened image, heads with their dimensions) lives if and only if all its factors do.  A class that
    is summed over by the products in which it is read can be removed: with zeros there, nothing of it is left.
    What must stay stays for a reason, ``found.fixed``: it reaches the outputs; a sum, mean or maximum runs over it; a
    statistic over it returns to it (LayerNorm, a softmax over the units); no rule describes what is done with it.

    Units are equal to what zeros in all of their leaves make of the program as it stands: where it divides by a number
    of units that it was written with (``1 / sqrt(k)``), the smaller network does too.  ``found.notes`` names groups
    along which the program has arrays or counts of its own.

    With ``normalised="recompute"``, units that a statistic is over (LayerNorm, RMSNorm, a softmax) are offered too: the
    statistic is then of those that are left.  A sum over units that is divided by their number, a constant of the
    program equal to it, is a mean, whose divisor becomes the new number, so cutting equals the same function built at
    the smaller width.  Such groups are ``recomputed``: to remove their units is not to gate them, and what gates
    refuses them.  Where a number multiplies a sum, or a power of it, and is no such divisor, or looks like a number of
    units (their root, one less) where statistics are, they stay, and ``found.fixed`` names it; numbers elsewhere in the
    program stay as they are, as do sums inside of functions with derivative rules of their own.

    Residual branches, values that are added to the very stream they are made from, are ``found.layers``.  Dimensions
    that differ from head to head are out of scope.

    Nothing is evaluated or compiled but for a proof.  ``train_apply`` is analysed too, where there is one; state that
    it returns goes with state that it reads.

    Args:
      network: any pure network; leaves may be ``jax.ShapeDtypeStruct``.
      images: [b, ...], or a ``jax.ShapeDtypeStruct``: only shape and type matter.
      inner: whether to offer also what lies inside other units: dimensions of heads, channels inside the groups of a
        convolution.
      prove: whether to cut all groups, and all of ``found.layers``, and to compare with gates, on random weights and
        images in float64, in evaluation mode and, where there is ``train_apply``, a training step with the state that
        comes back; what fails is found by bisection.  Groups that are ``recomputed`` are compared with the function of
        the smaller leaves; where it has its widths written into it, their counts are not checked, and they are not
        proven.  ``print`` then marks what is proven, and nothing that is not can be removed.  It compiles two or three
        programs, twice as large in training.
      rngs: names of the random streams of ``train_apply``, as in ``jp.train.fit``.
      describe: what primitives do that jaxprune does not know, by their names: a function of the static parameters and
        the shapes of the operands that returns the axes in letters, ``lambda params, *shapes: "b c, c k -> b k"``.  A
        letter of two operands that no result has is summed over, of their product; ``_`` stays.
      normalised: what becomes of units that a statistic is over: "fixed", they stay, or "recompute".

    Returns:
      The groups, gated where they are summed over: they have no sites.  ``jp.structured.gated`` and ``verify`` take
      them as they are, ``compact`` removes units, and ``Traced`` is the specification that a search takes.

    Raises:
      ValueError: leaves of parameters and state that share a name, a program with side effects, outputs that do not
        depend on the images, a description that does not fit.

    Source: the idea of dependency groups is DepGraph's (Fang, Ma, Song, Mi and Wang, 2023, arXiv 2301.12900), which has
    rules for layers of PyTorch; here they follow from the program.

    >>> net = Network(lambda p, s, x: jax.nn.relu(x @ p["in"] + p["bias"]) @ p["out"], {
    ...     "in": np.ones((3, 4)), "bias": np.ones(4), "out": np.ones((4, 2))})
    >>> found = discover(net, np.ones((1, 3)))
    >>> print(found)
    group  units  parameters  products  made by           read by
    in         4           6         5  bias[0], in[1]    out[0]
    >>> found.fixed["out", 1]
    'it reaches the outputs (the outputs)'
    """
    check.network(network)
    check_description(describe)
    check.choice("normalised", normalised, NORMALISED)
    check.takes(network, images, "images")
    names = check.distinct([*tree.names(network.params), *tree.names(network.state)])
    walk = Walk(describe, recompute=normalised == "recompute")
    leaves = follow(walk, program_of(network.apply, network.params, network.state, images), names)
    keys = {name: jax.random.key(0) for name in rngs}
    if network.train_apply is not None:
        tied = len(tree.names(network.params))
        training = program_of(network.train_apply, network.params, network.state, images, keys)
        _check_state(network.train_apply, network, images, keys)
        follow(walk, training, names, leaves, tied)
    classes = closed(walk.facts)
    found = listed(leaves, walk.facts, classes)
    offered = tuple(one.group for one in found if not one.why_not and (inner or not one.inner))
    program = trace(network.apply, network.params, network.state, images)
    layers = branches(program, names, len(tree.names(network.params)))
    taken = {group.name for group in offered}
    layers = tuple(replace(one, name=f"{one.name}#layer") if one.name in taken else one for one in layers)
    result = Discovered(offered, layers, found, leaves, walk.facts, classes, max(1, np.shape(images)[0]), describe)
    if not prove or not (offered or layers):
        return replace(result, proof={}) if prove else result
    from jaxprune.structured.discovery.proving import proven  # by ``compact``, which takes what was discovered

    return replace(result, proof=proven(network, result, images, keys))


def _check_state(train_apply: TrainApply, network: Network, images: Any, keys: Any) -> None:
    """Checks that a step returns outputs and a state like the one it takes."""
    made = jax.eval_shape(train_apply, network.params, network.state, images, keys)
    state = made[1] if isinstance(made, tuple) and len(made) == 2 else None
    if jax.tree.structure(state) != jax.tree.structure(network.state):
        raise ValueError(
            "network: expected train_apply to return (outputs, state), with a state like the one it takes, but got "
            f"{str(jax.tree.structure(made))[:200]}. Keep the structure of network.state."
        )


def program_of(function: Callable[..., Any], *arguments: Any) -> core.ClosedJaxpr:
    """Traces a function, and checks that it has no side effects."""
    made = to_read(function, *arguments)
    if made.effects:
        raise ValueError(
            f"network: expected a pure function, but its program has side effects: {made.effects}. Leave prints, "
            "callbacks and the like out of it."
        )
    return made


def follow(
    walk: Walk,
    program: core.ClosedJaxpr,
    names: Sequence[str],
    leaves: Sequence[Leaf] = (),
    tied: int | None = None,
) -> tuple[Leaf, ...]:
    """Walks through the program of a network: the first of its inputs are leaves, which may shrink; all others stay.

    Args:
      walk: collects the facts.
      program: of ``apply(params, state, images)``, or of ``train_apply(params, state, images, rngs)``.
      names: of the leaves.
      leaves: those that another walk had.
      tied: the number of the first leaf of the state, of a program that returns it after its outputs.

    Returns:
      The leaves.
    """
    facts = walk.facts
    shapes = [variable.aval.shape for variable in program.jaxpr.invars]
    leaves = tuple(leaves) or tuple(
        Leaf(name, tuple(facts.indices.fresh(length) for length in shape))
        for name, shape in zip(names, shapes, strict=False)
    )
    inputs = [
        Value(leaf.axes, WEIGHTS, (Origin(number, tuple(frozenset((axis,)) for axis in range(len(leaf.axes)))),))
        for number, leaf in enumerate(leaves)
    ]
    others = shapes[len(leaves) :]
    inputs += [Value(tuple(np.full(length, STAYS) for length in shape), IMAGES) for shape in others]
    outputs = walk.program(*opened(program), inputs)
    states = [] if tied is None else list(range(tied, len(leaves)))
    returned = outputs[len(outputs) - len(states) :] if states else []
    for number, value in zip(states, returned, strict=True):
        facts.indices.step = f"the state {leaves[number].name!r} that a step returns"
        if value.shape != tuple(map(len, leaves[number].axes)):
            raise ValueError(
                f"network: expected train_apply to return a state like the one it takes, but {leaves[number].name!r} "
                f"becomes one of shape {value.shape}."
            )
        for left, right in zip(leaves[number].axes, value.axes, strict=True):
            facts.indices.join(left, right)
        if value is not inputs[number]:
            facts.use(value)
    facts.indices.step = "the outputs"
    outputs = outputs[: len(outputs) - len(states)]
    if not any(output.source == IMAGES for output in outputs):
        raise ValueError(
            "network: expected outputs that depend on the images, but they do not. Is it the function that was meant?"
        )
    for output in outputs:
        for nodes in output.axes:
            facts.indices.fix(nodes, "it reaches the outputs")
        facts.use(output)
    return leaves


def closed(facts: Facts) -> Classes:
    """Draws what follows, until no statistic returns to the indices that it is over, unless it is recomputed.

    Then until nothing that cannot be recomputed over fewer units is over units that may go.
    """
    while True:
        classes = close(facts.indices)
        returning = _returning(facts, classes)
        stay, doubts = [nodes for _, nodes in returning], []
        if facts.counts is not None:
            sums = [nodes for one in facts.counts.sums if one.name in RECOMPUTED for nodes in one.nodes]
            recomputed = frozenset[int]().union(*map(classes.of, [*sums, *stay]))
            classes = replace(classes, recomputed=recomputed)
            sealed = [np.concatenate(facts.statistics[place]) for place in facts.closed_in]
            stay = [nodes for nodes in sealed if classes.of(nodes) & recomputed]
            doubts = facts.counts.doubted(recomputed, classes.of)
        if not stay and not doubts:
            return classes
        facts.indices.step = "a statistic"
        why = "a statistic over the units returns to them by a broadcast"
        why = why if facts.counts is None else "a statistic over the units inside of a derivative rule of its own"
        for nodes in stay:
            facts.indices.fix(nodes, why)
        for one in doubts:
            facts.indices.step = one.step
            for nodes in one.nodes:
                facts.indices.fix(nodes, one.why)


def _returning(facts: Facts, classes: Classes) -> list[tuple[tuple[int, ...], np.ndarray]]:
    """The statistics that return to what they are over: their place, and the indices."""
    events = [(place, np.concatenate(nodes)) for place, nodes in facts.statistics.items()]
    over = [classes.of(nodes) for _, nodes in events]
    found = []
    for nodes, marks in facts.spreads:
        along = classes.of(nodes)
        for bit, atoms in enumerate(over):
            if along and marks >> bit & 1 and along & atoms:
                found.append(events[bit])
                over[bit] = set()
    return found
