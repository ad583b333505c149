"""From the records of the transfer study to its numbers: accuracies with intervals, and its claims."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from experiments.shared.methods import word_of
from experiments.shared.results import DIFFERENCES, SHARES, Case, Claim, Table, above_zero, interval, keeps, paired
from experiments.transfer.settings import Rung
from jaxprune import stats

STAGES, HEADS = ("pruned", "finetuned"), ("frozen", "refitted")
GROUPS = {
    "source": "the task that pruned it",
    "transfer": "tasks it was never shown",
    "source, shifted": "the task that pruned it, under shift",
    "transfer, shifted": "tasks it was never shown, under shift",
}
"""The groups of test domains that claims are about."""


class Results:
    """The records of the study, looked up by method and sparsity.

    Attributes:
      records: of the networks that were tested.
      sparsities: of these.
      ladder: these, and the lower ones of networks that only serve certificates.
    """

    def __init__(self, records: Sequence[dict[str, Any]], inputs: Any) -> None:
        self.records = [record for record in records if record["config"]["@type"] != Rung.__name__]
        self.inputs = inputs
        self.data = records[0]["data"]
        self._cells: dict[tuple[str, float], list[dict[str, Any]]] = {}
        self._examples: dict[str, list[np.ndarray]] = {}
        for record in sorted(records, key=lambda one: one["config"]["seed"]):
            config = record["config"]
            self._cells.setdefault((word_of(config), config["sparsity"]), []).append(record["metrics"])
        self.methods = list(dict.fromkeys(method for method, _ in self._cells if method != "dense"))
        self.ladder = sorted({sparsity for method, sparsity in self._cells if method != "dense"})
        tested = {record["config"]["sparsity"] for record in self.records}
        self.sparsities = [sparsity for sparsity in self.ladder if sparsity in tested]
        self.seeds = sorted({record["config"]["seed"] for record in records})
        shifted = any(entry["shift"] for entry in self.records[0]["metrics"]["domains"].values())
        self.groups = [group for group in GROUPS if shifted or "shifted" not in group]

    def metrics(self, method: str, sparsity: float) -> list[dict[str, Any]]:
        """Returns the metrics of a cell, one for each seed."""
        return self._cells[method, sparsity]

    def hits(self, method: str, sparsity: float, stage: str, group: str, head: str = "frozen") -> list[np.ndarray]:
        """Returns, for every seed, a number in [0, 1] for each test example of a group: is it classified rightly?

        An example that occurs under several shifts counts once, with the mean over them: they are no independent data.
        """
        return [_hits(one, stage, group, head) for one in self.metrics(method, sparsity)]

    def examples(self, group: str) -> list[np.ndarray]:
        """Says for every seed which images test a group: those of two seeds may be the same."""
        if group not in self._examples:
            tasks = [_tasks(one, group) for one in self.metrics("dense", 0.0)]  # in the order of their hits
            found = [self.inputs.tested(seed, names) for seed, names in zip(self.seeds, tasks, strict=True)]
            self._examples[group] = found
        return self._examples[group]

    def chance(self, group: str) -> float:
        """Returns the accuracy of guessing in a group, where every image counts alike."""
        first = self.metrics("dense", 0.0)[0]
        names = _domains(first, group)
        sizes = [len(first["pruned"]["frozen"][name]["hits"]) for name in names]
        return float(np.average([first["domains"][name]["chance"] for name in names], weights=sizes))

    def accuracy(self, method: str, sparsity: float, stage: str, group: str, head: str = "frozen") -> stats.Interval:
        """Returns the accuracy of a cell with its interval."""
        return interval(self.hits(method, sparsity, stage, group, head), self.examples(group), SHARES)

    def tuned_by(self, group: str) -> stats.Interval:
        """Returns what fine-tuning changes in the accuracy of the dense network: the control of what it does to all."""
        sides = (self.hits("dense", 0.0, stage, group) for stage in ("finetuned", "pruned"))
        changes = [after - before for after, before in zip(*sides, strict=True)]
        return interval(changes, self.examples(group), DIFFERENCES)

    @cached_property
    def accuracies(self) -> Table:
        """The accuracy of every cell, stage, group and head with its interval over seeds and examples."""
        cells = [("dense", 0.0), *itertools.product(self.methods, self.sparsities)]
        rows = []
        for (method, sparsity), stage, group, head in itertools.product(cells, STAGES, self.groups, HEADS):
            hits = self.hits(method, sparsity, stage, group, head)
            found, examples = interval(hits, self.examples(group), SHARES), sum(map(len, hits))
            keys = {"method": method, "sparsity": sparsity, "stage": stage, "group": group, "head": head}
            numbers = {"accuracy": found.mean, "low": found.low, "high": found.high}
            rows.append({**keys, **numbers, "n": examples, "seeds": len(self.seeds)})
        return pd.DataFrame(rows)


def claims(settings: Any) -> list[Claim]:
    """Lists the claims: P1, P2 and the comparisons with a random mask (if there is one)."""
    margin, shifted = settings.margin, bool(settings.shifts)
    groups = [group for group in GROUPS if shifted or "shifted" not in group]
    kept, within = keeps(margin), f"{100 * margin:g} points"
    pruned, tuned = ("same", "pruned"), ("same", "finetuned")
    dense, dense_tuned = ("dense", "pruned"), ("dense", "finetuned")
    others = [group for group in groups if not group.startswith("source")]
    compared = [
        *((f"P1 {one}", f"pruned keeps dense to {within}", one, pruned, dense, kept) for one in groups),
        *((f"P2 helps {one}", "fine-tuned beats pruned", one, tuned, pruned, above_zero) for one in others),
        *((f"P2 spares {one}", f"fine-tuned keeps pruned to {within}", one, tuned, pruned, kept) for one in others),
        *((f"P2 restores {one}", f"fine-tuned keeps dense to {within}", one, tuned, dense, kept) for one in groups),
        *(
            (f"P2 control {one}", f"fine-tuned keeps dense fine-tuned to {within}", one, tuned, dense_tuned, kept)
            for one in groups
        ),
    ]
    if "random" in settings.methods:
        for stage in STAGES:
            name = f"beats random, {'fine-tuned' if stage == 'finetuned' else stage}"
            meaning = "accuracy on transfer above that of a random mask"
            compared.append((name, meaning, "transfer", ("same", stage), ("random", stage), above_zero))
    return [Claim(name, meaning, _cases(group, *sides), verdict) for name, meaning, group, *sides, verdict in compared]


def _cases(group: str, this: tuple[str, str], than: tuple[str, str]) -> Callable[[Results], Iterator[Case]]:
    """Compares two networks of every method and sparsity on a group of test domains.

    Each is (network, stage): "same" is the network of the row, "dense" the dense one, "random" that with a random mask
    of the same sparsity.
    """

    def cases(results: Results) -> Iterator[Case]:
        if than[0] == "random" not in results.methods:
            return
        chance = results.chance(group)
        for method in results.methods:
            for sparsity in results.sparsities:
                if method == than[0] == "random":
                    continue
                networks = {"same": (method, sparsity), "dense": ("dense", 0.0), "random": ("random", sparsity)}
                this_hits, than_hits = (results.hits(*networks[name], stage, group) for name, stage in (this, than))
                where = {"method": method, "sparsity": sparsity}
                yield paired(where, this_hits, than_hits, results.examples(group), chance=chance)

    return cases


def losses(records: Sequence[dict[str, Any]]) -> Table:
    """Lists the true and the predicted increase of the scoring loss of every run."""
    keys = ("objective", "score", "update", "sparsity", "seed")
    return pd.DataFrame(
        {
            "method": word_of(record["config"]),
            **{name: record["config"][name] for name in keys},
            **record["metrics"]["loss_increase"],
        }
        for record in records
    )


def by_cell(table: Table) -> Any:
    """Cuts a table by method and sparsity: ((method, sparsity), rows) for each cell, in the order of the table."""
    return table.groupby(["method", "sparsity"], sort=False)


def reach(table: Table, claim: str, method: str) -> float | None:
    """Returns the sparsity up to which a claim holds without a gap, or None where it does not hold at the lowest."""
    rows = table[(table.claim == claim) & (table.method == method)].sort_values("sparsity")
    held = rows.sparsity[(rows.verdict == "holds").cumprod().astype(bool)]
    return None if held.empty else float(held.max())


def _domains(metrics: dict[str, Any], group: str) -> list[str]:
    def belongs(entry: dict[str, Any]) -> bool:
        tested = "source" if entry["task"] == metrics["source"] else "transfer"
        return group == (tested if entry["shift"] is None else f"{tested}, shifted")

    return [name for name, entry in metrics["domains"].items() if belongs(entry)]


def _tasks(metrics: dict[str, Any], group: str) -> list[str]:
    """The tasks of a group, in the order of the record: a stored one is in that of the alphabet."""
    return list(dict.fromkeys(metrics["domains"][name]["task"] for name in _domains(metrics, group)))


def _hits(metrics: dict[str, Any], stage: str, group: str, head: str) -> np.ndarray:
    by_task: dict[str, list[np.ndarray]] = {}
    for name in _domains(metrics, group):
        bits = np.frombuffer(metrics[stage][head][name]["hits"].encode(), np.uint8) - ord("0")
        by_task.setdefault(metrics["domains"][name]["task"], []).append(bits.astype(np.float64))
    return np.concatenate([np.mean(bits, axis=0) for bits in by_task.values()])
