"""From the records of a study to numbers: cells looked up, claims tested, two tidy tables."""

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from experiments.shared.methods import with_word
from jaxprune import stats

Table = Any
"""A pandas frame.  Type checkers take a column, or a choice of rows, for many other things."""

COLUMNS = ("claim", "case", "mean", "low", "high", "n", "seeds", "verdict")
"""What the verdicts of every study have; after them ``meaning``, ``unit``, and what names the case."""


SHARES, DIFFERENCES = (0.0, 1.0), (-1.0, 1.0)
"""What hits, and differences of the hits of two networks, are limited to."""


GROUPS = ("source", "transfer")
"""The task that prunes a network, and all others."""


def of_group(metrics: dict[str, Any], values: Mapping[str, Any], group: str) -> list[Any]:
    """Picks what belongs to the source ("source"), or to the other tasks ("transfer"), in the order of their names."""
    return [one for task, one in sorted(values.items()) if GROUPS[task != metrics["source"]] == group]


def hits(metrics: dict[str, Any], group: str, stage: str = "finetuned") -> np.ndarray:
    """Reads which test images of a group are classified rightly: [n] of 0 and 1."""
    chosen = [one["hits"] for one in of_group(metrics, metrics[stage], group)]
    return np.frombuffer("".join(chosen).encode(), np.uint8) - 48.0


class Results:
    """The records of a study, looked up by what decides them; those of one cell in the order of their seeds.

    ``inputs`` is what the study opened, such as ``splits.Inputs``, which says which images tested a seed.
    """

    def __init__(self, found: Sequence[dict[str, Any]], inputs: Any = None) -> None:
        self.records, self.inputs = sorted(map(with_word, found), key=lambda one: one["config"]["seed"]), inputs
        self.seeds = sorted({one["config"]["seed"] for one in found})
        self.data, self.metrics = found[0]["data"], found[0]["metrics"]

    def of(self, **place: Any) -> list[dict[str, Any]]:
        """Returns the metrics of a cell, one for each seed; none where there is no such cell."""
        return [
            one["metrics"]
            for one in self.records
            if all(one["config"].get(name) == value for name, value in place.items())
        ]

    def examples(self, group: str) -> list[np.ndarray]:
        """Says for every seed which images test the source ("source"), or the other tasks ("transfer").

        Tasks are in the order of their names, as hits of theirs have to be: that of a record may be any.
        """
        names = sorted(task.name for task in self.inputs.tasks)
        chosen = [name for name in names if (name == self.metrics["source"]) == (group == "source")]
        return [self.inputs.tested(seed, chosen) for seed in self.seeds]

    def count(self, groups: Sequence[str]) -> str:
        """Says how many seeds there are, and how many test images of each group in all."""
        sizes = ", ".join(f"{sum(map(len, self.examples(group)))} ({group})" for group in groups)
        return f"{len(self.seeds)} seed{'s' * (len(self.seeds) > 1)}; n = {sizes} in all."

    def accuracy(self, hits: Callable[[dict[str, Any], str], np.ndarray], group: str, **place: Any) -> stats.Interval:
        """Returns the mean over a cell of its hits, (metrics, group) -> [n], with its interval."""
        return interval([hits(metrics, group) for metrics in self.of(**place)], self.examples(group), SHARES)

    def change(
        self, hits: Callable[[dict[str, Any], str, str], np.ndarray], group: str, **place: Any
    ) -> stats.Interval:
        """Returns what fine-tuning changes in the accuracy of a cell, of its hits (metrics, group, stage) -> [n]."""
        pairs = [[hits(one, group, stage) for stage in ("finetuned", "pruned")] for one in self.of(**place)]
        return interval([after - before for after, before in pairs], self.examples(group), DIFFERENCES)

    def compare(
        self,
        hits: Callable[[dict[str, Any], str], np.ndarray],
        group: str,
        this: dict[str, Any],
        than: dict[str, Any],
        chance: float,
    ) -> "Case":
        """Compares the hits of two cells, seed by seed and image by image: a case named by the first."""
        one, other = ([hits(metrics, group) for metrics in self.of(**place)] for place in (this, than))
        return paired(this, one, other, self.examples(group), chance=chance)

    def values(self, name: str) -> list[Any]:
        """Lists the values that a field of the runs has, in the order in which runs have them."""
        return list(dict.fromkeys(one["config"][name] for one in self.records))


def interval(
    values: Sequence[np.ndarray],
    examples: stats.Examples | None = None,
    bounds: tuple[float, float] | None = None,
) -> stats.Interval:
    """Returns the mean of numbers for each seed and example, with its interval of 95 %; see ``stats.interval``."""
    return stats.interval(values, examples=examples, bounds=bounds)


class Case(NamedTuple):
    """One comparison of a claim.

    Attributes:
      where: what names it, such as {"score": "magnitude", "sparsity": 0.5}.
      interval: of what is claimed.
      n: how many examples are behind it, of all seeds.
      seeds: how many seeds.
      verdict: where the interval alone does not decide; else empty.
      more: further columns of the table.
    """

    where: dict[str, Any]
    interval: stats.Interval
    n: int
    seeds: int
    verdict: str = ""
    more: Mapping[str, Any] = {}


def case(
    where: dict[str, Any],
    values: Iterable[Any],
    examples: stats.Examples | None = None,
    *,
    bounds: tuple[float, float] | None = None,
    verdict: str = "",
    more: Mapping[str, Any] = {},
) -> Case:
    """Makes a case of a number for each example, or of one number, for every seed."""
    each = [np.atleast_1d(np.asarray(one, np.float64)) for one in values]
    return Case(where, interval(each, examples, bounds), sum(map(len, each)), len(each), verdict, more)


FLOOR = "undecided (floor)"
"""The verdict where neither side of a comparison can be told from chance."""


def paired(
    where: dict[str, Any],
    this: Sequence[np.ndarray],
    than: Sequence[np.ndarray],
    examples: stats.Examples,
    *,
    chance: float,
    more: Mapping[str, Any] = {},
) -> Case:
    """Makes a case of the hits of two networks, image by image; two that cannot be told from chance say nothing."""
    verdict = FLOOR if all(at_chance(side, examples, chance) for side in (this, than)) else ""
    differences = [one - other for one, other in zip(this, than, strict=True)]
    return case(where, differences, examples, bounds=DIFFERENCES, verdict=verdict, more=more)


def at_chance(hits: Sequence[np.ndarray], examples: stats.Examples, chance: float) -> bool:
    """Whether these very networks, of all seeds together, cannot be told from guessing; an image counts once."""
    if isinstance(examples, str):
        images = hits if examples == "fresh" else [np.mean(hits, axis=0)]
        return interval([np.concatenate(images)], bounds=SHARES).low <= chance
    _, places, counts = np.unique(np.concatenate(examples), return_inverse=True, return_counts=True)
    means = np.bincount(places.reshape(-1), np.concatenate(hits)) / counts
    return interval([means], bounds=SHARES).low <= chance


class Claim(NamedTuple):
    """Something that holds of a number, in every case.

    Attributes:
      name: short.
      meaning: what is compared, in words.
      cases: results -> the comparisons.
      verdict: interval -> "holds", "does not hold" or "undecided".
      unit: of the number: "share" (1 is all), or what it is.
      alone: whether it is about the networks that were measured, and no others: one seed can decide it then.
    """

    name: str
    meaning: str
    cases: Callable[[Any], Iterable[Case]]
    verdict: Callable[[stats.Interval], str]
    unit: str = "share"
    alone: bool = False


def above_zero(found: stats.Interval) -> str:
    """Says whether a number is above 0."""
    return stats.above(found, 0.0)


def keeps(margin: float) -> Callable[[stats.Interval], str]:
    """Makes what says whether a difference is no further than a margin below 0."""
    return lambda found: stats.at_least(found, -margin)


def verdicts(results: Any, claims: Sequence[Claim]) -> Table:
    """Tests every claim in every case: one row each."""
    rows = []
    for claim in claims:
        for one in claim.cases(results):
            row = {"claim": claim.name, "case": ", ".join(f"{name} {value}" for name, value in one.where.items())}
            row |= {**one.interval._asdict(), "n": one.n, "seeds": one.seeds}
            verdict = one.verdict or claim.verdict(one.interval)
            if one.seeds < 2 and not claim.alone and verdict != FLOOR:
                verdict = "undecided"  # of networks of other seeds one says nothing
            row |= {"verdict": verdict, "meaning": claim.meaning, "unit": claim.unit}
            rows.append({**row, **one.where, **one.more})
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=[*COLUMNS, "meaning", "unit"])


def metrics(records: Sequence[dict[str, Any]]) -> Table:
    """Lists every number of every run: what decides the run where runs differ, the metric, its value."""
    configs = [record["config"] for record in records]
    names = sorted({name for config in configs for name in config}, key=lambda name: (name != "seed", name))
    telling = [name for name in names if name == "seed" or any(_differ(configs, name))]
    rows = []
    for config, record in zip(configs, records, strict=True):
        place = {name: config.get(name) for name in telling}
        rows += [{**place, "metric": name, "value": value} for name, value in _numbers(record["metrics"])]
    return pd.DataFrame(rows, columns=[*telling, "metric", "value"])


def complete(
    made: Sequence[tuple[Any, dict[str, Any]]], failed: Sequence[Any], apart: Callable[[Any], Hashable]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Leaves out what lacks a run that failed: comparisons are paired, and every cell has the same seeds.

    Args:
      made: (run, record) of every run that is done.
      failed: the runs that failed.
      apart: run -> what is left out with it, in all seeds; None: its seed.

    Returns:
      The records that are left, and in words what is not.
    """
    seeds = {run.seed for run in failed if apart(run) is None}
    others = {apart(run) for run in failed if apart(run) is not None}
    kept = [
        record for run, record in made if run.seed not in seeds and (apart(run) is None or apart(run) not in others)
    ]
    named = [*(f"seed {seed}" for seed in sorted(seeds)), *sorted(map(str, others))]
    return kept, named


class Loaded(NamedTuple):
    """The tables of a study.

    Attributes:
      verdicts: a row for each claim and case: claim, case, mean, low, high, n, seeds, verdict, and what names the case.
      metrics: a row for each number of each run: what decides the run, metric, value.
    """

    verdicts: Table
    metrics: Table


def load(out: str | Path) -> Loaded:
    """Loads the tables of a study that is finished.

    Raises:
      ValueError: there are none in that folder.
    """
    names = [Path(out) / f"{name}.csv" for name in Loaded._fields]
    if missing := [str(path) for path in names if not path.exists()]:
        raise ValueError(f"out: expected the folder of a finished study, but {missing[0]!r} is not there.")
    frames = [pd.read_csv(path) for path in names]
    # An empty word is a word, as that of a quantity which has no methods.
    return Loaded(
        *(
            one.fillna(dict.fromkeys(one.select_dtypes("str" if "str" in map(str, one.dtypes) else object), ""))
            for one in frames
        )
    )


def fields_of(settings: Any, run_type: type[Any]) -> dict[str, Any]:
    """The settings that a run shares: those of its fields that the study has."""
    return {f.name: getattr(settings, f.name) for f in dataclasses.fields(run_type) if hasattr(settings, f.name)}


def _differ(configs: Sequence[dict[str, Any]], name: str) -> Iterator[bool]:
    return (config.get(name) != configs[0].get(name) for config in configs)


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a tree, by their place; lists, which are examples or curves, are left to the records."""
    if isinstance(value, bool | int | float):
        yield name, value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _numbers(entry, f"{name}/{key}".lstrip("/"))
