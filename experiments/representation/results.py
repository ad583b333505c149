"""From the records of the study of representations to its numbers: curves with bands, gains, sweet spots."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd

from experiments.representation.measures import kept_conditions
from experiments.representation.quantities import CUES, RANDOM_MAP, Quantity, mean, quantities
from experiments.representation.settings import CONTROL, LADDER, RANDOM, SNIP, Truth
from experiments.shared.results import DIFFERENCES, SHARES, Case, Claim, Table, interval
from jaxprune import stats

REFERENCES = {"dense": "the dense network", "equal training": "the dense network trained equally long"}
"""What rungs are compared with."""

_CASE = ["quantity", "method", "architecture", "against"]


class Results:
    """The records of a study, truths among them, looked up by architecture, arm and rung; all have the same seeds.

    ``tested`` says which images tested a seed, and nothing where no two seeds share any.
    """

    def __init__(
        self, settings: Any, records: Sequence[dict[str, Any]], tested: Callable[[int], np.ndarray | None]
    ) -> None:
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
        self._tested = [tested(seed) for seed in self.seeds]
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

    def examples(self, values: Sequence[np.ndarray]) -> Any:
        """Says which images stand behind numbers that were read: the first of those that tested the seed."""
        known = [one for one in self._tested if one is not None]
        return [one[: len(read)] for one, read in zip(known, values, strict=True)] if known else "fresh"

    def value(self, quantity: Quantity, architecture: str, arm: str, rung: int) -> tuple[stats.Interval, int]:
        """Returns a quantity of a network with its own 95 % interval, NaN where it has none, and of how many images."""
        read = self.columns(quantity, architecture, arm, rung)
        count = sum(map(len, read))
        if not quantity.independent:
            centre = float(np.mean([quantity.value(one.mean(axis=0)) for one in read]))
            return stats.Interval(centre, np.nan, np.nan), count
        examples = self.examples(read)
        if quantity.value is mean:
            return interval([one[:, 0] for one in read], examples, SHARES if quantity.hits else None), count
        value = lambda means: quantity.value(means)[..., None]  # noqa: E731
        return stats.simultaneous(read, examples=examples, statistic=value)[0], count

    def levels(self, quantity: Quantity) -> dict[str, float]:
        """Returns what is reached without looking, by name; the mean over seeds."""
        found = [quantity.levels(self.truths[seed]) for seed in self.seeds]
        return {name: float(np.mean([one[name] for one in found])) for name in found[0]}

    def gains_of(self, quantity: Quantity, architecture: str, against: str) -> dict[int, stats.Interval]:
        """Compares every later rung with one of ``REFERENCES`` on the same images: above 0 where a rung is better.

        All intervals hold at once with 95 % confidence; there are none of a quantity whose rows are not independent.
        Of insertion and deletion it is the distance to random order that gains, or loses.
        """
        # The control is measured on the same rungs, all but the first.
        rungs = [rung for rung in self.rungs(architecture, LADDER, quantity) if rung and quantity.independent]
        if not rungs:
            return {}
        sides = [(LADDER, 0)] if against == "dense" else [(CONTROL, rung) for rung in rungs]
        places = sides + [(LADDER, rung) for rung in rungs]
        read = [self.columns(quantity, architecture, arm, rung, tested=True) for arm, rung in places]
        values = [np.concatenate([one[number] for one in read], axis=1) for number in range(len(self.seeds))]
        sign, examples = -1.0 if quantity.smaller else 1.0, self.examples(values)

        def gained(each: np.ndarray) -> np.ndarray:
            return sign * (each[..., len(sides) :] - each[..., : len(sides)])

        if quantity.value is mean:
            bounds = DIFFERENCES if quantity.hits else None
            found = stats.simultaneous(list(map(gained, values)), examples=examples, bounds=bounds)
        else:
            value = lambda means: gained(quantity.value(means.reshape(*means.shape[:-1], len(places), -1)))  # noqa: E731
            found = stats.simultaneous(values, examples=examples, statistic=value)
        return dict(zip(rungs, found, strict=True))

    @cached_property
    def curves(self) -> Table:
        """Every quantity of every network, with a 95 % interval of its own where it has one; it takes long, once."""
        rows = []
        for name, one, arm in itertools.product(self.architectures, self.quantities, (LADDER, CONTROL, RANDOM, SNIP)):
            for rung in self.rungs(name, arm, one):
                found, count = self.value(one, name, arm, rung)
                row = {**one.place(name), "arm": arm, "rung": rung, "sparsity": self.sparsity(name, arm, rung)}
                rows.append({**row, **found._asdict(), "examples": count, "seeds": len(self.seeds)})
        return pd.DataFrame(rows)

    @cached_property
    def gains(self) -> Table:
        """What every rung gains over both references; the intervals of a ladder hold at once.  It takes long, once."""
        rows = []
        for name, one, against in itertools.product(self.architectures, self.quantities, REFERENCES):
            for rung, gain in self.gains_of(one, name, against).items():
                row = {**one.place(name), "against": against, "rung": rung}
                rows.append({**row, "sparsity": self.sparsity(name, LADDER, rung), **gain._asdict()})
        return pd.DataFrame(rows)

    @cached_property
    def flat_maps(self) -> Table:
        """How many maps have one value everywhere, and so say nothing of where; only methods that have such."""
        rows = []
        for place, runs in self.runs.items():
            for method in next(iter(runs.values()))["attribution"]:
                flags = [flag for metrics in runs.values() for flag in metrics["attribution"][method]["flat"]]
                rows += [(*place, method, sum(flags), len(flags))] if any(flags) else []
        return pd.DataFrame(rows, columns=["architecture", "arm", "rung", "method", "flat", "maps"])


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

    Where one was found, that rung is of those whose interval lies above the margin.  A gain may end below a blind
    guess: ``level`` names the best that is reached without looking where the rung's ``value`` is no better.
    """
    reached = results.curves[results.curves.arm == LADDER].set_index([*_CASE[:3], "rung"])
    quantities = {(one.name, one.line): one for one in results.quantities}
    for names, ladder in results.gains[results.gains.against == against].groupby(_CASE, sort=False):
        name, method, architecture, _ = names
        quantity = quantities[name, method]
        above = ladder[ladder.low > margin + stats.ROUNDING]
        best = (above if len(above) else ladder).sort_values("mean", ascending=False, kind="stable").iloc[0]
        here = reached.loc[name, method, architecture, best.rung]
        # That a shape bias has no leaning makes it no worse.
        levels = {} if quantity.question == CUES else results.levels(quantity)
        if quantity.tested:
            levels = {RANDOM_MAP: reached.loc[name, RANDOM_MAP, architecture, best.rung]["mean"]}
        sign = -1.0 if quantity.smaller else 1.0
        level = max(levels, key=lambda one: sign * levels[one], default="")
        level = level if level and sign * here["mean"] <= sign * levels[level] else ""
        more = {"question": quantity.question, "rung": best.rung, "sparsity": best.sparsity, "rungs": len(ladder)}
        more |= {"rungs_above": len(above), "margin": margin, "value": here["mean"], "level": level}
        more |= {"level_value": levels.get(level, np.nan)}
        intervals = [stats.Interval(row.mean, row.low, row.high) for row in ladder.itertuples()]
        verdict, gain = stats.sweet_spot(intervals, margin), stats.Interval(best["mean"], best.low, best.high)
        yield Case(dict(zip(_CASE, names, strict=True)), gain, here.examples, len(results.seeds), verdict, more)
