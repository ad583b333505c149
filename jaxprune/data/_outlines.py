"""Ten outlines, each as the signed distance to its edge: negative inside, positive outside.

Every outline fits the circle of radius 1 about the origin, and touches it.  y points down, as the
rows of an image do.  Only operations that IEEE 754 rounds exactly are used (+ - * / sqrt, absolute
value, minimum, maximum), so every machine computes the same bits.  Near its edge each distance is
exact except at corners, which is all that an anti-aliased edge needs.
"""

import math
from collections.abc import Callable

import numpy as np

_HALF_SQUARE = math.sqrt(0.5)
_TRIANGLE_NORMAL = math.sqrt(0.75)

# The star's mirrors stand at 36 and 108 degrees from its upper tip; sines and cosines from the golden ratio.
_COS36, _SIN36 = (1.0 + math.sqrt(5.0)) / 4.0, math.sqrt((5.0 - math.sqrt(5.0)) / 8.0)
_COS108, _SIN108 = (1.0 - math.sqrt(5.0)) / 4.0, math.sqrt((5.0 + math.sqrt(5.0)) / 8.0)
_STAR_INNER = 0.46

_ARM = 0.31
_CROSS_END = math.sqrt(1.0 - _ARM * _ARM)

_HEART = 0.5 / (1.5 - _HALF_SQUARE)  # radius of the circle about a heart whose lobes meet at height 1

_HEAD_BASE, _HEAD_HALF = 0.06, 0.92
_SHAFT = 0.3
_SHAFT_END = math.sqrt(1.0 - _SHAFT * _SHAFT)

_WAIST, _GLASS_HALF = 0.1, 0.66
_GLASS_END = math.sqrt(1.0 - _GLASS_HALF * _GLASS_HALF)


def disc(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The full circle."""
    return np.sqrt(y * y + x * x) - 1.0


def square(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A square on its side."""
    return np.maximum(np.abs(y), np.abs(x)) - _HALF_SQUARE


def triangle(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """An equilateral triangle, tip up."""
    return np.maximum(y, _TRIANGLE_NORMAL * np.abs(x) - 0.5 * y) - 0.5


def star(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A star of five points, tip up: two mirrors fold it into one edge."""
    x, up = np.abs(x), -y
    for cos, sin in ((_COS108, _SIN108), (_COS36, _SIN36)):
        beyond = 2.0 * np.maximum(cos * x - sin * up, 0.0)
        x, up = x - beyond * cos, up + beyond * sin
    x = np.abs(x)
    # The edge runs from the tip (0, 1) to the inner corner; its normal points outward.
    run, drop = _STAR_INNER * _SIN36, 1.0 - _STAR_INNER * _COS36
    return (drop * x + run * (up - 1.0)) / math.sqrt(run * run + drop * drop)


def cross(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Two bars at right angles."""
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - _CROSS_END, np.minimum(x, y) - _ARM)


def ring(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A circle with a hole of half its diameter."""
    return np.abs(np.sqrt(y * y + x * x) - 0.75) - 0.25


def heart(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A heart, tip down: a square on its corner with a half circle on each of two sides."""
    x, y = _HEART * np.abs(x), _HEART * (1.0 - y)
    lobe = np.sqrt((x - 0.25) * (x - 0.25) + (y - 0.75) * (y - 0.75)) - 0.5 * _HALF_SQUARE
    along = 0.5 * np.maximum(x + y, 0.0)
    to_side = (x - along) * (x - along) + (y - along) * (y - along)
    to_notch = x * x + (y - 1.0) * (y - 1.0)
    body = np.sqrt(np.minimum(to_side, to_notch))
    return np.where(x + y > 1.0, lobe, np.where(x > y, body, -body)) / _HEART


def crescent(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A circle with another cut out of its right side."""
    bite = x - 0.45
    return np.maximum(np.sqrt(y * y + x * x) - 1.0, 0.8 - np.sqrt(y * y + bite * bite))


def arrow(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """An arrow that points up."""
    x = np.abs(x)
    rise = _HEAD_BASE + 1.0
    side = (rise * x - _HEAD_HALF * (y + 1.0)) / math.sqrt(rise * rise + _HEAD_HALF * _HEAD_HALF)
    head = np.maximum(side, y - _HEAD_BASE)
    shaft = np.maximum(x - _SHAFT, np.maximum(y - _SHAFT_END, -y))
    return np.minimum(head, shaft)


def hourglass(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Two triangles that meet in a narrow waist."""
    y, slope = np.abs(y), (_GLASS_HALF - _WAIST) / _GLASS_END
    return np.maximum(y - _GLASS_END, (np.abs(x) - _WAIST - slope * y) / math.sqrt(1.0 + slope * slope))


OUTLINES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": disc,
    "square": square,
    "triangle": triangle,
    "star": star,
    "cross": cross,
    "ring": ring,
    "heart": heart,
    "crescent": crescent,
    "arrow": arrow,
    "hourglass": hourglass,
}


def coverage(kind: np.ndarray, size: np.ndarray, position: np.ndarray, direction: np.ndarray, image: int) -> np.ndarray:
    """Computes how much of each pixel each object covers.

    Args:
      kind: index of the outline [n, k]; -1 where there is no object.
      size: diameter [n, k], in image sides.
      position: centre (y, x) [n, k, 2], in image sides.
      direction: rotation as a unit vector (cos, sin) [n, k, 2].
      image: side of the image in pixels.

    Returns:
      Coverage in [0, 1], [n, k, image, image]; an edge is one pixel wide.
    """
    count, slots = kind.shape
    grid = (np.arange(image) + 0.5) / image
    result = np.zeros((count, slots, image, image))
    for index, outline in enumerate(OUTLINES.values()):
        rows, columns = np.nonzero(kind == index)
        if not rows.size:
            continue
        radius = 0.5 * size[rows, columns, None, None]
        y = (grid[:, None] - position[rows, columns, 0, None, None]) / radius
        x = (grid[None, :] - position[rows, columns, 1, None, None]) / radius
        cos, sin = direction[rows, columns, 0, None, None], direction[rows, columns, 1, None, None]
        distance = outline(cos * y - sin * x, cos * x + sin * y) * (radius * image)
        result[rows, columns] = np.clip(0.5 - distance, 0.0, 1.0)
    return result


def visible(covered: np.ndarray) -> np.ndarray:
    """Masks the visible pixels of each object [n, k, h, w]; an object hides those before it in ``k``."""
    inside = covered >= 0.5
    result = inside.copy()
    taken = np.zeros_like(inside[:, 0])
    for slot in reversed(range(inside.shape[1])):
        result[:, slot] &= ~taken
        taken |= inside[:, slot]
    return result
