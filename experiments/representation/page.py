"""The page of the study of representations: images first, then what was found, with its figures and tables."""

from typing import Any

import numpy as np
from rich.table import Table as Printed

from experiments.representation import figures
from experiments.representation.figures import ARMS, method, rung_label, title
from experiments.representation.method import approach, captions, legacy
from experiments.representation.quantities import ACCURACY, DECIDE, ODD, QUESTIONS, RANDOM_MAP
from experiments.representation.results import REFERENCES, Results
from experiments.representation.settings import CONTROL, LADDER
from experiments.shared.pages import DATA, counted, few_seeds, joined, percent, verdict_table
from experiments.shared.results import Table
from jaxprune import report
from jaxprune.report import Cell

_MOST = 6  # sweet spots, or networks, that a sentence lists


def compose(settings: Any, results: Results, tested: Table) -> report.Page:
    """Puts the page together."""
    page = report.Page(
        "When does pruning benefit a representation?",
        f"Networks trained on {DATA.get(settings.data, settings.data)} are pruned rung by rung and trained again. Do "
        "they look at the object, are objects found in their features, and do they decide as observers do? A rung that "
        "is better than the dense network would be a sweet spot.",
    )
    page.section("Look first")
    page.drawing(
        figures.overview(results),
        f"Test images of seed {results.seeds[0]}, the object outlined. Attributions of what each network decides for, "
        "over the image in grey: the brighter, the more relevant; every map is scaled by its own largest value, and of "
        "integrated gradients the root is shown. With Grad-CAM the true box (dashed) and the one that LOST finds in "
        "the network's features (blue; a box around the whole image: nothing was singled out). Images are an "
        "impression: the numbers are below.",
    )
    page.section("What was found")
    page.points(findings(settings, results, tested))
    meanings = captions(settings, results)
    for question, heading in QUESTIONS.items():
        if any(one.question == question for one in results.quantities):
            page.section(heading)
            page.drawing(
                figures.ladders(results, tested, question), f"{meanings[question]} {_count(results, question)}"
            )
            if why := untested(tested, question):
                page.text(why)
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
        caption = (
            f"{quantity.name[0].upper()}{quantity.name[1:]}.{less}{levels} Columns: the sparsity of the ladder's rung; "
            "a dense network trained as long as to that rung stands in its column. Hover for n, and for 95 % intervals "
            "where there are any."
        )
        page.table(caption, heads, rows, folded=True)


def _number(row: Any) -> Cell:
    interval = "" if np.isnan(row.low) else f"95 % interval {row.low:.3f} to {row.high:.3f}; "
    return Cell(f"{row.mean:.3f}", hint=f"{interval}n = {row.examples}, seeds: {row.seeds}")


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


def signed(value: float, margin: float = 0.0) -> str:
    """Writes a gain with its sign, three digits after the point, or as many as tell it from the margin.

    >>> signed(-0.0304), signed(0.00034), signed(0.0), signed(0.0502, 0.05)
    ('−0.030', '+0.0003', '0.000', '+0.0502')
    """
    digits = next((many for many in range(3, 9) if round(value, many) != round(margin, many)), 3)
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def spot(row: Any) -> str:
    """Writes the rung of a verdict with its gain and interval, and whether it is no better than a blind guess."""
    ends = f"95 % interval {signed(row.low, row.margin)} to {signed(row.high, row.margin)}"
    reached = f"; {row.value:.3f}, {blind(row)}, {row.level_value:.3f}" if row.level else ""
    return f"{signed(row.mean, row.margin)} at {rung_label(row.sparsity)} % ({ends}{reached})"


def blind(row: Any) -> str:
    """Names the level without looking that the rung of a verdict is no better than; empty where it is better."""
    article = "the " if row.level in ("centre box", "whole image") else ""
    return f"no better than {article}{method(row.level)}" if row.level else ""


def untested(tested: Table, question: str) -> str:
    """Says why a question that networks were asked has no verdicts; empty where it has some, or needs none."""
    why = (
        "Not tested: of the ladder only the dense network decided on distorted images, so that no rung can be "
        "compared with it (--distorted-rungs)."
    )
    return why if question == DECIDE and not (tested.question == question).any() else ""


def findings(settings: Any, results: Results, tested: Table) -> dict[str, str]:
    """States what was found, whichever way it came out, in sentences made from the verdicts."""
    # Gains of a random order belong to no method, and are told apart below.
    own = tested[tested.method != RANDOM_MAP]
    answers = {
        heading: " ".join(_answer(own[own.question == question], against) for against in REFERENCES)
        if (own.question == question).any()
        else untested(tested, question)
        for question, heading in QUESTIONS.items()
    }
    asked = (
        "The observers that decisions are compared with are simulated: they err more under stronger distortion and "
        "about smaller objects, by a formula given below. What is close to them is not thereby close to people."
    )
    rows = tested[(tested.method == RANDOM_MAP) & (tested.verdict == "found")].itertuples()
    spots = [f"{title(one.architecture)}, {one.quantity}, against {REFERENCES[one.against]}" for one in rows]
    any_order = (
        "Insertion or deletion improves even where pixels come in random order, as decisions need more or fewer "
        f"pixels, whichever they are: {'; '.join(spots)}. The verdicts on methods are of the distance to it."
    )
    points = {
        "Accuracy along the ladder.": _accuracies(results),
        "Sweet spots.": _overall(settings, results, own),
        **answers,
        "Random order.": any_order if spots else "",
        "Flat maps.": _flat(results),
        "No people were asked.": asked if (tested.question == DECIDE).any() else "",
        "Few seeds.": few_seeds(len(results.seeds)).strip(),
    }
    return {lead: words for lead, words in points.items() if words}


def _accuracies(results: Results) -> str:
    sentences = []
    rows = results.curves[results.curves.question == ACCURACY].set_index(["architecture", "arm", "rung"])["mean"]
    for name in results.architectures:
        last = max(results.rungs(name, LADDER))
        ends = [percent(rows[name, arm, rung]) for arm, rung in ((LADDER, 0), (LADDER, last), (CONTROL, last))]
        at = f"{rung_label(results.sparsity(name, LADDER, last))} % sparsity"
        sentences.append(f"{title(name)} {ends[0]} → {ends[1]} at {at} (dense, trained equally long: {ends[2]})")
    return f"{'; '.join(sentences)}."


def _overall(settings: Any, results: Results, own: Table) -> str:
    counted = []
    for against, meaning in REFERENCES.items():
        verdicts = own.verdict[own.against == against]
        counts = ", ".join(f"{(verdicts == one).sum()} {one}" for one in ("found", "undecided", "not found"))
        counted.append(f"over {meaning}: {counts}, of {len(verdicts)}")
    margin = f" by more than {settings.margin:g}" if settings.margin else ""
    less = list(dict.fromkeys(one.name for one in results.quantities if one.smaller and one.name in set(own.quantity)))
    sign = f" A + means better, also of measures of which less is better ({joined(less)})." if less else ""
    found = own[own.verdict == "found"]
    below = (found.level != "").sum()
    guessed = (
        f" Better is not yet good: of the {len(found)} found, {below} name a rung whose mean is no better than what is "
        "reached without looking (chance, a fixed box, pixels in random order), as is said there."
    )
    return (
        f"A sweet spot is a rung that is better{margin}, tested for all rungs of a ladder at once, for every "
        "architecture and measure but the odd one out, whose triplets share images. Gains "
        f"{'; '.join(counted)}.{sign}{guessed if below else ''} A gain over the dense network can come from pruning or "
        "from the longer training that a rung has had; one over the dense network trained equally long cannot come "
        "from that. The verdicts are many: were nothing gained or lost anywhere, about "
        f"{0.025 * len(own):.2g} of these {len(own)} would be found by chance, and more where seeds differ much."
    )


def _answer(here: Table, against: str) -> str:
    rows = here[here.against == against]
    found = rows[rows.verdict == "found"].sort_values("mean", ascending=False, kind="stable")
    counts = [f"found in {len(found) or 'none'} of {len(rows)}"]
    counts += [f"{one} in {sum(rows.verdict == one)}" for one in ("undecided", "not found") if one in set(rows.verdict)]
    spots = []
    for row in found.head(_MOST).itertuples():
        # The quantity and the method, where the question has several.
        words = [title(row.architecture), row.quantity if rows.quantity.nunique() > 1 else "", method(row.method)]
        spots.append(f"{', '.join(filter(None, words))}: {spot(row)}")
    more = [f"{len(found) - _MOST} more are in the table"] if len(found) > _MOST else []
    listed = f" {'; '.join([*spots, *more])}." if spots else ""
    return f"Against {REFERENCES[against]}: {', '.join(counts)}.{listed}"


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
