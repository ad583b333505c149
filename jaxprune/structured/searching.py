"""The search: at every step a smaller candidate without layers, one without neurons, and a choice between them."""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from jaxprune import check
from jaxprune.groups import Group, Specification, check_specification
from jaxprune.network import Network
from jaxprune.structured import budgets, selection
from jaxprune.structured.budgets import Base, Budget
from jaxprune.structured.choosers import KINDS, Chooser
from jaxprune.structured.criteria import Criterion, Ratings
from jaxprune.structured.gates import ones
from jaxprune.structured.limits import Shares, bounded, limited
from jaxprune.structured.selection import Gating
from jaxprune.structured.steps import Bases, Clock, Step, difference, finished, opened
from jaxprune.types import Batch

# A rest of less than a fifth of a step is no step of its own: it would be one more training, for next to nothing.
_LAST = 1.2
# Nor is a layer put beside neurons if it passes the target by more than this share of what is left.
_BEYOND = 0.2


@runtime_checkable
class Tune(Protocol):
    """Trains a network a little: ``(network, parent, step, stage) -> network``.

    The network and its parent are gated; the parent may teach.  ``stage`` is "brief", for a candidate, or "long", for
    the one that was kept.  The gates are part of the state, and must stay as they are.
    """

    def __call__(self, network: Network, parent: Network, step: int, stage: str, /) -> Network: ...


class Compaction(NamedTuple):
    """When to remove for real before the end: a rule without a clock, so that a search can be repeated.

    Attributes:
      macs: the multiply-accumulates that the device does in the time that compiling the smaller network takes.
      examples: training images in a step of the search; each takes three times the operations of one evaluation.
    """

    macs: float
    examples: int


@dataclass(frozen=True)
class Search:
    """A search, configured.  Call it with a network.

    At every step, the layer candidate loses its lowest-rated layers and the neuron candidate its lowest-rated units,
    as much as the budget says.  Both are tuned briefly, the chooser keeps one, and that one is tuned for long.  All
    of this runs in the dense network under gates, so no step compiles anything new.

    That what is removed computes what was gated is checked on numbers before the first step, and whenever the base was
    made smaller: a few forward passes of four images, see ``jp.structured.verify``, which checks the members as well.

    Attributes:
      criteria: ``{"layer": criterion, "neurons": criterion}``.
      chooser: which candidate is kept; of equal ones the layer.
      tune: trains candidates, and the one that was kept.
      scoring: batches for the criteria.
      image_shape: (h, w, c), for the operations.
      target: the search ends when this share of the dense network's operations is gone; the last step is
        as large as what is left (within ``budgets.macs`` up to 1.2 times the others), and a layer that would pass the
        target by more than a fifth of that is no candidate beside neurons.  None: when no layer can go any more, the
        rule of arXiv 2506.04513.
      budget: what a step removes.  A candidate that cannot be as much smaller is not made; where only one can be made
        it is kept without a contest, and where none can the search ends.
      allocation: how units of different groups compare, one of ``ALLOCATIONS``, or "paper": exactly as many filters as
        arXiv 2506.04513 removes, which needs ``budgets.filters()``.
      multiple: widths that change become multiples of this number.
      ignored: regular expressions of groups, or of their leaves, that stay as they are, see ``limited``.
      shares: how much of a group may go at most, for all or by regular expressions, see ``limited``.
      compaction: when to remove for real before the end.  None: gates serve all along.
      adjust: applied to every candidate before it is tuned, such as recalibrating BatchNorm.  None: nothing.
      seed: of what the allocation "paper" draws.
      steps: at most so many.

    Source: Nascimento et al. (2025), arXiv 2506.04513.
    """

    criteria: Mapping[str, Criterion]
    chooser: Chooser
    tune: Tune
    scoring: Iterable[Batch]
    image_shape: tuple[int, int, int]
    target: float | None = 0.8
    budget: Budget = field(default_factory=budgets.macs)
    allocation: str = "normalised"
    multiple: int = 1
    ignored: Collection[str] = ()
    shares: Shares = 1.0
    compaction: Compaction | None = None
    adjust: Callable[[Network], Network] | None = None
    seed: int = 0
    steps: int | None = None

    def __call__(self, specification: Specification, network: Network, start: Step | None = None) -> Iterator[Step]:
        """Runs the search, beginning with the dense network as step 0.

        Args:
          specification: the shape of the dense network.
          network: the dense network, trained.
          start: the last step of a search that was interrupted: what follows is what would have followed.

        Yields:
          Every step, complete.  The last one has reached the target, unless ``steps`` or the floors ended the search.

        Raises:
          ValueError: a target outside (0, 1), criteria that are missing, members that do not fit, groups whose removal
            is not what their gates do, a network that is not the specification's, a budget that nothing can meet in
            the first step, ratings that are not finite.
        """
        self._check(specification)
        floors = {one.name: one.floor for one in self._free(specification)}
        gates = ones(specification.groups())
        first = Step(
            0, "dense", specification, network.params, network.state, specification, gates, 0, 0, 0, {}, {}, {}
        )
        bases = Bases(specification, network, self.image_shape)
        dense = bases.of(first)
        amount = self.budget.amount(dense)
        whole = dense.account.macs(gates)
        step = start
        if step is None:
            gated_network = opened(dense, gates)
            step = finished(dense, 0, "dense", gated_network, gates, removed={}, scores={}, seconds={})
            yield step
        while not self._ended(step, whole, floors):
            base = bases.of(step)
            goal = 0.0 if self.target is None else (1 - self.target) * whole
            following = self._advance(base, step, self._wanted(amount, step, goal), goal, floors)
            if following is None:
                self._demand_progress(step)
                return
            step = self._rebased(following, base, whole)
            yield step

    def _free(self, specification: Specification) -> Sequence[Group]:
        """The groups of the dense network that may lose units, with the floors that are asked for."""
        return limited(specification.groups(), ignored=self.ignored, shares=self.shares)

    def _ended(self, step: Step, whole: int, floors: Mapping[str, int]) -> bool:
        if self.steps is not None and step.number >= self.steps:
            return True
        if self.target is not None:
            # (1 - 0.8) * 1000 is 199.99...: what is at the target has reached it.
            return step.macs <= (1 - self.target) * whole * (1 + 1e-9)
        return not selection.can_drop_layers(bounded(step.base.groups(), floors), step.gates)

    def _wanted(self, amount: float | None, step: Step, goal: float) -> float | None:
        """What the next step removes: where the currency is that of the target, the last step removes what is left."""
        left = step.macs - goal
        in_macs = amount is not None and self.target is not None and self.budget.name == "macs"
        return left if in_macs and left < _LAST * (amount or 0.0) else amount

    def _check(self, specification: Specification) -> None:
        check_specification(specification)
        kinds = {"layer" if group.is_layer else "neurons" for group in self._free(specification)}
        if not kinds.intersection(self.chooser.kinds):
            raise ValueError(
                f"specification: expected groups that {self.chooser.name!r} can choose ({', '.join(self.chooser.kinds)}"
                f"), but it has {' and '.join(sorted(kinds)) or 'none'}. Declare some, or pass another chooser."
            )
        if self.target is not None and not 0 < self.target < 1:
            raise ValueError(
                f"target: expected the share of operations to remove, in (0, 1), but got {self.target!r}. To remove "
                "80 % pass 0.8."
            )
        for kind in self.criteria:
            check.choice("criteria", kind, KINDS)
        for kind in self.chooser.kinds:
            if kind not in self.criteria:
                raise ValueError(f"criteria: expected one for {kind!r}, but got them for {sorted(self.criteria)}.")
        if self.allocation != "paper":
            check.choice("allocation", self.allocation, selection.ALLOCATIONS)
        selection.check_multiple(self.multiple)
        if isinstance(self.scoring, Iterator):
            raise ValueError("scoring: expected batches that can be read again, but got an iterator. Pass a list.")
        if self.allocation == "paper" and self.budget.name != "filters":
            raise ValueError(
                "allocation: 'paper' draws an exact number of filters, so it needs budgets.filters(), but the budget "
                f"is {self.budget.name!r}. Pass another allocation or that budget."
            )

    def _demand_progress(self, step: Step) -> None:
        if step.number == 0:
            kinds = " and no ".join(self.chooser.kinds)
            raise ValueError(
                f"budget: expected a step that can be made, but no {kinds} candidate above the floors removes as much "
                f"{self.budget.name} as asked for. Lower the share of a step, or the floors."
            )

    def _advance(
        self, base: Base, step: Step, amount: float | None, goal: float, floors: Mapping[str, int]
    ) -> Step | None:
        """One step; None where no candidate can be made."""
        free = bounded(base.account.groups, floors)
        clock, number = Clock(), step.number + 1
        with clock.part("criterion"):
            parent = opened(base, step.gates)
            options = self._chosen(self._options(base, free, step, amount, goal), number)
        if not options:
            return None
        with clock.part("brief"):
            candidates = {kind: self._tuned(opened(base, gates), parent, number) for kind, gates in options.items()}
        with clock.part("choice"):
            scores = self._scores(parent, candidates)
            kind = max(candidates, key=lambda one: scores.get(one, 0.0))  # of equal ones the first: the layer
        with clock.part("long"):
            winner = self._trained(candidates[kind], parent, number, "long")
        removed = {name: difference(base, step.gates, gates) for name, gates in options.items()}
        return finished(
            base, number, kind, winner, options[kind], removed=removed, scores=scores, seconds=clock.seconds
        )

    def _chosen(self, options: dict[str, Gating], number: int) -> dict[str, Gating]:
        """The candidates to be tuned: one where the chooser decides before, else all."""
        if not options or self.chooser.before is None:
            return options
        chosen = self.chooser.before(number, tuple(options))
        if chosen not in options:
            raise ValueError(
                f"chooser: expected one of {', '.join(options)}, but {self.chooser.name!r} chose {chosen!r}."
            )
        return {chosen: options[chosen]}

    def _scores(self, parent: Network, candidates: Mapping[str, Network]) -> dict[str, float]:
        """What the chooser gives the candidates; nothing where there is no contest."""
        if self.chooser.compare is None or len(candidates) < 2:
            return {}
        scores = self.chooser.compare(parent, candidates)
        if scores.keys() != candidates.keys() or not np.all(np.isfinite(list(scores.values()))):
            raise ValueError(
                f"chooser: expected numbers for {', '.join(candidates)}, but {self.chooser.name!r} gave {scores}."
            )
        return scores

    def _tuned(self, candidate: Network, parent: Network, number: int) -> Network:
        adjusted = candidate if self.adjust is None else self.adjust(candidate)
        return self._trained(adjusted, parent, number, "brief")

    def _trained(self, network: Network, parent: Network, number: int, stage: str) -> Network:
        before = {name: np.asarray(value) for name, value in network.state["gates"].items()}
        tuned = self.tune(network, parent, number, stage)
        state = tuned.state if isinstance(tuned, Network) else tuned
        if not isinstance(tuned, Network) or not isinstance(state, Mapping) or not network.state.keys() <= state.keys():
            raise ValueError(
                "tune: expected the gated network, trained, with the state {'gates': ..., 'network': ...}, but got "
                f"{type(tuned).__name__ if state is tuned else sorted(state)}. Return network.replace(params=...)."
            )
        if any(not np.array_equal(value, tuned.state["gates"][name]) for name, value in before.items()):
            raise ValueError("tune: expected the gates in the state as they were, but they changed. Train params only.")
        return tuned

    def _options(
        self, base: Base, groups: Sequence[Group], step: Step, amount: float | None, goal: float
    ) -> dict[str, Gating]:
        """The gates of the candidates that can be made, the layer first."""
        cost, rated = self.budget.cost_of(base), self._ratings(base, groups, step)
        layer = neurons = None
        # Where the layer sets the amount, it is looked for even by a chooser that takes neurons only.
        if "layer" in self.chooser.kinds or (amount is None and "layer" in self.criteria):
            share = self.budget.layer_share
            wanted = None if amount is None or share is None else share * amount
            layer = selection.drop_layers(groups, step.gates, rated("layer"), cost, wanted)
        if "neurons" in self.chooser.kinds:
            if amount is None:
                amount = _one_layer(base, step, cost) if layer is None else cost(step.gates) - cost(layer)
            neurons = self._fewer_units(base, groups, step, rated("neurons"), cost, amount)
            if self.allocation != "paper" and (neurons is None or base.account.macs(neurons) < goal):
                # In any currency a search ends at the target: further than that would compare unequal networks.
                book, rest = base.account, step.macs - goal
                to_goal = self._fewer_units(base, groups, step, rated("neurons"), book.macs, rest)
                neurons = to_goal or neurons
        if layer is not None and neurons is not None:
            beyond = goal - base.account.macs(layer)
            layer = None if beyond > _BEYOND * (step.macs - goal) else layer
        found = {kind: gates for kind, gates in zip(KINDS, (layer, neurons), strict=True) if gates is not None}
        return {kind: gates for kind, gates in found.items() if kind in self.chooser.kinds}

    def _ratings(self, base: Base, groups: Sequence[Group], step: Step) -> Callable[[str], Ratings]:
        """Rates with the criterion of a kind; one that serves both kinds is asked once."""
        network, known = base.specification.network(base.params, base.state), {}

        def rated(kind: str) -> Ratings:
            criterion = self.criteria[kind]
            if id(criterion) not in known:
                known[id(criterion)] = criterion(network, groups, step.gates, self.scoring)
                _check_ratings(known[id(criterion)], kind, groups)
            return known[id(criterion)]

        return rated

    def _fewer_units(
        self,
        base: Base,
        groups: Sequence[Group],
        step: Step,
        ratings: Ratings,
        cost: budgets.Cost,
        amount: float,
    ) -> Gating | None:
        if self.allocation == "paper":
            total, seed = base.account.filters(step.gates), (self.seed, step.number)
            return selection.drop_filters(groups, step.gates, ratings, int(amount), total, seed=seed)
        options: dict[str, Any] = {"allocation": self.allocation, "multiple": self.multiple}
        return selection.drop_units(groups, step.gates, ratings, cost, amount, **options)

    def _rebased(self, step: Step, base: Base, whole: int) -> Step:
        """Makes the small network the base, where that saves more operations than compiling takes."""
        if self.compaction is None:
            return step
        per_step = max((whole - step.macs) / step.number, 1.0)
        end = 0.0 if self.target is None else (1 - self.target) * whole
        to_come = math.ceil(max(step.macs - end, 0.0) / per_step)
        spared = base.account.macs(ones(base.account.groups)) - step.macs
        if 3 * to_come * self.compaction.examples * spared <= self.compaction.macs:
            return step
        return dataclasses.replace(step, base=step.specification, gates=ones(step.specification.groups()))


def _check_ratings(ratings: Mapping[str, Any], kind: str, groups: Sequence[Group]) -> None:
    """Checks that a criterion rated every unit with a finite number."""
    for group in groups:
        if group.is_layer != (kind == "layer") and group.name not in ratings:
            continue  # a criterion for one kind may leave the other out
        values = np.asarray(ratings.get(group.name, np.nan), dtype=float)
        if values.shape != (group.size,) or not np.all(np.isfinite(values)):
            raise ValueError(
                f"criteria: expected {group.size} finite ratings of {group.name!r}, but that for {kind!r} gives "
                f"{values.tolist()}. A criterion returns numbers [size] for every group by its name, larger = keep."
            )


def _one_layer(base: Base, step: Step, cost: budgets.Cost) -> float:
    """What the neuron candidate removes when no layer can go any more: as much as the last one that stands would."""
    layers = [group for group in base.account.groups if group.is_layer and step.gates[group.name][0]]
    costs = [cost(step.gates) - cost({**step.gates, layer.name: np.array([False])}) for layer in layers]
    if not costs:
        raise ValueError("budget: expected a layer to measure a step by, but the network has none. Use budgets.macs.")
    return min(costs)
