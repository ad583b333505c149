"""From the records of the transfer study to its numbers: accuracies with intervals, and verdicts on its claims."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from jaxprune import stats

Table = Any
"""A pandas frame.  Type checkers take a column, or a choice of rows, for many other things."""

STAGES = ("pruned", "finetuned")
GROUPS = {
    "source": "the task that pruned it",
    "transfer": "tasks it was never shown",
    "source, shifted": "the task that pruned it, under shift",
    "transfer, shifted": "tasks it was never shown, under shift",
}
"""The groups of test domains that claims are about."""


class Results:
    """The records of a study, looked up by score and sparsity.

    Args:
      records: what ``Store.read`` returned, one for each run.
      seed: of the bootstrap.
    """

    def __init__(self, records: Sequence[dict[str, Any]], seed: int) -> None:
        self._seed = seed
        self._cells: dict[tuple[str, float], list[dict[str, Any]]] = {}
        for record in records:
            config = record["config"]
            self._cells.setdefault((config["score"], config["sparsity"]), []).append(record["metrics"])
        self.scores = list(dict.fromkeys(score for score, _ in self._cells if score != "dense"))
        self.sparsities = sorted({sparsity for score, sparsity in self._cells if score != "dense"})
        self.seeds = sorted({record["config"]["seed"] for record in records})
        shifted = any(entry["shift"] for entry in records[0]["metrics"]["domains"].values())
        self.groups = [group for group in GROUPS if shifted or "shifted" not in group]

    def metrics(self, score: str, sparsity: float) -> list[dict[str, Any]]:
        """Returns the metrics of a cell of the grid, one for each seed."""
        return self._cells[score, sparsity]

    def hits(self, score: str, sparsity: float, stage: str, group: str, head: str = "frozen") -> list[np.ndarray]:
        """Returns, for every seed, a number in [0, 1] for each test example of a group: is it classified rightly?

        An example that occurs under several shifts counts once, with the mean over them: they are no independent data.
        """
        return [_hits(one, stage, group, head) for one in self.metrics(score, sparsity)]

    def chance(self, group: str) -> float:
        """Returns the accuracy of guessing in a group."""
        first = self.metrics("dense", 0.0)[0]
        return float(np.mean([first["domains"][name]["chance"] for name in _domains(first, group)]))

    def accuracy(self, score: str, sparsity: float, stage: str, group: str, head: str = "frozen") -> stats.Interval:
        """Returns the accuracy of a cell with its interval."""
        return stats.bootstrap(self.hits(score, sparsity, stage, group, head), seed=self._seed)

    def compare(self, claim: "Claim", score: str, sparsity: float) -> tuple[stats.Interval, str]:
        """Returns the paired difference that a claim is about, and the verdict."""
        sides = [self.hits(*self._place(side, score, sparsity), claim.group) for side in (claim.this, claim.than)]
        paired = [this - than for this, than in zip(*sides, strict=True)]
        interval = stats.bootstrap(paired, seed=self._seed)
        chance = self.chance(claim.group)
        if all(stats.bootstrap(side, seed=self._seed).low <= chance for side in sides):
            return interval, "undecided (floor)"
        return interval, claim.verdict(interval)

    def _place(self, side: tuple[str, str], score: str, sparsity: float) -> tuple[str, float, str]:
        network, stage = side
        return {"same": (score, sparsity), "dense": ("dense", 0.0), "random": ("random", sparsity)}[network] + (stage,)


class Claim(NamedTuple):
    """A comparison of two networks on a group of test domains.

    ``this`` and ``than`` are (network, stage): "same" is the network of the row, "dense" the dense one, "random" that
    with a random mask of the same sparsity.
    """

    name: str
    meaning: str
    group: str
    this: tuple[str, str]
    than: tuple[str, str]
    verdict: Callable[[stats.Interval], str]


def claims(margin: float, groups: Sequence[str], control: bool) -> list[Claim]:
    """Lists the claims: P1, P2 and the comparisons with a random mask (if there is one)."""
    keeps = lambda interval: stats.at_least(interval, -margin)  # noqa: E731
    better = lambda interval: stats.above(interval, 0.0)  # noqa: E731
    points = f"{100 * margin:g} points"
    pruned, tuned = ("same", "pruned"), ("same", "finetuned")
    dense, dense_tuned = ("dense", "pruned"), ("dense", "finetuned")
    others = [group for group in groups if not group.startswith("source")]
    listed = [
        *(Claim(f"P1 {group}", f"pruned keeps dense to {points}", group, pruned, dense, keeps) for group in groups),
        *(Claim(f"P2 helps {group}", "fine-tuned beats pruned", group, tuned, pruned, better) for group in others),
        *(
            Claim(f"P2 spares {group}", f"fine-tuned keeps pruned to {points}", group, tuned, pruned, keeps)
            for group in others
        ),
        *(
            Claim(f"P2 restores {group}", f"fine-tuned keeps dense to {points}", group, tuned, dense, keeps)
            for group in groups
        ),
        *(
            Claim(
                f"P2 control {group}",
                f"fine-tuned keeps dense fine-tuned to {points}",
                group,
                tuned,
                dense_tuned,
                keeps,
            )
            for group in groups
        ),
    ]
    if control:
        for stage in STAGES:
            this, than = ("same", stage), ("random", stage)
            name = f"beats random, {'fine-tuned' if stage == 'finetuned' else stage}"
            listed.append(
                Claim(name, "accuracy on transfer above that of a random mask", "transfer", this, than, better)
            )
    return listed


def verdicts(results: Results, listed: Sequence[Claim]) -> Table:
    """Tests every claim for every score and sparsity: one row each, with the paired difference and its interval."""
    rows = []
    for claim in listed:
        for score in results.scores:
            if score == "random" and claim.than[0] == "random":
                continue
            for sparsity in results.sparsities:
                interval, verdict = results.compare(claim, score, sparsity)
                names = {"claim": claim.name, "meaning": claim.meaning, "score": score, "sparsity": sparsity}
                numbers = {"difference": interval.mean, "low": interval.low, "high": interval.high}
                rows.append({**names, **numbers, "verdict": verdict})
    return pd.DataFrame(rows)


def accuracies(results: Results) -> Table:
    """Tabulates the accuracy of every cell, stage, group and head with its interval over seeds and examples."""
    rows = []
    cells = [("dense", 0.0), *((score, sparsity) for score in results.scores for sparsity in results.sparsities)]
    for score, sparsity in cells:
        for stage in STAGES:
            for group in results.groups:
                for head in ("frozen", "refitted"):
                    interval = results.accuracy(score, sparsity, stage, group, head)
                    examples = sum(map(len, results.hits(score, sparsity, stage, group, head)))
                    keys = {"score": score, "sparsity": sparsity, "stage": stage, "group": group, "head": head}
                    numbers = {"accuracy": interval.mean, "low": interval.low, "high": interval.high}
                    rows.append({**keys, **numbers, "n": examples, "seeds": len(results.seeds)})
    return pd.DataFrame(rows)


def runs(records: Sequence[dict[str, Any]]) -> Table:
    """Lists every accuracy of every run as measured, with its standard error and n."""
    rows = []
    for record in records:
        config, metrics = record["config"], record["metrics"]
        keys = {name: config[name] for name in ("score", "sparsity", "seed")}
        for stage in STAGES:
            for head, domains in metrics[stage].items():
                for name, entry in domains.items():
                    numbers = {field: entry[field] for field in ("accuracy", "standard_error", "n")}
                    rows.append({**keys, "stage": stage, "head": head, "domain": name, **numbers})
    return pd.DataFrame(rows)


def losses(records: Sequence[dict[str, Any]]) -> Table:
    """Lists the true and the predicted increase of the scoring loss of every run."""
    keys = ("score", "sparsity", "seed")
    return pd.DataFrame(
        {**{name: record["config"][name] for name in keys}, **record["metrics"]["loss_increase"]} for record in records
    )


def by_cell(table: Table) -> Any:
    """Cuts a table by score and sparsity: ((score, sparsity), rows) for each cell, in the order of the table."""
    return table.groupby(["score", "sparsity"], sort=False)


def reach(table: Table, claim: str, score: str) -> float | None:
    """Returns the sparsity up to which a claim holds without a gap, or None where it does not hold at the lowest."""
    rows = table[(table.claim == claim) & (table.score == score)].sort_values("sparsity")
    held = rows.sparsity[(rows.verdict == "holds").cumprod().astype(bool)]
    return None if held.empty else float(held.max())


def _domains(metrics: dict[str, Any], group: str) -> list[str]:
    def belongs(entry: dict[str, Any]) -> bool:
        tested = "source" if entry["task"] == metrics["source"] else "transfer"
        return group == (tested if entry["shift"] is None else f"{tested}, shifted")

    return [name for name, entry in metrics["domains"].items() if belongs(entry)]


def _hits(metrics: dict[str, Any], stage: str, group: str, head: str) -> np.ndarray:
    by_task: dict[str, list[np.ndarray]] = {}
    for name in _domains(metrics, group):
        bits = np.frombuffer(metrics[stage][head][name]["hits"].encode(), np.uint8) - ord("0")
        by_task.setdefault(metrics["domains"][name]["task"], []).append(bits.astype(np.float64))
    return np.concatenate([np.mean(bits, axis=0) for bits in by_task.values()])
