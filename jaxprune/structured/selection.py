"""From ratings to the gates of a candidate: which layers, or which units, go next."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprune import check
from jaxprune.groups import Group, living
from jaxprune.structured.budgets import Cost
from jaxprune.structured.criteria import Ratings
from jaxprune.structured.removal import stages

Gating = dict[str, np.ndarray]

ALLOCATIONS = ("global", "normalised", "per_cost", "uniform")
"""How units of different groups compare: by their ratings as they are; divided by the mean of their group; divided by
what the unit costs; or by their rank in their group, so that all groups shrink alike."""


def drop_layers(
    groups: Sequence[Group], gates: Mapping[str, Any], ratings: Ratings, cost: Cost, amount: float | None
) -> Gating | None:
    """Drops the lowest-rated layers until ``amount`` of the cost is gone; None of the amount: one layer.

    Ties go by position.  A stage keeps its floor.

    Returns:
      New gates, or None if the layers that may go do not suffice.
    """
    left = {name: np.array(value) for name, value in gates.items()}
    before = cost(left)
    for layer in sorted((group for group in groups if group.is_layer), key=lambda group: ratings[group.name][0]):
        if not left[layer.name][0] or not _above_floor(layer, groups, left):
            continue
        left[layer.name] = np.array([False])
        if amount is None or before - cost(left) >= amount:
            return left
    return None


def can_drop_layers(groups: Sequence[Group], gates: Mapping[str, Any]) -> bool:
    """Says whether a layer lives that may go."""
    return any(gates[one.name][0] and _above_floor(one, groups, gates) for one in groups if one.is_layer)


def drop_units(
    groups: Sequence[Group],
    gates: Mapping[str, Any],
    ratings: Ratings,
    cost: Cost,
    amount: float,
    *,
    allocation: str = "normalised",
    multiple: int = 1,
) -> Gating | None:
    """Drops the lowest-rated units until ``amount`` of the cost is gone, and no more than that takes.

    Args:
      groups: layers among them are left alone; units of layers that are gone do not count.
      gates: which units live.
      ratings: larger = keep.
      cost: of a network under gates; it falls with every unit.
      amount: what must go.
      allocation: one of ``ALLOCATIONS``.
      multiple: widths that change become multiples of this number.

    Returns:
      New gates, or None if the units above their floors do not suffice.

    Raises:
      ValueError: unknown allocation, or a multiple below 1.
    """
    check.choice("allocation", allocation, ALLOCATIONS)
    check_multiple(multiple)
    runs = _runs(groups, gates, ratings, _comparable(allocation, groups, gates, cost), multiple)
    start = {name: np.array(value) for name, value in gates.items()}

    def without(count: int) -> Gating:
        left = {name: value.copy() for name, value in start.items()}
        for run in runs[:count]:
            left[run.group][run.units] = False
        return left

    before = cost(start)
    if before - cost(without(len(runs))) < amount:
        return None
    low, high = 0, len(runs)  # without(low) removes too little, without(high) enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if before - cost(without(middle)) >= amount else (middle, high)
    return without(high)


def check_multiple(multiple: int) -> None:
    """Checks that widths can be multiples of a number."""
    if not isinstance(multiple, (int, np.integer)) or multiple < 1:
        raise ValueError(f"multiple: expected a whole number of 1 or more, such as 8, but got {multiple!r}.")


def drop_filters(
    groups: Sequence[Group],
    gates: Mapping[str, Any],
    ratings: Ratings,
    count: int,
    total: int,
    *,
    seed: int | Sequence[int],
) -> Gating | None:
    """Drops exactly ``count`` units as the code of arXiv 2506.04513 does.

    Every group loses the share count / total of its units, rounded to even; what is missing (about half, because
    ``total`` counts filters that no group has) goes one by one from groups drawn at random.

    Args:
      groups: layers among them are left alone.
      gates: which units live.
      ratings: larger = keep.
      count: how many units go.
      total: the filters of the whole network.
      seed: of the draw; the original's is not seeded.

    Returns:
      New gates, or None if fewer than ``count`` units are above their floors.
    """
    alive = living(groups, gates)
    units = {group.name: group for group in groups if not group.is_layer and alive[group.name].any()}
    spare = {name: int(alive[name].sum()) - max(group.floor, 1) for name, group in units.items()}
    if sum(spare.values()) < count:
        return None
    losing = {name: min(round(count / total * int(alive[name].sum())), spare[name]) for name in units}
    draw = np.random.default_rng(seed)
    while sum(losing.values()) != count:
        missing = count > sum(losing.values())
        able = [name for name in units if (losing[name] < spare[name] if missing else losing[name] > 0)]
        losing[str(draw.choice(able))] += 1 if missing else -1
    left = {name: np.array(value) for name, value in gates.items()}
    for name, lost in losing.items():
        left[name][ascending(ratings[name], alive[name])[:lost]] = False
    return left


class _Run(NamedTuple):
    """Units of one group that go together."""

    rating: float
    group: str
    units: np.ndarray


def _runs(
    groups: Sequence[Group],
    gates: Mapping[str, Any],
    ratings: Ratings,
    comparable: Callable[[Group, np.ndarray, np.ndarray], np.ndarray],
    multiple: int,
) -> list[_Run]:
    """All that may go, in the order of going; ties by position."""
    alive, runs = living(groups, gates), []
    for group in groups:
        count = int(alive[group.name].sum())
        if group.is_layer or not count:
            continue
        order = ascending(ratings[group.name], alive[group.name])
        values = comparable(group, ratings[group.name], order)
        floor = math.ceil(max(group.floor, 1) / multiple) * multiple
        start, size = 0, count % multiple or multiple
        while count - start - size >= floor:
            chosen = slice(start, start + size)
            runs.append(_Run(float(np.mean(values[chosen])), group.name, order[chosen]))
            start, size = start + size, multiple
    # A stable sort; the runs of a group ascend already, so none goes before the one below it.
    return sorted(runs, key=lambda run: run.rating)


def _comparable(
    allocation: str, groups: Sequence[Group], gates: Mapping[str, Any], cost: Cost
) -> Callable[[Group, np.ndarray, np.ndarray], np.ndarray]:
    """Turns the ratings of a group, in ascending order, into numbers that compare between groups."""
    before = cost(gates)

    def values(group: Group, ratings: np.ndarray, order: np.ndarray) -> np.ndarray:
        found = np.asarray(ratings, dtype=float)[order]
        if allocation == "uniform":
            return (np.arange(len(order)) + 1) / len(order)
        if allocation == "normalised":
            mean = np.mean(np.abs(found))
            return found / mean if mean > 0 else found
        if allocation == "per_cost":
            one_less = {**gates, group.name: gates[group.name] & (np.arange(group.size) != order[0])}
            saved = max(before - cost(one_less), np.finfo(float).tiny)
            # What does good by going, does the more good the more it saves.
            return np.where(found < 0, found * saved, found / saved)
        return found

    return values


def ascending(ratings: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """The living units, lowest first, ties by position."""
    order = np.argsort(ratings, kind="stable")
    return order[alive[order]]


def _above_floor(layer: Group, groups: Sequence[Group], gates: Mapping[str, Any]) -> bool:
    mates = stages(groups)[layer.stage]
    return sum(bool(gates[mate.name][0]) for mate in mates) > max(mate.floor for mate in mates)
