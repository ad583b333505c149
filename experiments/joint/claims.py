"""What the study of joint pruning claims, and the verdict on every claim."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pandas as pd

from experiments.joint_results import CONTROLS, Results, Side, dense, kinds, share
from experiments.joint_settings import CONTROL
from experiments.transfer_results import Table
from jaxprune import stats


class Case(NamedTuple):
    """Two networks for each seed, and under which conditions they are compared."""

    budget: str
    chooser: str
    against: str
    side: Side
    than: Side
    conditions: Sequence[str] = ()


class Claim(NamedTuple):
    """Something that holds of a paired difference in points, for every case."""

    name: str
    meaning: str
    cases: Callable[[Results], Iterator[Case]]
    verdict: Callable[[stats.Interval], str]


def claims(margin: float) -> list[Claim]:
    """Lists the claims; whatever way each comes out is what the page says."""
    keeps = lambda interval: stats.at_least(interval, -100 * margin)  # noqa: E731
    better = lambda interval: stats.above(interval, 0.0)  # noqa: E731
    points = f"{100 * margin:g} point{'' if margin == 0.01 else 's'}"
    listed = [Claim("keeps", f"accuracy of the last network, within {points} of the dense one", _last(()), keeps)]
    for kind in ("corrupted", "shifted"):
        meaning = f"accuracy of the last network on {kind} images, within {points} of the dense one"
        listed.append(Claim(f"keeps, {kind}", meaning, _last((kind,)), keeps))
    meaning = f"accuracy of the last network, within {points} of the dense one tuned for as many steps"
    listed.append(Claim("keeps, equal training", meaning, _equally_trained, keeps))
    for control in CONTROLS:
        meaning = f"accuracy above that of {control}, at equal operations"
        listed.append(Claim(f"beats {control}", meaning, _beats(control), better))
    return listed


def verdicts(results: Results, listed: Sequence[Claim]) -> Table:
    """Tests every claim in every case: one row each, with the paired difference in points and its interval."""
    rows = []
    chance = 1 / results.classes
    for claim in listed:
        for case in claim.cases(results):
            found = results.change(case.side, case.than, case.conditions)
            sides = [
                results.interval([course.right(step, case.conditions) for course, step in one])
                for one in (case.side, case.than)
            ]
            floor = all(one.low <= chance for one in sides)
            rows.append(
                {
                    "claim": claim.name,
                    "meaning": claim.meaning,
                    "budget": case.budget,
                    "chooser": case.chooser,
                    "against": case.against,
                    "removed": share(case.side),
                    "removed_against": share(case.than),
                    "accuracy": sides[0].mean,
                    "accuracy_against": sides[1].mean,
                    **dict(zip(("difference", "low", "high"), found.points, strict=True)),
                    "n": found.n,
                    "seeds": found.seeds,
                    "verdict": "undecided (floor)" if floor else claim.verdict(found.points),
                }
            )
    return pd.DataFrame(rows, columns=_COLUMNS)


_COLUMNS = ["claim", "meaning", "budget", "chooser", "against", "removed", "removed_against", "accuracy"]
_COLUMNS += ["accuracy_against", "difference", "low", "high", "n", "seeds", "verdict"]


def _last(wanted: Sequence[str]) -> Callable[[Results], Iterator[Case]]:
    def cases(results: Results) -> Iterator[Case]:
        found = kinds(results.conditions)
        conditions = [name for kind in wanted for name in found.get(kind, [])]
        if wanted and not conditions:
            return
        for budget in results.budgets:
            for chooser in results.present(budget):
                side = [(course, course.last) for course in results.moving(budget, chooser)]
                yield Case(budget, chooser, "dense", side, dense(side), conditions)

    return cases


def _equally_trained(results: Results) -> Iterator[Case]:
    for budget in results.budgets:
        for chooser in results.present(budget):
            last = [(course, course.last) for course in results.moving(budget, chooser)]
            side, than = results.trained_on(budget, last)
            if side:
                yield Case(budget, chooser, CONTROL, side, than)


def _beats(control: str) -> Callable[[Results], Iterator[Case]]:
    def cases(results: Results) -> Iterator[Case]:
        for budget in results.budgets:
            for chooser in results.present(budget):
                side, than = results.against(budget, chooser, control)
                if chooser not in CONTROLS and side:
                    yield Case(budget, chooser, control, side, than)

    return cases
