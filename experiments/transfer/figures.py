"""The figures of the transfer study."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.shared.results import Table
from experiments.shared.splits import Inputs
from experiments.shared.styles import label, panels, style
from experiments.transfer.results import STAGES, Results
from jaxprune import data, report


def curves(results: Results) -> Figure:
    """Draws accuracy against sparsity: a column for each group, a row before and one after fine-tuning."""
    rows = results.accuracies[results.accuracies["head"] == "frozen"]
    shown = {"pruned": "pruned", "fine-tuned on source": "finetuned"}
    with report.figure(3.1 * len(results.groups), 6.2) as drawn:
        texts: dict[str, Any] = {"xlabel": "sparsity (%)", "ylabel": "accuracy, "}
        for axis, stage, group in panels(drawn, shown, results.groups, **texts, sharex=True, sharey=True):
            here = rows[(rows.stage == shown[stage]) & (rows["group"] == group)]
            axis.axhline(here[here.method == "dense"].accuracy.item(), color="#2b2922", linestyle="--", linewidth=1)
            axis.axhline(results.chance(group), color="#8a8578", linestyle=":", linewidth=1.2)
            for method in results.methods:
                one = here[here.method == method].sort_values("sparsity")
                look = style(results, method)
                axis.fill_between(100 * one.sparsity, one.low, one.high, color=look["color"], alpha=0.1, linewidth=0)
                axis.plot(100 * one.sparsity, one.accuracy, label=label(method), **look)
            axis.set_ylim(0, 1.02)
        legend = drawn.axes[0].get_legend_handles_labels()
        drawn.legend(*legend, loc="outside lower center", ncols=len(results.methods))
        return drawn


def source_against_transfer(results: Results) -> Figure:
    """Draws the accuracy on tasks never shown against that on the source, a line for each method."""
    rows = results.accuracies[results.accuracies["head"] == "frozen"]
    texts = {"xlabel": "accuracy on the source task", "ylabel": "accuracy on tasks never shown"}
    with report.figure(9.5, 4.6) as drawn:
        axes = drawn.subplots(1, 2, sharex=True, sharey=True)
        for axis, stage in zip(axes, STAGES, strict=True):
            axis.plot([0, 1], [0, 1], color="#c9c2b1", linewidth=1)
            here = rows[rows.stage == stage].pivot_table(
                index=["method", "sparsity"], columns="group", values="accuracy"
            )
            dense = here.loc[("dense", 0.0)]
            for method in results.methods:
                one = here.loc[method]
                x, y = [dense["source"], *one["source"]], [dense["transfer"], *one["transfer"]]
                axis.plot(x, y, label=label(method), **style(results, method))
            axis.set_title("pruned" if stage == "pruned" else "fine-tuned on source")
            axis.set(**texts, xlim=(0, 1.02), ylim=(0, 1.02))
            axis.set_aspect("equal")
        drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
        return drawn


def predictions(results: Results, frame: Table) -> Figure:
    """Draws the true increase of the loss against the one that the quadratic model predicts."""
    with report.figure(9.5, 4.4) as drawn:
        axis = drawn.subplots()
        rows = frame[frame.method != "dense"]
        low = max(1e-5, min(rows.quadratic[rows.quadratic > 0].min(), rows.true[rows.true > 0].min()))
        high = max(rows.quadratic.max(), rows.true.max())
        axis.plot([low, high], [low, high], color="#c9c2b1", linewidth=1)
        for method in results.methods:
            one = rows[rows.method == method]
            color = style(results, method)["color"]
            axis.scatter(one.quadratic, one.true, s=20, color=color, alpha=0.75, label=label(method), linewidths=0)
        # Linear near zero, so that a loss that fell is on the plot too.
        axis.set_xscale("symlog", linthresh=1e-3)
        axis.set_yscale("symlog", linthresh=1e-3)
        axis.set(xlabel="predicted increase of the loss, w′Hw/2", ylabel="true increase of the loss")
        drawn.legend(*axis.get_legend_handles_labels(), loc="outside right center")
        return drawn


def examples(inputs: Inputs, shifts: Sequence[str]) -> Figure:
    """Draws an image of each class of the first two tasks, and the first task under each shift."""
    images, tasks = inputs.images, inputs.tasks
    first = [[int(np.flatnonzero(images.labels == label)[0]) for label in task.classes] for task in tasks[:2]]
    rows = [
        (task.name, data.as_float(images.images(np.array(indices))))
        for task, indices in zip(tasks, first, strict=False)
    ]
    rows += [(shift, data.shift(rows[0][1], shift, 0)) for shift in shifts]
    columns = max(len(images_) for _, images_ in rows)
    with report.figure(0.62 * columns * 3 + 0.4, 0.62 * (-(-len(rows) // 2)) + 0.5) as drawn:
        grid = drawn.add_gridspec(-(-len(rows) // 2), 2)
        for number, (name, images_) in enumerate(rows):
            axis = drawn.add_subplot(grid[number // 2, number % 2])
            strip = np.concatenate(
                [np.pad(one, ((0, 0), (0, 1), (0, 0)), constant_values=1) for one in images_], axis=1
            )
            axis.imshow(strip.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set_title(name, fontsize=9, fontweight="normal", loc="left", pad=3)
            axis.set_axis_off()
        return drawn
