"""The page of the landscape study: what was found, with its figures and tables."""

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.landscape import figures
from experiments.landscape.results import STAGE_NAMES, TASKS, Results, curves, spectra
from experiments.shared import pages
from experiments.shared.pages import few_seeds, joined, percent, verdict_table
from experiments.shared.results import Table
from experiments.shared.styles import label
from jaxprune import report


def tables(settings: Any, results: Results, tested: Table) -> dict[str, Table]:
    """Makes the tables beside the verdicts."""
    del settings, tested
    return {"spectra": spectra(results.records), "curves": curves(results)}


def compose(settings: Any, results: Results, tested: Table) -> report.Page:
    """Puts the page together."""
    measured = spectra(results.records)
    page = report.Page(
        "The loss around a pruned network",
        f"A network pretrained on {pages.pretraining(settings)} is pruned to {percent(settings.sparsity)} sparsity "
        f"and fine-tuned with data of one task only (source: {settings.source}). How does the loss look around it, on "
        f"that task and on one that it was never shown (transfer: {settings.transfer})?",
    )
    page.section("What was found")
    page.points(findings(settings, results, tested, measured))
    for heading, drawing, caption in _figures(settings, results):
        page.section(heading)
        page.drawing(drawing(results), caption)
        for claim in _CLAIMS.get(heading, ()):
            rows = tested[tested.claim == claim]
            verdict_table(page, rows, "network", "where", label=label, shown=lambda row: f"{row.mean:.3g}")
    page.section("All numbers")
    _spectra_table(page, measured)
    _method(page, settings, results)
    return page


_CLAIMS = {
    "Do the two tasks agree about the sharpest directions?": ("alignment", "tasks differ"),
    "How sharp is the loss?": ("sharper than dense",),
    "Does pruning remove what is flat?": ("flat directions",),
    "Does a Taylor expansion predict the damage?": ("second order",),
    "Are there barriers between the networks?": ("no barrier",),
}
"""The claims that belong under each figure."""


def _figures(settings: Any, results: Results) -> list[tuple[str, Callable[[Results], Any], str]]:
    drawn, seeds = figures, _seeds(results)
    matrix = {"hessian": "Hessian", "ggn": "generalised Gauss-Newton matrix"}[settings.matrix]
    return [
        (
            "How sharp is the loss?",
            drawn.spectra,
            f"The {settings.count} largest eigenvalues of the {matrix} of the loss, in the prunable weights that each "
            f"network has: a pruned network has fewer directions. {seeds}",
        ),
        (
            "The whole spectrum",
            drawn.densities,
            f"Density of the eigenvalues, by stochastic Lanczos quadrature with {settings.probes} random vectors and "
            f"{settings.steps} steps, smoothed by a Gaussian of 1 % of the width of the spectrum: a peak narrower than "
            f"that is not resolved. A line for each of {len(results.seeds)} seeds; eigenvalues on a scale that is "
            "linear between −1 and 1.",
        ),
        (
            "Do the two tasks agree about the sharpest directions?",
            drawn.alignment,
            f"Mean squared cosine of the principal angles between the top {settings.count} eigenvectors on the source "
            "and those on the transfer task (filled), or on other images of the source (open): what the sampling of "
            f"images leaves. Dotted: two random subspaces, {settings.count} / number of weights. {seeds}",
        ),
        (
            "Does pruning remove what is flat?",
            drawn.removed,
            f"Mean curvature (trace of the {matrix} / number of weights, by {settings.trace_probes} random vectors) of "
            f"the dense network in all prunable weights, and in those that each score removes. {seeds}",
        ),
        (
            "Does a Taylor expansion predict the damage?",
            drawn.paths,
            "Change of the loss on the straight way from the dense network to the pruned one: measured, and predicted "
            f"at the dense network by the gradient (first order) and with the {matrix} (second order). A prediction "
            f"that leaves the figure is more than about twice too large. {seeds}",
        ),
        (
            "Slices of the loss",
            drawn.lines,
            "Loss along random directions in which every filter is as long as the network's (biases and BatchNorm do "
            "not move, nor do pruned weights), averaged over the two directions of the figure below. Networks of "
            f"different sparsity move different numbers of weights. {seeds}",
        ),
        (
            "Slices in two directions",
            drawn.planes,
            f"Loss of the fine-tuned networks over two such directions; the cross is the network. Mean of "
            f"{len(results.seeds)} seeds, each with its own directions; the levels are the same in all panels.",
        ),
        (
            "Are there barriers between the networks?",
            drawn.barriers,
            "Loss on the straight way between two networks, with BatchNorm statistics of its own at every point (the "
            "ends included, so that losses differ a little from those above). By fine-tuning: from pruned to "
            "fine-tuned. Other data order: between two fine-tunings of one pruned network. To dense fine-tuned: from "
            f"the dense network, fine-tuned equally long, to the pruned and fine-tuned one. {seeds}",
        ),
    ]


def _seeds(results: Results) -> str:
    bands = "Bands and bars are 95 % bootstrap intervals over seeds"
    return f"{bands} (for few seeds: from the least to the most). {len(results.seeds)} seeds."


# ----------------------------------------------------------------------------------------------------- what was found


def findings(settings: Any, results: Results, tested: Table, measured: Table) -> list[tuple[str, str]]:
    """States what was found, whichever way it came out, in sentences made from the verdicts."""
    sentences = [("The networks.", _accuracies(results, measured) + few_seeds(len(results.seeds)))]
    spoken = {
        "sharper than dense": ("Sharpness.", "The largest eigenvalue of a network pruned and fine-tuned is above that "
                               "of the dense one fine-tuned equally long"),
        "alignment": ("Shared directions.", f"Source and transfer share more of their top {settings.count} directions "
                      "than chance"),
        "tasks differ": ("Directions of their own.", "Source and transfer share less than the source shares with "
                         "itself on other images"),
        "flat directions": ("What is removed.", "A score removes weights that are flatter, on average, than those a "
                            "random mask removes"),
        "second order": ("Prediction.", "The second order predicts the change of the loss better than the first"),
        "no barrier": ("Barriers.", f"The loss rises by less than {percent(settings.margin)} between two networks"),
    }  # fmt: skip
    for claim, (lead, text) in spoken.items():
        rows = tested[tested.claim == claim]
        if len(rows):
            sentences.append((lead, f"{text}{_extra(claim, results)}: {_tally(rows)}."))
    return sentences


def _accuracies(results: Results, measured: Table) -> str:
    means = measured.groupby(["score", "stage", "task"]).accuracy.mean()
    parts = []
    for score in results.networks:
        pairs = [
            " → ".join(percent(means[score, stage, task]) for stage in STAGE_NAMES) + f" on {task}" for task in TASKS
        ]
        parts.append(f"{label(score)} {' and '.join(pairs)}")
    return (
        "Accuracy through the frozen heads, on the images that the loss is measured on, pruned → fine-tuned: "
        f"{'; '.join(parts)}."
    )


def _extra(claim: str, results: Results) -> str:
    if claim not in ("alignment", "tasks differ"):
        return ""
    of = "transfer" if claim == "alignment" else "other images"
    means = [float(np.mean(results.overlap(score, stage, of))) for score in results.networks for stage in STAGE_NAMES]
    other = ""
    if claim == "alignment":
        chances = [
            float(np.mean(results.overlap(score, stage, of, "chance")))
            for score in results.networks
            for stage in STAGE_NAMES
        ]
        other = f", chance {min(chances):.2g} to {max(chances):.2g}"
    return f" (overlap {min(means):.2f} to {max(means):.2f}{other})"


def _tally(rows: Table) -> str:
    parts = []
    for verdict, meaning in {"holds": "holds", "does not hold": "does not hold", "undecided": "undecided"}.items():
        here = rows[rows.verdict == verdict]
        if len(here) == len(rows):
            return f"{meaning} in all {len(rows)} cases"
        if len(here):
            parts.append(f"{meaning} in {len(here)} of {len(rows)} cases ({_named(here)})")
    return ", ".join(parts)


def _named(rows: Table) -> str:
    if len(rows) > 6:
        return f"{joined([label(score) for score in rows.network.unique()])}; see its table"
    return "; ".join(f"{label(row.network)}: {row.where}" for row in rows.itertuples())


# ------------------------------------------------------------------------------------------------------------- tables


def _spectra_table(page: report.Page, measured: Table) -> None:
    rows = []
    for (score, stage, task), cells in measured.groupby(["score", "stage", "task"], sort=False):
        mean = cells.mean(numeric_only=True)
        error = float(np.sqrt(np.mean(cells.standard_error**2)))
        rows.append(
            [
                label(str(score)),
                STAGE_NAMES[str(stage)],
                str(task),
                f"{mean.weights:.0f}",
                percent(mean.accuracy),
                f"{mean.loss:.3f}",
                f"{mean.eigenvalue_1:.3g}",
                f"{mean.lowest:.3g}",
                f"{mean.trace:.3g} ± {error:.2g}",
                f"{cells.largest_residual.max():.1g}",
            ]
        )
    header = ["", "stage", "task", "weights", "accuracy", "loss", "largest", "lowest", "trace", "residual"]
    page.table(
        "Means over seeds. Largest and lowest eigenvalue (the lowest as found for the density); trace with its "
        "standard error in one seed; the largest residual |Mv − λv| among the eigenpairs of any seed.",
        header,
        rows,
        folded=True,
    )


def _method(page: report.Page, settings: Any, results: Results) -> None:
    page.section("How it was done")
    page.points(
        {
            "Networks.": f"{pages.network(settings, results.records[0]['data'])} Pruned by one mask per score, "
            f"global over all kernels but the classifier's; fine-tuned for {settings.finetune_steps} steps of "
            f"Adam on the source through its frozen head, {pages.rate(settings)}. Controls: a random mask of equal "
            "sparsity, and the dense network fine-tuned equally long.",
            "Splits.": pages.splits(settings),
            "Loss.": f"The {settings.loss.replace('_', ' ')} through the frozen head of each task, on its part of the "
            "scoring split. On the source, scores that look at data were computed from these very images; on the "
            "transfer task nothing was. The control of the alignment uses the images that fitted the source's "
            "head.",
            "Curvature.": "Exact products of the mean loss in evaluation mode, restricted to the prunable weights "
            f"that a network has. Lanczos with full reorthogonalisation, {settings.steps} steps; traces by "
            "Hutchinson's estimator. Sharpness changes with the scale of the weights even where the function does not "
            "(Dinh et al. 2017, arXiv 1703.04933): of networks on other scales it is no measure of quality.",
            "Barriers.": "max over the path of the loss above the chord between its ends. BatchNorm statistics of "
            "every point are those of its own activations on all images of one split (that of the pretraining, if "
            "there is one), in one batch, so they are exact.",
            "Verdicts.": "A claim holds where its whole interval does, does not hold where none of it does, and is "
            f"else undecided. Intervals are over {len(results.seeds)} seeds alone, which are few: they are too narrow. "
            "Every case stands for itself: nothing is corrected for the number of comparisons.",
            "Sources.": "Slices: Li et al. (2018), arXiv 1712.09913. Density: Ghorbani et al. (2019), arXiv "
            "1901.10159. Barriers: Frankle et al. (2020), arXiv 1912.05671; recalibrated as in Jordan et al. (2023), "
            "arXiv 2211.08403. Alignment: Gur-Ari et al. (2018), arXiv 1812.04754.",
        }
    )
