"""Labelled images of a study: what the words of ``--data`` open, and the tasks among their classes."""

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

import jaxprune as jp
from experiments.shared import named
from jaxprune import check
from jaxprune.types import Preprocess

OnError = Literal["error", "skip"]

BUNDLED = ("digits", "shapes")
"""Data that come with the library, or are painted by it."""


@dataclass(frozen=True)
class Sources:
    """Labelled images, those that are kept for testing where a data set has such, and the tasks among their classes."""

    images: jp.data.Source
    tests: jp.data.Source | None
    tasks: tuple[jp.data.Task, ...]


FORMS = (*BUNDLED, "tfds:<name>", "folder:<path>", "npz:<path>", "idx:<folder>", "<package.module>:<function>")
"""What ``--data`` takes."""


def load(
    data: str | Callable[..., Any],
    folder: str | None,
    image: int,
    preprocess: Preprocess | None = None,
    on_error: OnError = "error",
) -> Sources:
    """Opens a data set and its tasks.

    Args:
      data: "digits", "shapes", "tfds:<name>" for a prepared TensorFlow data set, "folder:<path>" for images in a
        folder for each class (or in train/ and val/ of such), "npz:<path>", "idx:<folder>" for a set like MNIST (or
        "idx:<folder>/<set>" for one of several, such as idx:emnist/emnist-letters); or a function that returns a
        ``jp.data.Source``, or ``Sources``.
      folder: where prepared data sets lie.
      image: side of the images in pixels; the digits, npz and IDX files have their own whatever it says.
      preprocess: what a pretrained network was made for, in place of squares of this size.
      on_error: what becomes of images in folders that can't be read: "error" or "skip".

    Returns:
      The sources.  ImageNet, and any set of its 1000 synsets, has the ten shipped groups as tasks; any other data set
      two halves of its classes.
    """
    if data == "digits":
        return Sources(jp.data.digits(), None, halves(10, ("0-4", "5-9")))
    if data == "shapes":
        return Sources(jp.data.shapes(0, image=image), None, jp.data.shape_tasks())
    kind, _, name = data.partition(":") if isinstance(data, str) else ("", "", "")
    if kind not in _OPENERS:
        if isinstance(data, str) and not _names_function(data):
            check.choice("data", data, FORMS)
        return _own(data)
    if not name:
        check.choice("data", data if isinstance(data, str) else "", FORMS)
    images, tests = _OPENERS[kind](name, folder, image, preprocess, on_error)
    if tests is not None and tests.classes != images.classes:
        other = sorted(set(images.classes) ^ set(tests.classes))
        raise ValueError(
            f"data: expected the same classes in {images.name} and {tests.name}, but {len(other)} are in one of them "
            f"only, the first {other[:1]}. Use folders of one data set."
        )
    if (kind == "tfds" and name.startswith("imagenet2012")) or _are_synsets(images.classes):
        return Sources(images, tests, jp.data.imagenet_tasks())
    return Sources(images, tests, halves(len(images.classes), ("first half", "second half")))


def _from_tfds(
    name: str, folder: str | None, image: int, preprocess: Preprocess | None, on_error: OnError
) -> tuple[jp.data.Source, jp.data.Source | None]:
    options: dict[str, Any] = {"folder": folder} | ({"preprocess": preprocess} if preprocess else {"image": image})
    # ImageNet's test split has no labels; its validation split is what everyone reports.
    tests = jp.data.tfds(name, "validation", **options) if preprocess and name.startswith("imagenet2012") else None
    return jp.data.tfds(name, **options), tests


def _from_folder(
    name: str, folder: str | None, image: int, preprocess: Preprocess | None, on_error: OnError
) -> tuple[jp.data.Source, jp.data.Source | None]:
    del folder
    made = preprocess or Preprocess(resize=(image, image))
    path = Path(name)
    tests = next((part for part in ("val", "validation", "valid", "test") if (path / part).is_dir()), None)
    training = (path / "train").is_dir()
    if training != (tests is not None):
        there, wanted = ("train", "val") if training else (tests, "train")
        raise ValueError(
            f"data: expected a folder for each class in {name!r}, or train and val with such folders, but it has "
            f"{there} and no {wanted}. Pass the folder {there} itself, or add {wanted}."
        )
    if tests is None:
        return jp.data.folder(path, preprocess=made, on_error=on_error), None
    images, held = (jp.data.folder(path / part, preprocess=made, on_error=on_error) for part in ("train", tests))
    return images, held


def _from_npz(
    name: str, folder: str | None, image: int, preprocess: Preprocess | None, on_error: OnError
) -> tuple[jp.data.Source, jp.data.Source | None]:
    del folder, image, on_error
    tests = jp.data.npz(name, "test") if "test" in jp.data.npz_parts(name) else None
    return _sized(jp.data.npz(name), preprocess), None if tests is None else _sized(tests, preprocess)


def _from_idx(
    name: str, folder: str | None, image: int, preprocess: Preprocess | None, on_error: OnError
) -> tuple[jp.data.Source, jp.data.Source | None]:
    del folder, image, on_error
    place = Path(name)
    where, one = (place, "") if place.is_dir() or not place.parent.is_dir() else (place.parent, place.name)
    images, tests = jp.data.idx(where, "train", name=one), jp.data.idx(where, "test", name=one)
    return _sized(images, preprocess), _sized(tests, preprocess)


def _sized(images: jp.data.Arrays, preprocess: Preprocess | None) -> jp.data.Source:
    """Brings images that lie in memory to the size of a pretrained network, when they are asked for."""
    if preprocess is None:
        return images
    has_size = images.image_shape[:2] == (preprocess.crop, preprocess.crop)
    if images.pixels.dtype != np.uint8:
        if has_size:
            return images
        raise ValueError(
            f"data: expected images of {preprocess.crop} x {preprocess.crop} pixels, or bytes that can be resized, but "
            f"{images.name} has {images.pixels.dtype} of the shape {images.image_shape}. Save them as uint8."
        )
    # Those of that size have been brought to it before.
    return jp.data.Preprocessed(images, dataclasses.replace(preprocess, resize=None) if has_size else preprocess)


def _names_function(word: str) -> bool:
    """Whether a word is of the form package.module:function."""
    return all(part.isidentifier() for part in word.replace(":", ".").split(".")) and word.count(":") == 1


def _own(data: str | Callable[..., Any]) -> Sources:
    """Opens what a function of the user's returns."""
    found = data if isinstance(data, Sources | jp.data.Source) else named.call("data", data)
    if isinstance(found, Sources):
        return found
    if not isinstance(found, jp.data.Source):
        raise ValueError(
            f"data: expected {data} to return a jp.data.Source, such as jp.data.Arrays or jp.data.npz(path), or "
            f"experiments.shared.images.Sources, but got {type(found).__name__}."
        )
    return Sources(found, None, halves(len(found.classes), ("first half", "second half")))


_OPENERS = {"tfds": _from_tfds, "folder": _from_folder, "npz": _from_npz, "idx": _from_idx}


def _are_synsets(classes: tuple[str, ...]) -> bool:
    """Whether classes are the 1000 of ImageNet, named by their synsets: their order is that of networks' outputs."""
    return len(classes) == 1000 and all(re.fullmatch(r"n\d{8}", name) for name in classes)


def halves(classes: int, names: tuple[str, str]) -> tuple[jp.data.Task, ...]:
    """Groups the classes of a source into a lower and an upper half."""
    if classes < 2:
        raise ValueError(f"data: expected images of two classes or more, but got {classes}. Add a class.")
    middle = classes // 2
    return (
        jp.data.Task(names[0], tuple(range(middle))),
        jp.data.Task(names[1], tuple(range(middle, classes))),
    )
