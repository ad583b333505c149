"""From the records of the landscape study to its numbers: intervals over seeds, and verdicts on its claims."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from experiments.transfer_results import STAGES, Table
from jaxprune import stats

TASKS = {"source": "the task that pruned it", "transfer": "a task it was never shown"}
STAGE_NAMES = {"pruned": "pruned", "finetuned": "fine-tuned on source"}


class Results:
    """The records of a study, looked up by score; everything comes as one value, or one curve, for each seed.

    Args:
      records: what ``Store.read`` returned, one for each run.
      seed: of the bootstrap.
    """

    def __init__(self, records: Sequence[dict[str, Any]], seed: int) -> None:
        self._seed = seed
        self._runs: dict[str, list[dict[str, Any]]] = {}
        for record in records:
            self._runs.setdefault(record["config"]["score"], []).append(record["metrics"])
        self.networks = list(self._runs)
        self.scores = [score for score in self.networks if score != "dense"]
        self.seeds = sorted({record["config"]["seed"] for record in records})
        self.pairs = list(dict.fromkeys(pair for runs in self._runs.values() for pair in runs[0]["barriers"]))

    def each(self, score: str, read: Callable[[dict[str, Any]], Any]) -> np.ndarray:
        """Reads a number, or a list, from the metrics of every seed: [seeds, ...]."""
        return np.array([read(metrics) for metrics in self._runs[score]], np.float64)

    def curvature(self, score: str, stage: str, task: str, name: str) -> np.ndarray:
        """Returns a number, or a list, of the curvature of a network."""
        return self.each(score, lambda metrics: metrics["curvature"][stage][task][name])

    def overlap(self, score: str, stage: str, of: str, name: str = "overlap") -> np.ndarray:
        """Returns how far the top curvature of the source agrees with "transfer" or with that of "other images"."""
        return self.each(score, lambda metrics: metrics["curvature"][stage]["alignment"][of][name])

    def path(self, score: str, task: str, name: str) -> np.ndarray:
        """Returns "shares", "true", "first" or "second" of the pruning path: [seeds, points]."""
        return self.each(score, lambda metrics: metrics["pruning"][task]["path"][name])

    def removed(self, score: str, task: str) -> np.ndarray:
        """Returns the mean curvature of the dense network in the weights that a score removes."""
        return self.each(
            score, lambda metrics: metrics["pruning"][task]["trace"]["value"] / metrics["pruning"][task]["weights"]
        )

    def present(self, score: str, stage: str, task: str) -> np.ndarray:
        """Returns the mean curvature of a network in the weights that it has."""
        trace = self.each(score, lambda metrics: metrics["curvature"][stage][task]["trace"]["value"])
        return trace / self.curvature(score, stage, task, "weights")

    def barrier(self, score: str, pair: str, task: str, name: str) -> np.ndarray:
        """Returns the "height", "shares" or "losses" of a barrier."""
        return self.each(score, lambda metrics: metrics["barriers"][pair][task][name])

    def has(self, score: str, pair: str) -> bool:
        """Says whether a network has that pair: the dense one is not compared with itself."""
        return pair in self._runs[score][0]["barriers"]

    def interval(self, values: np.ndarray) -> stats.Interval:
        """Returns the mean over seeds with its bootstrap interval; of three seeds, from the least to the most."""
        return stats.bootstrap([np.array([value]) for value in values], seed=self._seed)


class Case(NamedTuple):
    """What a claim says of one network: a number for each seed."""

    score: str
    where: str
    values: np.ndarray


class Claim(NamedTuple):
    """Something that holds of a number, for every case."""

    name: str
    meaning: str
    cases: Callable[[Results], Iterator[Case]]
    verdict: Callable[[stats.Interval], str]


def above_zero(interval: stats.Interval) -> str:
    """Says whether a number is above 0."""
    return stats.above(interval, 0.0)


def claims(margin: float) -> list[Claim]:
    """Lists the claims; whatever way each comes out is what the page says."""
    return [
        Claim("alignment", "overlap of source and transfer, above chance", _aligned, above_zero),
        Claim("tasks differ", "overlap with other images of the source, above that with transfer", _differ, above_zero),
        Claim(
            "second order",
            "error of the first order in the change of the loss, above that of the second, after a share of the way",
            _second_order,
            above_zero,
        ),
        Claim(
            "flat directions",
            "mean curvature of what a random mask removes, above that of what the score removes",
            _flat,
            above_zero,
        ),
        Claim(
            "sharper than dense",
            "largest eigenvalue, fine-tuned, above that of the dense network fine-tuned equally long",
            _sharper,
            above_zero,
        ),
        Claim(
            "no barrier",
            f"height below {100 * margin:g} % of the mean loss at the ends",
            _barriers,
            lambda interval: stats.at_least(stats.Interval(-interval.mean, -interval.high, -interval.low), -margin),
        ),
    ]


def verdicts(results: Results, listed: Sequence[Claim]) -> Table:
    """Tests every claim in every case: one row each, with the mean over seeds and its interval."""
    rows = []
    for claim in listed:
        for score, where, values in claim.cases(results):
            interval = results.interval(values)
            names = {"claim": claim.name, "meaning": claim.meaning, "network": score, "where": where}
            rows.append({**names, **interval._asdict(), "verdict": claim.verdict(interval)})
    return pd.DataFrame(rows, columns=["claim", "meaning", "network", "where", "mean", "low", "high", "verdict"])


def spectra(records: Sequence[dict[str, Any]]) -> Table:
    """Lists loss, accuracy, trace and eigenvalues of every network of every seed, on both tasks."""
    rows = []
    for record in records:
        metrics = record["metrics"]
        for stage in STAGES:
            for task in TASKS:
                one = metrics["curvature"][stage][task]
                keys = {name: record["config"][name] for name in ("score", "seed")} | {"stage": stage, "task": task}
                numbers = {"loss": one["loss"], "accuracy": metrics["accuracy"][stage][task]}
                numbers |= {"weights": one["weights"], "trace": one["trace"]["value"]}
                numbers |= {"standard_error": one["trace"]["standard_error"], "lowest": one["lowest"]}
                numbers |= {f"eigenvalue_{rank}": value for rank, value in enumerate(one["eigenvalues"], 1)}
                rows.append({**keys, **numbers, "largest_residual": max(one["residuals"])})
    return pd.DataFrame(rows)


def curves(results: Results) -> Table:
    """Lists the points of all pruning paths and barriers, seed by seed."""
    rows = []
    for score in results.networks:
        for task in TASKS:
            paths = {}
            if score != "dense":
                paths = {kind: results.path(score, task, kind) for kind in ("true", "first", "second")}
                paths = {f"pruning path, {kind}": (results.path(score, task, "shares"), v) for kind, v in paths.items()}
            for pair in (pair for pair in results.pairs if results.has(score, pair)):
                shares, losses = (results.barrier(score, pair, task, name) for name in ("shares", "losses"))
                paths[f"barrier, {pair}"] = (shares, losses)
            for curve, (shares, values) in paths.items():
                for seed, across, along in zip(results.seeds, shares, values, strict=True):
                    keys = {"network": score, "task": task, "curve": curve, "seed": seed}
                    rows += [{**keys, "share": x, "value": y} for x, y in zip(across, along, strict=True)]
    return pd.DataFrame(rows)


def _aligned(results: Results) -> Iterator[Case]:
    for score in results.networks:
        for stage, name in STAGE_NAMES.items():
            chance = results.overlap(score, stage, "transfer", "chance")
            yield Case(score, name, results.overlap(score, stage, "transfer") - chance)


def _differ(results: Results) -> Iterator[Case]:
    for score in results.networks:
        for stage, name in STAGE_NAMES.items():
            control = results.overlap(score, stage, "other images")
            yield Case(score, name, control - results.overlap(score, stage, "transfer"))


def _second_order(results: Results) -> Iterator[Case]:
    for score in results.scores:
        for task in TASKS:
            shares = results.path(score, task, "shares")[0]
            true, first, second = (results.path(score, task, name) for name in ("true", "first", "second"))
            better = np.abs(first - true) - np.abs(second - true)
            for point in (1, len(shares) - 1):
                yield Case(score, f"{task}, {100 * shares[point]:.3g} %", better[:, point])


def _flat(results: Results) -> Iterator[Case]:
    for score in results.scores:
        if score != "random" and "random" in results.scores:
            for task in TASKS:
                yield Case(score, task, results.removed("random", task) - results.removed(score, task))


def _sharper(results: Results) -> Iterator[Case]:
    for score in results.scores:
        for task in TASKS:
            pruned, dense = (
                results.curvature(network, "finetuned", task, "eigenvalues")[:, 0] for network in (score, "dense")
            )
            yield Case(score, task, pruned - dense)


def _barriers(results: Results) -> Iterator[Case]:
    for pair in results.pairs:
        for score in results.networks:
            if results.has(score, pair):
                for task in TASKS:
                    losses = results.barrier(score, pair, task, "losses")
                    ends = (losses[:, 0] + losses[:, -1]) / 2
                    yield Case(score, f"{pair}, {task}", results.barrier(score, pair, task, "height") / ends)
