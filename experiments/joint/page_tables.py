"""The tables on the page of the study of joint pruning."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.joint import tables
from experiments.joint.figures import BUDGETS, condition, label
from experiments.joint.findings import paid_after
from experiments.joint.results import CONTROLS, Results, grouped, radius
from experiments.joint.settings import CONTROL, trajectory_folder
from experiments.shared.pages import percent, points, verdict_cell
from experiments.shared.results import Table
from jaxprune import report
from jaxprune.report import Cell


def steps_of(results: Results, budget: str) -> str:
    """Says which budget a figure or table is of, where there are several."""
    return f"Steps of equal {BUDGETS[budget]}. " if len(results.budgets) > 1 else ""


def verdict_tables(page: report.Page, results: Results, tested: Table) -> None:
    """Adds the verdicts: whether the dense network's accuracy is kept, and whether a control is beaten."""
    hint = "The mean paired difference in points; hover for meaning, interval and shares removed."
    for budget, here in () if tested.empty else tested.groupby("budget", sort=False):
        beats = here.claim.str.startswith("beats")
        questions = {"Is the accuracy of the dense network kept?": here[~beats], "Is it worth choosing?": here[beats]}
        for question, rows in questions.items():
            if len(rows):
                removed = rows.groupby("chooser").removed.max().to_dict()
                heads = [_headed(claim) for claim in dict.fromkeys(rows.claim)]
                named = lambda name, removed=removed: f"{label(name)}, {percent(removed[name])} removed"  # noqa: E731
                caption = f"{steps_of(results, str(budget))}{question} {hint}"
                page.table(caption, ["", *heads], _grid(rows, "chooser", "claim", _verdict, named))


def _headed(claim: str) -> str:
    kind, _, what = claim.partition(" ")
    return f"beats {label(what)}" if kind == "beats" else claim


def _verdict(row: Any) -> Cell:
    cell = verdict_cell(row, points(row.mean))
    at = f"at {percent(row.removed)} of the operations removed"
    at += f" against {percent(row.removed_against)}" if row.against != "dense" else ""
    return cell._replace(hint=f"{row.meaning}: {cell.hint}; {at}")


def cost_tables(page: report.Page, settings: Any, results: Results, costs: Table) -> None:
    """Adds what the last networks cost, what the searches took, and the energy estimated from both."""
    networks, searches, energy = [], [], []
    for row in costs[costs.chooser.isin(results.choosers)].itertuples():
        name = f"{label(row.chooser)}, {BUDGETS[row.budget]}" if len(results.budgets) > 1 else label(row.chooser)
        shares = [percent(getattr(row, count) / getattr(row, f"{count}_dense")) for count in tables.COUNTS]
        networks.append([name, *shares, *(_ratio(row, size) for size in tables.BATCHES)])
        energy.append([name, f"{row.million_seconds_dense:.1f}", f"{row.million_seconds:.1f}"])
        energy[-1] += [f"{row.million_grams_saved:.2g}"]
        if row.search > 0:
            energy[-1] += [f"{row.search_grams:.2g}", paid_after(row.break_even_examples)]
            parts = [getattr(row, f"later_{part}") for part in tables.PARTS]
            deciding = percent(row.deciding) if row.search_later > 0 else "–"
            searches.append([name, *(f"{value:.1f}" for value in (row.search, row.search_first, *parts)), deciding])
    page.table(
        "The last networks, as shares of the dense one, means over seeds. Latency: measured, with the lowest and the "
        "highest quartile of all seeds.",
        ["", "operations", "parameters", "filters", *(f"latency, batch {size}" for size in tables.BATCHES)],
        networks,
    )
    if searches:
        page.table(
            "The searches in seconds, means over seeds. The first step contains compilation, and stands apart; the "
            "parts are sums over all later steps; deciding: criterion and choice as a share of them.",
            ["", "in all", "first step", *(f"later: {part}" for part in tables.PARTS), "deciding"],
            searches,
        )
    page.table(
        f"Estimated: measured time × {settings.watts:g} W × {settings.grams_per_kwh:g} g/kWh, both as stated and "
        f"neither measured. For {tables.EXAMPLES:,} images at batch 64: seconds of the dense network and of the last "
        "ones, and grams of CO2 equivalents saved; grams of the search; the images after which it has paid for itself.",
        ["", "dense (s)", "last (s)", "saved (g)", "search (g)", "pays after"],
        energy,
    )


def _ratio(row: Any, size: int) -> str:
    low, high = (getattr(row, f"ratio_{size}_{end}") for end in ("low", "high"))
    return f"{percent(getattr(row, f'ratio_{size}'))} ({100 * low:.0f} to {100 * high:.0f})"


def steps_table(page: report.Page, results: Results) -> None:
    """Adds every step of every run."""
    rows = []
    for run in results.runs:
        name = f"{steps_of(results, run.budget)}{label(run.chooser)}, seed {run.seed}"
        for number, (step, accuracy) in enumerate(zip(run.steps, run.accuracies(), strict=True)):
            scores = [f"{step['scores'][kind]:.4f}" for kind in ("layer", "neurons") if kind in step["scores"]]
            counts = [f"{step[count]:,}" for count in tables.COUNTS]
            first = "" if number else name
            row = [first, f"{number} {step['kind']}", percent(run.removed[number]), *counts, percent(accuracy)]
            rows.append([*row, " / ".join(scores) or "–"])
    header = ["", "step", "removed", "operations", "parameters", "filters", "accuracy", "layer / neurons"]
    page.table("Every step of every run; at the right what the chooser gave both candidates", header, rows, folded=True)


def networks_table(page: report.Page, results: Results) -> None:
    """Adds where the networks lie, and how to load one."""
    rows, example = [], ""
    for run in results.runs:
        folder = trajectory_folder(run.config, run.provenance["data"])
        if run.chooser not in (*CONTROLS, CONTROL):
            example = example or f"{folder}/step_{run.last:03}"
        steps = f"step_000 to step_{run.last:03}" if run.last else "step_000"
        rows.append([f"{label(run.chooser)}, {BUDGETS[run.budget]}, seed {run.seed}", folder, steps])
    page.table("Where the networks lie, beside this page", ["", "folder", "networks"], rows, folded=True)
    example = example or f"{rows[0][1]}/{rows[0][2].split()[-1]}"
    page.text(
        "Each network loads by itself, from its shape (JSON) and its weights (safetensors). The last one of a run also "
        "lies there as final.jaxexport, a program that needs JAX alone. Images are [b, h, w, c]."
    )
    page.code(
        "import jax, jax.export, pathlib, jaxprune as jp\n\n"
        f'specification, network = jp.structured.load("{example}", jp.models.specification)\n'
        "outputs = network(images)\n\n"
        f'file = pathlib.Path("{Path(example).parent}/final.jaxexport")\n'
        "outputs = jax.export.deserialize(bytearray(file.read_bytes())).call(images)"
    )


def robustness_tables(page: report.Page, results: Results, frame: Table, who: str) -> None:
    """Adds what a chooser's networks lose under every condition: along the way, by corruption, and by class."""
    groups, final = grouped(results.conditions), frame[frame["last"]]
    at = {row.checkpoint: percent(row.removed) for row in frame.itertuples()}
    rows = frame[frame.condition.isin(list(groups)) & (frame["class"] == "all")]
    caption = f"{who}: all conditions, by the share of operations removed"
    page.table(caption, ["", *at.values()], _grid(rows, "condition", "checkpoint", _change, condition), folded=True)
    single = final[final.condition.str.startswith("corrupted/") & (final["class"] == "all")]
    if len(single):
        parts = single.condition.str.removeprefix("corrupted/").str.rsplit("-", n=1)
        single = single.assign(corruption=parts.str[0].str.replace("_", " "), severity=parts.str[1])
        heads = ["", *(f"severity {one}" for one in dict.fromkeys(single.severity))]
        rows = _grid(single, "corruption", "severity", _change)
        page.table(f"{who}: last networks, by corruption and severity", heads, rows, folded=True)
    attacks = [name for name in groups if "/" in name]
    far = max(map(radius, attacks), default=0.0)
    listed = [name for name in groups if name not in attacks or radius(name) == far]
    by_class = final[(final["class"] != "all") & final.condition.isin(listed)]
    sizes = by_class.groupby("class").n.max()
    shown = by_class.assign(name=[f"{one} (n = {sizes[one]})" for one in by_class["class"]])
    heads = [condition(name).split(", ε")[0].replace("made on ", "") for name in dict.fromkeys(shown.condition)]
    caption = f"{who}: last networks, by class"
    caption += f"; attacks with ε = {far:g}/255, others in robustness.csv" if attacks else ""
    page.table(caption, ["class", *heads], _grid(shown, "name", "condition", _change), folded=True)


def _grid(
    frame: Table, down: str, across: str, cell: Callable[[Any], Cell], label: Callable[[str], str] = str
) -> list[list[str | Cell]]:
    """Arranges rows of a table: a column of it down, another across."""
    columns = list(dict.fromkeys(frame[across]))
    rows: list[list[str | Cell]] = []
    for name, cells in frame.groupby(down, sort=False):
        found = {getattr(row, across): cell(row) for row in cells.itertuples()}
        rows.append([label(str(name)), *(found.get(column, "") for column in columns)])
    return rows


def _change(row: Any) -> Cell:
    tone = "good" if row.low > 0 else "bad" if row.high < 0 else ""
    hint = (
        f"95 % interval {points(row.low)} to {points(row.high)}; {percent(row.accuracy)}, dense "
        f"{percent(row.accuracy_dense)}; n = {row.n}"
    )
    return Cell(points(row.difference), tone, hint)
