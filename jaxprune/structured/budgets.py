"""What a step of a search must remove, and in which currency.

A budget says how the cost of a network under gates is measured, how much of it a step removes, and how near to that a
whole layer must come.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxprune import check, cost
from jaxprune.groups import Specification
from jaxprune.structured.accounting import Account
from jaxprune.structured.gates import ones
from jaxprune.structured.removal import cut

Cost = Callable[[Mapping[str, Any]], float]
"""``gates -> number``."""


class Base(NamedTuple):
    """The network whose gates are counted: its shape, its arrays, and what its parts cost."""

    specification: Specification
    params: Any
    state: Any
    account: Account


@dataclass(frozen=True)
class Budget:
    """What a step removes.

    Attributes:
      name: the currency.
      cost_of: ``base -> (gates -> cost)``.
      share: the fraction of the dense network's cost that a step removes.  None: one dense layer's worth, the mean of
        the layers.
      layer_share: the layer candidate drops whole layers until this much of the step's amount is gone.  None: it drops
        one layer, and the neuron candidate removes exactly as much as that layer took.
    """

    name: str
    cost_of: Callable[[Base], Cost]
    share: float | None = None
    layer_share: float | None = 0.8

    def amount(self, dense: Base) -> float | None:
        """What a step removes, in the currency; None: what one layer takes."""
        if self.layer_share is None:
            return None
        cost_of, gates = self.cost_of(dense), ones(dense.account.groups)
        whole = cost_of(gates)
        if self.share is not None:
            return self.share * whole
        layers = [group for group in dense.account.groups if group.is_layer]
        if not layers:
            raise ValueError(
                "budget: expected a share of the dense network, since it has no layer to measure a step by, but got "
                "None. Pass share=0.1 or so."
            )
        amount = float(np.mean([whole - cost_of({**gates, layer.name: np.array([False])}) for layer in layers]))
        if amount <= 0:
            raise ValueError(
                f"budget: expected layers that take some {self.name}, but without one the network has {-amount:.3g} "
                "more on average. Measured latencies are noisy: pass a share, more repeats or larger images."
            )
        return amount


def macs(share: float | None = None) -> Budget:
    """Removes equal shares of the dense network's multiply-accumulates: the fair comparison, and the default.

    Args:
      share: of the dense network, for each step.  None: one dense layer's worth.
    """
    _check_share(share)
    return Budget("macs", lambda base: base.account.macs, share)


def parameters(share: float | None = None) -> Budget:
    """Removes equal shares of the dense network's parameters."""
    _check_share(share)
    return Budget("parameters", lambda base: base.account.parameters, share)


def filters() -> Budget:
    """Removes one layer, or exactly as many filters as it has: the budget of arXiv 2506.04513.

    The two do not cost the same: a filter fewer saves operations in two kernels, of small or of large images.
    """
    return Budget("filters", lambda base: base.account.filters, layer_share=None)


def latency(images: Any, share: float | None = None, *, repeats: int = 20) -> Budget:
    """Removes equal shares of the dense network's measured latency.

    Every measurement removes for real and compiles: slow, and never the same twice.

    Args:
      images: [b, h, w, c]: what is timed.
      share: of the dense network, for each step.  None: one dense layer's worth.
      repeats: runs behind each median.
    """
    _check_share(share)

    def cost_of(base: Base) -> Cost:
        @functools.cache
        def measured(key: tuple[tuple[str, bytes], ...]) -> float:
            gates = {name: np.frombuffer(value, dtype=bool) for name, value in key}
            specification, *arrays = cut(base.specification, base.params, base.state, gates)
            return cost.latency(specification.network(*arrays), images, repeats=repeats).seconds

        return lambda gates: measured(tuple((name, np.asarray(value).tobytes()) for name, value in gates.items()))

    return Budget("latency", cost_of, share)


def _check_share(share: float | None) -> None:
    if share is not None:
        check.positive("share", share)
        if share >= 1:
            raise ValueError(
                f"share: expected a fraction of the dense network in (0, 1), but got {share!r}. To remove 10 % of it "
                "in each step pass 0.1."
            )
