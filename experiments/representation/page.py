"""The page of the study of representations: images first, then what was found, with its figures and tables."""

from typing import Any

import numpy as np
from rich.table import Table as Printed

from experiments.representation import figures
from experiments.representation.figures import ARMS, method, rung_label, title
from experiments.representation.method import approach, captions, legacy
from experiments.representation.quantities import ACCURACY, DECIDE, LOOK, ODD, QUESTIONS, RANDOM_MAP
from experiments.representation.results import REFERENCES, Results
from experiments.representation.settings import CONTROL, LADDER, RANDOM, SNIP
from experiments.shared import pages
from experiments.shared.pages import DATA, counted, joined, percent, spread, verdict_table
from experiments.shared.results import DIFFERENCES, Table, interval
from jaxprune import report
from jaxprune.report import Cell

_MOST = 6  # networks that a sentence lists


def compose(settings: Any, results: Results, tested: Table) -> report.Page:
    """Puts the page together."""
    page = pages.begun(
        "When does pruning benefit a representation?",
        opening(settings, results, tested),
        results.seeds,
        notices(results),
        figures.overview(results),
        f"Test images of seed {results.seeds[0]}, the object outlined. Attributions of what each network decides for: "
        "the brighter, the more relevant; every map is scaled by its own largest value (of integrated gradients, the "
        "root). With Grad-CAM the true box (dashed) and the one that LOST finds (blue). An impression: the numbers are "
        "below.",
    )
    _sweet_spots(page, tested)
    meanings = captions(settings, results)
    for question, heading in QUESTIONS.items():
        if any(one.question == question for one in results.quantities):
            page.section(heading)
            page.drawing(
                figures.ladders(results, tested, question), f"{meanings[question]} {_count(results, question)}"
            )
            said = (untested(tested, question), _flat(results) if question == LOOK else "")
            for words in filter(None, said):
                page.text(words)
            for _, rows in tested[tested.question == question].groupby("claim", sort=False):
                named = [_name(title(row.architecture), row.method) for row in rows.itertuples()]
                verdict_table(page, rows.assign(network=named), "network", "quantity", shown=_best)
    page.section("The same images along the whole ladder")
    for architecture in results.architectures:
        drawn = figures.along(results, architecture)
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


def _count(results: Results, question: str) -> str:
    asked = [one for one in results.quantities if one.question == question]
    several, of = len({one.line for one in asked}) > 1, "triplet" if question == ODD else "image"
    examples = results.curves[results.curves.question == question].examples
    least, most = examples.min(), examples.max()
    counts = f"{least} to {counted(most, of)}" if least < most else counted(most, of)
    dashed = "; those of dashed lines are in the tables" if several else ""
    bands = f" Bands and bars: intervals of 95 %, of each value by itself{dashed}, no further than values can be."
    aside = " Marks of several methods stand side by side." if several else ""
    shown = bands if all(one.independent for one in asked) else ""
    return f"{counted(len(results.seeds), 'seed')}, {counts} in all.{shown} Rungs stand at equal distances.{aside}"


def _best(row: Any) -> str:
    return f"at {rung_label(row.sparsity)} %{'*' if row.verdict == 'found' and row.level else ''}"


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
        caption = (
            f"{quantity.name[0].upper()}{quantity.name[1:]}.{less}{levels} Columns: the sparsity of the ladder's rung; "
            "a dense network trained as long as to that rung stands in its column. In small type: intervals of 95 %."
        )
        page.table(caption, heads, rows, folded=True)


def _number(row: Any) -> Cell:
    return Cell(f"{row.mean:.3f}", note=f"{row.low:.3f} to {row.high:.3f}" if np.isfinite(row.low) else "")


def summary(settings: Any, results: Results, tested: Table) -> Printed:
    """Makes the table of all sweet spots, for the console."""
    del settings
    table = Printed(
        title="Sweet spots: against dense / against equal training",
        caption="yes: found; yes*: found, but no better than what is reached without looking; no: not found; ?: "
        "undecided.",
    )
    table.add_column("measure")
    for architecture in results.architectures:
        table.add_column(title(architecture), justify="center")
    said, marks = {"found": "yes", "undecided": "?", "not found": "no"}, {}
    for row in tested.itertuples():
        mark = said[row.verdict] + ("*" if row.verdict == "found" and row.level else "")
        marks.setdefault((row.quantity, row.method, row.architecture), []).append(mark)
    listed = [one for one in results.quantities if one.independent]
    for one in sorted(listed, key=lambda one: one.line == RANDOM_MAP):
        found = [marks.get((one.name, one.line, architecture), []) for architecture in results.architectures]
        table.add_row(_name(one.name, one.line), *map(" / ".join, found))
    return table


# ------------------------------------------------------------------------------------------------------ what was found


def opening(settings: Any, results: Results, tested: Table) -> str:
    """Says what was asked and what was found, whichever way it came out, in sentences made from the verdicts."""
    own = tested[tested.method != RANDOM_MAP]
    counts = []
    for against, meaning in REFERENCES.items():
        rows = own[own.against == against]
        found = f"{int((rows.verdict == 'found').sum())} of {len(rows)} over {meaning}"
        counts.append(f"{found} ({pages.by_chance(rows)} by chance)")
    return (
        f"Networks trained on {DATA.get(settings.data, settings.data)} are pruned rung by rung and trained again. Do "
        "they look at the object, are objects found in their features, do they decide as simulated observers do? A "
        "rung that is better is a sweet spot: one is found in "
        f"{joined(counts)}. {_accuracies(results)}"
    )


def notices(results: Results) -> list[str]:
    """Says what a reader must know before any number: of training that differs."""
    accuracy = next(one for one in results.quantities if one.question == ACCURACY)
    ready, worse, once, said = [], [], {}, []
    for name in results.architectures:
        last, arms = max(results.rungs(name, LADDER)), {arm for one, arm, _ in results.runs if one == name}
        sides = [results.columns(accuracy, name, *place) for place in ((CONTROL, last), (LADDER, 0))]
        changes = [(after - before)[:, 0] for after, before in zip(*sides, strict=True)]
        gain = interval(changes, results.examples(changes), DIFFERENCES)
        ready += [f"{title(name)} by {spread(gain)}"] if gain.low > 0 else []
        worse += [f"{title(name)} by {spread(gain)}"] if gain.high < 0 else []
        once |= dict.fromkeys(ARMS[arm] for arm in (RANDOM, SNIP) if arm in arms)
    if ready:
        said.append(
            f"Dense networks had not converged: training on, without pruning, changes the accuracy of {joined(ready)}. "
            "Rungs are to be compared with that control."
        )
    if worse:
        said.append(f"Training on, without pruning, harms dense networks: {joined(worse)} of accuracy.")
    if once:
        said.append(
            "Pruned at once and trained once, where the ladder is trained after every rung, and so no fair comparison "
            f"with it: {joined(list(once))}."
        )
    return said


def _sweet_spots(page: report.Page, tested: Table) -> None:
    """Adds for every question in how many comparisons a sweet spot was found, and what to bear in mind."""
    words, rows = ("found", "undecided", "not found"), []
    for (question, against), here in tested.groupby(["question", "against"], sort=False):
        blind = int(((here.verdict == "found") & (here.level != "")).sum())
        counts = pages.verdict_counts(here, words)
        rows.append([QUESTIONS[str(question)], str(against), *counts, str(blind), pages.by_chance(here)])
    page.table(
        "Sweet spots, all rungs of a ladder tested at once. Found*: no better than what is reached without looking "
        "(chance, a fixed box, pixels in random order). By chance: how many would be found were nothing gained.",
        ["", "over", *words, "found*", "by chance"],
        rows,
    )


def untested(tested: Table, question: str) -> str:
    """Says why a question that networks were asked has no verdicts; empty where it has some, or needs none."""
    why = (
        "Not tested: of the ladder only the dense network decided on distorted images, so that no rung can be "
        "compared with it (--distorted-rungs)."
    )
    return why if question == DECIDE and not (tested.question == question).any() else ""


def _accuracies(results: Results) -> str:
    sentences = []
    rows = results.curves[results.curves.question == ACCURACY].set_index(["architecture", "arm", "rung"])["mean"]
    for name in results.architectures:
        last = max(results.rungs(name, LADDER))
        ends = [percent(rows[name, arm, rung]) for arm, rung in ((LADDER, 0), (LADDER, last), (CONTROL, last))]
        at = f"{rung_label(results.sparsity(name, LADDER, last))} % sparsity"
        sentences.append(f"{title(name)} {ends[0]} → {ends[1]} at {at} (dense, trained equally long: {ends[2]})")
    return f"Accuracy: {'; '.join(sentences)}." if len(sentences) < 3 else ""


def _flat(results: Results) -> str:
    flat = results.flat_maps
    if flat.empty:
        return ""
    ranked = flat.assign(share=flat.flat / flat.maps).sort_values("share", ascending=False, kind="stable")
    dead = ranked[ranked.share > 0.5]
    shown, named = dead if len(dead) else ranked.head(1), []
    for row in shown.head(_MOST).itertuples():
        at = f"{ARMS[row.arm]}, rung of {rung_label(results.sparsity(row.architecture, LADDER, row.rung))} %"
        network = at if row.rung else "dense"
        named.append(f"{method(row.method)} of {title(row.architecture)}, {network} ({row.flat} of {row.maps})")
    more = f"; {len(shown) - _MOST} more are in flat_maps.csv" if len(shown) > _MOST else ""
    lead = "Of these networks more than half are, so that the method says nothing of them:" if len(dead) else "Most:"
    return (
        f"{flat['flat'].sum()} maps have one value everywhere and point nowhere; they count, with the mass 0 or the "
        f"chance level. {lead} {'; '.join(named)}{more}."
    )
