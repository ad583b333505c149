"""Ten textures, each a pattern of values in [0, 1] that mixes two tones.

A pattern is a function of (v, u): coordinates in periods of the texture, v along its rows.  Edges
are ``edge`` wide (one pixel, in periods), which anti-aliases them.  As in ``_outlines``, only
operations that IEEE 754 rounds exactly are used, so every machine computes the same bits.
"""

import math
from collections.abc import Callable

import numpy as np

TABLE = 16
"""The speckle repeats after 16 x 16 cells."""

_CELL = 0.42  # side of a cell of the speckle, in periods
_LINE = 0.15  # half the width of the lines of grid and bricks, in periods
_DOT = 0.36  # radius of a dot, in periods
_SLOPE = 1.0  # of the zigzag's legs

# Six lines through the origin, 30 degrees apart, make twelve rays.  (cos, sin) of 0 to 150 degrees.
_H = math.sqrt(0.75)
_LINES = ((1.0, 0.0), (_H, 0.5), (0.5, _H), (0.0, 1.0), (-0.5, _H), (-_H, 0.5))


def _step(distance: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """Rises from 0 to 1 where the distance turns positive, over the width of an edge."""
    return np.clip(0.5 + distance / edge, 0.0, 1.0)


def _offset(x: np.ndarray) -> np.ndarray:
    """Measures how far x is from the nearest integer, in [0, 1/2]: a triangle wave."""
    return np.abs(x - np.floor(x + 0.5))


def plain(v: np.ndarray, u: np.ndarray, edge: np.ndarray, table: np.ndarray) -> np.ndarray:
    """One tone."""
    return np.zeros(np.broadcast_shapes(v.shape, u.shape))


def stripes(v: np.ndarray, u: np.ndarray, edge: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Straight bands of equal width."""
    return _step(_offset(u) - 0.25, edge)


def checkers(v: np.ndarray, u: np.ndarray, edge: np.ndarray, table: np.ndarray) -> np.ndarray:
    """A chessboard with fields of 0.6 periods."""
    # Half a period of the triangle wave is one field, hence 1 / 1.2.
    rows, columns = _offset(v / 1.2) - 0.25, _offset(u / 1.2) - 0.25
    first, second = 2.0 * _step(1.2 * rows, edge) - 1.0, 2.0 * _step(1.2 * columns, edge) - 1.0
    return 0.5 + 0.5 * first * second


def dots(v: np.ndarray, u: np.ndarray, edge: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Discs in rows, every other row shifted by half."""
    v = v / _H  # rows this close make all six neighbours equally far
    row = np.floor(v + 0.5)
    across, along = (v - row) * _H, _offset(u + 0.5 * row)
    return _step(_DOT - np.sqrt(across * across + along * along), edge)


def grid(v: np.ndarray, u: np.ndarray, edge: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Thin lines that cross at right angles."""
    return _step(_LINE - np.minimum(_offset(v), _offset(u)), edge)


def bricks(v: np.ndarray, u: np.ndarray, edge: np.ndarray, table: np.ndarray) -> np.ndarray:
    """A wall of bricks twice as long as they are high."""
    row = np.floor(v)
    joint = 2.0 * _offset(0.5 * u + 0.5 * row)
    return _step(_LINE - np.minimum(_offset(v), joint), edge)


def zigzag(v: np.ndarray, u: np.ndarray, edge: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Bands that turn left and right, as herringbone does."""
    bent = u + 2.0 * _SLOPE * _offset(0.5 * v)
    return _step((_offset(bent) - 0.25) / math.sqrt(1.0 + _SLOPE * _SLOPE), edge)


def rings(v: np.ndarray, u: np.ndarray, edge: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Bands around the origin."""
    return _step(_offset(np.sqrt(v * v + u * u)) - 0.25, edge)


def rays(v: np.ndarray, u: np.ndarray, edge: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Twelve sectors about the origin."""
    result = np.ones(np.broadcast_shapes(v.shape, u.shape))
    for cos, sin in _LINES:
        result *= 2.0 * _step(cos * v - sin * u, edge) - 1.0
    return 0.5 + 0.5 * result


def speckle(v: np.ndarray, u: np.ndarray, edge: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Random blotches: cells of random height, joined smoothly, cut near the middle."""
    v, u = v / _CELL, u / _CELL
    top, left = np.floor(v), np.floor(u)
    dv, du = v - top, u - left
    dv, du = dv * dv * (3.0 - 2.0 * dv), du * du * (3.0 - 2.0 * du)
    row, column = top.astype(np.int64) % TABLE, left.astype(np.int64) % TABLE
    below, right = (row + 1) % TABLE, (column + 1) % TABLE

    def height(row: np.ndarray, column: np.ndarray) -> np.ndarray:
        index = (row * TABLE + column).reshape(len(table), -1)
        return np.take_along_axis(table, index, axis=1).reshape(row.shape)

    upper = height(row, column) + du * (height(row, right) - height(row, column))
    lower = height(below, column) + du * (height(below, right) - height(below, column))
    # From one cell to the next the height changes by about 1/2, so this is about the distance to the cut.
    return _step(_CELL * (upper + dv * (lower - upper) - 0.5), edge)


PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "plain": plain,
    "stripes": stripes,
    "checkers": checkers,
    "dots": dots,
    "grid": grid,
    "bricks": bricks,
    "zigzag": zigzag,
    "rings": rings,
    "rays": rays,
    "speckle": speckle,
}

# These two have a centre, which stays where the origin is; the others are shifted by a phase.
_CENTRED = ("rings", "rays")


def pattern(
    kind: np.ndarray,
    period: np.ndarray,
    origin: np.ndarray,
    direction: np.ndarray,
    phase: np.ndarray,
    table: np.ndarray,
    image: int,
) -> np.ndarray:
    """Computes the pattern of one layer for every pixel.

    Args:
      kind: index of the texture [n]; -1 gives zeros.
      period: length of a period [n], in image sides.
      origin: where the texture starts (y, x) [n, 2], in image sides.
      direction: rotation as a unit vector (cos, sin) [n, 2].
      phase: shift (v, u) [n, 2], in periods.
      table: heights of the speckle's cells, in [0, 1], [n, TABLE * TABLE].
      image: side of the image in pixels.

    Returns:
      Values in [0, 1], [n, image, image].
    """
    centres = (np.arange(image) + 0.5) / image
    result = np.zeros((len(kind), image, image))
    for index, (name, weave) in enumerate(PATTERNS.items()):
        rows = np.flatnonzero(kind == index)
        if not rows.size or name == "plain":
            continue
        scale = period[rows, None, None]
        y = (centres[:, None] - origin[rows, 0, None, None]) / scale
        x = (centres[None, :] - origin[rows, 1, None, None]) / scale
        cos, sin = direction[rows, 0, None, None], direction[rows, 1, None, None]
        v, u = cos * y - sin * x, cos * x + sin * y
        if name not in _CENTRED:
            v, u = v + phase[rows, 0, None, None], u + phase[rows, 1, None, None]
        result[rows] = weave(v, u, 1.0 / (scale * image), table[rows])
    return result
