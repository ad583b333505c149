"""Labelled images in one file of NumPy."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxprune import check
from jaxprune.data.source import Arrays

_REMEDY = "Write it with np.savez(path, image=..., label=..., classes=...)."


def npz(path: str | Path, *, classes: Sequence[str] | None = None) -> Arrays:
    """Reads a source from an npz file; it is checked, and lies in memory.

        image      uint8 [n, h, w, c], or floats in [0, 1]
        label      integers [n]
        classes    text [k]; optional

    Pickled objects are never read.

    Args:
      path: the file.
      classes: the names of the classes.  None: those of the file, or else "0", "1" and so on up to the highest label.

    Returns:
      The source, named "npz:" and the name of the file without its suffix.

    Raises:
      ValueError: a file that is missing, damaged or of another kind, without "image" and "label", with pickled objects,
        images that are not finite or not in [0, 1], labels that do not fit, a class without an image.
      TypeError: labels that are not integers, images that are neither bytes nor floats.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     np.savez(f"{place}/dots.npz", image=np.zeros((2, 4, 4, 1), np.uint8), label=np.array([0, 1]))
    ...     source = npz(f"{place}/dots.npz", classes=("no", "yes"))
    >>> source.name, len(source), source.images(np.array([1])).dtype
    ('npz:dots', 2, dtype('uint8'))
    """
    path = Path(path)
    arrays = _arrays(path)
    image, label = arrays["image"], arrays["label"]
    if not (image.dtype == np.uint8 or np.issubdtype(image.dtype, np.floating)):
        raise TypeError(f"npz: expected images as uint8 or floats in [0, 1], but got {image.dtype}. {_REMEDY}")
    if np.issubdtype(image.dtype, np.floating):
        image = image.astype(np.float32)
        check.finite("npz: image", image, "Find and drop these images.")
        if image.size:
            remedy = "Divide grey levels by 255; normalise later."
            check.within("npz: image", image.min(), image.max(), (0, 1), remedy)
    if label.ndim != 1 or not np.issubdtype(label.dtype, np.integer) or not label.size:
        raise TypeError(
            f"npz: expected integer labels [n], one or more, but got {label.dtype} {label.shape}. {_REMEDY}"
        )
    return Arrays(f"npz:{path.stem}", image, label.astype(np.int32), _names(arrays, label, classes))


def _names(arrays: dict[str, np.ndarray], label: np.ndarray, classes: Sequence[str] | None) -> tuple[str, ...]:
    if classes is not None:
        return tuple(classes)
    if "classes" not in arrays:
        return tuple(str(number) for number in range(int(label.max()) + 1))
    found = arrays["classes"]
    if found.ndim != 1 or found.dtype.kind != "U":
        raise TypeError(f"npz: expected classes as text [k], but got {found.dtype} {found.shape}. {_REMEDY}")
    return tuple(found.tolist())


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays that a source has, never a pickled one."""
    try:
        with path.open("rb") as handle:  # np.load leaves files open that are damaged
            loaded = np.load(handle, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise ValueError("it is one array, and no archive of several")
            names = loaded.files
            arrays = {name: loaded[name] for name in ("image", "label", "classes") if name in names}
    # For damaged archives NumPy and zipfile raise many kinds of errors, and each of them means the same.
    except Exception as error:
        raise ValueError(f"npz: cannot read {str(path)!r} ({error}). Is it complete? {_REMEDY}") from error
    if not {"image", "label"} <= arrays.keys():
        raise ValueError(
            f"npz: expected 'image' and 'label' in {str(path)!r}, but it has {', '.join(names) or 'nothing'}. {_REMEDY}"
        )
    return arrays
