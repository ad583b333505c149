"""What is measured of the networks of the study of representations: numbers for each image, and what is made of them.

A quantity is read off a record as [images, columns], so that every comparison is paired image by image.  Most have one
column, whose mean over images is their value.  A consistency is no mean: it has columns for each condition and
observer, and its value is computed from their means, of all images or without one of them.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Metrics = Mapping[str, Any]
"""Of a run, or of the truth of a seed."""

Read = Callable[[Metrics, Metrics], np.ndarray | None]

ACCURACY, LOOK, NEED = "accuracy", "attribution", "perturbation"
FIND, DECIDE, CUES, ODD = "discovery", "decisions", "cues", "triplets"
QUESTIONS = {
    ACCURACY: "Does it know the class?",
    LOOK: "Does it look at the object?",
    NEED: "Does it need the pixels that it is said to look at?",
    FIND: "Are objects found in its features?",
    DECIDE: "Does it decide as observers do?",
    CUES: "Shape or texture?",
    ODD: "Which one is odd?",
}
"""The questions of the study, and their headings; each has a figure and a table of verdicts."""

RANDOM_MAP = "random map"
"""Pixels in random order: the control of insertion and deletion."""


def mean(means: np.ndarray) -> np.ndarray:
    """The value of a quantity of one column: its mean over images."""
    return means[..., 0]


class Quantity(NamedTuple):
    """Something that is measured of every network.

    Attributes:
      question: what it belongs to.
      name: what it is called.
      line: which method, where there are several; else empty.
      read: (metrics of a run, of its truth) -> [images, columns]; None where the run does not have it.
      value: from means over images [..., columns] to the value [...].
      levels: truth -> what is reached without looking, by name.
      smaller: whether less is better.
      tested: what gains are computed of, where that is not what ``read`` gives.
      independent: whether its rows are independent.  Where they cannot it has neither intervals nor verdicts.
      least: no value lies below it; none lies above 1.
      hits: whether its one column says which images are right, or how often.
    """

    question: str
    name: str
    line: str
    read: Read
    value: Callable[[np.ndarray], np.ndarray] = mean
    levels: Callable[[Metrics], dict[str, float]] = lambda truth: {}
    smaller: bool = False
    tested: Read | None = None
    independent: bool = True
    least: float = 0.0
    hits: bool = False

    def place(self, architecture: str) -> dict[str, str]:
        """Names it in a table."""
        return {"question": self.question, "quantity": self.name, "method": self.line, "architecture": architecture}


def quantities(records: Sequence[Metrics], truths: Sequence[Metrics], kept: Sequence[str]) -> list[Quantity]:
    """Lists what can be said of networks; ``kept`` are the distorted conditions that count, as "contrast c30"."""
    methods = dict.fromkeys(name for one in records for name in one["attribution"] if name != RANDOM_MAP)
    listed = [Quantity(ACCURACY, "accuracy", "", lambda run, _: _column(run["hits"]), levels=_guess, hits=True)]
    for name, method in itertools.product(("mass", "rank", "pointing"), methods):
        chance = lambda truth: {"chance": float(np.mean(truth["chance"]))}  # noqa: E731
        read = _attributed(name, method)
        listed.append(Quantity(LOOK, name, method, read, levels=chance, hits=name == "pointing"))
    for name, method in itertools.product(("insertion", "deletion"), [*methods, RANDOM_MAP]):
        tested = None if method == RANDOM_MAP else _beyond_random(name, method)
        smaller = name == "deletion"
        listed.append(Quantity(NEED, name, method, _attributed(name, method), smaller=smaller, tested=tested))
    for name in dict.fromkeys(name for one in records for name in one["discovery"]):
        read = lambda run, _, name=name: _column(run["discovery"][name]["hits"])  # noqa: E731
        boxes = lambda truth: {name: float(np.mean(hits)) for name, hits in truth["baselines"].items()}  # noqa: E731
        listed.append(Quantity(FIND, "CorLoc", name, read, levels=boxes, hits=True))
    listed += _decisions(kept) if kept else []
    if all(one["conflict"] is not None for one in truths):
        listed.append(Quantity(CUES, "shape bias", "", _cues, bias, lambda _: {"no leaning": 0.5}))
    read, chance = lambda run, _: _column(run["triplets"]), lambda _: {"chance": 1 / 3}
    # Triplets share images.
    return [*listed, Quantity(ODD, "odd one out", "", read, levels=chance, independent=False)]


def _decisions(kept: Sequence[str]) -> list[Quantity]:
    """Lists what is said of decisions on distorted images; of runs that made none, nothing."""
    count, weighed = len(kept), weights(kept)

    def right(run: Metrics, truth: Metrics) -> np.ndarray:
        each = [np.equal(run["distorted"][one], truth["labels"]) for one in kept]
        return np.stack(each, axis=1).astype(np.float64)  # [images, conditions]

    def distorted(run: Metrics, truth: Metrics) -> np.ndarray | None:
        """The mean over the conditions of a distortion, then over distortions, of each image: [images, 1]."""
        # The weights sum to 1 but for rounding.
        return np.minimum(right(run, truth) @ weighed, 1.0)[:, None] if "distorted" in run else None

    def trials(run: Metrics, truth: Metrics) -> np.ndarray | None:
        """Own answers [images, c], then for each condition the k observers' and the agreement, [images, c k] each."""
        if "distorted" not in run:
            return None
        own = right(run, truth)
        # [k, images] for each condition: to [images, conditions, k].
        answers = np.transpose([truth["observers"][one] for one in kept], (2, 0, 1))
        others = (answers == np.asarray(truth["labels"])[:, None, None]).astype(np.float64)
        agree = (own[:, :, None] == others).astype(np.float64)
        return np.concatenate([own, *(one.reshape(len(own), -1) for one in (others, agree))], axis=1)

    def paired(name: str, made: Callable[..., np.ndarray], **more: Any) -> Quantity:
        def value(means: np.ndarray) -> np.ndarray:
            """Compares with every observer in every condition; means over conditions, observers, then distortions."""
            own, rest = means[..., :count], means[..., count:]
            other, agree = np.moveaxis(rest.reshape(*rest.shape[:-1], 2, count, -1), -3, 0)
            return made(own[..., None], other, agree).mean(axis=-1) @ weighed

        return Quantity(DECIDE, name, "", trials, value, **more)

    return [
        Quantity(DECIDE, "accuracy, distorted", "", distorted, levels=_guess, hits=True),
        paired("error consistency", error_consistency, levels=lambda _: {"independent errors": 0.0}, least=-1.0),
        paired("observed consistency", lambda own, other, agree: agree),
        paired("accuracy difference", lambda own, other, agree: (own - other) ** 2, smaller=True),
    ]


def _guess(truth: Metrics) -> dict[str, float]:
    return {"chance": 1 / len(truth["classes"])}


def _column(values: Sequence[float]) -> np.ndarray:
    return np.asarray(values, np.float64)[:, None]


def _attributed(name: str, method: str) -> Read:
    return lambda run, _: _column(run["attribution"][method][name]) if method in run["attribution"] else None


def _beyond_random(name: str, method: str) -> Read:
    """The distance to pixels in random order: a decision for the class of a grey image stands in any order."""

    def read(run: Metrics, truth: Metrics) -> np.ndarray | None:
        own, control = (_attributed(name, one)(run, truth) for one in (method, RANDOM_MAP))
        return None if own is None or control is None else own - control

    return read


def _cues(run: Metrics, truth: Metrics) -> np.ndarray:
    """Which decisions follow the shape, and which the texture, of images where these differ: [images, 2]."""
    shape, texture = (np.asarray(truth["conflict"][name]) for name in ("shape", "texture"))
    followed = np.stack([np.equal(run["conflict"], one) for one in (shape, texture)], axis=1)
    return followed[shape != texture].astype(np.float64)


def weights(kept: Sequence[str]) -> np.ndarray:
    """Weighs conditions so that every distortion counts alike, however many conditions it has.

    >>> weights(["contrast c50", "contrast c30", "rotation 90"]).tolist()
    [0.25, 0.25, 0.5]
    """
    names = [one.split(" ")[0] for one in kept]
    return np.array([1 / (len(set(names)) * names.count(name)) for name in names])


def error_consistency(own: np.ndarray, other: np.ndarray, agree: np.ndarray) -> np.ndarray:
    """Computes kappa from shares of right answers and of agreement; 1 where all agree.

    >>> error_consistency(np.array([0.5, 1.0]), np.array([0.25, 1.0]), np.array([0.75, 1.0])).tolist()
    [0.5, 1.0]
    """
    expected = own * other + (1 - own) * (1 - other)
    same = agree >= 1.0  # whole numbers of images divided by their number: exact
    return np.where(same, 1.0, (agree - expected) / np.where(same, 1.0, 1 - expected))


def bias(means: np.ndarray) -> np.ndarray:
    """Computes the shape bias ``s / (s + t)`` from the shares [..., 2] that follow shape and texture; 1/2 of none.

    >>> bias(np.array([[0.1, 0.3], [0.0, 0.0]])).tolist()
    [0.25, 0.5]
    """
    shape, total = means[..., 0], means.sum(axis=-1)
    return np.where(total > 0, shape / np.where(total > 0, total, 1.0), 0.5)
