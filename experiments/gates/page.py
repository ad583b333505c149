"""The page of the study of gates: what was found, with its figure and tables."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.gates.arms import DISTANCES, METHODS
from experiments.gates.results import PART, best, divergences, place
from experiments.shared import pages
from experiments.shared.pages import chosen, counted, percent, verdict_table
from experiments.shared.results import GROUPS, Results, Table, hits, interval
from experiments.shared.styles import dots, label, panels
from jaxprune import report, stats

_DISTANCES = {"squared": "the squared distance", "kl": "KL"}
_STAGES = {"pruned": "pruned", "finetuned": "fine-tuned"}


def compose(settings: Any, results: Results, tested: Table) -> report.Page:
    """Puts the page together."""
    lead = (
        f"{_who(settings, results)}, chosen with images of {settings.source} alone. Is it better to judge all gates "
        "jointly, by the exact Hessian of the distance to the dense network, than unit by unit? "
        f"{_found(settings, results)}"
    )
    caption = (
        f"Above: KL to the dense network; middle and below: accuracy with the frozen head of each task, pruned and "
        f"fine-tuned on the source. Re-adjusted by the Hessian of {_DISTANCES[settings.distances[0]]}; dashed: dense. "
        f"Bars are intervals of 95 %. {results.count(GROUPS)}"
    )
    tuned = [pages.tuned({one: results.change(hits, one, method="dense") for one in GROUPS})]
    made = pages.begun("Gates, jointly or one by one?", lead, results.seeds, tuned, curves(settings, results), caption)
    pages.claims_table(made, tested)
    made.section("Every network")
    for group in GROUPS:
        _numbers(made, settings, results, group)
    made.section("Every verdict")
    if tested.empty:
        made.text("No two of these methods are compared by a claim.")
    for (_, distance), rows in () if tested.empty else tested.groupby(["claim", "distance"], sort=False):
        rows = rows.assign(claim=f"{rows.claim.iloc[0]}, {_DISTANCES[distance]}")
        verdict_table(made, rows, "method", "share", label=label, head=chosen)
    made.section("How it was done")
    made.points(_method(settings) | pages.done(settings, results))
    return made


def _who(settings: Any, results: Results) -> str:
    """Says what loses which units."""
    data = pages.pretraining(settings)
    if settings.network:
        return f"A network trained on {data} loses units that are found in its program"
    right = float(np.mean([one["pretrained"]["accuracy"] for one in results.of(method="dense")]))
    return f"A ViT trained on {data} ({percent(right)} of test images right) loses attention heads and hidden units"


def _found(settings: Any, results: Results) -> str:
    """Says how far the joint choice and the best other one are from the dense network where most units are gone."""
    distance, share = settings.distances[0], max(settings.shares)
    joint, others, words = best(settings, results, distance, share)
    if not joint:
        return "There is nothing to compare."
    far = [
        " and ".join(f"{np.mean([divergences(one, group).mean() for one in side]):.2g}" for group in GROUPS)
        for side in (joint, others)
    ]
    return (
        f"With {chosen(share)} of the units gone, and the others re-adjusted, KL to dense is {far[0]} nats on the "
        f"source and on tasks never shown by the joint choice, {far[1]} by the best of the others "
        f"({pages.joined([label(one) for one in words.split(', ')])}, by selection images)."
    )


def divergence(results: Results, group: str, **cell: Any) -> stats.Interval:
    """Returns the mean divergence of a cell, in nats, with its interval."""
    return interval([divergences(one, group) for one in results.of(**cell)], results.examples(group))


def accuracy(results: Results, group: str, stage: str, **cell: Any) -> stats.Interval:
    """Returns the accuracy of a cell before or after fine-tuning with its interval."""
    return results.accuracy(lambda metrics, at: hits(metrics, at, stage), group, **cell)


def curves(settings: Any, results: Results) -> Figure:
    """Draws, against the share of units that is gone, the divergence and the accuracies; re-adjusted methods alone."""
    rows = ("KL to dense, nats", *(f"accuracy, {name}" for name in _STAGES.values()))
    words = [one for one in settings.methods if METHODS[one].update != "none"]
    with report.figure(9.5, 8.4) as drawn:
        for axis, row, group in panels(drawn, rows, GROUPS, xlabel="units removed (%)", sharex=True, sharey="row"):
            stage = dict(zip(rows[1:], _STAGES, strict=True)).get(row)
            for number, word in enumerate(words):
                shares = [s for s in settings.shares if results.of(**place(word, settings.distances[0], s))]
                cells = [place(word, settings.distances[0], share) for share in shares]
                found = [
                    accuracy(results, group, stage, **one) if stage else divergence(results, group, **one)
                    for one in cells
                ]
                # Colours that come twice have another line the second time.
                line = "s:" if number >= len(report.COLOURS) else "o--" if word.endswith("+rounds") else "o-"
                look = {"line": line, "markersize": 3.5, "linewidth": 1.4}
                color = report.COLOURS[number % len(report.COLOURS)] if METHODS[word].score != "random" else "#8a8578"
                if found:
                    dots(axis, [100 * one for one in shares], found, **look, color=color, label=label(word))
            if stage:
                dense = accuracy(results, group, stage, method="dense").mean
                axis.axhline(dense, color="#2b2922", linestyle="--", linewidth=1)
            else:
                axis.set_yscale("log", nonpositive="clip")
        drawn.legend(*drawn.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return drawn


def _numbers(page: report.Page, settings: Any, results: Results, group: str) -> None:
    """Adds a table of every cell on a group: divergence, and accuracy before and after fine-tuning."""
    rows = []
    for word in settings.methods:
        for distance in settings.distances:
            cells = [place(word, distance, share) for share in settings.shares]
            if not results.of(**cells[0]) or cells[0]["distance"] != distance != settings.distances[0]:
                continue  # of what depends on no distance there is one row
            shown = []
            for cell in cells:
                before, after = (accuracy(results, group, stage, **cell).mean for stage in _STAGES)
                note = f"{100 * before:.1f} → {100 * after:.1f} %"
                shown.append(report.Cell(f"{divergence(results, group, **cell).mean:.3g}", "", note))
            rows.append([label(word), cells[0]["distance"], *shown])
    caption = f"KL to dense on {group}, in nats; below it accuracy in percent, pruned → fine-tuned. Means."
    page.table(caption, ["", "distance", *map(chosen, settings.shares)], rows, folded=True)


def _method(settings: Any) -> dict[str, str]:
    distances = " or ".join(_DISTANCES[one] for one in settings.distances)
    return {
        "Jointly.": f"The exact Hessian of {distances} to the dense network's outputs, by all gates at once: the unit "
        "whose removal costs least with all others re-adjusted goes, then the next (jp.structured.prune_jointly).",
        "One by one.": "The diagonal of that Hessian; of the labelled loss through the source's frozen head, second "
        "order, empirical Fisher and size of the slope (Taylor); norm of the kernels; mean activation; chance. Global, "
        "normalised or uniform: for each network the allocation nearest to dense on selection images.",
        "Re-adjusted.": "Kept gates are moved by the same joint Hessian and folded into the kernels that read them.",
        "Rounds.": f"In {counted(settings.rounds, 'round')}, each with the Hessian and slope where the network stands.",
        "A third.": f"The best re-adjusted choice one by one, by selection images, has {PART} times the KL or more.",
    }


assert set(_DISTANCES) == set(DISTANCES)
