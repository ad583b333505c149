"""What does it cost to prune in patterns that hardware runs, n of every m weights, rather than anywhere?

At equal sparsity of the same kernels, by the same scores; networks, tasks, heads and splits are the transfer study's.
"""

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
from matplotlib.figure import Figure

import jaxprune as jp
from experiments.shared import conditions, pages, pruned
from experiments.shared.conditions import Conditions
from experiments.shared.frozen_heads import World, accuracies, finetuned, prepare
from experiments.shared.methods import DENSE, Method, Methods, parsed
from experiments.shared.results import GROUPS, Case, Claim, Results, Table, above_zero, fields_of, hits, keeps
from experiments.shared.settings import Execution, each_once, positive
from experiments.shared.splits import Inputs, open_inputs
from experiments.shared.study import Study, command
from experiments.shared.styles import dots, label, panels
from jaxprune import check, report

KINDS = ("n:m", "unstructured")


@dataclass(frozen=True, kw_only=True)
class Run(Conditions, Method):
    """A network, pruned and fine-tuned, and one record; of the dense one, pattern and kind are empty."""

    seed: int
    pattern: str
    kind: str


@dataclass(frozen=True)
class Settings(Conditions, Execution):
    """Every method in every pattern, n:m and unstructured, for every seed; and the dense network."""

    patterns: tuple[str, ...] = ("2:4", "1:4", "4:8", "2:8")
    """n of every m weights along the input axis stay; kernels whose input axis m does not divide stay dense."""
    methods: Methods = ("magnitude", "label/diagonal", "random")
    """How weights are ranked, and what becomes of the rest: none or surgeon."""
    out: Path = Path("results/patterns")
    margin: float = 0.05
    """Accuracy that n:m may lose to unstructured masks and still count as equal."""


def open_study(settings: Settings) -> Inputs:
    """Opens the data, and finds every bad value before anything expensive starts."""
    each_once("patterns", settings.patterns)
    for pattern in settings.patterns:
        if not (found := re.fullmatch(r"(\d+):(\d+)", pattern)) or not 0 < int(found[1]) < int(found[2]):
            raise ValueError(f"patterns: expected n:m with 0 < n < m, such as 2:4, but got {pattern!r}.")
    positive(settings, "margin")
    check.choice("rounds", str(settings.rounds), ["1"])  # a pattern is no sparsity that a schedule could reach
    conditions.check_conditions(settings, ("none", "surgeon"))
    return conditions.completed(open_inputs(settings), usual={"width": 8})


def plan(settings: Settings, inputs: Any) -> list[Run]:
    """Lists the runs, those of a seed and a method together."""
    cells = [(DENSE, "", ""), *itertools.product(parsed(settings), settings.patterns, KINDS)]
    fields = fields_of(settings, Conditions)
    return [Run(**fields, **vars(m), seed=seed, pattern=p, kind=k) for seed in settings.seeds for m, p, k in cells]


def select(scores: Any, prunable: Any, *, pattern: str, kind: str) -> Any:
    """Keeps n of m, or as many weights of the same kernels anywhere."""
    n, m = map(int, pattern.split(":"))
    divided = jax.tree.map(lambda leaf, flag: flag and leaf.shape[-2] % m == 0, scores, prunable)
    return (jp.masks.n_of_m(n, m) if kind == "n:m" else jp.masks.unstructured(1 - n / m))(scores, divided)


def measure(world: World, run: Run) -> dict[str, Any]:
    """Prunes, fine-tunes on the source, and evaluates every task before and after."""
    net, mask, _ = pruned.prune(world, run, 0.0, lambda _: partial(select, pattern=run.pattern, kind=run.kind))
    tuned = finetuned(world, net, mask)
    found = {"source": run.source, "chance": world.chances, "pretrained": world.pretrained}
    found["sparsity"] = jp.masks.sparsity(mask, world.prunable)
    before, after = (accuracies(world, one)["frozen"] for one in (net, tuned.network))
    return found | {"pruned": before, "finetuned": after, "finetune_rate": tuned.rate}


def cases(group: str, **control: str) -> Callable[[Results], Iterator[Case]]:
    """Compares every n:m mask with its control: the same run, but for what is said."""

    def compared(results: Results) -> Iterator[Case]:
        for method, pattern in itertools.product(results.values("method")[1:], results.values("pattern")[1:]):
            place = {"method": method, "pattern": pattern, "kind": "n:m"}
            if (other := place | control) != place and results.of(**other):
                yield results.compare(hits, group, place, other, results.metrics["chance"][group])

    return compared


def claims(settings: Settings) -> list[Claim]:
    """Claims that the pattern costs little, and that the choice inside it matters; on the source and on other tasks."""
    free = f"fine-tuned, to {100 * settings.margin:g} points the accuracy of an unstructured mask of equal sparsity"
    better = "fine-tuned, accuracy above that of a random choice in the same pattern"
    return [
        *(Claim(f"pattern is free, {one}", free, cases(one, kind=KINDS[1]), keeps(settings.margin)) for one in GROUPS),
        *(Claim(f"choice matters, {one}", better, cases(one, method="random"), above_zero) for one in GROUPS),
    ]


def accuracy(results: Results) -> Figure:
    """Draws the accuracy of every method, n:m and unstructured, in every pattern; dashed: the dense network."""
    with report.figure(9.5, 3.8) as drawn:
        names, methods = (results.values(one)[1:] for one in ("pattern", "method"))
        for axis, _, group in panels(drawn, [""], GROUPS, xlabel="weights kept", ylabel="accuracy", sharey=True):
            axis.axhline(results.accuracy(hits, group, method="dense").mean, color="#2b2922", linestyle="--")
            for number, (method, kind) in enumerate(itertools.product(methods, KINDS)):
                found = [results.accuracy(hits, group, method=method, pattern=name, kind=kind) for name in names]
                look = {"line": ("o-", "x:")[number % 2], "color": report.COLOURS[number // 2 % len(report.COLOURS)]}
                dots(axis, names, found, **look, label=f"{label(method)}, {kind}")
        drawn.legend(*drawn.axes[0].get_legend_handles_labels(), loc="outside right center")
    return drawn


def page(settings: Settings, results: Results, tested: Table) -> report.Page:
    """Puts the page together."""
    lead = f"Pretrained on {pages.pretraining(settings)}, pruned with {settings.source}; shown: {pages.held(tested)}."
    caption = f"Frozen heads, fine-tuned on source; bars are intervals of 95 %. {results.count(GROUPS)}"
    tuned = [pages.tuned({one: results.change(hits, one, method="dense") for one in GROUPS})]
    made = pages.begun("Patterns or anywhere?", lead, results.seeds, tuned, accuracy(results), caption)
    pages.claims_table(made, tested)
    for _, rows in tested.groupby("claim", sort=False):
        pages.verdict_table(made, rows, "method", "pattern", label=label)
    made.points(pages.done(settings, results))
    return made


STUDY = Study("patterns", open_study, plan, lambda run: run.seed, prepare, measure, claims, page, version=2)

if __name__ == "__main__":
    command(STUDY, Settings, __doc__)
