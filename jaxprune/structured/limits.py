"""Which groups may lose units, and how many: by regular expressions on names, whoever listed the groups."""

import dataclasses
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from jaxprune import check
from jaxprune.groups import Gates, Group, check_groups, living
from jaxprune.structured.criteria import Ratings
from jaxprune.structured.discovery import Discovered
from jaxprune.structured.selection import Gating, ascending, check_multiple

Groups = TypeVar("Groups", bound=Sequence[Group])
Shares = Mapping[str, float] | float


def limited(groups: Groups, *, ignored: Collection[str] = (), shares: Shares = 1.0) -> Groups:
    """Leaves groups out, and says of others how much of them may go at most, by regular expressions.

    A pattern means a group whose name it matches as a whole, or one whose units are made by a leaf whose name it
    matches so (``re.fullmatch``): ``"stem.*"``, ``".*/conv1"``, ``"head/kernel"``.  The floor of a group of n units
    becomes n - floor(share n), if it is not higher already.

    Args:
      groups: declared, of a specification, or what ``jp.structured.discover`` returned, which stays that.
      ignored: patterns of groups that stay as they are; they are not among the result.
      shares: the share of its units that a group may lose, in [0, 1]; by pattern, of which the first that matches
        counts, and groups of none are free.  Of layers (of one unit) only 0 or 1.

    Raises:
      ValueError: a pattern that is no regular expression, or matches no group; a share outside [0, 1].

    >>> from jaxprune.groups import Member
    >>> units = [Group(name, 8, (Member(f"{name}/kernel", 1),), ("",)) for name in ("stem", "block1", "block2")]
    >>> [(one.name, one.floor) for one in limited(units, ignored=["stem"], shares={"block1": 0.5})]
    [('block1', 4), ('block2', 1)]
    """
    listed = tuple(groups)
    check_groups(listed)
    left_out = _matched("ignored", ignored, listed)
    kept = tuple(group for group in listed if group.name not in left_out)
    allowed = _by_group(shares, kept)
    result = tuple(
        dataclasses.replace(
            group, floor=max(group.floor, group.size - math.floor(allowed[group.name] * group.size + 1e-9))
        )
        if group.name in allowed and not (group.is_layer and allowed[group.name] >= 1)
        else group
        for group in kept
    )
    if isinstance(groups, Discovered):
        return dataclasses.replace(groups, groups=result)
    return type(groups)(result) if isinstance(groups, list | tuple) else result  # pyright: ignore[reportReturnType]


def bounded(groups: Sequence[Group], floors: Mapping[str, int]) -> tuple[Group, ...]:
    """Those of some groups that have a floor among ``floors``, with it: what ``limited`` made of larger ones."""
    return tuple(dataclasses.replace(group, floor=floors[group.name]) for group in groups if group.name in floors)


def drop_shares(
    groups: Sequence[Group], gates: Gates, ratings: Ratings, shares: Shares, *, multiple: int = 1
) -> Gating:
    """Drops the lowest-rated units, in every group the share that is asked for: widths that are known beforehand.

    A group of n living units keeps n - floor(share n) of them, never fewer than its floor, rounded up to a multiple.

    Args:
      groups: layers among them are left alone.
      gates: which units live.
      ratings: larger = keep; ties go by position.
      shares: for all groups, or by regular expressions as in ``limited``; groups of none stay whole.
      multiple: widths that change become multiples of this number.

    Returns:
      New gates.

    Raises:
      ValueError: a pattern that is no regular expression, or matches no group; a share outside [0, 1].

    >>> units = [Group("units", 4, (), ("units",))]
    >>> drop_shares(units, {"units": np.ones(4, bool)}, {"units": np.array([3.0, 1, 4, 2])}, 0.5)
    {'units': array([ True, False,  True, False])}
    """
    check_multiple(multiple)
    wanted, alive = _by_group(shares, groups), living(groups, gates)
    left = {name: np.array(value) for name, value in gates.items()}
    for group in groups:
        count = int(alive[group.name].sum())
        if group.is_layer or not count or not wanted.get(group.name):
            continue
        kept = max(count - math.floor(wanted[group.name] * count + 1e-9), group.floor, 1)
        kept = math.ceil(kept / multiple) * multiple
        if kept < count:
            left[group.name][ascending(ratings[group.name], alive[group.name])[: count - kept]] = False
    return left


def _by_group(shares: Shares, groups: Sequence[Group]) -> dict[str, float]:
    """The share of every group that one is said of."""
    by_pattern: Mapping[str, Any] = shares if isinstance(shares, Mapping) else {".*": shares}
    for share in by_pattern.values():
        if not check.is_number(share) or not 0 <= share <= 1:
            raise ValueError(
                f"shares: expected the share of its units that a group loses, in [0, 1], but got {share!r}. For half "
                'of all pass 0.5, or by patterns {"stage4.*": 0.5}.'
            )
    found: dict[str, float] = {}
    for pattern, share in by_pattern.items():
        names = _matched("shares", [pattern], groups) if isinstance(shares, Mapping) else {one.name for one in groups}
        found = {**dict.fromkeys(names, float(share)), **found}
    return found


def _matched(argument: str, patterns: Collection[str], groups: Sequence[Group]) -> set[str]:
    """The names of the groups that patterns mean."""
    if isinstance(patterns, str):
        raise ValueError(f"{argument}: expected patterns in a list, but got {patterns!r}. Write [{patterns!r}].")
    found: set[str] = set()
    for pattern in patterns:
        try:
            expression = re.compile(pattern)
        except (re.error, TypeError) as error:
            raise ValueError(
                f'{argument}: expected regular expressions, but {pattern!r} is none ({error}). Write "stem.*" for all '
                "names that begin so."
            ) from error
        mine = {
            group.name
            for group in groups
            if any(map(expression.fullmatch, (group.name, *(one.leaf for one in group.members if not one.reads))))
        }
        if not mine:
            names = ", ".join(group.name for group in groups[:20])
            raise ValueError(
                f"{argument}: expected patterns of groups, but {pattern!r} matches none as a whole. The groups are: "
                f"{names}{', ...' if len(groups) > 20 else ''}."
            )
        found |= mine
    return found
