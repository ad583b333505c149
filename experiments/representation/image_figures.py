"""The same images along the ladder: what attributions point at, and the box that is found."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib import patheffects
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiments.representation.architectures import MAPPED
from experiments.representation.figures import method, rung_label, title
from experiments.representation.results import Results
from experiments.representation.settings import LADDER
from jaxprune import report

_FEW = 2  # images of each architecture in the strip of all
_MOST = 8  # rungs in the strip of one architecture
_FOUND: Any = {"edgecolor": "#56B4E9", "linewidth": 1.6}
_TRUE: Any = {"edgecolor": "white", "linewidth": 1.0, "linestyle": (0, (2, 1.5))}
_GREY = (0.299, 0.587, 0.114)


class Example(NamedTuple):
    """An image of a seed, with what is true of it."""

    pixels: np.ndarray
    mask: np.ndarray
    boxes: np.ndarray


def overview(results: Results) -> Figure:
    """Draws two images for each architecture: a dense network, the middle and the last rung of its ladder."""
    return _draw(results, results.architectures, _examples(results)[:_FEW], list(MAPPED), 3)


def along(results: Results, architecture: str) -> Figure:
    """Draws Grad-CAM and the box found of all images that were kept, on every rung of an architecture's ladder."""
    return _draw(results, [architecture], _examples(results), list(MAPPED)[:1], _MOST)


def _draw(results: Results, architectures: Any, examples: list[Example], methods: list[str], most: int) -> Figure:
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
    if len(rungs) <= count:
        return list(rungs)
    return [rungs[(place * (len(rungs) - 1) + (count - 1) // 2) // (count - 1)] for place in range(count)]


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
    grey = 0.25 + 0.6 * (shown.pixels @ np.array(_GREY))[..., None]
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
