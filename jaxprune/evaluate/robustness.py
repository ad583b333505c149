"""Robustness: what a network still gets right when its images are corrupted, from elsewhere, or attacked.

Networks are compared on the same examples, so what is kept is which of them each network gets right.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from jaxprune import losses, processes, stats
from jaxprune.evaluate.attacks import Attack, attacked, fgsm, pgd
from jaxprune.evaluate.transfer import correct, summary
from jaxprune.network import Network
from jaxprune.types import Batch, Loss

__all__ = ["Attack", "Change", "Difference", "Suite", "attacked", "difference", "fgsm", "pgd"]


@dataclass(frozen=True, eq=False)
class Suite:
    """All conditions under which networks are compared: clean, corrupted, shifted, attacked.

    Configure it once, then apply it to each network: ``suite.hits(network)`` says what was right, example by example,
    for paired comparisons (``difference``), and ``suite(network)`` is the evaluator.  Where all batches have one shape
    a network is compiled twice in all, once for its outputs and once for the attacks, and networks whose ``apply`` are
    equal share that.

    A condition is named "clean", "corrupted/NAME", "shifted/NAME", "white-box/NAME" or "transfer/NAME".  What attacks
    can say, and what they can't, stands in ``jaxprune.evaluate.attacks``.

    Attributes:
      loss: what the attacks raise.
      clean: the test set.  It is read for every attack: a list or ``jp.data.Batches``, not an iterator.
      corrupted: the test set under each corruption.
      shifted: other sets, such as a new test set of the same classes.
      attacks: made on the evaluated network, on the clean set.
      transferred: attacked batches of another network; ``against`` makes them.

    Raises:
      ValueError: a set is an iterator, which can be read only once, or has no batch.

    >>> from functools import partial
    >>> batch = {"image": np.array([[0.625, 0.5]], np.float32), "label": np.array([0])}
    >>> suite = Suite(losses.cross_entropy, [batch], attacks={"fgsm": partial(fgsm, epsilon=0.125)})
    >>> suite(Network(lambda p, s, x: x * p, np.float32(1)))
    {'clean': 1.0, 'white-box/fgsm': 0.0, 'white-box': 0.0}
    """

    loss: Loss
    clean: Iterable[Batch]
    corrupted: Mapping[str, Iterable[Batch]] = field(default_factory=dict)
    shifted: Mapping[str, Iterable[Batch]] = field(default_factory=dict)
    attacks: Mapping[str, Attack] = field(default_factory=dict)
    transferred: Mapping[str, Iterable[Batch]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for condition, batches in self._sets().items():
            if isinstance(batches, Iterator):
                raise ValueError(
                    f"{condition}: expected batches that can be read again, but got an iterator. Pass list(batches)."
                )
            if next(iter(batches), None) is None:
                raise ValueError(f"{condition}: expected at least one batch, but got none. Is the set empty?")

    def against(self, dense: Network) -> "Suite":
        """Makes the attacks on ``dense``, once, and returns a suite in which every network meets those, too."""
        made = {name: list(attacked(dense, self.loss, self.clean, attack)) for name, attack in self.attacks.items()}
        return replace(self, transferred=made)

    def hits(self, network: Network) -> dict[str, np.ndarray]:
        """Says for every condition which examples of weight above 0 the network gets right: bool [n]."""
        white = {name: attacked(network, self.loss, self.clean, attack) for name, attack in self.attacks.items()}
        conditions = {**self._sets(), **_named("white-box", white)}
        return {name: correct(network, batches) for name, batches in conditions.items()}

    def labels(self) -> dict[str, np.ndarray]:
        """Returns the labels of the examples of ``hits``: int [n] for every condition."""
        conditions = {**self._sets(), **_named("white-box", dict.fromkeys(self.attacks, self.clean))}
        return {name: np.concatenate([_labels(batch) for batch in batches]) for name, batches in conditions.items()}

    def __call__(self, network: Network) -> dict[str, float]:
        """Measures the accuracy under every condition, and for each kind the mean over its conditions."""
        found = {name: summary(hits)["accuracy"] for name, hits in self.hits(network).items()}
        kinds: dict[str, list[float]] = {}
        for name, value in found.items():
            kinds.setdefault(name.split("/")[0], []).append(value)
        return found | {kind: float(np.mean(values)) for kind, values in kinds.items()}

    def _sets(self) -> dict[str, Iterable[Batch]]:
        kinds = {"corrupted": self.corrupted, "shifted": self.shifted, "transfer": self.transferred}
        named = [_named(kind, sets).items() for kind, sets in kinds.items()]
        return {"clean": self.clean, **dict(pair for pairs in named for pair in pairs)}


def _named(kind: str, sets: Mapping[str, Iterable[Batch]]) -> dict[str, Iterable[Batch]]:
    return {f"{kind}/{name}": batches for name, batches in sets.items()}


def _labels(batch: Batch) -> np.ndarray:
    return processes.read(batch["label"])[processes.read(losses.weights(batch)) > 0]


class Change(NamedTuple):
    """A mean change of accuracy in percentage points with its interval, and the number of paired examples."""

    points: stats.Interval
    n: int


class Difference(NamedTuple):
    """The change over all examples, and over those of each class."""

    overall: Change
    classes: dict[int, Change]


Runs = np.ndarray | Sequence[np.ndarray]
"""An array [n], or one for each training seed."""


def difference(
    pruned: Runs, dense: Runs, labels: Runs, *, examples: stats.Examples | None = None, confidence: float = 0.95
) -> Difference:
    """Compares a pruned network with the dense one on the same examples: ``100 mean(pruned - dense)``.

    The comparison is paired, so that what both get right or wrong cancels: its interval is much narrower than that of
    two accuracies.  Of the intervals of ten classes at 95 %, one in every second table leaves out the truth by chance:
    a class that stands out is a question, not a result.

    Args:
      pruned: which examples are right, bool [n], from ``Suite.hits`` or ``transfer.correct``; or one array for each
        training seed.
      dense: the same, on the same examples in the same order.
      labels: the class of each example, int [n]; or one array for each training seed.
      examples: which examples training seeds share, where there are several: "shared", "fresh", or the identities of
        those of each, int [n]; see ``stats.interval``.
      confidence: how often an interval holds.

    Returns:
      The change over all, and for every class that occurs, by its label.

    Raises:
      ValueError: arrays that do not fit each other, or are empty; examples that do not fit them, or are not said.
      TypeError: hits that are not bool, labels that are not integers.

    >>> before, after = np.array([True, True, False, False]), np.array([True, False, False, False])
    >>> found = difference(after, before, np.array([0, 1, 0, 1]))
    >>> found.overall.points.mean, found.classes[0].points.mean, found.classes[1].points.mean, found.classes[1].n
    (-25.0, 0.0, -50.0, 2)
    """
    runs = _paired(pruned, dense, labels)

    moves = [after.astype(np.float64) - before for after, before, _ in runs]
    numbers = [label for _, _, label in runs]
    if isinstance(examples, str) and examples == "shared" and any(list(one) != list(numbers[0]) for one in numbers):
        raise ValueError(
            "labels, examples: expected the same labels for every run where examples are shared, but they differ. Pass "
            'the identities of the examples of each, or "fresh".'
        )
    named = [] if examples is None or isinstance(examples, str) else [np.shape(one) for one in examples]
    if named and named != [label.shape for label in numbers]:
        raise ValueError(
            f"examples: expected the identities of the examples of every run, int arrays of shapes "
            f"{[label.shape for label in numbers]}, but got {named}."
        )
    everything = [np.ones(len(label), bool) for label in numbers]
    classes = {
        number: _change(moves, [label == number for label in numbers], examples, confidence)
        for number in np.unique(np.concatenate(numbers)).tolist()
    }
    return Difference(_change(moves, everything, examples, confidence), classes)


def _change(
    moves: list[np.ndarray], chosen: list[np.ndarray], examples: stats.Examples | None, confidence: float
) -> Change:
    """The change over some of the examples; seeds that have none of them are left out."""
    values = [move[here] for move, here in zip(moves, chosen, strict=True)]
    if not (examples is None or isinstance(examples, str)):
        parts = [np.asarray(one)[here] for one, here in zip(examples, chosen, strict=True)]
        examples = [one for one in parts if len(one)]
    values = [one for one in values if len(one)]
    found = stats.interval(values, examples=examples, bounds=(-1, 1), confidence=confidence)
    return Change(stats.Interval(*(100.0 * end for end in found)), sum(map(len, values)))


def _paired(pruned: Runs, dense: Runs, labels: Runs) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Lists (pruned, dense, labels) of each run, checked against each other."""
    sides = {"pruned": pruned, "dense": dense, "labels": labels}
    runs = {
        name: [side] if isinstance(side, np.ndarray) and side.ndim == 1 else [np.asarray(one) for one in side]
        for name, side in sides.items()
    }
    shapes = {name: [run.shape for run in side] for name, side in runs.items()}
    first = shapes["pruned"]
    if not first or any(found != first for found in shapes.values()) or any(len(s) != 1 or s[0] < 1 for s in first):
        raise ValueError(
            f"pruned, dense, labels: expected arrays of one length n, 1 or more, for each run, but got {shapes}. "
            "All three come from the same batches, without padding."
        )
    for name in ("pruned", "dense"):
        for run in runs[name]:
            if run.dtype != np.bool_:
                raise TypeError(f"{name}: expected bool [n], what Suite.hits gives, but got {run.dtype}.")
    for run in runs["labels"]:
        if not np.issubdtype(run.dtype, np.integer):
            raise TypeError(f"labels: expected integer class labels, but got {run.dtype}.")
    return list(zip(runs["pruned"], runs["dense"], runs["labels"], strict=True))
