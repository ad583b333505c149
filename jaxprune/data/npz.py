"""Labelled images in one file of NumPy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from jaxprune import check
from jaxprune.data.source import Arrays

_REMEDY = "Write it with np.savez(path, image=..., label=..., classes=...)."
PARTS = {"train": ("image", "label"), "test": ("test_image", "test_label")}
"""The official parts, and what their arrays are called."""


def npz(path: str | Path, part: Literal["train", "test"] = "train", *, classes: Sequence[str] | None = None) -> Arrays:
    """Reads a source from an npz file; it is checked, and lies in memory.

        image         uint8 [n, h, w, c], or floats in [0, 1]
        label         integers [n]
        test_image    uint8 [m, h, w, c], or floats in [0, 1]; optional, images that are kept for testing
        test_label    integers [m]; with them
        classes       text [k]; optional

    Pickled objects are never read.

    Args:
      path: the file.
      part: "train", or "test" for images that are kept for testing; ``npz_parts`` says whether there are any.
      classes: the names of the classes.  None: those of the file, or else "0", "1" and so on up to the highest label
        of the part "train".

    Returns:
      The source, named "npz:" and the name of the file without its suffix, and ":test" for that part.

    Raises:
      ValueError: a file that is missing, damaged or of another kind, without the arrays of the part, with pickled
        objects, images that are not finite or not in [0, 1], labels that do not fit, a class without an image.
      TypeError: labels that are not integers, images that are neither bytes nor floats.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     np.savez(f"{place}/dots.npz", image=np.zeros((2, 4, 4, 1), np.uint8), label=np.array([0, 1]))
    ...     source = npz(f"{place}/dots.npz", classes=("no", "yes"))
    >>> source.name, len(source), source.images(np.array([1])).dtype
    ('npz:dots', 2, dtype('uint8'))
    """
    path = Path(path)
    wanted = PARTS[check.choice("part", part, PARTS)]
    arrays = _arrays(path, wanted)
    image, label = (arrays[name] for name in wanted)
    if not (image.dtype == np.uint8 or np.issubdtype(image.dtype, np.floating)):
        raise TypeError(f"npz: expected images as uint8 or floats in [0, 1], but got {image.dtype}. {_REMEDY}")
    if np.issubdtype(image.dtype, np.floating):
        image = image.astype(np.float32)
        check.finite(f"npz: {wanted[0]}", image, "Find and drop these images.")
        if image.size:
            remedy = "Divide grey levels by 255; normalise later."
            check.within(f"npz: {wanted[0]}", image.min(), image.max(), (0, 1), remedy)
    for one in {arrays["label"].shape: arrays["label"], label.shape: label}.values():
        if one.ndim != 1 or not np.issubdtype(one.dtype, np.integer) or not one.size:
            raise TypeError(
                f"npz: expected integer labels [n], one or more, but got {one.dtype} {one.shape}. {_REMEDY}"
            )
    name = f"npz:{path.stem}" if part == "train" else f"npz:{path.stem}:{part}"
    return Arrays(name, image, label.astype(np.int32), _names(arrays, classes))


def npz_parts(path: str | Path) -> tuple[str, ...]:
    """Lists the parts that an npz file has: "train", and "test" where it holds "test_image" or "test_label".

    Raises:
      ValueError: a file that is missing, damaged or of another kind.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     np.savez(f"{place}/dots.npz", image=np.zeros((2, 4, 4, 1), np.uint8), label=np.array([0, 1]))
    ...     npz_parts(f"{place}/dots.npz")
    ('train',)
    """
    names = _read(Path(path), ())[0]
    return tuple(part for part, arrays in PARTS.items() if part == "train" or set(arrays) & set(names))


def _names(arrays: dict[str, np.ndarray], classes: Sequence[str] | None) -> tuple[str, ...]:
    if classes is not None:
        return tuple(classes)
    if "classes" not in arrays:
        # Of the part that trains, so that both parts have the same.
        return tuple(str(number) for number in range(int(arrays["label"].max()) + 1))
    found = arrays["classes"]
    if found.ndim != 1 or found.dtype.kind != "U":
        raise TypeError(f"npz: expected classes as text [k], but got {found.dtype} {found.shape}. {_REMEDY}")
    return tuple(found.tolist())


def _arrays(path: Path, wanted: tuple[str, str]) -> dict[str, np.ndarray]:
    """Reads the arrays of a part, with the labels that name the classes, and never a pickled one."""
    names, arrays = _read(path, ("label", "classes", *wanted))
    if not {"label", *wanted} <= arrays.keys():
        raise ValueError(
            f"npz: expected {' and '.join(map(repr, wanted))} in {str(path)!r}, but it has "
            f"{', '.join(names) or 'nothing'}. {_REMEDY}"
        )
    return arrays


def _read(path: Path, wanted: Sequence[str]) -> tuple[list[str], dict[str, np.ndarray]]:
    """Reads the names of all arrays, and those arrays of some names that are there."""
    try:
        with path.open("rb") as handle:  # np.load leaves files open that are damaged
            loaded = np.load(handle, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise ValueError("it is one array, and no archive of several")
            return loaded.files, {name: loaded[name] for name in wanted if name in loaded.files}
    # For damaged archives NumPy and zipfile raise many kinds of errors, and each of them means the same.
    except Exception as error:
        raise ValueError(f"npz: cannot read {str(path)!r} ({error}). Is it complete? {_REMEDY}") from error
