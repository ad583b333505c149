"""The page of the study of representations: images first, then what was found, with its figures and tables."""

from typing import Any

import numpy as np
from rich.table import Table as Printed

from experiments.representation import image_figures
from experiments.representation.figures import ARMS, ladders, method, rung_label, title
from experiments.representation.findings import QUESTIONS, blind, findings, signed, untested
from experiments.representation.method import approach, captions, legacy
from experiments.representation.quantities import ODD, RANDOM_MAP
from experiments.representation.results import Results
from experiments.representation.settings import LADDER
from experiments.shared.pages import DATA, counted, percent, verdict_table
from experiments.shared.results import Table
from jaxprune import report
from jaxprune.report import Cell


def compose(settings: Any, results: Results, tested: Table) -> report.Page:
    """Puts the page together."""
    page = report.Page(
        "When does pruning benefit a representation?",
        f"Networks trained on {DATA.get(settings.data, settings.data)} are pruned rung by rung and trained again. Do "
        "they look at the object, are objects found in their features, and do they decide as observers do? A rung that "
        "is better than the dense network would be a sweet spot.",
    )
    page.section("Look first")
    page.drawing(image_figures.overview(results), _LOOK.format(results.seeds[0]))
    page.section("What was found")
    page.points(findings(settings, results, tested))
    meanings = captions(settings, results)
    for question, heading in QUESTIONS.items():
        if any(one.question == question for one in results.quantities):
            page.section(heading)
            page.drawing(ladders(results, tested, question), f"{meanings[question]} {_count(results, question)}")
            if why := untested(tested, question):
                page.text(why)
            for _, rows in tested[tested.question == question].groupby("claim", sort=False):
                named = [_name(title(row.architecture), row.method) for row in rows.itertuples()]
                verdict_table(page, rows.assign(network=named), "network", "quantity", shown=_best)
    page.section("The same images along the whole ladder")
    for architecture in results.architectures:
        drawn = image_figures.along(results, architecture)
        page.drawing(drawn, f"{title(architecture)}: Grad-CAM and the box that LOST finds, as above.")
    page.section("How it was done")
    page.points(approach(settings, results))
    heading, choices = legacy(settings)
    page.section(heading)
    page.points(choices)
    page.section("All numbers")
    _number_tables(page, results)
    shares = ("sparsity", "sparsity_of_all_kernels")
    rows = [
        [title(name), str(rung), *(percent(results.sparsity(name, LADDER, rung, share)) for share in shares)]
        for name in results.architectures
        for rung in results.rungs(name, LADDER)
    ]
    caption = "Sparsity of every rung, of the kernels that may be pruned and of all kernels."
    page.table(caption, ["", "rung", "of prunable kernels", "of all kernels"], rows, folded=True)
    return page


_LOOK = (
    "Test images of seed {}, the object outlined. Attributions of what each network decides for, over the "
    "image in grey: the brighter, the more relevant; every map is scaled by its own largest value, and of "
    "integrated gradients the root is shown. With Grad-CAM the true box (dashed) and the one that LOST finds in the "
    "network's features (blue; a box around the whole image: nothing was singled out). Images are an impression: "
    "the numbers are below."
)


def _count(results: Results, question: str) -> str:
    asked = [one for one in results.quantities if one.question == question]
    several, of = len({one.line for one in asked}) > 1, "triplet" if question == ODD else "image"
    examples = results.curves[results.curves.question == question].examples
    least, most = examples.min(), examples.max()
    counts = f"{least} to {counted(most, of)}" if least < most else counted(most, of)
    dashed = "; those of dashed lines are in the tables" if several else ""
    bands = (
        f" Bands and bars: 95 % bootstrap intervals over seeds and images, of each value by itself{dashed}. Bands are "
        "drawn no further than values can be."
    )
    aside = " Marks of several methods stand side by side." if several else ""
    shown = bands if all(one.independent for one in asked) else ""
    return f"{counted(len(results.seeds), 'seed')}, {counts} in all.{shown} Rungs stand at equal distances.{aside}"


def _best(row: Any) -> str:
    below = f" ({blind(row)})" if row.verdict == "found" and row.level else ""
    return f"{signed(row.mean, row.margin)} at {rung_label(row.sparsity)} %{below}"


def _name(first: str, line: str, *more: str) -> str:
    """Names a row by an architecture or a measure, a method, and more."""
    control = " (control)" if line == RANDOM_MAP else ""
    return ", ".join(filter(None, (first, f"{method(line)}{control}", *more)))


def _number_tables(page: report.Page, results: Results) -> None:
    for name, cells in results.curves.groupby("quantity", sort=False):
        quantity = next(one for one in results.quantities if one.name == name)
        rungs, rows, heads = sorted(cells.rung.unique()), [], [""]
        for rung in rungs:
            # Where architectures differ, all that there are.
            shares = [rung_label(results.sparsity(one, LADDER, int(rung))) for one in results.architectures]
            heads.append(f"{', '.join(dict.fromkeys(shares))} %")
        for (architecture, line, arm), here in cells.groupby(["architecture", "method", "arm"], sort=False):
            found = {row.rung: _number(row) for row in here.itertuples()}
            named = _name(title(str(architecture)), str(line), ARMS[str(arm)])
            rows.append([named, *(found.get(rung, "") for rung in rungs)])
        levels = "".join(f" {level}: {height:.3f}." for level, height in results.levels(quantity).items())
        less = " Less is better." if quantity.smaller else ""
        caption = f"{quantity.name[0].upper()}{quantity.name[1:]}.{less}{levels} {_COLUMNS}"
        page.table(caption, heads, rows, folded=True)


_COLUMNS = (
    "Columns: the sparsity of the ladder's rung; a dense network trained as long as to that rung stands in its column. "
    "Hover for n, and for 95 % intervals where there are any."
)


def _number(row: Any) -> Cell:
    interval = "" if np.isnan(row.low) else f"95 % interval {row.low:.3f} to {row.high:.3f}; "
    return Cell(f"{row.mean:.3f}", hint=f"{interval}n = {row.examples}, seeds: {row.seeds}")


def summary(settings: Any, results: Results, tested: Table) -> Printed:
    """Makes the table of all sweet spots, for the console."""
    del settings
    table = Printed(title="Sweet spots: against dense / against equal training", caption=_MARKED)
    table.add_column("measure")
    for architecture in results.architectures:
        table.add_column(title(architecture), justify="center")
    marks: dict[Any, list[str]] = {}
    for row in tested.itertuples():
        mark = _MARKS[row.verdict] + ("*" if row.verdict == "found" and row.level else "")
        marks.setdefault((row.quantity, row.method, row.architecture), []).append(mark)
    listed = [one for one in results.quantities if one.independent]
    for one in sorted(listed, key=lambda one: one.line == RANDOM_MAP):
        found = [marks.get((one.name, one.line, architecture), []) for architecture in results.architectures]
        table.add_row(_name(one.name, one.line), *map(" / ".join, found))
    return table


_MARKS = {"found": "yes", "undecided": "?", "not found": "no"}
_MARKED = "yes: found; yes*: found, but no better than what is reached without looking; no: not found; ?: undecided."
