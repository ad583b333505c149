"""The page of the transfer study: what was found, with its figures and tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from experiments import options
from experiments.transfer_results import GROUPS, STAGES, Results, accuracies, claims, losses, reach, runs, verdicts
from jaxprune import data, files, report

_TONES = {"holds": "good", "does not hold": "bad", "undecided": "unsure", "undecided (floor)": "none"}
_MARKS = {"holds": "holds", "does not hold": "no", "undecided": "undecided", "undecided (floor)": "floor"}
_NAMES = {
    "magnitude": "magnitude",
    "diagonal": "Hessian diagonal",
    "block-quadratic": "Hessian block, quadratic",
    "block-signed": "Hessian block, quadratic (signed)",
    "block-obs": "Hessian block, surgeon",
    "random": "random mask",
}


def write(study: Any, records: Sequence[dict[str, Any]], console: Console) -> Path:
    """Writes tables (CSV), figures and the page of a finished study; prints the main table; returns the page's path."""
    results = Results(records)
    listed = claims(study.margin, results.groups, control="random" in results.scores)
    tested, measured = verdicts(results, listed), accuracies(results)
    tables = {"accuracy": measured, "verdicts": tested, "runs": runs(records), "losses": losses(records)}
    for name, frame in tables.items():
        files.write(study.out / f"{name}.csv", frame.to_csv(index=False))
    page = compose(study, records, results, tested, tables)
    path = study.out / "index.html"
    page.write(path)
    _print(results, measured, console)
    console.print(f"Tables: {study.out}/*.csv\nPage:   {path}")
    return path


def compose(
    study: Any, records: Any, results: Results, tested: pd.DataFrame, tables: dict[str, pd.DataFrame]
) -> report.Page:
    """Puts the page together."""
    page = report.Page(
        "What a pruned network keeps",
        f"A network pretrained on {_DATA.get(study.data, study.data)} is pruned with data of one task only ({study.source}). "
        "Does it keep its zero-shot accuracy on that task, and on tasks it was never shown? And does fine-tuning on that "
        "one task bring the others back?",
    )
    page.section("What was found")
    page.points(findings(study, results, tested, tables["accuracy"]))
    if study.data in ("digits", "shapes"):
        page.drawing(
            _examples(study), "The data: classes of each task as they are (left), and the first task under each shift."
        )
    page.section("Accuracy against sparsity")
    page.drawing(
        _curves(results, tables["accuracy"]),
        "Zero-shot accuracy with the frozen head of each task; bands are 95 % bootstrap intervals over seeds and test "
        "examples. The dashed line is the dense network (below: fine-tuned equally long), the dotted line is chance.",
    )
    page.section("The two predictions, tested")
    page.text(
        f"P1: a pruned network keeps the accuracy of the dense one. It holds where the whole interval of the paired "
        f"difference lies above −{100 * study.margin:g} points, and does not hold where all of it lies below. P2: "
        "fine-tuning on the source helps the others (its difference to the pruned network is above 0), spares them (it loses "
        f"at most {100 * study.margin:g} points), and restores them (to {100 * study.margin:g} points of the dense network). A comparison of two networks that are both at chance "
        "says nothing: floor. Hover over a cell for its difference and interval. Every cell stands for itself: nothing "
        "is corrected for the number of comparisons."
    )
    _verdict_tables(page, results, tested)
    page.section("Source against transfer")
    page.drawing(
        _source_against_transfer(results, tables["accuracy"]),
        "Each line is one score, from dense (upper right) to the highest sparsity. Above the diagonal a network is better "
        "on what it was never shown than on what pruned it.",
    )
    page.section("Does the quadratic model predict the damage?")
    page.drawing(
        _predictions(results, tables["losses"]),
        "Increase of the source loss on the scoring data by pruning: measured, against w′Hw/2 of the removed weights w with "
        "the exact Hessian of the dense network. One point for each seed and sparsity; the line is equality. The quadratic "
        "model knows nothing of the gradient or of higher orders.",
    )
    page.section("All accuracies")
    _accuracy_table(page, results, tables["accuracy"])
    _method(page, study, records, results)
    return page


_DATA = {"digits": "handwritten digits", "shapes": "painted shapes with textures"}


def findings(study: Any, results: Results, tested: pd.DataFrame, measured: pd.DataFrame) -> list[tuple[str, str]]:
    """States what was found, whichever way it came out, in sentences made from the verdicts."""
    first = [one["pretrained"]["accuracy"] for one in results.metrics("dense", 0.0)]
    dense = [
        f"{_percent(results.accuracy('dense', 0.0, 'pruned', group).mean)} on {GROUPS[group]}"
        for group in results.groups
    ]
    sentences = [
        (
            "The dense network.",
            f"Its own classifier tells all classes apart with {_percent(float(np.mean(first)))} accuracy; with the frozen "
            f"heads it reaches {', '.join(dense)} ({len(results.seeds)} seeds).",
        )
    ]
    within = f"shown to stay within {100 * study.margin:g} points of dense"
    for group in results.groups:
        told = f"Pruned and not fine-tuned, accuracy is {within} {_reaches(results, tested, f'P1 {group}')}."
        sentences.append((f"P1, {GROUPS[group]}.", told))
    for group in results.groups[1:]:
        rows = tested[(tested.claim == f"P2 helps {group}") & (tested.score != "random")]
        told = (
            f"Fine-tuning on {study.source} alone {_tally(rows)}. After it, accuracy is {within} "
            f"{_reaches(results, tested, f'P2 restores {group}')}."
        )
        sentences.append((f"P2, {GROUPS[group]}.", told))
    return [*sentences, *_order_on_transfer(results, measured)]


def _reaches(results: Results, tested: pd.DataFrame, claim: str) -> str:
    found = {score: reach(tested, claim, score) for score in results.scores}
    limits: dict[float, list[str]] = {}
    for score, limit in found.items():
        if limit is not None:
            limits.setdefault(limit, []).append(_name(score))
    named = [f"up to {_percent(limit)} sparsity by {_and(limits[limit])}" for limit in sorted(limits, reverse=True)]
    never = [_name(score) for score, limit in found.items() if limit is None]
    lowest = _percent(results.sparsities[0])
    if not named:
        return f"by no score, even at {lowest}"
    return ", ".join(named) + (f"; not even at {lowest} by {_and(never)}" if never else "")


def _tally(rows: pd.DataFrame) -> str:
    counts = rows.verdict.value_counts()
    helped = rows[rows.verdict == "holds"]
    where = ""
    if len(helped):
        where = f" (at sparsities from {_percent(helped.sparsity.min())} to {_percent(helped.sparsity.max())})"
    return (
        f"is shown to help in {counts.get('holds', 0)} of {len(rows)} cases{where} and to harm in "
        f"{counts.get('does not hold', 0)}; {counts.get('undecided', 0)} are undecided, and in "
        f"{counts.get('undecided (floor)', 0)} both sides are at chance"
    )


def _order_on_transfer(results: Results, measured: pd.DataFrame) -> list[tuple[str, str]]:
    here = (measured["head"] == "frozen") & (measured.stage == "pruned") & ~measured.score.isin(["dense", "random"])
    means = measured[here].pivot_table(index="score", columns="group", values="accuracy")
    if len(means) < 2:
        return []
    orders = [
        f"on {GROUPS[group]} " + ", ".join(f"{_name(str(score))} {_percent(value)}" for score, value in order.items())
        for group in ("source", "transfer")
        for order in [means[group].sort_values(ascending=False)]
    ]
    told = f"Averaged over all sparsities, before fine-tuning: {'; '.join(orders)}."
    return [("What a score looks at.", told)]


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


# ------------------------------------------------------------------------------------------------------ figures


def _curves(results: Results, measured: pd.DataFrame) -> Figure:
    rows = measured[measured["head"] == "frozen"]
    with report.figure(3.6 * len(results.groups), 6.4) as drawn:
        axes = np.atleast_2d(drawn.subplots(2, len(results.groups), sharex=True, sharey=True))
        for across, stage in zip(axes, STAGES, strict=True):
            for axis, group in zip(across, results.groups, strict=True):
                here = rows[(rows.stage == stage) & (rows["group"] == group)]
                dense = here[here.score == "dense"].accuracy.item()
                axis.axhline(dense, color="#2b2922", linestyle="--", linewidth=1)
                axis.axhline(results.chance(group), color="#8a8578", linestyle=":", linewidth=1.2)
                for score in results.scores:
                    one = here[here.score == score].sort_values("sparsity")
                    style = _line(results, score)
                    axis.fill_between(
                        100 * one.sparsity, one.low, one.high, color=style["color"], alpha=0.13, linewidth=0
                    )
                    axis.plot(100 * one.sparsity, one.accuracy, label=_name(score), **style)
                axis.set_ylim(0, 1.02)
                axis.set_title(GROUPS[group] if stage == "pruned" else "")
        axes[0, 0].set_ylabel("accuracy, pruned")
        axes[1, 0].set_ylabel("accuracy, fine-tuned on source")
        for axis in axes[1]:
            axis.set_xlabel("sparsity (%)")
        drawn.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(results.scores))
        return drawn


def _source_against_transfer(results: Results, measured: pd.DataFrame) -> Figure:
    rows = measured[measured["head"] == "frozen"]
    with report.figure(9.5, 4.6) as drawn:
        for axis, stage in zip(drawn.subplots(1, 2, sharex=True, sharey=True), STAGES, strict=True):
            axis.plot([0, 1], [0, 1], color="#c9c2b1", linewidth=1)
            here = rows[rows.stage == stage].pivot_table(
                index=["score", "sparsity"], columns="group", values="accuracy"
            )
            dense = here.loc[("dense", 0.0)]
            for score in results.scores:
                one = here.loc[score]
                x, y = [dense["source"], *one["source"]], [dense["transfer"], *one["transfer"]]
                axis.plot(x, y, label=_name(score), **_line(results, score))
            axis.set_title("pruned" if stage == "pruned" else "fine-tuned on source")
            axis.set(
                xlabel="accuracy on the source task",
                ylabel="accuracy on tasks never shown",
                xlim=(0, 1.02),
                ylim=(0, 1.02),
            )
            axis.set_aspect("equal")
        drawn.legend(*axis.get_legend_handles_labels(), loc="outside right center")
        return drawn


def _predictions(results: Results, frame: pd.DataFrame) -> Figure:
    with report.figure(9.5, 4.4) as drawn:
        axis = drawn.subplots()
        rows = frame[frame.score != "dense"]
        low = max(1e-5, min(rows.quadratic[rows.quadratic > 0].min(), rows.true[rows.true > 0].min()))
        high = max(rows.quadratic.max(), rows.true.max())
        axis.plot([low, high], [low, high], color="#c9c2b1", linewidth=1)
        for score in results.scores:
            one = rows[rows.score == score]
            color = _line(results, score)["color"]
            axis.scatter(one.quadratic, one.true, s=20, color=color, alpha=0.75, label=_name(score), linewidths=0)
        # Linear near zero, so that a loss that fell is on the plot too.
        axis.set_xscale("symlog", linthresh=1e-3)
        axis.set_yscale("symlog", linthresh=1e-3)
        axis.set(xlabel="predicted increase of the loss, w′Hw/2", ylabel="true increase of the loss")
        drawn.legend(*axis.get_legend_handles_labels(), loc="outside right center")
        return drawn


def _examples(study: Any) -> Figure:
    images, tasks = options.load(study.data, study.data_folder)
    first = [[int(np.flatnonzero(images.labels == label)[0]) for label in task.classes] for task in tasks[:2]]
    rows = [(task.name, images.images(np.array(indices))) for task, indices in zip(tasks, first, strict=False)]
    rows += [(shift, data.shift(rows[0][1], shift, 0)) for shift in study.shifts]
    columns = max(len(pictures) for _, pictures in rows)
    with report.figure(0.62 * columns * 3 + 0.4, 0.62 * (-(-len(rows) // 2)) + 0.5) as drawn:
        grid = drawn.add_gridspec(-(-len(rows) // 2), 2)
        for number, (name, pictures) in enumerate(rows):
            axis = drawn.add_subplot(grid[number // 2, number % 2])
            strip = np.concatenate(
                [np.pad(one, ((0, 0), (0, 1), (0, 0)), constant_values=1) for one in pictures], axis=1
            )
            axis.imshow(strip.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set_title(name, fontsize=9, fontweight="normal", loc="left", pad=3)
            axis.set_axis_off()
        return drawn


def _line(results: Results, score: str) -> dict[str, Any]:
    if score == "random":
        return {"color": "#8a8578", "marker": ".", "linewidth": 1.2, "linestyle": "-."}
    named = [other for other in results.scores if other != "random"]
    return {
        "color": report.COLOURS[named.index(score) % len(report.COLOURS)],
        "marker": "o",
        "markersize": 3.5,
        "linewidth": 1.6,
    }


# ------------------------------------------------------------------------------------------------------- tables


def _verdict_tables(page: report.Page, results: Results, tested: pd.DataFrame) -> None:
    header = ["", *(_percent(sparsity) for sparsity in results.sparsities)]
    for claim, rows in tested.groupby("claim", sort=False):
        table = [
            [_name(str(score)), *map(_verdict, cells.itertuples())]
            for score, cells in rows.groupby("score", sort=False)
        ]
        page.table(f"{claim}: {rows.meaning.iloc[0]}", header, table)


def _verdict(cell: Any) -> report.Cell:
    ends = f"95 % interval {100 * cell.low:+.1f} to {100 * cell.high:+.1f}"
    return report.Cell(
        _MARKS[cell.verdict], _TONES[cell.verdict], f"{cell.verdict}: {100 * cell.difference:+.1f} points, {ends}"
    )


def _accuracy_table(page: report.Page, results: Results, measured: pd.DataFrame) -> None:
    meanings = {
        "frozen": "Zero-shot: heads fitted on dense features, then frozen",
        "refitted": "Heads refitted on the features of each network: what is still there to be read; not zero-shot",
    }
    for head, meaning in meanings.items():
        rows, last = [], ""
        for (score, sparsity), cells in measured[measured["head"] == head].groupby(["score", "sparsity"], sort=False):
            numbers = cells.set_index(["group", "stage"])
            shown = [_pair(numbers.loc[group]) for group in results.groups]
            rows.append(["" if score == last else _name(str(score)), _percent(float(sparsity)), *shown])  # type: ignore[arg-type]
            last = score
        caption = f"{meaning}. Accuracy in percent, pruned → fine-tuned; hover for intervals."
        page.table(caption, ["", "sparsity", *results.groups], rows, folded=True)


def _pair(stages: pd.DataFrame) -> report.Cell:
    values = [stages.loc[stage] for stage in STAGES]
    hint = "; ".join(f"95 % interval {100 * one.low:.1f} to {100 * one.high:.1f}, n = {one.n:.0f}" for one in values)
    return report.Cell(" → ".join(f"{100 * one.accuracy:.1f}" for one in values), "", hint)


def _method(page: report.Page, study: Any, records: Any, results: Results) -> None:
    first = records[0]
    sizes = ", ".join(f"{share:.0%} {part}" for part, share in data.FRACTIONS.items())
    pruning = "one-shot" if study.rounds == 1 else f"{study.rounds} rounds, scored anew in each"
    page.section("How it was done")
    page.points(
        [
            (
                "Network.",
                f"CIFAR ResNet of depth {study.depth} and width {study.width}, pretrained on all classes. Every kernel but "
                f"the classifier's is prunable ({len(first['metrics']['layer_sparsity'])} kernels).",
            ),
            ("Splits.", f"Disjoint and stratified, anew for each seed: {sizes}."),
            (
                "Heads.",
                f"A {study.head} head is fitted for each task on features of the dense network, then frozen; its penalty is "
                "chosen on the selection split. That is what zero-shot means here.",
            ),
            (
                "Pruning.",
                f"Global, {pruning}, by scores of the {study.loss.replace('_', ' ')} of the source task through its frozen "
                "head, on the scoring split.",
            ),
            (
                "Hessian block.",
                "The exact Hessian of all weights into one unit. Quadratic: |w (Hw)| / 2, ranked by size. Surgeon: "
                f"w² / 2[H⁻¹]jj, damped by {study.damping:g} of the mean diagonal, without update of the other weights. The "
                "paper's own block score could not be had; neither form is called the paper's.",
            ),
            (
                "Fine-tuning.",
                f"{study.finetune_steps} steps of Adam on the source task through its frozen head, which is not trained; "
                "BatchNorm statistics stay as pretrained.",
            ),
            (
                "Intervals.",
                "Two-level bootstrap over seeds and test examples, paired in comparisons; shifted copies of one image count "
                f"once. {len(results.seeds)} seeds are few: the intervals are somewhat too narrow.",
            ),
            (
                "Source.",
                "Iurada, Occhiena and Tommasi (2025), A Second-Order Perspective on Pruning at Initialization and Knowledge "
                "Transfer, arXiv 2509.24066. Protocol, data and network are ours.",
            ),
        ]
    )
    place = first["provenance"]
    versions = ", ".join(f"{name} {version}" for name, version in place["packages"].items())
    page.text(
        f"{len(records)} runs, {sum(one['provenance']['seconds'] for one in records) / 60:.1f} minutes without pretraining "
        f"and scoring, on {', '.join(sorted(set(place['devices'])))}. {versions}; Python {place['python']}; commit "
        f"{place['commit'][:12]}."
    )


def _print(results: Results, measured: pd.DataFrame, console: Console) -> None:
    rows = measured[measured["head"] == "frozen"]
    table = Table(title="Zero-shot accuracy (%): pruned → fine-tuned on the source")
    table.add_column("score")
    table.add_column("sparsity", justify="right")
    for group in results.groups:
        table.add_column(group, justify="right")
    for (score, sparsity), cells in rows.groupby(["score", "sparsity"], sort=False):
        value = cells.set_index(["group", "stage"]).accuracy
        shown = [" → ".join(f"{100 * value[group, stage]:5.1f}" for stage in STAGES) for group in results.groups]
        table.add_row(_name(str(score)), _percent(float(sparsity)), *shown)  # type: ignore[arg-type]
    console.print(table)


def _name(score: str) -> str:
    return _NAMES.get(score, score)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
