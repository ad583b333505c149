"""The tables of the study of joint pruning: every step, the robustness along the way, and what all of it cost."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from experiments.joint_results import Course, Results, Side, dense, kinds, share
from experiments.joint_settings import CONTROL
from experiments.transfer_results import Table
from jaxprune import cost

PARTS = ("criterion", "brief", "choice", "long")
"""What a step of the search spends its time on."""
BATCHES = (1, 64)
"""The batch sizes whose latency was measured."""
EXAMPLES = 1_000_000
"""How many images a saving is stated for."""
COUNTS = ("macs", "parameters", "filters")


def steps(results: Results) -> Table:
    """Lists every step of every run: what was removed, what is left, what is right, and what the chooser saw."""
    rows = []
    for course in results.courses:
        for number, step in enumerate(course.steps):
            right = course.right(number)
            row: dict[str, Any] = {
                **_keys(course),
                "step": number,
                "kind": step["kind"],
                **{name: step[name] for name in COUNTS},
            }
            row |= {"removed": course.removed[number], "accuracy": float(np.mean(right)), "n": len(right)}
            for kind in ("layer", "neurons"):
                row |= {f"{kind}_{name}": step["removed"].get(kind, {}).get(name) for name in COUNTS}
                row[f"{kind}_score"] = step["scores"].get(kind)
            row["blocks"] = " ".join(
                f"{name}:{'+'.join(map(str, inner))}" for name, inner in step["shape"]["blocks"].items()
            )
            rows.append(row)
    return pd.DataFrame(rows)


def robustness(results: Results) -> Table:
    """Compares the networks along the way with the dense ones under every condition, in points with intervals.

    Conditions by themselves, and grouped (``kinds``); grouped ones of the last networks for each class, too.
    """
    grouped = kinds(results.conditions)
    single = {name: [name] for names in grouped.values() if len(names) > 1 for name in names}
    labels = sorted({int(label) for course in results.courses for label in np.unique(course.labels)})
    rows = []
    for budget in results.budgets:
        for chooser in [*results.present(budget), *([CONTROL] if results.of(budget, CONTROL) else [])]:
            points = results.points(budget, chooser, checked=True)
            for place, side in enumerate(points[1:], 1):
                keys = {"budget": budget, "chooser": chooser, "checkpoint": place, "last": place == len(points) - 1}
                keys["removed"] = share(side)
                for name, conditions in (grouped | single).items():
                    rows.append({**keys, **_change(results, side, name, conditions, None)})
                    if keys["last"] and name in grouped:
                        rows += [{**keys, **_change(results, side, name, conditions, label)} for label in labels]
    columns = ["budget", "chooser", "checkpoint", "last", "removed", "condition", "class", "accuracy"]
    return pd.DataFrame(rows, columns=[*columns, "accuracy_dense", "difference", "low", "high", "n", "seeds"])


def costs(results: Results, watts: float, grams_per_kwh: float) -> Table:
    """Lists for every run what its last network costs, what the search cost, and when that is paid for."""
    return pd.DataFrame([{**_keys(one), **_cost(one, watts, grams_per_kwh)} for one in results.courses])


def _keys(course: Course) -> dict[str, Any]:
    return {"seed": course.seed, "budget": course.budget, "chooser": course.chooser}


def _change(results: Results, side: Side, name: str, conditions: Sequence[str], label: int | None) -> dict[str, Any]:
    found = results.change(side, dense(side), conditions, label)
    numbers = {}
    for column, which in (("accuracy", side), ("accuracy_dense", dense(side))):
        shares = [
            np.mean(right)
            for right in (_chosen(course, step, conditions, label) for course, step in which)
            if len(right)
        ]
        numbers[column] = float(np.mean(shares))
    ends = dict(zip(("difference", "low", "high"), found.points, strict=True))
    return {
        "condition": name,
        "class": "all" if label is None else label,
        **numbers,
        **ends,
        "n": found.n,
        "seeds": found.seeds,
    }


def _chosen(course: Course, step: int, conditions: Sequence[str], label: int | None) -> np.ndarray:
    right = course.right(step, conditions)
    return right if label is None else right[course.labels == label]


def mean_costs(frame: Table, watts: float, grams_per_kwh: float) -> Table:
    """Averages what runs cost over seeds; energy and break-even are those of the mean times."""
    rows = []
    for (budget, chooser), cells in frame.groupby(["budget", "chooser"], sort=False):
        row = {"budget": budget, "chooser": chooser, **cells.drop(columns=["seed", "budget", "chooser"]).mean()}
        for size in BATCHES:
            row[f"ratio_{size}_low"] = cells[f"ratio_{size}_low"].min()
            row[f"ratio_{size}_high"] = cells[f"ratio_{size}_high"].max()
        rows.append({**row, **_energy(row, watts, grams_per_kwh)})
    return pd.DataFrame(rows)


def _cost(course: Course, watts: float, grams_per_kwh: float) -> dict[str, Any]:
    row: dict[str, Any] = {"removed": course.removed[-1]}
    for name in COUNTS:
        row |= {f"{name}_dense": course.steps[0][name], name: course.steps[-1][name]}
    for size in BATCHES:
        latency = course.provenance["latency"][str(size)]
        row |= {f"seconds_{size}_dense": latency["dense"], f"seconds_{size}": latency["pruned"]}
        row |= dict(zip((f"ratio_{size}", f"ratio_{size}_low", f"ratio_{size}_high"), latency["ratio"], strict=True))
    row |= search_seconds(course)
    return row | _energy(row, watts, grams_per_kwh)


def _energy(row: dict[str, Any], watts: float, grams_per_kwh: float) -> dict[str, Any]:
    estimate = partial(cost.estimate, watts=watts, grams_per_kwh=grams_per_kwh)
    scale = EXAMPLES / BATCHES[-1]
    before, after = (estimate(row[f"seconds_{BATCHES[-1]}{end}"] * scale) for end in ("_dense", ""))
    spent = estimate(row["search"]) if row["search"] > 0 else None
    found = cost.saving(before, after, search=spent, examples=None if spent is None else EXAMPLES)
    return {
        "search_kwh": None if spent is None else spent.kwh,
        "search_grams": None if spent is None else spent.grams,
        "million_seconds_dense": before.seconds,
        "million_seconds": after.seconds,
        "million_kwh_saved": before.kwh - after.kwh,
        "million_grams_saved": before.grams - after.grams,
        "break_even_examples": found.break_even_kwh,
    }


def search_seconds(course: Course) -> dict[str, Any]:
    """Sums the seconds of a search: by part, in all, of its first step, and of all parts in the later ones.

    What the first step takes includes compilation.  ``deciding`` is the share of the criterion and the choice in the
    time of the later steps; None where there are none.
    """
    spent = course.provenance["search_seconds"]
    parts: dict[str, Any] = {f"search_{part}": sum(step.get(part, 0.0) for step in spent) for part in PARTS}
    first = sum(spent[0].values()) if spent else 0.0
    later = sum(sum(step.values()) for step in spent[1:])
    deciding = sum(step.get("criterion", 0.0) + step.get("choice", 0.0) for step in spent[1:])
    row = {**parts, "search": sum(parts.values())}
    row |= {f"later_{part}": sum(step.get(part, 0.0) for step in spent[1:]) for part in PARTS}
    return row | {"search_first": first, "search_later": later, "deciding": deciding / later if later else None}


def contests(courses: Sequence[Course]) -> Iterator[tuple[Course, dict[str, Any]]]:
    """Lists the steps in which a chooser had two candidates to compare."""
    for course in courses:
        for step in course.steps[1:]:
            if len(step["scores"]) > 1:
                yield course, step
