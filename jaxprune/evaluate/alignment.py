"""Alignment with people: do networks decide as they do, and do they fail on the same images?

Everything is computed from which trials are right, by the rules of the benchmark model-vs-human, so that numbers can
be set beside published ones.  ``read_trials`` reads people's trials, ``make_trials`` makes those of a network, and
``compare`` says how alike they are.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxprune.evaluate.categories import ShapeBias, cues, decide, shape_bias, shape_bias_of, sixteen_classes
from jaxprune.evaluate.consistency import Bounds, accuracy, bounds, error_consistency, observed_consistency
from jaxprune.evaluate.trials import Trials, condition_key, image_id, make_trials, read_trials, write_trials

__all__ = [
    "EXCLUDED",
    "WITHOUT_CONDITIONS",
    "Alignment",
    "Bounds",
    "ShapeBias",
    "Trials",
    "accuracy",
    "bounds",
    "compare",
    "condition_key",
    "cues",
    "decide",
    "error_consistency",
    "human_human",
    "image_id",
    "make_trials",
    "observed_consistency",
    "read_trials",
    "shape_bias",
    "shape_bias_of",
    "sixteen_classes",
    "write_trials",
]

EXCLUDED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "colour": ("cr",),
        "contrast": ("c100", "c03", "c01"),
        "high-pass": ("inf", "0.55", "0.45", "0.4"),
        "low-pass": ("0", "15", "40"),
        "phase-scrambling": ("0", "150", "180"),
        "power-equalisation": ("0",),
        "false-colour": ("True",),
        "rotation": ("0",),
        "eidolonI": ("1-10-10", "64-10-10", "128-10-10"),
        "eidolonII": ("1-3-10", "32-3-10", "64-3-10", "128-3-10"),
        "eidolonIII": ("1-0-10", "16-0-10", "32-0-10", "64-0-10", "128-0-10"),
        "uniform-noise": ("0.0", "0.6", "0.9"),
    }
)
"""The conditions that the benchmark leaves out of each data set: undistorted controls, and those in which people get
less than 0.2 right."""

WITHOUT_CONDITIONS: tuple[str, ...] = ("sketch", "stylized", "edge", "silhouette", "cue-conflict")
"""The data sets of the benchmark that have no conditions: what stands in that column means nothing."""


class Alignment(NamedTuple):
    """How alike a network and people are, averaged over conditions, then people, then data sets.

    Attributes:
      ood_accuracy: the network's share of right answers (of all kept trials of a data set).
      accuracy_difference: the squared difference of the accuracies; lower is closer.
      observed_consistency: how often both are right or both wrong.
      error_consistency: that beyond chance.
      n: how many of the network's trials count.
    """

    ood_accuracy: float
    accuracy_difference: float
    observed_consistency: float
    error_consistency: float
    n: int


Excluded = Mapping[str, Sequence[str]]
"""The conditions that do not count, for each data set."""


def compare(model: Trials, humans: Trials, *, dataset: str | None = None, exclude: Excluded = EXCLUDED) -> Alignment:
    """Compares the trials of a network with those of people, as the benchmark model-vs-human does.

    Images are paired by ``image_id``, so the order of the rows does not matter; conditions by ``condition_key``.  In
    ``WITHOUT_CONDITIONS`` all trials are one condition.

    Args:
      model: the trials of one network.
      humans: the trials of one or more people (``read_trials(folder).humans()``).
      dataset: which data set.  None: all of the network's, averaged.
      exclude: conditions that do not count; ``{}`` for none.

    Returns:
      The four numbers of the benchmark.  With the 17 data sets they are its mean numbers.

    Raises:
      ValueError: trials of several networks, or of nobody; a data set, a condition or an image that only one side
        has; an image twice in one condition.

    Source: Geirhos et al. (2021), arXiv 2106.07411; github.com/bethgelab/model-vs-human.

    >>> names, right = ["dog1.png", "cat1.png", "car1.png", "car2.png"], ["dog", "cat", "car", "car"]
    >>> network = make_trials("dense", ["dog", "cat", "dog", "cat"], right, names)
    >>> person = make_trials("subject-01", ["na", "car", "cat", "dog"], right[::-1], names[::-1])
    >>> compare(network, person)
    Alignment(ood_accuracy=0.5, accuracy_difference=0.0625, observed_consistency=0.75, error_consistency=0.5, n=4)
    """
    for side, trials in (("model", model), ("humans", humans)):
        _check_trials(side, trials)
    if len(model.subjects) != 1:
        raise ValueError(
            f"model: expected the trials of one network, but got those of {list(model.subjects)}. Choose one: "
            "trials.of('dense')."
        )
    results = []
    for name in _datasets(dataset, model, humans):
        (one,) = _table("model", model, name, exclude).values()
        others = _table("humans", humans, name, exclude)
        shown = {key for cells in others.values() for key in cells}
        if unpaired := sorted(set(one) ^ shown):
            raise ValueError(
                f"model, humans: expected the same conditions of {name!r}, but only one side has {unpaired}. The "
                f"network has {sorted(one)}, the people {sorted(shown)}. Leave them out of both: "
                f"exclude={{{name!r}: [...]}}."
            )
        pairs = [_pair(name, one, cells) for cells in others.values()]
        results.append(_pooled([one], pairs))
    return _averaged(results)


def human_human(trials: Trials, *, dataset: str | None = None, exclude: Excluded = EXCLUDED) -> Alignment:
    """Compares every person with every other: the level that a network would have to reach.

    Args:
      trials: of two or more people ("subject-01" and so on), on the same images.  Those of networks, which the field
        keeps in the same folders, are left out.
      dataset: which data set.  None: all, averaged.
      exclude: conditions that do not count.

    Returns:
      The mean over all pairs of the means over the conditions that both saw.  The accuracy is that of all kept trials.

    Raises:
      ValueError: fewer than two people; pairs without a common condition, or with other images in it.

    Source: Geirhos et al. (2021), arXiv 2106.07411.

    >>> right, names = ["dog", "cat"], ["dog1.png", "cat1.png"]
    >>> one, two = (make_trials(f"subject-0{i}", ["dog", "car"], right, names) for i in (1, 2))
    >>> both = Trials(**{key: np.concatenate([getattr(one, key), value]) for key, value in vars(two).items()})
    >>> human_human(both).error_consistency
    1.0
    """
    _check_trials("trials", trials)
    people = trials.humans()
    if len(people.subjects) < 2:
        raise ValueError(
            f"trials: expected two or more people, whose names begin with 'subject-', but got {list(trials.subjects)}."
        )
    results = []
    for name in _datasets(dataset, people, people):
        tables = list(_table("trials", people, name, exclude).values())
        if len(tables) < 2:
            raise ValueError(f"trials: expected two or more people in {name!r}, but got {list(people.subjects)}.")
        results.append(_pooled(tables, [_pair(name, a, b) for a, b in combinations(tables, 2)]))
    return _averaged(results)


class _Cell(NamedTuple):
    """The trials of one subject in one condition, sorted by image."""

    image: np.ndarray
    category: np.ndarray
    correct: np.ndarray


_Table = dict[str, _Cell]


def _check_trials(name: str, value: Any) -> None:
    if not isinstance(value, Trials):
        raise TypeError(
            f"{name}: expected Trials, but got a {type(value).__name__}. read_trials reads those of people, "
            "make_trials makes those of a network."
        )


def _datasets(dataset: str | None, model: Trials, humans: Trials) -> tuple[str, ...]:
    names = model.datasets if dataset is None else (dataset,)
    for side, trials in (("model", model), ("humans", humans)):
        if missing := sorted(set(names) - set(trials.datasets)):
            raise ValueError(
                f"dataset: expected one of both sides, but {side} has no trials of {missing}; it has "
                f"{list(trials.datasets)}. read_trials(path, dataset=...) and make_trials(dataset=...) name them."
            )
    if not names:
        raise ValueError("trials: expected one or more trials, but got none.")
    return names


def _table(side: str, trials: Trials, dataset: str, exclude: Excluded) -> dict[str, _Table]:
    """Sorts the kept trials of a data set by subject and condition."""
    rows = trials.where(trials.dataset == dataset)
    keys = np.array([condition_key(condition) for condition in rows.condition.tolist()])
    left_out = [condition_key(condition) for condition in exclude.get(dataset, ())]
    kept = rows.where(~np.isin(keys, left_out))
    keys = keys[~np.isin(keys, left_out)]
    if dataset in WITHOUT_CONDITIONS:
        keys = np.full(len(kept), "all")
    if not len(kept):
        raise ValueError(
            f"{side}: expected trials of {dataset!r} outside of the excluded conditions {left_out}, but there are "
            "none. Pass exclude={} to keep all."
        )
    images, correct = kept.image, kept.correct
    result: dict[str, _Table] = {}
    for subject in kept.subjects:
        own = kept.subj == subject
        for key in np.unique(keys[own]).tolist():
            chosen = np.flatnonzero(own & (keys == key))
            chosen = chosen[np.argsort(images[chosen], kind="stable")]
            cell = _Cell(images[chosen], kept.category[chosen], correct[chosen])
            if twice := cell.image[1:][cell.image[1:] == cell.image[:-1]].tolist():
                raise ValueError(
                    f"{side}: expected every image once in a condition, but {subject!r} answered {twice[0]!r} more "
                    f"than once in the condition {key!r} of {dataset!r} ({len(twice)} such). Was a file read twice?"
                )
            result.setdefault(subject, {})[key] = cell
    return result


def _pair(dataset: str, a: _Table, b: _Table) -> np.ndarray:
    """Computes the mean over common conditions: (accuracy difference, observed, error consistency)."""
    keys = sorted(set(a) & set(b))
    if not keys:
        raise ValueError(
            f"trials: expected a condition of {dataset!r} that both saw, but got {sorted(a)} and {sorted(b)}."
        )
    for key in keys:
        one, two = a[key], b[key]
        if only := sorted(set(one.image.tolist()) ^ set(two.image.tolist())):
            raise ValueError(
                f"trials: expected the same images in the condition {key!r} of {dataset!r}, but only one side has "
                f"{only[0]!r} ({len(only)} such of {len(one.image)} and {len(two.image)}). Leave them out of both."
            )
        other = np.flatnonzero(one.category != two.category)
        if other.size:
            image, *named = (str(column[other[0]]) for column in (one.image, one.category, two.category))
            raise ValueError(
                f"trials: expected one right answer for an image, but {image!r} of {dataset!r} is {named[0]!r} and "
                f"{named[1]!r}."
            )
    hits = [(a[key].correct, b[key].correct) for key in keys]
    rows = [((accuracy(x) - accuracy(y)) ** 2, observed_consistency(x, y), error_consistency(x, y)) for x, y in hits]
    return np.mean(rows, axis=0)


def _pooled(own: Sequence[_Table], pairs: Sequence[np.ndarray]) -> Alignment:
    """Sums up one data set."""
    correct = np.concatenate([cell.correct for table in own for cell in table.values()])
    difference, observed, error = np.mean(pairs, axis=0).tolist()
    return Alignment(accuracy(correct), difference, observed, error, correct.size)


def _averaged(results: Sequence[Alignment]) -> Alignment:
    """Averages over data sets; the trials add up."""
    ood, difference, observed, error = np.mean([found[:4] for found in results], axis=0).tolist()
    return Alignment(ood, difference, observed, error, sum(found.n for found in results))
