"""The tables on the page of the study of joint pruning."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments import joint_tables
from experiments.joint_figures import BUDGETS, condition, label
from experiments.joint_findings import paid_after, points
from experiments.joint_results import CONTROLS, Results, kinds, radius
from experiments.joint_settings import CONTROL, trajectory
from experiments.transfer_results import Table
from experiments.wording import MARKS, TONES, percent
from jaxprune import report
from jaxprune.report import Cell


def of(results: Results, budget: str) -> str:
    """Says which budget a figure or table is of, where there are several."""
    return f"Steps of equal {BUDGETS[budget]}. " if len(results.budgets) > 1 else ""


def verdict_tables(page: report.Page, results: Results, tested: Table) -> None:
    """Adds the verdicts: whether the dense network's accuracy is kept, and whether a control is beaten."""
    hint = "The mean paired difference in points; hover for meaning, interval and shares removed."
    for budget, here in tested.groupby("budget", sort=False):
        for caption, chosen in (
            ("Is the accuracy of the dense network kept? " + hint, ~here.claim.str.startswith("beats")),
            ("Is it worth choosing? " + hint, here.claim.str.startswith("beats")),
        ):
            listed = list(dict.fromkeys(here[chosen].claim))
            rows = []
            for chooser, cells in here[chosen].groupby("chooser", sort=False):
                found = {row.claim: row for row in cells.itertuples()}
                removed = percent(max(row.removed for row in found.values()))
                cells = [_verdict(found[claim]) if claim in found else "" for claim in listed]
                rows.append([label(str(chooser)), removed, *cells])
            if rows:
                page.table(f"{of(results, str(budget))}{caption}", ["", "removed", *map(_headed, listed)], rows)


def _headed(claim: str) -> str:
    kind, _, what = claim.partition(" ")
    return f"beats {label(what)}" if kind == "beats" else claim


def _verdict(row: Any) -> Cell:
    at = f"at {percent(row.removed)} of the operations removed"
    at += f" against {percent(row.removed_against)}" if row.against != "dense" else ""
    ends = f"95 % interval {points(row.low)} to {points(row.high)}"
    hint = f"{row.meaning}: {row.verdict}; {ends}, {at}; n = {row.n}, seeds: {row.seeds}"
    return Cell(f"{points(row.difference)} {MARKS[row.verdict]}", TONES[row.verdict], hint)


def cost_tables(page: report.Page, study: Any, results: Results, costs: Table) -> None:
    """Adds what the last networks cost, what the searches took, and the energy estimated from both."""
    networks, searches, energy = [], [], []
    for row in costs[costs.chooser.isin(results.choosers)].itertuples():
        name = f"{label(row.chooser)}, {BUDGETS[row.budget]}" if len(results.budgets) > 1 else label(row.chooser)
        shares = [percent(getattr(row, count) / getattr(row, f"{count}_dense")) for count in joint_tables.COUNTS]
        networks.append([name, *shares, *(_ratio(row, size) for size in joint_tables.BATCHES)])
        energy.append([name, f"{row.million_seconds_dense:.1f}", f"{row.million_seconds:.1f}"])
        energy[-1] += [f"{row.million_grams_saved:.2g}"]
        if row.search > 0:
            energy[-1] += [f"{row.search_grams:.2g}", paid_after(row.break_even_examples)]
            parts = [getattr(row, f"later_{part}") for part in joint_tables.PARTS]
            deciding = percent(row.deciding) if row.search_later > 0 else "–"
            searches.append([name, *(f"{value:.1f}" for value in (row.search, row.search_first, *parts)), deciding])
    page.table(
        "The last networks, as shares of the dense one, means over seeds. Latency: measured, with the lowest and the "
        "highest quartile of all seeds.",
        ["", "operations", "parameters", "filters", *(f"latency, batch {size}" for size in joint_tables.BATCHES)],
        networks,
    )
    if searches:
        page.table(
            "The searches in seconds, means over seeds. The first step contains compilation, and stands apart; the "
            "parts are sums over all later steps; deciding: criterion and choice as a share of them.",
            ["", "in all", "first step", *(f"later: {part}" for part in joint_tables.PARTS), "deciding"],
            searches,
        )
    page.table(
        f"Estimated: measured time × {study.watts:g} W × {study.grams_per_kwh:g} g/kWh, both as stated and neither "
        f"measured. For {joint_tables.EXAMPLES:,} images at batch 64: seconds of the dense network and of the last "
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
    for course in results.courses:
        name = f"{of(results, course.budget)}{label(course.chooser)}, seed {course.seed}"
        for number, step in enumerate(course.steps):
            told = [f"{step['scores'][kind]:.4f}" for kind in ("layer", "neurons") if kind in step["scores"]]
            right = float(course.right(number).mean())
            removed = percent(course.removed[number])
            counts = [f"{step[count]:,}" for count in joint_tables.COUNTS]
            rows.append(["" if number else name, f"{number} {step['kind']}", removed, *counts, percent(right)])
            rows[-1].append(" / ".join(told) or "–")
    header = ["", "step", "removed", "operations", "parameters", "filters", "accuracy", "layer / neurons"]
    page.table("Every step of every run; at the right what the chooser gave both candidates", header, rows, folded=True)


def networks_table(page: report.Page, found: Sequence[dict[str, Any]]) -> None:
    """Adds where the networks lie, and how to load one."""
    rows, first = [], ""
    for record, folder in zip(found, _folders(found), strict=True):
        config, last = record["config"], len(record["metrics"]["steps"]) - 1
        compared = config["chooser"] not in (*CONTROLS, CONTROL)
        first = first or (f"{folder}/step_{last:03}" if compared else "")
        steps = "step_000" if last == 0 else f"step_000 to step_{last:03}"
        rows.append([f"{label(config['chooser'])}, {BUDGETS[config['budget']]}, seed {config['seed']}", folder, steps])
    page.table("Where the networks lie, beside this page", ["", "folder", "networks"], rows, folded=True)
    first = first or f"{rows[0][1]}/{rows[0][2].split()[-1]}"
    page.text(
        "Each network loads by itself, from its shape (JSON) and its weights (safetensors). The last one of a run also "
        "lies there as final.jaxexport, a program that needs JAX alone. Images are [b, h, w, c]."
    )
    page.code(
        "import jax, jax.export, pathlib, jaxprune as jp\n\n"
        f'specification, network = jp.structured.load("{first}", jp.models.specification)\n'
        "outputs = network(images)\n\n"
        f'file = pathlib.Path("{Path(first).parent}/final.jaxexport")\n'
        "outputs = jax.export.deserialize(bytearray(file.read_bytes())).call(images)"
    )


def _folders(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    for record in found:
        yield f"trajectories/{trajectory(record['config'])}"


def robustness_tables(page: report.Page, results: Results, frame: Table, who: str) -> None:
    """Adds what a chooser's networks lose under every condition: along the way, by corruption, and by class."""
    grouped, final = kinds(results.conditions), frame[frame["last"]]
    at = {row.checkpoint: percent(row.removed) for row in frame.itertuples()}
    rows = _grid(frame[frame.condition.isin(list(grouped)) & (frame["class"] == "all")], "condition", "checkpoint")
    page.table(
        f"{who}: all conditions, by the share of operations removed",
        ["", *at.values()],
        rows,
        folded=True,
    )
    single = final[final.condition.str.startswith("corrupted/") & (final["class"] == "all")]
    if len(single):
        parts = single.condition.str.removeprefix("corrupted/").str.rsplit("-", n=1)
        single = single.assign(corruption=parts.str[0].str.replace("_", " "), severity=parts.str[1])
        page.table(
            f"{who}: last networks, by corruption and severity",
            ["", *(f"severity {one}" for one in dict.fromkeys(single.severity))],
            _grid(single, "corruption", "severity"),
            folded=True,
        )
    attacks = [name for name in grouped if "/" in name]
    far = max(map(radius, attacks), default=0.0)
    listed = [name for name in grouped if name not in attacks or radius(name) == far]
    by_class = final[(final["class"] != "all") & final.condition.isin(listed)]
    sizes = by_class.groupby("class").n.max()
    shown = by_class.assign(name=[f"{one} (n = {sizes[one]})" for one in by_class["class"]])
    page.table(
        f"{who}: last networks, by class" + f"; attacks with ε = {far:g}/255, others in robustness.csv" * bool(attacks),
        [
            "class",
            *(condition(name).split(", ε")[0].replace("made on ", "") for name in dict.fromkeys(shown.condition)),
        ],
        _grid(shown, "name", "condition"),
        folded=True,
    )


def _grid(frame: Table, down: str, across: str) -> list[list[str | Cell]]:
    columns = list(dict.fromkeys(frame[across]))
    rows: list[list[str | Cell]] = []
    for name, cells in frame.groupby(down, sort=False):
        found = {getattr(row, across): _change(row) for row in cells.itertuples()}
        shown = condition(str(name)) if down == "condition" else str(name)
        rows.append([shown, *(found.get(column, "") for column in columns)])
    return rows


def _change(row: Any) -> Cell:
    tone = "good" if row.low > 0 else "bad" if row.high < 0 else ""
    hint = (
        f"95 % interval {points(row.low)} to {points(row.high)}; {percent(row.accuracy)}, dense "
        f"{percent(row.accuracy_dense)}; n = {row.n}"
    )
    return Cell(points(row.difference), tone, hint)
