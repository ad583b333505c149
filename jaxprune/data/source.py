"""A source of labelled images, and the part of it that a task and a split pick out."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxprune import check


@runtime_checkable
class Source(Protocol):
    """Labelled images: all labels at hand, images fetched by index.

    Attributes:
      name: enters the splits, so that two sources never share a random stream.
      labels: the class of every example, int [n].
      classes: the names of the classes.
    """

    name: str
    labels: np.ndarray
    classes: tuple[str, ...]

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Returns float32 images [len(indices), h, w, c] in [0, 1]."""
        ...


@dataclass(frozen=True)
class Arrays:
    """A source that lies in memory.

    Attributes:
      name: the name of the source.
      pixels: float32 [n, h, w, c], finite.
      labels: int [n].
      classes: the names of the classes; every class has an example.

    Raises:
      ValueError: images that are not [n, h, w, c] or not finite, labels out of range, an empty class.

    >>> source = Arrays("dots", np.zeros((2, 4, 4, 1), np.float32), np.array([0, 1]), ("no", "yes"))
    >>> source.images(np.array([1])).shape
    (1, 4, 4, 1)
    """

    name: str
    pixels: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or len(self.pixels) != len(self.labels):
            raise ValueError(
                f"pixels: expected images [n, h, w, c] with n = {len(self.labels)} labels, but got "
                f"{self.pixels.shape}. Grey images need a last axis of 1."
            )
        check.finite("pixels", self.pixels, "Find and drop these images.")
        check.labels("labels", self.labels, len(self.classes))

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Returns the images of these indices, float32 [len(indices), h, w, c]."""
        return self.pixels[indices]


def select(source: Source, indices: np.ndarray, classes: tuple[int, ...] | None = None) -> dict[str, Any]:
    """Fetches examples as one batch, with the labels counted inside ``classes`` (0 for the first of them, and so on).

    Args:
      source: where the images are.
      indices: which examples; those of other classes are left out.
      classes: the classes of a task, as numbered by the source.  None: all.

    Returns:
      ``{"image": float32 [b, h, w, c], "label": int32 [b]}``.

    Raises:
      ValueError: a class is unknown, or has no example among ``indices``; an image is not finite.
    """
    wanted = tuple(range(len(source.classes))) if classes is None else classes
    for number in wanted:
        if not 0 <= number < len(source.classes):
            raise ValueError(
                f"classes: expected numbers in [0, {len(source.classes)}) for {source.name}, but got {number}."
            )
    position = np.full(len(source.classes), -1, dtype=np.int32)
    position[list(wanted)] = np.arange(len(wanted))
    found = check.label_range(f"labels of {source.name}", source.labels[indices], len(source.classes))
    labels = position[found]
    chosen = np.asarray(indices)[labels >= 0]
    labels = labels[labels >= 0]
    check.labels(f"labels of {source.name}", labels, len(wanted))
    images = source.images(chosen)
    check.finite(f"images of {source.name}", images, "Find and drop these images.")
    return {"image": images, "label": labels}
