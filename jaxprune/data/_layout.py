"""What is where in a scene: every random choice, drawn from the key by integer arithmetic.

Random bits come from Philox 4x64, a counter-based generator: the key fixes it, and the counter says
which stream, and where in it.  NumPy promises the raw bits of its bit generators, but not what
``Generator.normal`` or ``integers`` makes of them, so bits become numbers here.  Each scene owns a
fixed stretch of each stream: scene i depends on the key and on i, and on no other scene.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxprune.data._outlines import OUTLINES, coverage, visible
from jaxprune.data._textures import PATTERNS, TABLE

MAX_OBJECTS = 9
GRID = 32
"""Noise is drawn, and visibility judged, on a grid of this many pixels a side, whatever the image."""

_SCENE, _OBJECTS, _LAYERS, _CELLS, _TABLES, _GRAIN, _PLACES = range(7)  # streams; one more for each attempt
_ATTEMPTS = 16
_ONE = 2.0**-53

_Tone = tuple[int, int, int]

# The main tone in sRGB, and the second tone of its textures before a light and before a dark ground: were the second
# tone that of the ground, the textures would cut the objects to pieces.
PALETTE: dict[str, tuple[_Tone, _Tone, _Tone]] = {
    "red": ((224, 50, 54), (90, 4, 26), (255, 206, 186)),
    "orange": ((242, 138, 36), (122, 44, 8), (255, 236, 200)),
    "yellow": ((250, 210, 62), (150, 84, 0), (186, 96, 10)),
    "green": ((56, 168, 90), (6, 58, 36), (214, 244, 180)),
    "teal": ((40, 182, 182), (4, 72, 94), (214, 252, 246)),
    "blue": ((56, 106, 222), (12, 20, 84), (190, 220, 255)),
    "purple": ((134, 78, 194), (42, 10, 76), (232, 206, 250)),
    "pink": ((244, 132, 184), (136, 18, 90), (255, 234, 246)),
}


@dataclass(frozen=True)
class Ranges:
    """Every range that depends on the difficulty.  Lengths are in image sides, tones in [0, 1]."""

    size: tuple[float, float]  # diameter of a single object
    crowd: float  # n x n cells shrink the objects from 1 (by n ** -1/2) to 0 (by 1 / n)
    scatter: float  # 0: at the centre of a cell; 1: anywhere
    turn: float  # largest rotation either way, of objects and textures, in turns
    period: tuple[float, float]  # of a texture, of a single object or the background
    accent: float  # contrast of the two tones of an object's texture
    contrast: float  # 1: objects in their own colours; 0: in the background's
    background: float  # difference of the two tones of the background
    tint: float  # how much of a colour of the palette the background has
    darkest: float  # lightness of dark backgrounds is in [0.08, this]; of light ones in [1 - this, 0.92]
    noise: float  # standard deviation of the pixel noise


def ranges(difficulty: float) -> Ranges:
    """Interpolates every range between its easiest (difficulty 0) and its hardest (difficulty 1)."""

    def between(easy: float, hard: float) -> float:
        return easy + difficulty * (hard - easy)

    return Ranges(
        size=(between(0.80, 0.28), between(0.92, 0.45)),
        crowd=between(0.0, 1.0),
        scatter=between(0.0, 1.0),
        turn=between(0.0, 0.5),
        period=(between(0.17, 0.13), between(0.19, 0.19)),
        accent=between(1.0, 0.8),
        contrast=between(1.0, 0.6),
        background=between(0.03, 0.22),
        tint=between(0.10, 0.35),
        darkest=between(0.16, 0.40),
        noise=between(0.01, 0.06),
    )


@dataclass(frozen=True)
class Layout:
    """All that is needed to paint n scenes of at most k objects.

    Layer 0 of a texture field is the background, layer 1 + j is object j.
    """

    shape: np.ndarray  # [n, k], -1: no object
    colour: np.ndarray  # [n, k]
    size: np.ndarray  # [n, k]
    position: np.ndarray  # [n, k, 2]
    direction: np.ndarray  # [n, k, 2]
    texture: np.ndarray  # [n, 1 + k]
    period: np.ndarray  # [n, 1 + k]
    origin: np.ndarray  # [n, 1 + k, 2]
    weave: np.ndarray  # [n, 1 + k, 2], direction of the texture
    phase: np.ndarray  # [n, 1 + k, 2]
    table: np.ndarray  # [n, 1 + k, TABLE * TABLE]
    tones: np.ndarray  # [n, 1 + k, 2, 3]


def bits(key: int, stream: int, first: int, count: int, words: int) -> np.ndarray:
    """Draws ``words`` random uint64 (a multiple of 4) for each of ``count`` scenes from ``first``, [count, words]."""
    position = first * (words // 4)  # Philox makes four words for each step of its counter
    generator = np.random.Philox(key=key, counter=(stream << 128) + position)
    return generator.random_raw(count * words).reshape(count, words)


def unit(raw: np.ndarray) -> np.ndarray:
    """Makes float64 in [0, 1) of random bits, from the upper 53 of them.

    >>> unit(np.array([0, 2**63], np.uint64))
    array([0. , 0.5])
    """
    return (raw >> np.uint64(11)).astype(np.float64) * _ONE


def whole(raw: np.ndarray, options: int) -> np.ndarray:
    """Makes integers in [0, options) of random bits."""
    return np.floor(unit(raw) * options).astype(np.int64)


def spread(raw: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Makes numbers between two limits of random bits."""
    return limits[0] + unit(raw) * (limits[1] - limits[0])


def turned(turns: np.ndarray) -> np.ndarray:
    """Makes unit vectors (cos, sin) of rotations in [-1/2, 1/2] turns, without calling cos or sin.

    With t = tan(angle / 8), ((1 - t^2) / (1 + t^2), 2 t / (1 + t^2)) is the unit vector of a quarter
    of the angle, and is doubled twice.  A polynomial for t makes the angle a little wrong (by less
    than 0.001), the length not at all.

    >>> turned(np.array([0.0, 0.25, 0.5])).round(3) + 0.0
    array([[ 1., 0.], [ 0., 1.], [-1., 0.]])
    """
    eighth = turns * (math.pi / 4.0)
    square = eighth * eighth
    t = eighth * (1.0 + square * (1.0 / 3.0 + square * (2.0 / 15.0 + square * (17.0 / 315.0))))
    cos, sin = (1.0 - t * t) / (1.0 + t * t), 2.0 * t / (1.0 + t * t)
    for _ in range(2):
        cos, sin = cos * cos - sin * sin, 2.0 * cos * sin
    return np.stack([cos, sin], axis=-1)


def grain(key: int, first: int, count: int) -> np.ndarray:
    """Draws noise of mean 0 and deviation 1, nearly normal, [count, GRID, GRID].

    It is grey, as the grain of a film is.  Each number is the sum of the four quarters of a word, which
    are independent and uniform.
    """
    raw = bits(key, _GRAIN, first, count, GRID * GRID)
    low = np.uint64(0xFFFF)
    total = sum(((raw >> np.uint64(shift)) & low for shift in (16, 32, 48)), start=raw & low)
    noise = (total.astype(np.float64) - 2.0 * 65535.0) / (65536.0 * math.sqrt(1.0 / 3.0))
    return noise.reshape(count, GRID, GRID)


def layout(
    key: int,
    first: int,
    count: int,
    objects: tuple[int, int],
    difficulty: float,
    fixed: Sequence[np.ndarray | None],
) -> Layout:
    """Decides what is where in the scenes ``first`` to ``first + count``.

    Args:
      key: 128 random bits.
      first: index of the first scene.
      count: how many scenes (n).
      objects: the fewest and the most objects of a scene (k).
      difficulty: in [0, 1].
      fixed: shape, texture and colour of the objects, each [n, k], or None to draw it.

    Returns:
      The layout.
    """
    limits, slots = ranges(difficulty), objects[1]
    scene = bits(key, _SCENE, first, count, 8)
    number = objects[0] + whole(scene[:, 0], objects[1] - objects[0] + 1)
    here = np.arange(slots) < number[:, None]

    raw = bits(key, _OBJECTS, first, count, MAX_OBJECTS * 8).reshape(count, MAX_OBJECTS, 8)[:, :slots]
    drawn = [whole(raw[..., i], options) for i, options in enumerate((len(OUTLINES), len(PATTERNS), len(PALETTE)))]
    shape, texture, colour = (
        np.where(here, draw if given is None else given, -1) for draw, given in zip(drawn, fixed, strict=True)
    )
    side = np.ceil(np.sqrt(number.astype(np.float64)))[:, None]  # cells along each side
    shrink = 1.0 / side + limits.crowd * (1.0 / np.sqrt(side) - 1.0 / side)
    size = np.where(here, spread(raw[..., 3], limits.size) * shrink, 0.0)
    direction = turned(spread(raw[..., 4], (-limits.turn, limits.turn)))
    position = _places(key, first, shape, size, direction, side, limits.scatter)
    return Layout(
        shape=shape,
        colour=colour,
        size=size,
        position=np.where(here[..., None], position, 0.0),
        direction=direction,
        texture=np.concatenate([whole(scene[:, 1:2], len(PATTERNS)), texture], axis=1),
        origin=np.concatenate([unit(scene[:, None, 2:4]), position], axis=1),
        tones=_tones(scene[:, 4:8], colour, limits),
        **_weaving(key, first, shrink, slots, limits),
    )


def _places(
    key: int,
    first: int,
    shape: np.ndarray,
    size: np.ndarray,
    direction: np.ndarray,
    side: np.ndarray,
    scatter: float,
) -> np.ndarray:
    """Draws the centres of the objects, again where one of several is too much hidden [n, k, 2]."""
    count, slots = shape.shape
    order = bits(key, _CELLS, first, count, 12)
    order[np.arange(12) >= side * side] = np.iinfo(np.uint64).max
    cell = np.argsort(order, axis=1, kind="stable")[:, :slots]
    centres = (np.stack([np.floor(cell / side), cell - side * np.floor(cell / side)], axis=-1) + 0.5) / side[..., None]
    result, waiting = centres.copy(), np.arange(count)
    for attempt in range(_ATTEMPTS):
        raw = bits(key, _PLACES + attempt, first, count, 20)[waiting, : 2 * slots].reshape(-1, slots, 2)
        # The same reach for objects of every size, which keeps position and size independent.
        result[waiting] += scatter * (spread(raw, (0.12, 0.88)) - centres[waiting])
        if slots == 1:
            return result
        covered = coverage(shape[waiting], size[waiting], result[waiting], direction[waiting], GRID)
        waiting = waiting[_hidden(covered)]
        if not waiting.size:
            return result
        # In cells of their own objects cannot hide each other: what is left after the last attempt.
        result[waiting] = centres[waiting]
    return result


def _hidden(covered: np.ndarray) -> np.ndarray:
    """Tells in which scenes an object shows less than half of its pixels [n]."""
    own = np.count_nonzero(covered >= 0.5, axis=(2, 3))
    shown = np.count_nonzero(visible(covered), axis=(2, 3))
    return np.any(2 * shown < own, axis=1)


def _weaving(key: int, first: int, shrink: np.ndarray, slots: int, limits: Ranges) -> dict[str, np.ndarray]:
    """Draws scale, rotation, phase and speckle of the texture of each layer."""
    count, layers = len(shrink), MAX_OBJECTS + 1
    raw = bits(key, _LAYERS, first, count, layers * 4).reshape(count, layers, 4)[:, : slots + 1]
    words = TABLE * TABLE // 8
    table = bits(key, _TABLES, first, count, layers * words).reshape(count, layers, words, 1)[:, : slots + 1]
    table = (table >> np.arange(0, 64, 8, dtype=np.uint64)) & np.uint64(0xFF)
    # Small objects have finer textures, but not as much finer as they are smaller: pixels set an end to that.
    finer = np.concatenate([np.ones((count, 1)), np.broadcast_to(np.sqrt(shrink), (count, slots))], axis=1)
    return {
        "period": finer * spread(raw[..., 0], limits.period),
        "weave": turned(spread(raw[..., 1], (-limits.turn, limits.turn))),
        "phase": unit(raw[..., 2:4]),
        "table": table.reshape(count, slots + 1, TABLE * TABLE) / 255.0,
    }


def _tones(scene: np.ndarray, colour: np.ndarray, limits: Ranges) -> np.ndarray:
    """Mixes the two tones of every layer: the background's from four random words, the objects' from their colours."""
    palette = np.array(list(PALETTE.values()), np.float64) / 255.0
    light = unit(scene[:, 0]) >= 0.5
    lightness = spread(scene[:, 1], (0.08, limits.darkest))
    grey = np.where(light, 1.0 - lightness, lightness)[:, None]
    tint = palette[whole(scene[:, 2], len(palette)), 0]
    ground = grey + limits.tint * (tint - grey)
    second = ground + limits.background * np.where(light, -1.0, 1.0)[:, None]
    main, accent = palette[colour, 0], palette[colour, np.where(light, 1, 2)[:, None]]
    objects = np.stack([main, main + limits.accent * (accent - main)], axis=2)
    objects = ground[:, None, None] + limits.contrast * (objects - ground[:, None, None])
    return np.concatenate([np.stack([ground, second], axis=1)[:, None], objects], axis=1)
