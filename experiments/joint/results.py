"""From the records of the study of joint pruning to its numbers: paired differences, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from experiments.joint_settings import CONTROL
from jaxprune import stats

CONTROLS = ("random", "always-neurons", "always-layer")
"""The choosers that look at nothing: what a chooser that compares candidates has to beat."""

SLACK = 0.01
"""How much more than a stated share of the operations a network may lack and still count as one of that share.

A step hits its budget only to within a filter or a block: without slack, 35.2 % would not do where 34.9 % is asked for,
and a network with far more operations would take its place.
"""


@dataclass(frozen=True)
class Course:
    """One run: its networks from the dense one on, and which test images each gets right.

    Attributes:
      seed: of the data split, the dense network and the search.
      chooser: who chose.
      budget: what its steps removed equal shares of.
      target: the share of the operations to remove; 0: none was set.
      steps: of the record, step 0 the dense network.
      robustness: {step: {condition: hits}} for some of the steps.
      labels: the classes of the test images, [n].
      provenance: of the record.
    """

    seed: int
    chooser: str
    budget: str
    target: float
    steps: list[dict[str, Any]]
    robustness: dict[int, dict[str, str]]
    labels: np.ndarray
    provenance: dict[str, Any]

    @cached_property
    def removed(self) -> np.ndarray:
        """The share of the dense network's operations that each network lacks, [steps]."""
        macs = np.array([step["macs"] for step in self.steps], np.float64)
        return 1 - macs / macs[0]

    @property
    def last(self) -> int:
        """The number of the last step."""
        return len(self.steps) - 1

    @property
    def reached(self) -> bool:
        """Whether the last network has reached the target."""
        return self.target > 0 and bool(self.removed[-1] >= self.target - 1e-9)  # 1 - 200 / 1000 is a bit below 0.8

    @cached_property
    def checkpoints(self) -> list[int]:
        """The steps whose robustness was measured."""
        return sorted(self.robustness)

    def right(self, step: int, conditions: Sequence[str] = ()) -> np.ndarray:
        """Returns for each test image the share of the conditions under which it is right, [n]; without any: clean.

        An image under several conditions counts once, with the mean over them: they are no independent data.
        """
        texts = [self.robustness[step][name] for name in conditions] or [self.steps[step]["hits"]]
        return np.mean([np.frombuffer(text.encode(), np.uint8) - ord("0") for text in texts], axis=0)

    def upto(self, share: float) -> int:
        """Returns the last step that has removed at most a share of the operations, give or take ``SLACK``."""
        return int(np.flatnonzero(self.removed <= share + SLACK)[-1])


Side = Sequence[tuple[Course, int]]
"""A network of each seed: a run and one of its steps."""


class Results:
    """The records of a study, looked up by budget and chooser.

    Args:
      records: what ``Store.read`` returned, one for each run.
      seed: of the bootstrap.
    """

    def __init__(self, records: Sequence[dict[str, Any]], seed: int) -> None:
        self._seed = seed
        self._runs: dict[tuple[str, str], list[Course]] = {}
        self.courses = [_course(record) for record in records]
        for course in self.courses:
            self._runs.setdefault((course.budget, course.chooser), []).append(course)
        self.budgets = list(dict.fromkeys(course.budget for course in self.courses))
        names = list(dict.fromkeys(course.chooser for course in self.courses))
        self.choosers = [name for name in names if name != CONTROL] or names
        self.seeds = sorted({course.seed for course in self.courses})
        self.classes = int(self.courses[0].steps[0]["shape"]["classes"])
        self.conditions = list(self.courses[0].robustness[0])

    def of(self, budget: str, chooser: str) -> list[Course]:
        """Returns the runs of a cell, one for each seed; none where there is none."""
        return self._runs.get((budget, chooser), [])

    def moving(self, budget: str, chooser: str) -> list[Course]:
        """Returns the runs of a cell that removed something at all."""
        return [course for course in self.of(budget, chooser) if course.removed[-1] > 0]

    def present(self, budget: str) -> list[str]:
        """Returns the choosers that have a run in a budget that removed something."""
        return [chooser for chooser in self.choosers if self.moving(budget, chooser)]

    def trained_on(self, budget: str, side: "Side") -> tuple["Side", "Side"]:
        """Pairs networks with the dense ones of the control that were tuned as long, where there are any.

        Returns:
          (side, than), both of the seeds that the control has.  Where a search made more steps than the control, the
          control gives its last network.
        """
        tuned = {course.seed: course for course in self.of(budget, CONTROL)}
        kept = [(course, step) for course, step in side if course.seed in tuned]
        return kept, [(tuned[one.seed], min(step, tuned[one.seed].last)) for one, step in kept]

    def points(self, budget: str, chooser: str, *, checked: bool = False) -> list[Side]:
        """Pairs up the networks of all seeds along the way, for a line through their means.

        Args:
          budget: of the cell.
          chooser: of the cell.
          checked: whether only networks whose robustness was measured.
        """
        courses = self.moving(budget, chooser) or self.of(budget, chooser)
        ways = [course.checkpoints if checked else list(range(len(course.steps))) for course in courses]
        return [
            [(course, way[place]) for course, way, place in zip(courses, ways, places, strict=True)]
            for places in aligned([len(way) for way in ways])
        ]

    def interval(self, values: Sequence[np.ndarray]) -> stats.Interval:
        """Returns the mean over seeds and images with its bootstrap interval."""
        return stats.bootstrap(values, seed=self._seed)

    def accuracy(self, side: Side) -> stats.Interval:
        """Returns the accuracy on the clean test images."""
        return self.interval([course.right(step) for course, step in side])

    def change(self, side: Side, than: Side, conditions: Sequence[str] = (), of_class: int | None = None) -> "Change":
        """Compares two networks of each seed, image by image: ``100 mean(side - than)``, in percentage points.

        Args:
          side: a network for each seed.
          than: another for each, in the same order.
          conditions: averaged over for each image; none: the clean test images.
          of_class: only images of this class; seeds without any are left out.

        Raises:
          ValueError: the two were tested on different images, or no seed has an image of the class.
        """
        moves = []
        for (course, step), (other, at) in zip(side, than, strict=True):
            if course.seed != other.seed or not np.array_equal(course.labels, other.labels):
                raise ValueError(
                    f"records: expected the same test images for seed {course.seed}, but got others in two runs "
                    f"({course.chooser}, {other.chooser}). Delete the records of one of them; they are made anew."
                )
            chosen = slice(None) if of_class is None else course.labels == of_class
            moves.append(100 * (course.right(step, conditions) - other.right(at, conditions))[chosen])
        moves = [move for move in moves if len(move)]
        return Change(self.interval(moves), sum(map(len, moves)), len(moves))

    def against(self, budget: str, this: str, than: str) -> tuple[Side, Side]:
        """Pairs networks of two choosers at equal operations, seed by seed; empty where there are none.

        Where both reached the target these are the last ones.  Where one stopped earlier, at its floor, the other gives
        the last network that has removed no more (give or take ``SLACK``).  Nothing is interpolated.
        """
        left = {course.seed: course for course in self.moving(budget, this)}
        right = {course.seed: course for course in self.moving(budget, than)}
        sides: tuple[list[tuple[Course, int]], list[tuple[Course, int]]] = ([], [])
        for seed in sorted(left.keys() & right.keys()):
            pair = (left[seed], right[seed])
            most = min(float(course.removed[-1]) for course in pair)
            met = all(course.reached for course in pair)
            for side, course in zip(sides, pair, strict=True):
                side.append((course, course.last if met else course.upto(most)))
        return sides


class Change(NamedTuple):
    """A mean paired change of accuracy in percentage points, the images and the seeds behind it."""

    points: stats.Interval
    n: int
    seeds: int


def aligned(lengths: Sequence[int]) -> list[list[int]]:
    """Pairs up the places of sequences of different lengths: by number from the first on, the last with the last.

    >>> aligned([3, 4])
    [[0, 0], [1, 1], [2, 3]]
    """
    last = [length - 1 for length in lengths]
    return [[place] * len(last) for place in range(min(last))] + [last]


def dense(side: Side) -> Side:
    """Returns the dense networks that those of a side came from."""
    return [(course, 0) for course, _ in side]


def share(side: Side) -> float:
    """Returns the mean share of operations that the networks of a side lack."""
    return float(np.mean([course.removed[step] for course, step in side]))


def kinds(conditions: Sequence[str]) -> dict[str, list[str]]:
    """Groups conditions: clean, corrupted and shifted each as one, every attack by itself.

    >>> kinds(["clean", "corrupted/fog-1", "corrupted/fog-3", "transfer/pgd-2/255"])
    {'clean': ['clean'], 'corrupted': ['corrupted/fog-1', 'corrupted/fog-3'],
    'transfer/pgd-2/255': ['transfer/pgd-2/255']}
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


def _course(record: dict[str, Any]) -> Course:
    config, metrics = record["config"], record["metrics"]
    return Course(
        seed=config["seed"],
        chooser=config["chooser"],
        budget=config["budget"],
        target=config["target"],
        steps=metrics["steps"],
        robustness={int(number): hits for number, hits in metrics["robustness"].items()},
        labels=np.array(metrics["labels"]),
        provenance=record["provenance"],
    )
