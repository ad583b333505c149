"""The page of the landscape study: what was found, with its figures and tables."""

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.landscape import figures
from experiments.landscape.results import STAGE_NAMES, TASKS, Results, curves, spectra
from experiments.shared import pages
from experiments.shared.pages import chosen, counted, joined, percent, verdict_table
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
    title, first, *others = "The loss around a pruned network", *_figures(settings, results)
    said, warned = opening(settings, results, tested), notices(results)
    page = pages.begun(title, said, results.seeds, warned, first[1](results), first[2])
    pages.claims_table(page, tested)
    _verdicts(page, tested, first[0])
    for heading, drawing, caption in others:
        page.section(heading)
        page.drawing(drawing(results), caption)
        _verdicts(page, tested, heading)
    page.section("All numbers")
    _spectra_table(page, measured)
    _method(page, settings, results)
    return page


def _verdicts(page: report.Page, tested: Table, heading: str) -> None:
    for claim in _CLAIMS.get(heading, ()):
        verdict_table(page, tested[tested.claim == claim], "network", "where", label=label)


_CLAIMS = {
    "Do the two tasks agree about the sharpest directions?": ("alignment", "tasks differ"),
    "How sharp is the loss?": ("sharper than dense",),
    "Does pruning remove what is flat?": ("flat directions",),
    "Does a Taylor expansion predict the damage?": ("second order",),
    "Are there barriers between the networks?": ("no barrier",),
}
"""The claims that belong under each figure."""


Figure = tuple[str, Callable[[Results], Any], str]
"""The heading, what draws, and the caption."""


def _figures(settings: Any, results: Results) -> list[Figure]:
    return [*_curvature(settings, results), *_losses(settings, results)]


def _curvature(settings: Any, results: Results) -> list[Figure]:
    seeds, dashes = _seeds(results), f"Dashes: each seed. {results.count}"
    matrix = _MATRICES[settings.matrix]
    return [
        (
            "How sharp is the loss?",
            figures.spectra,
            f"The {settings.count} largest eigenvalues of the {matrix} of the loss, in the prunable weights that each "
            f"network has: a pruned network has fewer directions. {seeds}",
        ),
        (
            "The whole spectrum",
            figures.densities,
            f"Density of the eigenvalues, by stochastic Lanczos quadrature with {settings.probes} random vectors and "
            f"{settings.steps} steps, smoothed by a Gaussian of 1 % of the width of the spectrum: a peak narrower than "
            f"that is not resolved. A line for each seed; eigenvalues on a scale that is linear between −1 and 1. "
            f"{results.count}",
        ),
        (
            "Do the two tasks agree about the sharpest directions?",
            figures.alignment,
            f"Mean squared cosine of the principal angles between the top {settings.count} eigenvectors on the source "
            "and those on the transfer task (filled), or on other images of the source (open): what the sampling of "
            f"images leaves. Dotted: two random subspaces, {settings.count} / number of weights. {dashes}",
        ),
        (
            "Does pruning remove what is flat?",
            figures.removed,
            f"Mean curvature (trace of the {matrix} / number of weights, by {settings.trace_probes} random vectors) of "
            f"the dense network in all prunable weights, and in those that each method removes. {dashes}",
        ),
    ]


def _losses(settings: Any, results: Results) -> list[Figure]:
    seeds, matrix = _seeds(results), _MATRICES[settings.matrix]
    return [
        (
            "Does a Taylor expansion predict the damage?",
            figures.paths,
            "Change of the loss on the straight way from the dense network to the pruned one: measured, and predicted "
            f"at the dense network by the gradient (first order) and with the {matrix} (second order). A prediction "
            f"that leaves the figure is more than about twice too large. {seeds}",
        ),
        (
            "Slices of the loss",
            figures.lines,
            "Loss along random directions in which every filter is as long as the network's (biases and BatchNorm do "
            "not move, nor do pruned weights), averaged over the two directions of the figure below. Networks of "
            f"different sparsity move different numbers of weights. {seeds}",
        ),
        (
            "Slices in two directions",
            figures.planes,
            f"Loss of the fine-tuned networks over two such directions; the cross is the network. Mean of "
            f"{counted(len(results.seeds), 'seed')}, each with its own directions; the levels are those of all panels. "
            f"{results.count}",
        ),
        (
            "Are there barriers between the networks?",
            figures.barriers,
            "Loss on the straight way between two networks, with BatchNorm statistics of its own at every point (the "
            "ends included, so that losses differ a little from those above). By fine-tuning: from pruned to "
            "fine-tuned. Other data order: between two fine-tunings of one pruned network. To dense fine-tuned: from "
            f"the dense network, fine-tuned equally long, to the pruned and fine-tuned one. {seeds}",
        ),
    ]


_MATRICES = {"hessian": "Hessian", "ggn": "generalised Gauss-Newton matrix"}


def _seeds(results: Results) -> str:
    return f"Thin: each seed; thick: their mean. {results.count}"


# ------------------------------------------------------------------------------------------------------ what was found


def opening(settings: Any, results: Results, tested: Table) -> str:
    """Says what was asked and what was found, whichever way it came out, in sentences made from the verdicts."""
    said = {
        "sharper than dense": "is sharper than the dense one fine-tuned alike",
        "alignment": f"shares more than chance of its top {settings.count} directions between source and transfer",
        "no barrier": "has no barrier",
    }
    found = [f"it {text} in {_share(tested[tested.claim == claim])}" for claim, text in said.items()]
    return (
        f"A network pretrained on {pages.pretraining(settings)} is pruned to {chosen(settings.sparsity)} sparsity and "
        f"fine-tuned with data of {settings.source} only. How does the loss look around it, there and on "
        f"{settings.transfer}, which it was never shown? It is shown that {joined(found)}. "
        "The sections say of each method where."
    )


def _share(rows: Table) -> str:
    held = int((rows.verdict == "holds").sum())
    return f"{held} of {counted(len(rows), 'case')}" if len(rows) else "no case"


def notices(results: Results) -> list[str]:
    """Says what a reader must know before any number: of a control that fails."""
    changes = {}
    for task, meaning in TASKS.items():
        before, after = (
            results.each("dense", lambda one, s=stage, t=task: one["accuracy"][s][t]) for stage in STAGE_NAMES
        )
        changes[meaning] = results.interval(after - before)
    return [pages.tuned(changes)]


# ------------------------------------------------------------------------------------------------------------- tables


def _spectra_table(page: report.Page, measured: Table) -> None:
    rows = []
    for (method, stage, task), cells in measured.groupby(["method", "stage", "task"], sort=False):
        mean = cells.mean(numeric_only=True)
        error = float(np.sqrt(np.mean(cells.standard_error**2)))
        rows.append(
            [
                label(str(method)),
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
    network = pages.network(settings, results.records[0]["data"], results.metrics("dense"))
    page.section("How it was done")
    page.points(
        {
            "Networks.": f"{network} Pruned by one mask per method, "
            f"global over all kernels but the classifier's; fine-tuned for {settings.finetune_steps} steps of "
            f"Adam on the source through its frozen head, {pages.rate(settings)}. Controls: a random mask of equal "
            "sparsity, and the dense network fine-tuned alike.",
            "Splits.": pages.splits(settings),
            "Loss.": f"The {settings.label_loss.replace('_', ' ')} through the frozen head of each task, on its "
            "part of the scoring split. On the source, methods that look at data were computed from these very "
            "images; on the transfer task nothing was. The control of the alignment uses the images that fitted the "
            "source's head.",
            "Curvature.": "Exact products of the mean loss in evaluation mode, restricted to the prunable weights "
            f"that a network has. Lanczos with full reorthogonalisation, {settings.steps} steps; traces by "
            "Hutchinson's estimator. Sharpness changes with the scale of the weights even where the function does not "
            "(Dinh et al. 2017, arXiv 1703.04933): of networks on other scales it is no measure of quality.",
            "Barriers.": "Largest loss above the chord between the ends, inside the path. BatchNorm statistics of "
            "every point are those of its own activations on all images of one split (that of the pretraining, if "
            "there is one), in one batch, so they are exact.",
            "Verdicts.": "A claim holds where its whole interval does, does not hold where none of it does, and is "
            "else undecided. Intervals of 95 %: Student's t over seeds, one number each.",
            "Sources.": "Slices: Li et al. (2018), arXiv 1712.09913. Density: Ghorbani et al. (2019), arXiv "
            "1901.10159. Barriers: Frankle et al. (2020), arXiv 1912.05671; recalibrated as in Jordan et al. (2023), "
            "arXiv 2211.08403. Alignment: Gur-Ari et al. (2018), arXiv 1812.04754.",
        }
    )
