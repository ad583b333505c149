"""From the records of the landscape study to its numbers, and its claims: one number, or curve, for each seed."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from experiments.shared.methods import word_of
from experiments.shared.pages import counted
from experiments.shared.results import Case, Claim, Table, above_zero, case, interval
from jaxprune import stats

STAGES = ("pruned", "finetuned")
TASKS = {"source": "the task that pruned it", "transfer": "a task it was never shown"}
STAGE_NAMES = {"pruned": "pruned", "finetuned": "fine-tuned on source"}


class Results:
    """The records of the study, looked up by method; ``inputs`` say on how many images the loss was measured."""

    def __init__(self, records: Sequence[dict[str, Any]], inputs: Any) -> None:
        self.records, self.inputs = records, inputs
        self._runs: dict[str, list[dict[str, Any]]] = {}
        for record in records:
            self._runs.setdefault(word_of(record["config"]), []).append(record["metrics"])
        self.networks = list(self._runs)
        self.methods = [method for method in self.networks if method != "dense"]
        self.seeds = sorted({record["config"]["seed"] for record in records})
        self.pairs = list(dict.fromkeys(pair for runs in self._runs.values() for pair in runs[0]["barriers"]))

    @property
    def count(self) -> str:
        """Says how many seeds there are, and on how many images of each the loss was measured."""
        names = self.records[0]["metrics"]["tasks"]
        classes = {task.name: task.classes for task in self.inputs.tasks}
        sizes = {
            role: len(self.inputs.indices(self.seeds[0], "scoring", classes[name])[1]) for role, name in names.items()
        }
        images = ", ".join(f"{size} ({role})" for role, size in sizes.items())
        return f"{counted(len(self.seeds), 'seed')}; n = {images} images of each."

    def metrics(self, method: str) -> list[dict[str, Any]]:
        """Returns the metrics of a network, one for each seed."""
        return self._runs[method]

    def each(self, method: str, read: Callable[[dict[str, Any]], Any]) -> np.ndarray:
        """Reads a number, or a list, from the metrics of every seed: [seeds, ...]."""
        return np.array([read(metrics) for metrics in self._runs[method]], np.float64)

    def curvature(self, method: str, stage: str, task: str, name: str) -> np.ndarray:
        """Returns a number, or a list, of the curvature of a network."""
        return self.each(method, lambda metrics: metrics["curvature"][stage][task][name])

    def overlap(self, method: str, stage: str, of: str, name: str = "overlap") -> np.ndarray:
        """Returns how far the top curvature of the source agrees with "transfer" or with that of "other images"."""
        return self.each(method, lambda metrics: metrics["curvature"][stage]["alignment"][of][name])

    def path(self, method: str, task: str, name: str) -> np.ndarray:
        """Returns "shares", "true", "first" or "second" of the pruning path: [seeds, points]."""
        return self.each(method, lambda metrics: metrics["pruning"][task]["path"][name])

    def removed(self, method: str, task: str) -> np.ndarray:
        """Returns the mean curvature of the dense network in the weights that a method removes."""
        return self.each(
            method, lambda metrics: metrics["pruning"][task]["trace"]["value"] / metrics["pruning"][task]["weights"]
        )

    def present(self, method: str, stage: str, task: str) -> np.ndarray:
        """Returns the mean curvature of a network in the weights that it has."""
        trace = self.each(method, lambda metrics: metrics["curvature"][stage][task]["trace"]["value"])
        return trace / self.curvature(method, stage, task, "weights")

    def barrier(self, method: str, pair: str, task: str, name: str) -> np.ndarray:
        """Returns the "height", "shares" or "losses" of a barrier."""
        return self.each(method, lambda metrics: metrics["barriers"][pair][task][name])

    def rise(self, method: str, pair: str, task: str) -> np.ndarray:
        """Returns how far the loss rises above the chord between two networks, inside, over the mean of their losses.

        Below 0 where it stays below the chord; a barrier's height would be 0 there, of however many seeds.
        """
        shares, losses = (self.barrier(method, pair, task, name) for name in ("shares", "losses"))
        chord = losses[:, :1] + shares * (losses[:, -1:] - losses[:, :1])
        return (losses - chord)[:, 1:-1].max(axis=1) / losses[:, [0, -1]].mean(axis=1)

    def has(self, method: str, pair: str) -> bool:
        """Says whether a network has that pair: the dense one is not compared with itself."""
        return pair in self._runs[method][0]["barriers"]

    def interval(self, values: np.ndarray) -> stats.Interval:
        """Returns the mean over seeds with its interval."""
        return interval([np.array([value]) for value in values])


def claims(settings: Any) -> list[Claim]:
    """Lists the claims; whatever way each comes out is what the page says."""
    margin = settings.margin

    def claim(name: str, meaning: str, each: Callable[[Results], Iterator[_Number]], unit: str) -> Claim:
        return Claim(name, meaning, _cases(each), above_zero, unit)

    no_barrier = Claim(
        "no barrier",
        f"the loss between two networks rises by less than {100 * margin:g} % of its mean at the ends",
        _cases(_barriers),
        lambda found: stats.at_least(stats.Interval(-found.mean, -found.high, -found.low), -margin),
        "share of the loss",
    )
    return [
        claim("alignment", "overlap of source and transfer, above chance", _aligned, "overlap"),
        claim("tasks differ", "overlap with other images of the source, above that with transfer", _differ, "overlap"),
        claim(
            "second order",
            "error of the first order in the change of the loss, above that of the second, after a share of the way",
            _second_order,
            "loss",
        ),
        claim(
            "flat directions",
            "mean curvature of what a random mask removes, above that of what the method removes",
            _flat,
            "curvature",
        ),
        claim(
            "sharper than dense",
            "largest eigenvalue, fine-tuned, above that of the dense network fine-tuned equally long",
            _sharper,
            "curvature",
        ),
        no_barrier,
    ]


_Number = tuple[str, str, np.ndarray]
"""(network, where, a number for each seed)."""


def _cases(each: Callable[[Results], Iterator[_Number]]) -> Callable[[Results], Iterator[Case]]:
    return lambda results: (case({"network": network, "where": at}, values) for network, at, values in each(results))


def spectra(records: Sequence[dict[str, Any]]) -> Table:
    """Lists loss, accuracy, trace and eigenvalues of every network of every seed, on both tasks."""
    rows = []
    for record in records:
        metrics, config = record["metrics"], record["config"]
        for stage in STAGES:
            for task in TASKS:
                one = metrics["curvature"][stage][task]
                keys = {"method": word_of(config), "seed": config["seed"], "stage": stage, "task": task}
                numbers = {"loss": one["loss"], "accuracy": metrics["accuracy"][stage][task]}
                numbers |= {"weights": one["weights"], "trace": one["trace"]["value"]}
                numbers |= {"standard_error": one["trace"]["standard_error"], "lowest": one["lowest"]}
                numbers |= {f"eigenvalue_{rank}": value for rank, value in enumerate(one["eigenvalues"], 1)}
                rows.append({**keys, **numbers, "largest_residual": max(one["residuals"])})
    return pd.DataFrame(rows)


def curves(results: Results) -> Table:
    """Lists the points of all pruning paths and barriers, seed by seed."""
    rows = []
    for method in results.networks:
        for task in TASKS:
            paths = {}
            if method != "dense":
                paths = {kind: results.path(method, task, kind) for kind in ("true", "first", "second")}
                paths = {
                    f"pruning path, {kind}": (results.path(method, task, "shares"), v) for kind, v in paths.items()
                }
            for pair in (pair for pair in results.pairs if results.has(method, pair)):
                shares, losses = (results.barrier(method, pair, task, name) for name in ("shares", "losses"))
                paths[f"barrier, {pair}"] = (shares, losses)
            for curve, (shares, values) in paths.items():
                for seed, across, along in zip(results.seeds, shares, values, strict=True):
                    keys = {"network": method, "task": task, "curve": curve, "seed": seed}
                    rows += [{**keys, "share": x, "value": y} for x, y in zip(across, along, strict=True)]
    return pd.DataFrame(rows)


def _aligned(results: Results) -> Iterator[_Number]:
    for method in results.networks:
        for stage, name in STAGE_NAMES.items():
            chance = results.overlap(method, stage, "transfer", "chance")
            yield (method, name, results.overlap(method, stage, "transfer") - chance)


def _differ(results: Results) -> Iterator[_Number]:
    for method in results.networks:
        for stage, name in STAGE_NAMES.items():
            control = results.overlap(method, stage, "other images")
            yield (method, name, control - results.overlap(method, stage, "transfer"))


def _second_order(results: Results) -> Iterator[_Number]:
    for method in results.methods:
        for task in TASKS:
            shares = results.path(method, task, "shares")[0]
            true, first, second = (results.path(method, task, name) for name in ("true", "first", "second"))
            better = np.abs(first - true) - np.abs(second - true)
            for point in (1, len(shares) - 1):
                yield (method, f"{task}, {100 * shares[point]:.3g} %", better[:, point])


def _flat(results: Results) -> Iterator[_Number]:
    for method in results.methods:
        if method != "random" and "random" in results.methods:
            for task in TASKS:
                yield (method, task, results.removed("random", task) - results.removed(method, task))


def _sharper(results: Results) -> Iterator[_Number]:
    for method in results.methods:
        for task in TASKS:
            pruned, dense = (
                results.curvature(network, "finetuned", task, "eigenvalues")[:, 0] for network in (method, "dense")
            )
            yield (method, task, pruned - dense)


def _barriers(results: Results) -> Iterator[_Number]:
    for pair in results.pairs:
        for method in results.networks:
            if results.has(method, pair):
                for task in TASKS:
                    yield (method, f"{pair}, {task}", results.rise(method, pair, task))
