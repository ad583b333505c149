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
            _verdict_tables(page, tested[tested.question == question])
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
    _network_table(page, results)
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


def _verdict_tables(page: report.Page, tested: Table) -> None:
    """Adds the verdicts of a question: a table for each reference."""
    for _, rows in tested.groupby("claim", sort=False):
        named = [_name(row.architecture, row.method) for row in rows.itertuples()]
        verdict_table(page, rows.assign(network=named), "network", "quantity", shown=_best)


def _best(row: Any) -> str:
    below = f" ({blind(row)})" if row.verdict == "found" and row.level else ""
    return f"{signed(row.mean, row.margin)} at {rung_label(row.sparsity)} %{below}"


def _name(architecture: Any, line: Any, *more: str) -> str:
    return ", ".join(word for word in (title(architecture), _method(line), *more) if word)


def _method(line: Any) -> str:
    return f"{method(line)} (control)" if line == RANDOM_MAP else method(line)


def _number_tables(page: report.Page, results: Results) -> None:
    for name, cells in results.curves.groupby("quantity", sort=False):
        quantity = next(one for one in results.quantities if one.name == name)
        rungs, rows = sorted(cells.rung.unique()), []
        for (architecture, line, arm), here in cells.groupby(["architecture", "method", "arm"], sort=False):
            found = {row.rung: _number(row) for row in here.itertuples()}
            rows.append([_name(architecture, line, ARMS[str(arm)]), *(found.get(rung, "") for rung in rungs)])
        levels = "".join(f" {level}: {height:.3f}." for level, height in results.levels(quantity).items())
        less = " Less is better." if quantity.smaller else ""
        caption = f"{quantity.name[0].upper()}{quantity.name[1:]}.{less}{levels} {_COLUMNS}"
        page.table(caption, ["", *(_sparsities(results, int(rung)) for rung in rungs)], rows, folded=True)


_COLUMNS = (
    "Columns: the sparsity of the ladder's rung; a dense network trained as long as to that rung stands in its column. "
    "Hover for n, and for 95 % intervals where there are any."
)


def _sparsities(results: Results, rung: int) -> str:
    """Writes the sparsity of a rung; where architectures differ, all that there are."""
    shares = [results.sparsity(name, LADDER, rung) for name in results.architectures]
    return f"{', '.join(dict.fromkeys(map(rung_label, shares)))} %"


def _number(row: Any) -> Cell:
    interval = "" if np.isnan(row.low) else f"95 % interval {row.low:.3f} to {row.high:.3f}; "
    return Cell(f"{row.mean:.3f}", hint=f"{interval}n = {row.examples}, seeds: {row.seeds}")


def _network_table(page: report.Page, results: Results) -> None:
    shares = ("sparsity", "sparsity_of_all_kernels")
    rows = [
        [title(name), str(rung), *(percent(results.sparsity(name, LADDER, rung, share)) for share in shares)]
        for name in results.architectures
        for rung in results.rungs(name, LADDER)
    ]
    caption = "Sparsity of every rung, of the kernels that may be pruned and of all kernels."
    page.table(caption, ["", "rung", "of prunable kernels", "of all kernels"], rows, folded=True)


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
    for quantity in sorted(listed, key=lambda one: one.line == RANDOM_MAP):
        found = [marks.get((quantity.name, quantity.line, name), []) for name in results.architectures]
        table.add_row(
            ", ".join(word for word in (quantity.name, _method(quantity.line)) if word), *map(" / ".join, found)
        )
    return table


_MARKS = {"found": "yes", "undecided": "?", "not found": "no"}
_MARKED = "yes: found; yes*: found, but no better than what is reached without looking; no: not found; ?: undecided."
