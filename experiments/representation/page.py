"""The page of the study of representations: pictures first, then what was found, with its figures and tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as Printed

from experiments import representation_findings as told
from experiments import representation_method, representation_results, representation_strip
from experiments.representation_captions import CAPTIONS, definitions
from experiments.representation_figures import ARMS, ladders, method, rung_label, title
from experiments.representation_findings import QUESTIONS, signed
from experiments.representation_quantities import ODD, RANDOM_MAP
from experiments.representation_results import REFERENCES, Results
from experiments.representation_settings import LADDER, Study
from experiments.transfer_results import Table
from experiments.wording import DATA, counted, percent, provenance
from jaxprune import files, report
from jaxprune.report import Cell

_TONES = {"found": "good", "undecided": "unsure", "not found": "none"}
_MARKS = {"found": "yes", "undecided": "?", "not found": "no"}


def write(study: Study, records: Sequence[dict[str, Any]], truths: Sequence[dict[str, Any]], console: Console) -> Path:
    """Writes tables (CSV), figures and the page of a finished study; prints its verdicts; returns the page's path.

    Args:
      study: what ``representation.main`` computed.
      records: its records, one for each run.
      truths: what networks were held against, one for each seed.
      console: where the verdicts are printed.
    """
    results = Results(study, records, truths, seed=0)
    measured, gained = representation_results.curves(results), representation_results.gains(results)
    tested = representation_results.verdicts(gained, study.margin)
    tables = {
        "curves": measured,
        "gains": gained,
        "verdicts": representation_results.with_levels(results, measured, tested),
        "flat_maps": representation_results.flat_maps(results),
    }
    for name, frame in tables.items():
        files.write(study.out / f"{name}.csv", frame.to_csv(index=False))
    path = study.out / "index.html"
    compose(study, records, results, tables).write(path)
    _print(tables["verdicts"], results, console)
    console.print(f"Tables: {study.out}/*.csv\nPage:   {path}")
    return path


def compose(
    study: Study, records: Sequence[dict[str, Any]], results: Results, tables: Mapping[str, Table]
) -> report.Page:
    """Puts the page together."""
    measured, tested = tables["curves"], tables["verdicts"]
    page = report.Page(
        "When does pruning benefit a representation?",
        f"Networks trained on {DATA.get(study.data, study.data)} are pruned rung by rung and trained again. Do they "
        "look at the object, are objects found in their features, and do they decide as observers do? A rung that is "
        "better than the dense network would be a sweet spot.",
    )
    page.section("Look first")
    page.drawing(representation_strip.overview(results), _STRIP.format(results.seeds[0]))
    page.section("What was found")
    page.points(told.findings(study, results, measured, tested, tables["flat_maps"]))
    for question, heading in QUESTIONS.items():
        if any(one.question == question for one in results.quantities):
            page.section(heading)
            page.drawing(
                ladders(results, measured, tested, question), f"{CAPTIONS[question]} {_count(results, question)}"
            )
            if why := told.untested(tested, question):
                page.text(why)
            _verdict_tables(page, tested[tested.question == question])
    page.section("The same pictures along the whole ladder")
    for architecture in results.architectures:
        drawn = representation_strip.along(results, architecture)
        page.drawing(drawn, f"{title(architecture)}: Grad-CAM and the box that LOST finds, as above.")
    page.section("What is measured")
    page.points(definitions(study, results))
    page.section("How it was done")
    page.points(representation_method.approach(study, results))
    heading, choices = representation_method.legacy(study)
    page.section(heading)
    page.points(choices)
    page.section("All numbers")
    _number_tables(page, results, measured)
    _network_table(page, results)
    page.text(provenance(records, "with training and all measurements"))
    return page


_STRIP = (
    "Test pictures of seed {}, the object outlined. Attributions of what each network decides for, over the "
    "picture in grey: the brighter, the more relevant; every map is scaled by its own largest value, and of "
    "integrated gradients the root is shown. With Grad-CAM the true box (dashed) and the one that LOST finds in the "
    "network's features (blue; a box around the whole picture: nothing was singled out). Pictures are an impression: "
    "the numbers are below."
)


def _count(results: Results, question: str) -> str:
    asked = [one for one in results.quantities if one.question == question]
    several = len({one.line for one in asked}) > 1
    dashed = "; those of dashed lines are in the tables" if several else ""
    ends = [end for one in asked for end in results.examples(one)]
    least, most = min(ends), max(ends)
    images = "triplets" if question == ODD else "image" if most == 1 else "images"
    counts = f"{least if least == most else f'{least} to {most}'} {images}{' each' if len(results.seeds) > 1 else ''}"
    clipped = "Bands are drawn no further than values can be. " if all(one.independent for one in asked) else ""
    aside = " Marks of several methods stand side by side." if several else ""
    bands = f"Bands and bars: 95 % bootstrap intervals over seeds and images, of each value by itself{dashed}. "
    shown = bands if all(one.independent for one in asked) else ""
    seeds = counted(len(results.seeds), "seed")
    return f"{seeds}, {counts}. {shown}{clipped}Rungs stand at equal distances.{aside}"


# ------------------------------------------------------------------------------------------------------------- tables


def _verdict_tables(page: report.Page, tested: Table) -> None:
    """Adds the verdicts of a question: a table for each reference, or one where there is one quantity."""
    best = "Is there a sweet spot (yes, no, or undecided)? The largest gain of a rung (above 0: better)"
    if tested.quantity.nunique() == 1:
        heads = {against: f"over {meaning}" for against, meaning in REFERENCES.items()}
        _verdict_table(page, f"{best}; hover for the interval.", tested, "against", heads)
        return
    for against, here in tested.groupby("against", sort=False):
        heads = {name: name for name in here.quantity}
        _verdict_table(
            page, f"{best} over {REFERENCES[str(against)]}; hover for the interval.", here, "quantity", heads
        )


def _verdict_table(page: report.Page, caption: str, tested: Table, across: str, heads: Mapping[str, str]) -> None:
    rows = []
    for (architecture, line), cells in tested.groupby(["architecture", "method"], sort=False):
        found = {getattr(row, across): row for row in cells.itertuples()}
        rows.append([_name(architecture, line), *(_verdict(found[one]) if one in found else "" for one in heads)])
    page.table(caption, ["", *heads.values()], rows)


def _name(architecture: Any, line: Any, *more: str) -> str:
    return ", ".join(word for word in (title(architecture), _method(line), *more) if word)


def _method(line: Any) -> str:
    return f"{method(line)} (control)" if line == RANDOM_MAP else method(line)


def _verdict(row: Any) -> Cell:
    hint = f"{row.verdict}: against {REFERENCES[row.against]}, {told.spot(row)}, best of {row.rungs} rungs"
    below = f" ({told.blind(row)})" if row.verdict == "found" and row.level else ""
    text = f"{_MARKS[row.verdict]}  {signed(row.gain, row.margin)} at {rung_label(row.sparsity)} %{below}"
    return Cell(text, _TONES[row.verdict], hint)


def _number_tables(page: report.Page, results: Results, measured: Table) -> None:
    for quantity, cells in measured.groupby("quantity", sort=False):
        rungs = sorted(cells.rung.unique())
        rows = []
        for (architecture, line, arm), here in cells.groupby(["architecture", "method", "arm"], sort=False):
            found = {row.rung: row for row in here.itertuples()}
            name = _name(architecture, line, ARMS[str(arm)])
            rows.append([name, *(_number(found[rung]) if rung in found else "" for rung in rungs)])
        quantities = [one for one in results.quantities if one.name == quantity]
        levels = "".join(f" {name}: {height:.3f}." for name, height in results.levels(quantities[0]).items())
        less = " Less is better." if quantities[0].smaller else ""
        more = " Hover for the 95 % interval." if quantities[0].independent else ""
        name = str(quantity)
        caption = f"{name[0].upper()}{name[1:]}.{less}{levels}{more} {_COLUMNS}"
        page.table(caption, ["", *(_sparsities(results, int(rung)) for rung in rungs)], rows, folded=True)


_COLUMNS = (
    "Columns: the sparsity of the ladder's rung; a dense network trained as long as to that rung stands in its column."
)


def _sparsities(results: Results, rung: int) -> str:
    """Writes the sparsity of a rung; where architectures differ, all that there are."""
    shares = [results.sparsity(name, LADDER, rung) for name in results.architectures]
    return f"{', '.join(dict.fromkeys(map(rung_label, shares)))} %"


def _number(row: Any) -> Cell:
    interval = "" if np.isnan(row.low) else f"95 % interval {row.low:.3f} to {row.high:.3f}; "
    return Cell(f"{row.mean:.3f}", hint=f"{interval}n = {row.examples}, seeds: {row.seeds}")


def _network_table(page: report.Page, results: Results) -> None:
    rows = []
    for architecture in results.architectures:
        for rung in results.rungs(architecture, LADDER):
            shares = [
                percent(results.sparsity(architecture, LADDER, rung, of))
                for of in ("sparsity", "sparsity_of_all_kernels")
            ]
            rows.append([title(architecture), str(rung), *shares])
    page.table(
        "Sparsity of every rung, of the kernels that may be pruned and of all kernels.",
        ["", "rung", "of prunable kernels", "of all kernels"],
        rows,
        folded=True,
    )


def _print(tested: Table, results: Results, console: Console) -> None:
    table = Printed(title="Sweet spots: against dense / against equal training")
    table.add_column("measure")
    for architecture in results.architectures:
        table.add_column(title(architecture), justify="center")
    listed = [one for one in results.quantities if one.independent]
    for quantity in sorted(listed, key=lambda one: one.line == RANDOM_MAP):
        here = tested[(tested.quantity == quantity.name) & (tested.method == quantity.line)]
        marks = {
            (row.architecture, row.against): _MARKS[row.verdict] + "*" * (row.verdict == "found" and bool(row.level))
            for row in here.itertuples()
        }
        shown = [
            " / ".join(marks[name, against] for against in REFERENCES if (name, against) in marks)
            for name in results.architectures
        ]
        table.add_row(", ".join(word for word in (quantity.name, _method(quantity.line)) if word), *shown)
    console.print(table)
    console.print(
        "yes: found; yes*: found, on a rung no better than what is reached without looking; no: not found; ?: "
        "undecided."
    )
