"""The page of the study of joint pruning: what was found, with its figures and tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Printed

from experiments import joint_figures, joint_findings, joint_shapes, joint_tables
from experiments.joint_claims import claims, verdicts
from experiments.joint_figures import BUDGETS, label
from experiments.joint_findings import points
from experiments.joint_page_tables import (
    cost_tables,
    networks_table,
    of,
    robustness_tables,
    steps_table,
    verdict_tables,
)
from experiments.joint_results import Results, kinds
from experiments.transfer_results import Table
from experiments.wording import DATA, counted, percent, provenance
from jaxprune import files, report


def write(study: Any, records: Sequence[dict[str, Any]], console: Console) -> Path:
    """Writes tables (CSV), figures and the page of a finished study; prints its verdicts; returns the page's path.

    Args:
      study: what ``joint_pruning.main`` computed.
      records: its records, one for each run.
      console: where the verdicts are printed.
    """
    results = Results(records, seed=0)
    tables = {
        "verdicts": verdicts(results, claims(study.margin)),
        "steps": joint_tables.steps(results),
        "robustness": joint_tables.robustness(results),
        "cost": joint_tables.costs(results, study.watts, study.grams_per_kwh),
    }
    for name, frame in tables.items():
        files.write(study.out / f"{name}.csv", frame.to_csv(index=False))
    path = study.out / "index.html"
    compose(study, records, results, tables).write(path)
    _print(tables["verdicts"], console)
    console.print(f"Tables: {study.out}/*.csv\nPage:   {path}")
    return path


def compose(study: Any, records: Sequence[dict[str, Any]], results: Results, tables: dict[str, Table]) -> report.Page:
    """Puts the page together."""
    aim = f"until {percent(study.target)} of its operations are gone" if study.target else "until no layer can go"
    page = report.Page(
        "Layers or neurons?",
        f"A network trained on {DATA.get(study.data, study.data)} becomes smaller step by step, {aim}. At every step "
        "it can lose whole layers or single neurons, of equal cost. Does a choice by similarity of representations "
        "keep more of it than always taking one kind, or tossing a coin?",
    )
    costs = joint_tables.mean_costs(tables["cost"], study.watts, study.grams_per_kwh)
    page.section("What was found")
    page.points(joint_findings.findings(study, results, tables["verdicts"], tables["robustness"], costs))
    verdict_tables(page, results, tables["verdicts"])
    page.section("Accuracy against the operations that are gone")
    page.drawing(
        joint_figures.accuracy(results),
        "Accuracy on the clean test images. A line goes through the mean over seeds, step by step; its last point is "
        "the mean of the last networks. Bands: 95 % bootstrap intervals over seeds and test images (not paired: "
        "compare by the verdicts). Dashed: the dense network, as it was before any step; dotted, where there is such a "
        "run: the dense network after equal training without pruning. A cross: no candidate could "
        f"be made any more, although the target was not reached. {_count(results)}",
    )
    page.drawing(
        joint_figures.choices(results),
        "Every run by itself, a line for each seed, and what each step removed: a layer (square) or neurons (circle).",
    )
    _shapes(page, results)
    _scores(page, results)
    _robustness(page, results, tables["robustness"])
    page.section("What it costs, and what it saves")
    cost_tables(page, study, results, costs)
    page.section("How it was done")
    page.points(joint_findings.method(study, results))
    page.section("Every step, and the networks themselves")
    steps_table(page, results)
    networks_table(page, records)
    page.text(provenance(records, "with all measurements and without the training of the dense networks"))
    return page


def _count(results: Results) -> str:
    examples = {course.seed: len(course.labels) for course in results.courses}
    return f"{counted(len(examples), 'seed')}, n = {sum(examples.values())} test images in all."


# ------------------------------------------------------------------------------------------------------------ figures


def _shapes(page: report.Page, results: Results) -> None:
    page.section("The shape of the network")
    for budget in results.budgets:
        seeds = [course.seed for chooser in results.choosers for course in results.of(budget, chooser)]
        first = seeds[0]
        page.drawing(
            joint_shapes.silhouettes(results, budget, first),
            f"{of(results, budget)}The networks of seed {first}. Every bar is a residual block, as long as it has "
            "filters inside; data flows down, through three stages. Colour shows what went since the picture to the "
            "left. Above each: the share of operations that is gone, and the accuracy.",
        )
        some = f"the first {joint_shapes.SEEDS} of {len(results.seeds)} seeds"
        page.drawing(
            joint_shapes.strips(results, budget),
            f"{of(results, budget)}The share of its filters that every block has left, step by step; hatched where "
            f"the block is gone. Rows: {some if len(results.seeds) > joint_shapes.SEEDS else 'all seeds'}.",
        )


def _scores(page: report.Page, results: Results) -> None:
    drawings = {budget: joint_figures.scores(results, budget) for budget in results.budgets}
    page.section("What the choosers saw")
    for budget, drawn in drawings.items():
        if drawn is not None:
            page.drawing(
                drawn,
                f"{of(results, budget)}How similar both candidates of a step are to their parent, after brief tuning; "
                "filled: the one that was kept, which is always the higher. Grey at the foot: only one candidate could "
                "be made, so that there was nothing to compare.",
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
    for budget in (one for one in results.budgets if results.present(one)):
        page.drawing(
            joint_figures.robustness(results, frame, budget),
            f"{of(results, budget)}Change of accuracy from the dense network in points, with 95 % bootstrap intervals "
            f"over seeds and images. Corrupted: mean over {_corruptions(results)}. Dotted, where there is such a run: "
            f"the dense network after equal training without pruning. {_count(results)}",
        )
        drawn = joint_figures.attacks(results, frame, budget)
        if drawn is not None:
            page.drawing(
                drawn,
                f"{of(results, budget)}The same under attack. White-box: made on the network itself; made on dense: "
                "one set of images for all networks of a seed.",
            )
        page.text(
            "The tables below hold changes in points; hover over one for its interval and both accuracies. Of so many "
            "intervals some leave out the truth by chance: a class or a corruption that stands out is a question, not "
            "a result."
        )
        for chooser in results.present(budget):
            here = frame[(frame.budget == budget) & (frame.chooser == chooser)]
            who = f"{of(results, budget)}{label(chooser)}"
            robustness_tables(page, results, here, who)


def _corruptions(results: Results) -> str:
    names = kinds(results.conditions).get("corrupted", [])
    return f"{len({name.rsplit('-', 1)[0] for name in names})} corruptions and all severities"


def _print(tested: Table, console: Console) -> None:
    table = Printed(title="Verdicts: paired differences of accuracy in points")
    for name in ("budget", "chooser", "claim"):
        table.add_column(name)
    for name in ("removed", "difference", "interval", "verdict"):
        table.add_column(name, justify="right")
    for row in tested.itertuples():
        ends = f"{points(row.low)} to {points(row.high)}"
        told = (percent(row.removed), points(row.difference), ends, row.verdict)
        table.add_row(BUDGETS[row.budget], label(row.chooser), row.claim, *told)
    console.print(table)
