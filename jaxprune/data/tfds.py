"""Prepared TensorFlow Datasets, read without TensorFlow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxprune import check
from jaxprune.data._contents import fingerprint, in_threads
from jaxprune.data._pictures import numbers, pixels, preprocessed, squeezed_bytes
from jaxprune.data._prepared import Prepared, prepared
from jaxprune.data.preprocessing import output_shape
from jaxprune.data.preprocessing import preprocess as preprocess_array
from jaxprune.data.source import Source
from jaxprune.types import Preprocess


class _Split(Source):
    """A source over a split: labels read once, images decoded when asked for.

    Inside of ``data`` other features are read too: ``decoded`` as TFDS does it, images by ``pixels`` and ``numbers``.
    """

    def __init__(self, name: str, split: Prepared, labels: np.ndarray, classes: Any, shape: Any, rule: Any) -> None:
        self.name, self.labels, self.classes = name, labels, classes
        self.features, self.decoded = split.features, split.decoded
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
        facts = [self.name, *self.classes, *self.labels.tolist(), self._shape, repr(self._rule)]
        return fingerprint(self._split.folder, self._split.files, facts)

    def pixels(self, index: int) -> np.ndarray:
        """Decodes an image as it is stored, uint8 [h, w, c]."""
        picture = self._split.part(index, "image")
        # Not by TFDS, which takes levels of 16 bits modulo 256.
        return pixels(self._where(index), picture, self._shape[-1]) if isinstance(picture, bytes) else picture

    def numbers(self, index: int, feature: str) -> np.ndarray:
        """Decodes a mask, int [h, w]."""
        mask = self._split.part(index, feature)
        return numbers(self._where(index), mask) if isinstance(mask, bytes) else np.asarray(mask)[..., 0]

    def _image(self, index: int) -> np.ndarray:
        if self._rule is None:
            return squeezed_bytes(self.pixels(index), self._shape[0])
        picture = self._split.part(index, "image")
        if isinstance(picture, bytes):
            return preprocessed(self._where(index), picture, self._rule)
        return preprocess_array(picture, self._rule)

    def _where(self, index: int) -> str:
        return f"example {index} of {self.name}"


def tfds(
    name: str,
    split: str = "train",
    *,
    image: int | None = None,
    preprocess: Preprocess | None = None,
    folder: str | Path | None = None,
    classes: Sequence[str] | None = None,
) -> Any:
    """Opens a prepared data set in the format array_record or TFRecord; TensorFlow is not needed.

    Every record of TFRecord is checked against its checksum whenever it is read, the first time here, for its label.
    Parquet is refused, because the writer of TFDS loses rows.  Grey levels of 16 bits are scaled to bytes, ``v / 257``
    rounded to nearest.

    Args:
      name: the name of the data set, such as "cifar10" or "imagenet2012:5.1.0".
      split: which split, such as "train" or "train[:10%]".
      image: height and width of the images, in pixels, to which they are squeezed, bilinearly with antialiasing; grey
        ones stay grey.
      preprocess: instead of ``image``: what is made of each image; with it all must get one size.
      folder: where prepared sets lie, or the folder of one version, which holds dataset_info.json.  None: the default
        of TensorFlow Datasets.
      classes: the names of the classes where the set has plain integers as labels, and does not name them.  None: the
        set's own.

    Returns:
      A ``Source``; its images are bytes.

    Raises:
      ValueError: no such data set or split, a split that reads an example twice, a set that was not prepared or not to
        its end, another format, files that are missing or damaged, another number of examples than the metadata says,
        an empty split, or examples without "image" and one "label" each; all before any image is decoded.
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
    if found.length == 0:
        raise ValueError(f"data: split {split!r} of tfds:{name} has no example. Choose another.")
    _check_image(features["image"], f"tfds:{name}")
    names = _names(features["label"], f"tfds:{name}", classes)
    labels = _labels(found, f"tfds:{name}", split, len(names))
    return _Split(full, found, labels, names, rule_shape or (image, image, features["image"].shape[-1]), preprocess)


def _check_image(feature: Any, said: str) -> None:
    kind, channels = np.dtype(getattr(feature, "np_dtype", object)), (getattr(feature, "shape", None) or (None,))[-1]
    if kind not in (np.uint8, np.uint16) or channels not in (1, 3, 4):
        raise ValueError(
            f"data: expected images of uint8 or uint16 with 1, 3 or 4 channels as 'image', but {said} has "
            f"{type(feature).__name__} of {kind} with {channels}. Read it with TensorFlow Datasets, and write an npz."
        )


def _names(feature: Any, said: str, classes: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the names of the classes: those of the set, or those given for plain integers."""
    kind = np.dtype(getattr(feature, "np_dtype", object))
    if getattr(feature, "shape", None) != () or not np.issubdtype(kind, np.integer):
        raise ValueError(
            f"data: expected one class for each example as 'label', but that of {said} is {feature!r}. A set of "
            "several labels, or of other values, is no source of classes; choose another, or write an npz."
        )
    own = getattr(feature, "names", None)
    if own is None and classes is None:
        raise ValueError(
            f"data: the labels of {said} are integers ({kind}), and it does not say what classes there are. Name them: "
            "classes=('cat', 'dog')."
        )
    if own is not None and classes is not None and list(own) != list(classes):
        raise ValueError(
            f"classes: expected those of {said}, {len(own)} from {own[0]!r} to {own[-1]!r}, but got {len(classes)} "
            "that differ from them. Leave the argument out."
        )
    return tuple(classes if own is None else own)  # type: ignore[arg-type]


def _labels(found: Prepared, said: str, split: str, classes: int) -> np.ndarray:
    try:
        labels = np.array(in_threads(lambda index: found.part(index, "label"), range(found.length)), np.int64)
    # Records are read for the first time here, and the readers raise many kinds of errors for damaged ones.
    except Exception as error:
        raise ValueError(f"data: {said} is damaged: {error} Prepare it again.") from error
    if hidden := int(np.sum(labels == -1)):
        raise ValueError(
            f"labels of {said}: expected labels in [0, {classes}), but {hidden} of {len(labels)} in split {split!r} "
            "are -1, as in test splits whose labels are kept back. Choose another split."
        )
    return check.label_range(f"labels of {said}", labels, classes).astype(np.int32)
