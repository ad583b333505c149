"""From the records of the study of representations to its numbers: curves with bands, gains, sweet spots."""

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd

from experiments.representation.quantities import CUES, RANDOM_MAP, Quantity, quantities
from experiments.representation.settings import CONTROL, LADDER, RANDOM, SNIP, Truth
from experiments.representation.truth import kept_conditions
from experiments.shared.results import Case, Claim, Table
from jaxprune import stats

REFERENCES = {"dense": "the dense network", "equal training": "the dense network trained equally long"}
"""What rungs are compared with."""

_BAND = 1000  # resamples of a band of a figure; verdicts take those of ``stats.simultaneous``
_SEED = 0  # of the bootstrap
_CASE = ["quantity", "method", "architecture", "against"]


class Results:
    """The records of a study, truths among them, looked up by architecture, arm and rung; all have the same seeds."""

    def __init__(self, settings: Any, records: Sequence[dict[str, Any]]) -> None:
        self.truths: dict[int, Any] = {}
        self.runs: dict[tuple[str, str, int], dict[int, Any]] = {}
        for record in records:
            config, metrics = record["config"], record["metrics"]
            if config["@type"] == Truth.__name__:
                self.truths[config["seed"]] = metrics
            else:
                key = config["architecture"], config["arm"], config["rung"]
                self.runs.setdefault(key, {})[config["seed"]] = metrics
        self.seeds = sorted(self.truths)
        self.architectures = list(dict.fromkeys(name for name, _, _ in self.runs))
        self.kept = kept_conditions(settings, list(self.truths[self.seeds[0]]["observers"]))
        metrics = [one for runs in self.runs.values() for one in runs.values()]
        self.quantities = quantities(metrics, list(self.truths.values()), self.kept)

    def rungs(self, architecture: str, arm: str, quantity: Quantity | None = None) -> list[int]:
        """Lists the rungs of an arm on which a quantity was measured; of any quantity, all."""
        found = sorted(rung for name, which, rung in self.runs if (name, which) == (architecture, arm))
        return [rung for rung in found if quantity is None or self.columns(quantity, architecture, arm, rung)]

    def columns(self, quantity: Quantity, architecture: str, arm: str, rung: int, tested: bool = False) -> list[Any]:
        """Reads a quantity, or what is tested of it: for every seed [images, columns]; nothing where there is none."""
        runs = self.runs[architecture, arm, rung]
        read = (tested and quantity.tested) or quantity.read
        found = [read(runs[seed], self.truths[seed]) for seed in self.seeds]
        return [one for one in found if one is not None]

    def sparsity(self, architecture: str, arm: str, rung: int, of: str = "sparsity") -> float:
        """Returns the mean over seeds of the share of weights that are gone."""
        return float(np.mean([metrics[of] for metrics in self.runs[architecture, arm, rung].values()]))

    def value(self, quantity: Quantity, architecture: str, arm: str, rung: int) -> tuple[stats.Interval, int]:
        """Returns a quantity of a network with its own 95 % interval, NaN where it has none, and of how many images."""
        read = self.columns(quantity, architecture, arm, rung)
        count = sum(map(len, read))
        if not quantity.independent:
            centre = float(np.mean([quantity.value(one.mean(axis=0)) for one in read]))
            return stats.Interval(centre, np.nan, np.nan), count
        # Not ``stats.bootstrap``: bands allow for few seeds as the intervals of gains do.
        value = lambda means: quantity.value(means)[..., None]  # noqa: E731
        return stats.simultaneous(read, seed=_SEED, statistic=value, resamples=_BAND)[0], count

    def levels(self, quantity: Quantity) -> dict[str, float]:
        """Returns what is reached without looking, by name; the mean over seeds."""
        found = [quantity.levels(self.truths[seed]) for seed in self.seeds]
        return {name: float(np.mean([one[name] for one in found])) for name in found[0]}

    def gains_of(self, quantity: Quantity, architecture: str, against: str) -> dict[int, stats.Interval]:
        """Compares rungs with one of ``REFERENCES`` on the same images: above 0 where a rung is better.

        Of insertion and deletion it is the distance to random order that gains, or loses.

        Returns:
          For every rung but 0 with the quantity measured, an interval; all of them hold at once with 95 % confidence.
          None of a quantity whose rows are not independent.
        """
        # The control is measured on the same rungs, all but the first.
        rungs = [rung for rung in self.rungs(architecture, LADDER, quantity) if rung]
        if not quantity.independent or not rungs:
            return {}
        sides = [(LADDER, 0)] if against == "dense" else [(CONTROL, rung) for rung in rungs]
        places = sides + [(LADDER, rung) for rung in rungs]
        read = [self.columns(quantity, architecture, arm, rung, tested=True) for arm, rung in places]
        values = [np.concatenate([one[number] for one in read], axis=1) for number in range(len(self.seeds))]
        sign = -1.0 if quantity.smaller else 1.0

        def gained(means: np.ndarray) -> np.ndarray:
            each = quantity.value(means.reshape(*means.shape[:-1], len(places), -1))
            return sign * (each[..., len(sides) :] - each[..., : len(sides)])

        return dict(zip(rungs, stats.simultaneous(values, seed=_SEED, statistic=gained), strict=True))

    @cached_property
    def curves(self) -> Table:
        """Every quantity of every network, with a 95 % interval of its own where it has one; it takes long, once."""
        rows = []
        for place, quantity in self._quantities():
            for arm in (LADDER, CONTROL, RANDOM, SNIP):
                for rung in self.rungs(place["architecture"], arm, quantity):
                    cell = (place["architecture"], arm, rung)
                    found, count = self.value(quantity, *cell)
                    row = {**place, "arm": arm, "rung": rung, "sparsity": self.sparsity(*cell), **found._asdict()}
                    rows.append({**row, "examples": count, "seeds": len(self.seeds)})
        return pd.DataFrame(rows)

    @cached_property
    def gains(self) -> Table:
        """What every rung gains over both references; the intervals of a ladder hold at once.  It takes long, once."""
        rows = []
        for place, quantity in self._quantities():
            for against in REFERENCES:
                for rung, gain in self.gains_of(quantity, place["architecture"], against).items():
                    sparsity = self.sparsity(place["architecture"], LADDER, rung)
                    rows.append({**place, "against": against, "rung": rung, "sparsity": sparsity, **gain._asdict()})
        return pd.DataFrame(rows)

    @cached_property
    def flat_maps(self) -> Table:
        """How many maps have one value everywhere, and so say nothing of where; only methods that have such."""
        rows = []
        for (architecture, arm, rung), runs in self.runs.items():
            for method in next(iter(runs.values()))["attribution"]:
                flags = [flag for metrics in runs.values() for flag in metrics["attribution"][method]["flat"]]
                if any(flags):
                    rows.append((architecture, arm, rung, method, sum(flags), len(flags)))
        return pd.DataFrame(rows, columns=["architecture", "arm", "rung", "method", "flat", "maps"])

    def _quantities(self) -> Iterator[tuple[dict[str, str], Quantity]]:
        for name in self.architectures:
            for one in self.quantities:
                place = {"question": one.question, "quantity": one.name, "method": one.line, "architecture": name}
                yield place, one


def tables(settings: Any, results: Results, tested: Table) -> dict[str, Table]:
    """Makes the tables beside the verdicts."""
    del settings, tested
    return {"curves": results.curves, "gains": results.gains, "flat_maps": results.flat_maps}


def claims(settings: Any) -> list[Claim]:
    """Lists what is tested: that some rung of a ladder is a sweet spot, over each reference."""
    more = f" by more than {settings.margin:g}" if settings.margin else ""
    return [
        Claim(
            f"sweet spot over {against}",
            f"a rung is better than {meaning}{more}, all rungs of a ladder tested at once",
            partial(sweet_spots, against=against, margin=settings.margin),
            lambda found: stats.sweet_spot([found], settings.margin),
            unit="measure",
        )
        for against, meaning in REFERENCES.items()
    ]


def sweet_spots(results: Results, *, against: str, margin: float) -> Iterator[Case]:
    """Says of every ladder and quantity whether it has a sweet spot, and which rung gains most.

    Where a sweet spot was found, that rung is of those whose interval lies above the margin.  A gain may end below what
    a blind guess reaches: of the levels that are reached without looking, ``level`` names the best where the ``value``
    of the rung is no better, and ``level_value`` is its height.
    """
    reached = {
        (row.quantity, row.method, row.architecture, row.rung): row
        for row in results.curves[results.curves.arm == LADDER].itertuples()
    }
    quantities = {(one.name, one.line): one for one in results.quantities}
    for names, ladder in results.gains[results.gains.against == against].groupby(_CASE, sort=False):
        name, method, architecture, _ = names
        quantity = quantities[name, method]
        above = ladder[ladder.low > margin]
        best = (above if len(above) else ladder).sort_values("mean", ascending=False, kind="stable").iloc[0]
        here = reached[name, method, architecture, best.rung]
        # That a shape bias has no leaning makes it no worse.
        levels = {} if quantity.question == CUES else results.levels(quantity)
        if quantity.tested:
            levels = {RANDOM_MAP: reached[name, RANDOM_MAP, architecture, best.rung].mean}
        level, height = _beyond(levels, here.mean, -1.0 if quantity.smaller else 1.0)
        more = {"question": quantity.question, "rung": best.rung, "sparsity": best.sparsity, "rungs": len(ladder)}
        more |= {"rungs_above": len(above), "margin": margin}
        more |= {"value": here.mean, "level": level, "level_value": height}
        intervals = [stats.Interval(row.mean, row.low, row.high) for row in ladder.itertuples()]
        verdict, interval = stats.sweet_spot(intervals, margin), stats.Interval(best["mean"], best.low, best.high)
        where = dict(zip(_CASE, names, strict=True))
        yield Case(where, interval, here.examples, len(results.seeds), verdict, more)


def _beyond(levels: dict[str, float], value: float, sign: float) -> tuple[str, float]:
    """Returns the best of some levels, and its height, where a value is no better; else nothing and NaN."""
    best = max(levels, key=lambda name: sign * levels[name], default="")
    return (best, levels[best]) if best and sign * value <= sign * levels[best] else ("", np.nan)
