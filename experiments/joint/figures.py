"""The figures of the study of joint pruning."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.joint.results import CONTROLS, Results, Searched, accuracy_of, evenly, mean_removed, radius
from experiments.joint.settings import CONTROL
from experiments.joint.tables import comparisons
from experiments.shared.results import Table
from jaxprune import report

_INK, _SOFT, _PAGE = "#2b2922", "#8a8578", "#fbf9f4"
_BAR, _GHOST, _HATCH, ONLY_CANDIDATE = "#5b6b7c", "#ece7da", "#cfc8b6", "#c9c2b1"
COLOURS = {"layer": report.COLOURS[1], "neurons": report.COLOURS[2]}
MARKERS = {"layer": "s", "neurons": "o"}
_MOST = 9
"""Networks in a row at most; of longer runs some are left out, evenly."""
SEEDS = 3
"""Seeds in the strips: the first ones."""
_FEWEST = 9
"""Rows for which there is room at least, whatever a network has."""
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

_DENSE = {"color": _INK, "linestyle": "--", "linewidth": 1, "label": "dense"}
_TUNED = {"color": _INK, "linestyle": ":", "linewidth": 1.4, "label": _LABELS[CONTROL]}
_CHANCE = {"color": _SOFT, "linestyle": ":", "linewidth": 1.2, "label": "chance"}


def label(chooser: str) -> str:
    """Returns what figures, tables and sentences call a chooser."""
    return _LABELS.get(chooser, chooser)


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


def style(results: Results, chooser: str) -> dict[str, Any]:
    """Returns how the line of a chooser looks, in all figures of the study."""
    if chooser in CONTROLS:
        color = COLOURS.get(chooser.removeprefix("always-"), _SOFT)
        return {"color": color, "linestyle": "-." if chooser == "random" else "-", "linewidth": 1.3}
    others = [name for name in results.choosers if name not in CONTROLS]
    free = [color for color in report.COLOURS if color not in COLOURS.values()]
    return {"color": free[others.index(chooser) % len(free)], "linestyle": "-", "linewidth": 2.0}


def accuracies(results: Results) -> Figure:
    """Draws accuracy against the operations that are gone: a column for each budget, a line for each chooser."""
    with report.figure(9.5, 4.3) as drawn:
        axes = drawn.subplots(1, len(results.budgets), sharex=True, sharey=True, squeeze=False)
        for axis, budget in zip(axes[0], results.budgets, strict=True):
            for chooser in results.pruning(budget):
                _mean_line(axis, results, budget, chooser)
            runs = [run for chooser in results.choosers for run in results.of(budget, chooser)]
            axis.axhline(np.mean([run.accuracies()[0] for run in runs]), **_DENSE)
            if tuned := [run.accuracies()[-1] for run in results.of(budget, CONTROL)]:
                axis.axhline(np.mean(tuned), **_TUNED)
            axis.set_title(f"steps of equal {BUDGETS[budget]}" if len(results.budgets) > 1 else "")
        lowest, _ = axes[0, 0].get_ylim()
        axes[0, 0].set(ylim=(lowest, 1.01), ylabel="accuracy")
        for axis in axes[0] if 1 / results.classes > lowest else ():
            axis.axhline(1 / results.classes, **_CHANCE)
        return _finished(drawn, axes, "operations removed (%)")


def scores(results: Results, budget: str) -> Figure | None:
    """Draws the scores of both candidates of every step; None where no chooser compared any."""
    shown = {one: runs for one in results.choosers if list(comparisons(runs := results.of(budget, one)))}
    if not shown:
        return None
    columns = max(map(len, shown.values()))
    with report.figure(max(9.5, 2.4 * columns), 2.8 * len(shown) + 0.5) as drawn:
        axes = drawn.subplots(len(shown), columns, sharex=True, sharey="row", squeeze=False)
        for across, (chooser, runs) in zip(axes, shown.items(), strict=True):
            for axis, run in zip(across, runs, strict=False):
                _candidates(axis, run)
            across[0].set_ylabel(f"{label(chooser)} to the parent")
        for axis, run in zip(axes[0], next(iter(shown.values())), strict=False):
            axis.set_title(f"seed {run.seed}")
        return _finished(drawn, axes, "step")


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


def silhouettes(results: Results, budget: str, seed: int) -> Figure:
    """Draws the networks of one seed: a row for each chooser, from the dense network on; data flows down.

    What went since the network to its left is coloured: a block that was removed, or the filters that a block lost.
    """
    runs = [run for chooser in results.choosers for run in results.of(budget, chooser) if run.seed == seed]
    rows = [evenly(_MOST, len(run.steps)) for run in runs]
    columns = max(map(len, rows))
    with report.figure(9.5, (0.085 * max(_FEWEST, len(_blocks(runs[0]))) + 0.62) * len(runs) + 0.5) as drawn:
        axes = drawn.subplots(len(runs), columns, squeeze=False)
        for across, run, numbers in zip(axes, runs, rows, strict=True):
            for axis, number, before in zip(across, numbers, [0, *numbers], strict=False):
                axis.set_axis_off()
                _silhouette(axis, run, number, before)
            if len(numbers) < columns and run.short:
                look = {"fontsize": 8.5, "color": _INK, "transform": across[len(numbers)].transAxes}
                across[len(numbers)].text(0, 0.5, "no further:\nthe floor", **look)
            look = {"rotation": 90, "va": "center", "ha": "right", "fontsize": 9.5, "fontweight": "bold"}
            across[0].text(-0.12, 0.5, label(run.chooser), transform=across[0].transAxes, **look)
        return _finished(drawn, axes)


def strips(results: Results, budget: str) -> Figure:
    """Draws what is left of every block, step by step: a row for each seed, a column for each chooser."""
    seeds, choosers = results.seeds[:SEEDS], [name for name in results.choosers if results.of(budget, name)]
    names = _blocks(results.runs[0])
    starts = _starts(names)
    height = (0.15 * max(_FEWEST, len(names)) + 0.35) * len(seeds) + 0.6
    with report.figure(max(9.5, 2.3 * len(choosers)), height) as drawn:
        axes = drawn.subplots(len(seeds), len(choosers), sharey=True, squeeze=False)
        for axis, chooser in zip(axes[0], choosers, strict=True):
            axis.set_title(label(chooser))
        runs = [run for run in results.runs if run.budget == budget and run.seed in seeds and run.chooser in choosers]
        places = [(seeds.index(run.seed), choosers.index(run.chooser)) for run in runs]
        drawings = [_strip(axes[place], run, names) for place, run in zip(places, runs, strict=True)]
        for axis, seed in zip(axes[:, 0], seeds, strict=True):
            axis.set_yticks(list(starts.values()), [f"stage {stage}" for stage in starts])
            axis.set_ylabel(f"seed {seed}")
        drawn.colorbar(drawings[0], ax=axes, label="filters left", format="{x:.0%}", shrink=0.8)
        return _finished(drawn, axes, "step")


# ------------------------------------------------------------------------------------------------- parts of figures


def _finished(drawn: Figure, axes: Any, xlabel: str = "") -> Figure:
    """Clears panels without data, says what runs to the right, and lists below what is labelled, each once."""
    for axis in axes.flat:
        if not axis.has_data():
            axis.set_axis_off()
    for axis in axes[-1]:
        axis.set_xlabel(xlabel)
    found = {text: mark for axis in axes.flat for mark, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    if found:
        drawn.legend(list(found.values()), list(found), loc="outside lower center", ncols=4)
    return drawn


def _mean_line(axis: Any, results: Results, budget: str, chooser: str) -> None:
    """Draws the mean over seeds with its interval, and marks where a chooser ended although the target was not met."""
    along, look = results.step_by_step(budget, chooser), style(results, chooser)
    color, x = look["color"], [100 * mean_removed(networks) for networks in along]
    mean, low, high = np.transpose([accuracy_of(networks) for networks in along])
    axis.fill_between(x, low, high, color=color, alpha=0.07, linewidth=0)
    axis.plot(x, np.transpose([low, high]), color=color, alpha=0.35, linewidth=0.6)
    axis.plot(x, mean, label=label(chooser), marker=".", markersize=5, **look)
    if ended := [(run, run.last) for run in results.pruned(budget, chooser) if run.short]:
        x, y = 100 * mean_removed(ended), accuracy_of(ended).mean
        axis.plot(x, y, marker="X", markersize=8, color=color, markeredgecolor="white", linestyle="none", zorder=5)
        axis.annotate(
            f"{label(chooser)}: no further", (x, y), (x + 0.6, 0.03), color=_INK, fontsize=8.5,
            textcoords=axis.get_xaxis_transform(),  # at the foot, where few lines are
            arrowprops={"arrowstyle": "-", "color": color, "linestyle": ":", "relpos": (0, 1)},
        )  # fmt: skip


def _candidates(axis: Any, run: Searched) -> None:
    for step in run.steps[1:]:
        number, found = step["number"], step["scores"]
        if len(found) < 2:
            # At the foot of the panel: there was nothing to compare.
            look = {"marker": MARKERS[step["kind"]], "color": ONLY_CANDIDATE, "markersize": 5, "linestyle": ""}
            axis.plot(number, 0.04, transform=axis.get_xaxis_transform(), label="only candidate", **look)
            continue
        axis.vlines(number, min(found.values()), max(found.values()), color=ONLY_CANDIDATE, linewidth=1, zorder=1)
        for kind, value in found.items():
            name, fill = ("removed", COLOURS[kind]) if kind == step["kind"] else ("not kept", "white")
            look = {"marker": MARKERS[kind], "color": COLOURS[kind], "markersize": 6.5, "linestyle": ""}
            beside = -0.08 if kind == "layer" else 0.08  # so that near ties can be told apart
            axis.plot(number + beside, value, markerfacecolor=fill, label=f"{kind} {name}", **look)
    axis.margins(y=0.16)
    axis.set_xlim(0.4, run.last + 0.6)


def _changes(results: Results, frame: Table, budget: str, rows: list[list[str]], height: float) -> Figure:
    here = frame[(frame.budget == budget) & (frame["class"] == "all")]
    columns, choosers = max(map(len, rows)), results.pruning(budget)
    with report.figure(9.5, height) as drawn:
        axes = drawn.subplots(len(rows), columns, sharex=True, sharey=len(rows) > 1 and "row", squeeze=False)
        for across, names in zip(axes, rows, strict=True):
            for axis, name in zip(across, names, strict=False):
                axis.axhline(0, **_DENSE)
                for place, chooser in enumerate(choosers):
                    one, look = here[(here.chooser == chooser) & (here.condition == name)], style(results, chooser)
                    # Beside each other, so that bars of equal shares can be told apart.
                    x = np.r_[0.0, 100 * one.removed + 0.7 * (place - (len(choosers) - 1) / 2)]
                    axis.vlines(x[1:], 100 * one.low, 100 * one.high, color=look["color"], linewidth=1.1)
                    axis.plot(x, np.r_[0.0, 100 * one.difference], marker=".", label=label(chooser), **look)
                for value in here[(here.chooser == CONTROL) & (here.condition == name) & here["last"]].difference:
                    axis.axhline(100 * value, **_TUNED)
                axis.set_title(condition(name), fontsize=10)
            across[0].set_ylabel("change (points)")
        return _finished(drawn, axes, "operations removed (%)")


def _silhouette(axis: Any, run: Searched, number: int, before: int) -> None:
    names = _blocks(run)
    places = np.array([place + 0.8 * _place(name)[0] for place, name in enumerate(names)])
    whole, previous, now = (_widths(run.steps[step], names) for step in (0, before, number))
    gone = (now == 0) & (previous > 0)
    axis.barh(places, whole, height=0.86, color=_GHOST, label="gone")
    axis.barh(places, np.where(gone, 0, previous), height=0.86, color=COLOURS["neurons"], label="filters that went")
    axis.barh(places, np.where(gone, previous, 0), height=0.86, color=COLOURS["layer"], label="block that went")
    axis.barh(places, now, height=0.86, color=_BAR, label="filters that stay")
    axis.set(xlim=(0, 1.02 * whole.max()), ylim=(places[-1] + 0.6, places[0] - 0.6))
    lacks = "dense" if number == 0 else f"−{100 * run.removed[number]:.0f} %"
    title = f"{lacks}\n{100 * run.accuracies()[number]:.1f} %"
    axis.set_title(title, fontsize=8.5, fontweight="normal", loc="left", pad=2)


def _strip(axis: Any, run: Searched, names: Sequence[str]) -> Any:
    left = np.transpose([_widths(step, names) / _widths(run.steps[0], names) for step in run.steps])
    axis.patch.set(facecolor=_PAGE, edgecolor=_HATCH, hatch="//////")  # shines through where a block is gone
    axis.grid(False)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for place in list(_starts(names).values())[1:]:
        axis.axhline(place - 0.5, color="white", linewidth=1.6)
    look = {"cmap": "YlGnBu", "vmin": 0, "vmax": 1, "aspect": "auto", "interpolation": "nearest"}
    return axis.imshow(np.ma.masked_equal(left, 0), **look)


def _widths(step: dict[str, Any], names: Sequence[str]) -> np.ndarray:
    return np.array([sum(step["shape"]["blocks"].get(name, ())) for name in names])


def _blocks(run: Searched) -> list[str]:
    names = list(run.steps[0]["shape"]["blocks"])
    return sorted(names, key=_place) if all(map(_PLACE.fullmatch, names)) else names


def _starts(names: Sequence[str]) -> dict[int, int]:
    return {stage: place for place, (stage, block) in enumerate(map(_place, names)) if block == 0}


_PLACE = re.compile(r"stage(\d+)_block(\d+)")


def _place(name: str) -> tuple[int, int]:
    """Stage and number of a block; groups that were discovered have neither."""
    found = _PLACE.fullmatch(name)
    return (int(found[1]), int(found[2])) if found else (0, -1)
