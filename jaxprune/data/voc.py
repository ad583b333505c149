"""Images with masks and boxes in the layout of PASCAL VOC."""

from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from jaxprune import check
from jaxprune.data._listing import by_stem, is_hidden, only
from jaxprune.data._pictures import fitted, numbers, outward, pixels, same_size, shape, squeezed
from jaxprune.data.annotated import Annotated

# Index i of a mask is _NAMES[i - 1]; 0 is background.
_NAMES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_VOID = 255


class _Files(NamedTuple):
    name: str
    image: Path
    boxes: Path
    mask: Path


def voc(
    folder: str | Path, split: str = "val", *, image: int = 224, difficult: bool = True, count: int | None = None
) -> Annotated:
    """Reads images with masks and boxes from a folder in the layout of PASCAL VOC.

        ImageSets/Segmentation/val.txt     the names of the images, one a line
        JPEGImages/NAME.jpg                or another suffix of ``jp.data.folder``, in any case
        Annotations/NAME.xml               the boxes: corners in pixels, counted from 1, both included
        SegmentationClass/NAME.png         the class of each pixel: 0 background, 1 to 20 objects, 255 void

    Masks are read as palette indices; their colours, thresholded, would lose half of the classes.  Images are squeezed
    to squares: bilinearly with antialiasing, masks by the nearest pixel (an object between them keeps one), boxes
    rounded outward.  The mask is of all objects together, and an image's label is the class with the most pixels
    before resizing (of equal ones the first).

    Args:
      folder: the one that holds JPEGImages.
      split: which list of names, such as "val", "train" or "trainval".
      image: height and width of the images, in pixels.
      difficult: whether to keep boxes that are marked as difficult; CorLoc of LOST keeps them.
      count: how many images to read, the first ones of the list.  None: all; that is 0.6 MB of memory for each image of
        224 pixels.

    Returns:
      The set; its classes are those that some image has, in the order of VOC.

    Raises:
      ValueError: a folder, list or file that is missing (before anything is read), names given twice, a file that can't
        be read, a mask of another size, with colours for indices, with unknown indices, or without an object, boxes
        outside of the image, or a document type in an annotation.

    Source: Everingham, Van Gool, Williams, Winn and Zisserman (2010), Int. J. Computer Vision 88.
    """
    image = check.whole("image", image)
    if count is not None:
        check.whole("count", count)
    files = _files(Path(folder), split)[:count]
    boxes = [_boxes(each.boxes, difficult) for each in files]
    kept, labels = [], []
    for each, found in zip(files, boxes, strict=True):
        indices = _indices(each.mask)
        _inside(each.boxes, found, indices.shape)
        objects = (indices > 0) & (indices != _VOID)
        kept.append((*fitted(each.mask, objects, indices == _VOID, image), outward(found, indices.shape, image)))
        labels.append(int(np.argmax(np.bincount(indices[objects], minlength=len(_NAMES) + 1))))
        same_size(each.image, shape(each.image), indices.shape)
    present = sorted(set(labels))
    return Annotated(
        f"voc-{split}-{image}",
        np.stack([squeezed(pixels(each.image, each.image), image) for each in files]),
        np.stack([mask for mask, _, _ in kept]),
        np.stack([void for _, void, _ in kept]),
        tuple(scaled for _, _, scaled in kept),
        np.array([present.index(label) for label in labels], np.int32),
        tuple(_NAMES[label - 1] for label in present),
    )


def _files(folder: Path, split: str) -> list[_Files]:
    """Lists the files of a split, all of which are there."""
    lists = folder / "ImageSets" / "Segmentation"
    if not lists.is_dir():
        raise ValueError(
            f"folder: expected the layout of VOC, with {lists.relative_to(folder)}, in {str(folder)!r}. Pass the "
            "folder that holds JPEGImages, Annotations, SegmentationClass and ImageSets."
        )
    known = [path.stem for path in lists.glob("*.txt") if not is_hidden(path.name)]
    if not known:
        raise ValueError(
            f"folder: expected lists of names, such as val.txt, in {str(lists)!r}, but there is none. Lists of other "
            "tasks, in ImageSets/Main, are of images without masks; unpack the archive again."
        )
    check.choice("split", split, known)
    names = _names(lists / f"{split}.txt", split)
    pictures = by_stem(folder / "JPEGImages") if (folder / "JPEGImages").is_dir() else {}
    files = [
        _Files(
            name,
            only(pictures.get(name) or [folder / "JPEGImages" / f"{name}.jpg"], f"{name}.xml and {name}.png"),
            folder / "Annotations" / f"{name}.xml",
            folder / "SegmentationClass" / f"{name}.png",
        )
        for name in names
    ]
    missing = [path for each in files for path in each[1:] if not path.is_file()]
    if missing:
        raise ValueError(
            f"folder: {len(missing)} files of split {split!r} are missing, the first {str(missing[0])!r}. Unpack the "
            "archive again, or list only images that have all three."
        )
    return files


def _names(path: Path, split: str) -> list[str]:
    """Reads a list of images, one a line, with or without the mark that editors put before UTF-8."""
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except ValueError as error:
        raise ValueError(f"{path}: expected names in UTF-8, but it cannot be read ({error}). Save it anew.") from error
    if not lines:
        raise ValueError(f"split: {split!r} lists no image. Choose another.")
    if wide := [line for line in lines if len(line) > 1]:
        raise ValueError(
            f"{path}: expected one name a line, but found {' '.join(wide[0])!r}. Is it a list of a class, with 1 or -1 "
            "after each name, as in ImageSets/Main?"
        )
    names = [name for (name,) in lines]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"split: {split!r} names the image {twice!r} more than once. Remove the repetition.")
    return names


class _NoDocumentType(ElementTree.TreeBuilder):
    """Refuses what annotations do not have: entities, which can be made to fill the memory."""

    def doctype(self, name: str, *_: Any) -> None:
        raise ValueError(f"it declares a document type, {name!r}, which annotations do not have")


def _boxes(path: Path, difficult: bool) -> np.ndarray:
    """Reads boxes as (y0, x0, y1, x1), half-open and counted from 0, int64 [k, 4]."""
    try:
        root = ElementTree.parse(path, ElementTree.XMLParser(target=_NoDocumentType())).getroot()
        found = []
        for item in root.findall("object"):
            if _flag(item.findtext("difficult", "0")) and not difficult:
                continue
            # Not the boxes of an object's parts, which lie deeper.
            corners = [float(item.findtext(f"bndbox/{name}", "")) for name in ("ymin", "xmin", "ymax", "xmax")]
            found.append([*np.floor(corners[:2]) - 1, *np.ceil(corners[2:])])
        return np.array(found, np.int64).reshape(-1, 4)
    except (ElementTree.ParseError, ValueError, OverflowError, OSError) as error:
        raise ValueError(
            f"{path}: cannot be read as an annotation of VOC ({error}). Every object needs a bndbox with the numbers "
            "ymin, xmin, ymax and xmax; difficult, where it has that, is 0 or 1."
        ) from error


def _flag(text: str) -> bool:
    """Reads what the tools that write annotations make of yes and no."""
    known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}
    if text.strip().lower() not in known:
        raise ValueError(f"difficult is {text.strip()!r}, and neither 0 nor 1")
    return known[text.strip().lower()]


def _inside(path: Path, boxes: np.ndarray, shape: tuple[int, ...]) -> None:
    y0, x0, y1, x1 = boxes.T
    wrong = (y0 < 0) | (x0 < 0) | (y1 > shape[0]) | (x1 > shape[1]) | (y0 >= y1) | (x0 >= x1)
    if wrong.any():
        row, column, bottom, right = boxes[np.argmax(wrong)].tolist()
        raise ValueError(
            f"{path}: expected boxes inside of {shape[0]} x {shape[1]} pixels (height x width), counted from 1, but "
            f"one has ymin {row + 1}, xmin {column + 1}, ymax {bottom}, xmax {right}."
        )


def _indices(path: Path) -> np.ndarray:
    indices = numbers(path, path)
    unknown = np.setdiff1d(indices, [*range(len(_NAMES) + 1), _VOID])
    if unknown.size:
        raise ValueError(
            f"{path}: expected the indices 0 to {len(_NAMES)} and {_VOID}, but found {int(unknown[0])}. Is it a mask "
            "of classes (SegmentationClass), and not an image?"
        )
    return indices
