"""The figures of the landscape study."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.landscape.results import STAGE_NAMES, TASKS, Results
from experiments.shared.styles import label, panels, style
from jaxprune import report

_INK = "#2b2922"
_CHANCE = "#8a8578"


def spectra(results: Results) -> Figure:
    """Draws the largest eigenvalues: a row for each task, a column before and one after fine-tuning."""
    with report.figure(9.5, 6.2) as drawn:
        for axis, task, stage in _by_stage(drawn, xlabel="rank", ylabel="eigenvalue, "):
            for method in results.networks:
                values = results.curvature(method, stage, task, "eigenvalues")
                _lines(axis, np.arange(1, values.shape[1] + 1), values, _look(results, method))
            axis.set_yscale("log")
        return _with_legend(drawn, len(results.networks))


def densities(results: Results) -> Figure:
    """Draws the density of the eigenvalues: a row for each task, a column for each network, a line for each seed."""
    shades = {"pruned": "#b9b19d", "finetuned": report.COLOURS[0]}
    with report.figure(2.7 * len(results.networks), 5.2) as drawn:
        texts = {"title": label, "xlabel": "eigenvalue", "ylabel": "density, "}
        for axis, task, method in panels(drawn, TASKS, results.networks, **texts, sharex=True, sharey=True):
            for stage, name in STAGE_NAMES.items():
                read = lambda one, s=stage, t=task: list(one["curvature"][s][t]["density"].values())  # noqa: E731
                for number, (grid, values) in enumerate(results.each(method, read)):
                    text = name if number == 0 else None
                    axis.plot(grid, np.maximum(values, 1e-12), color=shades[stage], linewidth=1.1, label=text)
            axis.set_xscale("symlog", linthresh=1)
            axis.set_yscale("log")
            axis.set_ylim(1e-5, 30)
        return _with_legend(drawn, 2)


def alignment(results: Results) -> Figure:
    """Draws the overlap of the top curvature of source and transfer, with its control and chance."""
    texts = {"transfer": "source and transfer", "other images": "source and source, other images"}
    with report.figure(9.5, 3.6) as drawn:
        axes = drawn.subplots(1, 2, sharey=True)
        for axis, (stage, name) in zip(axes, STAGE_NAMES.items(), strict=True):
            for place, method in enumerate(results.networks):
                color = _look(results, method)["color"]
                for of, marker in (("transfer", "o"), ("other images", "s")):
                    filled = color if of == "transfer" else "white"
                    text = None if place else texts[of]
                    _point(axis, place, results.overlap(method, stage, of), color, marker, filled, text)
                chance = float(np.mean(results.overlap(method, stage, "transfer", "chance")))
                ends = [place - 0.3, place + 0.3]
                axis.plot(ends, [chance] * 2, color=_CHANCE, linestyle=":", label=None if place else "chance")
            _categories(axis, results.networks)
            axis.set_ylim(-0.02, 1.02)
            axis.set_title(name)
        axes[0].set_ylabel("mean squared cosine")
        return _with_legend(drawn, 3)


def removed(results: Results) -> Figure:
    """Draws the mean curvature of the dense network in all its weights, and in those that each method removes."""
    with report.figure(9.5, 3.4) as drawn:
        axes = drawn.subplots(1, 2, sharey=True)
        for axis, task in zip(axes, TASKS, strict=True):
            _point(axis, 0, results.present("dense", "pruned", task), _INK)
            for place, method in enumerate(results.methods, 1):
                _point(axis, place, results.removed(method, task), _look(results, method)["color"])
            axis.axhline(0, color=_CHANCE, linewidth=0.8)
            _categories(axis, ["all weights", *results.methods])
            axis.set_title(task)
        axes[0].set_ylabel("trace / number of weights")
        return drawn


def paths(results: Results) -> Figure:
    """Draws the change of the loss on the way to the pruned network: true, and by both orders of the expansion."""
    kinds = {"true": (_INK, "-"), "first": (report.COLOURS[1], "--"), "second": (report.COLOURS[0], "--")}
    texts = {"title": label, "xlabel": "way to the pruned network (%)", "ylabel": "change of the loss, "}
    with report.figure(3.1 * len(results.methods), 5.4) as drawn:
        for axis, task, method in panels(drawn, TASKS, results.methods, **texts, sharex=True):
            shares = results.path(method, task, "shares")[0]
            for kind, (color, line) in kinds.items():
                text = "true" if kind == "true" else f"{kind} order"
                look = {"color": color, "linestyle": line, "linewidth": 1.6, "label": text}
                _lines(axis, 100 * shares, results.path(method, task, kind), look)
            true = results.path(method, task, "true")
            reach = max(float(true.max()), 1e-6)
            axis.set_ylim(min(float(true.min()), 0) - 0.4 * reach, 2.2 * reach)
        return _with_legend(drawn, 3)


def lines(results: Results) -> Figure:
    """Draws the loss along random directions as long as the filters: a row for each task, a column for each stage."""
    with report.figure(9.5, 6.2) as drawn:
        for axis, task, stage in _by_stage(drawn, xlabel="distance (lengths of the filters)", ylabel="loss, "):
            for method in results.networks:
                distances, losses = _slices(results, method, stage, task)
                middle = losses.shape[1] // 2
                _lines(axis, distances, (losses[:, :, middle] + losses[:, middle, :]) / 2, _look(results, method))
            axis.set_yscale("log")
        return _with_legend(drawn, len(results.networks))


def planes(results: Results) -> Figure:
    """Draws the loss of the fine-tuned networks over two random directions, averaged over seeds."""
    found = {
        (task, method): _slices(results, method, "finetuned", task) for task in TASKS for method in results.networks
    }
    means = {place: np.log10(np.maximum(losses.mean(axis=0), 1e-12)) for place, (_, losses) in found.items()}
    levels = np.linspace(min(map(np.min, means.values())), max(map(np.max, means.values())) + 1e-9, 15)
    with report.figure(2.5 * len(results.networks) + 0.8, 5.2) as drawn:
        shades: Any = None
        for axis, task, method in panels(drawn, TASKS, results.networks, title=label, sharex=True, sharey=True):
            distances, mean = found[task, method][0], means[task, method].T
            shades = axis.contourf(distances, distances, mean, levels=levels, cmap="cividis")
            axis.contour(distances, distances, mean, levels, colors="white", linewidths=0.3)
            axis.plot(0, 0, marker="+", color="white")
            axis.set_aspect("equal")
            axis.grid(False)
        drawn.colorbar(shades, ax=drawn.axes, label="log10 of the loss", format="%.1f", shrink=0.8)
        return drawn


def barriers(results: Results) -> Figure:
    """Draws the loss on straight paths between networks: a row for each task, a column for each pair."""
    with report.figure(3.2 * len(results.pairs), 5.4) as drawn:
        texts: dict[str, Any] = {"xlabel": "way (%)", "ylabel": "loss, "}
        for axis, task, pair in panels(drawn, TASKS, results.pairs, **texts, sharex=True, sharey="row"):
            for method in (method for method in results.networks if results.has(method, pair)):
                shares = results.barrier(method, pair, task, "shares")[0]
                _lines(axis, 100 * shares, results.barrier(method, pair, task, "losses"), _look(results, method))
        return _with_legend(drawn, len(results.networks))


def _by_stage(drawn: Figure, **texts: Any) -> Any:
    return panels(drawn, TASKS, STAGE_NAMES, title=STAGE_NAMES.__getitem__, **texts, sharex=True, sharey=True)


def _slices(results: Results, method: str, stage: str, task: str) -> tuple[np.ndarray, np.ndarray]:
    distances = results.each(method, lambda metrics: metrics["slices"][stage][task]["distances"])[0]
    return distances, results.each(method, lambda metrics: metrics["slices"][stage][task]["losses"])


def _look(results: Results, method: str) -> dict[str, Any]:
    """How the line of a network looks, and what it is called."""
    if method == "dense":
        return {"color": _INK, "linestyle": "--", "linewidth": 1.4, "label": label(method)}
    return style(results, method) | {"label": label(method)}


def _lines(axis: Any, x: np.ndarray, values: np.ndarray, look: dict[str, Any]) -> None:
    """Draws the mean over seeds, and each seed as a thin line: a few of them say more than a band would."""
    for one in values if len(values) > 1 else ():
        axis.plot(x, one, color=look["color"], alpha=0.35, linewidth=0.6)
    axis.plot(x, values.mean(axis=0), **look)


def _point(
    axis: Any, place: int, values: np.ndarray, color: str, marker: str = "o", filled: str = "", text: str | None = None
) -> None:
    """Draws the mean over seeds, and each seed as a dash."""
    for value in values if len(values) > 1 else ():
        axis.plot(place, value, marker="_", markersize=9, color=color, alpha=0.7, linestyle="none")
    look = {"marker": marker, "color": color, "markerfacecolor": filled or color, "linestyle": "none", "label": text}
    axis.plot(place, values.mean(), **look)


def _categories(axis: Any, names: list[str]) -> None:
    axis.set_xticks(range(len(names)), [label(name) for name in names])
    axis.set_xlim(-0.5, len(names) - 0.5)
    axis.grid(False, axis="x")


def _with_legend(drawn: Figure, columns: int) -> Figure:
    drawn.legend(*drawn.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=columns)
    return drawn
