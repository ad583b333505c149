"""A source whose images are brought to the size of a network when they are asked for, and not before."""

import hashlib
import json

import numpy as np

from jaxprune.data.preprocessing import output_shape, preprocess
from jaxprune.data.source import Source
from jaxprune.types import Preprocess


class Preprocessed(Source):
    """The images of another source, each as ``jp.data.preprocess`` makes it, whenever it is asked for.

    Images [28, 28, 1] as bytes take a sixteenth of the memory of [64, 64, 3]; nothing is kept but the source.  Name,
    labels and classes are those of the source, so splits are the same at every size.

    Args:
      source: its images are uint8 [h, w, c], with c of 1 (grey), 3, or 4 (the last channel is dropped).
      preprocess: sizes and interpolation; with it all must get one size.  Its mean and std are for the network.

    Raises:
      ValueError: images of the source that are no bytes, or have other channels; a record that gives no one size.

    >>> from jaxprune.data.source import Arrays
    >>> dots = Arrays("dots", np.zeros((2, 4, 4, 1), np.uint8), np.array([0, 1]), ("no", "yes"))
    >>> Preprocessed(dots, Preprocess(resize=9, crop=8)).images(np.array([1, 0, 1])).shape
    (3, 8, 8, 3)
    """

    def __init__(self, source: Source, preprocess: Preprocess) -> None:
        self.name, self.labels, self.classes = source.name, source.labels, source.classes
        self.source, self.preprocess = source, preprocess
        self._shape = output_shape(preprocess)
        kind = source.images(np.arange(min(1, len(source)))).dtype
        if kind != np.uint8 or source.image_shape[-1] not in (1, 3, 4):
            raise ValueError(
                f"source: expected images as bytes, uint8 [h, w, c] with c = 1, 3 or 4, but those of {source.name} are "
                f"{kind}{list(source.image_shape)}. Save them as uint8, 255 for white."
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape (h, w, 3) of every image."""
        return self._shape

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Fetches and preprocesses the images of these indices, uint8 [len(indices), h, w, 3]."""
        result = np.empty((len(indices), *self._shape), np.uint8)
        for place, picture in enumerate(self.source.images(indices)):
            result[place] = preprocess(picture, self.preprocess)
        return result

    def fingerprint(self) -> str:
        """Returns a SHA-256 of the fingerprint of the source and of how images are brought to their size."""
        sizes = [self.preprocess.resize, self.preprocess.crop, self.preprocess.interpolation]
        digest = hashlib.sha256(json.dumps([self.source.fingerprint(), sizes]).encode())
        return f"sha256-preprocessed:{digest.hexdigest()}"
