"""Prepared TensorFlow Datasets, read without TensorFlow."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxprune import check
from jaxprune.data._pictures import squeezed


class _Prepared:
    """A source over a random-access split: labels read once, images decoded when asked for.

    Inside of ``data`` its ``examples`` are read too, for what they hold beside their images.
    """

    def __init__(
        self, name: str, examples: Sequence[Any], labels: np.ndarray, classes: tuple[str, ...], size: int
    ) -> None:
        self.name, self.labels, self.classes = name, labels, classes
        self.examples, self._size = examples, size

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Returns float32 images [len(indices), size, size, c] in [0, 1], resized bilinearly with antialiasing."""
        return np.stack([squeezed(self.examples[int(index)]["image"], self._size) for index in indices])


def tfds(name: str, split: str = "train", *, size: int, folder: str | None = None) -> Any:
    """Opens a prepared data set in array_record format, with ``tfds.data_source``; TensorFlow is not needed.

    Needs the extra ``jaxprune[data]`` (Pillow, importlib_resources).

    Args:
      name: the name of the data set, such as "cifar10" or "imagenet2012:5.1.0".
      split: which split, such as "train" or "train[:10%]".
      size: images are resized to size x size pixels.
      folder: where prepared sets lie.  None: the default of TensorFlow Datasets.

    Returns:
      A ``Source``.

    Raises:
      ValueError: no such data set or split, a set that was not prepared, fewer examples than its metadata says, an
        empty split, or examples without "image" and "label".
    """
    check.whole("size", size)
    base = name.split(":")[0].split("/")[0]
    import tensorflow_datasets  # takes a second to import, and only this source needs it

    try:
        builder: Any = tensorflow_datasets.builder(name, data_dir=folder, file_format="array_record")
        info = builder.info
        examples = builder.as_data_source(split=split)
        there = _count_records(info, split)
    except ImportError as error:
        raise ValueError(f"data: reading tfds:{name} needs jaxprune[data]: {error}") from error
    # TFDS and its readers raise many kinds of errors here, and each of them means the same to the user.
    except Exception as error:
        if isinstance(error, tensorflow_datasets.core.DatasetNotFoundError):
            check.choice("data: tfds", base, tensorflow_datasets.list_builders(with_community_datasets=False))
        raise ValueError(
            f"data: cannot open tfds:{name}, split {split!r}: {error} Prepare it once, on a machine with TensorFlow, "
            f"by `tfds build {base} --file_format=array_record`, and pass its folder."
        ) from error
    if not {"image", "label"} <= set(info.features or ()):
        raise ValueError(
            f"data: expected examples with 'image' and 'label', but tfds:{name} has {sorted(info.features)}."
        )
    if len(examples) == 0:
        raise ValueError(f"data: split {split!r} of tfds:{name} has no example. Choose another.")
    whole, claimed, found = there
    if claimed != found:
        raise ValueError(
            f"data: split {whole!r} of tfds:{name} should have {claimed} examples by its metadata, but {found} are "
            "there. Prepare it again."
        )
    labels = _labels(builder, split, examples)
    check.label_range(f"labels of tfds:{name}", labels, len(info.features["label"].names))
    return _Prepared(f"tfds:{name}:{split}", examples, labels, tuple(info.features["label"].names), size)


def _count_records(info: Any, split: str) -> tuple[str, int, int]:
    """Counts the records in the files of a split: (its name without a slice, how many by the metadata, how many)."""
    whole = split.split("[")[0]
    if not info.splits:  # a mocked set has no files
        return whole, 0, 0
    from array_record.python import array_record_module  # type: ignore[attr-defined]  # not on every platform

    found = 0
    for path in info.splits[whole].filepaths:
        reader = array_record_module.ArrayRecordReader(str(path))
        found += reader.num_records()
        if not reader.ok():
            raise ValueError(f"{path} is damaged.")
        reader.close()
    return whole, info.splits[whole].num_examples, found


def _labels(builder: Any, split: str, examples: Sequence[Any]) -> np.ndarray:
    import tensorflow_datasets

    skip = {"image": tensorflow_datasets.decode.SkipDecoding()}  # labels only: no picture is decoded
    undecoded = builder.as_data_source(split=split, decoders=skip)
    try:
        undecoded[0]
    except ImportError:
        # Mocked sets hold no encoded pictures, and would encode them with TensorFlow to skip decoding them.
        undecoded = examples
    return np.array([undecoded[index]["label"] for index in range(len(examples))], dtype=np.int32)
