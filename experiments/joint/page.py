"""The page of the study of joint pruning: what was found, with its figures and tables."""

from typing import Any

from rich.console import Group
from rich.table import Table as Printed

from experiments.joint import figures, findings, shapes
from experiments.joint import tables as frames
from experiments.joint.figures import BUDGETS, label
from experiments.joint.page_tables import (
    cost_tables,
    networks_table,
    robustness_tables,
    steps_of,
    steps_table,
    verdict_tables,
)
from experiments.joint.results import Results, grouped
from experiments.joint.settings import quirks
from experiments.shared.pages import DATA, counted, percent, points
from experiments.shared.results import Table
from jaxprune import report


def tables(settings: Any, results: Results, tested: Table) -> dict[str, Table]:
    """Makes the tables beside the verdicts."""
    del tested
    return {
        "metrics": frames.metrics(results),
        "steps": frames.steps(results),
        "robustness": frames.robustness(results),
        "cost": frames.costs(results, settings.watts, settings.grams_per_kwh),
    }


def compose(settings: Any, results: Results, tested: Table) -> report.Page:
    """Puts the page together."""
    aim = f"until {percent(settings.target)} of its operations are gone" if settings.target else "until no layer can go"
    page = report.Page(
        "Layers or neurons?",
        f"A network trained on {DATA.get(settings.data, settings.data)} becomes smaller step by step, {aim}. At every "
        "step it can lose whole layers or single neurons, of equal cost. Does a choice by similarity of "
        "representations keep more of it than always taking one kind, or tossing a coin?",
    )
    each = frames.costs(results, settings.watts, settings.grams_per_kwh)
    costs = frames.mean_costs(each, settings.watts, settings.grams_per_kwh)
    page.section("What was found")
    page.points(findings.findings(settings, results, tested, frames.robustness(results), costs))
    verdict_tables(page, results, tested)
    page.section("Accuracy against the operations that are gone")
    page.drawing(
        figures.accuracies(results),
        "Accuracy on the clean test images. A line goes through the mean over seeds, step by step; its last point is "
        "the mean of the last networks. Bands: 95 % bootstrap intervals over seeds and test images (not paired: "
        "compare by the verdicts). Dashed: the dense network, as it was before any step; dotted, where there is such a "
        "run: the dense network after equal training without pruning. A cross: no candidate could "
        f"be made any more, although the target was not reached. {_count(results)}",
    )
    page.drawing(
        figures.choices(results),
        "Every run by itself, a line for each seed, and what each step removed: a layer (square) or neurons (circle).",
    )
    _shapes(page, results)
    _scores(page, results)
    _robustness(page, results, frames.robustness(results))
    page.section("What it costs, and what it saves")
    cost_tables(page, settings, results, costs)
    page.section("How it was done")
    page.points(findings.method(settings, results))
    page.section("Every step, and the networks themselves")
    steps_table(page, results)
    networks_table(page, results)
    return page


def _count(results: Results) -> str:
    images = {run.seed: len(run.labels) for run in results.runs}
    return f"{counted(len(images), 'seed')}, n = {sum(images.values())} test images in all."


def _shapes(page: report.Page, results: Results) -> None:
    page.section("The shape of the network")
    for budget in results.budgets:
        first = next(run.seed for run in results.runs if run.budget == budget and run.chooser in results.choosers)
        page.drawing(
            shapes.silhouettes(results, budget, first),
            f"{steps_of(results, budget)}The networks of seed {first}. Every bar is a residual block, as long as it "
            "has filters inside; data flows down, through three stages. Colour shows what went since the network to "
            "the left. Above each: the share of operations that is gone, and the accuracy.",
        )
        some = f"the first {shapes.SEEDS} of {len(results.seeds)} seeds"
        page.drawing(
            shapes.strips(results, budget),
            f"{steps_of(results, budget)}The share of its filters that every block has left, step by step; hatched "
            f"where the block is gone. Rows: {some if len(results.seeds) > shapes.SEEDS else 'all seeds'}.",
        )


def _scores(page: report.Page, results: Results) -> None:
    drawings = {budget: figures.scores(results, budget) for budget in results.budgets}
    page.section("What the choosers saw")
    for budget, drawn in drawings.items():
        if drawn is not None:
            page.drawing(
                drawn,
                f"{steps_of(results, budget)}How similar both candidates of a step are to their parent, after brief "
                "tuning; filled: the one that was kept, which is always the higher. Grey at the foot: only one "
                "candidate could be made, so that there was nothing to compare.",
            )
    if not any(drawings.values()):
        page.text("No chooser of this study compared two candidates.")


def _robustness(page: report.Page, results: Results, frame: Table) -> None:
    page.section("Robustness along the way")
    if frame.empty:
        page.text("No run removed anything, so there is nothing to compare with the dense network.")
        return
    page.text(
        "All changes are paired: the same test images, the pruned network against the dense one of its seed. An image "
        "under several conditions counts once, with the mean over them. FGSM and PGD move pixels by at most ε. "
        "Differences under such attacks between networks that were never trained against them are weak evidence: a "
        "network can resist one step because its gradients are small, not because it is robust. Images made on dense "
        "are made against that very network, so any other tends to do better on them."
    )
    names = grouped(results.conditions).get("corrupted", [])
    corruptions = f"{len({name.rsplit('-', 1)[0] for name in names})} corruptions and all severities"
    for budget in filter(results.pruning, results.budgets):
        page.drawing(
            figures.robustness(results, frame, budget),
            f"{steps_of(results, budget)}Change of accuracy from the dense network in points, with 95 % bootstrap "
            f"intervals over seeds and images. Corrupted: mean over {corruptions}. Dotted, where there is such a run: "
            f"the dense network after equal training without pruning. {_count(results)}",
        )
        drawn = figures.attacks(results, frame, budget)
        if drawn is not None:
            page.drawing(
                drawn,
                f"{steps_of(results, budget)}The same under attack. White-box: made on the network itself; made on "
                "dense: one set of images for all networks of a seed.",
            )
        page.text(
            "The tables below hold changes in points; hover over one for its interval and both accuracies. Of so many "
            "intervals some leave out the truth by chance: a class or a corruption that stands out is a question, not "
            "a result."
        )
        for chooser in results.pruning(budget):
            here = frame[(frame.budget == budget) & (frame.chooser == chooser)]
            robustness_tables(page, results, here, f"{steps_of(results, budget)}{label(chooser)}")


def summary(settings: Any, results: Results, tested: Table) -> Group:
    """Makes what is printed: the verdicts with their differences, and which choices of the authors' code were taken."""
    del results
    table = Printed(title="Verdicts: paired differences of accuracy in points")
    for name in ("budget", "chooser", "claim"):
        table.add_column(name)
    for name in ("removed", "difference", "interval", "verdict"):
        table.add_column(name, justify="right")
    for row in tested.itertuples():
        numbers = (percent(row.removed), points(row.mean), f"{points(row.low)} to {points(row.high)}", row.verdict)
        table.add_row(BUDGETS[row.budget], label(row.chooser), row.claim, *numbers)
    return Group(*(f"paper: {quirk}" for quirk in quirks(settings)), table)
