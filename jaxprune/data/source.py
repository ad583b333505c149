"""A source of labelled images, and the part of it that a task and a split pick out."""

import hashlib
import json
import operator
from dataclasses import dataclass
from typing import Any, Protocol, SupportsIndex, runtime_checkable

import jax.numpy as jnp
import numpy as np

from jaxprune import check


@runtime_checkable
class Source(Protocol):
    """Labelled images: all labels at hand, images fetched by index.

    A class that inherits from it gets ``len`` and ``[index]``.  Images of files are bytes, of which a quarter of the
    memory holds as many; ``select`` and the networks that ``load`` makes divide them by 255.

    Attributes:
      name: enters the splits, so that two sources never share a random stream.
      labels: the class of every example, int [n].
      classes: the names of the classes.
    """

    name: str
    labels: np.ndarray
    classes: tuple[str, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape (h, w, c) of every image, known without reading one."""
        ...

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Returns images [len(indices), h, w, c]: float32 in [0, 1], or uint8, which is 255 times that."""
        ...

    def fingerprint(self) -> str:
        """Returns what changes when the data do, for records: how it was made, a colon, and hexadecimal digits."""
        ...

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        place = operator.index(index)
        if not -len(self) <= place < len(self):
            raise IndexError(f"index: expected an example in [0, {len(self)}), but got {place}.")
        place %= len(self)
        return {"image": self.images(np.array([place]))[0], "label": self.labels[place]}


@dataclass(frozen=True)
class Arrays(Source):
    """A source that lies in memory.

    Attributes:
      name: the name of the source.
      pixels: float32 [n, h, w, c], finite, in [0, 1]; or uint8, which is 255 times that.
      labels: int [n].
      classes: the names of the classes; every class has an example.

    Raises:
      ValueError: images that are not [n, h, w, c] (nor [n, c, h, w]) or not finite, labels out of range, an empty
        class.

    >>> source = Arrays("dots", np.zeros((2, 4, 4, 1), np.float32), np.array([0, 1]), ("no", "yes"))
    >>> source.images(np.array([1])).shape
    (1, 4, 4, 1)
    >>> len(source), source[-1]["label"]
    (2, np.int64(1))
    """

    name: str
    pixels: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        channels_last("pixels", self.pixels.shape)
        if self.pixels.ndim != 4 or len(self.pixels) != len(self.labels):
            raise ValueError(
                f"pixels: expected images [n, h, w, c] with n = {len(self.labels)} labels, but got "
                f"{self.pixels.shape}. Grey images need a last axis of 1."
            )
        check.finite("pixels", self.pixels, "Find and drop these images.")
        if self.pixels.dtype != np.uint8 and not jnp.issubdtype(self.pixels.dtype, jnp.floating):
            raise TypeError(f"pixels: expected uint8, or floats in [0, 1], but got {self.pixels.dtype}. Convert them.")
        if self.pixels.dtype != np.uint8 and self.pixels.size:
            remedy = "Divide grey levels by 255; normalise later."
            check.within("pixels", self.pixels.min(), self.pixels.max(), (0, 1), remedy)
        check.labels("labels", self.labels, len(self.classes))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape (h, w, c) of every image."""
        height, width, channels = self.pixels.shape[1:]
        return height, width, channels

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Returns the images of these indices, [len(indices), h, w, c], as they lie in memory."""
        return self.pixels[indices]

    def fingerprint(self) -> str:
        """Returns the SHA-256 of pixels, labels and classes."""
        head = json.dumps([str(self.pixels.dtype), self.pixels.shape, self.classes])
        digest = hashlib.sha256(head.encode())
        digest.update(np.ascontiguousarray(self.labels, np.int64).data)
        digest.update(np.ascontiguousarray(self.pixels).data)
        return f"sha256:{digest.hexdigest()}"


def channels_last(name: str, shape: tuple[int, ...]) -> None:
    """Refuses what has the shape of images [n, c, h, w], as PyTorch keeps them: heights would be taken for channels.

    Where both the second and the last axis may be channels, or the images are a few pixels wide, nobody can tell.

    >>> channels_last("images", (10, 32, 32, 3))
    """
    if len(shape) == 4 and shape[1] in (1, 3, 4) and min(shape[2:]) > 4:
        raise ValueError(
            f"{name}: expected images [n, h, w, c] with the channels last, but the shape {tuple(shape)} is that of "
            "[n, c, h, w]. Move them: np.moveaxis(images, 1, -1)."
        )


def as_float(images: np.ndarray) -> np.ndarray:
    """Brings images of a source to float32 in [0, 1]: bytes are divided by 255, floats stay.

    Raises:
      TypeError: other integers, of which nobody can say what is white.

    >>> as_float(np.array([0, 51, 255], np.uint8)).tolist()
    [0.0, 0.20000000298023224, 1.0]
    """
    if images.dtype == np.uint8:
        return images.astype(np.float32) / 255
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(
            f"images: expected uint8, or floats in [0, 1], but got {images.dtype}. Scale them to one of these."
        )
    return images


def select(
    source: Source, indices: np.ndarray, classes: tuple[int, ...] | None = None, *, complete: bool = True
) -> dict[str, Any]:
    """Fetches examples as one batch, with the labels counted inside ``classes`` (0 for the first of them, and so on).

    Args:
      source: where the images are.
      indices: which examples; those of other classes are left out.
      classes: the classes of a task, as numbered by the source.  None: all.
      complete: whether every class must have an example; a few images of many classes need not.

    Returns:
      ``{"image": float32 [b, h, w, c] in [0, 1], "label": int32 [b]}``.

    Raises:
      ValueError: a class is unknown, or has no example among ``indices``; an image is not finite.
    """
    chosen, labels = relabelled(source, indices, classes, complete=complete)
    images = as_float(source.images(chosen))
    check.finite(f"images of {source.name}", images, "Find and drop these images.")
    return {"image": images, "label": labels}


def relabelled(
    source: Source, indices: np.ndarray, classes: tuple[int, ...] | None = None, *, complete: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the examples of ``classes`` among ``indices``, and their labels counted inside ``classes``, int32.

    Args:
      source: where the labels are.
      indices: which examples; those of other classes are left out.
      classes: the classes of a task, as numbered by the source.  None: all.
      complete: whether every class must have an example.

    Raises:
      ValueError: a class is unknown, or has no example among ``indices``.

    >>> dots = Arrays("dots", np.zeros((3, 4, 4, 1), np.float32), np.array([0, 1, 2]), ("a", "b", "c"))
    >>> [part.tolist() for part in relabelled(dots, np.arange(3), (2, 0))]
    [[0, 2], [1, 0]]
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
    if complete:
        check.labels(f"labels of {source.name}", labels, len(wanted))
    return chosen, labels
