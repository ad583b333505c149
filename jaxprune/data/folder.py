"""Images in a folder, a subfolder for each class."""

import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, SupportsIndex

import numpy as np
from PIL import Image

from jaxprune import check
from jaxprune.data._contents import fingerprint, in_threads
from jaxprune.data._listing import SUFFIXES, is_hidden
from jaxprune.data._pictures import MAX_PIXELS, check_picture, preprocessed
from jaxprune.data.preprocessing import output_shape
from jaxprune.data.source import Source
from jaxprune.types import Preprocess

_HIDDEN = "its name begins with a dot, or is __MACOSX: no data, but what a system or an archiver left"
_SHOWN = 5


class Folder(Source):
    """Images of a folder, decoded when asked for; ``jp.data.folder`` opens one.

    Attributes:
      name: "folder:" and the name of the folder.
      labels: int32 [n].
      classes: the names of the subfolders, sorted, or those that were asked for in their order.
      files: the file of each example, relative to the folder.
      skipped: the files, and folders whose names begin with a dot, that were left out, each with the reason.
      preprocess: what is made of each image.
    """

    def __init__(
        self, path: Path, found: dict[str, list[str]], preprocess: Preprocess, max_pixels: int, skipped: dict[str, str]
    ) -> None:
        self.name, self.classes = f"folder:{path.name}", tuple(found)
        self.labels = np.repeat(np.arange(len(found), dtype=np.int32), [len(files) for files in found.values()])
        self.files = tuple(file for files in found.values() for file in files)
        self.preprocess, self.skipped = preprocess, skipped
        self._path, self._max_pixels = path, max_pixels

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape (h, w, 3) of every image."""
        return output_shape(self.preprocess)

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Decodes and preprocesses the images of these indices, uint8 [len(indices), h, w, 3].

        Raises:
          ValueError: an image can't be read; the message names it.  None is left out in silence.
        """
        result = np.empty((len(indices), *self.image_shape), np.uint8)
        for place, index in enumerate(indices):
            path = self._path / self.files[index]
            result[place] = preprocessed(path, path, self.preprocess, self._max_pixels)
        return result

    def check(
        self, indices: Iterable[SupportsIndex] | None = None, *, workers: int | None = None, whole: bool = False
    ) -> None:
        """Checks that images can be read, in threads.

        Args:
          indices: which examples.  None: all.
          workers: how many threads.  None: as many as there are CPUs that this process may use.
          whole: whether to decode them; else their heads are read, which finds no truncation.

        Raises:
          ValueError: some can't; the message names the first, and says how many there are.
        """
        files = self.files if indices is None else [self.files[index] for index in indices]
        wrong = _unreadable(self._path, files, self.preprocess, self._max_pixels, workers, whole)
        if wrong:
            listed = "\n".join(f"  {reason}" for reason in list(wrong.values())[:_SHOWN])
            raise ValueError(
                f"folder: {len(wrong)} of {len(files)} images of {self.name} cannot be used. Repair or remove them, "
                f'or leave them out with on_error="skip". The first:\n{listed}'
            )

    def fingerprint(self) -> str:
        """Returns a SHA-256 of names, labels, sizes, contents and how images are brought to their size.

        It begins with "sha256-whole:" or, beyond 1 GiB, "sha256-ends:", which hashes the first and the last 4 KiB of
        each file.
        """
        sizes = (self.preprocess.resize, self.preprocess.crop, self.preprocess.interpolation)
        facts = [*self.classes, *self.labels.tolist(), sizes]
        return fingerprint(self._path, self.files, facts)


def folder(
    path: str | Path,
    *,
    preprocess: Preprocess,
    classes: Sequence[str] | None = None,
    on_error: Literal["error", "skip"] = "error",
    max_pixels: int = MAX_PIXELS,
    workers: int | None = None,
) -> Folder:
    """Opens a folder of images, a subfolder for each class, with the order of torchvision's ``ImageFolder``.

        CLASS/NAME.jpg    or .jpeg, .png, .ppm, .bmp, .pgm, .tif, .tiff, .webp in any case; CLASS/ANY/NAME.jpg

    Images lie anywhere below the subfolders, links are followed.  Files outside of the classes, or with other
    suffixes, are not inspected.  What begins with a dot, and ``__MACOSX``, is no data, and is listed in ``skipped``
    where ``ImageFolder`` would read it.  No image is decoded here, unless ``on_error`` says so.

    Args:
      path: the folder.
      preprocess: what is made of each image; with it all must get one size.
      classes: the names of the classes in the order of a network's outputs; one without a folder keeps its number.
        None: the sorted names of the subfolders, so that the labels depend on which of them are there.
      on_error: what becomes of images that can't be read.  "error": ``check`` and ``images`` raise.  "skip": all are
        decoded now, and these are left out, before any split; if one is found later, that is an error.
      max_pixels: of an image, before and after its resize; 89 million, where Pillow begins to warn.
      workers: threads that decode for "skip".  None: as many as there are CPUs that this process may use.

    Returns:
      The source.

    Raises:
      ValueError: a folder that is missing, has no class or one without an image (also after skipping), a subfolder
        that is not among the ``classes`` that were asked for, names that are not UTF-8, links that lead in a circle,
        images that are no regular files, sizes that differ.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as place:
    ...     for name in ("cat", "dog"):
    ...         (Path(place) / name).mkdir()
    ...         Image.new("RGB", (40, 30)).save(Path(place) / name / "first.png")
    ...     source = folder(place, preprocess=Preprocess(resize=16, crop=16))
    ...     source.check()
    ...     source.classes, source.files, source.images(np.arange(2)).shape
    (('cat', 'dog'), ('cat/first.png', 'dog/first.png'), (2, 16, 16, 3))
    """
    check.choice("on_error", on_error, ("error", "skip"))
    check.whole("max_pixels", max_pixels)
    output_shape(preprocess)
    place = Path(path).expanduser().absolute()
    found, skipped = _listed(place)
    wanted = _wanted(place, list(found), classes)
    _demand_pictures(place, found, "")
    if on_error == "skip":
        files = [file for each in found.values() for file in each]
        skipped |= _unreadable(place, files, preprocess, max_pixels, workers, True)
        found = {name: [file for file in each if file not in skipped] for name, each in found.items()}
        _demand_pictures(place, found, " that can be read")
    return Folder(place, {name: found.get(name, []) for name in wanted}, preprocess, max_pixels, skipped)


def _wanted(place: Path, found: list[str], classes: Sequence[str] | None) -> list[str]:
    """Returns the classes in their order, among which all subfolders are."""
    if classes is None:
        return found
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        raise TypeError(f"classes: expected names, such as ('cat', 'dog'), but got {classes!r}.")
    wanted = list(classes)
    if len(set(wanted)) < len(wanted):
        twice = next(name for name in wanted if wanted.count(name) > 1)
        raise ValueError(f"classes: expected every name once, but {twice!r} is there more than once.")
    if other := [name for name in found if name not in wanted]:
        raise ValueError(
            f"classes: {len(other)} of {len(found)} subfolders of {str(place)!r} are not among the {len(wanted)} given "
            f"classes, the first {other[0]!r}. Name every class, or move these folders away."
        )
    return wanted


def _unreadable(
    place: Path, files: Iterable[str], preprocess: Preprocess, max_pixels: int, workers: int | None, whole: bool
) -> dict[str, str]:
    """Finds the files that can't be read, with the reasons; ``whole``: by decoding them."""
    if workers is not None:
        check.whole("workers", workers)

    def reason(file: str) -> str | None:
        try:
            check_picture(place / file, place / file, preprocess, max_pixels, whole)
        except ValueError as error:
            return str(error)
        return None

    files = list(files)
    with warnings.catch_warnings():  # around the threads: filters are those of the process
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # it comes before the size can be inspected
        reasons = in_threads(reason, files, workers)
    return {file: said for file, said in zip(files, reasons, strict=True) if said is not None}


def _demand_pictures(place: Path, found: dict[str, list[str]], kind: str) -> None:
    empty = [name for name, files in found.items() if not files]
    if empty:
        raise ValueError(
            f"folder: {len(empty)} of {len(found)} classes in {str(place)!r} have no image{kind}, the first "
            f"{empty[0]!r} ({', '.join(SUFFIXES)}). Remove these folders, or fill them."
        )


def _listed(place: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Lists the images of each class, in the order of ``ImageFolder``, relative to the folder, and what is hidden."""
    if not place.is_dir():
        raise ValueError(f"folder: {str(place)!r} is not a folder. Pass the one that holds a subfolder for each class.")
    try:
        with os.scandir(place) as entries:
            folders = sorted(entry.name for entry in entries if entry.is_dir())
        _demand_text(place, folders)
        skipped = {name: _HIDDEN for name in folders if is_hidden(name)}
        classes = [name for name in folders if name not in skipped]
        if not classes:
            raise ValueError(
                f"folder: expected a subfolder for each class in {str(place)!r}, but it has none. Is it one level too "
                "deep?"
            )
        found = {name: _pictures(place, name, skipped) for name in classes}
        return found, dict(sorted(skipped.items()))
    except OSError as error:
        raise ValueError(
            f"folder: cannot list {error.filename!r} ({error.strerror}). Check its rights and links."
        ) from error


def _pictures(place: Path, name: str, skipped: dict[str, str]) -> list[str]:
    """Lists the images of a class: folder by folder in the order of their paths, in each sorted by name.

    What is hidden is added to ``skipped``.
    """
    found: dict[str, list[str]] = {}
    waiting = [(name, frozenset([_identity(place)]))]
    while waiting:
        inside, above = waiting.pop()
        identity = _identity(place / inside)
        if identity in above:
            raise ValueError(
                f"folder: {str(place / inside)!r} is a link to a folder that it lies in, and would be listed without "
                "end. Remove the link."
            )
        with os.scandir(place / inside) as entries:
            listed = list(entries)
        # Other files are not inspected, and may be called anything.
        listed = [each for each in listed if each.is_dir() or each.name.lower().endswith(SUFFIXES)]
        _demand_text(place / inside, [each.name for each in listed])
        skipped |= {f"{inside}/{each.name}": _HIDDEN for each in listed if is_hidden(each.name)}
        listed = [each for each in listed if not is_hidden(each.name)]
        folders = [each.name for each in listed if each.is_dir()]
        pictures = [each for each in listed if not each.is_dir()]
        found[inside] = sorted(each.name for each in pictures)
        # A link that leads nowhere is an unreadable image; to wait for a pipe would be for ever.
        if special := [each.path for each in pictures if not each.is_file() and Path(each.path).exists()]:
            raise ValueError(f"folder: {special[0]!r} is neither a regular file nor a folder. Remove it.")
        waiting += [(f"{inside}/{each}", above | {identity}) for each in folders]
    return [f"{inside}/{file}" for inside in sorted(found) for file in found[inside]]


def _identity(path: Path) -> tuple[int, int]:
    """What a folder is, by whatever path one came."""
    status = path.stat()
    return status.st_dev, status.st_ino


def _demand_text(place: Path, names: Iterable[str]) -> None:
    """Checks that names are text; Python stands in for bytes that are none, and no record could hold that."""
    wrong = [name for name in names if not name.isascii() and any("\ud800" <= sign <= "\udfff" for sign in name)]
    if wrong:
        raise ValueError(
            f"folder: {len(wrong)} names in {os.fsencode(place)!r} are not UTF-8, the first {os.fsencode(wrong[0])!r}. "
            "Rename them."
        )
