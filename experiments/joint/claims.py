"""What the study of joint pruning claims of paired differences of accuracy."""

from collections.abc import Callable, Iterator

from experiments.joint.results import (
    CONTROLS,
    Networks,
    Results,
    dense_of,
    differences,
    grouped,
    hits_of,
    removed_share,
)
from experiments.joint.settings import CONTROL, Settings
from experiments.shared.results import Case, Claim, above_zero, case, interval, keeps

Pairs = Callable[[Results, str, str], tuple[Networks, Networks]]
"""(results, budget, chooser) -> networks, and what they are compared with."""


def claims(settings: Settings) -> list[Claim]:
    """Lists the claims; whatever way each comes out is what the page says."""
    kept, within = keeps(settings.margin), within_margin(settings.margin)
    last, dense = "accuracy of the last network", f"within {within} of the dense one"
    tuned, better = f"{dense} tuned for as many steps", "accuracy above that of {}, at equal operations"
    return [
        Claim("keeps", f"{last}, {dense}", _cases(_last, "dense"), kept),
        Claim("keeps, corrupted", f"{last} on corrupted images, {dense}", _cases(_last, "dense", "corrupted"), kept),
        Claim("keeps, shifted", f"{last} on shifted images, {dense}", _cases(_last, "dense", "shifted"), kept),
        Claim("keeps, equal training", f"{last}, {tuned}", _cases(_equally_trained, CONTROL), kept),
        *(Claim(f"beats {one}", better.format(one), _cases(_beside(one), one), above_zero) for one in CONTROLS),
    ]


def within_margin(margin: float) -> str:
    """Writes how much accuracy a network may lose and still count as kept.

    >>> within_margin(0.01), within_margin(0.005)
    ('1 point', '0.5 points')
    """
    return f"{100 * margin:g} point{'' if margin == 0.01 else 's'}"


def _cases(pairs: Pairs, against: str, condition: str = "") -> Callable[[Results], Iterator[Case]]:
    """Compares the networks of every budget and chooser with others; on all conditions of a group, or clean."""

    def cases(results: Results) -> Iterator[Case]:
        conditions = grouped(results.conditions).get(condition, [])
        if condition and not conditions:
            return
        for budget in results.budgets:
            for chooser in results.pruning(budget):
                networks, others = pairs(results, budget, chooser)
                if networks:
                    sides = [interval(hits_of(side, conditions)) for side in (networks, others)]
                    floor = all(side.low <= 1 / results.classes for side in sides)
                    yield case(
                        {"budget": budget, "chooser": chooser, "against": against},
                        differences(networks, others, conditions),
                        verdict="undecided (floor)" if floor else "",
                        more={
                            "removed": removed_share(networks),
                            "removed_against": removed_share(others),
                            "accuracy": sides[0].mean,
                            "accuracy_against": sides[1].mean,
                        },
                    )

    return cases


def _last(results: Results, budget: str, chooser: str) -> tuple[Networks, Networks]:
    networks = results.last(budget, chooser)
    return networks, dense_of(networks)


def _equally_trained(results: Results, budget: str, chooser: str) -> tuple[Networks, Networks]:
    return results.equally_trained(budget, results.last(budget, chooser))


def _beside(control: str) -> Pairs:
    def pairs(results: Results, budget: str, chooser: str) -> tuple[Networks, Networks]:
        return ([], []) if chooser in CONTROLS else results.at_equal_operations(budget, chooser, control)

    return pairs
