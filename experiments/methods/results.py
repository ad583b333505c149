"""From the records of the study of methods to its claims: paired, and for all methods at once."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from experiments.shared.pages import chosen
from experiments.shared.results import DIFFERENCES, SHARES, Case, Claim, Results, Table, above_zero, interval, keeps
from jaxprune import stats

STAGES = {"pruned": "as it stands", "finetuned": "fine-tuned"}
OURS, TWIN, ONE_SHOT = "logits/greedy+rounds", "logits/greedy+adam", "logits/greedy+surgeon"
ANEW = ("+rounds", "+adam", "+stages")
"""What methods end in that look at the pruned network, and go on."""

# What greedy with its update is asked to lose at most in one shot, and rounds, at a sparsity.
ONE_SHOT_LOSES = {0.8: 0.02, 0.9: 0.33}
ROUNDS_LOSE = {0.8: 0.01, 0.9: 0.03, 0.95: 0.06}


def hits(metrics: dict[str, Any], stage: str) -> np.ndarray:
    """Which test images are classified rightly: [n] of 0 and 1."""
    return np.frombuffer(metrics[stage].encode(), np.uint8) - 48.0


def of(results: Results, method: str, sparsity: float, stage: str) -> list[np.ndarray]:
    """The hits of a cell, for every seed."""
    return [hits(one, stage) for one in results.of(method=method, sparsity=sparsity)]


def tested(results: Results) -> list[np.ndarray]:
    """The numbers of the test images of every seed."""
    return [results.inputs.indices(seed, "test") for seed in results.seeds]


def accuracy(results: Results, method: str, sparsity: float, stage: str) -> stats.Interval:
    """The accuracy of a cell with its interval."""
    return interval(of(results, method, sparsity, stage), tested(results), SHARES)


def words(results: Results) -> list[str]:
    """The methods that were compared."""
    return [one for one in results.values("method") if one != "dense"]


def sparsities(results: Results) -> list[float]:
    """The sparsities, increasing."""
    return sorted(one for one in results.values("sparsity") if one)


def lost(results: Results, sparsity: float, stage: str) -> dict[str, stats.Interval]:
    """What every method loses against the dense network of its seed, with intervals that hold for all at once."""
    dense = of(results, "dense", 0.0, stage)
    return _together(results, {word: (dense, of(results, word, sparsity, stage)) for word in words(results)})


def _together(results: Results, pairs: dict[str, Any]) -> dict[str, stats.Interval]:
    columns = [[one - other for one, other in zip(*pair, strict=True)] for pair in pairs.values()]
    stacked = [np.stack(seed, axis=1) for seed in zip(*columns, strict=True)]
    found = stats.simultaneous(stacked, examples=tested(results), bounds=DIFFERENCES)
    return dict(zip(pairs, found, strict=True))


def claims(settings: Any) -> list[Claim]:
    """Claims that ours beats every other method that is no more expensive, and the rounds their control."""
    del settings
    return [
        Claim(
            "one shot",
            "as it stands, accuracy of greedy + update above that of the other method, all methods that prune once",
            _against(ONE_SHOT, lambda word: not word.endswith(ANEW)),
            above_zero,
        ),
        Claim(
            "rounds",
            "as it stands, accuracy of greedy + rounds above that of the other method, all but Adam",
            _against(OURS, lambda word: word != TWIN),
            above_zero,
        ),
        Claim(
            "rounds against Adam",
            "as it stands, accuracy of greedy + rounds above that of Adam for as many gradients",
            _against(OURS, lambda word: word == TWIN),
            above_zero,
        ),
        Claim(
            "rounds no worse than Adam",
            "as it stands, accuracy of greedy + rounds at most half a point below that of Adam for as many gradients",
            _against(OURS, lambda word: word == TWIN),
            keeps(0.005),
        ),
        *(
            Claim(
                f"{name} keeps, {chosen(sparsity)}",
                f"as it stands, accuracy less that of the dense network: at most {100 * most:g} points below",
                _change(word, sparsity),
                keeps(most),
            )
            for name, word, bounds in (
                ("greedy + update", ONE_SHOT, ONE_SHOT_LOSES),
                ("greedy + rounds", OURS, ROUNDS_LOSE),
            )
            for sparsity, most in bounds.items()
        ),
    ]


def _against(word: str, among: Callable[[str], bool]) -> Callable[[Results], Iterator[Case]]:
    def cases(results: Results) -> Iterator[Case]:
        others = [one for one in words(results) if among(one) and one != word]
        if word not in words(results) or not others:
            return
        for sparsity in sparsities(results):
            ours = of(results, word, sparsity, "pruned")
            found = _together(results, {one: (ours, of(results, one, sparsity, "pruned")) for one in others})
            for one, each in found.items():
                yield Case({"method": one, "sparsity": sparsity}, each, sum(map(len, ours)), len(ours))

    return cases


def _change(word: str, sparsity: float) -> Callable[[Results], Iterator[Case]]:
    """What a method makes of the accuracy of the dense network."""

    def cases(results: Results) -> Iterator[Case]:
        if word in words(results) and sparsity in sparsities(results):
            pairs = zip(of(results, word, sparsity, "pruned"), of(results, "dense", 0.0, "pruned"), strict=True)
            changes = [ours - dense for ours, dense in pairs]
            found = interval(changes, tested(results), DIFFERENCES)
            yield Case({"method": word, "sparsity": sparsity}, found, sum(map(len, changes)), len(changes))

    return cases


def table(results: Results) -> Table:
    """Accuracy, loss against the dense network, gradients and increases of every cell."""
    rows = []
    for stage in STAGES:
        dense = accuracy(results, "dense", 0.0, stage)
        rows.append({"method": "dense", "sparsity": 0.0, "stage": stage, **_numbers(dense)})
        for sparsity in sparsities(results):
            losses = lost(results, sparsity, stage)
            for word in words(results):
                cell = results.of(method=word, sparsity=sparsity)
                means = {name: float(np.mean([one["increase"][name] for one in cell])) for name in cell[0]["increase"]}
                less = {"lost": losses[word].mean, "lost_low": losses[word].low, "lost_high": losses[word].high}
                spent = float(np.mean([one["gradients"] for one in cell]))
                found = accuracy(results, word, sparsity, stage)
                rows.append(
                    {"method": word, "sparsity": sparsity, "stage": stage, **_numbers(found), **less, **means}
                    | ({"gradients": spent} if spent >= 0 else {})
                )
    return pd.DataFrame(rows)


def _numbers(found: stats.Interval) -> dict[str, float]:
    return {"accuracy": found.mean, "low": found.low, "high": found.high}
