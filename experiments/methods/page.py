"""The page of the study of methods."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.methods import results as numbers
from experiments.methods.arms import ARMS
from experiments.methods.results import OURS, STAGES, TWIN
from experiments.shared import pages
from experiments.shared.pages import chosen, percent
from experiments.shared.results import Results, Table
from jaxprune import report
from jaxprune.report import Cell


def label(word: str) -> str:
    """What figures and tables call a method."""
    return ARMS[word].label if word in ARMS else word


def compose(settings: Any, results: Results, tested: Table) -> report.Page:
    """Puts the page together."""
    found = numbers.table(results)
    page = pages.begun(
        "Which method prunes best?",
        _opening(settings, results, found),
        results.seeds,
        [],
        _losses(results, found),
        "Points of accuracy lost against the dense network of the same seed, as it stands (left) and after "
        "fine-tuning on "
        f"the same images. Bars are intervals of 95 % that hold for all methods at once. {_count(results)}",
    )
    pages.claims_table(page, tested)
    for stage, said in STAGES.items():
        page.section(f"Points lost, {said}")
        page.table(
            "Against the dense network of the same seed; below, intervals of 95 % for all methods at once.",
            ["", *map(chosen, numbers.sparsities(results))],
            [[label(word), *_row(results, found, word, stage)] for word in numbers.words(results)],
        )
    page.section("What it takes, and what is predicted of it")
    page.drawing(
        _predicted(results),
        "The divergence from the dense network on the images that all methods have: measured, against the quadratic "
        "model "
        "(left) and the divergence of the linearised network's outputs (right). The line is equality.",
    )
    _cost_table(page, results, found)
    page.section("Every verdict")
    for _, rows in tested.groupby("claim", sort=False):
        pages.verdict_table(page, rows, "method", "sparsity", label=label, head=chosen)
    _method(page, settings, results)
    return page


def _opening(settings: Any, results: Results, found: Table) -> str:
    dense = numbers.accuracy(results, "dense", 0.0, "pruned").mean
    shown = [one for one in (0.8, 0.9) if one in numbers.sparsities(results)] or numbers.sparsities(results)[-1:]
    parts = []
    for sparsity in shown:
        here = found[(found.stage == "pruned") & (found.sparsity == sparsity)].set_index("method")
        best, magnitude = here.lost.idxmin(), here.lost.get("magnitude")
        beside = "" if magnitude is None else f" (magnitude {100 * magnitude:.1f})"
        parts.append(f"at {chosen(sparsity)} {label(str(best))}, {100 * here.lost.min():.1f} points{beside}")
    return (
        f"A network that gets {percent(dense)} of {settings.data} right is pruned by {len(numbers.words(results))} "
        "methods "
        f"with the same {settings.examples} images. What loses least, as it stands: {'; '.join(parts)}."
    )


def _count(results: Results) -> str:
    return f"{len(results.seeds)} seeds; n = {sum(map(len, numbers.tested(results)))} in all."


def _row(results: Results, found: Table, word: str, stage: str) -> list[Cell]:
    rows = found[(found.method == word) & (found.stage == stage)].set_index("sparsity")
    return [
        Cell(f"{100 * one.lost:.1f}", "", f"{100 * one.lost_low:.1f} to {100 * one.lost_high:.1f}")
        for one in (rows.loc[sparsity] for sparsity in numbers.sparsities(results))
    ]


def _losses(results: Results, found: Table) -> Figure:
    """Draws what the methods lose at each sparsity: the best six as they stand, and the two controls."""
    high = numbers.sparsities(results)[-2:]
    here = found[(found.stage == "pruned") & found.sparsity.isin(high)].groupby("method").lost.mean().dropna()
    words = list(here.sort_values().index[:6])
    words += [
        one for one in ("magnitude", "label/diagonal", TWIN) if one in numbers.words(results) and one not in words
    ]
    with report.figure(9.5, 4.2) as drawn:
        axes = drawn.subplots(1, len(STAGES), sharey=True)
        for axis, stage in zip(axes, STAGES, strict=True):
            for place, word in enumerate(words):
                one = found[(found.method == word) & (found.stage == stage)].sort_values("sparsity")
                ends = 100 * np.stack([one.lost - one.lost_low, one.lost_high - one.lost])
                look: dict[str, Any] = {"color": report.COLOURS[place % len(report.COLOURS)], "label": label(word)}
                axis.errorbar(100 * one.sparsity, 100 * one.lost, ends, fmt="o-", markersize=3, capsize=2, **look)
            axis.set(xlabel="sparsity (%)", title=STAGES[stage])
        axes[0].set_ylabel("points lost")
        drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return drawn


def _predicted(results: Results) -> Figure:
    with report.figure(9.5, 4.2) as drawn:
        axes = drawn.subplots(1, 2, sharey=True)
        for axis, name in zip(axes, ("quadratic", "linearised"), strict=True):
            for place, word in enumerate(numbers.words(results)):
                cells = [one["increase"] for one in results.of(method=word)]
                color = report.COLOURS[place % len(report.COLOURS)]
                axis.scatter([one[name] for one in cells], [one["true"] for one in cells], s=8, color=color, alpha=0.7)
            axis.plot([1e-4, 1e2], [1e-4, 1e2], color="#c9c2b1", linewidth=1)
            axis.set(xscale="log", yscale="log", xlabel=f"predicted, {name}")
        axes[0].set_ylabel("measured divergence (nats)")
    return drawn


def _cost_table(page: report.Page, results: Results, found: Table) -> None:
    rows = []
    for word in numbers.words(results):
        here = found[(found.method == word) & (found.stage == "pruned")]
        gradients = "not counted" if here.gradients.isna().all() else f"{here.gradients.max():,.0f}"
        chosen_ = sorted({_said(one["options"]) for one in results.of(method=word) if one["options"]})
        rows.append([label(word), gradients, "; ".join(chosen_[:3]) + (" ..." if len(chosen_) > 3 else "")])
    page.table(
        "The gradients that moving the kept weights took at the highest sparsity, and the options that were chosen.",
        ["", "gradients", "options"],
        rows,
        folded=True,
    )


def _said(options: dict[str, Any]) -> str:
    return (
        f"{options['allocation']}, {'all kernels' if options['first'] else 'all but the first'}, {options['damping']:g}"
    )


def _method(page: report.Page, settings: Any, results: Results) -> None:
    page.section("How it was done")
    page.points(
        {
            "Network.": f"A CIFAR ResNet-{settings.depth} of width {settings.width}, trained on {settings.data} here; "
            "every "
            "kernel but the classifier's is prunable.",
            "Images.": f"Every method has the same {settings.examples} training images; those that read labels are "
            "told "
            "these. Methods with options are tried with each on three quarters of them; the squared distance to the "
            "dense "
            "network on the last quarter chooses, and then the method has all.",
            "Options.": "Zeros shared out globally or in equal shares of every kernel (layerwise methods also by "
            "relative "
            "errors); the first kernel pruned or not, at equal sparsity of the whole; relative damping 0.001, 0.01 "
            "or 0.1. "
            "Thresholding is tried with each damping alone. Rounds have no options, Adam the best of four rates in "
            "every "
            "round.",
            "Rounds.": f"{settings.rounds}, each by the same share of what is left. Adam has the gradients that the "
            "rounds "
            f"took ({label(OURS)}).",
            "Fine-tuning.": f"{settings.finetune_steps} steps of Adam on cross-entropy with the same images, at the "
            "rate "
            "that is best on the selection images.",
            "Baselines.": "Ours, after the papers: Wanda (arXiv 2306.11695), SparseGPT (2301.00774), WoodFisher "
            "(2004.14340), "
            "CHITA (2302.14623). None is the authors' code.",
            "Intervals.": pages.INTERVALS,
        }
    )
