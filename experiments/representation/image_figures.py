"""The same images along the ladder: what attributions point at, and the box that is found."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib import patheffects
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiments.representation.figures import method, rung_label, title
from experiments.representation.results import Results
from experiments.representation.settings import LADDER
from jaxprune import report

METHODS: Mapping[str, float] = {"grad-cam": 1.0, "integrated-gradients": 0.5}
"""The methods of which maps are shown, and the power they are raised to: relevance in single pixels is squared, and
of a square little but its peak would be seen."""

_FEW = 2  # images of each architecture in the strip of all
_MOST = 8  # rungs in the strip of one architecture
_FOUND, _TRUE = "#56B4E9", "white"
_GREY = (0.299, 0.587, 0.114)


class Example(NamedTuple):
    """An image of a seed, with what is true of it."""

    pixels: np.ndarray
    mask: np.ndarray
    boxes: np.ndarray


def overview(results: Results) -> Figure:
    """Draws two images for each architecture: a dense network, the middle and the last rung of its ladder."""
    images = _examples(results)[:_FEW]
    every = [_chosen(results.rungs(name, LADDER), 3) for name in results.architectures]
    columns = 1 + len(METHODS) * max(map(len, every))
    rows = [(name, number) for name in results.architectures for number in range(len(images))]
    with report.figure(9.5, 1.32 * len(rows) + 0.45) as drawn:
        axes = drawn.subplots(len(rows), columns, squeeze=False)
        for across, (architecture, number) in zip(axes, rows, strict=True):
            rungs = _chosen(results.rungs(architecture, LADDER), 3)
            _original(across[0], images[number])
            across[0].set_ylabel(title(architecture) if number == 0 else "")
            places = [(how, rung) for how in METHODS for rung in rungs]
            for axis, (how, rung) in zip(across[1:], places, strict=False):
                _panel(axis, results, architecture, rung, number, how, images[number])
                _head(axis, results, architecture, rung, method(how) if rung == rungs[0] else "", number)
        axes[0, 0].set_title("image", fontsize=9)
        return _bare(drawn, axes)


def along(results: Results, architecture: str) -> Figure:
    """Draws Grad-CAM and the box found of all images that were kept, on every rung of an architecture's ladder."""
    images = _examples(results)
    rungs = _chosen(results.rungs(architecture, LADDER), _MOST)
    how = next(iter(METHODS))
    with report.figure(9.5, 9.5 / (1 + _MOST) * 1.04 * len(images) + 0.45) as drawn:
        axes = drawn.subplots(len(images), 1 + _MOST, squeeze=False)
        for number, (across, shown) in enumerate(zip(axes, images, strict=True)):
            _original(across[0], shown)
            for axis, rung in zip(across[1:], rungs, strict=False):
                _panel(axis, results, architecture, rung, number, how, shown)
                _head(axis, results, architecture, rung, "", number)
        axes[0, 0].set_title("image", fontsize=9)
        return _bare(drawn, axes)


def _chosen(rungs: Sequence[int], count: int) -> list[int]:
    """Chooses rungs at equal distances, the first and the last among them.

    >>> _chosen(range(8), 3), _chosen([0, 1], 3)
    ([0, 4, 7], [0, 1])
    """
    if len(rungs) <= count:
        return list(rungs)
    return [rungs[(place * (len(rungs) - 1) + (count - 1) // 2) // (count - 1)] for place in range(count)]


def _examples(results: Results) -> list[Example]:
    """Reads the images of the first seed."""
    strip = results.truths[results.seeds[0]]["strip"]
    size = strip["size"]
    found = []
    for image, mask, boxes in zip(strip["images"], strip["masks"], strip["boxes"], strict=True):
        pixels = np.frombuffer(bytes.fromhex(image), np.uint8).reshape(size, size, -1) / 255
        inside = np.frombuffer(bytes.fromhex(mask), np.uint8).reshape(size, size)
        # An image may have no box.
        found.append(Example(np.broadcast_to(pixels, (size, size, 3)), inside, np.asarray(boxes).reshape(-1, 4)))
    return found


def _panel(axis: Any, results: Results, architecture: str, rung: int, number: int, how: str, shown: Example) -> None:
    """Draws a map over the image in grey, and with the first method the boxes."""
    metrics = results.metrics(architecture, LADDER, rung)[results.seeds[0]]
    size = len(shown.pixels)
    heat = np.frombuffer(bytes.fromhex(metrics["attribution"][how]["strip"][number]), np.uint8).reshape(size, size)
    heat = (heat / 255) ** METHODS[how]
    grey = 0.25 + 0.6 * (shown.pixels @ np.array(_GREY))[..., None]
    colours = mpl.colormaps["inferno"](0.25 + 0.75 * heat)[..., :3]
    opacity = (0.9 * heat)[..., None]
    axis.imshow((1 - opacity) * grey + opacity * colours, interpolation="nearest")
    if how == next(iter(METHODS)):
        for box in shown.boxes:
            _box(axis, box, _TRUE, (0, (2, 1.5)), 1.0)
        _box(axis, np.asarray(metrics["discovery"]["lost"]["strip"][number]), _FOUND, "-", 1.6)
    else:
        _outline(axis, shown.mask)
    if not metrics["hits"][number]:
        # Dark around the letters, since images may be as light as they are.
        around = [patheffects.withStroke(linewidth=1.4, foreground="#2b2922")]
        axis.text(0.04, 0.04, "wrong class", color="white", fontsize=6.5, transform=axis.transAxes, path_effects=around)


def _original(axis: Any, shown: Example) -> None:
    axis.imshow(shown.pixels, interpolation="nearest")
    _outline(axis, shown.mask)


def _outline(axis: Any, mask: np.ndarray) -> None:
    # A margin, so that outlines of objects at the border close.
    padded = np.pad(mask.astype(np.float64), 1)
    places = np.arange(-1, len(mask) + 1)
    axis.contour(places, places, padded, [0.5], colors=_TRUE, linewidths=0.9)
    axis.set_xlim(-0.5, len(mask) - 0.5)
    axis.set_ylim(len(mask) - 0.5, -0.5)


def _box(axis: Any, box: np.ndarray, color: str, line: Any, width: float) -> None:
    # Inside the frame, on which a box around the whole image could not be seen.
    size = axis.get_images()[0].get_array().shape[0]
    inside = np.clip(box, size / 40, size - size / 40)
    y0, x0, y1, x1 = inside - 0.5  # a pixel is drawn around its number
    axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=color, linestyle=line, linewidth=width))


def _head(axis: Any, results: Results, architecture: str, rung: int, name: str, number: int) -> None:
    """Names the rung above the first image of an architecture, whose sparsities are its own."""
    if number:
        return
    text = "dense" if rung == 0 else f"{rung_label(results.sparsity(architecture, LADDER, rung))} %"
    axis.set_title(f"{name}\n{text}" if name else text, fontsize=9)


def _bare(drawn: Figure, axes: np.ndarray) -> Figure:
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.grid(False)
        axis.set_frame_on(False)
    return drawn
