"""The figures of the study of representations: every quantity along the ladder, and the same images along it."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib import patheffects
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from experiments.representation.architectures import ATTRIBUTIONS, MAPPED, find
from experiments.representation.quantities import RANDOM_MAP, Quantity
from experiments.representation.results import Results
from experiments.representation.settings import CONTROL, LADDER, RANDOM, SNIP
from experiments.shared.results import Table
from experiments.shared.styles import panels
from jaxprune import report

_INK, _SOFT = "#2b2922", "#8a8578"

_TITLES = {"": "", **{name: one.title for name, one in ATTRIBUTIONS.items()}}
_TITLES |= {"lost": "LOST", "tokencut": "TokenCut", RANDOM_MAP: "random order"}
_LINES = {"": report.COLOURS[0], RANDOM_MAP: _SOFT, **dict(zip(ATTRIBUTIONS, report.COLOURS, strict=False))}
_LINES |= dict(zip(("lost", "tokencut"), report.COLOURS, strict=False))
ARMS = {LADDER: "pruned", CONTROL: "dense, trained equally long", RANDOM: "random mask", SNIP: "SNIP"}
"""What figures and tables call the arms."""

_LEVELS: dict[str, Any] = {"chance": ":", "whole image": (0, (1, 3)), "no leaning": (0, (1, 3))}
_LEVELS |= {"centre box": (0, (4, 1.5, 1, 1.5)), "independent errors": (0, (5, 1.5, 1, 1.5, 1, 1.5))}

_SPOTS = {"equal training": "sweet spot against equal training", "dense": "sweet spot against the dense network"}
_STAR = {"linestyle": "none", "marker": "*", "markersize": 13, "markeredgewidth": 0.8}
_RING = {"linestyle": "none", "marker": "o", "markersize": 12, "markerfacecolor": "none", "markeredgewidth": 1.3}
_LOOKS: dict[str, dict[str, Any]] = {
    ARMS[LADDER]: {"linewidth": 1.9},
    ARMS[CONTROL]: {"linewidth": 1.2, "linestyle": (0, (4, 2))},
    ARMS[RANDOM]: {"linestyle": "none", "marker": "D", "markersize": 5, "markerfacecolor": "white"},
    ARMS[SNIP]: {"linestyle": "none", "marker": "x", "markersize": 7},
    _SPOTS["equal training"]: _STAR,
    _SPOTS["dense"]: _RING,
}


def title(architecture: str) -> str:
    """Returns what figures and tables call an architecture."""
    return find(architecture).title


def method(line: str) -> str:
    """Returns what figures and tables call a method."""
    return _TITLES.get(line, line)


def rung_label(sparsity: float) -> str:
    """Writes the sparsity of a rung in percent.

    >>> rung_label(0.36), rung_label(0.956)
    ('36', '95.6')
    """
    text = f"{100 * sparsity:.1f}"
    return text.removesuffix(".0") if sparsity >= 0.95 else f"{100 * sparsity:.0f}"


def ladders(results: Results, tested: Table, question: str) -> Figure:
    """Draws the quantities of a question: a row for each, a column for each architecture, a line for each method."""
    asked = [one for one in results.quantities if one.question == question]
    rows: dict[str, list[Quantity]] = {}
    for one in asked:
        rows.setdefault(f"{one.name}\n(less is better)" if one.smaller else one.name, []).append(one)
    # Room for the legend, which has about a line for each row of a few entries.
    with report.figure(9.5, 2.25 * len(rows) + 1.35) as drawn:
        shared = {"xlabel": "sparsity (%)", "sharex": "col", "sharey": "row"}
        for axis, row, architecture in panels(drawn, rows, results.architectures, title=title, **shared):
            lines, named = rows[row], results.rungs(architecture, LADDER)
            for level, height in results.levels(lines[0]).items():
                axis.axhline(height, color=_INK, linestyle=_LEVELS[level], linewidth=1.1, alpha=0.75, label=level)
            drawn_here = [one for one in lines if len(_of(results.curves, one, architecture))]
            for quantity, aside in zip(drawn_here, _asides(len(drawn_here)), strict=True):
                here = _of(results.curves, quantity, architecture)
                spots = _of(tested[tested.verdict == "found"], quantity, architecture)
                _line(axis, here, spots, quantity, banded=len(lines) == 1, aside=aside)
            axis.margins(y=0.08)
            # Rungs stand at equal distances, as in the paper, named by their sparsity.
            axis.set_xlim(named[0] - 0.4, named[-1] + 0.4)
            named = named[:: -(-len(named) // 9)]
            labels = [rung_label(results.sparsity(architecture, LADDER, rung)) for rung in named]
            axis.set_xticks(named, labels, fontsize=8)
        columns = len(results.architectures)
        for axis, lines in zip(drawn.axes[::columns], rows.values(), strict=True):
            # Ends where values end, but for the width of a line; the others of the row share it.
            low, high = axis.get_ylim()
            over = 0.03 * (high - low)
            axis.set_ylim(max(low, lines[0].least - over), min(high, 1 + over))
        return _with_legend(drawn)


def _of(frame: Table, quantity: Quantity, architecture: str) -> Table:
    return frame[np.all([frame[name] == value for name, value in quantity.place(architecture).items()], axis=0)]


def _asides(count: int) -> list[float]:
    """Sets the marks of several methods side by side, in rungs.

    >>> _asides(1), _asides(2)
    ([0.0], [-0.075, 0.075])
    """
    apart = min(0.15, 0.6 / count)
    return [apart * (number - (count - 1) / 2) for number in range(count)]


def _line(axis: Any, here: Table, spots: Table, quantity: Quantity, *, banded: bool, aside: float) -> None:
    text, color = method(quantity.line), _LINES.get(quantity.line, _INK)
    # Intervals of few seeds reach beyond what values can be, and may have no ends: tables have them as they are.
    here = here.assign(low=here.low.clip(quantity.least, 1), high=here.high.clip(quantity.least, 1))
    ladder = here[here.arm == LADDER].sort_values("rung")
    control = here[(here.arm == CONTROL) | ((here.arm == LADDER) & (here.rung == 0))].sort_values("rung")
    shade = _SOFT if banded else color
    if quantity.independent:
        axis.fill_between(ladder.rung, ladder.low, ladder.high, color=color, alpha=0.14, linewidth=0)
    axis.plot(ladder.rung, ladder["mean"], ".-", color=color, label=text or ARMS[LADDER], markersize=5, linewidth=1.9)
    # Where several methods share a panel only the bands of the ladder are drawn.
    if banded and quantity.independent:
        axis.fill_between(control.rung, control.low, control.high, color=shade, alpha=0.16, linewidth=0)
    axis.plot(control.rung, control["mean"], color=shade, label=ARMS[CONTROL], **_LOOKS[ARMS[CONTROL]])
    for arm in (RANDOM, SNIP):
        for row in here[here.arm == arm].itertuples():
            axis.plot([row.rung + aside] * 2, [row.low, row.high], color=color, linewidth=0.8, alpha=0.6)
            axis.plot(row.rung + aside, row.mean, color=color, label=ARMS[arm], **_LOOKS[ARMS[arm]])
    heights = ladder.set_index("rung")["mean"]
    for row in spots.itertuples():
        text = _SPOTS[str(row.against)]
        edge = "white" if _LOOKS[text] is _STAR else color
        drawn = {"color": color, "markeredgecolor": edge, "label": text, "zorder": 6, **_LOOKS[text]}
        axis.plot(row.rung, heights[row.rung], **drawn)


def _with_legend(drawn: Figure) -> Figure:
    """Names everything once, below; arms and marks in ink, since every method has them in its colour."""
    entries: dict[str, Any] = {}
    for axis in drawn.axes:
        for handle, text in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(text, handle)
    several = any(text in entries for text in _TITLES.values() if text)
    # Where lines are methods the ladder is named by its style; else its own line names it, and the control's its own.
    named = {*entries, ARMS[LADDER]} if several else set(entries) - {ARMS[LADDER], ARMS[CONTROL]}
    entries |= {text: Line2D([], [], color=_INK, **look) for text, look in _LOOKS.items() if text in named}
    listed = {text: entries[text] for text in (*_TITLES.values(), *_LOOKS, *entries) if text in entries}
    drawn.legend(listed.values(), listed.keys(), loc="outside lower center", ncols=4, fontsize=8.5, columnspacing=1.4)
    return drawn


# ----------------------------------------------------------------------------------- the same images along the ladder

_FOUND: Any = {"edgecolor": "#56B4E9", "linewidth": 1.6}
_TRUE: Any = {"edgecolor": "white", "linewidth": 1.0, "linestyle": (0, (2, 1.5))}


class Example(NamedTuple):
    """An image of a seed, with what is true of it."""

    pixels: np.ndarray
    mask: np.ndarray
    boxes: np.ndarray


def overview(results: Results) -> Figure:
    """Draws two images for each architecture: a dense network, the middle and the last rung of its ladder."""
    return _draw(results, results.architectures, _examples(results)[:2], list(MAPPED), 3)


def along(results: Results, architecture: str) -> Figure:
    """Draws Grad-CAM and the box found of all images that were kept, on up to eight rungs of an architecture."""
    return _draw(results, [architecture], _examples(results), list(MAPPED)[:1], 8)


def _draw(
    results: Results, architectures: Sequence[str], examples: list[Example], methods: list[str], most: int
) -> Figure:
    """Draws each architecture and image in a row: the image, and by each method its map on at most so many rungs."""
    rows, several = list(itertools.product(architectures, enumerate(examples))), len(methods) > 1
    columns = 1 + len(methods) * most
    # Narrow panels are all but square; wide ones have headings of two lines above them.
    height = 1.32 if several else 9.5 / columns * 1.04
    with report.figure(9.5, height * len(rows) + 0.45) as drawn:
        axes = drawn.subplots(len(rows), columns, squeeze=False, subplot_kw={"frame_on": False})
        for across, (architecture, (number, example)) in zip(axes, rows, strict=True):
            across[0].imshow(example.pixels, interpolation="nearest")
            _outline(across[0], example.mask)
            across[0].set_ylabel(title(architecture) if several and number == 0 else "")
            shown = itertools.product(methods, _chosen(results.rungs(architecture, LADDER), most))
            for axis, (how, rung) in zip(across[1:], shown, strict=False):
                metrics = results.runs[architecture, LADDER, rung][results.seeds[0]]
                _panel(axis, metrics, number, how, example)
                if number == 0:
                    # Above the first image of an architecture, as its sparsities are its own.
                    at = f"{rung_label(results.sparsity(architecture, LADDER, rung))} %" if rung else "dense"
                    axis.set_title(f"{method(how)}\n{at}" if several and not rung else at, fontsize=9)
        axes[0, 0].set_title("image", fontsize=9)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
        return drawn


def _chosen(rungs: Sequence[int], count: int) -> list[int]:
    """Chooses rungs at equal distances, the first and the last among them.

    >>> _chosen(range(8), 3), _chosen([0, 1], 3)
    ([0, 4, 7], [0, 1])
    """
    last, steps = len(rungs) - 1, min(count, len(rungs)) - 1
    return [rungs[(place * last + steps // 2) // steps] for place in range(steps + 1)]


def _examples(results: Results) -> list[Example]:
    """Reads the images of the first seed."""
    strip = results.truths[results.seeds[0]]["strip"]
    size, found = strip["size"], []
    for image, mask, boxes in zip(strip["images"], strip["masks"], strip["boxes"], strict=True):
        pixels = np.broadcast_to(_bytes(image, size, size, -1) / 255, (size, size, 3))
        # An image may have no box.
        found.append(Example(pixels, _bytes(mask, size, size), np.asarray(boxes).reshape(-1, 4)))
    return found


def _bytes(text: str, *shape: int) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(text), np.uint8).reshape(shape)


def _panel(axis: Any, metrics: Any, number: int, how: str, shown: Example) -> None:
    """Draws a map over the image in grey, and with the first method the boxes."""
    heat = _bytes(metrics["attribution"][how]["strip"][number], *shown.mask.shape)
    heat = (heat / 255) ** MAPPED[how]
    grey = 0.25 + 0.6 * (shown.pixels @ np.array((0.299, 0.587, 0.114)))[..., None]
    colours = mpl.colormaps["inferno"](0.25 + 0.75 * heat)[..., :3]
    opacity = (0.9 * heat)[..., None]
    axis.imshow((1 - opacity) * grey + opacity * colours, interpolation="nearest")
    if how == next(iter(MAPPED)):
        found = metrics["discovery"]["lost"]["strip"][number]
        size = len(shown.pixels)
        for box, look in [*((one, _TRUE) for one in shown.boxes), (found, _FOUND)]:
            # Inside the frame, on which a box around the whole image could not be seen.
            y0, x0, y1, x1 = np.clip(box, size / 40, size - size / 40) - 0.5  # a pixel is drawn around its number
            axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, **look))
    else:
        _outline(axis, shown.mask)
    if not metrics["hits"][number]:
        # Dark around the letters, since images may be as light as they are.
        around = [patheffects.withStroke(linewidth=1.4, foreground="#2b2922")]
        axis.text(0.04, 0.04, "wrong class", color="white", fontsize=6.5, transform=axis.transAxes, path_effects=around)


def _outline(axis: Any, mask: np.ndarray) -> None:
    # A margin, so that outlines of objects at the border close.
    places = np.arange(-1, len(mask) + 1)
    axis.contour(places, places, np.pad(mask.astype(np.float64), 1), [0.5], colors="white", linewidths=0.9)
    axis.set(xlim=(-0.5, len(mask) - 0.5), ylim=(len(mask) - 0.5, -0.5))
