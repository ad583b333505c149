"""Which heads and hidden units go, and what those that stay are multiplied by: jointly, or unit by unit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np

import jaxprune as jp
from experiments.shared.discovered import behind_head, units
from experiments.shared.frozen_heads import World
from experiments.shared.methods import DENSE, Method
from experiments.shared.pruned import Goal, goal, without_labels
from jaxprune import losses
from jaxprune.structured import compensation, criteria, effects
from jaxprune.structured.gates import outputs

DISTANCES: Mapping[str, Any] = {kind: losses.distillation(kind) for kind in ("squared", "kl")}
"""Of the outputs, all classes of the pretraining, to those of the dense network, on images of the source."""


ALLOCATIONS = ("global", "normalised", "uniform")
"""Of methods that rate units one by one: how what they say of one group is compared with what they say of another."""


def _first_order(aim: Goal, groups: Any, matrix: str = "") -> dict[str, np.ndarray]:
    """The size of the slope of every gate, or its diagonal of a matrix."""
    scaled = jp.structured.factored(aim.network, groups, jp.structured.ones(groups))

    def of(batch: Any) -> Any:
        if matrix:
            return jp.curvature.diagonal(scaled, aim.loss, batch, matrix)
        return jp.curvature.gradient(scaled, aim.loss, batch)

    return {name: np.abs(np.asarray(one)) for name, one in jp.curvature.average(of, aim.images).items()}


def _criterion(make: Callable[[Goal], Any], aim: Goal, groups: Any) -> dict[str, np.ndarray]:
    return make(aim)(aim.network, groups, jp.structured.ones(groups), aim.images)


CONTROLS: Mapping[str, Callable[..., dict[str, np.ndarray]]] = {
    "label/diagonal": partial(_criterion, lambda aim: effects.second_order(aim.loss)),
    "label/fisher": partial(_first_order, matrix="empirical_fisher"),
    "label/taylor": _first_order,
    "magnitude": partial(_criterion, lambda aim: criteria.l2()),
    "activation": partial(_criterion, lambda aim: criteria.activation()),
}
"""What rates units one by one, beside chance and the diagonal of the joint Hessian: larger = keep."""


def _methods() -> dict[str, Method]:
    found = {}
    for word in ("logits/joint", "logits/diagonal", *CONTROLS, "random"):
        objective, _, score = word.rpartition("/")
        for update in ("none", "readjusted", *(["rounds"] if objective == "logits" else [])):
            method = Method(objective=objective or "none", score=score, update=update)
            found[method.word] = method
    return found


METHODS: Mapping[str, Method] = _methods()
"""By their words.  Updates: none; readjusted, by the joint Hessian at the dense network; rounds, by that of each."""


def has_distance(method: Method) -> bool:
    """Whether a method depends on the distance: the labelled scores, and those of one look, do not as they are."""
    return method.objective == "logits" or method.update != "none"


@dataclass(frozen=True)
class Scene:
    """What all runs of a seed share: its world, and what was computed once for all of them."""

    world: World
    hessians: dict[str, np.ndarray] = field(default_factory=dict)
    ratings: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    @property
    def dense(self) -> jp.Network:
        """The dense network, whose outputs are those of its own classifier."""
        return self.world.dense

    @cached_property
    def groups(self) -> tuple[Any, ...]:
        """The heads and the hidden units of every block; of a network of the user's own what its program has."""
        inputs = self.world.inputs
        if self.world.settings.network and inputs.weights is not None:
            return units(inputs.weights, inputs.images.image_shape)
        return tuple(group for group in self.dense.module.groups() if not group.is_layer)

    @cached_property
    def images(self) -> list[dict[str, Any]]:
        """The scoring images of the source, without labels."""
        return [without_labels(batch) for batch in self.world.scoring]

    @cached_property
    def taught(self) -> list[dict[str, Any]]:
        """The same, with the outputs of the dense network as their teacher."""
        return [{**batch, "teacher": outputs(self.dense, batch["image"])} for batch in self.images]

    def hessian(self, distance: str) -> np.ndarray:
        """The exact Hessian of a distance by all gates at the dense network."""
        if distance not in self.hessians:
            found = jp.structured.gate_hessian(self.dense, self.groups, self.images, loss=DISTANCES[distance])
            self.hessians[distance] = found
        return self.hessians[distance]

    def rated(self, word: str, distance: str) -> dict[str, np.ndarray]:
        """What a method, without its update, says of every unit: larger = keep."""
        if word == "logits/diagonal":
            return compensation.named(self.groups, np.diagonal(self.hessian(distance)))
        if word not in self.ratings:
            make = CONTROLS.get(word, partial(_criterion, lambda _: criteria.random(jax.random.key(self.world.seed))))
            self.ratings[word] = make(goal(self.world, "label"), behind_head(self.groups, self.dense))
        return self.ratings[word]

    def factors(self, run: Any) -> dict[str, dict[str, np.ndarray]]:
        """Says what every unit is multiplied by, 0 where it is gone, under each allocation that a method may have."""
        if run.word == DENSE.word:
            return {"": {group.name: np.ones(group.size) for group in self.groups}}
        if run.score == "joint":
            found = jp.structured.prune_jointly(
                self.dense,
                self.groups,
                self.images,
                run.share,
                loss=DISTANCES[run.distance],
                per="units",
                damping=run.damping,
                readjust=run.update != "none",
                rounds=run.rounds if run.update == "rounds" else 1,
                hessian=self.hessian(run.distance),
            )
            return {"": found.factors}
        how = self._in_rounds if run.update == "rounds" else self._at_once
        return {allocation: how(run, allocation) for allocation in ALLOCATIONS}

    def _at_once(self, run: Any, allocation: str) -> dict[str, np.ndarray]:
        rated = self.rated(run.word.partition("+")[0], run.distance)
        gates = self._without(jp.structured.ones(self.groups), rated, 1 - run.share, allocation)
        if run.update == "none":
            return {name: 1.0 * alive for name, alive in gates.items()}
        return jp.structured.readjusted(self.groups, self.hessian(run.distance), gates, damping=run.damping)

    def _in_rounds(self, run: Any, allocation: str) -> dict[str, np.ndarray]:
        """The diagonal in as many rounds as the joint Hessian has, re-adjusted in each by the same Hessian."""
        groups, loss, here = self.groups, DISTANCES[run.distance], self.dense
        gates, factors = jp.structured.ones(groups), {group.name: np.ones(group.size) for group in groups}
        for number in range(1, run.rounds + 1):
            hessian = jp.structured.gate_hessian(here, groups, self.taught, loss=loss, gates=gates, matrix="ggn")
            scaled = jp.structured.factored(here, groups, gates)
            slope = jp.curvature.average(lambda batch, at=scaled: jp.curvature.gradient(at, loss, batch), self.taught)
            slopes = {name: np.asarray(values, np.float64) for name, values in slope.items()}
            # What the model says of each unit alone: its curvature, and the slope at which it stands.
            halves = compensation.named(groups, np.diagonal(hessian) / 2)
            rated = {name: half - slopes.get(name, 0.0) for name, half in halves.items()}
            gates = self._without(gates, rated, (1 - run.share) ** (number / run.rounds), allocation)
            step = jp.structured.readjusted(groups, hessian, gates, slope=slopes, damping=run.damping)
            factors = {name: values * step[name] for name, values in factors.items()}
            here = jp.structured.fold(self.dense, groups, factors)
        return factors

    def _without(self, gates: Any, rated: Any, left: float, allocation: str) -> dict[str, np.ndarray]:
        """Drops the lowest-rated units until only a share of all is left."""
        whole = sum(group.size for group in self.groups)
        count = _units(gates) - (whole - round(whole * (1 - left)))
        if count == 0:
            return gates
        found = jp.structured.drop_units(self.groups, gates, rated, _units, count, allocation=allocation)
        if found is None:
            raise ValueError(
                f"shares: expected units that can go, but with {allocation} allocation too few are above the least "
                f"that each group keeps for {1 - left:g} of them to go. Take a smaller share, or a wider network."
            )
        return found


def _units(gates: Mapping[str, Any]) -> int:
    return int(sum(np.sum(one) for one in gates.values()))
