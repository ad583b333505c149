"""The study of representations after its trainings: numbers, sweet spots, figures and the page, of records by hand."""

import dataclasses
import functools
import html
import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.patches import Rectangle
from rich.console import Console
from scipy import stats as students

import jaxprune as jp
from experiments.representation import (
    STUDY,
    Inputs,
    Results,
    Settings,
    claims,
    figures,
    method,
    plan,
    tables,
)
from experiments.representation import page as told
from experiments.representation.architectures import ARCHITECTURES
from experiments.representation.measures import SHOWN
from experiments.representation.method import captions
from experiments.representation.quantities import QUESTIONS, RANDOM_MAP, Quantity
from experiments.representation.settings import BUGS, CONTROL, LADDER, LEGACY, RANDOM, SNIP, Run, Truth
from experiments.shared.results import complete, load, verdicts
from experiments.shared.study import finish
from experiments.shared.work import Plan
from jaxprune import records, stats
from jaxprune.evaluate import alignment
from jaxprune.store import Store

CLASSES = 10


def study(**changes: Any) -> Settings:
    """A small study on the settings of the real one."""
    small: dict[str, Any] = {
        "architectures": ("swin",),
        "rungs": 3,
        "test_examples": 40,
        "attributed_examples": 12,
        "random_rungs": (2,),
        "snip_rungs": (1,),
        "distorted_rungs": (0, 2),
        "distortions": ("contrast", "rotation"),
    }
    return Settings(**(small | changes))


def _truth(made: Settings, run: Truth) -> Any:
    """Makes what the networks of a seed are held against."""
    rng = np.random.default_rng([1, run.seed])
    labels = np.arange(made.test_examples) % CLASSES
    answers = lambda: _decisions(rng, labels, 0.7)  # noqa: E731
    size = 16
    shown = min(SHOWN, made.attributed_examples)
    masks = np.zeros((shown, size, size), np.uint8)
    masks[:, 3:9, 5:13] = 1
    images = rng.integers(60, 120, (shown, size, size, 3)) + 90 * masks[..., None]
    metrics = {
        "classes": [f"class {number}" for number in range(CLASSES)],
        "labels": labels.tolist(),
        "chance": rng.uniform(0.05, 0.25, made.attributed_examples).tolist(),
        "baselines": {
            "centre box": (rng.random(made.test_examples) < 0.3).tolist(),
            "whole image": [False] * made.test_examples,
        },
        "observers": {name: [answers().tolist() for _ in range(made.observers)] for name in conditions(made)},
        "conflict": {"shape": labels.tolist(), "texture": ((labels + 3) % CLASSES).tolist()},
        "strip": {
            "size": size,
            "images": [picture.astype(np.uint8).tobytes().hex() for picture in images],
            "masks": [mask.tobytes().hex() for mask in masks],
            "boxes": [[[3, 5, 9, 13]]] * shown,
        },
    }
    return metrics


def conditions(made: Settings) -> list[str]:
    return [f"{name} {level}" for name in made.distortions for level in jp.data.DISTORTIONS[name]]


def provenance() -> dict[str, Any]:
    return {
        "packages": {"jax": "0.10"},
        "python": "3.11",
        "devices": ["cpu"],
        "commit": "0123456789abcdef",
        "data": "data",
        "seconds": 60.0,
    }


def _decisions(rng: Any, labels: np.ndarray, right: float) -> np.ndarray:
    other = (labels + rng.integers(1, CLASSES, labels.shape)) % CLASSES
    return np.where(rng.random(labels.shape) < right, labels, other)


def records_of(made: Settings) -> list[Any]:
    """Makes the records of all runs: networks get worse from rung to rung, those with random masks more."""
    return [
        {
            "config": records.plain(run),
            "metrics": _truth(made, run) if isinstance(run, Truth) else _metrics(made, run),
            "provenance": provenance(),
        }
        for run in plan(made, None)
    ]


def _metrics(made: Settings, run: Run) -> dict[str, Any]:
    rng = np.random.default_rng([run.seed, *run.architecture.encode(), *run.arm.encode(), run.rung])
    labels = np.arange(made.test_examples) % CLASSES
    right = {LADDER: 0.85 - 0.05 * run.rung, CONTROL: 0.86, RANDOM: 0.5, SNIP: 0.6}[run.arm]
    few, size = made.attributed_examples, 16
    shown = min(SHOWN, few)
    boxes = ([[4, 6, 10, 14]] * 3 + [[0, 0, size, size]])[:shown]
    attribution = {}
    for how in (*ARCHITECTURES[run.architecture].methods, "random map"):
        names = ("mass", "rank", "pointing", "insertion", "deletion")
        attribution[how] = {name: rng.beta(3, 5, few).tolist() for name in names} | {"flat": [False] * few}
        if how != "random map":
            heat = np.exp(-((np.arange(size)[:, None] - 6) ** 2 + (np.arange(size) - 9) ** 2) / rng.uniform(10, 60))
            attribution[how]["strip"] = [np.round(255 * heat).astype(np.uint8).tobytes().hex()] * shown
    sparsity = 0.0 if run.arm == CONTROL else jp.schedules.ladder(made.rungs, made.share)[run.rung]
    metrics = {
        "sparsity": sparsity,
        "sparsity_of_all_kernels": 0.97 * sparsity,
        "hits": (_decisions(rng, labels, right) == labels).tolist(),
        "attribution": attribution,
        "discovery": {
            name: {"hits": (rng.random(made.test_examples) < 0.6).tolist(), "strip": boxes}
            for name in ("lost", "tokencut")
        },
        "triplets": rng.beta(4, 3, 60).tolist(),
        "conflict": rng.choice(CLASSES, made.test_examples).tolist(),
    }
    if run.distorted:
        metrics["distorted"] = {name: _decisions(rng, labels, right - 0.2).tolist() for name in conditions(made)}
    return metrics


def fresh(seed: int) -> None:
    """Says of painted scenes that every seed has its own."""


def results_of(made: Settings, change: Any = None, tested: Any = fresh) -> Results:
    """Reads records made by hand, after ``change(record)`` of those of networks, as the study does."""
    found = records_of(made)
    for record in found if change else []:
        if "arm" in record["config"]:
            change(record)
    return STUDY.results(SimpleNamespace(settings=made, tested=tested), found)


@functools.cache
def unchanged() -> Results:
    """The records as they are made, for tests that only read them."""
    return results_of(study())


def verdicts_of(results: Results, margin: float = 0.0) -> Any:
    return verdicts(results, claims(study(margin=margin)))


def quantity(results: Results, name: str, line: str = "") -> Quantity:
    (found,) = [one for one in results.quantities if (one.name, one.line) == (name, line)]
    return found


def metrics_of(results: Results, arm: str, rung: int) -> list[Any]:
    return [results.runs["swin", arm, rung][seed] for seed in results.seeds]


def with_hits(record: Any, right: int, first: int = 0) -> None:
    """Lets a network get so many images right, from a first one on."""
    record["metrics"]["hits"] = [first <= number < first + right for number in range(len(record["metrics"]["hits"]))]


def place(record: Any) -> tuple[str, int]:
    return record["config"]["arm"], record["config"]["rung"]


def reach(values: list[np.ndarray], confidence: float = 0.95) -> float:
    """Half of Student's interval over seeds with images of their own, at least two thirds of that over images."""
    share, count = (1 + confidence) / 2, sum(map(len, values))
    seeds = students.t.ppf(share, len(values) - 1) * students.sem([one.mean() for one in values])
    variance = sum(one.var() / len(one) for one in values) / len(values) ** 2 * count / (count - 1)
    return max(seeds, 2 / 3 * students.t.ppf(share, count - 1) * variance**0.5)


def ends(found: stats.Interval) -> tuple[float, float]:
    """How far an interval reaches below and above its mean."""
    return found.mean - found.low, found.high - found.mean


# ------------------------------------------------------------------------------------------------------------ numbers


def test_value_is_the_mean_over_seeds_of_means_over_images():
    results = unchanged()
    for name, line, read in (
        ("accuracy", "", lambda one: one["hits"]),
        ("mass", "grad-cam", lambda one: one["attribution"]["grad-cam"]["mass"]),
        ("CorLoc", "lost", lambda one: one["discovery"]["lost"]["hits"]),
        ("odd one out", "", lambda one: one["triplets"]),
    ):
        found, count = results.value(quantity(results, name, line), "swin", LADDER, 2)
        each = [read(one) for one in metrics_of(results, LADDER, 2)]
        assert found.mean == pytest.approx(np.mean([np.mean(one) for one in each]), abs=1e-12)
        assert count == sum(map(len, each))
        if name == "odd one out":
            assert np.isnan([found.low, found.high]).all()
        else:
            assert found.low < found.mean < found.high


@pytest.mark.parametrize(("name", "line"), [("mass", "grad-cam"), ("insertion", RANDOM_MAP)])
def test_value_of_a_mean_has_students_interval_over_seeds(name, line):
    results = unchanged()
    found, _ = results.value(quantity(results, name, line), "swin", LADDER, 1)
    each = [np.array(one["attribution"][line][name]) for one in metrics_of(results, LADDER, 1)]
    assert ends(found) == pytest.approx([reach(each)] * 2, rel=1e-9)


def test_value_of_hits_is_exact_where_all_are_right_and_a_share_everywhere():
    results = results_of(study(), lambda record: with_hits(record, 40))
    found, count = results.value(quantity(results, "accuracy"), "swin", LADDER, 1)
    exact = students.binomtest(count, count).proportion_ci(0.95, method="exact")
    assert found == pytest.approx((1.0, exact.low, 1.0), abs=1e-12)
    hits = [one for one in results.quantities if one.hits]
    assert {one.name for one in hits} == {"accuracy", "pointing", "CorLoc", "accuracy, distorted"}
    shares = results.curves[results.curves.quantity.isin([one.name for one in hits])]
    assert ((shares.low >= 0) & (shares.high <= 1)).all()


def test_value_of_distorted_images_that_are_all_right_is_1_whatever_the_weights_of_distortions():
    distortions = ("high-pass", "phase-scrambling", "power-equalisation", "rotation", "uniform-noise")
    made = study(seeds=(0,), distortions=distortions)
    labels = (np.arange(made.test_examples) % CLASSES).tolist()

    def all_right(record: Any) -> None:
        if "distorted" in record["metrics"]:
            record["metrics"]["distorted"] = dict.fromkeys(conditions(made), labels)

    results = results_of(made, all_right)
    found, _ = results.value(quantity(results, "accuracy, distorted"), "swin", LADDER, 0)
    assert (found.mean, found.high) == pytest.approx((1.0, 1.0))


def test_value_compares_decisions_as_the_benchmark_does():
    made = study(seeds=(0,), distortions=("contrast", "rotation", "low-pass"))
    results = results_of(made)
    (run,), truth = metrics_of(results, LADDER, 2), results.truths[0]
    names = [f"picture{number}.png" for number in range(made.test_examples)]
    right = [f"class {label}" for label in truth["labels"]]

    def trials(subject: str, answers: dict[str, list[int]]) -> list[Any]:
        cells = [one.split(" ") for one in answers]
        return [
            alignment.make_trials(
                subject,
                [f"class {k}" for k in answers[" ".join(cell)]],
                right,
                names,
                condition=cell[1],
                dataset=cell[0],
            )
            for cell in cells
        ]

    def joined(parts: list[Any]) -> alignment.Trials:
        return alignment.Trials(
            **{name: np.concatenate([getattr(one, name) for one in parts]) for name in vars(parts[0])}
        )

    people = [
        part
        for number in range(made.observers)
        for part in trials(f"subject-{number}", {name: each[number] for name, each in truth["observers"].items()})
    ]
    expected = alignment.compare(joined(trials("network", run["distorted"])), joined(people))
    for name, value in {
        "accuracy, distorted": expected.ood_accuracy,
        "accuracy difference": expected.accuracy_difference,
        "observed consistency": expected.observed_consistency,
        "error consistency": expected.error_consistency,
    }.items():
        found, _ = results.value(quantity(results, name), "swin", LADDER, 2)
        assert found.mean == pytest.approx(value, abs=1e-12), name


def test_error_consistency_is_1_of_who_agrees_everywhere_whatever_the_accuracy():
    made = study(seeds=(0,))
    truth, *found = records_of(made)
    labels = truth["metrics"]["labels"]
    for record in found:
        if "distorted" in record["metrics"]:
            record["metrics"]["distorted"] = dict.fromkeys(conditions(made), labels)
    truth["metrics"]["observers"] = {name: [labels] * made.observers for name in conditions(made)}
    results = Results(made, [truth, *found], fresh)
    value, _ = results.value(quantity(results, "error consistency"), "swin", LADDER, 0)
    assert value == (pytest.approx(1.0, abs=1e-12), -np.inf, np.inf)  # nothing varies


def test_kept_conditions_hold_the_benchmarks_controls_by_the_released_code_only():
    assert len(results_of(study()).kept) == 5 + 3
    assert len(results_of(study(legacy=True)).kept) == 8 + 4


def test_bias_of_shape_is_that_of_the_library_where_the_cues_differ():
    made = study(seeds=(0,))
    results = results_of(made)
    results.truths[0]["conflict"]["texture"][:7] = results.truths[0]["conflict"]["shape"][:7]
    (run,), cues = metrics_of(results, LADDER, 1), results.truths[0]["conflict"]
    expected = alignment.shape_bias_of(run["conflict"], cues["shape"], cues["texture"])
    found, count = results.value(quantity(results, "shape bias"), "swin", LADDER, 1)
    assert found.mean == pytest.approx(expected.bias, abs=1e-12)
    assert count == expected.n == made.test_examples - 7


def test_bias_of_shape_and_its_gain_have_intervals_by_the_jackknife():
    results = results_of(study(seeds=(0,)))
    one, cues = quantity(results, "shape bias"), results.truths[0]["conflict"]

    def without_each(rung: int) -> np.ndarray:
        columns = np.array([metrics_of(results, LADDER, rung)[0]["conflict"], cues["shape"], cues["texture"]])
        left = [np.delete(columns, image, axis=1).tolist() for image in range(columns.shape[1])]
        return np.array([alignment.shape_bias_of(*each).bias for each in left])

    def half(without: np.ndarray, confidence: float) -> float:
        count = len(without)
        return students.t.ppf((1 + confidence) / 2, count - 1) * (count - 1) * students.sem(without)

    value, _ = results.value(one, "swin", LADDER, 1)
    assert ends(value) == pytest.approx([half(without_each(1), 0.95)] * 2, rel=1e-9)
    gain = results.gains_of(one, "swin", "dense")[1]  # one of two that hold at once
    assert ends(gain) == pytest.approx([half(without_each(1) - without_each(0), 0.95**0.5)] * 2, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "line", "sign"), [("accuracy", "", 1), ("rank", "grad-cam", 1), ("deletion", RANDOM_MAP, -1)]
)
@pytest.mark.parametrize("against", ["dense", "equal training"])
def test_gains_are_paired_differences_signed_so_that_more_is_better(name, line, sign, against):
    results = unchanged()
    one = quantity(results, name, line)
    gains = results.gains_of(one, "swin", against)
    assert list(gains) == [1, 2]
    differences = []
    for rung in gains:
        other = results.columns(one, "swin", *((LADDER, 0) if against == "dense" else (CONTROL, rung)))
        here = results.columns(one, "swin", LADDER, rung)
        differences.append([sign * (a - b)[:, 0] for a, b in zip(here, other, strict=True)])
    for gain, each in zip(gains.values(), differences, strict=True):
        assert gain.mean == pytest.approx(np.mean([np.mean(one) for one in each]), abs=1e-12)
        if not one.hits:
            assert ends(gain) == pytest.approx([reach(each, 0.95**0.5)] * 2, rel=1e-9)  # two that hold at once
    if one.hits:
        columns = [np.stack(each, axis=1) for each in zip(*differences, strict=True)]
        expected = stats.simultaneous(columns, examples="fresh", bounds=(-1, 1))
        assert [*gains.values()] == [pytest.approx(each, abs=1e-12) for each in expected]


@pytest.mark.parametrize(("name", "sign"), [("insertion", 1), ("deletion", -1)])
def test_gains_of_insertion_and_deletion_are_those_of_the_distance_to_random_order(name, sign):
    results = unchanged()

    def distance(arm: str, rung: int) -> float:
        found = [one["attribution"] for one in metrics_of(results, arm, rung)]
        return float(np.mean([np.mean(one["grad-cam"][name]) - np.mean(one[RANDOM_MAP][name]) for one in found]))

    one = quantity(results, name, "grad-cam")
    for against, reference in {"dense": (LADDER, 0), "equal training": (CONTROL, 2)}.items():
        gain = results.gains_of(one, "swin", against)[2].mean
        assert gain == pytest.approx(sign * (distance(LADDER, 2) - distance(*reference)), abs=1e-12)
    # The curve shows the area itself.
    areas = [np.mean(run["attribution"]["grad-cam"][name]) for run in metrics_of(results, LADDER, 2)]
    assert results.value(one, "swin", LADDER, 2)[0].mean == pytest.approx(np.mean(areas), abs=1e-12)


def test_gains_of_a_consistency_are_differences_of_consistencies():
    results = unchanged()
    one = quantity(results, "error consistency")
    gains = results.gains_of(one, "swin", "dense")
    after, before = (results.value(one, "swin", LADDER, rung)[0].mean for rung in (2, 0))
    assert list(gains) == [2]  # on rung 1 no distorted images were shown
    assert gains[2].mean == pytest.approx(after - before, abs=1e-12)


def test_results_are_of_the_seeds_that_are_complete():
    made = study(seeds=(0, 1, 2))
    found = records_of(made)
    assert Results(made, found, fresh).seeds == [0, 1, 2]
    runs = plan(made, None)
    pairs = list(zip(runs, found, strict=True))
    kept, left_out = complete(pairs, [next(one for one in runs if one.seed == 1)], lambda one: None)
    assert left_out == ["seed 1"]
    results = Results(made, kept, fresh)
    assert (results.seeds, sorted(results.truths)) == ([0, 2], [0, 2])
    assert {tuple(runs) for runs in results.runs.values()} == {(0, 2)}
    alone = results_of(study(seeds=(0, 2)))
    one = quantity(results, "accuracy")
    assert results.value(one, "swin", LADDER, 1) == alone.value(one, "swin", LADDER, 1)


def test_examples_that_seeds_share_widen_intervals_of_values_and_gains():
    """Networks of all seeds are alike, and see the same images in orders of their own."""
    order = {seed: np.random.default_rng(seed).permutation(12) for seed in (0, 1, 2)}
    masses = np.linspace(0.2, 0.7, 12) ** 2

    def planted(record: Any) -> None:
        here = masses[order[record["config"]["seed"]]] if record["config"]["rung"] else np.zeros(12)
        record["metrics"]["attribution"]["grad-cam"]["mass"] = here.tolist()

    # The first twelve of forty test images; no seeds share any of the others.
    shared, apart = (
        results_of(study(), planted, tested)
        for tested in (lambda seed: np.append(100 + order[seed], 1000 * (1 + seed) + np.arange(28)), fresh)
    )
    half = lambda share: students.t.ppf((1 + share) / 2, 11) * masses.std() / 12**0.5  # noqa: E731
    for results, width in ((shared, half), (apart, lambda share: reach([masses] * 3, share))):
        one = quantity(results, "mass", "grad-cam")
        value, _ = results.value(one, "swin", LADDER, 1)
        assert ends(value) == pytest.approx([width(0.95)] * 2, rel=1e-9)
        gain = results.gains_of(one, "swin", "dense")[1]
        assert ends(gain) == pytest.approx([width(0.95**0.5)] * 2, rel=1e-9)
    assert half(0.95) > 2 * reach([masses] * 3)


# ----------------------------------------------------------------------------------------------------------- verdicts


def verdict(results: Results, against: str, margin: float = 0.0) -> Any:
    rows = verdicts_of(results, margin)
    return rows[(rows.quantity == "accuracy") & (rows.against == against)].iloc[0]


# The dense network gets 24 of 40 images right, the control 32, rungs 1 and 2 what is planted; rung 1 not the first 8,
# so that it loses images where it gains others.
@pytest.mark.parametrize(
    ("right", "margin", "dense", "control", "best"),
    [
        ((32, 38), 0.0, "found", "found", 2),
        ((32, 24), 0.0, "found", "undecided", 1),
        ((25, 24), 0.0, "undecided", "not found", 1),
        ((16, 12), 0.0, "not found", "not found", 1),
        ((30, 24), 0.4, "not found", "not found", 1),
    ],
)
def test_sweet_spots_find_a_planted_sweet_spot_and_no_other(right, margin, dense, control, best):
    planted = {(LADDER, 0): 24, (LADDER, 1): right[0], (LADDER, 2): right[1], (CONTROL, 1): 32, (CONTROL, 2): 32}
    results = results_of(
        study(), lambda record: with_hits(record, planted.get(place(record), 0), 8 * (place(record) == (LADDER, 1)))
    )
    row = verdict(results, "dense", margin)
    assert (row.verdict, row.rung) == (dense, best)
    assert row["mean"] == pytest.approx((max(right) - 24) / 40, abs=1e-12)
    assert verdict(results, "equal training", margin).verdict == control


def test_sweet_spots_take_the_rung_whose_interval_says_so():
    results = results_of(study())
    results.gains = pd.DataFrame(
        [
            {"question": "accuracy", "quantity": "accuracy", "method": "", "architecture": "swin", "against": "dense"}
            | row
            for row in (
                {"rung": 1, "sparsity": 0.3, "mean": 0.2, "low": 0.1, "high": 0.3},
                {"rung": 2, "sparsity": 0.5, "mean": 0.4, "low": -0.1, "high": 0.9},
            )
        ]
    )
    (row,) = verdicts_of(results).itertuples()
    assert (row.verdict, row.rung, row.rungs, row.rungs_above) == ("found", 1, 2, 1)
    assert (row.mean, row.low, row.high, row.n, row.seeds) == (0.2, 0.1, 0.3, 120, 3)
    (row,) = verdicts_of(results, 0.15).itertuples()
    assert (row.verdict, row.rung, row.rungs_above) == ("undecided", 2, 0)
    (row,) = verdicts_of(results, 0.1 - 1e-12).itertuples()  # what is left to rounding is not above
    assert (row.verdict, row.rung, row.rungs_above) == ("undecided", 2, 0)


def test_verdicts_of_one_seed_are_all_undecided():
    planted = {(LADDER, 0): 4, (LADDER, 1): 38, (LADDER, 2): 2, (CONTROL, 1): 4, (CONTROL, 2): 39}
    results = results_of(study(seeds=(3,)), lambda record: with_hits(record, planted.get(place(record), 6)))
    rows = verdicts_of(results)
    assert len(rows) == 2 * (10 + 5 * 2)
    assert set(rows.verdict) == {"undecided"}
    # Of the very network there is no doubt.
    gains = results.gains[(results.gains.quantity == "accuracy") & (results.gains.against == "equal training")]
    assert gains.low.max() > 0.5
    assert gains.high.min() < -0.5


def test_results_compute_their_intervals_once(monkeypatch):
    results, calls = results_of(study(seeds=(0,))), []

    def counted(function: Any) -> Any:
        return lambda *arguments, **options: calls.append(arguments) or function(*arguments, **options)

    for name in ("interval", "simultaneous"):
        monkeypatch.setattr(stats, name, counted(getattr(stats, name)))
    rows = verdicts_of(results)
    figures.ladders(results, rows, "accuracy")
    tables(study(), results, rows)
    # A band for every number but those of triplets, and the gains of every ladder over each reference.
    assert len(calls) == len(results.curves.dropna()) + len(rows)


def planted_below(record: Any) -> None:
    """Lets rung 1 gain over the dense network in four measures, and stay below what blind guesses have in all."""
    levels = {(LADDER, 0): (0, 0.0, 0.9), (LADDER, 1): (3, 0.1, 0.8)}
    hits, low, high = levels.get(place(record), (0, 0.0, 0.9))
    with_hits(record, hits)
    metrics = record["metrics"]
    metrics["discovery"]["lost"]["hits"] = [number < 2 * hits for number in range(40)]
    metrics["attribution"]["grad-cam"] |= {"mass": [low / 4] * 12, "insertion": [low] * 12, "deletion": [high] * 12}
    metrics["attribution"][RANDOM_MAP] |= {"insertion": [0.3] * 12, "deletion": [0.5] * 12}


def test_sweet_spots_say_that_a_gain_ends_below_a_blind_guess():
    results = results_of(study(), planted_below)
    rows = verdicts_of(results)
    rows = {(row.quantity, row.method): row for row in rows[rows.against == "dense"].itertuples()}
    truth = list(results.truths.values())
    expected = {
        ("accuracy", ""): (3 / 40, "chance", 0.1),
        ("mass", "grad-cam"): (0.025, "chance", np.mean([one["chance"] for one in truth])),
        ("insertion", "grad-cam"): (0.1, RANDOM_MAP, 0.3),
        ("deletion", "grad-cam"): (0.8, RANDOM_MAP, 0.5),
        ("CorLoc", "lost"): (6 / 40, "centre box", np.mean([one["baselines"]["centre box"] for one in truth])),
    }
    for key, (value, level, height) in expected.items():
        row = rows[key]
        assert (row.rung, row.level) == (1, level)
        assert (row.value, row.level_value) == pytest.approx((value, height), abs=1e-12)
    # Of the others some are better than chance, and a shape bias has no chance level.
    assert rows["CorLoc", "tokencut"].level == rows["shape bias", ""].level == ""
    assert np.isnan(rows["CorLoc", "tokencut"].level_value)


# ----------------------------------------------------------------------------------------------------------- the page


def written(made: Settings, folder: Path, change: Any = None) -> tuple[str, str]:
    """Finishes a study of records made by hand; returns its page without marks, and what was printed."""
    made = dataclasses.replace(made, out=folder)
    store, runs = Store(folder, "representation", data="data"), plan(made, None)
    for run, record in zip(runs, records_of(made), strict=True):
        if change:
            change(record)
        store.write(run, record["metrics"], record["provenance"])
    printed = io.StringIO()
    console = Console(file=printed, width=100)
    outcome = finish(Plan(STUDY, made, made, Inputs(made, None, "data"), runs, store, runs), console)
    text = html.unescape(outcome.path.read_text()).replace("\u00a0", " ")
    return text, printed.getvalue()


def table(text: str, caption: str) -> list[list[str]]:
    """The rows of the first table whose caption begins so, the head among them; notes of cells stand behind them."""
    body = text[text.index(caption) :].partition("</table>")[0]
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", body)]
    return [[re.sub(r"<[^>]*>", " ", cell).strip() for cell in row] for row in cells]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a study of two architectures, what was printed, and its folder."""
    folder = tmp_path_factory.mktemp("page")
    planted = {(LADDER, 0): 12, (LADDER, 1): 28, (LADDER, 2): 4, (CONTROL, 1): 38, (CONTROL, 2): 38}

    def change(record: Any) -> None:
        if "arm" not in record["config"]:
            record["metrics"]["baselines"]["centre box"] = [number % 4 == 0 for number in range(40)]
            return
        metrics = record["metrics"]
        with_hits(record, planted.get(place(record), 3))
        # Rung 1 finds more than the dense network, and less than a box in the centre.
        found = {(LADDER, 0): 0, (LADDER, 1): 8}.get(place(record), 0)
        metrics["discovery"]["lost"]["hits"] = [number < found for number in range(40)]
        if place(record) == (LADDER, 2):
            metrics["attribution"]["grad-cam"]["flat"][:5] = [True] * 5
        if place(record) == (SNIP, 1) and record["config"]["architecture"] == "vit":
            metrics["attribution"]["attention"] |= {"flat": [True] * 12, "mass": [0.0] * 12}

    return *written(study(architectures=("swin", "vit"), seeds=(0, 1)), folder, change), folder


def test_representation_page_says_what_was_found_whichever_way_it_came_out(page):
    text, printed, _ = page
    (summary,) = re.findall(r'<p class="summary">(.*?)</p>', text)
    assert "Networks trained on painted shapes with textures are pruned" in summary
    assert "Swin V2 30.0 % → 10.0 % at 59 % sparsity (dense, trained equally long: 95.0 %)" in summary
    notices = re.findall(r'<p class="notice">(.*?)</p>', text)
    assert len(notices) == 3
    assert notices[0].startswith("Two seeds")
    assert "changes the accuracy of Swin V2 by +65.0 points (" in notices[1]
    assert "random mask and SNIP" in notices[2]
    assert "44 maps have one value everywhere" in text
    assert "says nothing of them: attention of ViT, SNIP, rung of 36 % (24 of 24)." in text
    assert "no people were asked" in text
    assert "What --legacy would change" in text
    assert all(f"{name}</strong> {meaning}" in text for name, meaning in LEGACY.items())
    assert BUGS[1:] in text
    assert "2 seeds, 80 images in all. Bands" in text
    assert "2 seeds, 24 images in all. Bands" in text
    assert "2 seeds, 120 triplets in all. Rungs" in text
    assert "CorLoc. centre box: 0.250." in text
    assert not re.search(r"\b(nan|inf)\b", re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL))
    assert "yes / no" in printed
    assert "yes* / " in printed
    assert printed.index("deletion, random order (control)") > printed.index("shape bias")
    assert "odd one out" not in printed


def test_compose_counts_sweet_spots_in_a_table_and_those_that_are_below_a_blind_guess(page):
    text, _, folder = page
    head, *rows = table(text, "Sweet spots, all rungs of a ladder tested at once. Found*: no better than")
    assert head == ["", "over", "found", "undecided", "not found", "found*", "by chance"]
    found = load(folder).verdicts
    expected = []
    for (question, against), here in found.groupby(["question", "against"], sort=False):
        counts = [int((here.verdict == word).sum()) for word in ("found", "undecided", "not found")]
        blind = sum(row.verdict == "found" and row.level != "" for row in here.itertuples())
        named = [QUESTIONS[question], against]
        expected.append([*named, *map(str, [*counts, blind]), f"{0.025 * len(here):.1f}"])
    assert rows == expected
    told = {(row[0], row[1]): row[2:] for row in rows}
    assert told[QUESTIONS["accuracy"], "dense"] == ["2", "0", "0", "0", "0.1"]
    assert told[QUESTIONS["accuracy"], "equal training"] == ["0", "0", "2", "0", "0.1"]
    below = found[(found.quantity == "CorLoc") & (found.method == "lost") & (found.against == "dense")]
    assert below.level.tolist() == ["centre box"] * 2
    assert int(told[QUESTIONS["discovery"], "dense"][3]) >= 2


def test_compose_shows_intervals_in_small_type(page):
    text, _, folder = page
    _, *rows = table(text, "sweet spot over dense: a rung is better than the dense network")
    measured = load(folder).verdicts
    row = measured[(measured.quantity == "accuracy") & (measured.against == "dense")].iloc[0]
    assert rows[0] == ["Swin V2", f"at 36 % found {row['mean']:.3g} ({row.low:.3g} to {row.high:.3g})"]
    head, *rows = table(text, "Accuracy. chance: 0.100. Columns: the sparsity of the ladder's rung")
    assert head == ["", "0 %", "36 %", "59 %"]
    curves: Any = pd.read_csv(folder / "curves.csv")
    ladder = curves[(curves.quantity == "accuracy") & (curves.architecture == "swin") & (curves.arm == LADDER)]
    cells = [f"{one.mean:.3f} {one.low:.3f} to {one.high:.3f}" for one in ladder.itertuples()]
    assert rows[0] == ["Swin V2, pruned", *cells]
    # What does not vary has no interval.
    _, *rows = table(text, "Mass. chance")
    (snip,) = [row for row in rows if row[0] == "ViT, attention, SNIP"]
    assert snip[1:] == ["", "0.000", ""]


def test_opening_says_what_was_found_in_at_most_120_words():
    found = {
        "dense": ("found", "found", "found", "not found"),
        "equal training": ("not found", "found", "found", "undecided"),
    }
    lines = ("", RANDOM_MAP, "grad-cam", "rollout")  # random order is a control, and no method
    rows = [(line, against, one) for against, each in found.items() for line, one in zip(lines, each, strict=True)]
    tested = pd.DataFrame(rows, columns=["method", "against", "verdict"]).assign(seeds=3)
    longest = sorted(ARCHITECTURES, key=lambda name: -len(ARCHITECTURES[name].title.split()))
    for names in (("swin",), tuple(longest[:2]), tuple(ARCHITECTURES)):
        made = study(architectures=names, seeds=(0,))
        words = told.opening(made, results_of(made), tested)
        assert len(words.split()) <= 120
        counts = "2 of 3 over the dense network (0.1 by chance) and 1 of 3 over the dense network trained equally long"
        assert f"one is found in {counts} (0.1 by chance)." in words
        # Of many architectures the figures say how accurate they are.
        assert [ARCHITECTURES[name].title in words for name in names] == [len(names) < 3] * len(names)


def test_notices_name_networks_that_training_on_harms():
    def change(record: Any) -> None:
        with_hits(record, 4 if place(record)[0] == CONTROL else 40)

    (harmed,) = told.notices(results_of(study(random_rungs=(), snip_rungs=()), change))
    assert harmed.startswith("Training on, without pruning, harms dense networks: Swin V2 by −90.0 points (")


def test_notices_name_networks_that_gain_by_training_on_and_arms_that_are_pruned_at_once():
    planted = {(LADDER, 0): 20, (CONTROL, 2): 36}

    def change(record: Any) -> None:
        at = place(record)
        if record["config"]["architecture"] == "swin":
            with_hits(record, planted.get(at, 30))
        else:
            with_hits(record, 30 + (at[0] == CONTROL))  # one image of forty more

    longer, once = told.notices(results_of(study(architectures=("swin", "vit")), change))
    gains = np.where(np.arange(40) // 20 == 1, 1.0, 0.0) * (np.arange(40) < 36)
    expected = stats.interval([gains] * 3, examples="fresh", bounds=(-1, 1))
    ends = f"+{100 * expected.low:.1f} to +{100 * expected.high:.1f}"
    assert f"changes the accuracy of Swin V2 by +40.0 points ({ends})." in longer
    assert "ViT" not in longer
    assert once.endswith("no fair comparison with it: random mask and SNIP.")

    def converged(**changes: Any) -> list[str]:
        return told.notices(results_of(study(**changes), lambda record: with_hits(record, 30)))

    (once,) = converged(random_rungs=())
    assert once.endswith("no fair comparison with it: SNIP.")
    assert converged(random_rungs=(), snip_rungs=()) == []


def test_representation_page_tables_hold_every_quantity_of_every_network(page):
    _, _, folder = page
    curves, gains, verdicts, flat = (
        pd.read_csv(folder / f"{name}.csv") for name in ("curves", "gains", "verdicts", "flat_maps")
    )
    made = study(architectures=("swin", "vit"), seeds=(0, 1))
    runs = {(run.architecture, run.arm, run.rung) for run in plan(made, None) if isinstance(run, Run)}
    accuracy = curves[curves.quantity == "accuracy"]
    assert set(zip(accuracy.architecture, accuracy.arm, accuracy.rung, strict=True)) == runs
    assert set(curves[curves.quantity == "error consistency"].rung) == {0, 2}
    assert set(curves[curves.quantity == "mass"].method) == set(ARCHITECTURES["vit"].methods)
    assert set(curves[curves.quantity == "insertion"].method) >= {RANDOM_MAP, "rollout"}
    # Triplets share images: a curve, and nothing that needs rows to be resampled.
    assert np.isnan(curves[curves.quantity == "odd one out"][["low", "high"]]).all(axis=None)
    assert set(zip(*(curves[curves.quantity == "odd one out"][name] for name in ("arm", "rung")), strict=True)) == {
        (arm, rung) for _, arm, rung in runs
    }
    # Per architecture: 1 + 5 of each method + 2 of random order + 2 searches + 4 + 1, against two references.
    assert len(verdicts) == 2 * ((10 + 5 * 2) + (10 + 5 * 4))
    assert set(verdicts.quantity) == set(gains.quantity) == set(curves.quantity) - {"odd one out"}
    assert len(gains[(gains.quantity == "accuracy") & (gains.architecture == "vit")]) == 2 * 2
    assert flat["flat"].tolist() == [10, 10, 24]
    assert flat["maps"].tolist() == [24, 24, 24]


@pytest.mark.parametrize("attributed", [1, 3])
def test_representation_page_is_made_of_a_short_ladder_of_one_seed_with_few_controls(tmp_path, attributed):
    few: dict[str, Any] = {"random_rungs": (), "snip_rungs": (), "distorted_rungs": (0,)}
    made = study(rungs=2, seeds=(3,), attributed_examples=attributed, **few)

    def without_conflict(record: Any) -> None:
        record["metrics"]["conflict"] = None if "labels" in record["metrics"] else [0]

    text, _ = written(made, tmp_path, without_conflict)
    assert "Shape or texture?" not in text
    assert text.count("Not tested: of the ladder only the dense network") == 1
    assert "One seed: nothing is decided about others" in text
    assert "no fair comparison" not in text
    assert f"1 seed, {attributed} image{'s' * (attributed > 1)} in all. Bands" in text
    assert "SNIP" not in method.approach(made, results_of(made))["Controls."]


def test_approach_and_captions_say_what_readers_must_know_where_it_holds():
    results = unchanged()

    def prose(made: Settings) -> str:
        return " ".join([*method.approach(made, results).values(), *captions(made, results).values()])

    here = prose(study())
    assert "position networks of Swin V2" in here
    assert "Every second training scene of a class is grey" in here
    assert "read at 8 × 8 places" in here
    assert "maps are standardised" in here
    assert "a quarter of a patch" not in here
    assert "Void" not in here
    assert "windows of 4 × 4 tokens, stages of 2 blocks of width 24 (2 heads, 96 hidden units) and" in here
    assert "89,662 parameters, peak rate 0.002" in here
    assert "224 pixels" not in here
    filtered = prose(study(distortions=("low-pass", "high-pass")))
    assert "low-pass in proportion to images of 224 pixels" in filtered
    assert "high-pass in pixels of the image itself" in filtered
    photographs = prose(study(data="voc:somewhere"))
    assert "Void pixels, which are neither object nor ground, count as ground." in photographs
    assert "grey, since" not in photographs


def test_legacy_names_the_choices_of_the_released_code_where_taken():
    heading, choices = method.legacy(study(legacy=True))
    assert heading == "The choices of the released code, taken here"
    assert list(choices)[:-1] == list(LEGACY)


# ------------------------------------------------------------------------------------------------------------ figures


def figure_of(results: Results, question: str) -> Any:
    return figures.ladders(results, verdicts_of(results), question)


def test_ladders_have_the_curves_their_controls_and_the_sweet_spots():
    planted = {(LADDER, 0): 8, (LADDER, 1): 38, (LADDER, 2): 4, (CONTROL, 1): 20, (CONTROL, 2): 20}
    results = results_of(study(), lambda record: with_hits(record, planted.get(place(record), 6)))
    (axis,) = figure_of(results, "accuracy").axes
    lines = {line.get_label(): line for line in axis.lines}
    assert lines["pruned"].get_ydata().tolist() == pytest.approx([0.2, 0.95, 0.1])
    assert lines["dense, trained equally long"].get_ydata().tolist() == pytest.approx([0.2, 0.5, 0.5])
    assert (lines["random mask"].get_xdata(), lines["random mask"].get_ydata()) == ([2], pytest.approx([0.15]))
    assert (lines["SNIP"].get_xdata(), lines["SNIP"].get_ydata()) == ([1], pytest.approx([0.15]))
    assert lines["chance"].get_ydata() == pytest.approx([0.1, 0.1])
    for text in ("sweet spot against the dense network", "sweet spot against equal training"):
        assert (lines[text].get_xdata(), lines[text].get_ydata()) == ([1], pytest.approx([0.95]))
    assert len([one for one in axis.collections if isinstance(one, PolyCollection)]) == 2
    assert [text.get_text() for text in axis.get_xticklabels()] == ["0", "36", "59"]


def test_ladders_end_bands_and_axis_where_values_can():
    planted = {1: (0.9, 0.1, 0.5), 2: (0.4, 0.4, 0.4)}  # of three seeds

    def change(record: Any) -> None:
        mass = planted.get(record["config"]["rung"], (0.5, 0.55, 0.6))[record["config"]["seed"]]
        record["metrics"]["attribution"]["grad-cam"]["mass"] = [mass] * 12

    results = results_of(study(), change)
    measured = results.curves
    ladder = measured[(measured.quantity == "mass") & (measured.method == "grad-cam") & (measured.arm == LADDER)]
    # Tables have intervals as they are: of few seeds wide, and without ends where nothing varies.
    assert ladder.low.tolist()[1] < 0 < 1 < ladder.high.tolist()[1]
    assert (ladder.low.tolist()[2], ladder.high.tolist()[2]) == (-np.inf, np.inf)
    axis = figure_of(results, "attribution").axes[0]
    assert axis.get_ylabel() == "mass"
    bands = [one.get_paths()[0].vertices[:, 1] for one in axis.collections]
    assert len(bands) == 2
    assert all(heights.min() >= 0 and heights.max() <= 1 for heights in bands)
    assert (bands[0].min(), bands[0].max()) == (0, 1)
    low, high = axis.get_ylim()
    assert -0.05 < low < 0
    assert 1 < high < 1.05
    # An error consistency may lie below 0.
    assert quantity(results, "error consistency").least == -1


def test_ladders_put_marks_of_several_methods_side_by_side():
    insertion, _ = figure_of(unchanged(), "perturbation").axes
    diamonds = [line.get_xdata()[0] for line in insertion.lines if line.get_label() == "random mask"]
    assert diamonds == pytest.approx([1.85, 2.0, 2.15])


def test_ladders_let_methods_share_a_panel_and_mark_less_as_better():
    drawn = figure_of(unchanged(), "perturbation")
    (legend,) = drawn.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names[:3] == ["Grad-CAM", "integrated gradients", "random order"]
    assert "pruned" in names
    assert [axis.get_ylabel() for axis in drawn.axes] == ["insertion", "deletion\n(less is better)"]


def test_overview_and_along_draw_boxes_where_they_are_in_the_picture():
    results = unchanged()
    drawn = figures.overview(results)
    assert len(drawn.axes) == 2 * (1 + 2 * 3)
    boxes = [patch.get_bbox().extents for patch in drawn.axes[1].patches if isinstance(patch, Rectangle)]
    # The true box (3, 5, 9, 13), and the one found, (4, 6, 10, 14).
    np.testing.assert_array_equal(boxes, [[4.5, 2.5, 12.5, 8.5], [5.5, 3.5, 13.5, 9.5]])
    # A box around the whole picture would lie on its frame: it is drawn inside.
    whole = figures.along(results, "swin").axes[3 * 9 + 1].patches[-1]
    assert isinstance(whole, Rectangle)
    assert whole.get_bbox().extents == pytest.approx([-0.1, -0.1, 15.1, 15.1])
    (outlined,) = drawn.axes[0].get_images()
    assert np.shape(np.asarray(outlined.get_array())) == (16, 16, 3)
