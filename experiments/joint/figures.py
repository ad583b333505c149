"""The figures of the study of joint pruning."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from experiments.joint.results import CONTROLS, Results, Searched, accuracy, evenly, mean_removed, radius
from experiments.joint.settings import CONTROL
from experiments.joint.tables import comparisons
from experiments.shared.results import Table
from jaxprune import report

_INK = "#2b2922"
_SOFT = "#8a8578"
_PAGE = "#fbf9f4"
ONLY_CANDIDATE = "#c9c2b1"
LAYER, NEURONS = report.COLOURS[1], report.COLOURS[2]
_COLOURS = {"layer": LAYER, "neurons": NEURONS}
_BAR, _GHOST, _HATCH = "#5b6b7c", "#ece7da", "#cfc8b6"
_MOST = 9
"""Networks in a row at most; of longer runs some are left out, evenly."""
SEEDS = 3
"""Seeds in the strips: the first ones."""
MARKERS = {"layer": "s", "neurons": "o"}

_LABELS = {
    "cka": "CKA",
    **{f"cka-{kind}": f"CKA ({kind})" for kind in ("biased", "rbf", "minibatch", "streaming")},
    "procrustes": "Procrustes",
    "always-layer": "always taking a layer",
    "always-neurons": "always taking neurons",
    "random": "tossing a coin",
    CONTROL: "training on without pruning",
}
BUDGETS = {"macs": "operations", "parameters": "parameters", "filters": "filters", "latency": "latency"}
"""What a budget counts, in words."""


def label(chooser: str) -> str:
    """Returns what figures, tables and sentences call a chooser."""
    return _LABELS.get(chooser, chooser)


def accuracies(results: Results) -> Figure:
    """Draws accuracy against the operations that are gone: a column for each budget, a line for each chooser."""
    with report.figure(9.5, 4.3) as drawn:
        axes = drawn.subplots(1, len(results.budgets), sharex=True, sharey=True, squeeze=False)[0]
        lowest = []
        for axis, budget in zip(axes, results.budgets, strict=True):
            runs = [run for chooser in results.choosers for run in results.of(budget, chooser)]
            lowest += [float(run.accuracies().min()) for run in runs]
            for chooser in results.pruning(budget):
                lowest.append(_mean_line(axis, results, budget, chooser))
                _mark_end(axis, results, budget, chooser)
            dense = float(np.mean([run.accuracies()[0] for run in runs]))
            axis.axhline(dense, color=_INK, linestyle="--", linewidth=1, label="dense")
            tuned = [run.accuracies()[-1] for run in results.of(budget, CONTROL)]
            if tuned:
                lowest.append(float(min(tuned)))
                axis.axhline(float(np.mean(tuned)), color=_INK, linestyle=":", linewidth=1.4, label=label(CONTROL))
            axis.set_xlabel("operations removed (%)")
            axis.set_title(f"steps of equal {BUDGETS[budget]}" if len(axes) > 1 else "")
        margin = 0.08 * (1 - min(lowest)) + 1e-3
        for axis in axes:
            axis.set_ylim(min(lowest) - margin, 1 + min(margin / 2, 0.02))
            if 1 / results.classes > min(lowest) - margin:
                axis.axhline(1 / results.classes, color=_SOFT, linestyle=":", linewidth=1.2, label="chance")
        axes[0].set_ylabel("accuracy")
        return _with_legend(drawn, axes)


def scores(results: Results, budget: str) -> Figure | None:
    """Draws the scores of both candidates of every step; None where no chooser compared any."""
    shown = [chooser for chooser in results.choosers if list(comparisons(results.of(budget, chooser)))]
    if not shown:
        return None
    columns = max(len(results.of(budget, chooser)) for chooser in shown)
    with report.figure(max(9.5, 2.4 * columns), 2.8 * len(shown) + 0.5) as drawn:
        axes = drawn.subplots(len(shown), columns, sharex=True, sharey="row", squeeze=False)
        for across, chooser in zip(axes, shown, strict=True):
            for axis in across[len(results.of(budget, chooser)) :]:
                axis.set_axis_off()
            for axis, run in zip(across, results.of(budget, chooser), strict=False):
                _candidates(axis, run)
                axis.set_title(f"seed {run.seed}" if chooser == shown[0] else "")
            across[0].set_ylabel(f"{label(chooser)} to the parent")
        for axis in axes[-1]:
            axis.set_xlabel("step")
        looks = {f"{kind} removed": (MARKERS[kind], color, color) for kind, color in _COLOURS.items()}
        looks |= {f"{kind}, not kept": (MARKERS[kind], color, "white") for kind, color in _COLOURS.items()}
        looks["only candidate"] = ("o", ONLY_CANDIDATE, ONLY_CANDIDATE)
        names = ("marker", "color", "markerfacecolor")
        marks = [Line2D([], [], linestyle="none", **dict(zip(names, look, strict=True))) for look in looks.values()]
        drawn.legend(marks, list(looks), loc="outside lower center", ncols=5)
        return drawn


def robustness(results: Results, frame: Table, budget: str) -> Figure:
    """Draws the change of accuracy from the dense network: clean, corrupted and shifted images."""
    return _changes(results, frame, budget, [["clean", "corrupted", "shifted"]], 3.4)


def attacks(results: Results, frame: Table, budget: str) -> Figure | None:
    """Draws the change under attack: a row for each attack and its origin, a column for each radius; None without."""
    names = [name for name in dict.fromkeys(frame.condition) if name.startswith(("white-box/", "transfer/"))]
    rows: dict[str, list[str]] = {}
    for name in sorted(names, key=lambda name: (name.startswith("transfer/"), radius(name))):
        rows.setdefault(condition(name).split(", ε")[0], []).append(name)
    return _changes(results, frame, budget, list(rows.values()), 2.1 * len(rows) + 0.9) if rows else None


def style(results: Results, chooser: str) -> dict[str, Any]:
    """Returns how the line of a chooser looks, in all figures of the study."""
    fixed = {"random": (_SOFT, "-."), "always-neurons": (NEURONS, "-"), "always-layer": (LAYER, "-")}
    others = [name for name in results.choosers if name not in CONTROLS]
    free = [color for color in report.COLOURS if color not in (LAYER, NEURONS)]
    color, line = fixed.get(chooser) or (free[others.index(chooser) % len(free)], "-")
    return {"color": color, "linestyle": line, "linewidth": 2.0 if chooser not in CONTROLS else 1.3}


def _mean_line(axis: Any, results: Results, budget: str, chooser: str) -> float:
    """Draws the mean over seeds with its interval, and returns the lowest end of that."""
    along = results.step_by_step(budget, chooser)
    x = [100 * mean_removed(networks) for networks in along]
    mean, low, high = np.array([accuracy(networks) for networks in along]).T
    look = style(results, chooser)
    axis.fill_between(x, low, high, color=look["color"], alpha=0.07, linewidth=0)
    for edge in (low, high):
        axis.plot(x, edge, color=look["color"], alpha=0.35, linewidth=0.6)
    axis.plot(x, mean, label=label(chooser), marker=".", markersize=5, **look)
    return float(low.min())


def _mark_end(axis: Any, results: Results, budget: str, chooser: str) -> None:
    """Marks where a chooser could not go on, although the target was not reached."""
    ended = [(run, step) for run, step in results.last_and_dense(budget, chooser)[0] if run.short]
    if not ended:
        return
    x, y = 100 * mean_removed(ended), accuracy(ended).mean
    color = style(results, chooser)["color"]
    axis.plot(x, y, marker="X", markersize=8, color=color, markeredgecolor="white", linestyle="none", zorder=5)
    axis.vlines(x, 0, y, color=color, linewidth=1, linestyle=":")
    place = axis.get_xaxis_transform()  # at the foot, where few lines are
    axis.text(x + 0.6, 0.03, f"{label(chooser)}: no further", color=color, fontsize=8.5, transform=place)


def _candidates(axis: Any, run: Searched) -> None:
    places = axis.get_xaxis_transform()
    for step in run.steps[1:]:
        number, found = step["number"], step["scores"]
        if len(found) < 2:
            # At the foot of the panel: there was nothing to compare.
            look = {"marker": MARKERS[step["kind"]], "color": ONLY_CANDIDATE, "markersize": 5, "linestyle": ""}
            axis.plot(number, 0.04, transform=places, **look)
            continue
        axis.vlines(number, min(found.values()), max(found.values()), color=ONLY_CANDIDATE, linewidth=1, zorder=1)
        for kind, value in found.items():
            color = _COLOURS[kind]
            filled = color if kind == step["kind"] else "white"
            look = {"markersize": 6.5, "markeredgecolor": color, "markerfacecolor": filled, "linestyle": "none"}
            beside = -0.08 if kind == "layer" else 0.08  # so that near ties can be told apart
            axis.plot(number + beside, value, marker=MARKERS[kind], **look)
    axis.margins(y=0.16)
    axis.set_xlim(0.4, run.last + 0.6)


def _changes(results: Results, frame: Table, budget: str, rows: list[list[str]], height: float) -> Figure:
    here = frame[(frame.budget == budget) & (frame["class"] == "all")]
    columns, choosers = max(map(len, rows)), results.pruning(budget)
    with report.figure(9.5, height) as drawn:
        axes = drawn.subplots(len(rows), columns, sharex=True, sharey=len(rows) > 1 and "row", squeeze=False)
        for across, names in zip(axes, rows, strict=True):
            for axis, name in zip(across, names, strict=False):
                axis.axhline(0, color=_INK, linestyle="--", linewidth=1, label="dense")
                for place, chooser in enumerate(choosers):
                    one = here[(here.chooser == chooser) & (here.condition == name)]
                    look = style(results, chooser)
                    # Beside each other, so that bars of equal shares can be told apart.
                    x = np.r_[0.0, 100 * one.removed + 0.7 * (place - (len(choosers) - 1) / 2)]
                    axis.vlines(x[1:], 100 * one.low, 100 * one.high, color=look["color"], linewidth=1.1)
                    axis.plot(x, np.r_[0.0, 100 * one.difference], marker=".", label=label(chooser), **look)
                tuned = here[(here.chooser == CONTROL) & (here.condition == name) & here["last"]]
                for value in tuned.difference:
                    axis.axhline(100 * value, color=_INK, linestyle=":", linewidth=1.4, label=label(CONTROL))
                axis.set_title(condition(name), fontsize=10)
            for axis in across[len(names) :]:
                axis.set_axis_off()
            across[0].set_ylabel("change (points)")
        for axis in axes[-1]:
            axis.set_xlabel("operations removed (%)")
        return _with_legend(drawn, axes.flat)


def condition(name: str) -> str:
    """Returns what figures and tables call a condition.

    >>> condition("white-box/fgsm-2/255"), condition("clean")
    ('FGSM, white-box, ε = 2/255', 'clean')
    """
    if "/" not in name:
        return name
    origin, attack = name.split("/", 1)
    kind, radius = attack.split("-", 1)
    return f"{kind.upper()}, {origin.replace('transfer', 'made on dense')}, ε = {radius}"


def _with_legend(drawn: Figure, axes: Any) -> Figure:
    found = {text: line for axis in axes for line, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    drawn.legend(list(found.values()), list(found), loc="outside lower center", ncols=6)
    return drawn


# ---------------------------------------------------------------------------------------- the shapes of networks


def _widths(step: dict[str, Any], names: Sequence[str]) -> np.ndarray:
    """Returns the filters inside each of the named blocks; 0 where a block is gone."""
    blocks = step["shape"]["blocks"]
    return np.array([sum(blocks.get(name, ())) for name in names])


def _blocks(run: Searched) -> list[str]:
    """Names the blocks of the dense network, in the order of the data."""
    return sorted(run.steps[0]["shape"]["blocks"], key=_place)


def silhouettes(results: Results, budget: str, seed: int) -> Figure:
    """Draws the networks of one seed: a row for each chooser, from the dense network on; data flows down.

    What went since the network to its left is coloured: a block that was removed, or the filters that a block lost.
    """
    runs = [run for chooser in results.choosers for run in results.of(budget, chooser) if run.seed == seed]
    columns = max(len(evenly(_MOST, len(run.steps))) for run in runs)
    tall = 0.085 * len(_blocks(runs[0])) + 0.62
    with report.figure(9.5, tall * len(runs) + 0.5) as drawn:
        axes = drawn.subplots(len(runs), columns, squeeze=False)
        for across, run in zip(axes, runs, strict=True):
            numbers = evenly(_MOST, len(run.steps))
            for place, axis in enumerate(across):
                axis.set_axis_off()
                if place < len(numbers):
                    _silhouette(axis, run, numbers[place], numbers[max(place - 1, 0)])
            if len(numbers) < columns and run.short:
                axis = across[len(numbers)]
                axis.text(0, 0.5, "no further:\nthe floor", transform=axis.transAxes, fontsize=8.5, color=LAYER)
            across[0].text(
                -0.12, 0.5, label(run.chooser), transform=across[0].transAxes, rotation=90, va="center", ha="right",
                fontsize=9.5, fontweight="bold",
            )  # fmt: skip
        legend = {"filters that stay": _BAR, "filters that went": NEURONS, "block that went": LAYER, "gone": _GHOST}
        drawn.legend([Patch(color=color) for color in legend.values()], legend, loc="outside lower center", ncols=4)
        return drawn


def strips(results: Results, budget: str) -> Figure:
    """Draws what is left of every block, step by step: a row for each seed, a column for each chooser."""
    seeds, choosers = results.seeds[:SEEDS], [name for name in results.choosers if results.of(budget, name)]
    names = _blocks(results.runs[0])
    height = (0.15 * len(names) + 0.35) * len(seeds) + 0.6
    with report.figure(max(9.5, 2.3 * len(choosers)), height) as drawn:
        axes = drawn.subplots(len(seeds), len(choosers), sharey=True, squeeze=False)
        found = {(run.seed, run.chooser): run for one in choosers for run in results.of(budget, one)}
        drawing: Any = None
        for across, seed in zip(axes, seeds, strict=True):
            for axis, chooser in zip(across, choosers, strict=True):
                if (seed, chooser) not in found:
                    axis.set_axis_off()
                    continue
                drawing = _strip(axis, found[seed, chooser], names)
                axis.set_title(label(chooser) if seed == seeds[0] else "")
            starts = _starts(names)
            across[0].set_yticks(list(starts.values()), [f"stage {stage}" for stage in starts])
            across[0].set_ylabel(f"seed {seed}")
        for axis in axes[-1]:
            axis.set_xlabel("step")
        drawn.colorbar(drawing, ax=axes, label="filters left", format="{x:.0%}", shrink=0.8)
        return drawn


def _silhouette(axis: Any, run: Searched, number: int, before: int) -> None:
    names = _blocks(run)
    places = np.array([place + 0.8 * _place(name)[0] for place, name in enumerate(names)])
    whole, previous, now = (_widths(run.steps[step], names) for step in (0, before, number))
    gone = (now == 0) & (previous > 0)
    axis.barh(places, whole, height=0.86, color=_GHOST)
    axis.barh(places, np.where(gone, 0, previous), height=0.86, color=NEURONS)
    axis.barh(places, np.where(gone, previous, 0), height=0.86, color=LAYER)
    axis.barh(places, now, height=0.86, color=_BAR)
    axis.set_xlim(0, 1.02 * whole.max())
    axis.set_ylim(places[-1] + 0.6, places[0] - 0.6)
    lacks = "dense" if number == 0 else f"−{100 * run.removed[number]:.0f} %"
    title = f"{lacks}\n{100 * run.accuracies()[number]:.1f} %"
    axis.set_title(title, fontsize=8.5, fontweight="normal", loc="left", pad=2)


def _strip(axis: Any, run: Searched, names: Sequence[str]) -> Any:
    whole = _widths(run.steps[0], names)
    left = np.stack([_widths(step, names) / whole for step in run.steps], axis=1)
    shape = (-0.5, run.last + 0.5, len(names) - 0.5, -0.5)
    drawing = axis.imshow(
        np.ma.masked_equal(left, 0), cmap="YlGnBu", vmin=0, vmax=1, aspect="auto", extent=shape,
        interpolation="nearest",
    )  # fmt: skip
    axis.grid(False)
    for block, row in enumerate(left):
        if np.any(row == 0):
            start = np.argmin(row) - 0.5  # from here on the block is gone
            look = {"facecolor": _PAGE, "edgecolor": _HATCH, "hatch": "//////", "linewidth": 0}
            axis.add_patch(Rectangle((start, block - 0.5), run.last + 0.5 - start, 1, **look))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for place in list(_starts(names).values())[1:]:
        axis.axhline(place - 0.5, color="white", linewidth=1.6)
    return drawing


def _starts(names: Sequence[str]) -> dict[int, int]:
    """Returns the place of the first block of every stage."""
    stages = [_place(name)[0] for name in names]
    return {stage: stages.index(stage) for stage in stages}


def _place(name: str) -> tuple[int, int]:
    stage, block = name.removeprefix("stage").split("_block")
    return int(stage), int(block)
