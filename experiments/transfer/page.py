"""The page of the transfer study: what was found, with its figures and tables."""

from typing import Any

import numpy as np
from rich.table import Table as Printed

from experiments.shared import pages
from experiments.shared.pages import (
    counted,
    few_seeds,
    joined,
    percent,
    verdict_table,
)
from experiments.shared.results import Table
from experiments.shared.splits import PROTOCOLS
from experiments.shared.styles import label
from experiments.transfer import figures
from experiments.transfer.results import GROUPS, STAGES, Results, by_cell, losses, reach
from jaxprune import report
from jaxprune.report import Cell


def tables(settings: Any, results: Results, tested: Table) -> dict[str, Table]:
    """Makes the tables beside the verdicts."""
    del settings, tested
    return {"accuracy": results.accuracies, "losses": losses(results.records)}


def compose(settings: Any, results: Results, tested: Table) -> report.Page:
    """Puts the page together."""
    within = f"{100 * settings.margin:g} points"
    page = report.Page(
        "What a pruned network keeps",
        f"A network pretrained on {pages.pretraining(settings)} is pruned with data of one task only "
        f"({settings.source}). Does it keep its zero-shot accuracy on that task, and on tasks it was never shown? And "
        "does fine-tuning on that one task bring the others back?",
    )
    page.section("What was found")
    page.points(findings(settings, results, tested))
    page.drawing(
        figures.examples(results.inputs, settings.shifts),
        "An image of each class of the first two tasks, and of the first task under each shift.",
    )
    page.section("Accuracy against sparsity")
    page.drawing(
        figures.curves(results),
        "Zero-shot accuracy with the frozen head of each task; bands are 95 % bootstrap intervals over seeds and test "
        "examples. Source is the task that pruned it, transfer the tasks it was never shown. The dashed line is the "
        f"dense network (below: fine-tuned equally long), the dotted line is chance. {_count(results)}",
    )
    page.section("The two predictions, tested")
    page.text(
        f"P1: a pruned network keeps the accuracy of the dense one. It holds where the whole interval of the paired "
        f"difference lies above −{within}, and does not hold where all of it lies below. P2: "
        "fine-tuning on the source helps the others (its difference to the pruned network is above 0), spares them "
        f"(it loses at most {within}), and restores them (to {within} of "
        "the dense network). A comparison of two networks that cannot be told from chance says nothing: floor. Hover "
        "over a cell for its difference and interval. Every cell stands for itself: nothing is corrected for the "
        "number of comparisons."
    )
    _verdict_tables(page, tested)
    page.section("Source against transfer")
    page.drawing(
        figures.source_against_transfer(results),
        "Each line is one score, from dense (upper right) to the highest sparsity. Above the diagonal a network is "
        f"better on what it was never shown than on what pruned it. {_count(results)} Intervals are in the figure "
        "above.",
    )
    page.section("Does the quadratic model predict the damage?")
    page.drawing(
        figures.predictions(results, losses(results.records)),
        "Increase of the source loss on the scoring data by pruning: measured, against w′Hw/2 of the removed weights "
        "w with the exact Hessian of the dense network. One point for each seed and sparsity; the line is equality. "
        "The quadratic model knows nothing of the gradient or of higher orders.",
    )
    page.section("All accuracies")
    _accuracy_table(page, results)
    _method(page, settings, results)
    return page


_OPEN = ("P1", "P2 helps", "P2 restores")


def _count(results: Results) -> str:
    sizes = [len(one) for one in results.hits("dense", 0.0, "pruned", "source")]
    others = [len(one) for one in results.hits("dense", 0.0, "pruned", "transfer")]
    return f"{len(results.seeds)} seeds, n = {sum(sizes)} (source) and {sum(others)} (transfer) test examples in all."


def findings(settings: Any, results: Results, tested: Table) -> list[tuple[str, str]]:
    """States what was found, whichever way it came out, in sentences made from the verdicts."""
    first = [one["pretrained"]["accuracy"] for one in results.metrics("dense", 0.0) if "pretrained" in one]
    own = (
        f"Its own classifier tells all classes apart with {percent(float(np.mean(first)))} accuracy; w"
        if first
        else "W"
    )
    dense = [
        f"{percent(results.accuracy('dense', 0.0, 'pruned', group).mean)} on {GROUPS[group]} ("
        f"{percent(results.accuracy('dense', 0.0, 'finetuned', group).mean)} once it is fine-tuned)"
        for group in results.groups
    ]
    sentences = [
        (
            "In short.",
            f"Pruned with data of {settings.source} only, the network stays within {100 * settings.margin:g} points of "
            f"the dense one on that task {_furthest(results, tested, 'P1 source')}, and on tasks it was never shown "
            f"{_furthest(results, tested, 'P1 transfer')}. Fine-tuned on {settings.source} alone, it is that close "
            f"again on the tasks never shown {_furthest(results, tested, 'P2 restores transfer')}.",
        ),
        (
            "The dense network.",
            f"{own}ith the frozen heads it reaches {', '.join(dense)} ({len(results.seeds)} seeds)."
            f"{few_seeds(len(results.seeds))}",
        ),
    ]
    within = f"shown to stay within {100 * settings.margin:g} points of dense"
    for group in results.groups:
        text = f"Pruned and not fine-tuned, accuracy is {within} {_reaches(results, tested, f'P1 {group}')}."
        sentences.append((f"P1, {GROUPS[group]}.", text))
    for group in results.groups:
        if group.startswith("source"):
            continue
        rows = tested[(tested.claim == f"P2 helps {group}") & (tested.score != "random")]
        text = (
            f"Fine-tuning on {settings.source} alone {_tally(rows)}. After it, accuracy is {within} "
            f"{_reaches(results, tested, f'P2 restores {group}')}. Against the dense network fine-tuned equally "
            f"long, it is {within.replace('dense', 'it')} {_reaches(results, tested, f'P2 control {group}')}."
        )
        sentences.append((f"P2, {GROUPS[group]}.", text))
    return [*sentences, *_order_on_transfer(results)]


def _furthest(results: Results, tested: Table, claim: str) -> str:
    limits = {score: reach(tested, claim, score) for score in results.scores if score != "random"}
    best = max((limit for limit in limits.values() if limit is not None), default=None)
    if best is None:
        return "at no sparsity that was tried"
    return f"up to {percent(best)} sparsity (by {joined([label(score) for score in limits if limits[score] == best])})"


def _reaches(results: Results, tested: Table, claim: str) -> str:
    found = {score: reach(tested, claim, score) for score in results.scores}
    limits: dict[float, list[str]] = {}
    for score, limit in found.items():
        if limit is not None:
            limits.setdefault(limit, []).append(label(score))
    named = [f"up to {percent(limit)} sparsity by {joined(limits[limit])}" for limit in sorted(limits, reverse=True)]
    never = [label(score) for score, limit in found.items() if limit is None]
    lowest = percent(results.sparsities[0])
    if not named:
        return f"by no score, even at {lowest}"
    return ", ".join(named) + (f"; not even at {lowest} by {joined(never)}" if never else "")


def _tally(rows: Table) -> str:
    counts = rows.verdict.value_counts()
    helped = rows[rows.verdict == "holds"]
    where = ""
    if len(helped):
        where = f" (at sparsities from {percent(helped.sparsity.min())} to {percent(helped.sparsity.max())})"
    return (
        f"is shown to help in {counts.get('holds', 0)} of {len(rows)} cases{where} and to harm in "
        f"{counts.get('does not hold', 0)}; {counts.get('undecided', 0)} are undecided, and in "
        f"{counts.get('undecided (floor)', 0)} neither side can be told from chance"
    )


def _order_on_transfer(results: Results) -> list[tuple[str, str]]:
    measured = results.accuracies
    here = (measured["head"] == "frozen") & (measured.stage == "pruned") & ~measured.score.isin(["dense", "random"])
    means = measured[here].pivot_table(index="score", columns="group", values="accuracy")
    if len(means) < 2:
        return []
    orders = [
        f"on {GROUPS[group]} " + ", ".join(f"{label(str(score))} {percent(value)}" for score, value in order.items())
        for group in ("source", "transfer")
        for order in [means[group].sort_values(ascending=False)]
    ]
    text = f"Averaged over all sparsities, before fine-tuning: {'; '.join(orders)}."
    return [("What a score looks at.", text)]


def _verdict_tables(page: report.Page, tested: Table) -> None:
    for claim, rows in tested.groupby("claim", sort=False):
        # The two questions of the paper lie open; what belongs to them can be unfolded.
        folded = str(claim) not in {f"{start} {group}" for start in _OPEN for group in ("source", "transfer")}
        verdict_table(page, rows, "score", "sparsity", label=label, head=percent, folded=folded)


def _accuracy_table(page: report.Page, results: Results) -> None:
    meanings = {
        "frozen": "Zero-shot: heads fitted on dense features, then frozen",
        "refitted": "Heads refitted on the features of each network: what is still there to be read; not zero-shot",
    }
    for head, meaning in meanings.items():
        rows, last = [], ""
        for (score, sparsity), cells in by_cell(results.accuracies[results.accuracies["head"] == head]):
            numbers = cells.set_index(["group", "stage"])
            shown = [_pair(numbers.loc[group]) for group in results.groups]
            rows.append(["" if score == last else label(str(score)), percent(sparsity), *shown])
            last = score
        caption = f"{meaning}. Accuracy in percent, pruned → fine-tuned; hover for intervals."
        page.table(caption, ["", "sparsity", *results.groups], rows, folded=True)


def _pair(stages: Table) -> Cell:
    values = [stages.loc[stage] for stage in STAGES]
    hint = "; ".join(f"95 % interval {100 * one.low:.1f} to {100 * one.high:.1f}, n = {one.n:.0f}" for one in values)
    return Cell(" → ".join(f"{100 * one.accuracy:.1f}" for one in values), "", hint)


def _method(page: report.Page, settings: Any, results: Results) -> None:
    first = results.records[0]
    statistics = "were re-estimated after pruning" if settings.recalibrate else "stay"
    pruning = "one-shot" if settings.rounds == 1 else f"{settings.rounds} rounds, scored anew in each"
    leaks = [("Leak.", leak) for leak in PROTOCOLS[settings.protocol]]
    skipped = first["metrics"].get("skipped", {}).items()
    left_out = [
        ("Left out.", f"{counted(count, 'image')} of {name} could not be read, or are hidden.")
        for name, count in skipped
    ]
    page.section("How it was done")
    page.points(
        {
            "Network.": f"{pages.network(settings, results.data)} Every kernel but the classifier's is prunable "
            f"({len(first['metrics']['layer_sparsity'])} kernels).",
            "Splits.": pages.splits(settings, first["metrics"].get("separate_tests", False), settings.protocol),
            "Heads.": f"A {settings.head} head is fitted for each task on features of the dense network, then frozen; "
            "its penalty is chosen on the selection split. That is what zero-shot means here.",
            "Pruning.": f"Global, {pruning}, by scores of the {settings.loss.replace('_', ' ')} of the source task "
            "through its frozen head, on the scoring split.",
            "Hessian block.": "The exact Hessian of all weights into one unit. Quadratic: |w (Hw)| / 2, ranked by "
            f"size. Surgeon: w² / 2[H⁻¹]jj, damped by {settings.damping:g} of the mean diagonal, without update of "
            "the other weights. The paper's own block score could not be had; neither form is called the paper's.",
            "Fine-tuning.": f"{settings.finetune_steps} steps of {_OPTIMIZERS[settings.protocol]}, "
            f"{pages.rate(settings)}, on the source task through its frozen head, which is not "
            f"trained; BatchNorm statistics {statistics}.",
            "Intervals.": "Two-level bootstrap over seeds and test examples, paired in comparisons; shifted copies of "
            f"one image count once. {len(results.seeds)} seeds are few: the intervals are somewhat too narrow.",
            "Source.": "Iurada, Occhiena and Tommasi (2025), A Second-Order Perspective on Pruning at Initialization "
            "and Knowledge Transfer, arXiv 2509.24066. Protocol, data and network are ours.",
        }
    )
    page.points([*leaks, *left_out])


_OPTIMIZERS = {"leak-free": "Adam", "public-proxy": "SGD with momentum and weight decay"}


def summary(settings: Any, results: Results, tested: Table) -> Printed:
    """Makes the main table, for the console."""
    del settings, tested
    rows = results.accuracies
    rows = rows[rows["head"] == "frozen"]
    shown = ("source", "transfer")
    table = Printed(title="Zero-shot accuracy (%): pruned → fine-tuned on the source")
    table.add_column("score")
    table.add_column("sparsity", justify="right")
    for group in shown:
        table.add_column(group, justify="right")
    for (score, sparsity), cells in by_cell(rows):
        value = cells.set_index(["group", "stage"]).accuracy
        cell = [" → ".join(f"{100 * value[group, stage]:5.1f}" for stage in STAGES) for group in shown]
        table.add_row(label(str(score)), percent(sparsity), *cell)
    return table
