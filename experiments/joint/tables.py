"""The tables of the study of joint pruning: every step, the robustness along the way, and what all of it cost."""

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd

from experiments.joint.options import method_of
from experiments.joint.results import (
    Networks,
    Results,
    Searched,
    change_between,
    dense_of,
    grouped,
    hits_of,
    mean_removed,
)
from experiments.joint.settings import CONTROL
from experiments.shared import results as shared
from experiments.shared.results import Table
from jaxprune import cost

PARTS = ("criterion", "brief", "choice", "long")
"""What a step of the search spends its time on, beside compilation."""
BATCHES = (1, 64)
EXAMPLES = 1_000_000
"""How many images a saving is stated for."""
COUNTS = ("macs", "parameters", "filters")


def further(settings: Any, results: Results, tested: Table) -> dict[str, Table]:
    """Makes the tables beside the verdicts."""
    spent = costs(results, settings.watts, settings.grams_per_kwh)
    return {"metrics": metrics(results), "steps": steps(results), "robustness": robustness(results), "cost": spent}


def metrics(results: Results) -> Table:
    """Lists the size of the last network of every run, and its accuracy under every condition."""
    found = []
    for run in results.runs:
        numbers = {"steps": run.last, **_counts(run.steps[-1]), "removed": float(run.removed[-1])}
        accuracies = {name: float(np.mean(run.hits(run.last, [name]))) for name in results.conditions}
        found.append({"config": run.config, "metrics": {**numbers, "accuracy": accuracies}})
    return shared.metrics(found)


def steps(results: Results) -> Table:
    """Lists every step of every run: what was removed, what is left, the accuracy, and what the chooser saw."""
    return pd.DataFrame([_step(run, step) for run in results.runs for step in run.steps])


def _step(run: Searched, step: dict[str, Any]) -> dict[str, Any]:
    number, blocks = step["number"], step["shape"]["blocks"].items()
    row = {
        **_keys(run),
        "step": number,
        "kind": step["kind"],
        **vars(method_of(run.config, step["kind"])),
        **_counts(step),
        "removed": run.removed[number],
    }
    row |= {"accuracy": float(np.mean(run.hits(number))), "n": len(run.labels)}
    for kind in ("layer", "neurons"):
        row |= {f"{kind}_{name}": step["removed"].get(kind, {}).get(name) for name in COUNTS}
        row[f"{kind}_score"] = step["scores"].get(kind)
    return row | {"blocks": " ".join(f"{name}:{'+'.join(map(str, inner))}" for name, inner in blocks)}


@lru_cache(maxsize=1)  # thousands of intervals, for the file and for the page
def robustness(results: Results) -> Table:
    """Compares networks with the dense ones under every condition, by itself and grouped; the last for each class."""
    groups = grouped(results.conditions)
    single = {name: [name] for names in groups.values() if len(names) > 1 for name in names}
    labels = sorted({int(label) for run in results.runs for label in np.unique(run.labels)})
    rows = []
    for budget in results.budgets:
        for chooser in [*results.pruning(budget), *([CONTROL] if results.of(budget, CONTROL) else [])]:
            along = results.step_by_step(budget, chooser, measured=True)
            for place, networks in enumerate(along[1:], 1):
                keys = (budget, chooser, place, place == len(along) - 1, mean_removed(networks))
                for name, conditions in (groups | single).items():
                    classes = [None, *labels] if place == len(along) - 1 and name in groups else [None]
                    rows += [(*keys, name, *_change(networks, conditions, one)) for one in classes]
    columns = ["budget", "chooser", "checkpoint", "last", "removed", "condition", "class", "accuracy"]
    return pd.DataFrame(rows, columns=[*columns, "accuracy_dense", "difference", "low", "high", "n", "seeds"])


def _change(networks: Networks, conditions: Sequence[str], label: int | None) -> tuple[Any, ...]:
    sides = networks, dense_of(networks)
    shares = (float(np.mean([hits.mean() for hits in hits_of(side, conditions, label)])) for side in sides)
    found = change_between(*sides, conditions, label)
    return "all" if label is None else label, *shares, *found.interval, found.n, found.seeds


def costs(results: Results, watts: float, grams_per_kwh: float, *, mean: bool = False) -> Table:
    """Lists for every run, or for the means over seeds, what network and search cost, and when that is paid for.

    Energy and what pays are of the search without compilation, which the searches of a process share.
    """
    frame = pd.DataFrame([{**_keys(run), **_measured(run)} for run in results.runs])
    if mean:
        ends = {name: name.rpartition("_")[2] for name in frame.columns.drop(["seed", "budget", "chooser"])}
        how: dict[str, Any] = {name: {"low": "min", "high": "max"}.get(end, "mean") for name, end in ends.items()}
        how["compilation"] = partial(pd.Series.mean, skipna=False)  # of one unknown number the mean is unknown
        frame = frame.groupby(["budget", "chooser"], sort=False, as_index=False).agg(how)
    return pd.DataFrame([{**row, **_energy(row, watts, grams_per_kwh)} for row in frame.to_dict("records")])


def _keys(run: Searched) -> dict[str, Any]:
    return {"seed": run.seed, "budget": run.budget, "chooser": run.chooser}


def _counts(step: dict[str, Any]) -> dict[str, int]:
    return {name: step[name] for name in COUNTS}


def _measured(run: Searched) -> dict[str, Any]:
    """Lists sizes, latencies and seconds of the search; compilation is apart, NaN where a step does not know it."""
    row: dict[str, Any] = {"removed": run.removed[-1]}
    for name in COUNTS:
        row |= {f"{name}_dense": run.steps[0][name], name: run.steps[-1][name]}
    for size in BATCHES:
        latency = run.provenance["latency"][str(size)]
        row |= {f"seconds_{size}_dense": latency["dense"], f"seconds_{size}": latency["pruned"]}
        row |= dict(zip((f"ratio_{size}", f"ratio_{size}_low", f"ratio_{size}_high"), latency["ratio"], strict=True))
    spent = run.provenance["search_seconds"]
    row |= {f"search_{part}": sum(step.get(part, 0.0) for step in spent) for part in PARTS}
    row["search"] = sum(row[f"search_{part}"] for part in PARTS)
    row["compilation"] = sum(step.get("compile", np.nan) for step in spent)
    decided = row["search_criterion"] + row["search_choice"]
    return row | {"deciding": decided / row["search"] if row["search"] else np.nan}


def _energy(row: dict[str, Any], watts: float, grams_per_kwh: float) -> dict[str, float]:
    energy = partial(cost.estimate, watts=watts, grams_per_kwh=grams_per_kwh)
    before, after = (energy(row[f"seconds_64{end}"] * EXAMPLES / 64) for end in ("_dense", ""))
    found = dict.fromkeys(("search_kwh", "search_grams"), np.nan)
    found |= {"million_seconds_dense": before.seconds, "million_seconds": after.seconds}
    found |= {"million_kwh_saved": before.kwh - after.kwh, "million_grams_saved": before.grams - after.grams}
    found["break_even_examples"] = np.nan
    if row["search"] > 0:
        search = energy(row["search"])
        pays = cost.saving(before, after, search=search, examples=EXAMPLES).break_even_kwh
        found |= {"search_kwh": search.kwh, "search_grams": search.grams, "break_even_examples": pays or np.nan}
    return found


def comparisons(runs: Sequence[Searched]) -> Iterator[dict[str, Any]]:
    """Lists the steps in which a chooser had two candidates to compare."""
    return (step for run in runs for step in run.steps[1:] if len(step["scores"]) > 1)
