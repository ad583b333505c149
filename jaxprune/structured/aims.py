"""What a pruning has to remove, in which currency, and which unit goes next."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxprune.groups import Group
from jaxprune.structured.accounting import Account
from jaxprune.structured.budgets import Cost
from jaxprune.structured.gates import ones

CURRENCIES = ("operations", "parameters", "units")


class Aim:
    """What may go, and what has to: gates on their way to a target.

    Attributes:
      gates: which units live.
      whole: the cost of the dense network.
      removed: what is gone of it.

    Args:
      book: what the network costs under gates.
      units: the groups whose units may go.
      per: one of ``CURRENCIES``.
      target: the share that goes.
      multiple: widths that change become multiples of this number.
    """

    def __init__(self, book: Account, units: Sequence[Group], per: str, target: float, multiple: int = 1) -> None:
        self._units, self._multiple = units, multiple
        self._cost: Cost = {"operations": book.macs, "parameters": book.parameters, "units": self._count}[per]
        self.gates = ones(book.groups)
        self.whole, self.removed = self._cost(self.gates), 0.0
        self._amount = round(target * self.whole) if per == "units" else target * self.whole
        self._owner = [(group, unit) for group in units for unit in range(group.size)]
        self._check(per, target)
        self._saved = {group.name: self._saving(group) for group in units}
        # A kernel between two groups saves by a unit of one what is left of the other.
        leaves = {group.name: [member.leaf for member in group.members] for group in units}
        self._touched = {
            group.name: [
                other
                for other in units
                if (set(leaves[group.name]) & set(leaves[other.name]) and other is not group)
                or (other is group and len(set(leaves[group.name])) < len(leaves[group.name]))
            ]
            for group in units
        }

    def met(self, share: float = 1.0) -> bool:
        """Whether enough is gone, or a share of that, and no width is on its way to a multiple."""
        return self.removed >= share * self._amount and not any(map(self._underway, self._units))

    def next(self, prices: np.ndarray) -> int:
        """The unit of the lowest price for each part of the cost that it saves, ties by position."""
        underway = [group.name for group in self._units if self._underway(group)]
        able = {
            group.name: group.name in underway or (not underway and self._following(group) >= self._floor(group))
            for group in self._units
        }
        saved = np.concatenate([np.full(group.size, self._saved[group.name]) for group in self._units])
        may = np.concatenate([self.gates[group.name] & able[group.name] for group in self._units])
        with np.errstate(over="ignore"):  # what saves nothing goes last
            # What does good by going, does the more good the more it saves.
            rates = np.where(prices < 0, prices * saved, prices / np.maximum(saved, np.finfo(float).tiny))
        places = np.flatnonzero(may)
        return int(places[np.argmin(rates[places])])

    def remove(self, unit: int) -> tuple[str, int]:
        """Removes a unit; returns its group and its number there."""
        group, number = self._owner[unit]
        self.removed += self._saved[group.name]
        self.gates[group.name][number] = False
        for other in self._touched[group.name]:
            self._saved[other.name] = self._saving(other)
        return group.name, number

    def _floor(self, group: Group) -> int:
        return -(-max(group.floor, 1) // self._multiple) * self._multiple

    def _following(self, group: Group) -> int:
        """The next smaller width that is a multiple."""
        return (int(self.gates[group.name].sum()) - 1) // self._multiple * self._multiple

    def _underway(self, group: Group) -> bool:
        alive = int(self.gates[group.name].sum())
        return alive < group.size and alive % self._multiple > 0

    def _saving(self, group: Group) -> float:
        """What the network saves without one more unit of a group."""
        less = self.gates[group.name].copy()
        less[np.argmax(less)] = False
        return self._cost(self.gates) - self._cost({**self.gates, group.name: less})

    def _count(self, gates: Mapping[str, Any]) -> float:
        return float(sum(np.sum(gates[group.name]) for group in self._units))

    def _check(self, per: str, target: float) -> None:
        least = {group.name: np.arange(group.size) < self._floor(group) for group in self._units}
        most = self.whole - self._cost({**self.gates, **least})
        if not 0 < self._amount <= most:
            raise ValueError(
                f"target: expected a share of the {per} that units make up, from one of them to "
                f"{most / self.whole:.4g} (each group keeps its floor, and what belongs to no unit stays), but got "
                f"{target!r}. Pass another share, or more groups."
            )
