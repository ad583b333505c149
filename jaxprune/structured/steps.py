"""What a step of a search leaves behind, and the network that its gates are counted in."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jaxprune.cost import stopwatch
from jaxprune.groups import Specification, check_specification
from jaxprune.network import Network
from jaxprune.structured.accounting import account
from jaxprune.structured.budgets import Base
from jaxprune.structured.equality import check_removal
from jaxprune.structured.gates import gated
from jaxprune.structured.probes import images_of
from jaxprune.structured.removal import between, cut, remove, restore, structs
from jaxprune.structured.selection import Gating

# Images on which a base is checked.
_IMAGES = 4


@dataclass(frozen=True)
class Step:
    """What a step left behind.

    Attributes:
      number: 0 is the dense network.
      kind: "layer" or "neurons": what was removed; "dense" for number 0.
      specification: the shape of the network.
      params: its parameters.
      state: its state.
      base: the shape of the larger network in which it is gated.
      gates: which units of the base live.
      macs: multiply-accumulates for one image.
      parameters: the number of parameters.
      filters: the output channels of all convolutions.
      removed: for each candidate that was made, what it removed of macs, parameters and filters.
      scores: for each candidate, what the chooser gave it; empty where it chose before.
      seconds: what the parts of the step took (criterion, brief, choice, long), all without tracing, lowering and
        compiling, which "compile" is in all of them.  Where "compile" is not there, the parts contain it.
    """

    number: int
    kind: str
    specification: Specification
    params: Any
    state: Any
    base: Specification
    gates: Gating
    macs: int
    parameters: int
    filters: int
    removed: dict[str, dict[str, int]]
    scores: dict[str, float]
    seconds: dict[str, float]

    @property
    def network(self) -> Network:
        """The network of the step, really smaller."""
        return self.specification.network(self.params, self.state)


class Bases:
    """Finds the larger network that a step is gated in, the same whether the search was interrupted or not.

    Each is checked when it is first found: removing units from it must be gating them.

    Args:
      specification: the shape of the dense network.
      network: the dense network.
      image_shape: (h, w, c).
    """

    def __init__(self, specification: Specification, network: Network, image_shape: tuple[int, int, int]) -> None:
        self._dense, self._network = specification, network
        self._image_shape = image_shape
        self._accounts: list[tuple[Specification, Any]] = []

    def of(self, step: Step) -> Base:
        """Returns the base of a step, with zeros where units are gone."""
        like = _shapes(self._dense, self._network, step)
        params, state = restore(step.base, step.params, step.state, step.gates, like)
        return Base(step.base, params, state, self._account(step.base, params, state))

    def _account(self, specification: Specification, params: Any, state: Any) -> Any:
        for known, found in self._accounts:
            if known == specification:
                return found
        network = specification.network(params, state)
        if specification == self._dense:
            network = network.replace(apply=self._network.apply)  # what was given, should it compute something else
        check_removal(network, specification, images_of(network, (_IMAGES, *self._image_shape), seed=0))
        found = account(specification, params, state, self._image_shape)
        self._accounts.append((specification, found))
        return found


def reopen(specification: Specification, network: Network, step: Step) -> Network:
    """Makes the network of a step once more inside the larger one that it was gated in.

    It computes what ``step.network`` does, and shares its compiled programs with the other steps.

    Args:
      specification: the shape of the dense network, with which the search began.
      network: the dense network.
      step: a step of that search.
    """
    check_specification(specification)
    params, state = restore(step.base, step.params, step.state, step.gates, _shapes(specification, network, step))
    return gated(step.base.network(params, state), step.base.groups(), step.gates)


def _shapes(specification: Specification, network: Network, step: Step) -> tuple[Any, Any]:
    """The shapes of the arrays of a step's base."""
    whole = structs(network.params), structs(network.state)
    return cut(specification, *whole, between(specification, step.base))[1:]


def finished(
    base: Base,
    number: int,
    kind: str,
    winner: Network,
    gates: Gating,
    *,
    removed: Mapping[str, dict[str, int]],
    scores: Mapping[str, float],
    seconds: Mapping[str, float],
) -> Step:
    """Takes the units that are gone out of a gated network, and records it as a step."""
    specification, params, state = remove(base.specification, winner.params, winner.state["network"], gates)
    return Step(
        number=number,
        kind=kind,
        specification=specification,
        params=params,
        state=state,
        base=base.specification,
        gates=gates,
        **counts(base, gates),
        removed=dict(removed),
        scores=dict(scores),
        seconds=dict(seconds),
    )


def opened(base: Base, gates: Mapping[str, Any]) -> Network:
    """Makes the gated network of a base."""
    return gated(base.specification.network(base.params, base.state), base.account.groups, gates)


def counts(base: Base, gates: Mapping[str, Any]) -> dict[str, int]:
    """Counts macs, parameters and filters under gates."""
    book = base.account
    return {"macs": book.macs(gates), "parameters": book.parameters(gates), "filters": book.filters(gates)}


def difference(base: Base, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, int]:
    """Counts what lies between two gates."""
    left = counts(base, after)
    return {name: value - left[name] for name, value in counts(base, before).items()}


class Clock:
    """Notes how long the parts of a step take, without compilation, and what compilation took in all of them."""

    def __init__(self) -> None:
        self.seconds = {"compile": 0.0}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Notes how long what is done inside takes."""
        with stopwatch() as spent:
            yield
        self.seconds[name] = spent.seconds - spent.compiling
        self.seconds["compile"] += spent.compiling
