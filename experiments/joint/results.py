"""From the records of the study of joint pruning to its numbers: networks paired with others, and its claims."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from experiments.joint.settings import CONTROL, Settings
from experiments.shared.results import (
    DIFFERENCES,
    FLOOR,
    SHARES,
    Case,
    Claim,
    above_zero,
    at_chance,
    case,
    interval,
    keeps,
)
from jaxprune import stats

CONTROLS = ("random", "always-neurons", "always-layer")
"""The choosers that look at nothing: what a chooser that compares candidates has to beat."""

SLACK = 0.01
"""How much more than a stated share of the operations a network may lack, as steps hit a budget to within a block."""


class Searched:
    """One run: its networks from the dense one on, and which test images each gets right.

    Attributes:
      config, provenance, steps: of the record; step 0 is the dense network, ``last`` the number of the last.
      removed: the share of the dense network's operations that each network lacks, [steps].
      reached, short: whether there is a target, and the last network has reached it, or has not.
      robustness: {step: {condition: hits}} for some of the steps, in their order.
      labels: the classes of the test images, [n].
      examples: which images these are, [n].
    """

    def __init__(self, record: dict[str, Any], tested: Callable[[int], np.ndarray]) -> None:
        self.config, metrics = record["config"], record["metrics"]
        self.seed, self.chooser, self.budget = (self.config[name] for name in ("seed", "chooser", "budget"))
        self.steps: list[dict[str, Any]] = metrics["steps"]
        self.last = len(self.steps) - 1
        macs = np.array([step["macs"] for step in self.steps], np.float64)
        self.removed = 1 - macs / macs[0]
        target = self.config["target"]
        self.reached = target > 0 and bool(self.removed[-1] >= target - 1e-9)  # 1 - 200 / 1000 is a bit below 0.8
        self.short = target > 0 and not self.reached
        measured = ((int(number), hits) for number, hits in metrics["robustness"].items())
        self.robustness: dict[int, dict[str, str]] = dict(sorted(measured))
        self.labels, self.provenance = np.array(metrics["labels"]), record["provenance"]
        self.examples = tested(self.seed)

    def hits(self, step: int, conditions: Sequence[str] = ()) -> np.ndarray:
        """Returns for each test image, which counts once, under how many of the conditions it is right, [n] shares."""
        texts = [self.robustness[step][name] for name in conditions] or [self.steps[step]["hits"]]
        return np.mean([np.frombuffer(text.encode(), np.uint8) - ord("0") for text in texts], axis=0)

    def accuracies(self) -> np.ndarray:
        """Returns the accuracy of every network on the clean test images, [steps]."""
        return np.array([np.mean(self.hits(step)) for step in range(len(self.steps))])

    def last_within(self, share: float) -> int:
        """Returns the last step that has removed at most a share of the operations, give or take ``SLACK``."""
        return int(np.flatnonzero(self.removed <= share + SLACK)[-1])


Networks = Sequence[tuple[Searched, int]]
"""A network of each seed: a run and one of its steps."""


class Results:
    """The records of a study, looked up by budget and chooser; ``tested`` says which images tested a seed."""

    def __init__(self, records: Sequence[dict[str, Any]], tested: Callable[[int], np.ndarray]) -> None:
        tested = cache(tested)
        self.runs = [Searched(record, tested) for record in records]
        self.budgets = list(dict.fromkeys(run.budget for run in self.runs))
        names = list(dict.fromkeys(run.chooser for run in self.runs))
        self.choosers = [name for name in names if name != CONTROL] or names
        self.seeds = sorted({run.seed for run in self.runs})
        self.classes = int(self.runs[0].steps[0]["shape"]["classes"])
        self.conditions = list(self.runs[0].robustness[0])

    def of(self, budget: str, chooser: str) -> list[Searched]:
        """Returns the runs of a cell, one for each seed; none where there is none."""
        return [run for run in self.runs if (run.budget, run.chooser) == (budget, chooser)]

    def pruned(self, budget: str, chooser: str) -> list[Searched]:
        """Returns the runs of a cell that removed something at all."""
        return [run for run in self.of(budget, chooser) if run.removed[-1] > 0]

    def pruning(self, budget: str) -> list[str]:
        """Returns the choosers that have a run in a budget that removed something."""
        return [chooser for chooser in self.choosers if self.pruned(budget, chooser)]

    def paired(self, budget: str, chooser: str, against: str) -> tuple[Networks, Networks]:
        """Pairs networks of a cell, of runs that removed something at all, with what they are compared with.

        "dense": the last ones with the dense ones.  ``CONTROL``: the last ones with the dense ones that were tuned for
        as many steps, or with the last of these where a search made more.  One of ``CONTROLS``: those of a chooser that
        compares candidates with those of the control at equal operations.  Where both reached the target these are the
        last ones; where one stopped earlier, as nothing more could be removed, the other gives the last network that
        has removed no more (give or take ``SLACK``).  Nothing is interpolated.
        """
        runs = self.pruned(budget, chooser)
        if against == "dense":
            return [(run, run.last) for run in runs], [(run, 0) for run in runs]
        others = self.of(budget, CONTROL) if against == CONTROL else self.pruned(budget, against)
        both = [(run, other) for run in runs for other in others if run.seed == other.seed]
        if against == CONTROL:
            return [(run, run.last) for run, _ in both], [(other, min(run.last, other.last)) for run, other in both]
        networks, compared = [], []
        for run, other in [] if chooser in CONTROLS else both:
            most = 1.0 if run.reached and other.reached else min(run.removed[-1], other.removed[-1])
            networks.append((run, run.last_within(most)))
            compared.append((other, other.last_within(most)))
        return networks, compared

    def step_by_step(self, budget: str, chooser: str, *, measured: bool = False) -> list[Networks]:
        """Pairs up the networks of all seeds (``measured``: for robustness) by number, the last with the last."""
        runs = self.pruned(budget, chooser) or self.of(budget, chooser)
        numbers = [list(run.robustness) if measured else list(range(len(run.steps))) for run in runs]
        places = (*range(min(map(len, numbers)) - 1), -1)
        return [[(run, steps[place]) for run, steps in zip(runs, numbers, strict=True)] for place in places]


def hits_of(networks: Networks, conditions: Sequence[str] = (), of_class: int | None = None) -> list[np.ndarray]:
    """Returns ``Searched.hits`` of each network; of a class: only of its images, without seeds that have none."""
    found = [(run.hits(step, conditions), run.labels) for run, step in networks]
    if of_class is None:
        return [hits for hits, _ in found]
    return [hits[labels == of_class] for hits, labels in found if of_class in labels]


def examples_of(networks: Networks, of_class: int | None = None) -> list[np.ndarray]:
    """Says which images ``hits_of`` is about; see there."""
    found = [(run.examples, run.labels) for run, _ in networks]
    if of_class is None:
        return [examples for examples, _ in found]
    return [examples[labels == of_class] for examples, labels in found if of_class in labels]


def accuracy_of(networks: Networks, conditions: Sequence[str] = ()) -> stats.Interval:
    """Returns the accuracy of networks with its interval."""
    return interval(hits_of(networks, conditions), examples_of(networks), SHARES)


def change_between(
    networks: Networks, than: Networks, conditions: Sequence[str] = (), of_class: int | None = None, **more: Any
) -> Case:
    """Makes a case of ``differences``; ``more``: as ``case`` takes it."""
    found = differences(networks, than, conditions, of_class)
    more = {"where": {}, **more}
    return case(more.pop("where"), found, examples_of(networks, of_class), bounds=DIFFERENCES, **more)


def differences(
    networks: Networks, than: Networks, conditions: Sequence[str] = (), of_class: int | None = None
) -> list[np.ndarray]:
    """Subtracts from ``hits_of`` of networks that of others, one for each seed in the same order, image by image."""
    for (run, _), (other, _) in zip(networks, than, strict=True):
        if run.seed != other.seed or not np.array_equal(run.labels, other.labels):
            raise ValueError(
                f"records: expected the same test images for seed {run.seed}, but got others in two runs "
                f"({run.chooser}, {other.chooser}). Delete the records of one of them; they are made anew."
            )
    sides = hits_of(networks, conditions, of_class), hits_of(than, conditions, of_class)
    return [one - other for one, other in zip(*sides, strict=True)]


def dense_of(networks: Networks) -> Networks:
    """Returns the dense networks that others came from."""
    return [(run, 0) for run, _ in networks]


def mean_removed(networks: Networks) -> float:
    """Returns the mean share of operations that networks lack."""
    return float(np.mean([run.removed[step] for run, step in networks]))


def claims(settings: Settings) -> list[Claim]:
    """Lists the claims; whatever way each comes out is what the page says."""
    kept, dense = keeps(settings.margin), f"within {margin_of(settings)} of the dense one"
    found = [Claim("keeps", f"accuracy of the last network, {dense}", partial(_cases, against="dense"), kept)]
    for kind in ("corrupted", "shifted"):
        cases = partial(_cases, against="dense", group=kind)
        found.append(Claim(f"keeps, {kind}", f"accuracy on {kind} images, {dense}", cases, kept))
    tuned = partial(_cases, against=CONTROL)
    found.append(Claim("keeps, equal training", f"accuracy {dense} tuned for as many steps", tuned, kept))
    for control in CONTROLS:
        meaning = f"accuracy above that of {control}, at equal operations"
        found.append(Claim(f"beats {control}", meaning, partial(_cases, against=control), above_zero))
    return found


def margin_of(settings: Settings) -> str:
    """Writes how much accuracy a network may lose and still count as kept."""
    return f"{100 * settings.margin:g} point{'' if settings.margin == 0.01 else 's'}"


def _cases(results: Results, against: str, group: str = "") -> Iterator[Case]:
    """Compares the networks of every budget and chooser; on clean images, or under a group of conditions."""
    conditions = grouped(results.conditions).get(group, [])
    cells = [(budget, chooser) for budget in results.budgets for chooser in results.pruning(budget)]
    for budget, chooser in cells if conditions or not group else []:
        networks, others = results.paired(budget, chooser, against)
        if networks:
            sides = [hits_of(side, conditions) for side in (networks, others)]
            now, before = (float(np.mean([np.mean(hits) for hits in side])) for side in sides)
            images = examples_of(networks)
            more = {"removed": mean_removed(networks), "removed_against": mean_removed(others)}
            yield change_between(
                networks,
                others,
                conditions,
                where={"budget": budget, "chooser": chooser, "against": against},
                verdict=FLOOR if all(at_chance(side, images, 1 / results.classes) for side in sides) else "",
                more=more | {"accuracy": now, "accuracy_against": before},
            )


def evenly(count: int, steps: int) -> list[int]:
    """Chooses so many of the steps evenly, the first and the last among them; 0 are all."""
    if count == 0 or count >= steps:
        return list(range(steps))
    return [round(place * (steps - 1) / (count - 1)) for place in range(count)]


def grouped(conditions: Sequence[str]) -> dict[str, list[str]]:
    """Groups conditions: clean, corrupted and shifted each as one, every attack by itself.

    >>> grouped(["corrupted/fog-1", "corrupted/fog-3", "transfer/pgd-2/255"])
    {'corrupted': ['corrupted/fog-1', 'corrupted/fog-3'], 'transfer/pgd-2/255': ['transfer/pgd-2/255']}
    """
    found: dict[str, list[str]] = {}
    for name in conditions:
        kind = name.split("/")[0]
        found.setdefault(kind if kind in ("clean", "corrupted", "shifted") else name, []).append(name)
    return found


def radius(attack: str) -> float:
    """Returns the radius of an attack from its name, in steps of 1/255.

    >>> radius("white-box/fgsm-2/255")
    2.0
    """
    return float(attack.split("/", 1)[1].split("-", 1)[1].removesuffix("/255"))
