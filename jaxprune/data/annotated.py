"""Images of which it is known where their objects are: masks and boxes, checked against each other."""

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, replace
from typing import Any

import numpy as np

from jaxprune import check
from jaxprune.data.shapes import Scenes
from jaxprune.data.source import Arrays, channels_last


@dataclass(frozen=True, eq=False)
class Annotated:
    """n images of one size with the pixels and the boxes of their objects, and one label each.

    Attributes:
      name: enters the splits, so that two sets never share a random stream.
      images: float32 [n, h, w, 3] in [0, 1].
      mask: the pixels of objects, at least one in each image, bool [n, h, w].
      void: pixels that are neither object nor background (drawn borders), apart from the mask, bool [n, h, w].
      boxes: for each image its boxes (y0, x0, y1, x1), half-open, in pixels, int32 [k, 4]; k may be 0.
      labels: the class of each image, int [n].
      classes: the names of the classes.
      complete: whether every class must have an image; a part of a set may miss some.  It is not kept.

    Raises:
      ValueError: parts of other shapes or sizes, images that are not finite or not in [0, 1], an empty mask, a pixel
        that is both object and void, a box without area or outside of its image, a label without a class, a class
        without an image.
      TypeError: masks that are not bool, boxes or labels that are not integers.

    >>> image, mask = np.zeros((1, 4, 4, 3), np.float32), np.zeros((1, 4, 4), bool)
    >>> mask[0, 1:3, 2] = True
    >>> made = Annotated("dot", image, mask, ~mask & False, (np.array([[1, 2, 3, 3]]),), np.array([0]), ("dot",))
    >>> made.boxes[0].tolist(), made.take([0]).labels.tolist()
    ([[1, 2, 3, 3]], [0])
    """

    name: str
    images: np.ndarray
    mask: np.ndarray
    void: np.ndarray
    boxes: tuple[np.ndarray, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    complete: InitVar[bool] = True

    def __post_init__(self, complete: bool) -> None:
        shape = self.images.shape
        channels_last("images", shape)
        if len(shape) != 4 or shape[-1] != 3 or 0 in shape:
            raise ValueError(f"images: expected [n, h, w, 3], none of them 0, but got {shape}. Repeat a grey channel.")
        check.finite("images", self.images, "Find and drop these images.")
        remedy = "Divide grey levels by 255; normalise later."
        check.within("images", self.images.min(), self.images.max(), (0, 1), remedy)
        _check_masks(self)
        _check_boxes(self)
        if np.shape(self.labels) != shape[:1]:
            raise ValueError(f"labels: expected one for each of {shape[0]} images, but got {np.shape(self.labels)}.")
        (check.labels if complete else check.label_range)("labels", self.labels, len(self.classes))

    def take(self, indices: Any) -> "Annotated":
        """Returns the part of the set with these images, in this order; a class may have none there.

        Args:
          indices: int [m], 1 or more.
        """
        indices = np.asarray(indices, np.int64)
        arrays = {name: getattr(self, name)[indices] for name in ("images", "mask", "void", "labels")}
        boxes = tuple(self.boxes[int(index)] for index in indices)
        return replace(self, **arrays, boxes=boxes, complete=False)

    def source(self) -> Arrays:
        """Returns the images and labels as a source, which shares their memory.

        Raises:
          ValueError: a class without an image, as a part of a set may have.

        >>> image, mask = np.zeros((1, 4, 4, 3), np.float32), np.ones((1, 4, 4), bool)
        >>> made = Annotated("all", image, mask, ~mask, (np.array([[0, 0, 4, 4]]),), np.array([0]), ("dot",))
        >>> made.source().images(np.array([0])).shape
        (1, 4, 4, 3)
        """
        return Arrays(self.name, self.images, self.labels, self.classes)


def annotated_scenes(scenes: Scenes, labels: Any, classes: Sequence[str], name: str) -> Annotated:
    """Makes a set with exact masks and boxes of painted scenes with one object each.

    Args:
      scenes: from ``jp.data.scenes``.
      labels: the class of each scene, int [n], such as ``scenes.shape[:, 0]``.
      classes: their names, such as ``SHAPES``.
      name: of the set.

    Raises:
      ValueError: scenes of several objects, labels that do not fit, a class without a scene.

    >>> import jax
    >>> from jaxprune.data.shapes import SHAPES, scenes
    >>> made = scenes(jax.random.key(0), 10, shape=np.arange(10))
    >>> found = annotated_scenes(made, made.shape[:, 0], SHAPES, "ten")
    >>> found.mask.shape, [len(boxes) for boxes in found.boxes][:2]
    ((10, 32, 32), [1, 1])
    """
    if scenes.mask.shape[1] != 1:
        raise ValueError(
            f"scenes: expected one object in each, but they have up to {scenes.mask.shape[1]}, and an image has one "
            "label. Paint them with objects=1."
        )
    mask = scenes.mask[:, 0]
    images = scenes.image.astype(np.float32) / 255
    boxes = tuple(scenes.box[:, :1])
    return Annotated(name, images, mask, np.zeros_like(mask), boxes, np.asarray(labels), tuple(classes))


def _check_masks(made: Annotated) -> None:
    """Checks the pixels of objects, and those that are neither."""
    shape = made.images.shape[:3]
    for name, value in (("mask", made.mask), ("void", made.void)):
        if value.shape != shape:
            raise ValueError(
                f"{name}: expected bool [n, h, w] = {shape}, but got {value.shape}. Resize them to the images."
            )
        if value.dtype != np.bool_:
            raise TypeError(f"{name}: expected bool, but got {value.dtype}. Compare to get booleans: values > 0.")
    empty = ~made.mask.any(axis=(1, 2))
    if empty.any():
        raise ValueError(
            f"mask: expected a pixel of an object in each image, but {int(empty.sum())} of {shape[0]} masks are empty, "
            f"the first that of image {int(np.argmax(empty))}. Leave out images without an object."
        )
    if np.any(made.mask & made.void):
        raise ValueError("void: expected pixels that are no object, but some are in the mask too. Use void & ~mask.")


def _check_boxes(made: Annotated) -> None:
    """Checks that the boxes of each image have an area and lie inside of it."""
    count, height, width = made.images.shape[:3]
    if len(made.boxes) != count:
        raise ValueError(f"boxes: expected an array [k, 4] for each of {count} images, but got {len(made.boxes)}.")
    for number, boxes in enumerate(made.boxes):
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"boxes: expected int [k, 4], but those of image {number} are {boxes.shape}.")
        if not np.issubdtype(boxes.dtype, np.integer):
            raise TypeError(
                f"boxes: expected whole pixels, but those of image {number} are {boxes.dtype}. Round outward: floor "
                "the first corner, ceil the second."
            )
        y0, x0, y1, x1 = boxes.T
        wrong = (y0 < 0) | (x0 < 0) | (y1 > height) | (x1 > width) | (y0 >= y1) | (x0 >= x1)
        if wrong.any():
            raise ValueError(
                f"boxes: expected 0 <= y0 < y1 <= {height} and 0 <= x0 < x1 <= {width}, but image {number} has "
                f"{boxes[np.argmax(wrong)].tolist()}. Boxes are (y0, x0, y1, x1), half-open, of the resized image."
            )
