"""From the records of the study of representations to its numbers: curves with bands, gains, sweet spots."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from experiments.representation_data import kept_conditions
from experiments.representation_quantities import CUES, RANDOM_MAP, Quantity, quantities
from experiments.representation_settings import CONTROL, LADDER, RANDOM, SNIP
from experiments.transfer_results import Table
from jaxprune import stats

REFERENCES = {"dense": "the dense network", "equal training": "the dense network trained equally long"}
"""What rungs are compared with."""

ARMS = (LADDER, CONTROL, RANDOM, SNIP)

_BAND = 1000  # resamples of a band of a figure; verdicts take those of ``stats.simultaneous``


class Results:
    """The records of a study, looked up by architecture, arm and rung.

    Args:
      study: its settings.
      records: what ``Store.read`` returned, one for each run.
      truths: likewise, one for each seed.
      seed: of the bootstrap.

    Raises:
      ValueError: a seed without its truth, a run that other seeds have and one has not, or a seed whose records are
        of different data.
    """

    def __init__(
        self, study: Any, records: Sequence[dict[str, Any]], truths: Sequence[dict[str, Any]], *, seed: int
    ) -> None:
        self._seed = seed
        self.truths = {one["config"]["seed"]: one["metrics"] for one in truths}
        self.runs: dict[tuple[str, str, int], dict[int, Any]] = {}
        for record in records:
            place = record["config"]
            key = place["architecture"], place["arm"], place["rung"]
            self.runs.setdefault(key, {})[place["seed"]] = record["metrics"]
        self.seeds = sorted({seed for runs in self.runs.values() for seed in runs})
        self.architectures = list(dict.fromkeys(name for name, _, _ in self.runs))
        self._check()
        _check_data([*records, *truths])
        conditions = list(next(iter(self.truths.values()))["observers"])
        self.kept = kept_conditions(study, conditions)
        metrics = [record["metrics"] for record in records]
        self.quantities = quantities(metrics, list(self.truths.values()), self.kept)

    def _check(self) -> None:
        if missing := sorted(set(self.seeds) - set(self.truths)):
            raise ValueError(f"truths: expected one for each seed of the records, but seeds {missing} have none.")
        for key, runs in self.runs.items():
            if sorted(runs) != self.seeds:
                raise ValueError(
                    f"records: expected seeds {self.seeds} of {key}, but got {sorted(runs)}. Pass all runs of a study."
                )

    def metrics(self, architecture: str, arm: str, rung: int) -> dict[int, Any]:
        """Returns the metrics of a network: {seed: metrics}."""
        return self.runs[architecture, arm, rung]

    def rungs(self, architecture: str, arm: str, quantity: Quantity | None = None) -> list[int]:
        """Lists the rungs of an arm on which a quantity was measured; of any quantity, all."""
        found = sorted(rung for name, which, rung in self.runs if (name, which) == (architecture, arm))
        return [rung for rung in found if quantity is None or self.columns(quantity, architecture, arm, rung)]

    def columns(
        self, quantity: Quantity, architecture: str, arm: str, rung: int, *, tested: bool = False
    ) -> list[np.ndarray]:
        """Reads a quantity, or what is tested of it: for every seed [images, columns]; nothing where there is none."""
        runs = self.metrics(architecture, arm, rung)
        read = (tested and quantity.tested) or quantity.read
        found = [read(runs[seed], self.truths[seed]) for seed in self.seeds]
        return [one for one in found if one is not None]

    def sparsity(self, architecture: str, arm: str, rung: int, of: str = "sparsity") -> float:
        """Returns the mean over seeds of the share of weights that are gone."""
        return float(np.mean([metrics[of] for metrics in self.metrics(architecture, arm, rung).values()]))

    def value(self, quantity: Quantity, architecture: str, arm: str, rung: int) -> tuple[stats.Interval, int]:
        """Returns a quantity of a network with its own 95 % interval, NaN where it has none, and of how many images."""
        read = self.columns(quantity, architecture, arm, rung)
        count = sum(map(len, read))
        if not quantity.independent:
            centre = float(np.mean([quantity.value(one.mean(axis=0)) for one in read]))
            return stats.Interval(centre, np.nan, np.nan), count
        # Not ``stats.bootstrap``: bands allow for few seeds as the intervals of gains do.
        value = lambda means: quantity.value(means)[..., None]  # noqa: E731
        return stats.simultaneous(read, seed=self._seed, statistic=value, resamples=_BAND)[0], count

    def levels(self, quantity: Quantity) -> dict[str, float]:
        """Returns what is reached without looking, by name; the mean over seeds."""
        found = [quantity.levels(self.truths[seed]) for seed in self.seeds]
        return {name: float(np.mean([one[name] for one in found])) for name in found[0]}

    def examples(self, quantity: Quantity) -> tuple[int, int]:
        """Returns the fewest and the most images, or triplets, of a seed that a quantity is of."""
        counts = [
            len(one)
            for name in self.architectures
            if self.rungs(name, LADDER, quantity)
            for one in self.columns(quantity, name, LADDER, 0)
        ]
        return min(counts), max(counts)

    def gains(self, quantity: Quantity, architecture: str, against: str) -> dict[int, stats.Interval]:
        """Compares rungs with a reference on the same images: what each gains, above 0 where it is better.

        Of insertion and deletion it is the distance to random order that gains, or loses.

        Args:
          quantity: what is compared.
          architecture: whose ladder.
          against: one of ``REFERENCES``.

        Returns:
          For every rung but 0 with the quantity measured, an interval; all of them hold at once with 95 % confidence.
          None of a quantity whose rows are not independent.
        """
        if not quantity.independent:
            return {}
        rungs = [rung for rung in self.rungs(architecture, LADDER, quantity) if rung]
        if against == "dense":
            sides = [(LADDER, 0)]
        else:
            measured = self.rungs(architecture, CONTROL, quantity)
            rungs = [rung for rung in rungs if rung in measured]
            sides = [(CONTROL, rung) for rung in rungs]
        if not rungs or not self.columns(quantity, architecture, *sides[0]):
            return {}
        places = sides + [(LADDER, rung) for rung in rungs]
        read = [self.columns(quantity, architecture, arm, rung, tested=True) for arm, rung in places]
        values = [np.concatenate([one[number] for one in read], axis=1) for number in range(len(self.seeds))]
        sign = -1.0 if quantity.smaller else 1.0

        def gained(means: np.ndarray) -> np.ndarray:
            each = quantity.value(means.reshape(*means.shape[:-1], len(places), -1))
            return sign * (each[..., len(sides) :] - each[..., : len(sides)])

        return dict(zip(rungs, stats.simultaneous(values, seed=self._seed, statistic=gained), strict=True))


def _check_data(records: Sequence[dict[str, Any]]) -> None:
    found: dict[int, set[str]] = {}
    for record in records:
        found.setdefault(record["config"]["seed"], set()).add(record["provenance"]["data"])
    for seed, fingerprints in found.items():
        if len(fingerprints) > 1:
            raise ValueError(
                f"records: expected those of seed {seed} to be of the same data, but got {len(fingerprints)} "
                f"fingerprints, {', '.join(sorted(fingerprints))}: the data changed. Delete the records of this seed, "
                "or choose another folder."
            )


def curves(results: Results) -> Table:
    """Lists every quantity of every network, with a 95 % interval of its own where it has one."""
    rows = []
    for architecture in results.architectures:
        for quantity in results.quantities:
            for arm in ARMS:
                for rung in results.rungs(architecture, arm, quantity):
                    found, count = results.value(quantity, architecture, arm, rung)
                    rows.append(
                        {
                            **_named(quantity, architecture),
                            "arm": arm,
                            "rung": rung,
                            "sparsity": results.sparsity(architecture, arm, rung),
                            **found._asdict(),
                            "examples": count,
                            "seeds": len(results.seeds),
                        }
                    )
    return pd.DataFrame(rows)


def gains(results: Results) -> Table:
    """Lists what every rung gains over both references; the intervals of a ladder hold at once."""
    columns = ["question", "quantity", "method", "architecture", "against", "rung", "sparsity", *stats.Interval._fields]
    rows = []
    for architecture in results.architectures:
        for quantity in results.quantities:
            for against in REFERENCES:
                for rung, gain in results.gains(quantity, architecture, against).items():
                    place = {"rung": rung, "sparsity": results.sparsity(architecture, LADDER, rung)}
                    names = {**_named(quantity, architecture), "against": against}
                    rows.append({**names, **place, **gain._asdict()})
    return pd.DataFrame(rows, columns=columns)


def verdicts(gained: Table, margin: float) -> Table:
    """Says of every ladder whether it has a sweet spot.

    Args:
      gained: what ``gains`` returned.
      margin: a gain up to this does not count.

    Returns:
      A row for each ladder, quantity and reference: the verdict, and the rung that gains most (where a sweet spot was
      found: of those whose interval lies above the margin).
    """
    keys = ["question", "quantity", "method", "architecture", "against"]
    rows = []
    for names, ladder in gained.groupby(keys, sort=False):
        intervals = [stats.Interval(row.mean, row.low, row.high) for row in ladder.itertuples()]
        above = ladder[ladder.low > margin]
        best = (above if len(above) else ladder).sort_values("mean", ascending=False, kind="stable").iloc[0]
        rows.append(
            {
                **dict(zip(keys, names, strict=True)),
                "verdict": stats.sweet_spot(intervals, margin),
                "rung": best.rung,
                "sparsity": best.sparsity,
                "gain": best["mean"],
                "low": best.low,
                "high": best.high,
                "rungs": len(ladder),
                "rungs_above": len(above),
                "margin": margin,
            }
        )
    return pd.DataFrame(rows, columns=[*keys, "verdict", "rung", "sparsity", "gain", *_REST])


_REST = ["low", "high", "rungs", "rungs_above", "margin"]


def with_levels(results: Results, measured: Table, tested: Table) -> Table:
    """Adds to verdicts what the rung reaches that they name: a gain may end below what a blind guess has.

    Args:
      results: for the levels that are reached without looking.
      measured: what ``curves`` returned.
      tested: what ``verdicts`` returned.

    Returns:
      The same rows with the columns ``value``, the mean of the rung; ``level``, the best of the levels where that mean
      is no better, else empty; and ``level_value``, its height, else NaN.
    """
    keys = ["quantity", "method", "architecture", "rung"]
    values = measured[measured.arm == LADDER].set_index(keys)["mean"]
    quantities = {(one.name, one.line): one for one in results.quantities}
    added = []
    for row in tested.itertuples():
        quantity = quantities[row.quantity, row.method]
        value = values[row.quantity, row.method, row.architecture, row.rung]
        # That a shape bias has no leaning makes it no worse.
        levels = {} if quantity.question == CUES else results.levels(quantity)
        if quantity.tested:
            levels = {RANDOM_MAP: values[row.quantity, RANDOM_MAP, row.architecture, row.rung]}
        sign = -1.0 if quantity.smaller else 1.0
        best = max(levels, key=lambda name: sign * levels[name], default="")
        blind = bool(best) and sign * value <= sign * levels[best]
        added.append((value, best, levels[best]) if blind else (value, "", np.nan))
    columns = ["value", "level", "level_value"]
    return tested.join(pd.DataFrame(added, columns=columns, index=tested.index))


def flat_maps(results: Results) -> Table:
    """Lists how many maps have one value everywhere, and so say nothing of where; only methods that have such."""
    rows = []
    for (architecture, arm, rung), runs in results.runs.items():
        for method in next(iter(runs.values()))["attribution"]:
            flags = [flag for metrics in runs.values() for flag in metrics["attribution"][method]["flat"]]
            if any(flags):
                counts = {"flat": sum(flags), "maps": len(flags)}
                rows.append({"architecture": architecture, "arm": arm, "rung": rung, "method": method, **counts})
    return pd.DataFrame(rows, columns=["architecture", "arm", "rung", "method", "flat", "maps"])


def _named(quantity: Quantity, architecture: str) -> dict[str, str]:
    return {
        "question": quantity.question,
        "quantity": quantity.name,
        "method": quantity.line,
        "architecture": architecture,
    }
