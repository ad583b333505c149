"""What does it cost to prune in patterns that hardware runs, n of every m weights, rather than anywhere?

At equal sparsity of the same kernels, n:m masks are compared with unstructured ones, by the same scores; networks,
tasks, frozen heads and splits are those of the transfer study.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
from matplotlib.figure import Figure

import jaxprune as jp
from experiments.shared import frozen_heads, named, options, pages
from experiments.shared.frozen_heads import Conditions, World, accuracies, finetuned, mask_of, pruned_network
from experiments.shared.results import Case, Claim, Results, Table, above_zero, case, fields_of, interval, keeps
from experiments.shared.settings import Execution, each_once, listed
from experiments.shared.splits import Inputs, open_inputs
from experiments.shared.study import Study, command
from experiments.shared.styles import label
from jaxprune import check, report

KINDS = ("n:m", "unstructured")


@dataclass(frozen=True)
class Run(Conditions):
    """A network, pruned and fine-tuned, and one record; of the dense one, pattern and kind are empty."""

    seed: int = dataclasses.field(kw_only=True)
    score: str = dataclasses.field(kw_only=True)
    pattern: str = dataclasses.field(kw_only=True)
    kind: str = dataclasses.field(kw_only=True)


@dataclass(frozen=True)
class Settings(Conditions, Execution):
    """Every score in every pattern, n:m and unstructured, for every seed; and the dense network."""

    width: int = 8
    patterns: tuple[str, ...] = ("2:4", "1:4", "4:8", "2:8")
    """n:m keeps n of every m weights along the input axis; kernels whose input axis m does not divide stay dense."""
    scores: Annotated[tuple[named.Named, ...], listed(options.SCORES, own=True, alias="--score")] = (
        *("magnitude", "diagonal", "random"),
    )
    """By which weights are ranked."""
    out: Path = Path("results/patterns")
    margin: float = 0.05
    """Accuracy that n:m may lose to unstructured masks and still count as equal; only the verdicts depend on it."""


def open_study(settings: Settings) -> Inputs:
    """Opens the data, and finds every bad value before anything expensive starts."""
    each_once("patterns", settings.patterns)
    for pattern in settings.patterns:
        found = re.fullmatch(r"(\d+):(\d+)", pattern)
        if not found or not 0 < int(found[1]) < int(found[2]):
            raise ValueError(f"patterns: expected n:m with 0 < n < m, such as 2:4, but got {pattern!r}.")
    check.positive("margin", settings.margin)
    frozen_heads.check_conditions(settings)
    inputs = open_inputs(settings)
    filled = frozen_heads.completed(settings, inputs)
    return dataclasses.replace(inputs, settings=dataclasses.replace(settings, **filled))


def plan(settings: Settings, inputs: Any) -> list[Run]:
    """Lists the runs, those of a seed and a score together."""
    cells = [(score, pattern, kind) for score in settings.scores for pattern in settings.patterns for kind in KINDS]
    return [
        Run(**fields_of(settings, Conditions), seed=seed, score=score, pattern=pattern, kind=kind)
        for seed in settings.seeds
        for score, pattern, kind in [("dense", "", ""), *cells]
    ]


def select(pattern: str, kind: str) -> Callable[[Any, Any], Any]:
    """Makes what selects: n of m, or as many weights of the same kernels anywhere."""
    n, m = map(int, pattern.split(":"))

    def apply(scores: Any, prunable: Any) -> Any:
        divided = jax.tree.map(lambda leaf, flag: flag and leaf.shape[-2] % m == 0, scores, prunable)
        if not any(jax.tree.leaves(divided)):
            raise ValueError(f"patterns: {m} divides the input axis of no kernel. Choose another width or pattern.")
        return (jp.masks.n_of_m(n, m) if kind == "n:m" else jp.masks.unstructured(1 - n / m))(scores, divided)

    return apply


def measure(world: World, run: Run) -> dict[str, Any]:
    """Prunes, fine-tunes on the source, and evaluates every task before and after."""
    mask = mask_of(world, run.score, 0.0, lambda _: select(run.pattern, run.kind))
    pruned = pruned_network(world, mask)
    stages = {"pruned": pruned, "finetuned": finetuned(world, pruned, mask)}
    found = {stage: accuracies(world, network)["frozen"] for stage, network in stages.items()}
    return {**found, "source": world.inputs.source.name, "sparsity": jp.masks.sparsity(mask, world.prunable)}


def hits(metrics: dict[str, Any], stage: str, group: str) -> np.ndarray:
    """Reads which test images of the source, or of the other tasks, are classified rightly: [n] of 0 and 1."""
    named_ = [one["hits"] for task, one in metrics[stage].items() if (task == metrics["source"]) == (group == "source")]
    return np.frombuffer("".join(named_).encode(), np.uint8) - 48.0


def claims(settings: Settings) -> list[Claim]:
    """Claims that the pattern costs little, and that the choice inside it matters; on the source and on other tasks."""

    def cases(group: str, other: Callable[[str, str], dict[str, str]]) -> Callable[[Results], Iterator[Case]]:
        def compared(results: Results) -> Iterator[Case]:
            for score in results.values("score")[1:]:
                for pattern in results.values("pattern")[1:]:
                    pair = [{"score": score, "pattern": pattern, "kind": "n:m"}, other(score, pattern)]
                    if pair[0] != pair[1]:
                        sides = [[hits(one, "finetuned", group) for one in results.of(**place)] for place in pair]
                        yield case(pair[0], [this - than for this, than in zip(*sides, strict=True)])

        return compared

    free = lambda score, pattern: {"score": score, "pattern": pattern, "kind": "unstructured"}  # noqa: E731
    chance = lambda score, pattern: {"score": "random", "pattern": pattern, "kind": "n:m"}  # noqa: E731
    within = f"{100 * settings.margin:g} points"
    listed_ = []
    for group in ("source", "transfer"):
        meaning = f"fine-tuned, n:m keeps the accuracy of an unstructured mask of equal sparsity to {within}"
        listed_.append(Claim(f"pattern is free, {group}", meaning, cases(group, free), keeps(settings.margin)))
        if "random" in settings.scores:
            meaning = "fine-tuned, accuracy above that of a random choice in the same pattern"
            listed_.append(Claim(f"choice matters, {group}", meaning, cases(group, chance), above_zero))
    return listed_


def accuracy(results: Results) -> Figure:
    """Draws the accuracy of every score, n:m and unstructured, in every pattern; dashed: the dense network."""
    with report.figure(9.5, 3.8) as drawn:
        axes = drawn.subplots(1, 2, sharey=True)
        for axis, group in zip(axes, ("source", "transfer"), strict=True):
            read = lambda metrics, group=group: hits(metrics, "finetuned", group)  # noqa: E731
            axis.axhline(interval(list(map(read, results.of(score="dense")))).mean, color="#2b2922", linestyle="--")
            for color, score in zip(report.COLOURS, results.values("score")[1:], strict=False):
                for kind, line in zip(KINDS, ("o-", "x:"), strict=True):
                    names = results.values("pattern")[1:]
                    cells = [results.of(score=score, pattern=name, kind=kind) for name in names]
                    found = [interval(list(map(read, cell))) for cell in cells]
                    ends = [[one.mean - one.low for one in found], [one.high - one.mean for one in found]]
                    axis.errorbar(names, [one.mean for one in found], ends, fmt=line, color=color, capsize=2,
                                  label=f"{label(score)}, {kind}")  # fmt: skip
            axis.set(title=group, xlabel="weights kept", ylabel="accuracy, fine-tuned on source")
        drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
        return drawn


def page(settings: Settings, results: Results, tested: Table) -> report.Page:
    """Puts the page together."""
    made = report.Page("Patterns or anywhere?", f"A network pretrained on {pages.pretraining(settings)} is pruned with "
                       f"data of {settings.source} only: n of every m weights, or as many anywhere.")  # fmt: skip
    made.drawing(
        accuracy(results), "Accuracy with frozen heads; bars are 95 % bootstrap intervals over seeds and images."
    )
    for _, rows in tested.groupby("claim", sort=False):
        pages.verdict_table(made, rows, "score", "pattern", label=label, shown=lambda row: pages.points(row.mean))
    network = pages.network(settings, results.records[0]["provenance"]["data"])
    made.points([("Network.", network), ("Splits.", pages.splits(settings))])
    return made


STUDY = Study("patterns", open_study, plan, lambda run: run.seed, frozen_heads.prepare, measure, claims, page)

if __name__ == "__main__":
    command(STUDY, Settings, __doc__)
