"""The tables of the study of joint pruning: every step, the robustness along the way, and what all of it cost."""

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd

from experiments.joint.results import Networks, Results, Searched, dense_of, differences, grouped, hits_of, mean_removed
from experiments.joint.settings import CONTROL
from experiments.shared import results as shared
from experiments.shared.results import Table
from jaxprune import cost

PARTS = ("criterion", "brief", "choice", "long")
"""What a step of the search spends its time on."""
BATCHES = (1, 64)
EXAMPLES = 1_000_000
"""How many images a saving is stated for."""
COUNTS = ("macs", "parameters", "filters")
_KEYS = ("seed", "budget", "chooser")


def further(settings: Any, results: Results, tested: Table) -> dict[str, Table]:
    """Makes the tables beside the verdicts."""
    del tested
    spent = costs(results, settings.watts, settings.grams_per_kwh)
    return {"metrics": metrics(results), "steps": steps(results), "robustness": robustness(results), "cost": spent}


def metrics(results: Results) -> Table:
    """Lists the size of the last network of every run, and its accuracy under every condition."""
    found = []
    for run in results.runs:
        accuracies = {name: float(np.mean(run.hits(run.last, [name]))) for name in results.conditions}
        sizes = {name: run.steps[-1][name] for name in COUNTS}
        numbers = {"steps": run.last, **sizes, "removed": float(run.removed[-1]), "accuracy": accuracies}
        found.append({"config": run.config, "metrics": numbers})
    return shared.metrics(found)


def steps(results: Results) -> Table:
    """Lists every step of every run: what was removed, what is left, the accuracy, and what the chooser saw."""
    rows = []
    for run in results.runs:
        for number, (step, accuracy) in enumerate(zip(run.steps, run.accuracies(), strict=True)):
            row: dict[str, Any] = {**{name: run.config[name] for name in _KEYS}, "step": number, "kind": step["kind"]}
            row |= {name: step[name] for name in COUNTS}
            row |= {"removed": run.removed[number], "accuracy": accuracy, "n": len(run.labels)}
            for kind in ("layer", "neurons"):
                row |= {f"{kind}_{name}": step["removed"].get(kind, {}).get(name) for name in COUNTS}
                row[f"{kind}_score"] = step["scores"].get(kind)
            row["blocks"] = " ".join(
                f"{name}:{'+'.join(map(str, inner))}" for name, inner in step["shape"]["blocks"].items()
            )
            rows.append(row)
    return pd.DataFrame(rows)


@lru_cache(maxsize=1)  # thousands of intervals, for the file and for the page
def robustness(results: Results) -> Table:
    """Compares the networks along the way with the dense ones under every condition: shares, with intervals.

    Conditions by themselves, and grouped; grouped ones of the last networks for each class, too.
    """
    groups = grouped(results.conditions)
    single = {name: [name] for names in groups.values() if len(names) > 1 for name in names}
    labels = sorted({int(label) for run in results.runs for label in np.unique(run.labels)})
    rows = []
    for budget in results.budgets:
        for chooser in [*results.pruning(budget), *([CONTROL] if results.of(budget, CONTROL) else [])]:
            along = results.step_by_step(budget, chooser, measured=True)
            for place, networks in enumerate(along[1:], 1):
                keys = {"budget": budget, "chooser": chooser, "checkpoint": place, "last": place == len(along) - 1}
                keys["removed"] = mean_removed(networks)
                for name, conditions in (groups | single).items():
                    classes = [None, *labels] if keys["last"] and name in groups else [None]
                    rows += [{**keys, **_change(networks, name, conditions, one)} for one in classes]
    columns = ["budget", "chooser", "checkpoint", "last", "removed", "condition", "class", "accuracy"]
    return pd.DataFrame(rows, columns=[*columns, "accuracy_dense", "difference", "low", "high", "n", "seeds"])


def _change(networks: Networks, name: str, conditions: Sequence[str], label: int | None) -> dict[str, Any]:
    dense = dense_of(networks)
    found = shared.case({}, differences(networks, dense, conditions, label))
    before, after = (
        float(np.mean([hits.mean() for hits in hits_of(side, conditions, label)])) for side in (dense, networks)
    )
    return {
        **{"condition": name, "class": "all" if label is None else label, "accuracy": after, "accuracy_dense": before},
        **dict(zip(("difference", "low", "high"), found.interval, strict=True)),
        **{"n": found.n, "seeds": found.seeds},
    }


def costs(results: Results, watts: float, grams_per_kwh: float, *, mean: bool = False) -> Table:
    """Lists for every run what its last network costs, what the search cost, and when that is paid for.

    ``mean`` averages over seeds; energy and break-even are then those of the mean times.
    """
    frame = pd.DataFrame([{**{name: run.config[name] for name in _KEYS}, **_measured(run)} for run in results.runs])
    if mean:
        ends = {name: name.rpartition("_")[2] for name in frame.columns if name not in _KEYS}
        how = {name: {"low": "min", "high": "max"}.get(end, "mean") for name, end in ends.items()}
        frame = frame.groupby(["budget", "chooser"], sort=False, as_index=False).agg(how)
    return pd.DataFrame([{**row, **_energy(row, watts, grams_per_kwh)} for row in frame.to_dict("records")])


def _measured(run: Searched) -> dict[str, Any]:
    """Lists sizes, latencies and the seconds of a search: by part, in all, of its first step, and of the later ones.

    What the first step takes includes compilation.  ``deciding`` is the share of the criterion and the choice in the
    time of the later steps.
    """
    row: dict[str, Any] = {"removed": run.removed[-1]}
    for name in COUNTS:
        row |= {f"{name}_dense": run.steps[0][name], name: run.steps[-1][name]}
    for size in BATCHES:
        latency = run.provenance["latency"][str(size)]
        row |= {f"seconds_{size}_dense": latency["dense"], f"seconds_{size}": latency["pruned"]}
        row |= dict(zip((f"ratio_{size}", f"ratio_{size}_low", f"ratio_{size}_high"), latency["ratio"], strict=True))
    spent = run.provenance["search_seconds"]
    for name, steps in (("search", spent), ("later", spent[1:])):
        row |= {f"{name}_{part}": sum(step.get(part, 0.0) for step in steps) for part in PARTS}
    row["search"], row["search_later"] = (sum(row[f"{name}_{part}"] for part in PARTS) for name in ("search", "later"))
    row["search_first"] = row["search"] - row["search_later"]
    deciding = row["later_criterion"] + row["later_choice"]
    return row | {"deciding": deciding / row["search_later"] if row["search_later"] else np.nan}


def _energy(row: dict[str, Any], watts: float, grams_per_kwh: float) -> dict[str, Any]:
    energy = partial(cost.estimate, watts=watts, grams_per_kwh=grams_per_kwh)
    before, after = (energy(row[f"seconds_64{end}"] * EXAMPLES / 64) for end in ("_dense", ""))
    search = energy(row["search"]) if row["search"] > 0 else None
    pays = None if search is None else cost.saving(before, after, search=search, examples=EXAMPLES).break_even_kwh
    return {
        "search_kwh": np.nan if search is None else search.kwh,
        "search_grams": np.nan if search is None else search.grams,
        "million_seconds_dense": before.seconds,
        "million_seconds": after.seconds,
        "million_kwh_saved": before.kwh - after.kwh,
        "million_grams_saved": before.grams - after.grams,
        "break_even_examples": np.nan if pays is None else pays,
    }


def comparisons(runs: Sequence[Searched]) -> Iterator[dict[str, Any]]:
    """Lists the steps in which a chooser had two candidates to compare."""
    return (step for run in runs for step in run.steps[1:] if len(step["scores"]) > 1)
