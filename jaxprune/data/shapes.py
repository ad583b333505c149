"""Painted scenes: objects of ten shapes, ten textures and eight colours before a textured ground.

Each scene comes with all that is true of it: which object is where, and which pixels show it.  So
transfer, attribution, object discovery, and the conflict of shape against texture can be studied
without a download, and with nothing annotated by hand.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

from jaxprune.data._layout import GRID, MAX_OBJECTS, PALETTE, Layout, grain, layout, ranges
from jaxprune.data._outlines import OUTLINES, coverage, visible
from jaxprune.data._textures import PATTERNS, pattern

SHAPES: tuple[str, ...] = tuple(OUTLINES)
"""Names of the shapes.  ``Scenes.shape`` holds indices into this tuple."""

TEXTURES: tuple[str, ...] = tuple(PATTERNS)
"""Names of the textures.  ``Scenes.texture`` and ``Scenes.background`` hold indices into this tuple."""

COLOURS: tuple[str, ...] = tuple(PALETTE)
"""Names of the colours.  ``Scenes.colour`` holds indices into this tuple."""

_CHUNK = 2**17  # pixels painted at once: more do not fit the cache of a core


@dataclass(frozen=True, eq=False)
class Scenes:
    """n scenes of at most k objects, h x w pixels.  Lengths are fractions of the image's side.

    Where a scene has fewer than k objects, the last places are empty: shape, texture and colour are
    -1, all else is 0 or False.  Objects are ordered from back to front.

    Attributes:
      image: the images, sRGB in [0, 255], uint8 [n, h, w, 3].
      shape: index into ``SHAPES``, int32 [n, k].
      texture: index into ``TEXTURES``, int32 [n, k].
      colour: index into ``COLOURS``, int32 [n, k].
      size: diameter of the circle about the object, a fraction, float32 [n, k].
      position: centre (y, x) of that circle from the upper left corner, fractions, float32 [n, k, 2].
      background: index of the background's texture into ``TEXTURES``, int32 [n].
      mask: the visible pixels of each object, those it covers by half or more and no object before it
        does; disjoint; bool [n, k, h, w].
      box: (y0, x0, y1, x1) around the visible pixels, tight and half-open, in pixels, int32 [n, k, 4].
    """

    image: UInt8[np.ndarray, "n h w 3"]
    shape: Int32[np.ndarray, "n k"]
    texture: Int32[np.ndarray, "n k"]
    colour: Int32[np.ndarray, "n k"]
    size: Float32[np.ndarray, "n k"]
    position: Float32[np.ndarray, "n k 2"]
    background: Int32[np.ndarray, " n"]
    mask: Bool[np.ndarray, "n k h w"]
    box: Int32[np.ndarray, "n k 4"]


def scenes(
    key: Any,
    count: int,
    *,
    image: int = 32,
    objects: int | tuple[int, int] = 1,
    difficulty: float = 0.5,
    shape: Any = None,
    texture: Any = None,
    colour: Any = None,
) -> Scenes:
    """Paints scenes: a pure function of the key, the same to the last bit on every machine.

    Scene i depends on the key and on i, never on ``count``, so a set can grow, or be made in parts,
    and a study that was run on the first thousand stays valid.  Random bits are drawn from the key
    by integer arithmetic, and everything after uses only operations that IEEE 754 rounds exactly (no
    sine, no power, no sum whose order is open), so neither the machine nor the version of JAX
    or NumPy shows in an image.  The image size does not matter either: 64 pixels show the scene
    of 32 pixels, sharper.

    With one object in a scene, its shape, texture, colour, size, position and rotation, and the
    background, are independent.  With several, the image is divided into 2 x 2 cells (3 x 3 from
    five objects on); objects shrink with the cells, get one each, and wander off as far as the
    difficulty says.
    They may overlap, but where an object would show less than half of its pixels (judged at 32 x 32)
    all positions of that scene are drawn again, up to 16 times; after that every object stands in
    the middle of its cell, where none hides another.  Only positions are drawn again, so the other
    factors stay independent.

    Fixing a factor leaves all other draws as they are: the same key with other textures gives the
    same scenes in other clothes.  (With several objects a fixed shape may change positions.)

    Args:
      key: a JAX PRNG key, ``jax.random.key(0)``, or a legacy key of two or four uint32.
      count: how many scenes, n, 1 or more.
      image: side of the images in pixels, 32 or more.
      objects: how many objects a scene has, 1 to 9, or the (low, high) of that number, which is then
        drawn, both included.
      difficulty: 0 gives a large upright object in the middle of an almost plain ground; 1 gives
        small objects anywhere, turned by any angle, in faint colours, before a strong texture and
        under noise.
      shape: None to draw the shapes uniformly, or indices into ``SHAPES``: [n], or [n, k] with k the
        largest number of objects.  The same for the next two.
      texture: None, or indices into ``TEXTURES``.
      colour: None, or indices into ``COLOURS``.

    Returns:
      The scenes.

    Raises:
      ValueError: an argument is outside its range, or has the wrong shape.

    >>> made = scenes(jax.random.key(0), 3, objects=(1, 2), shape=[SHAPES.index("star")] * 3)
    >>> made.image.shape, made.mask.shape
    ((3, 32, 32, 3), (3, 2, 32, 32))
    >>> {SHAPES[i] for i in made.shape[:, 0]}
    {'star'}
    """
    words = _key(key)
    _whole("count", count, 1, None, "Ask for at least one scene.")
    _whole("image", image, GRID, None, "Below that the shapes cannot be told apart; make 32 and resize.")
    low, high = _objects(objects)
    if not 0.0 <= difficulty <= 1.0:
        raise ValueError(
            f"difficulty: expected a number in [0, 1], from easy to hard, but got {difficulty!r}. Pass 0.5 for the "
            "middle."
        )
    fixed = [
        _factor(name, value, count, high, options)
        for name, value, options in (
            ("shape", shape, SHAPES),
            ("texture", texture, TEXTURES),
            ("colour", colour, COLOURS),
        )
    ]
    step, parts = max(1, _CHUNK // (image * image)), []
    for first in range(0, count, step):
        rows = slice(first, min(first + step, count))
        given = [None if value is None else value[rows] for value in fixed]
        plan = layout(words, first, rows.stop - first, (low, high), difficulty, given)
        parts.append(_paint(words, first, plan, image, ranges(difficulty).noise))
    return Scenes(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _paint(key: int, first: int, plan: Layout, image: int, noise: float) -> dict[str, np.ndarray]:
    """Paints the layers of each scene from back to front, and collects what is true of them."""
    covered = coverage(plan.shape, plan.size, plan.position, plan.direction, image)
    canvas = np.zeros(())
    for layer in range(plan.texture.shape[1]):
        mix = pattern(
            plan.texture[:, layer],
            plan.period[:, layer],
            plan.origin[:, layer],
            plan.weave[:, layer],
            plan.phase[:, layer],
            plan.table[:, layer],
            image,
        )[..., None]
        main, second = plan.tones[:, layer, :, None, None].swapaxes(0, 1)
        paint = main + mix * (second - main)
        canvas = paint if layer == 0 else canvas + covered[:, layer - 1, :, :, None] * (paint - canvas)
    canvas = canvas + noise * _enlarge(grain(key, first, len(plan.shape)), image)[..., None]
    mask = visible(covered)
    return {
        "image": np.floor(255.0 * np.clip(canvas, 0.0, 1.0) + 0.5).astype(np.uint8),
        "shape": plan.shape.astype(np.int32),
        "texture": plan.texture[:, 1:].astype(np.int32),
        "colour": plan.colour.astype(np.int32),
        "size": plan.size.astype(np.float32),
        "position": plan.position.astype(np.float32),
        "background": plan.texture[:, 0].astype(np.int32),
        "mask": mask,
        "box": _boxes(mask),
    }


def _enlarge(noise: np.ndarray, image: int) -> np.ndarray:
    """Enlarges a grid of noise [n, g, g] to [n, image, image], smoothly, at the same deviation."""
    if image == GRID:
        return noise
    at = np.clip((np.arange(image) + 0.5) / image * GRID - 0.5, 0.0, GRID - 1.0)
    left = np.minimum(np.floor(at), GRID - 2.0)
    near, far = 1.0 - (at - left), at - left
    # Averaging two independent numbers makes their deviation smaller; this undoes it.
    norm = np.sqrt(near * near + far * far)
    near, far, left = near / norm, far / norm, left.astype(np.int64)
    tall = noise[:, left] * near[:, None] + noise[:, left + 1] * far[:, None]
    return tall[:, :, left] * near + tall[:, :, left + 1] * far


def _boxes(mask: np.ndarray) -> np.ndarray:
    """Finds the tight half-open box (y0, x0, y1, x1) of each mask, zeros where it is empty, [n, k, 4]."""
    (y0, y1), (x0, x1) = _extent(np.any(mask, axis=3)), _extent(np.any(mask, axis=2))
    return np.stack([y0, x0, y1, x1], axis=-1).astype(np.int32)


def _extent(lines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the first True along the last axis, and the place after the last; zeros where there is none."""
    some = np.any(lines, axis=-1)
    start, rest = np.argmax(lines, axis=-1), np.argmax(lines[..., ::-1], axis=-1)
    return np.where(some, start, 0), np.where(some, lines.shape[-1] - rest, 0)


def _key(key: Any) -> int:
    """Joins the words of a JAX key into one integer."""
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    data = np.asarray(jax.random.key_data(key) if typed else key)
    if data.dtype != np.uint32 or data.shape not in ((2,), (4,)):
        raise ValueError(
            f"key: expected one JAX PRNG key, but got {data.dtype}{list(data.shape)}. Make one with "
            "jax.random.key(seed); of several keys, pass one at a time."
        )
    return sum(int(word) << (32 * place) for place, word in enumerate(data))


def _whole(name: str, value: Any, low: int, high: int | None, remedy: str) -> int:
    """Checks that a value is an integer between two limits."""
    fits = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not fits or value < low or (high is not None and value > high):
        limits = f"of {low} or more" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name}: expected a whole number {limits}, but got {value!r}. {remedy}")
    return int(value)


def _objects(objects: Any) -> tuple[int, int]:
    """Checks the number of objects, and returns the fewest and the most."""
    ends = tuple(objects) if isinstance(objects, (tuple, list)) else (objects, objects)
    remedy = "Pass a number such as 3, or a (low, high) such as (1, 3)."
    if len(ends) != 2:
        raise ValueError(f"objects: expected a number or (low, high), but got {objects!r}. {remedy}")
    low, high = (_whole("objects", end, 1, MAX_OBJECTS, remedy) for end in ends)
    if low > high:
        raise ValueError(f"objects: expected low <= high, but got {objects!r}. Pass ({high}, {low}).")
    return low, high


def _factor(name: str, value: Any, count: int, slots: int, options: tuple[str, ...]) -> np.ndarray | None:
    """Checks the indices of a factor, and returns them as [count, slots], or None."""
    if value is None:
        return None
    indices = np.asarray(value)
    if not np.issubdtype(indices.dtype, np.integer):
        raise ValueError(
            f"{name}: expected integer indices, but got {indices.dtype}. Look a name up with "
            f"{name.upper()}S.index({options[-1]!r})."
        )
    if indices.shape not in ((count,), (count, slots)):
        raise ValueError(
            f"{name}: expected the shape ({count},) or ({count}, {slots}), one index for each scene or each object, "
            f"but got {indices.shape}. For the same in all scenes pass np.full({count}, index)."
        )
    outside = indices[(indices < 0) | (indices >= len(options))]
    if outside.size:
        raise ValueError(
            f"{name}: expected indices in [0, {len(options)}), but got {int(outside[0])}. They are: "
            f"{', '.join(f'{index} {option}' for index, option in enumerate(options))}."
        )
    return np.broadcast_to(indices.reshape(count, -1), (count, slots)).astype(np.int64)
