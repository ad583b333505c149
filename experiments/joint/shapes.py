"""Figures of networks as they shrink: every block a bar as wide as its filters."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from experiments.joint.figures import LAYER, NEURONS, PAGE, label
from experiments.joint.results import Results, Searched, evenly
from jaxprune import report

_BAR, _GHOST, _HATCH = "#5b6b7c", "#ece7da", "#cfc8b6"
_MOST = 9
"""Networks in a row at most; of longer runs some are left out, evenly."""
SEEDS = 3
"""Seeds in the strips: the first ones."""


def widths(step: dict[str, Any], names: Sequence[str]) -> np.ndarray:
    """Returns the filters inside each of the named blocks; 0 where a block is gone."""
    blocks = step["shape"]["blocks"]
    return np.array([sum(blocks.get(name, ())) for name in names])


def blocks(run: Searched) -> list[str]:
    """Names the blocks of the dense network, in the order of the data."""
    return sorted(run.steps[0]["shape"]["blocks"], key=_place)


def silhouettes(results: Results, budget: str, seed: int) -> Figure:
    """Draws the networks of one seed: a row for each chooser, from the dense network on; data flows down.

    What went since the network to its left is coloured: a block that was removed, or the filters that a block lost.
    """
    runs = [run for chooser in results.choosers for run in results.of(budget, chooser) if run.seed == seed]
    columns = max(len(evenly(_MOST, len(run.steps))) for run in runs)
    tall = 0.085 * len(blocks(runs[0])) + 0.62
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
    names = blocks(results.runs[0])
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
    names = blocks(run)
    places = np.array([place + 0.8 * _place(name)[0] for place, name in enumerate(names)])
    whole, previous, now = (widths(run.steps[step], names) for step in (0, before, number))
    gone = (now == 0) & (previous > 0)
    axis.barh(places, whole, height=0.86, color=_GHOST)
    axis.barh(places, np.where(gone, 0, previous), height=0.86, color=NEURONS)
    axis.barh(places, np.where(gone, previous, 0), height=0.86, color=LAYER)
    axis.barh(places, now, height=0.86, color=_BAR)
    axis.set_xlim(0, 1.02 * whole.max())
    axis.set_ylim(places[-1] + 0.6, places[0] - 0.6)
    lacks = "dense" if number == 0 else f"−{100 * run.removed[number]:.0f} %"
    axis.set_title(
        f"{lacks}\n{100 * run.accuracies()[number]:.1f} %", fontsize=8.5, fontweight="normal", loc="left", pad=2
    )


def _strip(axis: Any, run: Searched, names: Sequence[str]) -> Any:
    whole = widths(run.steps[0], names)
    left = np.stack([widths(step, names) / whole for step in run.steps], axis=1)
    shape = (-0.5, run.last + 0.5, len(names) - 0.5, -0.5)
    drawing = axis.imshow(
        np.ma.masked_equal(left, 0), cmap="YlGnBu", vmin=0, vmax=1, aspect="auto", extent=shape,
        interpolation="nearest",
    )  # fmt: skip
    axis.grid(False)
    for block, row in enumerate(left):
        if np.any(row == 0):
            start = np.argmin(row) - 0.5  # from here on the block is gone
            look = {"facecolor": PAGE, "edgecolor": _HATCH, "hatch": "//////", "linewidth": 0}
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
