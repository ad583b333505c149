"""Prepared TensorFlow Datasets, read without TensorFlow."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxprune import check
from jaxprune.data._contents import fingerprint, in_threads
from jaxprune.data._pictures import preprocessed, squeezed_bytes
from jaxprune.data._prepared import Prepared, prepared
from jaxprune.data.preprocessing import output_shape
from jaxprune.data.preprocessing import preprocess as preprocess_array
from jaxprune.data.source import Source
from jaxprune.types import Preprocess


class _Split(Source):
    """A source over a split: labels read once, images decoded when asked for.

    Inside of ``data`` its ``examples`` are read too, for what they hold beside their images.
    """

    def __init__(self, name: str, split: Prepared, labels: np.ndarray, shape: Any, rule: Preprocess | None) -> None:
        self.name, self.labels, self.classes = name, labels, tuple(split.features["label"].names)
        self.examples = split.examples
        self._split, self._shape, self._rule = split, shape, rule

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape (h, w, c) of every image."""
        return self._shape

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Decodes the images of these indices, uint8 [len(indices), h, w, c].

        Raises:
          ValueError: one is damaged; the message says which.
        """
        result = np.empty((len(indices), *self._shape), np.uint8)
        for place, index in enumerate(indices):
            result[place] = self._image(int(index))
        return result

    def fingerprint(self) -> str:
        """Returns a SHA-256 of the files of the split: "sha256-whole:" or, beyond 1 GiB, "sha256-ends:".

        The second hashes the first and the last 4 KiB of each file, and all labels.
        """
        return fingerprint(self._split.folder, self._split.files, [self.name, *self.classes, *self.labels.tolist()])

    def _image(self, index: int) -> np.ndarray:
        where = f"example {index} of {self.name}"
        picture = self._split.part(index, "image")
        if self._rule is not None and isinstance(picture, bytes):
            return preprocessed(where, picture, self._rule)
        try:
            if self._split.records is not None:
                picture = self._split.features["image"].decode_example_np(picture)
            if self._rule is not None:
                return preprocess_array(picture, self._rule)
            return squeezed_bytes(picture, self._shape[0])
        # For damaged pictures the decoders of TFDS raise many kinds of errors, and each of them means the same.
        except Exception as error:
            raise ValueError(f"{where}: cannot be read as a picture ({error}). Prepare the data set again.") from error


def tfds(
    name: str,
    split: str = "train",
    *,
    image: int | None = None,
    preprocess: Preprocess | None = None,
    folder: str | Path | None = None,
) -> Any:
    """Opens a prepared data set in the format array_record or TFRecord; TensorFlow is not needed.

    Every record of TFRecord is checked against its checksum whenever it is read, the first time here, for its label.
    Parquet is refused, because the writer of TFDS loses rows.

    Args:
      name: the name of the data set, such as "cifar10" or "imagenet2012:5.1.0".
      split: which split, such as "train" or "train[:10%]".
      image: height and width of the images, in pixels, to which they are squeezed, bilinearly with antialiasing; grey
        ones stay grey.
      preprocess: instead of ``image``: what is made of each picture; with it all must get one size.
      folder: where prepared sets lie, or the folder of one version, which holds dataset_info.json.  None: the default
        of TensorFlow Datasets.

    Returns:
      A ``Source``; its images are bytes.

    Raises:
      ValueError: no such data set or split, a set that was not prepared or not to its end, another format, files that
        are missing or damaged, another number of examples than the metadata says, an empty split, or examples without
        "image" and "label"; all before any picture is decoded.
    """
    if (image is None) == (preprocess is None):
        raise ValueError(
            f"image, preprocess: expected exactly one of them, but got image={image!r} and preprocess={preprocess!r}."
        )
    if image is not None:
        check.whole("image", image)
    rule_shape = None if preprocess is None else output_shape(preprocess)
    found = prepared(name, split, folder)
    features, full = found.features, f"tfds:{name}:{split}"
    if not {"image", "label"} <= set(features or ()):
        raise ValueError(f"data: expected examples with 'image' and 'label', but tfds:{name} has {sorted(features)}.")
    if len(found.examples) == 0:
        raise ValueError(f"data: split {split!r} of tfds:{name} has no example. Choose another.")
    labels = _labels(found, f"tfds:{name}")
    check.label_range(f"labels of tfds:{name}", labels, len(features["label"].names))
    shape = rule_shape or (image, image, features["image"].shape[-1])
    return _Split(full, found, labels, shape, preprocess)


def _labels(found: Prepared, said: str) -> np.ndarray:
    try:
        labels = in_threads(lambda index: found.part(index, "label"), range(len(found.examples)))
    # Records are read for the first time here, and the readers raise many kinds of errors for damaged ones.
    except Exception as error:
        raise ValueError(f"data: {said} is damaged: {error} Prepare it again.") from error
    return np.array(labels, dtype=np.int32)
