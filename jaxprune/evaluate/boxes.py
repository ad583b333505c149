"""Boxes against true boxes: intersection over union, CorLoc, and the boxes that need no network.

A box is (y0, x0, y1, x1) in whole pixels, half-open: it covers the rows y0 ... y1 - 1 and the columns x0 ... x1 - 1.
Areas are integers, so that what lies exactly on a threshold does not depend on rounding.
"""

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from jaxprune import check

# What the released code adds to heights and unions.
_LEGACY = 1e-7


class Localised(NamedTuple):
    """Which images are localised: the mean of ``hits`` is CorLoc.

    Attributes:
      hits: whether the box of an image overlaps one of its true boxes enough, bool [m]: one for each counted image.
      counted: which of the images have a true box at all, bool [n]; m of them do.
    """

    hits: np.ndarray
    counted: np.ndarray

    @property
    def corloc(self) -> float:
        """The share of the counted images that are localised, in [0, 1]."""
        return float(np.mean(self.hits))


def iou(boxes: Any, others: Any) -> np.ndarray:
    """Computes the intersection over union of every box with every other: ``|A and B| / |A or B|``.

    Args:
      boxes: (y0, x0, y1, x1), int [n, 4].
      others: int [m, 4].

    Returns:
      Float64 [n, m], each the quotient of two whole numbers of pixels.

    Raises:
      ValueError: boxes of another shape, or without area.
      TypeError: boxes that are not whole pixels.

    >>> iou([[0, 0, 10, 10]], [[0, 5, 10, 15], [0, 0, 10, 5], [20, 20, 30, 30]]).round(4).tolist()
    [[0.3333, 0.5, 0.0]]
    """
    shared, union = _areas(checked("boxes", boxes), checked("others", others))
    return shared / union


def corloc(boxes: Any, truths: Any, *, threshold: float | Fraction = 0.5, legacy: bool = False) -> Localised:
    """Says which images are localised: those whose box has an IoU of ``threshold`` or more with any true box.

    The boundary counts: an IoU of exactly 1/2 is a hit at 0.5.  It is decided on whole numbers, ``q intersection >=
    p union`` for a threshold p/q.  An image without a true box can't be localised and is left out.

    Args:
      boxes: one box for each image, int [n, 4].
      truths: for each image its true boxes, int [k, 4]; k may be 0.
      threshold: in (0, 1]; a float means the decimal number that it prints as.
      legacy: decide as the code released with LOST and with the pruning study does: in float64, with 1e-7 added to
        heights and union, so that an exact 1/2 comes out as 0.49999999 and misses.

    Returns:
      The hits of the images that have a true box, and which those are.

    Raises:
      ValueError: boxes of another shape or without area, truths of another number, a threshold outside of (0, 1], or
        no image with a true box.
      TypeError: boxes that are not whole pixels.

    Source: Deselaers, Alexe and Ferrari (2012), Int. J. Computer Vision 100; Siméoni et al. (2021), arXiv 2109.14279.

    >>> found = corloc([[0, 0, 10, 10]] * 3, [[[0, 0, 10, 5]], [], [[0, 5, 10, 15], [50, 50, 60, 60]]])
    >>> found.hits.tolist(), found.counted.tolist(), found.corloc
    ([True, False], [True, False, True], 0.5)
    """
    boxes = checked("boxes", boxes)
    if len(truths) != len(boxes):
        raise ValueError(
            f"truths: expected the true boxes of {len(boxes)} images, one array [k, 4] for each box, but got "
            f"{len(truths)}. An image without an object has an empty one."
        )
    if not check.is_number(threshold) or not 0 < threshold <= 1:
        raise ValueError(f"threshold: expected an IoU in (0, 1], but got {threshold!r}. CorLoc uses 0.5.")
    limit = Fraction(str(threshold))
    known = [checked(f"truths[{number}]", truth) for number, truth in enumerate(truths)]
    counted = np.array([len(truth) > 0 for truth in known], bool)
    if not counted.any():
        raise ValueError("truths: expected at least one image with a true box, but none has one. Is the set annotated?")
    decide = _hit_as_released if legacy else _hit
    pairs = zip(boxes, known, strict=True)
    return Localised(np.array([decide(box[None], truth, limit) for box, truth in pairs if len(truth)]), counted)


def whole_image(image: tuple[int, int], n: int = 1) -> np.ndarray:
    """Makes the box that covers the whole image, n times: what discovery has to beat where objects are large.

    Args:
      image: (height, width) in pixels.
      n: how many.

    Returns:
      Int32 [n, 4].

    Raises:
      ValueError: a side or a number that is not whole and positive.

    >>> whole_image((32, 48), 2).tolist()
    [[0, 0, 32, 48], [0, 0, 32, 48]]
    """
    return centre_box(image, n, share=1.0)


def centre_box(image: tuple[int, int], n: int = 1, *, share: float = 0.5) -> np.ndarray:
    """Makes a box in the middle of the image, n times: what discovery has to beat where objects are central.

    Args:
      image: (height, width) in pixels.
      n: how many.
      share: of each side of the image, in (0, 1]; the area's share is its square.  Sides are rounded to whole pixels,
        at least one; of an odd margin the smaller part is above and to the left.

    Returns:
      Int32 [n, 4].

    Raises:
      ValueError: a side or a number that is not whole and positive, or a share outside of (0, 1].

    >>> centre_box((32, 48)).tolist(), centre_box((32, 48), share=0.25).tolist()
    ([[8, 12, 24, 36]], [[12, 18, 20, 30]])
    """
    sides = image_size("image", image)
    if not check.is_number(share) or not 0 < share <= 1:
        raise ValueError(f"share: expected a fraction of each side in (0, 1], but got {share!r}. Half of it is 0.5.")
    check.whole("n", n)
    inner = [max(1, round(share * side)) for side in sides]
    start = [(side - part) // 2 for side, part in zip(sides, inner, strict=True)]
    box = [*start, *(first + part for first, part in zip(start, inner, strict=True))]
    return np.tile(np.array(box, np.int32), (n, 1))


def image_size(name: str, value: Any) -> tuple[int, int]:
    """Checks that a value is (height, width) in whole pixels."""
    sides = tuple(value) if isinstance(value, (tuple, list, np.ndarray)) and np.ndim(value) == 1 else ()
    if len(sides) != 2 or not all(check.is_whole(side) and side >= 1 for side in sides):
        raise ValueError(
            f"{name}: expected (height, width) in whole pixels, 1 or more, but got {value!r}. Of images [b, h, w, c] "
            "it is images.shape[1:3]."
        )
    return int(sides[0]), int(sides[1])


def checked(name: str, boxes: Any) -> np.ndarray:
    """Checks boxes, int [n, 4] with y0 < y1 and x0 < x1, and returns them as int64; n may be 0."""
    boxes = np.asarray(boxes)
    if boxes.shape in ((0,), (0, 4)):
        return np.zeros((0, 4), np.int64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"{name}: expected boxes (y0, x0, y1, x1), int [n, 4], but got the shape {boxes.shape}. A single box needs "
            "an axis: boxes[None]."
        )
    if not np.issubdtype(boxes.dtype, np.integer):
        raise TypeError(
            f"{name}: expected whole pixels, int [n, 4], but got {boxes.dtype}. Round outward: floor the first corner, "
            "ceil the second."
        )
    flat = (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])
    if flat.any():
        number = int(np.argmax(flat))
        raise ValueError(
            f"{name}: expected y0 < y1 and x0 < x1, but box {number} is {boxes[number].tolist()}. Boxes are "
            "(y0, x0, y1, x1), half-open; are rows and columns, or corners and sides, mixed up?"
        )
    return boxes.astype(np.int64)


def _areas(boxes: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pixels that are in both and in either, int64 [n, m] each."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    one, two = (np.prod(each[:, 2:] - each[:, :2], axis=1) for each in (boxes, others))
    return shared, one[:, None] + two[None, :] - shared


def _hit(box: np.ndarray, truth: np.ndarray, limit: Fraction) -> bool:
    shared, union = _areas(box, truth)
    return bool(np.any(limit.denominator * shared >= limit.numerator * union))


def _hit_as_released(box: np.ndarray, truth: np.ndarray, limit: Fraction) -> bool:
    shared, _ = _areas(box, truth)
    one, two = ((each[:, 2] - each[:, 0] + _LEGACY) * (each[:, 3] - each[:, 1]) for each in (box, truth))
    union = one[:, None] + two[None, :] - shared + _LEGACY
    return bool(np.any(shared / union >= float(limit)))
