"""The page of the study of joint pruning: what was found, with its figures and tables."""

from collections.abc import Callable
from functools import partial
from typing import Any

from rich.console import Group

from experiments.joint import figures, findings, tables
from experiments.joint.figures import BUDGETS, condition, label
from experiments.joint.results import CONTROLS, Results, grouped, radius
from experiments.joint.settings import CONTROL, quirks, trajectory_folder
from experiments.shared import pages
from experiments.shared.pages import counted, percent, points, tally, verdict_table
from experiments.shared.results import Table
from jaxprune import report
from jaxprune.report import Cell


def compose(settings: Any, results: Results, tested: Table) -> report.Page:
    """Puts the page together."""
    frame, costs = tables.robustness(results), tables.costs(results, settings.watts, settings.grams_per_kwh, mean=True)
    page = pages.begun(
        "Layers or neurons?",
        findings.opening(settings, results, tested),
        results.seeds,
        findings.notices(settings, results),
        figures.accuracies(results),
        "Accuracy on the clean test images. A line goes through the mean over seeds, step by step; its last point is "
        "the mean of the last networks. Bands are intervals of 95 %, not paired: compare by the verdicts. A cross: no "
        f"candidate could be made any more, although the target was not reached. {_count(results)}",
    )
    pages.claims_table(page, tested)
    page.section("Every verdict")
    page.text("Differences in points, and the operations removed.")
    for _, rows in tested.groupby("claim", sort=False):
        verdict_table(page, rows, "chooser", "budget", label, lambda one: f"steps of equal {BUDGETS[one]}", _at)
    _shapes(page, results)
    _robustness(page, results, frame)
    page.section("What it costs, and what it saves")
    _cost_table(page, settings, results, costs)
    page.section("How it was done")
    page.points(findings.method(settings, results))
    page.section("The networks themselves")
    _networks_table(page, results)
    return page


def summary(settings: Any, results: Results, tested: Table) -> Group:
    """Makes what is printed: how many claims hold, and which choices of the authors' code were taken."""
    return Group(*(f"paper: {quirk}" for quirk in quirks(settings)), tally(tested))


def _count(results: Results) -> str:
    images = {run.seed: len(run.labels) for run in results.runs}
    return f"{counted(len(images), 'seed')}, n = {sum(images.values())} test images in all."


def _at(row: Any) -> str:
    """What the cell of a verdict shows: the difference, and the operations removed."""
    against = f" against {percent(row.removed_against)}" if row.against in CONTROLS else ""
    return f"{percent(row.removed)}{against}:"


def _steps_of(results: Results, budget: str) -> str:
    """Says which budget a figure or table is of, where there are several."""
    return f"Steps of equal {BUDGETS[budget]}. " if len(results.budgets) > 1 else ""


def _shapes(page: report.Page, results: Results) -> None:
    page.section("The shape of the network")
    rows = "all seeds"
    if len(results.seeds) > figures.SEEDS:
        rows = f"the first {figures.SEEDS} of {len(results.seeds)} seeds"
    for budget in results.budgets:
        first = next(run.seed for run in results.runs if run.budget == budget and run.chooser in results.choosers)
        page.drawing(
            figures.silhouettes(results, budget, first),
            f"{_steps_of(results, budget)}The networks of seed {first}. Every bar is {_bar(results)} Colour shows what "
            "went since the network to the left. Above each: the share of operations that is gone, and the accuracy.",
        )
        page.drawing(
            figures.strips(results, budget),
            f"{_steps_of(results, budget)}The share of its {_part(results)} has left, step by step; hatched where all "
            f"of it is gone. Rows: {rows}.",
        )
    page.section("What the choosers saw")
    drawings = {budget: drawn for budget in results.budgets if (drawn := figures.scores(results, budget))}
    for budget, drawn in drawings.items():
        page.drawing(
            drawn,
            f"{_steps_of(results, budget)}The scores of both candidates of a step, after brief tuning; filled: the "
            "one that was kept, always the higher. Grey at the foot: only one candidate could be made.",
        )
    _chosen_table(page, results)


def _bar(results: Results) -> str:
    if results.runs[0].config.get("network"):
        return "a group of units that was discovered, as long as it has units, in the order of the program."
    return "a residual block, as long as it has filters inside; data flows down, through three stages."


def _part(results: Results) -> str:
    return "units that every group" if results.runs[0].config.get("network") else "filters that every block"


def _chosen_table(page: report.Page, results: Results) -> None:
    """Adds in how many steps a chooser had two candidates, and which it took."""
    rows = []
    for budget in results.budgets:
        for chooser in results.pruning(budget):
            runs = results.pruned(budget, chooser)
            total, kinds = sum(run.last for run in runs), [step["kind"] for step in tables.comparisons(runs)]
            counts = (total, len(kinds), kinds.count("layer"), kinds.count("neurons"))
            rows.append([f"{_steps_of(results, budget)}{label(chooser)}", *map(str, counts)])
    heads = ["", "steps", "with two candidates", "layer taken", "neurons taken"]
    page.table("What was chosen, of all seeds; in the other steps only one candidate could be made", heads, rows)


def _robustness(page: report.Page, results: Results, frame: Table) -> None:
    page.section("Robustness along the way")
    if frame.empty:
        page.text("No run removed anything, so there is nothing to compare with the dense network.")
        return
    page.text(
        "An image under several conditions counts once, with the mean over them. Differences under attacks between "
        "networks that were never trained against them are weak evidence: a network can resist one step because its "
        "gradients are small, not because it is robust. Images made on dense are made against that very network, so "
        "any other tends to do better on them."
    )
    names = {name.rsplit("-", 1)[0] for name in grouped(results.conditions).get("corrupted", [])}
    for budget in filter(results.pruning, results.budgets):
        before = _steps_of(results, budget)
        page.drawing(
            figures.robustness(results, frame, budget),
            f"{before}Change of accuracy from the dense network in points, with intervals of 95 %. Corrupted: mean "
            f"over {len(names)} corruptions and all severities. {_count(results)}",
        )
        if drawn := figures.attacks(results, frame, budget):
            caption = "The same under attack. White-box: made on the network itself; made on dense: one set of images "
            page.drawing(drawn, f"{before}{caption}for all networks of a seed.")
        page.text(
            "Below are changes in points, with intervals. By chance 2.5 % of them lie above the truth and 2.5 % below: "
            "a class or a corruption that stands out is a question, not a result."
        )
        for chooser in results.pruning(budget):
            here = frame[(frame.budget == budget) & (frame.chooser == chooser)]
            _robustness_tables(page, here, f"{before}{label(chooser)}")


# ------------------------------------------------------------------------------------------------------------- tables


def _robustness_tables(page: report.Page, frame: Table, who: str) -> None:
    """Adds what a chooser's networks lose under every condition: along the way, by corruption, and by class."""
    final, by_class = frame[frame["last"]], frame[frame["class"] != "all"]
    groups = list(dict.fromkeys(by_class.condition))
    rows = frame[frame.condition.isin(groups) & (frame["class"] == "all")]
    rows, shares = rows.assign(row=rows.condition.map(condition)), dict(zip(rows.checkpoint, rows.removed, strict=True))
    caption = f"{who}: all conditions, by the share of operations removed"
    _changes(page, caption, rows, "checkpoint", lambda one: percent(shares[one]))  # two shares can read alike
    rows = final[final.condition.str.startswith("corrupted/")]
    parts = rows.condition.str.removeprefix("corrupted/").str.replace("_", " ").str.rsplit("-", n=1)
    rows = rows.assign(row=parts.str[0], column="severity " + parts.str[1])
    _changes(page, f"{who}: last networks, by corruption and severity", rows)
    far = max((radius(name) for name in groups if "/" in name), default=None)
    rows = by_class[[("/" not in name) or radius(name) == far for name in by_class.condition]]
    sizes = rows.groupby("class").n.max()
    columns = [condition(name).split(", ε")[0].replace("made on ", "") for name in rows.condition]
    rows = rows.assign(row=[f"{one} (n = {sizes[one]})" for one in rows["class"]], column=columns)
    others = f"; attacks with ε = {far:g}/255, others in robustness.csv" if far is not None else ""
    _changes(page, f"{who}: last networks, by class{others}", rows)


def _changes(
    page: report.Page, caption: str, changes: Table, across: str = "column", head: Callable[[Any], str] = str
) -> None:
    """Adds changes of accuracy, ``row`` down and a column of theirs across; nothing where there are none."""
    heads, listed = list(dict.fromkeys(changes[across])), []
    for name, cells in changes.groupby("row", sort=False):
        found = {getattr(one, across): _change(one) for one in cells.itertuples()}
        listed.append([str(name), *(found.get(one, "") for one in heads)])
    if listed:
        page.table(caption, ["", *map(head, heads)], listed, folded=True)


def _change(row: Any) -> Cell:
    tone = "" if row.seeds < 2 else "good" if row.low > 0 else "bad" if row.high < 0 else ""
    return Cell(points(row.difference), tone, f"{points(row.low)} to {points(row.high)}")


def _cost_table(page: report.Page, settings: Any, results: Results, costs: Table) -> None:
    """Adds what the last networks cost, what the searches took, and the energy estimated from both."""
    rows = [row for row in costs.itertuples() if row.chooser in results.choosers]
    share = lambda name: lambda row: percent(getattr(row, name) / getattr(row, f"{name}_dense"))  # noqa: E731
    number = lambda name, form=".1f": lambda row: format(getattr(row, name), form)  # noqa: E731
    searched = lambda write: lambda row: write(row) if row.search > 0 else "–"  # noqa: E731
    quantities: dict[str, Callable[[Any], str]] = {
        "operations, of the dense network's": share("macs"),
        "parameters": share("parameters"),
        "filters": share("filters"),
        **{f"time at batch {size}": partial(_ratio, size=size) for size in tables.BATCHES},
        "search, in all, without compilation (s)": searched(number("search")),
        **{f"search: {part} (s)": searched(number(f"search_{part}")) for part in tables.PARTS},
        "of the search, criterion and choice": searched(lambda row: percent(row.deciding)),
        "compilation (s), which the searches of a process share": searched(
            lambda row: f"{row.compilation:.1f}" if row.compilation >= 0 else "not measured: in the search"
        ),
        "million images, dense (s)": number("million_seconds_dense"),
        "million images (s)": number("million_seconds"),
        "million images, saved (g of CO2 equivalents)": number("million_grams_saved", ".2g"),
        "search (g of CO2 equivalents)": searched(number("search_grams", ".2g")),
        "the search pays after": searched(lambda row: findings.paid_after(row.break_even_examples)),
    }
    page.table(
        "The last networks and the searches, means over seeds. Times are measured; beside those of a network the "
        "lowest and the highest quartile of all seeds. Grams are estimated: measured time, here at batch 64, × "
        f"{settings.watts:g} W × {settings.grams_per_kwh:g} g/kWh, both as stated and neither measured. "
        "Compilation is in neither the grams nor what pays, where it was measured.",
        ["", *(f"{_steps_of(results, row.budget)}{label(row.chooser)}" for row in rows)],
        [[name, *map(write, rows)] for name, write in quantities.items()],
    )


def _ratio(row: Any, size: int) -> str:
    mean, low, high = (getattr(row, f"ratio_{size}{end}") for end in ("", "_low", "_high"))
    return f"{percent(mean)} ({100 * low:.0f} to {100 * high:.0f})"


def _networks_table(page: report.Page, results: Results) -> None:
    """Adds where the networks lie, and how to load one."""
    folders = {run: trajectory_folder(run.config, run.provenance["data"]) for run in results.runs}
    names = {run: f"{label(run.chooser)}, {BUDGETS[run.budget]}, seed {run.seed}" for run in results.runs}
    page.table(
        "Where the networks lie, beside this page: step_000 is the dense one",
        ["", "folder", "last"],
        [[names[run], folder, f"step_{run.last:03}"] for run, folder in folders.items()],
        folded=True,
    )
    example = min(results.runs, key=lambda run: run.chooser in (*CONTROLS, CONTROL))
    page.text(
        "What every step removed, what it left and what the chooser gave both candidates is in steps.csv. Each network "
        "loads by itself, from its shape (JSON) and its weights (safetensors). The last one of a run also lies there "
        "as final.jaxexport, a program that needs JAX alone. Images are [b, h, w, c]."
    )
    page.code(_LOADING.format(folder=folders[example], step=example.last))


_LOADING = """import jax, jax.export, pathlib, jaxprune as jp

specification, network = jp.structured.load("{folder}/step_{step:03}", jp.models.specification)
outputs = network(images)

file = pathlib.Path("{folder}/final.jaxexport")
outputs = jax.export.deserialize(bytearray(file.read_bytes())).call(images)"""
