"""From the records of the study of gates to its claims: judged jointly, or unit by unit, with equal re-adjustment."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from experiments.gates.arms import METHODS, has_distance
from experiments.shared.results import GROUPS, Case, Claim, Results, above_zero, case, hits, of_group

PART = 3
"""The divergence is claimed to be at most one part in so many of that of the best control."""


def divergences(metrics: dict[str, Any], group: str) -> np.ndarray:
    """Reads the divergence from the dense network on every test image of a group: [n], in nats."""
    return np.concatenate([np.asarray(one) for one in of_group(metrics, metrics["divergence"], group)])


def place(word: str, distance: str, share: float) -> dict[str, Any]:
    """What names the cell of a method: of one that depends on no distance there is one for all."""
    return {"method": word, "distance": distance if has_distance(METHODS[word]) else "", "share": share}


def twin(word: str) -> str:
    """The joint method with the update of another one."""
    return "+".join(["logits/joint", *word.split("+")[1:]])


def claims(settings: Any) -> list[Claim]:
    """Lists the claims, on the source and on tasks that were never shown."""
    found = []
    for group in GROUPS:
        found += [
            Claim(
                f"joint is nearer, {group}",
                "KL to dense of units judged one by one, above that of the joint choice with the same update",
                _nearer(settings, group),
                above_zero,
                "nats",
            ),
            Claim(
                f"a third, {group}",
                f"KL to dense of the best choice one by one, re-adjusted alike, above {PART} times that of the joint "
                "one; the best is read off selection images",
                _a_part(settings, group),
                above_zero,
                "nats",
            ),
            Claim(
                f"re-adjusting helps, {group}",
                "KL to dense of the method without update, above that with it",
                _readjusted(settings, group),
                above_zero,
                "nats",
            ),
            Claim(
                f"joint is more accurate, {group}",
                "fine-tuned, accuracy of the joint choice above that of units judged one by one with the same update",
                _more_accurate(settings, group),
                above_zero,
            ),
        ]
    return found


Cases = Callable[[Results], Iterator[Case]]


def _cells(settings: Any, results: Results) -> Iterator[tuple[str, str, float]]:
    """Every cell of which there are records, as (method, distance, share)."""
    for word in settings.methods:
        for distance in settings.distances:
            for share in settings.shares:
                if results.of(**place(word, distance, share)):
                    yield word, distance, share


def _against_joint(settings: Any, results: Results) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Every control beside the joint choice with its update: (what names the case, control, joint)."""
    for word, distance, share in _cells(settings, results):
        joint = place(twin(word), distance, share) if METHODS[word].score != "joint" else {}
        if joint and results.of(**joint):
            named = {"method": word, "distance": distance, "share": share}
            yield named, place(word, distance, share), joint


def _differences(results: Results, group: str, this: dict[str, Any], than: dict[str, Any]) -> list[np.ndarray]:
    pairs = zip(results.of(**this), results.of(**than), strict=True)
    return [divergences(one, group) - divergences(other, group) for one, other in pairs]


def _nearer(settings: Any, group: str) -> Cases:
    def cases(results: Results) -> Iterator[Case]:
        for named, control, joint in _against_joint(settings, results):
            yield case(named, _differences(results, group, control, joint), results.examples(group))

    return cases


def best(settings: Any, results: Results, distance: str, share: float) -> tuple[list[Any], list[Any], str]:
    """Finds, for every seed, the best re-adjusted choice one by one, by its divergence on the selection images.

    Returns:
      The metrics of the joint choice and of the best other one, one of each for each seed, and what these are called;
      nothing where either is not there.
    """
    joint, words = results.of(**place("logits/joint+readjusted", distance, share)), []
    for word in settings.methods:
        if METHODS[word].update == "readjusted" and METHODS[word].score != "joint":
            words += [word] if results.of(**place(word, distance, share)) else []
    chosen = []
    for number in range(len(joint)):
        each = [(word, results.of(**place(word, distance, share))[number]) for word in words]
        chosen += [min(each, key=lambda pair: min(pair[1]["held_out"].values()))] if each else []
    return joint if chosen else [], [one for _, one in chosen], ", ".join(dict.fromkeys(word for word, _ in chosen))


def _a_part(settings: Any, group: str) -> Cases:
    def cases(results: Results) -> Iterator[Case]:
        for distance in settings.distances:
            for share in settings.shares:
                joint, others, words = best(settings, results, distance, share)
                pairs = zip(others, joint, strict=True)
                values = [divergences(one, group) - PART * divergences(other, group) for one, other in pairs]
                if values:
                    named = {"method": "the best", "distance": distance, "share": share}
                    yield case(named, values, results.examples(group), more={"best": words})

    return cases


def _readjusted(settings: Any, group: str) -> Cases:
    def cases(results: Results) -> Iterator[Case]:
        for word, distance, share in _cells(settings, results):
            bare, this = place(word.partition("+")[0], distance, share), place(word, distance, share)
            if bare["method"] != word and results.of(**bare):
                named = {"method": word, "distance": distance, "share": share}
                yield case(named, _differences(results, group, bare, this), results.examples(group))

    return cases


def _more_accurate(settings: Any, group: str) -> Cases:
    def cases(results: Results) -> Iterator[Case]:
        for named, control, joint in _against_joint(settings, results):
            found = results.compare(hits, group, joint, control, results.metrics["chance"][group])
            yield found._replace(where=named)

    return cases
